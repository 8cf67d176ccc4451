// Tokens per second of whole training steps (forward, backward, AdamW) through the C ABI, for 1 and for N adapters at equal
// tokens.
//
//   bench_step --model DIR [--adapters 8] [--tokens 1024] [--segment 64] [--rank 16] [--steps 20] [--threads 0]
//              [--dropout 0] [--bf16] [--sweep]
//
// With one thread the times are CPU time of that thread (see peak.h), otherwise wall clock.
//
// --sweep runs 1, 2, 4, … up to --adapters, round robin, so that a change of the machine's load hits all alike. One JSON line
// per configuration follows the table.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "peak.h"
#include "tlora.h"

namespace {

void require(tl_status status, const char* what) {
  if (status == TL_OK) return;
  char text[2048];
  const int64_t length = std::min<int64_t>(tl_last_error(text, sizeof text), sizeof text);
  std::fprintf(stderr, "%s: %.*s\n", what, static_cast<int>(length), text);
  std::exit(1);
}

struct Options {
  std::string model;
  int adapters = 8, tokens = 1024, segment = 64, rank = 16, steps = 20, threads = 0;
  double dropout = 0;
  bool bf16 = false, sweep = false;
};

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--bf16") o.bf16 = true;
    else if (name == "--sweep") o.sweep = true;
    else if (i + 1 == argc) std::exit((std::fprintf(stderr, "%s needs a value\n", name.c_str()), 2));
    else if (name == "--model") o.model = argv[++i];
    else if (name == "--adapters") o.adapters = std::atoi(argv[++i]);
    else if (name == "--tokens") o.tokens = std::atoi(argv[++i]);
    else if (name == "--segment") o.segment = std::atoi(argv[++i]);
    else if (name == "--rank") o.rank = std::atoi(argv[++i]);
    else if (name == "--steps") o.steps = std::atoi(argv[++i]);
    else if (name == "--threads") o.threads = std::atoi(argv[++i]);
    else if (name == "--dropout") o.dropout = std::atof(argv[++i]);
    else std::exit((std::fprintf(stderr, "unknown option %s\n", name.c_str()), 2));
  }
  if (o.model.empty()) std::exit((std::fprintf(stderr, "--model DIR is required\n"), 2));
  return o;
}

struct Setup {
  int adapters;
  std::vector<uint64_t> slots;
  std::vector<tl_segment> segments;
  std::vector<double> seconds, forward_backward;
  int64_t step = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv);
  tl_model_options options{};
  options.struct_size = sizeof options;
  options.threads = o.threads;
  options.compute = o.bf16 ? TL_COMPUTE_BF16 : TL_COMPUTE_FP32;
  uint64_t model = 0;
  const double opening = tlora::bench::seconds_now();
  require(tl_model_open(o.model.data(), static_cast<int64_t>(o.model.size()), &options, &model), "tl_model_open");
  const double opened = tlora::bench::seconds_now() - opening;
  tl_model_info info{};
  info.struct_size = sizeof info;
  require(tl_model_describe(model, &info), "tl_model_describe");
  const int threads = o.threads ? o.threads : omp_get_max_threads();

  std::vector<int32_t> tokens(static_cast<size_t>(o.tokens)), targets(tokens.size());
  uint64_t state = 1;
  for (size_t i = 0; i < tokens.size(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens[i] = targets[i] = static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(info.vocab));
  }

  std::vector<Setup> setups;
  for (int adapters = o.sweep ? 1 : o.adapters; adapters <= o.adapters; adapters *= 2) {
    Setup s;
    s.adapters = adapters;
    tl_adapter_config config{};
    config.struct_size = sizeof config;
    config.rank = o.rank;
    config.alpha = static_cast<float>(2 * o.rank);
    config.dropout = static_cast<float>(o.dropout);
    config.target_modules = 127;
    for (int i = 0; i < adapters; ++i) {
      config.seed = static_cast<uint64_t>(i);
      s.slots.push_back(0);
      require(tl_adapter_add(model, &config, &s.slots.back()), "tl_adapter_add");
    }
    const int count = (o.tokens + o.segment - 1) / o.segment;
    for (int i = 0; i < count; ++i) {
      tl_segment segment{};
      segment.slot = s.slots[static_cast<size_t>(int64_t{i} * adapters / count)];
      segment.start = int64_t{i} * o.segment;
      segment.length = std::min(o.segment, o.tokens - i * o.segment);
      segment.loss_scale = static_cast<float>(adapters) / static_cast<float>(o.tokens);
      segment.dropout_key = static_cast<uint64_t>(i);
      s.segments.push_back(segment);
    }
    setups.push_back(s);
  }

  const auto now = [&] { return threads == 1 ? tlora::bench::thread_seconds_now() : tlora::bench::seconds_now(); };
  const double peak_before = tlora::bench::fma_peak(threads);
  for (int step = 0; step <= o.steps; ++step)
    for (Setup& s : setups) {
      std::vector<tl_segment_result> results(s.segments.size());
      std::vector<tl_optimizer_item> items;
      ++s.step;
      for (const uint64_t slot : s.slots) items.push_back({slot, s.step, 1e-4f, 0.9f, 0.999f, 1e-8f, 0.0f, 1.0f});
      std::vector<tl_optimizer_result> updates(items.size());
      const double start = now();
      require(tl_forward_backward(model, tokens.data(), targets.data(), o.tokens, s.segments.data(),
                                  static_cast<int32_t>(s.segments.size()), results.data()),
              "tl_forward_backward");
      const double middle = now();
      require(tl_optimizer_step(model, items.data(), static_cast<int32_t>(items.size()), updates.data()), "tl_optimizer_step");
      if (step == 0) continue;  // the workspace grows
      s.seconds.push_back(now() - start);
      s.forward_backward.push_back(middle - start);
    }
  const double peak = std::max(peak_before, tlora::bench::fma_peak(threads));

  // 4N FLOPs per token without embedding (forward 2N, dX 2N); the tied or untied head counts.
  const double parameters = static_cast<double>(info.parameters) -
                            (info.tied_embeddings ? 0.0 : static_cast<double>(info.vocab) * info.hidden);
  std::printf("model: hidden %d, layers %d, %.1f M parameters, opened in %.2f s, %.0f MB; %d threads, fp32 FMA peak %.0f GFLOP/s\n",
              info.hidden, info.layers, static_cast<double>(info.parameters) / 1e6, opened,
              static_cast<double>(info.weight_bytes) / 1e6, threads, peak / 1e9);
  std::printf("%8s %7s %8s %5s | %11s %11s | %9s %9s %7s\n", "adapters", "tokens", "segment", "rank", "best tok/s", "median",
              "step ms", "AdamW ms", "% peak");
  for (Setup& s : setups) {
    const double optimizer = s.seconds[0] - s.forward_backward[0];
    std::vector<double> optimizers;
    for (size_t i = 0; i < s.seconds.size(); ++i) optimizers.push_back(s.seconds[i] - s.forward_backward[i]);
    std::sort(s.seconds.begin(), s.seconds.end());
    const double best_optimizer = std::min(optimizer, *std::min_element(optimizers.begin(), optimizers.end()));
    const double best = s.seconds[0], median = s.seconds[s.seconds.size() / 2];
    std::printf("%8d %7d %8d %5d | %11.0f %11.0f | %9.2f %9.2f %7.1f\n", s.adapters, o.tokens, o.segment, o.rank, o.tokens / best,
                o.tokens / median, best * 1e3, best_optimizer * 1e3, 100 * 4 * parameters * o.tokens / best / peak);
  }
  for (const Setup& s : setups)
    std::printf("{\"engine\":\"tlora-cpu\",\"threads\":%d,\"adapters\":%d,\"tokens\":%d,\"segment\":%d,\"rank\":%d,\"dropout\":%g,"
                "\"tokens_per_second_best\":%.1f,\"tokens_per_second_median\":%.1f,\"peak_gflops\":%.1f}\n",
                threads, s.adapters, o.tokens, o.segment, o.rank, o.dropout, o.tokens / s.seconds[0],
                o.tokens / s.seconds[s.seconds.size() / 2], peak / 1e9);
  require(tl_model_close(model), "tl_model_close");
}
