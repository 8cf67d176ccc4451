#include "graph/workspace.h"

#include <algorithm>

#include "graph/model.h"

namespace tlora {
namespace {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  void* take(int64_t bytes) {
    void* at = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + 63) / 64 * 64;
    return at;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace

int64_t leading_dimension(int64_t columns) {
  const int64_t padded = (columns + 15) / 16 * 16;
  return padded % 256 == 0 ? padded + 16 : padded;
}

StepBuffers place_buffers(const Model& model, const StepShape& shape, void* base) {
  const ModelConfig& c = model.config();
  const Backend& backend = model.backend();
  const int64_t element = backend.activation_bytes(), n = shape.tokens;
  Arena arena(base);
  auto matrix = [&](int64_t rows, int64_t columns) {
    const int64_t ld = leading_dimension(columns);
    return Matrix{arena.take(rows * ld * element), ld};
  };
  auto floats = [&](int64_t count) { return static_cast<float*>(arena.take(count * 4)); };
  auto strip = [&] { return arena.take(shape.strip_elements * element); };
  const int64_t q_columns = int64_t{c.heads} * c.head_dim, k_columns = int64_t{c.kv_heads} * c.head_dim;

  StepBuffers b;
  for (int i = 0; i < (shape.train ? c.layers + 1 : 2); ++i) b.hidden.push_back(matrix(n, c.hidden));
  b.layers.resize(static_cast<size_t>(shape.train ? c.layers : 1));
  for (LayerBuffers& l : b.layers) {
    l.qkv = matrix(n, model.qkv_columns());
    l.attention = matrix(n, q_columns);
    l.middle = matrix(n, c.hidden);
    l.gate_up = matrix(n, 2 * int64_t{c.intermediate});
    l.lse = floats(n * c.heads);
    l.input_rstd = floats(n);
    l.post_rstd = floats(n);
    for (void*& s : l.strip) s = strip();
  }
  b.normed = matrix(n, c.hidden);
  b.q = matrix(n, q_columns);
  b.k = matrix(n, k_columns);
  b.act = matrix(n, c.intermediate);
  b.attention_scratch = arena.take(
      backend.attention_scratch_bytes(model.attention(), n, shape.segments, shape.longest, shape.train));
  if (shape.train) {
    b.dhidden = matrix(n, c.hidden);
    b.dnormed = matrix(n, c.hidden);
    b.dqkv = matrix(n, model.qkv_columns());
    b.dattention = matrix(n, q_columns);
    b.dact = matrix(n, c.intermediate);
    for (void*& s : b.strip_grad) s = strip();
    if (shape.dropout) {
      b.dropped[0] = matrix(n, std::max({int64_t{c.hidden}, q_columns, int64_t{c.intermediate}}));
      b.dropped[1] = matrix(n, c.hidden);
      b.dropped[2] = matrix(n, c.hidden);
    }
  }
  // Enough rows per chunk to feed the GEMM, few enough that logits stay a small part of the step.
  b.head_chunk = std::min(shape.loss_rows, std::clamp<int64_t>((int64_t{1} << 22) / c.vocab, 128, 1024));
  b.head_input = matrix(shape.loss_rows, c.hidden);
  b.head_dinput = shape.train ? matrix(shape.loss_rows, c.hidden) : Matrix{};
  b.head_rstd = floats(shape.loss_rows);
  b.logits_ld = leading_dimension(c.vocab);
  b.logits = floats(b.head_chunk * b.logits_ld);
  b.bytes = arena.used();
  b.rope_positions = std::min<int64_t>((shape.longest + 255) / 256 * 256, std::max<int64_t>(c.max_positions, shape.longest));
  return b;
}

}  // namespace tlora
