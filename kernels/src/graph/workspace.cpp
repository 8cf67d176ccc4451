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
    used_ += (bytes + 255) / 256 * 256;
    return at;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace

StepBuffers place_buffers(const Model& model, const StepShape& shape, void* base) {
  const ModelConfig& c = model.config();
  const Backend& backend = model.backend();
  const int64_t element = backend.activation_bytes(), n = shape.tokens;
  const int64_t strip_bytes = backend.strip_bytes(n, shape.strip_elements, shape.strip_columns);
  Arena arena(base);
  auto matrix = [&](int64_t rows, int64_t columns) {
    const int64_t ld = backend.leading_dimension(columns);
    return Matrix{arena.take(padded_rows(backend, rows) * ld * element), ld};
  };
  auto floats = [&](int64_t count) { return static_cast<float*>(arena.take(count * 4)); };
  auto strips = [&](void** first, int64_t count) {
    char* block = static_cast<char*>(arena.take(count * strip_bytes));
    for (int64_t i = 0; i < count; ++i) first[i] = block ? block + i * strip_bytes : nullptr;
  };
  const int64_t q_columns = int64_t{c.heads} * c.head_dim, k_columns = int64_t{c.kv_heads} * c.head_dim;
  const bool shared_layer = shape.train && shape.recompute == TL_RECOMPUTE_LAYER;
  const bool shared_mlp = shape.train && shape.recompute != TL_RECOMPUTE_NOTHING;

  StepBuffers b;
  b.recompute = shape.recompute;
  b.keep_inputs = shape.keep_inputs;
  b.tokens = static_cast<int32_t*>(arena.take(n * 4));
  b.rows = static_cast<int64_t*>(arena.take(shape.loss_rows * 8));
  b.targets = static_cast<int32_t*>(arena.take(shape.loss_rows * 4));
  b.scale = floats(shape.loss_rows);
  b.loss = static_cast<double*>(arena.take(shape.loss_rows * 8));
  b.correct = static_cast<uint8_t*>(arena.take(shape.loss_rows));

  for (int i = 0; i < (shape.train ? c.layers + 1 : 2); ++i) b.hidden.push_back(matrix(n, c.hidden));
  b.layers.resize(static_cast<size_t>(shape.train ? c.layers : 1));
  for (LayerBuffers& l : b.layers) {
    const LayerBuffers& first = b.layers.front();
    const bool own = !shared_layer || &l == &first;
    const bool own_inputs = shape.keep_inputs || &l == &first;
    l.x1 = own_inputs ? matrix(n, c.hidden) : first.x1;
    l.x2 = !shape.train ? l.x1 : own_inputs ? matrix(n, c.hidden) : first.x2;
    l.qkv = own ? matrix(n, model.qkv_columns()) : first.qkv;
    l.attention = own ? matrix(n, q_columns) : first.attention;
    l.middle = own ? matrix(n, c.hidden) : first.middle;
    l.lse = own ? floats(n * c.heads) : first.lse;
    l.gate_up = !shared_mlp || &l == &first ? matrix(n, 2 * int64_t{c.intermediate}) : first.gate_up;
    l.input_rstd = floats(n);
    l.post_rstd = floats(n);
    strips(l.strip + TL_Q_PROJ, 3);
    strips(l.strip + TL_O_PROJ, 1);
    strips(l.strip + TL_GATE_PROJ, 2);
    strips(l.strip + TL_DOWN_PROJ, 1);
  }
  // Without QK norm nobody asks for the raw q and k: the rotated ones have their place.
  const Matrix q = c.qk_norm ? matrix(n, q_columns) : Matrix{}, k = c.qk_norm ? matrix(n, k_columns) : Matrix{};
  for (LayerBuffers& l : b.layers) {
    l.q = c.qk_norm ? q : l.qkv;
    l.k = c.qk_norm ? k : base ? columns(l.qkv, q_columns, element) : Matrix{};
  }
  b.act = matrix(n, c.intermediate);
  b.attention_scratch = arena.take(
      backend.attention_scratch_bytes(model.attention(), n, shape.segments, shape.longest, shape.train));
  if (shape.train) {
    b.dhidden = matrix(n, c.hidden);
    b.dnormed = matrix(n, c.hidden);
    b.dqkv = matrix(n, model.qkv_columns());
    b.dattention = matrix(n, q_columns);
    strips(b.strip_grad, 3);
    if (shape.dropout) {
      b.dropped[0] = matrix(n, std::max({int64_t{c.hidden}, q_columns, int64_t{c.intermediate}}));
      b.dropped[1] = matrix(n, c.hidden);
      b.dropped[2] = matrix(n, c.hidden);
    }
  }
  b.head_chunk = std::min(shape.loss_rows, backend.head_chunk(c.vocab));
  b.head_input = matrix(shape.loss_rows, c.hidden);
  b.head_dinput = shape.train ? matrix(shape.loss_rows, c.hidden) : Matrix{};
  b.head_rstd = floats(shape.loss_rows);
  b.logits_ld = backend.leading_dimension(c.vocab);
  b.logits = floats(padded_rows(backend, b.head_chunk) * b.logits_ld);
  b.bytes = arena.used();
  b.rope_positions = std::min<int64_t>((shape.longest + 255) / 256 * 256, std::max<int64_t>(c.max_positions, shape.longest));
  return b;
}

}  // namespace tlora
