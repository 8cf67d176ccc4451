#include "format/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "error.h"
#include "format/json.h"

namespace tlora {

namespace {

constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 8;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

// Reads and checks one tensor's entry. `payload` bytes of data follow the header.
class EntryReader {
 public:
  EntryReader(const std::string& path, const std::string& name) : where_(quoted(path) + ": tensor " + quoted(name)) {}

  [[noreturn]] void fail(const std::string& rule) const { throw Error(TL_BAD_FILE, where_ + ": " + rule); }

  TensorView read(const Json& entry, const uint8_t* data, int64_t payload, int64_t* begin) const {
    if (entry.object() == nullptr) fail("expected an object, found " + entry.brief());
    for (const auto& member : *entry.object()) {
      if (member.first != "dtype" && member.first != "shape" && member.first != "data_offsets") {
        fail("unknown key " + quoted(member.first) + ", expected dtype, shape and data_offsets");
      }
    }
    TensorView view;
    view.dtype = read_dtype(require(entry, "dtype"));
    view.shape = read_shape(require(entry, "shape"));
    view.elements = count_elements(view);
    const Json& offsets = require(entry, "data_offsets");
    if (offsets.array() == nullptr || offsets.array()->size() != 2) {
      fail("data_offsets: expected an array of 2, found " + offsets.brief());
    }
    *begin = read_size((*offsets.array())[0], "data_offsets[0]");
    const int64_t end = read_size((*offsets.array())[1], "data_offsets[1]");
    if (*begin > end) {
      fail("data_offsets: begin " + std::to_string(*begin) + " lies behind end " + std::to_string(end));
    }
    if (end > payload) {
      fail("data_offsets: end " + std::to_string(end) + " lies beyond the " + std::to_string(payload) +
           " bytes of data in the file");
    }
    const int64_t bytes = view.elements * dtype_size(view.dtype);
    if (end - *begin != bytes) {
      fail("data_offsets span " + std::to_string(end - *begin) + " bytes, but dtype and shape " +
           shape_text(view.shape) + " need " + std::to_string(bytes));
    }
    view.data = data + *begin;
    return view;
  }

 private:
  const Json& require(const Json& entry, const char* key) const {
    const Json* value = entry.find(key);
    if (value == nullptr) fail(std::string(key) + " is missing");
    return *value;
  }

  int64_t read_size(const Json& value, const std::string& field) const {
    if (value.integer() == nullptr || *value.integer() < 0) {
      fail(field + ": expected an integer from 0 to 2^63-1, found " + value.brief());
    }
    return *value.integer();
  }

  DType read_dtype(const Json& value) const {
    if (value.string() == nullptr) fail("dtype: expected a string, found " + value.brief());
    if (*value.string() == "F32") return DType::F32;
    if (*value.string() == "F16") return DType::F16;
    if (*value.string() == "BF16") return DType::BF16;
    static const char* const kOthers[] = {"BOOL", "U8",  "I8",  "U16", "I16",     "U32",     "I32",     "U64",
                                          "I64",  "F64", "C64", "F4",  "F8_E4M3", "F8_E5M2", "F8_E8M0"};
    for (const char* other : kOthers) {
      if (*value.string() == other) {
        throw Error(TL_UNSUPPORTED, where_ + ": dtype: only F32, F16 and BF16 are supported, found " + value.brief());
      }
    }
    fail("dtype: expected F32, F16 or BF16, found " + value.brief());
  }

  std::vector<int64_t> read_shape(const Json& value) const {
    if (value.array() == nullptr || value.array()->size() > kMaxDimensions) {
      fail("shape: expected an array of at most " + std::to_string(kMaxDimensions) + ", found " + value.brief());
    }
    std::vector<int64_t> shape;
    for (const Json& item : *value.array()) {
      shape.push_back(read_size(item, "shape[" + std::to_string(shape.size()) + "]"));
    }
    return shape;
  }

  int64_t count_elements(const TensorView& view) const {
    int64_t elements = 1;
    int64_t bytes = 0;
    for (const int64_t size : view.shape) {
      if (__builtin_mul_overflow(elements, size, &elements)) {
        fail("shape " + shape_text(view.shape) + ": the number of elements overflows 64 bits");
      }
    }
    if (__builtin_mul_overflow(elements, dtype_size(view.dtype), &bytes)) {
      fail("shape " + shape_text(view.shape) + ": the number of bytes overflows 64 bits");
    }
    return elements;
  }

  std::string where_;
};

std::map<std::string, TensorView> read_header(const std::string& path, const uint8_t* file, int64_t length) {
  const auto fail = [&](const std::string& rule) { throw Error(TL_BAD_FILE, quoted(path) + ": " + rule); };
  uint64_t header_length = 0;
  for (int i = 0; i < 8; ++i) header_length |= static_cast<uint64_t>(file[i]) << (8 * i);
  if (header_length > static_cast<uint64_t>(kMaxHeaderBytes)) {
    fail("header length " + std::to_string(header_length) + " is above the limit of " + std::to_string(kMaxHeaderBytes));
  }
  if (header_length > static_cast<uint64_t>(length - 8)) {
    fail("header length " + std::to_string(header_length) + " lies beyond the file of " + std::to_string(length) + " bytes");
  }
  const std::string text(reinterpret_cast<const char*>(file + 8), header_length);
  if (text.empty() || text[0] != '{') fail("header: expected '{' as its first byte");
  const Json header = parse_json(text, path);

  const int64_t payload = length - 8 - static_cast<int64_t>(header_length);
  const uint8_t* data = file + 8 + header_length;
  struct Span {
    int64_t begin, end;
    const std::string* name;
  };
  std::map<std::string, TensorView> tensors;
  std::vector<Span> spans;
  for (const auto& member : *header.object()) {
    if (member.first == "__metadata__") {
      if (member.second.object() == nullptr) fail("__metadata__: expected an object, found " + member.second.brief());
      for (const auto& entry : *member.second.object()) {
        if (entry.second.string() == nullptr) {
          fail("__metadata__: " + quoted(entry.first) + ": expected a string, found " + entry.second.brief());
        }
      }
      continue;
    }
    int64_t begin = 0;
    TensorView view = EntryReader(path, member.first).read(member.second, data, payload, &begin);
    spans.push_back({begin, begin + view.elements * dtype_size(view.dtype), &member.first});
    tensors.emplace(member.first, std::move(view));
  }

  // Bytes that belong to two tensors or to none mean that the file was cut, joined or forged.
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  int64_t covered = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    if (spans[i].begin < covered) {
      EntryReader(path, *spans[i].name)
          .fail("data_offsets: begin " + std::to_string(spans[i].begin) + " overlaps tensor " + quoted(*spans[i - 1].name) +
                ", which ends at " + std::to_string(covered));
    }
    if (spans[i].begin > covered) {
      EntryReader(path, *spans[i].name)
          .fail("data_offsets: begin " + std::to_string(spans[i].begin) + " leaves a hole, the data before it ends at " +
                std::to_string(covered));
    }
    covered = spans[i].end;
  }
  if (covered != payload) {
    fail("the last tensor ends at byte " + std::to_string(covered) + " of the data, which has " + std::to_string(payload) +
         ": a hole at the end");
  }
  return tensors;
}

float widen_f16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31;
  const uint32_t fraction = half & 0x3FF;
  uint32_t bits;
  if (exponent == 0) {
    // Built from an integer, so that no subnormal float takes part: the host may run with denormals flushed to zero.
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    std::memcpy(&bits, &magnitude, sizeof bits);
  } else {
    bits = (exponent == 31 ? 255u : exponent + (127 - 15)) << 23 | fraction << 13;
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

int64_t dtype_size(DType dtype) { return dtype == DType::F32 ? 4 : 2; }

SafetensorsFile::SafetensorsFile(const std::string& path) {
  const int fd = open_regular_file(path, &length_);
  if (length_ < 8) {
    ::close(fd);
    throw Error(TL_BAD_FILE, quoted(path) + ": file of " + std::to_string(length_) +
                                 " bytes is shorter than the 8 bytes of the header length");
  }
  mapping_ = ::mmap(nullptr, static_cast<size_t>(length_), PROT_READ, MAP_PRIVATE, fd, 0);
  const int reason = errno;
  ::close(fd);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw Error(reason == ENOMEM ? TL_OUT_OF_MEMORY : TL_BAD_FILE,
                quoted(path) + ": " + std::to_string(length_) + " bytes cannot be mapped: " + std::strerror(reason));
  }
  try {
    tensors_ = read_header(path, static_cast<const uint8_t*>(mapping_), length_);
  } catch (...) {
    ::munmap(mapping_, static_cast<size_t>(length_));
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() { ::munmap(mapping_, static_cast<size_t>(length_)); }

namespace {

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

// Name of the shard -> names of its tensors.
std::map<std::string, std::vector<std::string>> read_index(const std::string& path) {
  const auto fail = [&](const std::string& rule) { throw Error(TL_BAD_FILE, quoted(path) + ": " + rule); };
  const Json index = read_json_file(path, kMaxHeaderBytes);
  const Json* weight_map = index.find("weight_map");
  if (weight_map == nullptr) fail("weight_map is missing");
  if (weight_map->object() == nullptr) fail("weight_map: expected an object, found " + weight_map->brief());
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& member : *weight_map->object()) {
    const std::string where = "weight_map: " + quoted(member.first);
    const std::string* shard = member.second.string();
    if (shard == nullptr) fail(where + ": expected a file name, found " + member.second.brief());
    const bool plain = !shard->empty() && shard->find_first_of(std::string("/\\\0", 3)) == std::string::npos &&
                       *shard != "." && shard->find("..") == std::string::npos;
    if (!plain) fail(where + ": expected a plain file name without path separator or \"..\", found " + quoted(*shard));
    shards[*shard].push_back(member.first);
  }
  return shards;
}

}  // namespace

WeightFiles::WeightFiles(const std::string& folder) : folder_(folder) {
  const std::string single = folder + "/model.safetensors";
  const std::string index = folder + "/model.safetensors.index.json";
  if (exists(single)) {
    files_.push_back(std::make_unique<SafetensorsFile>(single));
    for (const auto& entry : files_[0]->tensors()) tensors_[entry.first] = &entry.second;
    return;
  }
  if (!exists(index)) {
    throw Error(TL_NOT_FOUND, quoted(folder) + ": neither model.safetensors nor model.safetensors.index.json exists");
  }
  for (const auto& shard : read_index(index)) {
    const std::string path = folder + "/" + shard.first;
    if (!exists(path)) {
      throw Error(TL_NOT_FOUND, quoted(index) + ": weight_map names " + quoted(shard.first) + ", which does not exist");
    }
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    const auto& held = files_.back()->tensors();
    for (const std::string& name : shard.second) {
      const auto found = held.find(name);
      if (found == held.end()) {
        throw Error(TL_NOT_FOUND, quoted(index) + ": weight_map places tensor " + quoted(name) + " in " +
                                      quoted(shard.first) + ", which does not hold it");
      }
      tensors_[name] = &found->second;
    }
  }
}

bool WeightFiles::has(const std::string& name) const { return tensors_.count(name) != 0; }

const TensorView& WeightFiles::get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw Error(TL_NOT_FOUND, quoted(folder_) + ": tensor " + quoted(name) + " is missing");
  return *found->second;
}

const TensorView& WeightFiles::get(const std::string& name, const std::vector<int64_t>& shape) const {
  const TensorView& view = get(name);
  if (view.shape != shape) {
    throw Error(TL_BAD_FILE, quoted(folder_) + ": tensor " + quoted(name) + ": shape: expected " + shape_text(shape) +
                                 " from config.json, found " + shape_text(view.shape));
  }
  return view;
}

void widen_to_f32(const TensorView& tensor, int64_t first, int64_t count, float* dst) {
  if (first < 0 || count < 0 || first > tensor.elements - count) {
    throw Error(TL_INTERNAL, "widen_to_f32: elements [" + std::to_string(first) + ", +" + std::to_string(count) +
                                 ") of a tensor of " + std::to_string(tensor.elements));
  }
  const uint8_t* src = tensor.data + first * dtype_size(tensor.dtype);
  if (tensor.dtype == DType::F32) {
    std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const bool brain = tensor.dtype == DType::BF16;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, src + 2 * i, sizeof half);
    if (brain) {
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(dst + i, &bits, sizeof bits);
    } else {
      dst[i] = widen_f16(half);
    }
  }
}

}  // namespace tlora
