// A strict reader of JSON (RFC 8259) for files that may be hostile: bounded depth and size, no duplicate keys, valid UTF-8 only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tlora {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // sorted by key, keys unique

  Json() = default;
  template <typename T>
  explicit Json(T value) : value_(std::move(value)) {}

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  // nullptr when the value is of another kind.
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }
  // A number written without fraction and exponent that fits in 64 bits.
  const int64_t* integer() const { return std::get_if<int64_t>(&value_); }
  // Any number, rounded to double.
  std::optional<double> number() const;
  // The member of an object; nullptr when this is no object or has no such key.
  const Json* find(const std::string& key) const;

  // The value for an error text: JSON scalars as written, "array of N" and "object of N" otherwise.
  std::string brief() const;

 private:
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> value_ = nullptr;
};

// Throws Error(TL_BAD_FILE) naming file, byte offset and rule.
Json parse_json(const std::string& text, const std::string& file);

// As parse_json on a whole file of at most max_bytes. Throws Error(TL_NOT_FOUND) when it does not exist.
Json read_json_file(const std::string& path, int64_t max_bytes);

// The text in double quotes with control characters escaped and a long middle left out, so that a hostile name can
// neither forge nor flood an error text.
std::string quoted(const std::string& text);

// Opens a regular file for reading; *bytes gets its length. Returns the descriptor, which the caller closes.
// Throws Error(TL_NOT_FOUND | TL_BAD_FILE) naming the path and what is wrong.
int open_regular_file(const std::string& path, int64_t* bytes);

}  // namespace tlora
