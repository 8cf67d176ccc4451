// The op table: everything the engine graph asks of a device. The graph (src/graph) is the maths of the step; a backend is
// how one kind of device does each line of it. CPU: src/cpu. CUDA: libtlora_cuda.so, same table.
//
// CONTRACT OF EVERY OP
//   Layout     A Matrix is row-major [rows, columns] with a leading dimension in elements. Its element type is the backend's
//              activation type: fp32 on the CPU (activation_bytes() = 4), bf16 on CUDA (2). Columns beyond the stated ones,
//              up to the next multiple of 16, may be read (never used) and hold anything. So may rows beyond the stated ones,
//              up to row_padding(): matrices and strips are allocated with that many.
//   Place      Every pointer argument is device memory unless it says "host". Ops may run behind the call that asks for them,
//              in order; download() waits for all of them. An op's host arguments are read before it returns.
//   Isolation  An output row depends only on its own segment's rows, its adapter and the frozen weights: not on the other
//              rows, the number of rows, the row's place, or the number of threads. Equal inputs give equal bits.
//   Order      A contraction is one fp32 chain over k ascending; where it is said to run over several operands ("[X|S]") they
//              follow each other in the same chain. Sums along a row use a lane structure fixed by the row's own length.
//              Nothing is atomic; every output element has one owner.
//   Rounding   Where a contract says "rounds", TL_COMPUTE_BF16 rounds the fp32 value to bf16 (nearest even) at that point
//              and only there; TL_COMPUTE_FP32 keeps it. Frozen weights, biases, norm weights and the adapters' working
//              copies round when they are packed. Everything else (statistics, softmax, losses, adapter gradients,
//              moments, master weights) is fp32, and fp64 where stated.
//   Errors     tlora::Error; a failed op may leave its outputs half-written, never anything else.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/safetensors.h"
#include "tlora.h"

namespace tlora {

constexpr int kModules = 7;  // TL_Q_PROJ … TL_DOWN_PROJ

struct Matrix {
  void* data = nullptr;
  int64_t ld = 0;
};

// Columns [first, …) of a matrix.
inline Matrix columns(const Matrix& m, int64_t first, int64_t element_bytes) {
  return {static_cast<char*>(m.data) + first * element_bytes, m.ld};
}

// A frozen W [out, in] with an optional bias [out], in whatever layouts the backend multiplies with.
struct WeightSource {
  const TensorView* weight = nullptr;
  const TensorView* bias = nullptr;  // or null
};
struct FrozenLinear {
  virtual ~FrozenLinear() = default;
  int64_t in = 0;
  int64_t out = 0;
  int64_t resident_bytes = 0;
};

// One adapter's A [rank, in] and B [out, rank] at one (layer, module). All numbers are elements.
struct LoraMatrices {
  int64_t in = 0;         // 0: the module is not targeted
  int64_t out = 0;
  int64_t a = 0;          // offsets in the flat state
  int64_t b = 0;
  int64_t working = 0;    // offset in the working copies
};

// One adapter slot. The four flat states are fp32[elements] on the device.
struct Adapter {
  uint64_t handle = 0;
  tl_adapter_config config{};
  int32_t rank = 0;
  int64_t strip_columns = 0;  // columns of its S strip: backend->strip_columns(rank)
  float scale = 0;            // alpha / rank or alpha / sqrt(rank)
  std::vector<LoraMatrices> matrices;  // [layer * kModules + module]
  int64_t elements = 0;
  float* state[4] = {};       // by TL_STATE_*; the moments and the gradient are null while it is offloaded
  void* working = nullptr;    // the backend's own: copies of A and B in the layouts and the type the GEMMs read
  int64_t working_bytes = 0;
  bool offloaded = false;     // see Backend::adapter_offload
  // Bounds of |weight|, |moment1| and moment2 after the last update; infinite when unknown. See adamw().
  float weight_bound = 0, moment1_bound = 0, moment2_bound = 0;

  const LoraMatrices& at(int layer, int module) const { return matrices[static_cast<size_t>(layer) * kModules + module]; }
};

struct Segment {
  Adapter* adapter = nullptr;  // null: frozen base only
  int64_t start = 0;
  int64_t length = 0;
  int64_t strip = 0;           // elements before its first row in a ragged strip: sum of length * strip_columns before it
  float loss_scale = 0;
  uint64_t dropout_key = 0;
};

// Neighbouring segments of one adapter.
struct Run {
  Adapter* adapter = nullptr;
  int64_t start = 0;
  int64_t rows = 0;
  int64_t strip = 0;
};

struct Batch {
  int64_t tokens = 0;
  std::vector<Segment> segments;
  std::vector<Run> runs;
  std::vector<std::pair<Adapter*, std::vector<int32_t>>> adapters;  // each with its segments in table order
  int64_t longest = 0;
  int64_t strip_elements = 0;  // of one module's ragged S
  int64_t strip_columns = 0;   // sum over adapters
  bool train = false;          // dropout is on only when training

  float dropout(const Adapter* adapter) const { return train && adapter ? adapter->config.dropout : 0.0f; }
  // Whether any adapter of the batch has one of these modules.
  bool any_target(uint32_t modules) const {
    for (const auto& owner : adapters)
      if (owner.first->config.target_modules & modules) return true;
    return false;
  }
};

// One module of a group of linears that share their input X. The parts of a group are packed together (pack_group), their y
// are adjacent columns of one matrix, and their strips lie one after the other in one block.
struct LinearPart {
  int32_t module = 0;
  const FrozenLinear* weight = nullptr;
  Matrix y;                 // [tokens, out]: Y forward, dY backward
  // S = scale * drop(X) * A^T in a layout of the backend's own, strip_bytes() long. CPU: ragged, row t of a segment at
  // strip + segment.strip + (t - start) * strip_columns. CUDA: every row as wide as all adapters of the batch together.
  void* strip = nullptr;
  void* strip_grad = nullptr;  // dS, same shape (backward scratch)
  Matrix dropped;           // [tokens, in] scratch for the masked input; null when no adapter of the batch has dropout
};

// Which gradients of a group's adapters are meant.
struct GradientSides {
  bool a = true;
  bool b = true;
};

struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
};

// cos and sin [positions, head_dim / 2] fp32 as HF: angle = position * inverse_frequency in fp32.
struct RopeTable {
  float* cosine = nullptr;
  float* sine = nullptr;
  int64_t positions = 0;
};

struct OptimizerTask {
  Adapter* adapter;
  tl_optimizer_item item;
  tl_optimizer_result result;  // out
};

class Backend {
 public:
  virtual ~Backend() = default;

  // ---- memory --------------------------------------------------------------------------------------------------------
  virtual int64_t activation_bytes() const = 0;
  virtual int threads() const = 0;
  // Elements between rows of a matrix of so many columns.
  virtual int64_t leading_dimension(int64_t columns) const = 0;
  virtual int64_t row_padding() const = 0;
  // Bytes that allocate() could still give; INT64_MAX when the backend does not know.
  virtual int64_t free_bytes() const = 0;
  // Rows of logits per chunk of the head.
  virtual int64_t head_chunk(int64_t vocab) const = 0;
  // 64-byte aligned (256 on CUDA), with 128 readable bytes behind the end; throws Error(TL_OUT_OF_MEMORY).
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* memory, int64_t bytes) noexcept = 0;
  virtual void zero(void* memory, int64_t bytes) = 0;
  virtual void upload(void* device, const void* host, int64_t bytes) = 0;
  // Waits for all work before it.
  virtual void download(void* host, const void* device, int64_t bytes) = 0;

  // ---- frozen weights ------------------------------------------------------------------------------------------------
  // Linears W [out, in] that share their input, into the layouts of linear_forward and linear_backward. Values round.
  virtual std::vector<std::unique_ptr<FrozenLinear>> pack_group(const std::vector<WeightSource>& sources) = 0;
  // fp32[count] on the device; values round.
  virtual float* pack_vector(const TensorView& tensor) = 0;
  // X[t] = E[tokens[t]] from a packed [vocab, hidden] matrix (the tied head or its own copy).
  virtual void embed(const FrozenLinear& table, const int32_t* tokens, int64_t n, Matrix x) = 0;

  // ---- adapters ------------------------------------------------------------------------------------------------------
  virtual int64_t strip_columns(int32_t rank) const = 0;                           // >= rank
  // Bytes of one module's S. ragged: Batch::strip_elements; columns: Batch::strip_columns.
  virtual int64_t strip_bytes(int64_t tokens, int64_t ragged, int64_t columns) const = 0;
  // Before the first adapter: in and out of the seven linears of each of the layers.
  virtual void set_modules(int32_t layers, const int64_t (&in)[kModules], const int64_t (&out)[kModules]) = 0;
  // Allocates the states (not cleared) and the working copies of an adapter whose matrices and elements are set; sets
  // working_bytes. Throws Error(TL_OUT_OF_MEMORY) with nothing taken.
  virtual void adapter_attach(Adapter& adapter) = 0;
  virtual void adapter_detach(Adapter& adapter) noexcept = 0;
  // Bytes of the working copies of adapters with so many elements and strip columns together.
  virtual int64_t working_bytes(int64_t elements, int64_t columns) const = 0;
  // Moves the moments of an idle adapter to host memory (pinned on CUDA) and frees its gradient, which must be zero; the
  // weights stay. Restore brings them back and clears the gradient. Both may run behind the call. The CPU does nothing but
  // note it.
  virtual void adapter_offload(Adapter& adapter) = 0;
  virtual void adapter_restore(Adapter& adapter) = 0;
  // A ~ U(-1/sqrt(in), 1/sqrt(in)): element e of A at (layer, module) is word e % 4 of
  // Philox4x32-10(key = seed, counter = {e / 4, layer * kModules + module, 0, 'init'}), top 24 bits. B = 0. All else 0.
  virtual void adapter_init(Adapter& adapter) = 0;
  // Rewrites the working copies from the master weights (they round). Also refreshes the bounds.
  virtual void adapter_refresh(Adapter& adapter) = 0;

  // ---- steps ---------------------------------------------------------------------------------------------------------
  // Before the ops of a step: makes the batch's tables known to the device. The batch must not change until its last op.
  virtual void begin_step(const Batch& batch) = 0;
  // Runs `ops`, the step's ops between begin_step and the first download. `shape`: the bytes of everything that their
  // arguments depend on beside the batch's tables. A backend may record the ops and replay them for an equal shape.
  virtual void run(const std::string& shape, const std::function<void()>& ops) {
    (void)shape;
    ops();
  }

  // ---- norms and positions -------------------------------------------------------------------------------------------
  // y[i] = weight * x[r] * rstd, rstd = 1 / sqrt(mean(x[r]^2) + eps), r = rows ? rows[i] : i (HF LlamaRMSNorm in fp32).
  // y rounds; rstd fp32[n] (may be null).
  virtual void rmsnorm_forward(Matrix x, const float* weight, float eps, const int64_t* rows, int64_t n, int64_t width,
                               Matrix y, float* rstd) = 0;
  // dx[r] = residual[r] + rstd * (weight * dy[i] - x[r] * rstd^2 * mean(weight * dy[i] * x[r])); residual may be dx itself
  // or null (0). dx rounds.
  virtual void rmsnorm_backward(Matrix dy, Matrix x, const float* weight, const float* rstd, const int64_t* rows, int64_t n,
                                int64_t width, const Matrix* residual, Matrix dx) = 0;
  // From raw [q | k | v] rows: optional RMSNorm per head (Qwen3), then RoPE (HF rotate_half: pairs i, i + d/2).
  // q_out [n, heads * d] and k_out [n, kv_heads * d] round once, after both; they may be the q and k columns of qkv.
  virtual void rope_forward(const Batch& batch, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm,
                            float eps, RopeTable table, Matrix q_out, Matrix k_out) = 0;
  // In place on the q and k columns of dqkv: the transpose of rope_forward at raw qkv, which is read only with norms. Rounds.
  // v columns are not touched.
  virtual void rope_backward(const Batch& batch, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm,
                             float eps, RopeTable table, Matrix dqkv) = 0;

  // ---- attention -----------------------------------------------------------------------------------------------------
  virtual int64_t attention_scratch_bytes(AttentionShape shape, int64_t tokens, int64_t segments, int64_t longest,
                                          bool train) const = 0;
  // Causal softmax(Q K^T / sqrt(d)) V inside each segment; query head h reads kv head h / (heads / kv_heads).
  // Scores and softmax fp32; P rounds before P·V (its sum is of the unrounded values); out rounds.
  // lse fp32 [tokens, heads] = log sum exp of the scaled scores.
  virtual void attention_forward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                 float* lse, void* scratch) = 0;
  // P = exp(S - lse); D = sum(dO * O); dS = P * (dO V^T - D) / sqrt(d). P rounds for dV += P^T dO, dS rounds for
  // dQ = dS K and dK += dS^T Q. dK and dV are one fp32 sum over the group's q heads in order, query blocks ascending;
  // dq, dk, dv (columns of dqkv) round once.
  virtual void attention_backward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                  const float* lse, Matrix dout, Matrix dqkv, void* scratch) = 0;
  // attention_backward, then rope_backward without norms of what that gave (it rounds in between): one op, so that a backend
  // may do both at once.
  virtual void rotated_attention_backward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                          const float* lse, Matrix dout, RopeTable table, Matrix dqkv, void* scratch) {
    attention_backward(batch, shape, q, k, v, out, lse, dout, dqkv, scratch);
    rope_backward(batch, shape, dqkv, nullptr, nullptr, 0, table, dqkv);
  }

  // ---- linears with LoRA ---------------------------------------------------------------------------------------------
  // For every part: S = scale · drop(X) · A^T (rounds), Y = [X|S] · [W|B]^T (+ bias) (+ residual) (rounds once).
  // drop(X) = mask ∘ X / (1 - p) (rounds), an own mask for every module: see cpu/philox.h for its counter.
  // residual [tokens, out] may be null; it may be y itself.
  virtual void linear_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                              const Matrix* residual) = 0;
  // linear_forward of gate and up, then swiglu_forward of what that gave: one op, so that a backend may do both at once.
  virtual void gated_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts, Matrix act) {
    linear_forward(batch, layer, x, parts, nullptr);
    swiglu_forward(parts[0].y, batch.tokens, parts[0].weight->out, act);
  }
  // linear_forward of q, k and v, then rope_forward without norms of q and k in their own place (they round in between): one
  // op, so that a backend may do both at once.
  virtual void rotated_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                               AttentionShape shape, RopeTable table) {
    linear_forward(batch, layer, x, parts, nullptr);
    rope_forward(batch, shape, parts[0].y, nullptr, nullptr, 0, table, parts[0].y, parts[1].y);
  }
  // dS = scale · dY · B (rounds).
  // dX = [dY_0 | dY_1 | … | dS_0 | dS_1 | …] · [W_0; W_1; …; A_0; A_1; …] over the parts in order (rounds); rows whose
  // adapter has dropout leave the dS strips out of the chain and then add mask ∘ (dS · A) / (1 - p), part by part (rounds
  // each time). dx.data null: dX is not wanted.
  virtual void linear_backward(const Batch& batch, int layer, const std::vector<LinearPart>& parts, Matrix dx) = 0;
  // After linear_backward of the same parts: dB += dY^T S and dA += dS^T drop(X): per output element one fp32 chain over a
  // sequence's tokens, then total += that sequence, sequences in table order. Frozen weights get no gradient. x is read for dA
  // alone, and so is dS; dY and S for dB.
  virtual void adapter_gradients(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                                 GradientSides sides = {}) = 0;
  // After linear_backward of down gave dact: swiglu_backward of gate and up (parts; their y, side by side, become [dgate | dup])
  // and adapter_gradients of down, whose input is act. dact may hold anything afterwards. One op, so that a backend may do all
  // that wants a column of gate, up and dact while it is at hand; dB of gate and up can be part of it. Returns the sides of gate
  // and up that are left to adapter_gradients. No order of sums differs from that of the ops apart.
  virtual GradientSides gated_backward(const Batch& batch, int layer, Matrix dact, const LinearPart& down,
                                       const std::vector<LinearPart>& parts) {
    const bool targeted = batch.any_target(1u << down.module);
    swiglu_backward(parts[0].y, dact, batch.tokens, parts[0].weight->out, targeted ? dact : Matrix{});
    if (targeted) adapter_gradients(batch, layer, dact, {down});
    return {};
  }

  // ---- elementwise ---------------------------------------------------------------------------------------------------
  // act = silu(gate) * up of gate_up [n, 2 * width]. Rounds once.
  virtual void swiglu_forward(Matrix gate_up, int64_t n, int64_t width, Matrix act) = 0;
  // In place: [gate | up] becomes [dgate | dup]. Rounds. act.data (may be null, may be dact itself) gets what swiglu_forward
  // gave.
  virtual void swiglu_backward(Matrix gate_up, Matrix dact, int64_t n, int64_t width, Matrix act) = 0;

  // ---- head ----------------------------------------------------------------------------------------------------------
  // logits fp32 [n, ld] = X · W^T, rows padded as a matrix's.
  virtual void head_logits(Matrix x, int64_t n, const FrozenLinear& head, float* logits, int64_t ld) = 0;
  // Per row: loss = log sum exp - logit[target] (the log in fp64), correct = argmax (lowest id wins) == target.
  // With scale (may be null): logits become (softmax - onehot(target)) * scale[row] (rounds) in the backend's activation
  // type, each row from the start of its own memory.
  virtual void cross_entropy(float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets, const float* scale,
                             double* loss, uint8_t* correct) = 0;
  // dX = dlogits · W (rounds).
  virtual void head_backward(const float* dlogits, int64_t ld, int64_t n, const FrozenLinear& head, Matrix dx) = 0;

  // ---- optimizer -----------------------------------------------------------------------------------------------------
  // See tl_optimizer_step. grad_norm: fp64, blocks of 4,096 elements of the flat gradient in order. A task whose gradient
  // or new weights are not finite changes nothing but the gradient. Rewrites the working copies, clears the gradient. Waits.
  virtual void adamw(std::vector<OptimizerTask>& tasks) = 0;
};

struct BackendOptions {
  int32_t device;
  int32_t threads;  // 0: all
  int32_t compute;
};

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);

inline int64_t padded_rows(const Backend& backend, int64_t rows) {
  const int64_t unit = backend.row_padding();
  return (rows + unit - 1) / unit * unit;
}

}  // namespace tlora
