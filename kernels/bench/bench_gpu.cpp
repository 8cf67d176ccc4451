// What the CUDA backend must show, through the C ABI: speed, memory, latency, bits and a loss curve. One process, one model.
//
//   bench_gpu steps,latency,bits,memory --model DIR [--name llama3-8b] [--out DIR] [--backend cuda|cpu] [--device 0]
//             [--threads 0] [--steps 6] [--warmup 2] [--configs TEXT,TEXT] [--sustained-tflops X] [--micro-batch TOKENS]
//             [--shrink N]
//   bench_gpu curve --model tests/demo/base-model [--tokens FILE of curve_tokens.py] [--out DIR] [--backend cuda|cpu]
//
// Each stage writes OUT/<stage>.json as it ends (steps: steps-<name>.json), and speaks on stderr. --shrink divides all
// sequence lengths, for a try on the CPU. bits closes the model and memory opens its own, so they come last.
#include "gpu/bits.h"
#include "gpu/curve.h"
#include "gpu/engine.h"
#include "gpu/latency.h"
#include "gpu/memory.h"
#include "gpu/steps.h"

namespace {

using namespace bench;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') parts.emplace_back();
    else parts.back() += c;
  }
  return parts;
}

Options parse(int argc, char** argv) {
  Options o;
  o.self = argv[0];
  if (argc < 2) fail("which stages? steps, latency, bits, memory, curve");
  o.stages = split(argv[1]);
  for (int i = 2; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) fail(name + " needs a value");
    const char* value = argv[i + 1];
    if (name == "--model") o.model = value;
    else if (name == "--name") o.name = value;
    else if (name == "--out") o.out = value;
    else if (name == "--state") o.state = value;
    else if (name == "--tokens") o.tokens = value;
    else if (name == "--configs") o.configs = split(value);
    else if (name == "--device") o.device = std::atoi(value);
    else if (name == "--threads") o.threads = std::atoi(value);
    else if (name == "--steps") o.steps = std::max(1, std::atoi(value));
    else if (name == "--warmup") o.warmup = std::max(1, std::atoi(value));
    else if (name == "--shrink") o.shrink = std::max(1, std::atoi(value));
    else if (name == "--micro-batch") o.micro_batch = std::atoll(value);
    else if (name == "--sustained-tflops") o.sustained = std::atof(value);
    else if (name == "--backend" && std::string(value) == "cpu") o.backend = TL_BACKEND_CPU;
    else if (name == "--backend" && std::string(value) == "cuda") o.backend = TL_BACKEND_CUDA;
    else fail("unknown option or value: " + name + " " + value);
  }
  if (o.model.empty()) fail("--model DIR is required");
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv);
  if (o.stages[0] == "bits-resume") {
    resume_bits(o);
    return 0;
  }
  const DeviceMemory memory(o);
  std::unique_ptr<Model> model;
  const auto open = [&]() -> Model& {
    if (!model) model = std::make_unique<Model>(o);
    return *model;
  };
  for (const std::string& stage : o.stages) {
    const double start = now();
    if (stage == "steps") {
      run_steps(o, open(), memory);
    } else if (stage == "latency") {
      run_latency(o, open());
    } else if (stage == "bits") {
      open();
      run_bits(o, model);
    } else if (stage == "memory") {
      model.reset();
      run_memory(o, memory);
    } else if (stage == "curve") {
      model.reset();
      run_curve(o);
    } else {
      fail("unknown stage: " + stage);
    }
    say("%s took %.1f s", stage.c_str(), now() - start);
  }
}
