// Microseconds, GFLOP/s, GB/s and the share of the machine's FMA peak of each CPU op, one table and one JSON line per row.
//
//   bench_ops [threads, 0 = all] [part of a name]
//
// Times are the best of many repeats; of one thread, its own CPU time: what a shared machine leaves comparable.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "cpu/cpu_backend.h"
#include "graph/step.h"
#include "graph/workspace.h"
#include "peak.h"

namespace {

using namespace tlora;

struct Setup {
  Setup(int threads, int64_t adapters, int64_t rank, int64_t in, int64_t out, int64_t tokens, int64_t segment, float dropout = 0)
      : backend({0, threads, TL_COMPUTE_FP32}) {
    for (int64_t i = 0; i < adapters; ++i) {
      auto a = std::make_unique<Adapter>();
      a->rank = static_cast<int32_t>(rank);
      a->config.rank = a->rank;
      a->config.dropout = dropout;
      a->config.seed = static_cast<uint64_t>(i);
      a->scale = 2;
      a->strip_columns = backend.strip_columns(a->rank);
      a->matrices.resize(kModules);
      a->matrices[0] = {in, out, 0, rank * in, 0};
      a->elements = rank * (in + out);
      backend.adapter_attach(*a);
      backend.adapter_init(*a);
      list.push_back(std::move(a));
    }
    std::vector<Segment> segments;
    for (int64_t t = 0; t < tokens; t += segment)
      segments.push_back({adapters ? list[static_cast<size_t>(t * adapters / tokens)].get() : nullptr, t, std::min(segment, tokens - t), 0, 1.0f, static_cast<uint64_t>(t)});
    batch = make_batch(segments, tokens, true);
  }
  Matrix matrix(int64_t rows, int64_t columns) {
    Matrix m{nullptr, backend.leading_dimension(columns)};
    m.data = backend.allocate(rows * m.ld * 4);
    for (int64_t i = 0; i < rows * m.ld; ++i) static_cast<float*>(m.data)[i] = static_cast<float>((i * 7919) % 1000) / 1000.0f - 0.5f;
    return m;
  }
  const FrozenLinear& linear(int64_t out, int64_t in) {
    std::vector<float> w(static_cast<size_t>(out * in));
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i * 7919 % 1000) / 1000.0f - 0.5f;
    const TensorView view{DType::F32, {out, in}, reinterpret_cast<const uint8_t*>(w.data()), out * in};
    linears.push_back(std::move(backend.pack_group({{&view, nullptr}})[0]));
    return *linears.back();
  }
  cpu::CpuBackend backend;
  std::vector<std::unique_ptr<Adapter>> list;
  std::vector<std::unique_ptr<FrozenLinear>> linears;
  Batch batch;
};

class Table {
 public:
  Table(int threads, const char* filter) : threads_(threads), filter_(filter), peak_(bench::fma_peak(threads)) {
    std::printf("%d threads, %s, fp32 FMA peak %.1f GFLOP/s\n%-52s %10s %10s %10s %8s %8s\n", threads, cpu::kSimdName, peak_ / 1e9, "op", "us", "median us", "GFLOP/s",
                "% peak", "GB/s");
  }
  void row(const std::string& name, double flops, double bytes, const std::function<void()>& body) {
    if (filter_ && name.find(filter_) == std::string::npos) return;
    body();
    double best = 1e30;
    std::vector<double> all;
    const double start = bench::seconds_now();
    for (int i = 0; i < 400 && (i < 10 || bench::seconds_now() - start < 1.0); ++i) {
      const double begin = now();
      body();
      all.push_back(now() - begin);
      best = std::min(best, all.back());
    }
    std::nth_element(all.begin(), all.begin() + static_cast<int64_t>(all.size() / 2), all.end());
    const double median = all[all.size() / 2];
    std::printf("%-52s %10.1f %10.1f %10.1f %8.1f %8.1f\n", name.c_str(), best * 1e6, median * 1e6, flops / best / 1e9, 100 * flops / best / peak_, bytes / best / 1e9);
    json_ += "{\"op\":\"" + name + "\",\"threads\":" + std::to_string(threads_) + ",\"us\":" + std::to_string(best * 1e6) + ",\"median_us\":" + std::to_string(median * 1e6) +
             ",\"gflops\":" + std::to_string(flops / best / 1e9) + ",\"percent_of_peak\":" + std::to_string(100 * flops / best / peak_) + "}\n";
  }
  ~Table() { std::printf("%s", json_.c_str()); }

 private:
  double now() const { return threads_ == 1 ? bench::thread_seconds_now() : bench::seconds_now(); }
  int threads_;
  const char* filter_;
  double peak_;
  std::string json_;
};

void linears(Table& table, int threads, int64_t n, int64_t in, int64_t out, int64_t adapters, int64_t rank, int64_t segment, float dropout = 0) {
  Setup s(threads, adapters, rank, in, out, n, segment, dropout);
  LinearPart part;
  part.weight = &s.linear(out, in);
  part.y = s.matrix(n, out);
  part.strip = s.backend.allocate(s.batch.strip_elements * 4 + 64);
  part.strip_grad = s.backend.allocate(s.batch.strip_elements * 4 + 64);
  if (dropout > 0) part.dropped = s.matrix(n, in);
  const Matrix x = s.matrix(n, in), dx = s.matrix(n, in);
  const double base = 2.0 * static_cast<double>(n * in * out), lora = adapters ? 2.0 * static_cast<double>(n * rank * (in + out)) : 0;
  std::string shape = " " + std::to_string(n) + "x" + std::to_string(in) + "x" + std::to_string(out);
  if (adapters) shape += ", " + std::to_string(adapters) + " x r" + std::to_string(rank) + ", segment " + std::to_string(segment);
  if (dropout > 0) shape += ", dropout";
  table.row("linear_forward" + shape, base + lora, 0, [&] { s.backend.linear_forward(s.batch, 0, x, {part}, nullptr); });
  table.row("linear_backward" + shape, base + 2 * lora, 0, [&] {
    s.backend.linear_backward(s.batch, 0, {part}, dx);
    if (adapters) s.backend.adapter_gradients(s.batch, 0, x, {part});
  });
}

// The same, over 48 different weights in turn: each comes from memory, as in a model that is larger than the caches.
void cold_linears(Table& table, int threads, int64_t n, int64_t in, int64_t out) {
  Setup s(threads, 0, 1, in, out, n, 64);
  std::vector<LinearPart> parts(48);
  const Matrix x = s.matrix(n, in), y = s.matrix(n, out), dx = s.matrix(n, in);
  for (LinearPart& part : parts) {
    part.weight = &s.linear(out, in);
    part.y = y;
  }
  size_t next = 0;
  const double base = 2.0 * static_cast<double>(n * in * out);
  const std::string shape = " " + std::to_string(n) + "x" + std::to_string(in) + "x" + std::to_string(out) + ", cold weights";
  table.row("linear_forward" + shape, base, 0, [&] { s.backend.linear_forward(s.batch, 0, x, {parts[next++ % parts.size()]}, nullptr); });
  table.row("linear_backward" + shape, base, 0, [&] { s.backend.linear_backward(s.batch, 0, {parts[next++ % parts.size()]}, dx); });
}

void attention(Table& table, int threads, int64_t n, int64_t segment, AttentionShape a) {
  Setup s(threads, 0, 1, 1, 1, n, segment);
  const int64_t q_columns = a.heads * a.head_dim, k_columns = a.kv_heads * a.head_dim;
  const Matrix q = s.matrix(n, q_columns), k = s.matrix(n, k_columns), v = s.matrix(n, k_columns), out = s.matrix(n, q_columns);
  const Matrix dout = s.matrix(n, q_columns), dqkv = s.matrix(n, q_columns + 2 * k_columns);
  std::vector<float> lse(static_cast<size_t>(n * a.heads));
  void* scratch = s.backend.allocate(s.backend.attention_scratch_bytes(a, n, static_cast<int64_t>(s.batch.segments.size()), segment, true));
  const double pairs = static_cast<double>(n) * static_cast<double>(segment + 1) / 2 * static_cast<double>(a.heads * a.head_dim);
  const std::string shape = " " + std::to_string(n) + " tokens, segment " + std::to_string(segment) + ", " + std::to_string(a.heads) + "/" + std::to_string(a.kv_heads) +
                            " heads of " + std::to_string(a.head_dim);
  table.row("attention_forward" + shape, 4 * pairs, 0, [&] { s.backend.attention_forward(s.batch, a, q, k, v, out, lse.data(), scratch); });
  table.row("attention_backward" + shape, 10 * pairs, 0, [&] { s.backend.attention_backward(s.batch, a, q, k, v, out, lse.data(), dout, dqkv, scratch); });
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 && std::atoi(argv[1]) > 0 ? std::atoi(argv[1]) : omp_get_max_threads();
  Table table(threads, argc > 2 ? argv[2] : nullptr);

  linears(table, threads, 512, 1024, 1024, 0, 1, 64);
  linears(table, threads, 512, 1024, 1024, 8, 16, 64);
  linears(table, threads, 1024, 256, 768, 1, 16, 64);
  linears(table, threads, 1024, 256, 768, 8, 16, 64);
  linears(table, threads, 1024, 768, 256, 8, 16, 64);
  linears(table, threads, 1024, 576, 1536, 8, 16, 64);
  linears(table, threads, 1024, 256, 768, 8, 16, 64, 0.1f);
  linears(table, threads, 1024, 256, 768, 4, 256, 64);
  cold_linears(table, threads, 512, 1536, 576);
  cold_linears(table, threads, 512, 576, 1536);
  attention(table, threads, 1024, 64, {8, 4, 32});
  attention(table, threads, 1024, 512, {9, 3, 64});

  const int64_t n = 1024, hidden = 576, ffn = 1536;
  const double rows = static_cast<double>(n);
  Setup s(threads, 0, 1, 1, 1, n, 64);
  const Matrix x = s.matrix(n, hidden), y = s.matrix(n, hidden), dx = s.matrix(n, hidden), gate_up = s.matrix(n, 2 * ffn), act = s.matrix(n, ffn);
  std::vector<float> weight(static_cast<size_t>(hidden), 1.0f), rstd(static_cast<size_t>(n));
  const double row_bytes = 4.0 * static_cast<double>(hidden), ffn_bytes = 4.0 * static_cast<double>(ffn);
  table.row("rmsnorm_forward 1024x576", 0, 2 * rows * row_bytes, [&] { s.backend.rmsnorm_forward(x, weight.data(), 1e-5f, nullptr, n, hidden, y, rstd.data()); });
  table.row("rmsnorm_backward 1024x576", 0, 4 * rows * row_bytes, [&] { s.backend.rmsnorm_backward(y, x, weight.data(), rstd.data(), nullptr, n, hidden, &x, dx); });
  table.row("swiglu_forward 1024x1536", 0, 3 * rows * ffn_bytes, [&] { s.backend.swiglu_forward(gate_up, n, ffn, act); });
  table.row("swiglu_backward 1024x1536", 0, 5 * rows * ffn_bytes, [&] { s.backend.swiglu_backward(gate_up, act, n, ffn, {}); });

  {
    const AttentionShape a{9, 3, 64};
    const Matrix qkv = s.matrix(n, 15 * 64), q = s.matrix(n, 9 * 64), k = s.matrix(n, 3 * 64);
    std::vector<float> cosine(64 * 32, 0.5f), sine(64 * 32, 0.5f);
    const RopeTable rope{cosine.data(), sine.data(), 64};
    table.row("rope_forward 1024, 9+3 heads of 64", 0, 2 * rows * 12 * 64 * 4, [&] { s.backend.rope_forward(s.batch, a, qkv, nullptr, nullptr, 1e-5f, rope, q, k); });
    table.row("rope_forward with norms", 0, 2 * rows * 12 * 64 * 4, [&] { s.backend.rope_forward(s.batch, a, qkv, weight.data(), weight.data(), 1e-5f, rope, q, k); });
  }
  {
    const int64_t vocab = 2048;
    const FrozenLinear& head = s.linear(vocab, hidden);
    const Matrix logits = s.matrix(n, vocab);
    float* l = static_cast<float*>(logits.data);
    std::vector<int32_t> targets(static_cast<size_t>(n), 5);
    std::vector<float> scale(static_cast<size_t>(n), 0.1f);
    std::vector<double> loss(static_cast<size_t>(n));
    std::vector<uint8_t> correct(static_cast<size_t>(n));
    const double flops = 2.0 * static_cast<double>(n * vocab * hidden);
    table.row("head_logits 1024x576x2048", flops, 0, [&] { s.backend.head_logits(x, n, head, l, logits.ld); });
    table.row("cross_entropy 1024x2048", 0, 2 * rows * 4 * static_cast<double>(vocab), [&] {
      s.backend.cross_entropy(l, logits.ld, n, vocab, targets.data(), scale.data(), loss.data(), correct.data());
    });
    table.row("head_backward 1024x2048x576", flops, 0, [&] { s.backend.head_backward(l, logits.ld, n, head, dx); });
  }
  for (const int64_t rank : {16, 3}) {
    Setup o(threads, 8, rank, 2048, 2048, 64, 8);
    std::vector<OptimizerTask> tasks;
    for (const auto& a : o.list) tasks.push_back({a.get(), {1, 10, 1e-4f, 0.9f, 0.999f, 1e-8f, 0.01f, 1.0f}, {}});
    const double parameters = 8.0 * static_cast<double>(o.list[0]->elements);
    table.row("adamw 8 x r" + std::to_string(rank) + ", " + std::to_string(static_cast<int64_t>(parameters)) + " parameters", 0, 40 * parameters,
              [&] { o.backend.adamw(tasks); });
  }
}
