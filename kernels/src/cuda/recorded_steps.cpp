#include "cuda/recorded_steps.h"

#include <algorithm>

#include "cuda/check.h"

namespace tlora::cuda {

RecordedSteps::~RecordedSteps() {
  for (const Step& step : steps_)
    if (step.graph) cudaGraphExecDestroy(step.graph);
}

void RecordedSteps::run(cudaStream_t stream, const std::string& key, const std::function<void()>& ops) {
  const auto found = std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) { return step.key == key; });
  if (found == steps_.end()) {
    ops();
    steps_.push_front({key, nullptr});
    if (steps_.size() > kKept) {
      if (steps_.back().graph) cudaGraphExecDestroy(steps_.back().graph);
      steps_.pop_back();
    }
    return;
  }
  steps_.splice(steps_.begin(), steps_, found);
  if (!found->graph) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      ops();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiate(&found->graph, graph, 0);
    cudaGraphDestroy(graph);
    if (status != cudaSuccess) found->graph = nullptr;
    check(status, "cudaGraphInstantiate");
  }
  check(cudaGraphLaunch(found->graph, stream), "cudaGraphLaunch");
}

}  // namespace tlora::cuda
