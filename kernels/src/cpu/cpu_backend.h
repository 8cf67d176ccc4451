// The op table on the CPU: fp32 storage, OpenMP over outputs. The contracts are in backend.h; one file per family of ops.
#pragma once

#include <functional>
#include <limits>

#include "backend.h"
#include "cpu/microkernel.h"

namespace tlora::cpu {

inline float* f32(const Matrix& m) { return static_cast<float*>(m.data); }

// W [out, in] twice: forward panels of W^T (K = in, N = out), backward panels of W (K = out, N = in).
struct CpuLinear : FrozenLinear {
  ~CpuLinear() override;
  float* forward = nullptr;
  float* backward = nullptr;
  float* bias = nullptr;
};

// The working copies of one adapter module, all in panels:
//   down      A^T, K = in,   N = rank   (S = X A^T)
//   up        B^T, K = rank, N = out    (Y += S B^T)
//   down_back B,   K = out,  N = rank   (dS = dY B)
//   up_back   A,   K = rank, N = in     (dX += dS A)
struct WorkingPanels {
  float* down;
  float* up;
  float* down_back;
  float* up_back;
};
WorkingPanels working_panels(const Adapter& adapter, const LoraMatrices& m);

// A row tile of a batch: it lies inside one run, so all its rows have one adapter.
struct BatchTile {
  const Run* run;
  int64_t start;  // row in the batch
  int rows;
};
std::vector<BatchTile> batch_tiles(const Batch& batch);

// Not final: tests put a smaller or stranger device in front of it.
class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options);

  int64_t activation_bytes() const override { return 4; }
  int threads() const override { return threads_; }
  int64_t leading_dimension(int64_t columns) const override;
  int64_t row_padding() const override { return 1; }
  int64_t free_bytes() const override { return std::numeric_limits<int64_t>::max(); }
  int64_t head_chunk(int64_t vocab) const override;
  void* allocate(int64_t bytes) override;
  void release(void* memory, int64_t bytes) noexcept override;
  void zero(void* memory, int64_t bytes) override;
  void upload(void* device, const void* host, int64_t bytes) override;
  void download(void* host, const void* device, int64_t bytes) override;

  std::vector<std::unique_ptr<FrozenLinear>> pack_group(const std::vector<WeightSource>& sources) override;
  float* pack_vector(const TensorView& tensor) override;
  void embed(const FrozenLinear& table, const int32_t* tokens, int64_t n, Matrix x) override;

  int64_t strip_columns(int32_t rank) const override { return round_up(rank, kLanes); }
  int64_t strip_bytes(int64_t, int64_t ragged, int64_t) const override { return round_up(ragged * 4, 64); }
  void set_modules(int32_t, const int64_t (&)[kModules], const int64_t (&)[kModules]) override {}
  void adapter_attach(Adapter& adapter) override;
  void adapter_detach(Adapter& adapter) noexcept override;
  int64_t working_bytes(int64_t elements, int64_t) const override { return elements * 8; }  // two copies, ranks of whole vectors
  void adapter_offload(Adapter& adapter) override { adapter.offloaded = true; }
  void adapter_restore(Adapter& adapter) override { adapter.offloaded = false; }
  void adapter_init(Adapter& adapter) override;
  void adapter_refresh(Adapter& adapter) override;

  void begin_step(const Batch&) override {}

  void rmsnorm_forward(Matrix x, const float* weight, float eps, const int64_t* rows, int64_t n, int64_t width, Matrix y,
                       float* rstd) override;
  void rmsnorm_backward(Matrix dy, Matrix x, const float* weight, const float* rstd, const int64_t* rows, int64_t n,
                        int64_t width, const Matrix* residual, Matrix dx) override;
  void rope_forward(const Batch& batch, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm, float eps,
                    RopeTable table, Matrix q_out, Matrix k_out) override;
  void rope_backward(const Batch& batch, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm, float eps,
                     RopeTable table, Matrix dqkv) override;

  int64_t attention_scratch_bytes(AttentionShape shape, int64_t tokens, int64_t segments, int64_t longest,
                                  bool train) const override;
  void attention_forward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out, float* lse,
                         void* scratch) override;
  void attention_backward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out, const float* lse,
                          Matrix dout, Matrix dqkv, void* scratch) override;

  void linear_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                      const Matrix* residual) override;
  void linear_backward(const Batch& batch, int layer, const std::vector<LinearPart>& parts, Matrix dx) override;
  void adapter_gradients(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                         GradientSides sides = {}) override;

  void swiglu_forward(Matrix gate_up, int64_t n, int64_t width, Matrix act) override;
  void swiglu_backward(Matrix gate_up, Matrix dact, int64_t n, int64_t width, Matrix act) override;

  void head_logits(Matrix x, int64_t n, const FrozenLinear& head, float* logits, int64_t ld) override;
  void cross_entropy(float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets, const float* scale,
                     double* loss, uint8_t* correct) override;
  void head_backward(const float* dlogits, int64_t ld, int64_t n, const FrozenLinear& head, Matrix dx) override;

  void adamw(std::vector<OptimizerTask>& tasks) override;

 private:
  float round(float x) const { return bf16_ ? round_bf16(x) : x; }
  Vec round(Vec x) const { return bf16_ ? round_bf16(x) : x; }
  std::unique_ptr<FrozenLinear> pack_linear(const TensorView& weight, const TensorView* bias);
  void drop_inputs(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts);
  void pack_matrix(const Adapter& adapter, const LoraMatrices& m, int matrix);

  int threads_;
  bool bf16_;
};

}  // namespace tlora::cpu
