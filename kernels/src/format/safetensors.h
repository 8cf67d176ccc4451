// Read-only view of a model folder's safetensors files, by mmap: nothing is copied until a tensor is used.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tlora {

enum class DType { F32, F16, BF16 };

int64_t dtype_size(DType dtype);

struct TensorView {
  DType dtype;
  std::vector<int64_t> shape;  // row-major
  const uint8_t* data;         // lives as long as the WeightFiles it came from; not necessarily aligned
  int64_t elements;
};

// One .safetensors file. Throws Error(TL_BAD_FILE) naming file, tensor, rule and value for every malformed header:
// length beyond the file or above 100 MB, bad JSON, duplicate names, unknown dtype, negative or overflowing shape,
// offsets out of range, overlapping, with holes, or whose size disagrees with dtype and shape. Error(TL_NOT_FOUND) when
// there is no such file, Error(TL_UNSUPPORTED) for a dtype of the format other than the three above.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  void* mapping_ = nullptr;
  int64_t length_ = 0;
  std::map<std::string, TensorView> tensors_;
};

// All tensors of a folder: model.safetensors, or the shards that model.safetensors.index.json names
// (plain file names only: a path separator or ".." in the index is refused).
class WeightFiles {
 public:
  // Throws Error(TL_NOT_FOUND) when a file or an indexed tensor is absent, Error(TL_BAD_FILE) for a malformed index.
  explicit WeightFiles(const std::string& folder);

  // Throws Error(TL_NOT_FOUND) naming the tensor and the folder.
  const TensorView& get(const std::string& name) const;
  // As get, and throws Error(TL_BAD_FILE) naming tensor, expected and actual shape when they differ.
  const TensorView& get(const std::string& name, const std::vector<int64_t>& shape) const;
  bool has(const std::string& name) const;

 private:
  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const TensorView*> tensors_;
};

// dst: fp32[count]. Exact widening of elements [first, first + count) of the tensor.
void widen_to_f32(const TensorView& tensor, int64_t first, int64_t count, float* dst);

}  // namespace tlora
