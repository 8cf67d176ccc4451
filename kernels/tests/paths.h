// Where tests find their data, from whatever folder of the repository they are started.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace paths {

inline std::filesystem::path repository() {
  namespace fs = std::filesystem;
  for (fs::path folder = fs::current_path();; folder = folder.parent_path()) {
    if (fs::exists(folder / "kernels/include/tlora.h")) return folder;
    if (folder == folder.parent_path()) throw std::runtime_error("tests must be started inside the repository");
  }
}

inline std::string golden(const std::string& name) { return (repository() / "kernels/tests/golden" / name).string(); }

// Real models that are not part of the repository; a test skips when the file it needs is absent.
inline std::string shared_model(const std::string& name) {
  const char* data = std::getenv("TLORA_SHARED_DATA");
  const std::filesystem::path root = data != nullptr ? std::filesystem::path(data) : repository().parent_path() / "shared/data";
  return (root / "models" / name).string();
}

}  // namespace paths
