#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>

#include "cuda/check.h"

namespace tlora::cuda {
namespace {

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

bf16* half(const Matrix& m) { return static_cast<bf16*>(m.data); }

const PackedGroup& group_of(const FrozenLinear& linear) { return *static_cast<const CudaLinear&>(linear).group; }

// Elements [first, first + count) as bf16 bits, nearest even; infinities only where the source has them.
void to_bf16(const TensorView& tensor, int64_t first, int64_t count, uint16_t* out) {
  if (tensor.dtype == DType::BF16) {
    std::memcpy(out, tensor.data + first * 2, static_cast<size_t>(count) * 2);
    return;
  }
  std::vector<float> wide(static_cast<size_t>(count));
  widen_to_f32(tensor, first, count, wide.data());
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &wide[static_cast<size_t>(i)], 4);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out[i] = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

float rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x == x) bits = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

}  // namespace

PackedGroup::~PackedGroup() {
  cudaFree(weight);
  cudaFree(bias);
}

// TLORA_CUDA_PROFILE=FILE: the time of every op between two events, summed by name, as JSON when the model closes. For
// benches: the events cost a few microseconds an op.
class CudaBackend::Timed {
 public:
  Timed(CudaBackend& backend, const char* op) : backend_(backend) {
    backend.make_current();
    if (!backend.profile_) return;
    if (backend.intervals_used_ == backend.intervals_.size()) {
      Interval fresh{};
      check(cudaEventCreate(&fresh.start), "cudaEventCreate");
      check(cudaEventCreate(&fresh.end), "cudaEventCreate");
      backend.intervals_.push_back(fresh);
    }
    at_ = backend.intervals_used_++;
    backend.intervals_[at_].op = op;
    cudaEventRecord(backend.intervals_[at_].start, backend.stream_);
  }
  ~Timed() {
    if (backend_.profile_) cudaEventRecord(backend_.intervals_[at_].end, backend_.stream_);
  }
  Timed(const Timed&) = delete;

 private:
  CudaBackend& backend_;
  size_t at_ = 0;
};

void CudaBackend::collect_profile() {
  for (size_t i = 0; i < intervals_used_; ++i) {
    float ms = 0;
    if (cudaEventElapsedTime(&ms, intervals_[i].start, intervals_[i].end) != cudaSuccess) continue;
    auto& [total, calls] = profile_totals_[intervals_[i].op];
    total += ms;
    ++calls;
  }
  intervals_used_ = 0;
}

CudaBackend::CudaBackend(const BackendOptions& options) : device_(options.device) {
  make_current();
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
  const char* generic = std::getenv("TLORA_CUDA_GENERIC");  // the kernels that any architecture runs, for tests
  const bool any_device = generic && *generic == '1';
  sm90_ = properties.major == 9 && properties.minor == 0 && !any_device;
  gated_ = static_cast<int64_t>(properties.sharedMemPerBlockOptin) >= gated_backward_shared_bytes() && !any_device;
  total_bytes_ = static_cast<int64_t>(properties.totalGlobalMem);
  profile_ = std::getenv("TLORA_CUDA_PROFILE") != nullptr;
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "cudaStreamCreate");
}

CudaBackend::~CudaBackend() {
  cudaSetDevice(device_);
  cudaDeviceSynchronize();
  if (profile_) {
    collect_profile();
    std::ofstream file(std::getenv("TLORA_CUDA_PROFILE"));
    file << "{";
    const char* separator = "";
    for (const auto& [op, total] : profile_totals_) {
      file << separator << "\"" << op << "\":{\"milliseconds\":" << total.first << ",\"calls\":" << total.second << "}";
      separator = ",\n";
    }
    file << "}\n";
    for (const Interval& i : intervals_) {
      cudaEventDestroy(i.start);
      cudaEventDestroy(i.end);
    }
  }
  cudaFree(tables_memory_);
  cudaFree(optimizer_memory_);
  cudaStreamDestroy(stream_);
  cudaStreamDestroy(copies_);
}

void CudaBackend::make_current() const { check(cudaSetDevice(device_), "cudaSetDevice"); }

// ---- memory ----------------------------------------------------------------------------------------------------------------

int64_t CudaBackend::leading_dimension(int64_t columns) const { return round_up(columns, 64); }

// Leaves a 64th of the card to the driver, to fragmentation and to the small tables of a step.
int64_t CudaBackend::free_bytes() const {
  make_current();
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return std::max<int64_t>(0, static_cast<int64_t>(free) - total_bytes_ / 64);
}

int64_t CudaBackend::head_chunk(int64_t vocab) const {
  return std::clamp<int64_t>(round_up((int64_t{1} << 28) / vocab, kRowPad), 512, 8192);
}

void* CudaBackend::allocate(int64_t bytes) {
  make_current();
  void* memory = nullptr;
  if (cudaMalloc(&memory, static_cast<size_t>(bytes + 128)) != cudaSuccess) {
    cudaGetLastError();
    throw Error(TL_OUT_OF_MEMORY, "cannot allocate " + std::to_string(bytes) + " bytes of device memory; about " +
                                      std::to_string(free_bytes()) + " are free");
  }
  return memory;
}

void CudaBackend::release(void* memory, int64_t) noexcept {
  cudaSetDevice(device_);
  cudaFree(memory);
}

void CudaBackend::zero(void* memory, int64_t bytes) {
  Timed timed(*this, "zero");
  check(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream_), "cudaMemsetAsync");
}

void CudaBackend::upload(void* device, const void* host, int64_t bytes) {
  make_current();
  check(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_), "upload");
}

void CudaBackend::download(void* host, const void* device, int64_t bytes) {
  make_current();
  check(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_), "download");
  check(cudaStreamSynchronize(stream_), "the step");
  if (profile_) collect_profile();
}

void* CudaBackend::scratch(void*& memory, int64_t& capacity, int64_t bytes) {
  if (bytes <= capacity) return memory;
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  cudaFree(memory);
  memory = nullptr;
  capacity = 0;
  memory = allocate(bytes + bytes / 2);
  capacity = bytes + bytes / 2;
  return memory;
}

// ---- frozen weights --------------------------------------------------------------------------------------------------------

std::vector<std::unique_ptr<FrozenLinear>> CudaBackend::pack_group(const std::vector<WeightSource>& sources) {
  auto group = std::make_shared<PackedGroup>();
  group->in = sources[0].weight->shape[1];
  group->ld = leading_dimension(group->in);
  for (const WeightSource& s : sources) group->out += s.weight->shape[0];
  group->weight = static_cast<bf16*>(allocate(group->out * group->ld * 2));
  if (group->ld != group->in) zero(group->weight, group->out * group->ld * 2);

  std::vector<std::unique_ptr<FrozenLinear>> linears;
  std::vector<float> bias;
  int64_t row = 0;
  for (const WeightSource& s : sources) {
    const int64_t out = s.weight->shape[0], in = group->in;
    bf16* to = group->weight + row * group->ld;
    if (s.weight->dtype == DType::BF16 && group->ld == in) {
      upload(to, s.weight->data, out * in * 2);
    } else {
      // A few megabytes at a time, padded to the leading dimension.
      const int64_t rows = std::max<int64_t>(1, (int64_t{1} << 22) / group->ld);
      std::vector<uint16_t> block(static_cast<size_t>(rows * group->ld));
      for (int64_t first = 0; first < out; first += rows) {
        const int64_t count = std::min(rows, out - first);
        for (int64_t r = 0; r < count; ++r)
          to_bf16(*s.weight, (first + r) * in, in, block.data() + r * group->ld);
        upload(to + first * group->ld, block.data(), count * group->ld * 2);
        check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
      }
    }
    if (s.bias) {
      bias.resize(static_cast<size_t>(group->out), 0.0f);
      widen_to_f32(*s.bias, 0, out, bias.data() + row);
    }
    auto linear = std::make_unique<CudaLinear>();
    linear->in = in;
    linear->out = out;
    linear->resident_bytes = out * group->ld * 2 + (s.bias ? out * 4 : 0);
    linear->group = group;
    linears.push_back(std::move(linear));
    row += out;
  }
  if (!bias.empty()) {
    for (float& b : bias) b = rounded(b);
    group->bias = static_cast<float*>(allocate(group->out * 4));
    upload(group->bias, bias.data(), group->out * 4);
  }
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  return linears;
}

float* CudaBackend::pack_vector(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements));
  widen_to_f32(tensor, 0, tensor.elements, values.data());
  for (float& v : values) v = rounded(v);
  float* device = static_cast<float*>(allocate(tensor.elements * 4));
  upload(device, values.data(), tensor.elements * 4);
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  return device;
}

void CudaBackend::embed(const FrozenLinear& table, const int32_t* tokens, int64_t n, Matrix x) {
  Timed timed(*this, "embed");
  const PackedGroup& g = group_of(table);
  cuda::embed(stream_, g.weight, g.ld, tokens, n, g.in, half(x), x.ld);
}

// ---- adapters --------------------------------------------------------------------------------------------------------------

int64_t CudaBackend::strip_bytes(int64_t tokens, int64_t, int64_t columns) const { return padded(tokens) * columns * 2; }

// All modules have room for every adapter's columns, targeted or not.
int64_t CudaBackend::working_bytes(int64_t, int64_t columns) const {
  return WorkingCopies::bytes(layers_, sizes_, static_cast<int32_t>(round_up(columns, WorkingCopies::kGrowth)));
}

void CudaBackend::set_modules(int32_t layers, const int64_t (&in)[kModules], const int64_t (&out)[kModules]) {
  make_current();
  // Parts of a group lie side by side in a row, and rows are read 16 bytes at a time.
  for (const int module : {TL_Q_PROJ, TL_K_PROJ, TL_GATE_PROJ})
    if (out[module] % 8)
      throw Error(TL_UNSUPPORTED, std::string("the width of ") + (module == TL_Q_PROJ ? "q_proj" : module == TL_K_PROJ ? "k_proj" : "gate_proj") +
                                      " must be a multiple of 8 on CUDA, got " + std::to_string(out[module]));
  layers_ = layers;
  std::copy(std::begin(in), std::end(in), sizes_.in);
  std::copy(std::begin(out), std::end(out), sizes_.out);
  working_.set_modules(layers, sizes_);
}

void CudaBackend::adapter_attach(Adapter& adapter) {
  make_current();
  const int32_t columns = static_cast<int32_t>(adapter.strip_columns);
  const int64_t bytes = adapter.elements * 4;
  for (float*& state : adapter.state) {
    if (cudaMallocAsync(reinterpret_cast<void**>(&state), static_cast<size_t>(bytes), stream_) == cudaSuccess) continue;
    cudaGetLastError();
    state = nullptr;
    for (float*& taken : adapter.state) {
      if (taken) cudaFreeAsync(taken, stream_);
      taken = nullptr;
    }
    throw Error(TL_OUT_OF_MEMORY, "cannot allocate 4 states of " + std::to_string(bytes) + " bytes of device memory for an adapter of rank " +
                                      std::to_string(adapter.rank) + "; about " + std::to_string(free_bytes()) + " are free");
  }
  int32_t first = working_.take(columns);
  if (first < 0) {
    auto refresh = [&] {
      for (Adapter* other : attached_) adapter_refresh(*other);
    };
    try {
      working_.grow(columns, stream_);
    } catch (...) {
      refresh();
      for (float*& state : adapter.state) {
        cudaFreeAsync(state, stream_);
        state = nullptr;
      }
      throw;
    }
    refresh();
    first = working_.take(columns);
  }
  home_columns_[&adapter] = first;
  attached_.push_back(&adapter);
  adapter.working_bytes = WorkingCopies::bytes(layers_, sizes_, columns);
}

void CudaBackend::adapter_detach(Adapter& adapter) noexcept {
  cudaSetDevice(device_);
  const auto moved = offloaded_.find(&adapter);
  if (moved != offloaded_.end()) {
    for (void* memory : moved->second.moments) pinned_.give_back(memory);
    offloaded_.erase(moved);
  }
  for (float*& state : adapter.state) {
    if (state) cudaFreeAsync(state, stream_);
    state = nullptr;
  }
  const auto home = home_columns_.find(&adapter);
  if (home == home_columns_.end()) return;
  working_.give_back(home->second, static_cast<int32_t>(adapter.strip_columns));
  home_columns_.erase(home);
  attached_.erase(std::find(attached_.begin(), attached_.end(), &adapter));
  if (attached_.empty()) working_.clear();
  // The pool would keep the memory until something waits, and the next adapter may be of another size.
  cudaStreamSynchronize(stream_);
  cudaMemPool_t pool = nullptr;
  if (cudaDeviceGetDefaultMemPool(&pool, device_) == cudaSuccess) cudaMemPoolTrimTo(pool, 0);
}

void CudaBackend::adapter_offload(Adapter& adapter) {
  make_current();
  const int64_t bytes = adapter.elements * 4;
  Offloaded moved;
  moved.moments[0] = pinned_.take(bytes);
  try {
    moved.moments[1] = pinned_.take(bytes);
  } catch (...) {
    pinned_.give_back(moved.moments[0]);
    throw;
  }
  cudaEvent_t ready;
  check(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming), "cudaEventCreate");
  check(cudaEventRecord(ready, stream_), "cudaEventRecord");
  check(cudaStreamWaitEvent(copies_, ready, 0), "cudaStreamWaitEvent");
  check(cudaEventDestroy(ready), "cudaEventDestroy");
  const int states[2] = {TL_STATE_MOMENT1, TL_STATE_MOMENT2};
  for (int i = 0; i < 2; ++i)
    check(cudaMemcpyAsync(moved.moments[i], adapter.state[states[i]], static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, copies_), "offload");
  for (const int state : {TL_STATE_MOMENT1, TL_STATE_MOMENT2, TL_STATE_GRADIENT}) {
    check(cudaFreeAsync(adapter.state[state], copies_), "cudaFreeAsync");
    adapter.state[state] = nullptr;
  }
  offloaded_[&adapter] = moved;
  adapter.offloaded = true;
}

void CudaBackend::adapter_restore(Adapter& adapter) {
  make_current();
  const int64_t bytes = adapter.elements * 4;
  float* fresh[3] = {};
  for (float*& state : fresh)
    if (cudaMallocAsync(reinterpret_cast<void**>(&state), static_cast<size_t>(bytes), copies_) != cudaSuccess) {
      cudaGetLastError();
      state = nullptr;
      for (float* taken : fresh)
        if (taken) cudaFreeAsync(taken, copies_);
      throw Error(TL_OUT_OF_MEMORY, "cannot allocate 3 states of " + std::to_string(bytes) + " bytes of device memory to restore an adapter of rank " +
                                        std::to_string(adapter.rank) + "; about " + std::to_string(free_bytes()) + " are free");
    }
  const Offloaded moved = offloaded_.at(&adapter);
  for (int i = 0; i < 2; ++i)
    check(cudaMemcpyAsync(fresh[i], moved.moments[i], static_cast<size_t>(bytes), cudaMemcpyHostToDevice, copies_), "restore");
  check(cudaMemsetAsync(fresh[2], 0, static_cast<size_t>(bytes), copies_), "cudaMemsetAsync");
  cudaEvent_t ready;
  check(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming), "cudaEventCreate");
  check(cudaEventRecord(ready, copies_), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_, ready, 0), "cudaStreamWaitEvent");
  check(cudaEventDestroy(ready), "cudaEventDestroy");
  adapter.state[TL_STATE_MOMENT1] = fresh[0];
  adapter.state[TL_STATE_MOMENT2] = fresh[1];
  adapter.state[TL_STATE_GRADIENT] = fresh[2];
  // Given out again only to copies on the same stream, so after this one has read it.
  for (void* memory : moved.moments) pinned_.give_back(memory);
  offloaded_.erase(&adapter);
  adapter.offloaded = false;
}

void CudaBackend::adapter_init(Adapter& adapter) {
  Timed timed(*this, "adapter_init");
  for (float* state : adapter.state)
    check(cudaMemsetAsync(state, 0, static_cast<size_t>(adapter.elements) * 4, stream_), "cudaMemsetAsync");
  cuda::adapter_init(stream_, adapter.state[TL_STATE_WEIGHTS], adapter.config.seed, adapter.rank, adapter.config.target_modules,
                     sizes_, layers_);
  adapter_refresh(adapter);
}

void CudaBackend::adapter_refresh(Adapter& adapter) {
  Timed timed(*this, "adapter_refresh");
  cuda::adapter_refresh(stream_, adapter.state[TL_STATE_WEIGHTS], adapter.rank, home_columns_.at(&adapter),
                        adapter.config.target_modules, sizes_, layers_, working_.device_homes());
}

// ---- steps -----------------------------------------------------------------------------------------------------------------

void CudaBackend::begin_step(const Batch& batch) {
  make_current();
  std::vector<Placement> placements;
  for (const auto& [adapter, segments] : batch.adapters) placements.push_back({home_columns_.at(adapter)});
  const BatchTables tables(batch, placements);
  void* memory = scratch(tables_memory_, tables_capacity_, static_cast<int64_t>(tables.image().size()));
  upload(memory, tables.image().data(), static_cast<int64_t>(tables.image().size()));
  tables_ = tables.at(memory);
}

void CudaBackend::run(const std::string& shape, const std::function<void()>& ops) {
  // Above so many tokens the device is busy for longer than the launches take.
  constexpr int32_t kLargest = 4096;
  if (profile_ || tables_.tokens > kLargest) return ops();
  auto bytes = [](const auto& value) { return std::string(reinterpret_cast<const char*>(&value), sizeof value); };
  const std::string key = shape + bytes(tables_) + bytes(working_.home(0, 0)) + bytes(working_.capacity());
  recorded_.run(stream_, key, ops);
}

// ---- norms, positions, elementwise -----------------------------------------------------------------------------------------

void CudaBackend::rmsnorm_forward(Matrix x, const float* weight, float eps, const int64_t* rows, int64_t n, int64_t width,
                                  Matrix y, float* rstd) {
  Timed timed(*this, "rmsnorm_forward");
  cuda::rmsnorm_forward(stream_, half(x), x.ld, weight, eps, rows, n, width, half(y), y.ld, rstd);
}

void CudaBackend::rmsnorm_backward(Matrix dy, Matrix x, const float* weight, const float* rstd, const int64_t* rows, int64_t n,
                                   int64_t width, const Matrix* residual, Matrix dx) {
  Timed timed(*this, "rmsnorm_backward");
  cuda::rmsnorm_backward(stream_, half(dy), dy.ld, half(x), x.ld, weight, rstd, rows, n, width, residual ? half(*residual) : nullptr,
                         residual ? residual->ld : 0, half(dx), dx.ld);
}

namespace {
RopeArguments rope_arguments(AttentionShape shape, const float* q_norm, const float* k_norm, float eps, RopeTable table) {
  RopeArguments r;
  r.heads = static_cast<int32_t>(shape.heads);
  r.kv_heads = static_cast<int32_t>(shape.kv_heads);
  r.head_dim = static_cast<int32_t>(shape.head_dim);
  r.q_norm = q_norm;
  r.k_norm = k_norm;
  r.eps = eps;
  r.cosine = table.cosine;
  r.sine = table.sine;
  return r;
}
}  // namespace

void CudaBackend::rope_forward(const Batch&, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm,
                               float eps, RopeTable table, Matrix q_out, Matrix k_out) {
  Timed timed(*this, "rope_forward");
  cuda::rope_forward(stream_, tables_, rope_arguments(shape, q_norm, k_norm, eps, table), half(qkv), qkv.ld, half(q_out),
                     q_out.ld, half(k_out), k_out.ld);
}

void CudaBackend::rope_backward(const Batch&, AttentionShape shape, Matrix qkv, const float* q_norm, const float* k_norm,
                                float eps, RopeTable table, Matrix dqkv) {
  Timed timed(*this, "rope_backward");
  cuda::rope_backward(stream_, tables_, rope_arguments(shape, q_norm, k_norm, eps, table), half(qkv), qkv.ld, half(dqkv), dqkv.ld);
}

void CudaBackend::swiglu_forward(Matrix gate_up, int64_t n, int64_t width, Matrix act) {
  Timed timed(*this, "swiglu_forward");
  cuda::swiglu_forward(stream_, half(gate_up), gate_up.ld, n, width, half(act), act.ld);
}

void CudaBackend::swiglu_backward(Matrix gate_up, Matrix dact, int64_t n, int64_t width, Matrix act) {
  Timed timed(*this, "swiglu_backward");
  cuda::swiglu_backward(stream_, half(gate_up), gate_up.ld, half(dact), dact.ld, n, width, half(act), act.ld);
}

// ---- attention -------------------------------------------------------------------------------------------------------------

int64_t CudaBackend::attention_scratch_bytes(AttentionShape shape, int64_t tokens, int64_t, int64_t, bool train) const {
  return train ? shape.heads * padded(tokens) * 4 : 0;
}

AttentionArguments CudaBackend::attention(AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out, float* lse) const {
  AttentionArguments a;
  a.heads = static_cast<int32_t>(shape.heads);
  a.kv_heads = static_cast<int32_t>(shape.kv_heads);
  a.head_dim = static_cast<int32_t>(shape.head_dim);
  a.q = half(q);
  a.k = half(k);
  a.v = half(v);
  a.ld_q = q.ld;
  a.ld_k = k.ld;
  a.ld_v = v.ld;
  a.out = half(out);
  a.ld_out = out.ld;
  a.lse = lse;
  a.padded_rows = padded(tables_.tokens);
  a.rows = static_cast<int32_t>(a.padded_rows);
  return a;
}

void CudaBackend::attention_forward(const Batch&, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out, float* lse,
                                    void*) {
  Timed timed(*this, "attention_forward");
  const AttentionArguments a = attention(shape, q, k, v, out, lse);
  if (sm90_ && attention_sm90_supports(a)) attention_forward_sm90(stream_, tables_, a);
  else cuda::attention_forward(stream_, tables_, a);
}

void CudaBackend::attention_backward(const Batch&, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                     const float* lse, Matrix dout, Matrix dqkv, void* scratch) {
  attention_gradients(shape, q, k, v, out, lse, dout, {}, dqkv, scratch);
}

void CudaBackend::rotated_attention_backward(const Batch& batch, AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out,
                                             const float* lse, Matrix dout, RopeTable table, Matrix dqkv, void* scratch) {
  if (!attention_gradients(shape, q, k, v, out, lse, dout, table, dqkv, scratch))
    rope_backward(batch, shape, dqkv, nullptr, nullptr, 0, table, dqkv);
}

bool CudaBackend::attention_gradients(AttentionShape shape, Matrix q, Matrix k, Matrix v, Matrix out, const float* lse,
                                      Matrix dout, RopeTable table, Matrix dqkv, void* scratch) {
  Timed timed(*this, "attention_backward");
  AttentionArguments a = attention(shape, q, k, v, out, const_cast<float*>(lse));
  a.dout = half(dout);
  a.ld_dout = dout.ld;
  a.dq = half(dqkv);
  a.dk = a.dq + shape.heads * shape.head_dim;
  a.dv = a.dk + shape.kv_heads * shape.head_dim;
  a.ld_dqkv = dqkv.ld;
  a.delta = static_cast<float*>(scratch);
  if (!sm90_ || !attention_sm90_supports(a)) {
    cuda::attention_backward(stream_, tables_, a);
    return false;
  }
  a.cosine = table.cosine;
  a.sine = table.sine;
  attention_backward_sm90(stream_, tables_, a);
  return a.cosine != nullptr;
}

// ---- linears with LoRA -----------------------------------------------------------------------------------------------------

LoraGroup CudaBackend::lora_group(int layer, const std::vector<LinearPart>& parts) const {
  LoraGroup group;
  group.parts = static_cast<int>(parts.size());
  group.ld_strip = tables_.strip_columns;
  group.layer = layer;
  for (size_t i = 0; i < parts.size(); ++i) {
    LoraPart& p = group.part[i];
    p.module = parts[i].module;
    p.in = parts[i].weight->in;
    p.out = parts[i].weight->out;
    p.home = working_.home(layer, p.module);
    p.dropped = half(parts[i].dropped);
    p.ld_dropped = parts[i].dropped.ld;
    p.strip = static_cast<bf16*>(parts[i].strip);
    p.strip_grad = static_cast<bf16*>(parts[i].strip_grad);
  }
  return group;
}

void CudaBackend::set_strips(Gemm& g, int layer, const std::vector<LinearPart>& parts, bool backward) const {
  g.parts = static_cast<int>(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    g.part_n[i] = parts[i].weight->out;
    g.part_bit[i] = 1u << parts[i].module;
  }
  if (tables_.strip_columns == 0) return;
  const Home& home = working_.home(layer, parts[0].module);
  g.strip = static_cast<const bf16*>(backward ? parts[0].strip_grad : parts[0].strip);
  g.ld_strip = tables_.strip_columns;
  g.strip_rows = padded(tables_.tokens);
  g.home = backward ? home.a : home.b;
  g.ld_home = backward ? home.lda : home.ldb;
  g.capacity = working_.capacity();
  g.chunks = tables_.strip_chunks;
  g.chunk_first = backward ? tables_.backward_chunk_first : tables_.chunk_first;
}

void CudaBackend::gemm(const Gemm& g) {
  if (sm90_) gemm_sm90(stream_, g);
  else gemm_generic(stream_, g);
}

void CudaBackend::linear_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                                 const Matrix* residual) {
  product_forward(batch, layer, x, parts, residual, {}, {});
}

void CudaBackend::gated_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts, Matrix act) {
  if (!product_forward(batch, layer, x, parts, nullptr, act, {}))
    swiglu_forward(parts[0].y, batch.tokens, parts[0].weight->out, act);
}

void CudaBackend::rotated_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                                  AttentionShape shape, RopeTable table) {
  Rotation rotation;
  rotation.position = tables_.position;
  rotation.cosine = table.cosine;
  rotation.sine = table.sine;
  rotation.head_dim = static_cast<int32_t>(shape.head_dim);
  rotation.columns = static_cast<int32_t>((shape.heads + shape.kv_heads) * shape.head_dim);
  if (!product_forward(batch, layer, x, parts, nullptr, {}, rotation))
    rope_forward(batch, shape, parts[0].y, nullptr, nullptr, 0, table, parts[0].y, parts[1].y);
}

bool CudaBackend::product_forward(const Batch& batch, int layer, Matrix x, const std::vector<LinearPart>& parts,
                                  const Matrix* residual, Matrix act, const Rotation& rotation) {
  if (tables_.strip_columns) {
    LoraGroup lora = lora_group(layer, parts);
    for (LoraPart& p : lora.part) {
      p.x = half(x);
      p.ld_x = x.ld;
    }
    if (tables_.any_dropout) {
      Timed timed(*this, "drop_inputs");
      drop_inputs(stream_, tables_, lora);
    }
    Timed timed(*this, "lora_down_forward");
    lora_down_forward(stream_, tables_, lora);
  }
  static const char* const kNames[kModules] = {"gemm qkv", "", "", "gemm o", "gemm gate_up", "", "gemm down"};
  Timed timed(*this, kNames[parts[0].module]);
  const PackedGroup& w = group_of(*parts[0].weight);
  Gemm g;
  g.m = batch.tokens;
  g.n = w.out;
  g.k = w.in;
  g.a = half(x);
  g.lda = x.ld;
  g.b = w.weight;
  g.ldb = w.ld;
  set_strips(g, layer, parts, false);
  g.out = parts[0].y.data;
  g.ldc = parts[0].y.ld;
  g.bias = w.bias;
  g.residual = residual ? half(*residual) : nullptr;
  g.ld_residual = residual ? residual->ld : 0;
  g.padded_rows = padded(batch.tokens);
  if (act.data) {
    g.act = half(act);
    g.ld_act = act.ld;
    if (!sm90_ || !gemm_sm90_gives_act(g)) g.act = nullptr;
  }
  g.rotation = rotation;
  if (!sm90_ || !gemm_sm90_rotates(g)) g.rotation = {};
  gemm(g);
  return g.act || g.rotation.head_dim;
}

void CudaBackend::linear_backward(const Batch& batch, int layer, const std::vector<LinearPart>& parts, Matrix dx) {
  LoraGroup lora = lora_group(layer, parts);
  if (tables_.strip_columns) {
    for (size_t i = 0; i < parts.size(); ++i) {
      lora.part[i].dy = half(parts[i].y);
      lora.part[i].ld_dy = parts[i].y.ld;
    }
    Timed timed(*this, "lora_down_backward");
    lora_down_backward(stream_, tables_, lora);
  }
  if (!dx.data) return;
  {
    static const char* const kNames[kModules] = {"gemm qkv dX", "", "", "gemm o dX", "gemm gate_up dX", "", "gemm down dX"};
    Timed timed(*this, kNames[parts[0].module]);
    const PackedGroup& w = group_of(*parts[0].weight);
    Gemm g;
    g.m = batch.tokens;
    g.n = w.in;
    g.k = w.out;
    g.a = half(parts[0].y);
    g.lda = parts[0].y.ld;
    g.b = w.weight;
    g.ldb = w.ld;
    g.b_is_k_major = false;
    set_strips(g, layer, parts, true);
    g.out = dx.data;
    g.ldc = dx.ld;
    g.padded_rows = padded(batch.tokens);
    gemm(g);
  }
  if (tables_.any_dropout) {
    Timed timed(*this, "lora_masked_expand");
    lora_masked_expand(stream_, tables_, lora, half(dx), dx.ld);
  }
}

void CudaBackend::adapter_gradients(const Batch&, int layer, Matrix x, const std::vector<LinearPart>& parts,
                                    GradientSides sides) {
  if (tables_.strip_columns) lora_gradients(layer, x, parts, {sides.a, sides.b}, {sides.a, sides.b});
}

void CudaBackend::lora_gradients(int layer, Matrix x, const std::vector<LinearPart>& parts, Sides gated, Sides others) {
  LoraGroup lora = lora_group(layer, parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    lora.part[i].x = half(x);
    lora.part[i].ld_x = x.ld;
    lora.part[i].dy = half(parts[i].y);
    lora.part[i].ld_dy = parts[i].y.ld;
  }
  if (tables_.any_dropout && others.a) {
    Timed timed(*this, "drop_inputs");
    drop_inputs(stream_, tables_, lora);
  }
  Timed timed(*this, "lora_gradients");
  cuda::lora_gradients(stream_, tables_, lora, sizes_, gated, others);
}

GradientSides CudaBackend::gated_backward(const Batch& batch, int layer, Matrix dact, const LinearPart& down,
                                          const std::vector<LinearPart>& parts) {
  const int64_t width = parts[0].weight->out;
  if (!gated_ || tables_.gated_adapters == 0 || width % 8) return Backend::gated_backward(batch, layer, dact, down, parts);
  {
    Timed timed(*this, "gated_backward");
    GatedBackward g;
    g.gate_up = half(parts[0].y);
    g.ld_gate_up = parts[0].y.ld;
    g.dact = half(dact);
    g.ld_dact = dact.ld;
    g.width = width;
    g.strip_gate = static_cast<const bf16*>(parts[0].strip);
    g.strip_up = static_cast<const bf16*>(parts[1].strip);
    g.strip_grad_down = static_cast<const bf16*>(down.strip_grad);
    g.ld_strip = tables_.strip_columns;
    g.layer = layer;
    cuda::gated_backward(stream_, tables_, g, sizes_);
  }
  const bool all = tables_.gated_adapters == tables_.adapter_count;
  if (batch.any_target(1u << down.module)) lora_gradients(layer, dact, {down}, {false, true}, {true, true});
  if (!all) lora_gradients(layer, {}, parts, {false, false}, {false, true});
  return {true, false};
}

// ---- head ------------------------------------------------------------------------------------------------------------------

void CudaBackend::head_logits(Matrix x, int64_t n, const FrozenLinear& head, float* logits, int64_t ld) {
  Timed timed(*this, "gemm head");
  const PackedGroup& w = group_of(head);
  Gemm g;
  g.m = n;
  g.n = w.out;
  g.k = w.in;
  g.a = half(x);
  g.lda = x.ld;
  g.b = w.weight;
  g.ldb = w.ld;
  g.part_n[0] = w.out;
  g.out = logits;
  g.ldc = ld;
  g.out_fp32 = true;
  g.padded_rows = padded(n);
  gemm(g);
}

void CudaBackend::cross_entropy(float* logits, int64_t ld, int64_t n, int64_t vocab, const int32_t* targets, const float* scale,
                                double* loss, uint8_t* correct) {
  Timed timed(*this, "cross_entropy");
  const bool hopper = sm90_ && cross_entropy_sm90_supports(vocab);
  (hopper ? cross_entropy_sm90 : cuda::cross_entropy)(stream_, logits, ld, n, vocab, targets, scale, loss, correct);
}

void CudaBackend::head_backward(const float* dlogits, int64_t ld, int64_t n, const FrozenLinear& head, Matrix dx) {
  Timed timed(*this, "gemm head dX");
  const PackedGroup& w = group_of(head);
  Gemm g;
  g.m = n;
  g.n = w.in;
  g.k = w.out;
  g.a = reinterpret_cast<const bf16*>(dlogits);
  g.lda = 2 * ld;
  g.b = w.weight;
  g.ldb = w.ld;
  g.b_is_k_major = false;
  g.part_n[0] = w.out;
  g.out = dx.data;
  g.ldc = dx.ld;
  g.padded_rows = padded(n);
  gemm(g);
}

// ---- optimizer -------------------------------------------------------------------------------------------------------------

void CudaBackend::adamw(std::vector<OptimizerTask>& tasks) {
  make_current();
  std::vector<AdamwSlot> slots;
  int64_t elements = 0;
  for (const OptimizerTask& task : tasks) {
    const Adapter& a = *task.adapter;
    AdamwSlot s;
    s.weight = a.state[TL_STATE_WEIGHTS];
    s.moment1 = a.state[TL_STATE_MOMENT1];
    s.moment2 = a.state[TL_STATE_MOMENT2];
    s.gradient = a.state[TL_STATE_GRADIENT];
    s.elements = a.elements;
    s.rank = a.rank;
    s.home_column = home_columns_.at(&a);
    s.targets = a.config.target_modules;
    s.step = task.item.step;
    s.learning_rate = task.item.learning_rate;
    s.beta1 = task.item.beta1;
    s.beta2 = task.item.beta2;
    s.epsilon = task.item.epsilon;
    s.weight_decay = task.item.weight_decay;
    s.max_grad_norm = task.item.max_grad_norm;
    slots.push_back(s);
    elements += a.elements;
  }
  const int32_t count = static_cast<int32_t>(slots.size());
  const int64_t slot_bytes = round_up(count * static_cast<int64_t>(sizeof(AdamwSlot)), 256);
  const int64_t result_bytes = round_up(count * static_cast<int64_t>(sizeof(AdamwResult)), 256);
  char* memory = static_cast<char*>(scratch(optimizer_memory_, optimizer_capacity_,
                                            slot_bytes + result_bytes + adamw_scratch_bytes(elements, count)));
  auto* device_slots = reinterpret_cast<AdamwSlot*>(memory);
  auto* device_results = reinterpret_cast<AdamwResult*>(memory + slot_bytes);
  upload(device_slots, slots.data(), count * static_cast<int64_t>(sizeof(AdamwSlot)));
  {
    Timed timed(*this, "adamw");
    cuda::adamw(stream_, device_slots, slots.data(), count, sizes_, layers_, working_.device_homes(), memory + slot_bytes + result_bytes,
                device_results);
  }
  std::vector<AdamwResult> results(static_cast<size_t>(count));
  download(results.data(), device_results, count * static_cast<int64_t>(sizeof(AdamwResult)));
  for (size_t i = 0; i < tasks.size(); ++i) {
    tasks[i].result.grad_norm = results[i].grad_norm;
    tasks[i].result.finite = results[i].finite;
  }
}

}  // namespace tlora::cuda
