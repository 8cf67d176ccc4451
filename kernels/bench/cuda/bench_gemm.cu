// Our group GEMMs beside cuBLASLt on the shapes of Llama-3-8B: microseconds and TFLOP/s of each, then the rate that one
// layer's eight GEMMs hold over seconds, where power and not the schedule sets the clock.
//
//   bench_gemm [--quick] [--json FILE] [part of a shape's name]
//
// A time is the median of groups of back-to-back calls between CUDA events; the candidates take turns group by group,
// so that all see the same clocks. Inputs are normal random numbers (activations of deviation 1, weights 0.02) and
// rotate through several times the L2. FLOPs counted are 2 m n k of the base product: a strip shows as a lower rate.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/check.h"
#include "cuda/cublaslt.h"
#include "cuda/device_memory.h"
#include "cuda/kernels.h"

namespace {

using namespace tlora;
using bench::Event;
using bench::Memory;
using bench::milliseconds;
using bench::normal;
using bench::random_matrix;
using bench::upload;
using cuda::bf16;
using cuda::check;
using cuda::Gemm;

constexpr int64_t kCapacity = 128;  // home columns
constexpr int kMixedAdapters = 8;   // of rank 16
constexpr int kMixedSequence = 96;  // rows: two or three adapters in a 128-row block
constexpr uint32_t kAllModules = 7;

// Rows of a strip [rows, columns] as the mixed batch has them: numbers in the 16 columns of the row's own adapter, else
// 0.
__global__ void fill_mixed_strip(bf16* out, int64_t rows, int64_t columns, float deviation, uint32_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * columns; i += step) {
    const int64_t owner = i / columns / kMixedSequence % kMixedAdapters;
    out[i] = __float2bfloat16_rn(i % columns / 16 == owner ? deviation * normal(i, seed) : 0.0f);
  }
}

struct Shape {
  const char* name;
  int64_t n, k;
  bool k_major;
  bool fp32;
  std::vector<int64_t> part_n;  // forward widths; backward only their number counts
};

const std::vector<Shape>& layer_shapes() {
  static const std::vector<Shape> shapes = {
      {"qkv", 6144, 4096, true, false, {4096, 1024, 1024}},      {"o", 4096, 4096, true, false, {4096}},
      {"gate_up", 28672, 4096, true, false, {14336, 14336}},     {"down", 4096, 14336, true, false, {4096}},
      {"qkv dX", 4096, 6144, false, false, {4096, 1024, 1024}},  {"o dX", 4096, 4096, false, false, {4096}},
      {"gate_up dX", 4096, 28672, false, false, {14336, 14336}}, {"down dX", 14336, 4096, false, false, {4096}},
  };
  return shapes;
}
const Shape kHead = {"head", 128256, 4096, true, true, {128256}};

enum class Strip { none, one64, mixed16 };

// A strip of every part, with homes and chunk tables, for m rows.
struct Adapters {
  Adapters(const Shape& shape, int64_t rows, Strip kind) : ld(kind == Strip::one64 ? 64 : 16 * kMixedAdapters) {
    const int64_t padded = (rows + cuda::kRowPad - 1) / cuda::kRowPad * cuda::kRowPad;
    const auto parts = static_cast<int64_t>(shape.part_n.size());
    strip_rows = padded;
    if (kind == Strip::one64) {
      strip = random_matrix(parts * padded * ld, 1.0f, 31);
    } else {
      strip = Memory<bf16>(parts * padded * ld);
      for (int64_t p = 0; p < parts; ++p)
        fill_mixed_strip<<<1024, 256>>>(strip.data() + p * padded * ld, padded, ld, 1.0f,
                                        37u + static_cast<uint32_t>(p));
      cuda::check_launch("fill_mixed_strip");
    }
    ld_home = shape.k_major ? kCapacity : shape.n;
    home = random_matrix(shape.k_major ? shape.n * kCapacity : parts * kCapacity * shape.n, 0.02f, 41);
    std::vector<cuda::StripChunk> list;
    std::vector<int32_t> first;
    for (int64_t block = 0; block < padded / cuda::kRowPad; ++block) {
      first.push_back(static_cast<int32_t>(list.size()));
      if (kind == Strip::one64) {
        list.push_back({0, 0, 4, kAllModules});
        continue;
      }
      bool used[kMixedAdapters] = {};
      for (int64_t row = block * cuda::kRowPad; row < (block + 1) * cuda::kRowPad; ++row)
        used[row / kMixedSequence % kMixedAdapters] = true;
      for (int i = 0; i < kMixedAdapters; ++i)
        if (used[i]) list.push_back({16 * i, 16 * i, 1, kAllModules});
    }
    first.push_back(static_cast<int32_t>(list.size()));
    chunks = upload(list);
    chunk_first = upload(first);
  }
  void put(Gemm& g) const {
    g.strip = strip.data();
    g.ld_strip = ld;
    g.strip_rows = strip_rows;
    g.home = home.data();
    g.ld_home = ld_home;
    g.capacity = kCapacity;
    g.chunks = chunks.data();
    g.chunk_first = chunk_first.data();
  }
  int64_t ld, ld_home = 0, strip_rows = 0;
  Memory<bf16> strip, home;
  Memory<cuda::StripChunk> chunks;
  Memory<int32_t> chunk_first;
};

Gemm problem(const Shape& shape, int64_t m, const bf16* a, const bf16* b, void* out) {
  Gemm g;
  g.m = m;
  g.n = shape.n;
  g.k = shape.k;
  g.a = a;
  g.lda = shape.k;
  g.b = b;
  g.ldb = shape.k_major ? shape.k : shape.n;
  g.b_is_k_major = shape.k_major;
  g.parts = static_cast<int>(shape.part_n.size());
  for (int p = 0; p < g.parts; ++p) {
    g.part_n[p] = shape.part_n[static_cast<size_t>(p)];
    g.part_bit[p] = 1u << p;
  }
  g.out = out;
  g.ldc = shape.n;
  g.out_fp32 = shape.fp32;
  g.padded_rows = (m + cuda::kRowPad - 1) / cuda::kRowPad * cuda::kRowPad;
  return g;
}

void run_cublaslt(cuda::CublasLt& library, cudaStream_t stream, const Gemm& g) {
  library.gemm(stream, g.b_is_k_major, g.m, g.n, g.k, g.a, g.lda, g.b, g.ldb, g.out, g.ldc, g.out_fp32);
}

struct Candidate {
  const char* name;
  std::function<void(int set)> run;  // empty: not here
  double us = 0;                     // 0: none
};

// Medians, the candidates taking turns.
void measure(std::vector<Candidate>& candidates, int sets, int groups, double flops) {
  Event begin, end;
  // Groups of about 2 ms at 500 TFLOP/s: the events' own microseconds do not count.
  const int calls = static_cast<int>(std::clamp(2e-3 / (flops / 5e14), 2.0, 40.0));
  std::vector<std::vector<double>> times(candidates.size());
  int set = 0;
  for (int group = -2; group < groups; ++group)  // the first two warm up
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (!candidates[i].run) continue;
      try {
        candidates[i].run(set++ % sets);  // keeps the device busy while the group is being launched
        begin.record(nullptr);
        for (int c = 0; c < calls; ++c) candidates[i].run(set++ % sets);
        end.record(nullptr);
        const double ms = milliseconds(begin, end);
        if (group >= 0) times[i].push_back(1000 * ms / calls);
      } catch (const std::exception& error) {
        std::printf("%s: %s\n", candidates[i].name, error.what());
        candidates[i].run = nullptr;
        times[i].clear();
      }
    }
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (times[i].empty()) continue;
    std::sort(times[i].begin(), times[i].end());
    candidates[i].us = times[i][times[i].size() / 2];
  }
}

struct Options {
  bool quick = false;
  const char* json = nullptr;
  const char* filter = nullptr;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {
    check(cudaGetDeviceProperties(&device_, 0), "cudaGetDeviceProperties");
    hopper_ = device_.major == 9 && device_.minor == 0;
    std::string reason;
    if (!library_.load(reason)) std::printf("no cuBLASLt: %s\n", reason.c_str());
    int driver = 0;
    check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    std::printf("%s, %d SMs, L2 %d MiB, driver %d, cuBLASLt %lld\n", device_.name, device_.multiProcessorCount,
                device_.l2CacheSize >> 20, driver, static_cast<long long>(library_.version()));
    json_ = "{\"device\": \"" + std::string(device_.name) + "\", \"cublaslt\": " + std::to_string(library_.version()) +
            ", \"rows\": [";
  }

  void table() {
    const std::vector<int64_t> ms =
        options_.quick ? std::vector<int64_t>{512, 8192} : std::vector<int64_t>{512, 1024, 2048, 8192};
    std::printf("\n%-11s %6s %7s %6s |%18s |%18s |%18s |%18s |%18s | %s\n", "", "m", "n", "k", "sm90",
                "sm90 + 64 columns", "sm90 + mixed r16", "generic", "cuBLASLt", "sm90 / cuBLASLt");
    std::printf("%-11s %6s %7s %6s ", "shape", "", "", "");
    for (int i = 0; i < 5; ++i) std::printf("|%9s %8s ", "us", "TFLOP/s");
    std::printf("|\n");
    for (const int64_t m : ms) {
      for (const Shape& shape : layer_shapes()) row(shape, m);
      // Logits come in chunks of at most 2,048 rows.
      if (m <= 2048) row(kHead, m);
    }
  }

  // All eight GEMMs of a layer over and over: TFLOP/s over the whole time, and over its second half.
  void sustained() {
    const int64_t m = 8192;
    const double seconds = options_.quick ? 1.0 : 3.0;
    int64_t widest = 0;
    double flops = 0;
    std::vector<Memory<bf16>> weights;
    std::vector<Adapters> adapters;
    for (const Shape& shape : layer_shapes()) {
      widest = std::max({widest, shape.n, shape.k});
      flops += 2.0 * static_cast<double>(m) * static_cast<double>(shape.n) * static_cast<double>(shape.k);
      weights.push_back(random_matrix(shape.n * shape.k, 0.02f, static_cast<uint32_t>(weights.size()) + 51));
      adapters.emplace_back(shape, m, Strip::one64);
    }
    const Memory<bf16> a = random_matrix(m * widest, 1.0f, 61);
    Memory<bf16> out(m * widest);
    std::vector<Gemm> problems, with_strip;
    for (size_t i = 0; i < layer_shapes().size(); ++i) {
      problems.push_back(problem(layer_shapes()[i], m, a.data(), weights[i].data(), out.data()));
      with_strip.push_back(problems.back());
      adapters[i].put(with_strip.back());
    }
    std::printf("\none layer's eight GEMMs, m %lld, %.0f s each: TFLOP/s overall, and in the second half\n",
                static_cast<long long>(m), seconds);
    struct Entry {
      const char* name;
      std::function<void()> run;
    };
    std::vector<Entry> entries;
    if (hopper_) {
      entries.push_back({"sm90", [&] {
                           for (const Gemm& g : problems) cuda::gemm_sm90(nullptr, g);
                         }});
      entries.push_back({"sm90 + 64 columns", [&] {
                           for (const Gemm& g : with_strip) cuda::gemm_sm90(nullptr, g);
                         }});
    } else {
      entries.push_back({"generic", [&] {
                           for (const Gemm& g : problems) cuda::gemm_generic(nullptr, g);
                         }});
    }
    if (library_.loaded())
      entries.push_back({"cuBLASLt", [&] {
                           for (const Gemm& g : problems) run_cublaslt(library_, nullptr, g);
                         }});
    for (const Entry& entry : entries) {
      try {
        entry.run();
        check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
        std::vector<double> rounds;  // ms
        Event begin, end;
        double total = 0;
        while (total < 1000 * seconds) {
          begin.record(nullptr);
          for (int i = 0; i < 8; ++i) entry.run();
          end.record(nullptr);
          rounds.push_back(milliseconds(begin, end) / 8);
          total += 8 * rounds.back();
        }
        double sum = 0, late = 0;
        for (size_t i = 0; i < rounds.size(); ++i) {
          sum += rounds[i];
          if (i >= rounds.size() / 2) late += rounds[i];
        }
        const double overall = flops * static_cast<double>(rounds.size()) / (sum * 1e9);
        const double second_half = flops * static_cast<double>(rounds.size() - rounds.size() / 2) / (late * 1e9);
        std::printf("  %-18s %7.1f %7.1f   %.3f ms a layer\n", entry.name, overall, second_half,
                    sum / static_cast<double>(rounds.size()));
        add_json("{\"sustained\": \"" + std::string(entry.name) + "\", \"m\": " + std::to_string(m) + ", \"tflops\": " +
                 std::to_string(overall) + ", \"tflops_second_half\": " + std::to_string(second_half) + "}");
      } catch (const std::exception& error) {
        std::printf("  %-18s %s\n", entry.name, error.what());
      }
    }
  }

  void finish() {
    if (options_.json == nullptr) return;
    std::FILE* file = std::fopen(options_.json, "w");
    if (file == nullptr) throw Error(TL_INTERNAL, std::string("cannot write ") + options_.json);
    std::fprintf(file, "%s]}\n", json_.c_str());
    std::fclose(file);
  }

 private:
  void row(const Shape& shape, int64_t m) {
    if (options_.filter != nullptr && std::strstr(shape.name, options_.filter) == nullptr) return;
    const int64_t out_elements = m * shape.n * (shape.fp32 ? 2 : 1);  // in bf16s
    const int64_t bytes = 2 * (m * shape.k + shape.n * shape.k + out_elements);
    const int sets =
        static_cast<int>(std::clamp<int64_t>((int64_t{4} * device_.l2CacheSize + bytes - 1) / bytes, 2, 8));
    const Memory<bf16> a = random_matrix(sets * m * shape.k, 1.0f, 11),
                       b = random_matrix(sets * shape.n * shape.k, 0.02f, 13);
    Memory<bf16> out(sets * out_elements);
    std::vector<Gemm> plain, one64, mixed16;
    for (int s = 0; s < sets; ++s)
      plain.push_back(problem(shape, m, a.data() + s * m * shape.k, b.data() + s * shape.n * shape.k,
                              out.data() + s * out_elements));
    one64 = mixed16 = plain;
    const bool strips = !shape.fp32;
    std::vector<Adapters> adapters;
    if (strips) {
      adapters.emplace_back(shape, m, Strip::one64);
      adapters.emplace_back(shape, m, Strip::mixed16);
      for (Gemm& g : one64) adapters[0].put(g);
      for (Gemm& g : mixed16) adapters[1].put(g);
    }
    const auto all = [](const std::vector<Gemm>& problems, void (*run)(cudaStream_t, const Gemm&)) {
      return [&problems, run](int set) { run(nullptr, problems[static_cast<size_t>(set)]); };
    };
    std::vector<Candidate> candidates(5);
    candidates[0].name = "sm90";
    candidates[1].name = "sm90_64";
    candidates[2].name = "sm90_mixed16";
    candidates[3].name = "generic";
    candidates[4].name = "cublaslt";
    if (hopper_) candidates[0].run = all(plain, cuda::gemm_sm90);
    if (hopper_ && strips) candidates[1].run = all(one64, cuda::gemm_sm90);
    if (hopper_ && strips) candidates[2].run = all(mixed16, cuda::gemm_sm90);
    candidates[3].run = all(plain, cuda::gemm_generic);
    if (library_.loaded())
      candidates[4].run = [&](int set) { run_cublaslt(library_, nullptr, plain[static_cast<size_t>(set)]); };

    const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(shape.n) * static_cast<double>(shape.k);
    measure(candidates, sets, options_.quick ? 7 : 21, flops);

    std::printf("%-11s %6lld %7lld %6lld ", shape.name, static_cast<long long>(m), static_cast<long long>(shape.n),
                static_cast<long long>(shape.k));
    std::string json = "{\"shape\": \"" + std::string(shape.name) + "\", \"m\": " + std::to_string(m) +
                       ", \"n\": " + std::to_string(shape.n) + ", \"k\": " + std::to_string(shape.k);
    for (const Candidate& c : candidates) {
      if (c.us > 0) {
        std::printf("|%9.1f %8.1f ", c.us, flops / (c.us * 1e6));
        json += ", \"" + std::string(c.name) + "_us\": " + std::to_string(c.us);
      } else {
        std::printf("|%9s %8s ", "-", "-");
      }
    }
    if (candidates[0].us > 0 && candidates[4].us > 0) {
      std::printf("| %.3f\n", candidates[4].us / candidates[0].us);
    } else {
      std::printf("|\n");
    }
    std::fflush(stdout);
    add_json(json + "}");
  }

  void add_json(const std::string& object) {
    json_ += (first_ ? "\n" : ",\n") + object;
    first_ = false;
  }

  Options options_;
  cudaDeviceProp device_{};
  bool hopper_ = false;
  cuda::CublasLt library_;
  std::string json_;
  bool first_ = true;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      options.quick = true;
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      options.json = argv[++i];
    } else {
      options.filter = argv[i];
    }
  }
  try {
    Bench bench(options);
    bench.table();
    if (options.filter == nullptr) bench.sustained();
    bench.finish();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_gemm: %s\n", error.what());
    return 1;
  }
  return 0;
}
