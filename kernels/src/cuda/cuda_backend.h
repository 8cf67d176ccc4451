// The op table on a CUDA device: bf16 activations, fp32 sums, one stream. Every op is a few launches (kernels.h) behind the
// call; only download() and adamw() wait. Nothing is allocated inside a step.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <string>
#include <vector>

#include "backend.h"
#include "cuda/batch_tables.h"
#include "cuda/kernels.h"
#include "cuda/pinned_pool.h"
#include "cuda/recorded_steps.h"
#include "cuda/working_copies.h"

namespace tlora::cuda {

// A group of linears W [sum of out, in], one under the other, as one matrix in device memory.
struct PackedGroup {
  ~PackedGroup();
  bf16* weight = nullptr;
  int64_t ld = 0;
  int64_t in = 0, out = 0;  // of all parts together
  float* bias = nullptr;    // fp32 [out], or null
};
struct CudaLinear : FrozenLinear {
  std::shared_ptr<PackedGroup> group;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options);
  ~CudaBackend() override;

  int64_t activation_bytes() const override { return 2; }
  int threads() const override { return 1; }
  int64_t leading_dimension(int64_t columns) const override;
  int64_t row_padding() const override { return kRowPad; }
  int64_t free_bytes() const override;
  int64_t head_chunk(int64_t vocab) const override;
  void* allocate(int64_t bytes) override;
  void release(void* memory, int64_t bytes) noexcept override;
  void zero(void* memory, int64_t bytes) override;
  void upload(void* device, const void* host, int64_t bytes) override;
  void download(void* host, const void* device, int64_t bytes) override;

  std::vector<std::unique_ptr<FrozenLinear>> pack_group(const std::vector<WeightSource>& sources) override;
  float* pack_vector(const TensorView& tensor) override;
  void embed(const FrozenLinear& table, const int32_t* tokens, int64_t n, Matrix x) override;

  int64_t strip_columns(int32_t rank) const override { return (rank + 15) / 16 * 16; }
  int64_t strip_bytes(int64_t tokens, int64_t ragged, int64_t columns) const override;
  void set_modules(int32_t layers, const int64_t (&in)[kModules], const int64_t (&out)[kModules]) override;
  void adapter_attach(Adapter& adapter) override;
  void adapter_detach(Adapter& adapter) noexcept override;
  int64_t working_bytes(int64_t elements, int64_t columns) const override;
  void adapter_offload(Adapter& adapter) override;
  void adapter_restore(Adapter& adapter) override;
  void adapter_init(Adapter& adapter) override;
  void adapter_refresh(Adapter& adapter) override;

  void begin_step(const Batch& batch) override;
  void run(const std::string& shape, const std::function<void()>& ops) override;

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
  void rotated_attention_backward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                  const float* lse, Matrix dout, RopeTable table, Matrix dqkv, void* scratch) override;

  void linear_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                      const Matrix* residual) override;
  void gated_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts, Matrix act) override;
  void rotated_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts, AttentionShape shape,
                       RopeTable table) override;
  void linear_backward(const Batch& batch, int layer, const std::vector<LinearPart>& parts, Matrix dx) override;
  void adapter_gradients(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                         GradientSides sides = {}) override;
  GradientSides gated_backward(const Batch& batch, int layer, Matrix dact, const LinearPart& down,
                               const std::vector<LinearPart>& parts) override;

  void swiglu_forward(Matrix gate_up, int64_t n, int64_t width, Matrix act) override;
  void swiglu_backward(Matrix gate_up, Matrix dact, int64_t n, int64_t width, Matrix act) override;

  void head_logits(Matrix x, int64_t n, const FrozenLinear& head, float* logits, int64_t ld) override;
  void cross_entropy(float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets, const float* scale,
                     double* loss, uint8_t* correct) override;
  void head_backward(const float* dlogits, int64_t ld, int64_t n, const FrozenLinear& head, Matrix dx) override;

  void adamw(std::vector<OptimizerTask>& tasks) override;

 private:
  class Timed;  // see TLORA_CUDA_PROFILE

  LoraGroup lora_group(int layer, const std::vector<LinearPart>& parts) const;
  // gated, others: as lora_gradients.
  void lora_gradients(int layer, Matrix x, const std::vector<LinearPart>& parts, Sides gated, Sides others);
  void set_strips(Gemm& gemm, int layer, const std::vector<LinearPart>& parts, bool backward) const;
  void gemm(const Gemm& gemm);
  // Whether the product did swiglu_forward or rope_forward as well: never where act.data is null and rotation.head_dim 0.
  bool product_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts, const Matrix* residual,
                       Matrix act, const Rotation& rotation);
  // Whether dq and dk are those of before the rotation; never where table.cosine is null.
  bool attention_gradients(AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out, const float* lse, Matrix dout,
                           RopeTable table, Matrix dqkv, void* scratch);
  AttentionArguments attention(AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out, float* lse) const;
  int64_t padded(int64_t rows) const { return (rows + kRowPad - 1) / kRowPad * kRowPad; }
  void make_current() const;
  // At least `bytes` of scratch that stay until the next call; grown with slack.
  void* scratch(void*& memory, int64_t& capacity, int64_t bytes);

  int device_;
  bool sm90_ = false;
  bool gated_ = false;  // whether gated_backward's kernel is used
  int64_t total_bytes_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaStream_t copies_ = nullptr;  // offloading, beside the steps
  ModuleSizes sizes_;
  int32_t layers_ = 0;
  WorkingCopies working_;
  PinnedPool pinned_;
  struct Offloaded {
    void* moments[2] = {};
  };
  std::map<const Adapter*, Offloaded> offloaded_;
  std::vector<Adapter*> attached_;
  std::map<const Adapter*, int32_t> home_columns_;

  Tables tables_;
  void* tables_memory_ = nullptr;
  int64_t tables_capacity_ = 0;
  void* optimizer_memory_ = nullptr;
  int64_t optimizer_capacity_ = 0;

  RecordedSteps recorded_;

  bool profile_ = false;
  struct Interval {
    const char* op;
    cudaEvent_t start, end;
  };
  std::vector<Interval> intervals_;
  size_t intervals_used_ = 0;
  std::map<std::string, std::pair<double, int64_t>> profile_totals_;
  void collect_profile();
};

}  // namespace tlora::cuda
