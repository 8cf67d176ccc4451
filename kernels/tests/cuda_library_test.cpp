// libtlora_cuda.so where it was built but there is no GPU: it loads, exports what it should, and says why it cannot work.
// What it computes is tested on a machine with a GPU (tests/cuda).
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "backend.h"
#include "build_info.h"
#include "engine.h"
#include "paths.h"

namespace {

// The folder of this program: libraries lie beside it.
std::string beside(const std::string& file) {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  REQUIRE(length > 0);
  const std::string program(path, static_cast<size_t>(length));
  return program.substr(0, program.rfind('/') + 1) + file;
}

std::string cuda_library() {
  const std::string path = beside("libtlora_cuda.so");
  if (access(path.c_str(), F_OK) != 0) SKIP("libtlora_cuda.so was not built: there is no nvcc");
  return path;
}

std::string build_info() {
  int64_t length = 0;
  OK(tl_build_info(nullptr, 0, &length));
  std::string json(static_cast<size_t>(length), ' ');
  OK(tl_build_info(json.data(), length, &length));
  return json;
}

TEST(cuda_library_exports_two_functions) {
  const std::string path = cuda_library();
  std::set<std::string> exported;
  FILE* nm = popen(("nm -D --defined-only '" + path + "'").c_str(), "r");
  REQUIRE(nm != nullptr);
  char line[4096];
  while (std::fgets(line, sizeof line, nm)) {
    std::istringstream words(line);
    std::string address, kind, name;
    words >> address >> kind >> name;
    // Vague linkage and the linker's own marks are not an interface.
    if (kind == "T") exported.insert(name);
  }
  if (pclose(nm) != 0) SKIP("there is no nm on this machine");
  exported.erase("_init");
  exported.erase("_fini");
  CHECK_MSG(exported == (std::set<std::string>{"tlora_cuda_backend", "tlora_cuda_devices"}), "%zu functions, first %s", exported.size(),
            exported.empty() ? "none" : exported.begin()->c_str());
}

TEST(cuda_library_refuses_other_sources) {
  void* library = dlopen(cuda_library().c_str(), RTLD_NOW | RTLD_LOCAL);
  REQUIRE_MSG(library != nullptr, "%s", dlerror());
  const auto entry = reinterpret_cast<tlora::Backend* (*)(const char*, const tlora::BackendOptions*, char*, int64_t)>(dlsym(library, "tlora_cuda_backend"));
  REQUIRE(entry != nullptr);
  char reason[256] = "";
  CHECK(entry("another build", nullptr, reason, sizeof reason) == nullptr);
  CHECK_MSG(std::string(reason).find("built from other sources") != std::string::npos, "reason: %s", reason);
  char cut[8] = "";
  entry("another build", nullptr, cut, sizeof cut);
  CHECK_MSG(std::string(cut) == "libtlor", "cut reason: %s", cut);
}

TEST(cuda_is_available_or_says_why) {
  const std::string info = build_info();
  const size_t cuda = info.find("{\"name\":\"cuda\"");
  REQUIRE_MSG(cuda != std::string::npos, "%s", info.c_str());
  const bool available = info.find("\"available\":true", cuda) != std::string::npos;
  CHECK_MSG(available == (info.find("\"reason\":\"\"", cuda) != std::string::npos), "%s", info.c_str() + cuda);
  CHECK_MSG(available == (info.find("\"devices\":[]", cuda) == std::string::npos), "%s", info.c_str() + cuda);
  if (available) SKIP("there is a CUDA device: the refusal below does not apply");
  const std::string folder = paths::golden("llama");
  tl_model_options options{};
  options.struct_size = sizeof options;
  options.backend = TL_BACKEND_CUDA;
  options.compute = TL_COMPUTE_BF16;
  uint64_t model = 0;
  CHECK(tl_model_open(folder.data(), static_cast<int64_t>(folder.size()), &options, &model) == TL_UNSUPPORTED);
  const std::string text = engine::last_error();
  CHECK_MSG(text.rfind("options.backend: TL_BACKEND_CUDA is not available: ", 0) == 0 && text.size() > 60, "%s", text.c_str());
}

// Registers that do not fit go to memory. The compiler's reports of this build against src/cuda/spills.txt.
TEST(cuda_kernels_spill_no_more_than_allowed) {
  cuda_library();
  std::ifstream allowed(paths::repository() / "kernels/src/cuda/spills.txt");
  REQUIRE(allowed.good());
  struct Limit {
    std::string file, kernel;
    int bytes = 0;
  };
  std::vector<Limit> limits;
  for (std::string line; std::getline(allowed, line);) {
    std::istringstream words(line);
    Limit limit;
    if (line.empty() || line[0] == '#' || !(words >> limit.file >> limit.kernel >> limit.bytes)) continue;
    limits.push_back(limit);
  }
  int kernels = 0;
  for (const auto& entry : std::filesystem::directory_iterator(beside("cuda"))) {
    if (entry.path().extension() != ".log") continue;
    std::ifstream log(entry.path());
    std::string function;
    for (std::string line; std::getline(log, line);) {
      const size_t properties = line.find("Function properties for ");
      if (properties != std::string::npos) function = line.substr(properties + 24);
      const size_t at = line.find(" bytes spill stores");
      if (at == std::string::npos) continue;
      ++kernels;
      const size_t first = line.rfind(' ', at - 1);
      const int bytes = std::atoi(line.c_str() + (first == std::string::npos ? 0 : first));
      const auto limit = std::find_if(limits.begin(), limits.end(), [&](const Limit& l) {
        return entry.path().filename() == l.file + ".o.log" && function.find(l.kernel) != std::string::npos;
      });
      const int most = limit == limits.end() ? 0 : limit->bytes;
      CHECK_MSG(bytes <= most, "%s of %s stores %d bytes of spilled registers, allowed %d", function.c_str(), entry.path().filename().c_str(), bytes, most);
    }
  }
  CHECK_MSG(kernels > 20, "only %d kernels were reported", kernels);
}

}  // namespace
