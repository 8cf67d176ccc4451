// Adapter state: memory, initialisation, working copies, and AdamW.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/cpu_backend.h"
#include "cpu/philox.h"

namespace tlora::cpu {
namespace {

constexpr int64_t kNormBlock = 4096;
constexpr float kHuge = std::numeric_limits<float>::max();

// panels of the [K, N] operand whose element (k, n) is source[k * k_stride + n * n_stride].
void write_panels(const float* source, int64_t k_stride, int64_t n_stride, int64_t k_count, int64_t n_count, bool bf16,
                  float* out) {
  for (int64_t p = 0; p < panel_count(n_count); ++p) {
    const int64_t width = panel_vectors(n_count, p) * kLanes, first = p * kPanel;
    const int64_t real = std::min<int64_t>(width, n_count - first);
    float* panel = out + first * k_count;
    for (int64_t k = 0; k < k_count; ++k, panel += width) {
      const float* from = source + k * k_stride + first * n_stride;
      if (n_stride == 1)
        for (int64_t j = 0; j < real; ++j) panel[j] = from[j];
      else
        for (int64_t j = 0; j < real; ++j) panel[j] = from[j * n_stride];
      for (int64_t j = real; j < width; ++j) panel[j] = 0.0f;
      if (bf16)
        for (int64_t j = 0; j < real; ++j) panel[j] = round_bf16(panel[j]);
    }
  }
}

// The scalars of one AdamW update, as torch.optim.AdamW forms them (in double, then used in fp32).
struct Update {
  float clip, decay, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_root_correction2, epsilon;
};

Update update_scalars(const tl_optimizer_item& item, double norm) {
  const double beta1 = item.beta1, beta2 = item.beta2;
  const double correction1 = 1.0 - std::pow(beta1, static_cast<double>(item.step));
  const double correction2 = 1.0 - std::pow(beta2, static_cast<double>(item.step));
  Update u;
  u.clip = item.max_grad_norm > 0 ? static_cast<float>(std::min(1.0, item.max_grad_norm / (norm + 1e-6))) : 1.0f;
  u.decay = static_cast<float>(1.0 - static_cast<double>(item.learning_rate) * item.weight_decay);
  u.one_minus_beta1 = static_cast<float>(1.0 - beta1);
  u.beta2 = item.beta2;
  u.one_minus_beta2 = static_cast<float>(1.0 - beta2);
  u.step_size = static_cast<float>(item.learning_rate / correction1);
  u.inverse_root_correction2 = static_cast<float>(1.0 / std::sqrt(correction2));
  u.epsilon = item.epsilon;
  return u;
}

struct Updated {
  Vec weight, moment1, moment2;
};

inline Vec square_root(Vec x) {
  float lane[kLanes];
  store(lane, x);
  for (float& v : lane) v = std::sqrt(v);
  return load(lane);
}

inline Updated update(const Update& u, Vec weight, Vec moment1, Vec moment2, Vec gradient) {
  gradient = gradient * u.clip;
  Updated r;
  r.moment1 = moment1 + u.one_minus_beta1 * (gradient - moment1);
  r.moment2 = moment2 * u.beta2 + u.one_minus_beta2 * gradient * gradient;
  const Vec denominator = square_root(r.moment2) * u.inverse_root_correction2 + u.epsilon;
  r.weight = weight * u.decay - u.step_size * (r.moment1 / denominator);
  return r;
}

inline Vec magnitude(Vec x) { return x < 0 ? -x : x; }

struct Bounds {
  float weight = 0, moment1 = 0, moment2 = 0;
};

// Visits elements [first, end) of the four states in vectors: the last one may be partial (count < kLanes).
template <class Visit>
inline void for_elements(int64_t first, int64_t end, const Visit& visit) {
  for (int64_t i = first; i < end; i += kLanes) visit(i, std::min<int64_t>(kLanes, end - i));
}
inline Vec load_lanes(const float* p, int64_t count) { return count == kLanes ? load(p) : load_part(p, count); }
inline void store_lanes(float* p, Vec v, int64_t count) {
  if (count == kLanes) store(p, v);
  else store_part(p, v, count);
}

}  // namespace

void CpuBackend::adapter_attach(Adapter& adapter) {
  const int64_t rank = adapter.rank;
  int64_t working = 0;
  for (LoraMatrices& m : adapter.matrices) {
    if (m.in == 0) continue;
    m.working = working;
    working += panel_elements(m.in, rank) + panel_elements(rank, m.out) + panel_elements(m.out, rank) + panel_elements(rank, m.in);
  }
  adapter.working_bytes = working * 4;
  try {
    for (float*& state : adapter.state) state = static_cast<float*>(allocate(adapter.elements * 4));
    adapter.working = allocate(adapter.working_bytes);
  } catch (...) {
    adapter_detach(adapter);
    throw;
  }
}

void CpuBackend::adapter_detach(Adapter& adapter) noexcept {
  for (float*& state : adapter.state) {
    release(state, adapter.elements * 4);
    state = nullptr;
  }
  release(adapter.working, adapter.working_bytes);
  adapter.working = nullptr;
}

void CpuBackend::pack_matrix(const Adapter& adapter, const LoraMatrices& m, int matrix) {
  const WorkingPanels w = working_panels(adapter, m);
  const float* weights = adapter.state[TL_STATE_WEIGHTS];
  const int64_t rank = adapter.rank;
  if (matrix == 0) {
    write_panels(weights + m.a, 1, m.in, m.in, rank, bf16_, w.down);
    write_panels(weights + m.a, m.in, 1, rank, m.in, bf16_, w.up_back);
  } else {
    write_panels(weights + m.b, 1, rank, rank, m.out, bf16_, w.up);
    write_panels(weights + m.b, rank, 1, m.out, rank, bf16_, w.down_back);
  }
}

void CpuBackend::adapter_init(Adapter& adapter) {
  for (float* state : adapter.state) zero(state, adapter.elements * 4);
  const uint32_t key0 = static_cast<uint32_t>(adapter.config.seed), key1 = static_cast<uint32_t>(adapter.config.seed >> 32);
  const int64_t tensors = static_cast<int64_t>(adapter.matrices.size());
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
  for (int64_t t = 0; t < tensors; ++t) {
    const LoraMatrices& m = adapter.matrices[static_cast<size_t>(t)];
    if (m.in == 0) continue;
    const float bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(m.in)));
    float* a = adapter.state[TL_STATE_WEIGHTS] + m.a;
    const int64_t count = m.in * adapter.rank;
    for (int64_t e = 0; e < count; e += 4) {
      uint32_t words[4];
      philox<1>(key0, key1, static_cast<uint32_t>(e / 4), static_cast<uint32_t>(t), 0, kInitTag, words);
      for (int64_t i = 0; i < std::min<int64_t>(4, count - e); ++i)
        a[e + i] = bound * (static_cast<float>(words[i] >> 8) * 0x1p-23f - 1.0f);
    }
  }
  adapter_refresh(adapter);
}

void CpuBackend::adapter_refresh(Adapter& adapter) {
  const int64_t tensors = static_cast<int64_t>(adapter.matrices.size());
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
  for (int64_t t = 0; t < 2 * tensors; ++t)
    if (const LoraMatrices& m = adapter.matrices[static_cast<size_t>(t / 2)]; m.in) pack_matrix(adapter, m, t % 2);
  float bound[3] = {};
  for (int s = TL_STATE_WEIGHTS; s <= TL_STATE_MOMENT2; ++s)
    for (int64_t i = 0; i < adapter.elements; ++i) bound[s] = std::max(bound[s], std::fabs(adapter.state[s][i]));
  adapter.weight_bound = bound[TL_STATE_WEIGHTS];
  adapter.moment1_bound = bound[TL_STATE_MOMENT1];
  adapter.moment2_bound = bound[TL_STATE_MOMENT2];
}

void CpuBackend::adamw(std::vector<OptimizerTask>& tasks) {
  // 1. The gradient's norm and largest magnitude, block by block.
  struct Block {
    size_t task;
    int64_t first, end;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < tasks.size(); ++i)
    for (int64_t first = 0; first < tasks[i].adapter->elements; first += kNormBlock)
      blocks.push_back({i, first, std::min(first + kNormBlock, tasks[i].adapter->elements)});
  std::vector<double> squares(blocks.size());
  std::vector<float> peaks(blocks.size());
#pragma omp parallel for num_threads(threads_) schedule(static)
  for (int64_t b = 0; b < static_cast<int64_t>(blocks.size()); ++b) {
    const Block& block = blocks[static_cast<size_t>(b)];
    const float* gradient = tasks[block.task].adapter->state[TL_STATE_GRADIENT];
    constexpr int64_t kSums = 8;
    double sum[kSums] = {};
    float peak[kSums] = {};
    for (int64_t i = block.first; i < block.end; i += kSums)
      for (int64_t j = 0; j < std::min(kSums, block.end - i); ++j) {
        const float g = gradient[i + j];
        sum[j] += static_cast<double>(g) * g;
        peak[j] = std::max(peak[j], std::fabs(g));
      }
    squares[static_cast<size_t>(b)] = ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
    peaks[static_cast<size_t>(b)] = *std::max_element(peak, peak + kSums);
  }
  std::vector<double> norms(tasks.size(), 0.0);
  std::vector<float> gradient_bound(tasks.size(), 0.0f);
  for (size_t b = 0; b < blocks.size(); ++b) {
    norms[blocks[b].task] += squares[b];
    gradient_bound[blocks[b].task] = std::max(gradient_bound[blocks[b].task], peaks[b]);
  }

  // 2. Which slots may update: a finite gradient, and new values that stay finite. The bounds of the last update prove the
  // latter for any sane slot without looking at its elements; where they do not, the update is tried element by element.
  std::vector<Update> updates(tasks.size());
  for (size_t i = 0; i < tasks.size(); ++i) {
    OptimizerTask& task = tasks[i];
    const Adapter& adapter = *task.adapter;
    const double norm = std::sqrt(norms[i]);
    task.result = {norm, std::isfinite(norm), 0};
    if (!task.result.finite) continue;
    const Update u = updates[i] = update_scalars(task.item, norm);
    const double g = gradient_bound[i], m1 = std::max<double>(adapter.moment1_bound, g);
    const double m2 = std::max<double>(adapter.moment2_bound, g * g);
    const double w = adapter.weight_bound * std::fabs(static_cast<double>(u.decay)) + u.step_size * (m1 / u.epsilon);
    if (u.epsilon > 0 && m1 < kHuge / 4 && m2 < kHuge / 4 && w < kHuge / 4) continue;
    const float* const* state = adapter.state;
    int finite = 1;
#pragma omp parallel for num_threads(threads_) schedule(static) reduction(& : finite)
    for (int64_t first = 0; first < adapter.elements; first += kNormBlock)
      for_elements(first, std::min(first + kNormBlock, adapter.elements), [&](int64_t e, int64_t n) {
        const Updated r = update(u, load_lanes(state[TL_STATE_WEIGHTS] + e, n), load_lanes(state[TL_STATE_MOMENT1] + e, n),
                                 load_lanes(state[TL_STATE_MOMENT2] + e, n), load_lanes(state[TL_STATE_GRADIENT] + e, n));
        for (int64_t l = 0; l < n; ++l)
          if (!std::isfinite(r.weight[l]) || !std::isfinite(r.moment1[l]) || !std::isfinite(r.moment2[l])) finite = 0;
      });
    task.result.finite = finite;
  }

  // 3. Update each matrix and rewrite its working copies while it is in cache.
  struct MatrixTask {
    size_t task;
    const LoraMatrices* m;
    int matrix;
  };
  std::vector<MatrixTask> matrices;
  for (size_t i = 0; i < tasks.size(); ++i)
    for (const LoraMatrices& m : tasks[i].adapter->matrices)
      if (m.in)
        for (int matrix = 0; matrix < 2; ++matrix) matrices.push_back({i, &m, matrix});
  std::vector<Bounds> bounds(matrices.size());
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
  for (int64_t t = 0; t < static_cast<int64_t>(matrices.size()); ++t) {
    const MatrixTask& mt = matrices[static_cast<size_t>(t)];
    const OptimizerTask& task = tasks[mt.task];
    const Adapter& adapter = *task.adapter;
    float* const* state = adapter.state;
    const int64_t first = mt.matrix ? mt.m->b : mt.m->a;
    const int64_t end = first + adapter.rank * (mt.matrix ? mt.m->out : mt.m->in);
    if (task.result.finite) {
      const Update u = updates[mt.task];
      Vec w{}, m1{}, m2{};
      for_elements(first, end, [&](int64_t e, int64_t n) {
        const Updated r = update(u, load_lanes(state[TL_STATE_WEIGHTS] + e, n), load_lanes(state[TL_STATE_MOMENT1] + e, n),
                                 load_lanes(state[TL_STATE_MOMENT2] + e, n), load_lanes(state[TL_STATE_GRADIENT] + e, n));
        store_lanes(state[TL_STATE_WEIGHTS] + e, r.weight, n);
        store_lanes(state[TL_STATE_MOMENT1] + e, r.moment1, n);
        store_lanes(state[TL_STATE_MOMENT2] + e, r.moment2, n);
        if (n == kLanes) {
          w = maximum(w, magnitude(r.weight));
          m1 = maximum(m1, magnitude(r.moment1));
          m2 = maximum(m2, r.moment2);
        } else {
          for (int64_t l = 0; l < n; ++l) {
            w[0] = std::max(w[0], std::fabs(r.weight[l]));
            m1[0] = std::max(m1[0], std::fabs(r.moment1[l]));
            m2[0] = std::max(m2[0], r.moment2[l]);
          }
        }
      });
      bounds[static_cast<size_t>(t)] = {max_lanes(w), max_lanes(m1), max_lanes(m2)};
      pack_matrix(adapter, *mt.m, mt.matrix);
    }
    std::fill(state[TL_STATE_GRADIENT] + first, state[TL_STATE_GRADIENT] + end, 0.0f);
  }
  for (size_t i = 0; i < tasks.size(); ++i)
    if (tasks[i].result.finite) tasks[i].adapter->weight_bound = tasks[i].adapter->moment1_bound = tasks[i].adapter->moment2_bound = 0;
  for (size_t t = 0; t < matrices.size(); ++t) {
    if (!tasks[matrices[t].task].result.finite) continue;
    Adapter& adapter = *tasks[matrices[t].task].adapter;
    adapter.weight_bound = std::max(adapter.weight_bound, bounds[t].weight);
    adapter.moment1_bound = std::max(adapter.moment1_bound, bounds[t].moment1);
    adapter.moment2_bound = std::max(adapter.moment2_bound, bounds[t].moment2);
  }
}

}  // namespace tlora::cpu
