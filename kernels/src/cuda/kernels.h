// The launchers of the CUDA kernels, one .cu file per family. Contracts of order and rounding are those of backend.h; this
// file adds the types. All matrices are bf16, row-major, with leading dimensions in elements (multiples of 8; base pointers
// 16-byte aligned) unless said otherwise. Nothing here allocates or synchronises; every launcher checks its launch.
#pragma once

#include <cuda_runtime.h>

#include "cuda/tables.h"

namespace tlora::cuda {

// ---- elementwise.cu, rmsnorm.cu, rope.cu, swiglu.cu ----------------------------------------------------------------------

// x[t] = table[tokens[t]], width columns.
void embed(cudaStream_t stream, const bf16* table, int64_t ld_table, const int32_t* tokens, int64_t n, int64_t width, bf16* x,
           int64_t ld_x);

// y[i] = weight * x[r] * rstd, rstd = 1 / sqrt(mean(x[r]^2) + eps), r = rows ? rows[i] : i. weight fp32[width];
// rstd fp32[n] or null.
void rmsnorm_forward(cudaStream_t stream, const bf16* x, int64_t ld_x, const float* weight, float eps, const int64_t* rows,
                     int64_t n, int64_t width, bf16* y, int64_t ld_y, float* rstd);
// dx[r] = residual[r] + rstd[i] * (weight * dy[i] - x[r] * rstd[i]^2 * mean(weight * dy[i] * x[r])). residual null: 0; may
// be dx.
void rmsnorm_backward(cudaStream_t stream, const bf16* dy, int64_t ld_dy, const bf16* x, int64_t ld_x, const float* weight,
                      const float* rstd, const int64_t* rows, int64_t n, int64_t width, const bf16* residual,
                      int64_t ld_residual, bf16* dx, int64_t ld_dx);

struct RopeArguments {
  int32_t heads = 0, kv_heads = 0, head_dim = 0;  // head_dim even, at most 128
  const float* q_norm = nullptr;  // fp32[head_dim], or null: no norm (both or neither)
  const float* k_norm = nullptr;
  float eps = 0;
  const float* cosine = nullptr;  // fp32 [positions, head_dim / 2]
  const float* sine = nullptr;
};
// q and k may be the q and k columns of qkv.
void rope_forward(cudaStream_t stream, const Tables& tables, const RopeArguments& rope, const bf16* qkv, int64_t ld_qkv,
                  bf16* q, int64_t ld_q, bf16* k, int64_t ld_k);
// qkv is read only with norms.
void rope_backward(cudaStream_t stream, const Tables& tables, const RopeArguments& rope, const bf16* qkv, int64_t ld_qkv,
                   bf16* dqkv, int64_t ld_dqkv);

// act = silu(gate) * up of gate_up [n, 2 * width].
void swiglu_forward(cudaStream_t stream, const bf16* gate_up, int64_t ld_gate_up, int64_t n, int64_t width, bf16* act,
                    int64_t ld_act);
// [gate | up] becomes [dgate | dup]; act (null, or a matrix that may be dact itself) gets silu(gate) * up as forward had it.
void swiglu_backward(cudaStream_t stream, bf16* gate_up, int64_t ld_gate_up, const bf16* dact, int64_t ld_dact, int64_t n,
                     int64_t width, bf16* act, int64_t ld_act);

// ---- attention.cu (any architecture), attention_sm90.cu ------------------------------------------------------------------

struct AttentionArguments {
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  const bf16* q = nullptr;  // [tokens, heads * d], rotated
  const bf16* k = nullptr;  // [tokens, kv_heads * d], rotated
  const bf16* v = nullptr;  // [tokens, kv_heads * d] (columns of qkv)
  int64_t ld_q = 0, ld_k = 0, ld_v = 0;
  bf16* out = nullptr;      // [tokens, heads * d]; input of backward
  int64_t ld_out = 0;
  float* lse = nullptr;     // fp32 [tokens, heads]
  // backward
  const bf16* dout = nullptr;
  int64_t ld_dout = 0;
  bf16* dq = nullptr;       // [tokens, heads * d]; dq, dk, dv are columns of one matrix
  bf16* dk = nullptr;
  bf16* dv = nullptr;
  int64_t ld_dqkv = 0;
  float* delta = nullptr;   // fp32 scratch [heads, padded rows]: delta[h * padded_rows + row] = sum_c out[row, h, c] * dout[row, h, c]
  int64_t padded_rows = 0;
  int32_t rows = 0;         // rows of q, k, v, … that may be read: padded_rows
  // backward on Hopper: dq and dk as rope_backward without norms makes them of what they would be otherwise. Null: not wanted.
  const float* cosine = nullptr;  // fp32 [positions, head_dim / 2]
  const float* sine = nullptr;
};
// head_dim even, at most 128; cosine and sine are left alone.
void attention_forward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a);
void attention_backward(cudaStream_t stream, const Tables& tables, const AttentionArguments& a);
// The same for sm_90a with head_dim 64 or 128 (false otherwise, and on other devices): wgmma and TMA.
bool attention_sm90_supports(const AttentionArguments& a);
void attention_forward_sm90(cudaStream_t stream, const Tables& tables, const AttentionArguments& a);
void attention_backward_sm90(cudaStream_t stream, const Tables& tables, const AttentionArguments& a);

// ---- gemm_generic.cu (mma.sync), gemm_sm90.cu (wgmma and TMA) ------------------------------------------------------------

constexpr int kMaxParts = 3;

// Rotary positions of the heads that the first columns of a product's output are.
struct Rotation {
  const int32_t* position = nullptr;  // Tables::position
  const float* cosine = nullptr;      // fp32 [positions, head_dim / 2]
  const float* sine = nullptr;
  int32_t head_dim = 0;               // 0: none
  int32_t columns = 0;                // of q and k together, a multiple of head_dim
};

// One product of a whole group of linears, with the adapters' strips in the same chain of sums:
//   out = A · op(B) + sum over parts p, over the row's own strip columns c of S_p[row, c] · op(L_p)[c, :]
// b_is_k_major: op(B) = B^T, B [n, k] (forward: B = W [out, in], L = B home [out, capacity]); otherwise B [k, n] (backward:
// B = W [out, in] with k = out, n = in, L = A home [capacity, in]).
// Forward, column block p (its own out) uses only strip p; backward, every column uses all the strips, p ascending.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;  // m = real rows
  const bf16* a = nullptr;      // [m, k]
  int64_t lda = 0;
  const bf16* b = nullptr;
  int64_t ldb = 0;
  bool b_is_k_major = true;

  // Strips; strip null: none. Row t of part p at strip + (p * strip_rows + t) * ld_strip + batch_column.
  int parts = 1;
  int64_t part_n[kMaxParts] = {};   // forward: columns of each part (sum = n, in order); backward unused
  uint32_t part_bit[kMaxParts] = {};  // 1 << module
  const bf16* strip = nullptr;
  int64_t ld_strip = 0;
  int64_t strip_rows = 0;           // padded rows of one part's strip
  // Forward: home B of the stacked parts, [n, capacity]. Backward: home A of the parts, [parts * capacity, n], part p's row
  // home_column at (p * capacity + home_column) * ld_home.
  const bf16* home = nullptr;
  int64_t ld_home = 0;
  int64_t capacity = 0;
  const StripChunk* chunks = nullptr;    // Tables::strip_chunks
  const int32_t* chunk_first = nullptr;  // Tables::chunk_first

  // Output: bf16, or fp32 when out_fp32. out = round(sum (+ bias[column]) (+ residual)).
  void* out = nullptr;
  int64_t ldc = 0;
  bool out_fp32 = false;
  const float* bias = nullptr;      // fp32 [n]
  const bf16* residual = nullptr;   // [m, n]; may be out itself
  int64_t ld_residual = 0;
  int64_t padded_rows = 0;          // rows of a and out that exist (a multiple of 128, at least m): rows m … are readable

  // Forward of gate and up on Hopper, where gemm_sm90_gives_act: act as swiglu_forward gives it of out. Null: not wanted.
  bf16* act = nullptr;              // [m, n / 2]
  int64_t ld_act = 0;

  // Forward of q, k and v on Hopper, where gemm_sm90_rotates: out holds q and k as rope_forward without norms gives them of
  // what it would hold otherwise. head_dim 0: not wanted.
  Rotation rotation;
};
void gemm_generic(cudaStream_t stream, const Gemm& g);  // leaves act and rotation alone
void gemm_sm90(cudaStream_t stream, const Gemm& g);
bool gemm_sm90_gives_act(const Gemm& g);
bool gemm_sm90_rotates(const Gemm& g);

// ---- lora.cu --------------------------------------------------------------------------------------------------------------

struct LoraPart {
  int32_t module = 0;
  int64_t in = 0, out = 0;
  Home home;
  const bf16* x = nullptr;        // [tokens, in], the module's input
  int64_t ld_x = 0;
  bf16* dropped = nullptr;        // [tokens, in]: drop(X), rows of adapters with dropout only; null when none has any
  int64_t ld_dropped = 0;
  const bf16* dy = nullptr;       // [tokens, out] (backward)
  int64_t ld_dy = 0;
  bf16* strip = nullptr;          // S  [padded rows, ld_strip]
  bf16* strip_grad = nullptr;     // dS
};
struct LoraGroup {
  int parts = 1;
  LoraPart part[kMaxParts];
  int64_t ld_strip = 0;
  int32_t layer = 0;
};

// dropped = mask ∘ X / (1 - p) for the rows of adapters with dropout (counters as in cpu/philox.h).
void drop_inputs(cudaStream_t stream, const Tables& tables, const LoraGroup& group);
// S = scale · drop(X) · A^T for all parts, all rows [0, tokens): every one of the tables.strip_columns columns of a row is
// written, zero outside the row's own adapter and where it does not target the module.
void lora_down_forward(cudaStream_t stream, const Tables& tables, const LoraGroup& group);
// dS = scale · dY · B, likewise.
void lora_down_backward(cudaStream_t stream, const Tables& tables, const LoraGroup& group);
struct Sides {
  bool a = true;
  bool b = true;
};
// gradient += dA, dB of every adapter and part: dA = dS^T · drop(X), dB = dY^T · S; fp32, one chain over a sequence's
// tokens, then total += that sequence, sequences in table order. gated, others: which of the two, for the adapters that are
// gated_fits and for those that are not.
void lora_gradients(cudaStream_t stream, const Tables& tables, const LoraGroup& group, const ModuleSizes& sizes,
                    Sides gated = {}, Sides others = {});
// dx += mask ∘ (dS · A) / (1 - p), part by part (rounds each time), rows of adapters with dropout only.
void lora_masked_expand(cudaStream_t stream, const Tables& tables, const LoraGroup& group, bf16* dx, int64_t ld_dx);

// ---- gated_backward.cu ----------------------------------------------------------------------------------------------------

struct GatedBackward {
  bf16* gate_up = nullptr;         // [tokens, 2 * width]: [gate | up], becomes [dgate | dup]
  int64_t ld_gate_up = 0;
  bf16* dact = nullptr;            // [tokens, width]
  int64_t ld_dact = 0;
  int64_t width = 0;               // a multiple of 8
  const bf16* strip_gate = nullptr;  // S of gate and of up, dS of down: [padded rows, ld_strip]
  const bf16* strip_up = nullptr;
  const bf16* strip_grad_down = nullptr;
  int64_t ld_strip = 0;
  int32_t layer = 0;
};
// swiglu_backward of all rows, and for the adapters that are gated_fits: gradient += dA of down (from act), dB of gate, dB of up
// (each where the adapter targets it), with the bits of lora_gradients. Rows of the other adapters that target down have act in
// dact afterwards; the rest of dact is left.
void gated_backward(cudaStream_t stream, const Tables& tables, const GatedBackward& g, const ModuleSizes& sizes);
// Bytes of shared memory that a block of it needs.
int64_t gated_backward_shared_bytes();

// ---- cross_entropy.cu (any architecture), cross_entropy_sm90.cu -----------------------------------------------------------

// logits fp32 [n, ld]. As Backend::cross_entropy; with scale, each row of logits becomes dlogits in bf16, at the start of the
// row's own memory (so bf16 with leading dimension 2 * ld). targets, scale, loss, correct: device.
void cross_entropy(cudaStream_t stream, float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets,
                   const float* scale, double* loss, uint8_t* correct);
// The same for sm_90a and large vocabularies (false otherwise, and where the device cannot run the kernel); its sums have
// another order. ld a multiple of 4, logits 16-byte aligned.
bool cross_entropy_sm90_supports(int64_t vocab);
void cross_entropy_sm90(cudaStream_t stream, float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets,
                        const float* scale, double* loss, uint8_t* correct);

// ---- adamw.cu -------------------------------------------------------------------------------------------------------------

struct AdamwSlot {
  float* weight = nullptr;  // flat states
  float* moment1 = nullptr;
  float* moment2 = nullptr;
  float* gradient = nullptr;
  int64_t elements = 0;
  int32_t rank = 0;
  int32_t home_column = 0;
  uint32_t targets = 0;
  int32_t reserved = 0;
  // tl_optimizer_item
  int64_t step = 0;
  float learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, max_grad_norm = 0;
};
struct AdamwResult {
  double grad_norm = 0;
  int32_t finite = 0;
  int32_t reserved = 0;
};
int64_t adamw_scratch_bytes(int64_t total_elements, int32_t slots);
// slots and results: device arrays [count]; host_slots: the same on the host (for the launch sizes). homes: device
// [layers * 7]. See Backend::adamw: a slot whose gradient or new values are not finite keeps weights and moments; working copies
// are rewritten, the gradient is cleared.
void adamw(cudaStream_t stream, const AdamwSlot* slots, const AdamwSlot* host_slots, int32_t count, const ModuleSizes& sizes,
           int32_t layers, const Home* homes, void* scratch, AdamwResult* results);

// A ~ U(-1/sqrt(in), 1/sqrt(in)) by Philox as Backend::adapter_init says, bit for bit the CPU's; B = 0.
void adapter_init(cudaStream_t stream, float* weight, uint64_t seed, int32_t rank, uint32_t targets, const ModuleSizes& sizes,
                  int32_t layers);
// Rewrites an adapter's working copies (padding columns too) from its flat weights.
void adapter_refresh(cudaStream_t stream, const float* weight, int32_t rank, int32_t home_column, uint32_t targets,
                     const ModuleSizes& sizes, int32_t layers, const Home* homes);

}  // namespace tlora::cuda
