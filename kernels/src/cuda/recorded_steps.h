// Steps whose launches were recorded as CUDA graphs, so that a small step costs one launch. A shape is recorded when it
// comes for the second time: batches of ever new lengths never pay for a recording that nobody replays.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <list>
#include <string>

namespace tlora::cuda {

class RecordedSteps {
 public:
  RecordedSteps() = default;
  ~RecordedSteps();
  RecordedSteps(const RecordedSteps&) = delete;
  RecordedSteps& operator=(const RecordedSteps&) = delete;

  // ops only launches on `stream`. key: the bytes of every argument of every launch, or of what they follow from.
  void run(cudaStream_t stream, const std::string& key, const std::function<void()>& ops);

 private:
  static constexpr size_t kKept = 16;
  struct Step {
    std::string key;
    cudaGraphExec_t graph = nullptr;  // null: seen once
  };
  std::list<Step> steps_;  // the last used first
};

}  // namespace tlora::cuda
