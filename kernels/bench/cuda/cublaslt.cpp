#include "cuda/cublaslt.h"

#include <dirent.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <tuple>
#include <vector>

#include "cuda/check.h"

#if defined(__has_include)
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define TLORA_HAVE_CUBLASLT_HEADER 1
#endif
#endif

namespace tlora::cuda {
namespace {

// What of the library's interface is used here, in our own words.
namespace lt {

using Status = int;  // 0: success
using Handle = void*;
using Description = void*;
using Layout = void*;
using Preference = void*;

constexpr int kReal32F = 0, kReal16BF = 14;
constexpr int kCompute32F = 68;
constexpr int32_t kNotTransposed = 0, kTransposed = 1;
constexpr int kDescTransA = 3, kDescTransB = 4;
constexpr int kPreferenceWorkspaceBytes = 1, kPreferenceReductionMask = 3;
constexpr int kPreferenceAlignA = 5, kPreferenceAlignB = 6, kPreferenceAlignC = 7, kPreferenceAlignD = 8;
constexpr uint32_t kReductionNone = 0;

struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

#ifdef TLORA_HAVE_CUBLASLT_HEADER
static_assert(sizeof(Status) == sizeof(cublasStatus_t) && CUBLAS_STATUS_SUCCESS == 0);
static_assert(sizeof(Handle) == sizeof(cublasLtHandle_t) && sizeof(Description) == sizeof(cublasLtMatmulDesc_t));
static_assert(sizeof(Layout) == sizeof(cublasLtMatrixLayout_t) &&
              sizeof(Preference) == sizeof(cublasLtMatmulPreference_t));
static_assert(kReal32F == CUDA_R_32F && kReal16BF == CUDA_R_16BF && sizeof(cudaDataType_t) == sizeof(int));
static_assert(kCompute32F == CUBLAS_COMPUTE_32F && sizeof(cublasComputeType_t) == sizeof(int));
static_assert(kNotTransposed == CUBLAS_OP_N && kTransposed == CUBLAS_OP_T &&
              sizeof(cublasOperation_t) == sizeof(int32_t));
static_assert(kDescTransA == CUBLASLT_MATMUL_DESC_TRANSA && kDescTransB == CUBLASLT_MATMUL_DESC_TRANSB);
static_assert(sizeof(cublasLtMatmulDescAttributes_t) == sizeof(int) &&
              sizeof(cublasLtMatmulPreferenceAttributes_t) == sizeof(int));
static_assert(kPreferenceWorkspaceBytes == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(kPreferenceReductionMask == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(kPreferenceAlignA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
              kPreferenceAlignB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(kPreferenceAlignC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES &&
              kPreferenceAlignD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(kReductionNone == CUBLASLT_REDUCTION_SCHEME_NONE);
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t) &&
              sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(Heuristic, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(Heuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(offsetof(Heuristic, waves) == offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));
#endif

}  // namespace lt

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what the vendor advises for sm_90
constexpr uint32_t kAlignment = 16;

bool is_directory(const std::string& path) {
  DIR* folder = opendir(path.c_str());
  if (folder != nullptr) closedir(folder);
  return folder != nullptr;
}

// Names in `folder` that begin with `start`, the last in the alphabet first: newer versions before older ones.
std::vector<std::string> entries(const std::string& folder, const std::string& start) {
  std::vector<std::string> names;
  if (DIR* open = opendir(folder.c_str())) {
    while (const dirent* entry = readdir(open))
      if (std::string(entry->d_name).compare(0, start.size(), start) == 0 && entry->d_name[0] != '.')
        names.push_back(entry->d_name);
    closedir(open);
  }
  std::sort(names.rbegin(), names.rend());
  return names;
}

std::vector<std::string> candidate_folders() {
  std::vector<std::string> folders;
  for (const std::string& toolkit : entries("/usr/local", "cuda"))
    for (const char* lib : {"/lib64", "/targets/x86_64-linux/lib", "/targets/sbsa-linux/lib"})
      folders.push_back("/usr/local/" + toolkit + lib);
  std::vector<std::string> prefixes;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const char* value = std::getenv(variable)) prefixes.push_back(value);
  if (const char* home = std::getenv("HOME")) prefixes.push_back(std::string(home) + "/.local");
  prefixes.insert(prefixes.end(), {"/opt/venv", "/usr/local", "/opt/conda", "/usr"});
  for (const std::string& prefix : prefixes)
    for (const std::string& python : entries(prefix + "/lib", "python3"))
      for (const char* packages : {"/site-packages", "/dist-packages"}) {
        const std::string nvidia = prefix + "/lib/" + python + packages + "/nvidia";
        // CUDA 13's wheels share a folder (nvidia/cu13/lib); those of CUDA 12 have one per library (nvidia/cublas/lib).
        for (const char* start : {"cu1", "cublas"})
          for (const std::string& wheel : entries(nvidia, start)) folders.push_back(nvidia + "/" + wheel + "/lib");
      }
  return folders;
}

}  // namespace

struct CublasLt::Library {
  void* file = nullptr;
  std::string path;
  lt::Handle handle = nullptr;
  int64_t version = 0;

  lt::Status (*create)(lt::Handle*) = nullptr;
  lt::Status (*destroy)(lt::Handle) = nullptr;
  size_t (*get_version)() = nullptr;
  lt::Status (*description_create)(lt::Description*, int compute, int scale) = nullptr;
  lt::Status (*description_set)(lt::Description, int attribute, const void*, size_t) = nullptr;
  lt::Status (*description_destroy)(lt::Description) = nullptr;
  lt::Status (*layout_create)(lt::Layout*, int type, uint64_t rows, uint64_t columns, int64_t ld) = nullptr;
  lt::Status (*layout_destroy)(lt::Layout) = nullptr;
  lt::Status (*preference_create)(lt::Preference*) = nullptr;
  lt::Status (*preference_set)(lt::Preference, int attribute, const void*, size_t) = nullptr;
  lt::Status (*preference_destroy)(lt::Preference) = nullptr;
  lt::Status (*heuristic)(lt::Handle, lt::Description, lt::Layout a, lt::Layout b, lt::Layout c, lt::Layout d,
                          lt::Preference, int wanted, lt::Heuristic*, int* found) = nullptr;
  lt::Status (*matmul)(lt::Handle, lt::Description, const void* alpha, const void* a, lt::Layout, const void* b,
                       lt::Layout, const void* beta, const void* c, lt::Layout, void* d, lt::Layout,
                       const lt::Algorithm*, void* workspace, size_t workspace_bytes, cudaStream_t) = nullptr;

  // By device too: the algorithm and its shape are of one chip.
  using Shape = std::tuple<int, bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool>;
  struct Plan {
    lt::Description description = nullptr;
    lt::Layout first = nullptr, second = nullptr, out = nullptr;
    lt::Heuristic choice{};
  };
  std::map<Shape, Plan> plans;
  std::map<std::pair<int, cudaStream_t>, void*> workspaces;

  ~Library() {
    for (auto& entry : plans) release(entry.second);
    for (auto& entry : workspaces) cudaFree(entry.second);
    if (handle != nullptr) destroy(handle);
    if (file != nullptr) dlclose(file);
  }

  void release(Plan& plan) {
    if (plan.description != nullptr) description_destroy(plan.description);
    for (const lt::Layout layout : {plan.first, plan.second, plan.out})
      if (layout != nullptr) layout_destroy(layout);
    plan = Plan();
  }

  static void require(lt::Status status, const char* what) {
    if (status != 0)
      throw Error(TL_INTERNAL, std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(status));
  }

  template <class Function>
  bool find(Function& function, const char* name, std::string& missing) {
    function = reinterpret_cast<Function>(dlsym(file, name));
    if (function == nullptr) missing = name;
    return function != nullptr;
  }
  bool find_all(std::string& missing) {
    return find(create, "cublasLtCreate", missing) && find(destroy, "cublasLtDestroy", missing) &&
           find(get_version, "cublasLtGetVersion", missing) &&
           find(description_create, "cublasLtMatmulDescCreate", missing) &&
           find(description_set, "cublasLtMatmulDescSetAttribute", missing) &&
           find(description_destroy, "cublasLtMatmulDescDestroy", missing) &&
           find(layout_create, "cublasLtMatrixLayoutCreate", missing) &&
           find(layout_destroy, "cublasLtMatrixLayoutDestroy", missing) &&
           find(preference_create, "cublasLtMatmulPreferenceCreate", missing) &&
           find(preference_set, "cublasLtMatmulPreferenceSetAttribute", missing) &&
           find(preference_destroy, "cublasLtMatmulPreferenceDestroy", missing) &&
           find(heuristic, "cublasLtMatmulAlgoGetHeuristic", missing) && find(matmul, "cublasLtMatmul", missing);
  }

  bool open(const std::string& name, std::string& reason) {
    file = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) {
      const char* why = dlerror();
      reason = why != nullptr ? why : name + " cannot be opened";
      return false;
    }
    std::string missing;
    if (!find_all(missing)) {
      reason = name + " lacks " + missing;
    } else if (const lt::Status status = create(&handle)) {
      handle = nullptr;
      reason = name + ": cublasLtCreate failed with status " + std::to_string(status);
    } else {
      version = static_cast<int64_t>(get_version());
      Dl_info info{};
      path = dladdr(reinterpret_cast<void*>(matmul), &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : name;
      return true;
    }
    dlclose(file);
    file = nullptr;
    return false;
  }

  void* workspace(int device, cudaStream_t stream) {
    void*& memory = workspaces[{device, stream}];
    if (memory == nullptr) check(cudaMalloc(&memory, kWorkspaceBytes), "cuBLASLt workspace");
    return memory;
  }

  const Plan& plan(const Shape& shape) {
    const auto found = plans.find(shape);
    if (found != plans.end()) return found->second;
    const auto [device, b_is_k_major, m, n, k, lda, ldb, ldc, c_fp32] = shape;
    Plan plan;
    lt::Preference preference = nullptr;
    try {
      // The library thinks in columns, in which our C is C^T [n, m] = op(B)^T · A^T: its first operand is B, its second
      // A.
      require(description_create(&plan.description, lt::kCompute32F, lt::kReal32F), "cublasLtMatmulDescCreate");
      const int32_t first = b_is_k_major ? lt::kTransposed : lt::kNotTransposed, second = lt::kNotTransposed;
      require(description_set(plan.description, lt::kDescTransA, &first, sizeof first),
              "setting the first transposition");
      require(description_set(plan.description, lt::kDescTransB, &second, sizeof second),
              "setting the second transposition");
      require(layout_create(&plan.first, lt::kReal16BF, static_cast<uint64_t>(b_is_k_major ? k : n),
                            static_cast<uint64_t>(b_is_k_major ? n : k), ldb),
              "cublasLtMatrixLayoutCreate");
      require(layout_create(&plan.second, lt::kReal16BF, static_cast<uint64_t>(k), static_cast<uint64_t>(m), lda),
              "cublasLtMatrixLayoutCreate");
      require(layout_create(&plan.out, c_fp32 ? lt::kReal32F : lt::kReal16BF, static_cast<uint64_t>(n),
                            static_cast<uint64_t>(m), ldc),
              "cublasLtMatrixLayoutCreate");
      require(preference_create(&preference), "cublasLtMatmulPreferenceCreate");
      const uint64_t bytes = kWorkspaceBytes;
      require(preference_set(preference, lt::kPreferenceWorkspaceBytes, &bytes, sizeof bytes), "setting the workspace");
      require(preference_set(preference, lt::kPreferenceReductionMask, &lt::kReductionNone, sizeof lt::kReductionNone),
              "setting the reduction mask");
      for (const int attribute :
           {lt::kPreferenceAlignA, lt::kPreferenceAlignB, lt::kPreferenceAlignC, lt::kPreferenceAlignD})
        require(preference_set(preference, attribute, &kAlignment, sizeof kAlignment), "setting the alignment");
      int count = 0;
      require(heuristic(handle, plan.description, plan.first, plan.second, plan.out, plan.out, preference, 1,
                        &plan.choice, &count),
              "cublasLtMatmulAlgoGetHeuristic");
      if (count == 0) throw Error(TL_INTERNAL, "cuBLASLt has no algorithm for this shape");
      require(plan.choice.state, "the chosen algorithm");
      preference_destroy(preference);
    } catch (...) {
      if (preference != nullptr) preference_destroy(preference);
      release(plan);
      throw;
    }
    return plans.emplace(shape, plan).first->second;
  }
};

CublasLt::CublasLt() = default;
CublasLt::~CublasLt() = default;

bool CublasLt::load(std::string& reason) {
  if (library_ != nullptr) return true;
  const std::vector<std::string> names = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  std::vector<std::string> candidates;
  if (const char* wish = std::getenv("TLORA_CUBLASLT")) {
    const std::string place = wish;
    if (is_directory(place)) {
      for (const std::string& name : names) candidates.push_back(place + "/" + name);
    } else if (!place.empty()) {
      candidates.push_back(place);
    }
  }
  candidates.insert(candidates.end(), names.begin(), names.end());
  for (const std::string& folder : candidate_folders())
    for (const std::string& name : entries(folder, "libcublasLt.so."))
      if (std::find(names.begin(), names.end(), name) != names.end()) candidates.push_back(folder + "/" + name);

  auto library = std::make_unique<Library>();
  reason.clear();
  for (const std::string& candidate : candidates) {
    std::string why;
    if (library->open(candidate, why)) {
      library_ = std::move(library);
      reason.clear();
      return true;
    }
    reason += (reason.empty() ? "" : "; ") + why;
  }
  return false;
}

bool CublasLt::loaded() const { return library_ != nullptr; }
int64_t CublasLt::version() const { return library_ != nullptr ? library_->version : 0; }
const std::string& CublasLt::path() const {
  static const std::string none;
  return library_ != nullptr ? library_->path : none;
}

void CublasLt::gemm(cudaStream_t stream, bool b_is_k_major, int64_t m, int64_t n, int64_t k, const bf16* a, int64_t lda,
                    const bf16* b, int64_t ldb, void* c, int64_t ldc, bool c_fp32) {
  if (library_ == nullptr) throw Error(TL_INTERNAL, "cuBLASLt is not loaded");
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const Library::Plan& plan = library_->plan({device, b_is_k_major, m, n, k, lda, ldb, ldc, c_fp32});
  void* workspace = library_->workspace(device, stream);
  const float alpha = 1, beta = 0;
  Library::require(library_->matmul(library_->handle, plan.description, &alpha, b, plan.first, a, plan.second, &beta, c,
                                    plan.out, c, plan.out, &plan.choice.algorithm, workspace, kWorkspaceBytes, stream),
                   "cublasLtMatmul");
}

}  // namespace tlora::cuda
