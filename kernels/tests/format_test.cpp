// The file readers: what well-formed files give, and that every malformed one is refused with a text that names field, rule
// and value.
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "error.h"
#include "format/json.h"
#include "format/model_config.h"
#include "format/safetensors.h"
#include "harness.h"
#include "paths.h"

using namespace tlora;
namespace fs = std::filesystem;

namespace {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "tlora-format-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(file(name), std::ios::binary) << bytes;
    return file(name);
  }

 private:
  std::string path_;
};

std::string length_prefix(uint64_t length) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[static_cast<size_t>(i)] = static_cast<char>(length >> (8 * i) & 0xFF);
  return bytes;
}

std::string safetensors(const std::string& header, size_t payload) {
  return length_prefix(header.size()) + header + std::string(payload, '\x3F');
}

// Runs the action and checks that it throws Error with this status and with all of these fragments in its text.
void expect_error(const std::string& name, tl_status status, const std::vector<std::string>& fragments,
                  const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = error.what();
    CHECK_MSG(error.status() == status, "%s: status %d, text: %s", name.c_str(), error.status(), text.c_str());
    for (const std::string& fragment : fragments) {
      CHECK_MSG(text.find(fragment) != std::string::npos, "%s: no '%s' in: %s", name.c_str(), fragment.c_str(), text.c_str());
    }
    // Whatever the file holds, the text must be safe to print and to send as JSON.
    CHECK_MSG(text.size() < 1500, "%s: text of %zu bytes", name.c_str(), text.size());
    for (const char c : text) CHECK_MSG(static_cast<unsigned char>(c) >= 0x20, "%s: control character", name.c_str());
    return;
  }
  CHECK_MSG(false, "%s: was accepted", name.c_str());
}

std::string repeated(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::string join(const std::vector<std::string>& items) {
  std::string out;
  for (const std::string& item : items) out += (out.empty() ? "" : ",") + item;
  return out;
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace

// ---- JSON -----------------------------------------------------------------------------------------------------------

TEST(json_reads_every_kind_of_value) {
  const Json json = parse_json(
      " {\"n\":null,\"t\":true,\"f\":false,\"i\":-9223372036854775808,\"d\":1.5e-3,\"big\":9223372036854775808,\"e\":1E2,"
      "\"s\":\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00 é\",\"a\":[1,[],{}],\"\":0}\n",
      "x.json");
  REQUIRE(json.object() != nullptr && json.object()->size() == 10);
  CHECK(json.find("n")->is_null());
  CHECK(*json.find("t")->boolean() && !*json.find("f")->boolean());
  CHECK(*json.find("i")->integer() == std::numeric_limits<int64_t>::min());
  CHECK(json.find("d")->integer() == nullptr && *json.find("d")->number() == 1.5e-3);
  CHECK(json.find("big")->integer() == nullptr && *json.find("big")->number() == 9223372036854775808.0);
  CHECK(json.find("e")->integer() == nullptr && *json.find("e")->number() == 100.0);
  CHECK(*json.find("s")->string() == "a\"\\/\b\f\n\r\t\xC3\xA9\xF0\x9F\x98\x80 \xC3\xA9");
  CHECK(json.find("a")->array()->size() == 3 && *(*json.find("a")->array())[0].integer() == 1);
  CHECK(*json.find("")->integer() == 0);
  CHECK(json.find("absent") == nullptr && json.find("a")->find("n") == nullptr);
  // As deep as the limit allows.
  CHECK(parse_json(repeated("[", 64) + repeated("]", 64), "x").array() != nullptr);
}

TEST(json_refuses_what_is_not_json) {
  const struct {
    const char* name;
    std::string text;
    const char* rule;
  } kTable[] = {
      {"empty", "", "expected a value, found the end"},
      {"only spaces", "  \n", "expected a value, found the end"},
      {"two documents", "{} {}", "at byte 3: expected the end of the document, found byte 123"},
      {"trailing comma in array", "[1,]", "expected a value"},
      {"trailing comma in object", "{\"a\":1,}", "expected a key in double quotes"},
      {"single quotes", "{'a':1}", "expected a key in double quotes"},
      {"bare key", "{a:1}", "expected a key in double quotes"},
      {"missing colon", "{\"a\" 1}", "expected ':'"},
      {"missing comma", "[1 2]", "expected ',' or ']'"},
      {"unclosed object", "{\"a\":1", "expected ',' or '}', found the end"},
      {"unclosed array", "[1", "expected ',' or ']', found the end"},
      {"unclosed string", "\"abc", "unterminated string"},
      {"comment", "{} // x", "expected the end"},
      {"NaN", "[NaN]", "expected a value"},
      {"Infinity", "[-Infinity]", "expected a value"},
      {"wrong literal", "[nul]", "expected a value"},
      {"leading zero", "[01]", "must not begin with 0"},
      {"plus sign", "[+1]", "expected a value"},
      {"lone minus", "[-]", "expected a value"},
      {"no digit after point", "[1.]", "expected a digit"},
      {"no digit before point", "[.5]", "expected a value"},
      {"no exponent digit", "[1e+]", "expected a digit"},
      {"huge number", "[1e999]", "number beyond the range of a double"},
      {"hexadecimal", "[0x10]", "expected ',' or ']'"},
      {"control character", std::string("\"a\nb\""), "unescaped control character"},
      {"zero byte", std::string("\"a\0b\"", 5), "unescaped control character"},
      {"zero byte outside", std::string("[1\0]", 4), "expected ',' or ']'"},
      {"unknown escape", "\"\\x41\"", "unknown escape"},
      {"short \\u", "\"\\u12\"", "four hexadecimal digits"},
      {"high surrogate alone", "\"\\ud83d\"", "unpaired surrogate"},
      {"low surrogate alone", "\"\\ude00\"", "unpaired surrogate"},
      {"two high surrogates", "\"\\ud83d\\ud83d\"", "unpaired surrogate"},
      {"stray continuation byte", "\"\x80\"", "not UTF-8, found byte 128"},
      {"overlong slash", "\"\xC0\xAF\"", "not UTF-8"},
      {"overlong three bytes", "\"\xE0\x80\xAF\"", "not UTF-8"},
      {"surrogate in UTF-8", "\"\xED\xA0\x80\"", "not UTF-8"},
      {"above U+10FFFF", "\"\xF4\x90\x80\x80\"", "not UTF-8"},
      {"cut sequence", "\"\xE2\x82", "not UTF-8"},
      {"byte order mark", "\xEF\xBB\xBF{}", "expected a value"},
      {"duplicate key", "{\"a\":1,\"b\":2,\"a\":3}", "duplicate key \"a\""},
      {"duplicate key by escape", "{\"a\":1,\"\\u0061\":3}", "duplicate key \"a\""},
      {"too deep", repeated("[", 65) + repeated("]", 65), "nesting deeper than 64"},
      {"far too deep", repeated("{\"a\":", 100000), "nesting deeper than 64"},
      {"too many values", "[" + repeated("0,", 4'000'000) + "0]", "more than 4000000 values"},
  };
  for (const auto& row : kTable) {
    expect_error(row.name, TL_BAD_FILE, {"\"x.json\"", "invalid JSON at byte", row.rule},
                 [&] { parse_json(row.text, "x.json"); });
  }
}

TEST(quoted_keeps_error_texts_harmless) {
  CHECK(quoted("a\"b\\c") == "\"a\\\"b\\\\c\"");
  CHECK(quoted("é\n\x7F\xFF") == "\"é\\x0a\\x7f\\xff\"");
  const std::string longest = quoted("begin" + std::string(5000, 'x') + "end");
  CHECK(longest.size() < 320 && longest.find("begin") == 1 && longest.find("…") != std::string::npos);
  CHECK(longest.compare(longest.size() - 4, 4, "end\"") == 0);
}

// ---- safetensors ----------------------------------------------------------------------------------------------------

TEST(safetensors_reads_a_well_formed_file) {
  const TemporaryFolder folder;
  // Spaces after the header are the format's padding; a scalar and an empty tensor are legal.
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[4,8]},"
      "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
      "\"none\":{\"shape\":[3,0],\"data_offsets\":[8,8],\"dtype\":\"F16\"}}   ";
  std::string bytes = safetensors(header, 8);
  std::memcpy(&bytes[bytes.size() - 8], "\x00\x00\x20\xC1\x80\x3F\x00\xC0", 8);
  const SafetensorsFile file(folder.write("x.safetensors", bytes));
  REQUIRE(file.tensors().size() == 3);
  float values[2];
  const TensorView& a = file.tensors().at("a");
  CHECK(a.dtype == DType::F32 && a.shape.empty() && a.elements == 1);
  widen_to_f32(a, 0, 1, values);
  CHECK(values[0] == -10.0f);
  const TensorView& b = file.tensors().at("b");
  CHECK(b.dtype == DType::BF16 && b.shape == std::vector<int64_t>({2, 1}) && b.elements == 2);
  widen_to_f32(b, 0, 2, values);
  CHECK(values[0] == 1.0f && values[1] == -2.0f);
  widen_to_f32(b, 1, 1, values);
  CHECK(values[0] == -2.0f);
  const TensorView& none = file.tensors().at("none");
  CHECK(none.dtype == DType::F16 && none.elements == 0);
  widen_to_f32(none, 0, 0, values);
}

TEST(safetensors_refuses_hostile_files) {
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"t\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  const std::string good = tensor("\"F32\"", "[2]", "[0,8]");
  const struct {
    const char* name;
    std::string bytes;
    tl_status status;
    std::vector<std::string> fragments;
  } kTable[] = {
      {"zero-length file", "", TL_BAD_FILE, {"file of 0 bytes is shorter than the 8 bytes"}},
      {"truncated length", std::string(7, '\0'), TL_BAD_FILE, {"file of 7 bytes is shorter than the 8 bytes"}},
      {"no header", length_prefix(0), TL_BAD_FILE, {"header: expected '{'"}},
      {"header beyond the file", length_prefix(100) + "{}", TL_BAD_FILE,
       {"header length 100 lies beyond the file of 10 bytes"}},
      {"header by one beyond the file", length_prefix(3) + "{}", TL_BAD_FILE, {"header length 3 lies beyond"}},
      {"header above 100 MB", length_prefix(100'000'001) + "{}", TL_BAD_FILE,
       {"header length 100000001", "limit of 100000000"}},
      {"header of 2^64-1", length_prefix(~0ull) + "{}", TL_BAD_FILE, {"header length 18446744073709551615", "limit"}},
      {"header of 2^63", length_prefix(1ull << 63) + "{}", TL_BAD_FILE, {"header length 9223372036854775808", "limit"}},
      {"header is an array", safetensors("[]", 0), TL_BAD_FILE, {"header: expected '{'"}},
      {"space before the header", safetensors(" {}", 0), TL_BAD_FILE, {"header: expected '{'"}},
      {"bad JSON", safetensors("{\"t\":}", 0), TL_BAD_FILE, {"invalid JSON at byte 5"}},
      {"not UTF-8", safetensors("{\"\xFF\":{}}", 0), TL_BAD_FILE, {"invalid JSON at byte 2", "not UTF-8", "255"}},
      {"cut header", safetensors(good.substr(0, 20), 8), TL_BAD_FILE, {"invalid JSON", "found the end"}},
      {"deep header", safetensors(repeated("{\"a\":", 1000), 0), TL_BAD_FILE, {"nesting deeper than 64"}},
      {"duplicate tensor", safetensors(good.substr(0, good.size() - 1) + "," + good.substr(1), 8), TL_BAD_FILE,
       {"duplicate key \"t\""}},
      {"duplicate field", safetensors(tensor("\"F32\",\"dtype\":\"F16\"", "[2]", "[0,8]"), 8), TL_BAD_FILE,
       {"duplicate key \"dtype\""}},
      {"metadata is no object", safetensors("{\"__metadata__\":[]}", 0), TL_BAD_FILE,
       {"__metadata__", "object", "array of 0"}},
      {"metadata value", safetensors("{\"__metadata__\":{\"k\":1}}", 0), TL_BAD_FILE,
       {"__metadata__", "\"k\"", "string", "found 1"}},
      {"tensor is no object", safetensors("{\"t\":7}", 0), TL_BAD_FILE, {"tensor \"t\"", "expected an object", "found 7"}},
      {"unknown key", safetensors(tensor("\"F32\",\"scale\":2", "[2]", "[0,8]"), 8), TL_BAD_FILE,
       {"tensor \"t\"", "unknown key \"scale\""}},
      {"no dtype", safetensors("{\"t\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8), TL_BAD_FILE,
       {"tensor \"t\"", "dtype is missing"}},
      {"no shape", safetensors("{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8), TL_BAD_FILE,
       {"tensor \"t\"", "shape is missing"}},
      {"no offsets", safetensors("{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8), TL_BAD_FILE,
       {"tensor \"t\"", "data_offsets is missing"}},
      {"unknown dtype", safetensors(tensor("\"F33\"", "[2]", "[0,8]"), 8), TL_BAD_FILE,
       {"tensor \"t\"", "dtype", "F32, F16 or BF16", "\"F33\""}},
      {"lower-case dtype", safetensors(tensor("\"f32\"", "[2]", "[0,8]"), 8), TL_BAD_FILE, {"dtype", "\"f32\""}},
      {"dtype is a number", safetensors(tensor("32", "[2]", "[0,8]"), 8), TL_BAD_FILE,
       {"dtype: expected a string, found 32"}},
      {"integer dtype", safetensors(tensor("\"I64\"", "[1]", "[0,8]"), 8), TL_UNSUPPORTED,
       {"tensor \"t\"", "dtype", "\"I64\""}},
      {"fp8 dtype", safetensors(tensor("\"F8_E4M3\"", "[8]", "[0,8]"), 8), TL_UNSUPPORTED, {"dtype", "\"F8_E4M3\""}},
      {"shape is a number", safetensors(tensor("\"F32\"", "2", "[0,8]"), 8), TL_BAD_FILE,
       {"shape: expected an array", "found 2"}},
      {"too many dimensions", safetensors(tensor("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8), TL_BAD_FILE,
       {"shape", "at most 8", "array of 9"}},
      {"negative dimension", safetensors(tensor("\"F32\"", "[-1,-2]", "[0,8]"), 8), TL_BAD_FILE,
       {"tensor \"t\"", "shape[0]", "from 0", "found -1"}},
      {"fractional dimension", safetensors(tensor("\"F32\"", "[2.0]", "[0,8]"), 8), TL_BAD_FILE,
       {"shape[0]", "integer", "found 2"}},
      {"dimension as text", safetensors(tensor("\"F32\"", "[1,\"2\"]", "[0,8]"), 8), TL_BAD_FILE,
       {"shape[1]", "integer", "\"2\""}},
      {"dimension beyond 64 bits", safetensors(tensor("\"F32\"", "[9223372036854775808]", "[0,8]"), 8), TL_BAD_FILE,
       {"shape[0]", "2^63-1", "9223372036854775808"}},
      {"element count wraps to 2", safetensors(tensor("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8), TL_BAD_FILE,
       {"tensor \"t\"", "shape [4294967296, 4294967296]", "elements overflows"}},
      {"overflow hidden by a zero", safetensors(tensor("\"F32\"", "[4294967296,4294967296,0]", "[0,0]"), 0), TL_BAD_FILE,
       {"elements overflows"}},
      {"byte count wraps to 8", safetensors(tensor("\"F32\"", "[4611686018427387906]", "[0,8]"), 8), TL_BAD_FILE,
       {"shape [4611686018427387906]", "bytes overflows"}},
      {"shape larger than data", safetensors(tensor("\"F32\"", "[3]", "[0,8]"), 8), TL_BAD_FILE,
       {"tensor \"t\"", "span 8 bytes", "shape [3]", "need 12"}},
      {"shape smaller than data", safetensors(tensor("\"BF16\"", "[3]", "[0,8]"), 8), TL_BAD_FILE,
       {"span 8 bytes", "need 6"}},
      {"offsets not a pair", safetensors(tensor("\"F32\"", "[2]", "[0,8,16]"), 8), TL_BAD_FILE,
       {"data_offsets", "array of 2", "array of 3"}},
      {"offsets not an array", safetensors(tensor("\"F32\"", "[2]", "{}"), 8), TL_BAD_FILE, {"data_offsets", "object of 0"}},
      {"negative offset", safetensors(tensor("\"F32\"", "[2]", "[-8,0]"), 8), TL_BAD_FILE, {"data_offsets[0]", "found -8"}},
      {"offset beyond 64 bits", safetensors(tensor("\"F32\"", "[2]", "[0,18446744073709551624]"), 8), TL_BAD_FILE,
       {"data_offsets[1]", "18446744073709551616"}},
      {"offsets reversed", safetensors(tensor("\"F32\"", "[2]", "[8,0]"), 8), TL_BAD_FILE, {"begin 8 lies behind end 0"}},
      {"data cut", safetensors(good, 7), TL_BAD_FILE, {"tensor \"t\"", "end 8 lies beyond the 7 bytes"}},
      {"data too long", safetensors(good, 9), TL_BAD_FILE, {"ends at byte 8", "has 9", "hole at the end"}},
      {"data without tensors", safetensors("{}", 4), TL_BAD_FILE, {"ends at byte 0", "has 4"}},
      {"hole at the begin", safetensors(tensor("\"F32\"", "[1]", "[4,8]"), 8), TL_BAD_FILE,
       {"tensor \"t\"", "begin 4 leaves a hole", "ends at 0"}},
      {"hole between",
       safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                   "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12),
       TL_BAD_FILE, {"tensor \"b\"", "begin 8 leaves a hole", "ends at 4"}},
      {"partial overlap",
       safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                   "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12),
       TL_BAD_FILE, {"tensor \"b\"", "begin 4 overlaps tensor \"a\"", "ends at 8"}},
      {"two tensors share all bytes",
       safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                   "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
       TL_BAD_FILE, {"tensor \"b\"", "overlaps tensor \"a\""}},
      {"name that forges a line", safetensors("{\"t\\nOK: \\u001b[2J\":7}", 0), TL_BAD_FILE,
       {"tensor \"t\\x0aOK: \\x1b[2J\""}},
      {"long name", safetensors("{\"" + std::string(100000, 'n') + "\":7}", 0), TL_BAD_FILE, {"tensor \"nnn", "…"}},
  };
  for (const auto& row : kTable) {
    const TemporaryFolder folder;
    const std::string path = folder.write("x.safetensors", row.bytes);
    std::vector<std::string> fragments = row.fragments;
    fragments.push_back("x.safetensors\"");
    expect_error(row.name, row.status, fragments, [&] { SafetensorsFile file(path); });
  }
}

TEST(safetensors_refuses_every_truncation_and_survives_every_byte) {
  const TemporaryFolder folder;
  const std::string good = safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                                       "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[4,8]}}", 8);
  const std::string path = folder.write("x.safetensors", good);
  CHECK(SafetensorsFile(path).tensors().size() == 2);
  for (size_t length = 0; length < good.size(); ++length) {
    folder.write("x.safetensors", good.substr(0, length));
    expect_error("cut to " + std::to_string(length), TL_BAD_FILE, {path}, [&] { SafetensorsFile file(path); });
  }
  int refused = 0, tried = 0;
  for (size_t i = 0; i < good.size() - 8; ++i) {
    for (const char byte : {'\0', '\x01', ' ', '"', ',', '0', '9', '[', '{', '}', '\x7F', '\x80', '\xFF'}) {
      std::string bytes = good;
      bytes[i] = byte;
      folder.write("x.safetensors", bytes);
      ++tried;
      try {
        // What is still accepted must lie within the file.
        const SafetensorsFile file(path);
        for (const auto& entry : file.tensors()) {
          CHECK_MSG(entry.second.elements >= 0 && entry.second.elements <= 4, "byte %zu = %d", i, byte);
          float values[4];
          widen_to_f32(entry.second, 0, entry.second.elements, values);
        }
      } catch (const Error& error) {
        ++refused;
        CHECK_MSG(error.status() == TL_BAD_FILE || error.status() == TL_UNSUPPORTED, "byte %zu = %d: %s", i, byte,
                  error.what());
      }
    }
  }
  // Only bytes of a tensor's name, and a byte set to itself, change nothing that matters.
  CHECK_MSG(refused > tried * 9 / 10 && refused < tried, "%d of %d", refused, tried);
}

TEST(safetensors_refuses_what_is_no_regular_file) {
  const TemporaryFolder folder;
  fs::create_directory(folder.file("folder.safetensors"));
  REQUIRE(::mkfifo(folder.file("pipe.safetensors").c_str(), 0600) == 0);
  fs::create_symlink("nowhere", folder.file("link.safetensors"));
  const struct {
    const char* name;
    tl_status status;
    const char* rule;
  } kTable[] = {
      {"folder.safetensors", TL_BAD_FILE, "not a regular file but a directory"},
      {"pipe.safetensors", TL_BAD_FILE, "not a regular file"},
      {"link.safetensors", TL_NOT_FOUND, "cannot be opened"},
      {"absent.safetensors", TL_NOT_FOUND, "cannot be opened"},
  };
  for (const auto& row : kTable) {
    expect_error(row.name, row.status, {row.name, row.rule}, [&] { SafetensorsFile file(folder.file(row.name)); });
  }
  expect_error("zero byte", TL_NOT_FOUND, {"\\x00", "zero byte"},
               [&] { SafetensorsFile file(folder.path() + std::string("/a\0b", 4)); });
}

TEST(safetensors_follows_a_link) {
  // The Hugging Face cache keeps its files behind symbolic links.
  const TemporaryFolder folder;
  folder.write("blob", safetensors("{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8));
  fs::create_symlink("blob", folder.file("model.safetensors"));
  CHECK(WeightFiles(folder.path()).get("t", {2}).elements == 2);
}

TEST(weight_files_name_what_is_missing) {
  const TemporaryFolder folder;
  expect_error("empty folder", TL_NOT_FOUND, {folder.path(), "neither model.safetensors nor model.safetensors.index.json"},
               [&] { WeightFiles files(folder.path()); });
  expect_error("no folder", TL_NOT_FOUND, {"/absent\"", "neither"}, [&] { WeightFiles files(folder.file("absent")); });
  folder.write("model.safetensors", safetensors("{\"t\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}", 8));
  const WeightFiles files(folder.path());
  CHECK(files.has("t") && !files.has("u"));
  CHECK(files.get("t", {2, 1}).data == files.get("t").data);
  expect_error("missing tensor", TL_NOT_FOUND, {folder.path(), "tensor \"u\" is missing"}, [&] { files.get("u"); });
  expect_error("missing tensor with shape", TL_NOT_FOUND, {"tensor \"u\" is missing"}, [&] { files.get("u", {2}); });
  expect_error("other shape", TL_BAD_FILE, {folder.path(), "tensor \"t\"", "expected [1, 2]", "found [2, 1]"},
               [&] { files.get("t", {1, 2}); });
  expect_error("other rank", TL_BAD_FILE, {"expected [2]", "found [2, 1]"}, [&] { files.get("t", {2}); });
}

TEST(sharded_weights) {
  const auto one = [](const std::string& name, char byte) {
    std::string bytes = safetensors("{\"" + name + "\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2);
    bytes[bytes.size() - 2] = 0;
    bytes[bytes.size() - 1] = byte;
    return bytes;
  };
  const TemporaryFolder folder;
  folder.write("one.safetensors", one("a", 0x40));
  folder.write("two.safetensors", one("b", 0x41));
  folder.write("model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
  const WeightFiles files(folder.path());
  float value = 0;
  widen_to_f32(files.get("a", {1}), 0, 1, &value);
  CHECK(value == 2.0f);
  widen_to_f32(files.get("b", {1}), 0, 1, &value);
  CHECK(value == 8.0f);

  const struct {
    const char* name;
    std::string index;
    tl_status status;
    std::vector<std::string> fragments;
  } kTable[] = {
      {"zero-length index", "", TL_BAD_FILE, {"invalid JSON at byte 0", "found the end"}},
      {"index is an array", "[]", TL_BAD_FILE, {"weight_map is missing"}},
      {"no weight_map", "{\"metadata\":{}}", TL_BAD_FILE, {"weight_map is missing"}},
      {"weight_map is an array", "{\"weight_map\":[]}", TL_BAD_FILE, {"weight_map: expected an object", "array of 0"}},
      {"shard is a number", "{\"weight_map\":{\"a\":1}}", TL_BAD_FILE, {"weight_map: \"a\"", "file name", "found 1"}},
      {"absent shard", "{\"weight_map\":{\"a\":\"three.safetensors\"}}", TL_NOT_FOUND,
       {"\"three.safetensors\"", "does not exist"}},
      {"tensor not in its shard", "{\"weight_map\":{\"b\":\"one.safetensors\"}}", TL_NOT_FOUND,
       {"tensor \"b\"", "\"one.safetensors\"", "does not hold it"}},
      {"duplicate tensor", "{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", TL_BAD_FILE,
       {"duplicate key \"a\""}},
      {"parent folder", "{\"weight_map\":{\"a\":\"../one.safetensors\"}}", TL_BAD_FILE,
       {"weight_map: \"a\"", "plain file name", "\"../one.safetensors\""}},
      {"absolute path", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", TL_BAD_FILE, {"plain file name", "\"/etc/passwd\""}},
      {"sub-folder", "{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", TL_BAD_FILE,
       {"plain file name", "\"sub/one.safetensors\""}},
      {"backslash", "{\"weight_map\":{\"a\":\"..\\\\one.safetensors\"}}", TL_BAD_FILE, {"plain file name"}},
      {"two dots alone", "{\"weight_map\":{\"a\":\"..\"}}", TL_BAD_FILE, {"plain file name", "\"..\""}},
      {"one dot", "{\"weight_map\":{\"a\":\".\"}}", TL_BAD_FILE, {"plain file name", "\".\""}},
      {"empty name", "{\"weight_map\":{\"a\":\"\"}}", TL_BAD_FILE, {"plain file name", "\"\""}},
      {"zero byte in name", "{\"weight_map\":{\"a\":\"one.safetensors\\u0000x\"}}", TL_BAD_FILE,
       {"plain file name", "\\x00"}},
  };
  for (const auto& row : kTable) {
    folder.write("model.safetensors.index.json", row.index);
    std::vector<std::string> fragments = row.fragments;
    fragments.push_back("model.safetensors.index.json\"");
    expect_error(row.name, row.status, fragments, [&] { WeightFiles refused(folder.path()); });
  }
  folder.write("two.safetensors", one("b", 0x41).substr(0, 20));
  folder.write("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
  expect_error("one shard is cut", TL_BAD_FILE, {"/two.safetensors\"", "beyond the file"},
               [&] { WeightFiles refused(folder.path()); });
}

// ---- widening -------------------------------------------------------------------------------------------------------

namespace {

// Widens 16-bit patterns that lie at an odd address, as they may in a file.
std::vector<float> widen(DType dtype, const std::vector<uint16_t>& patterns) {
  std::vector<uint8_t> bytes(1 + 2 * patterns.size());
  std::memcpy(bytes.data() + 1, patterns.data(), 2 * patterns.size());
  const auto count = static_cast<int64_t>(patterns.size());
  std::vector<float> values(patterns.size());
  widen_to_f32({dtype, {count}, bytes.data() + 1, count}, 0, count, values.data());
  return values;
}

}  // namespace

TEST(f16_widens_to_known_values) {
  const float infinity = std::numeric_limits<float>::infinity();
  const struct {
    uint16_t half;
    float value;
  } kTable[] = {{0x0000, 0.0f},        {0x8000, -0.0f},           {0x3C00, 1.0f},         {0xC000, -2.0f},
                {0x3555, 0x1.554p-2f}, {0x7BFF, 65504.0f},        {0xFBFF, -65504.0f},    {0x0400, 0x1p-14f},
                {0x0001, 0x1p-24f},    {0x8001, -0x1p-24f},       {0x0200, 0x1p-15f},     {0x03FF, 0x1.FF8p-15f},
                {0x3C01, 0x1.004p0f},  {0x7C00, infinity},        {0xFC00, -infinity}};
  for (const auto& row : kTable) {
    const float value = widen(DType::F16, {row.half})[0];
    CHECK_MSG(bits_of(value) == bits_of(row.value), "0x%04x gave %a, expected %a", row.half, value, row.value);
  }
}

TEST(every_f16_widens_exactly) {
  std::vector<uint16_t> patterns(65536);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  const std::vector<float> values = widen(DType::F16, patterns);
  for (uint32_t half = 0; half < 65536; ++half) {
    const uint32_t exponent = half >> 10 & 31;
    const double fraction = half & 1023;
    const double sign = half >> 15 ? -1 : 1;
    if (exponent == 31 && fraction != 0) {
      CHECK_MSG(std::isnan(values[half]) && (bits_of(values[half]) >> 13 & 1023) == (half & 1023), "0x%04x", half);
      continue;
    }
    const double expected = exponent == 31  ? sign * std::numeric_limits<double>::infinity()
                            : exponent == 0 ? sign * std::ldexp(fraction, -24)
                                            : sign * std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    CHECK_MSG(values[half] == expected && std::signbit(values[half]) == (half >> 15 != 0), "0x%04x gave %a", half,
              values[half]);
  }
}

TEST(bf16_widens_to_known_values) {
  const struct {
    uint16_t brain;
    uint32_t bits;
  } kTable[] = {{0x0000, 0}, {0x8000, 0x80000000}, {0x3F80, 0x3F800000}, {0xC049, 0xC0490000}, {0x0001, 0x00010000},
                {0x7F7F, 0x7F7F0000}, {0x7F80, 0x7F800000}, {0xFF80, 0xFF800000}, {0x7FC1, 0x7FC10000}, {0x7F81, 0x7F810000}};
  for (const auto& row : kTable) {
    const uint32_t bits = bits_of(widen(DType::BF16, {row.brain})[0]);
    CHECK_MSG(bits == row.bits, "0x%04x gave 0x%08x", row.brain, bits);
  }
}

TEST(widening_refuses_ranges_outside_the_tensor) {
  const uint16_t data[4] = {};
  const TensorView view{DType::F16, {4}, reinterpret_cast<const uint8_t*>(data), 4};
  float out[8];
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const std::vector<std::pair<int64_t, int64_t>> ranges = {{0, 5}, {4, 1}, {-1, 1}, {0, -1}, {2, huge}, {huge, 2}};
  for (const auto& [first, count] : ranges) {
    expect_error("range", TL_INTERNAL, {std::to_string(first), std::to_string(count), "4"},
                 [&, f = first, c = count] { widen_to_f32(view, f, c, out); });
  }
  widen_to_f32(view, 4, 0, out);
}

// ---- config.json ----------------------------------------------------------------------------------------------------

namespace {

using Members = std::map<std::string, std::string>;  // key -> JSON text; "" removes the key

Members base_config(const std::string& model_type) {
  return {{"model_type", "\"" + model_type + "\""}, {"hidden_size", "64"},      {"intermediate_size", "96"},
          {"num_hidden_layers", "2"},               {"num_attention_heads", "4"}, {"num_key_value_heads", "2"},
          {"vocab_size", "100"},                    {"max_position_embeddings", "512"}, {"rms_norm_eps", "1e-5"}};
}

std::string object_text(const Members& members) {
  std::vector<std::string> parts;
  for (const auto& member : members) {
    if (!member.second.empty()) parts.push_back("\"" + member.first + "\":" + member.second);
  }
  return "{" + join(parts) + "}";
}

ModelConfig load(const std::string& model_type, const Members& changes) {
  const TemporaryFolder folder;
  Members members = base_config(model_type);
  for (const auto& change : changes) members[change.first] = change.second;
  folder.write("config.json", object_text(members));
  return load_model_config(folder.path());
}

bool near(float value, double expected) { return std::abs(value - expected) <= 1e-7 * std::abs(expected); }

}  // namespace

TEST(config_families_and_defaults) {
  const ModelConfig llama = load("llama", {});
  CHECK(llama.architecture == TL_ARCH_LLAMA && !llama.qkv_bias && !llama.qk_norm && !llama.tied_embeddings);
  CHECK(llama.hidden == 64 && llama.layers == 2 && llama.heads == 4 && llama.kv_heads == 2 && llama.head_dim == 16);
  CHECK(llama.intermediate == 96 && llama.vocab == 100 && llama.max_positions == 512 && llama.rms_eps == 1e-5f);
  REQUIRE(llama.inverse_frequencies.size() == 8);
  CHECK(llama.inverse_frequencies[0] == 1.0f && near(llama.inverse_frequencies[4], 0.01));

  const ModelConfig qwen2 = load("qwen2", {{"tie_word_embeddings", "true"}, {"rope_theta", "1000000"}});
  CHECK(qwen2.architecture == TL_ARCH_QWEN2 && qwen2.qkv_bias && !qwen2.qk_norm && qwen2.tied_embeddings);
  CHECK(near(qwen2.inverse_frequencies[4], 0.001));

  const ModelConfig qwen3 = load("qwen3", {{"head_dim", "32"}});
  CHECK(qwen3.architecture == TL_ARCH_QWEN3 && !qwen3.qkv_bias && qwen3.qk_norm && qwen3.head_dim == 32);
  CHECK(qwen3.inverse_frequencies.size() == 16);
  CHECK(load("qwen3", {}).head_dim == 128);

  const ModelConfig mistral = load("mistral", {{"sliding_window", "null"}});
  CHECK(mistral.architecture == TL_ARCH_MISTRAL && !mistral.qkv_bias && !mistral.qk_norm && mistral.max_positions == 512);

  CHECK(load("llama", {{"num_key_value_heads", ""}}).kv_heads == 4);
  CHECK(load("llama", {{"num_key_value_heads", "null"}, {"head_dim", "null"}}).kv_heads == 4);
  CHECK(load("llama", {{"max_position_embeddings", ""}}).max_positions == 2048);
  CHECK(load("llama", {{"rms_norm_eps", ""}}).rms_eps == 1e-6f);
  CHECK(load("llama", {{"architectures", "[\"LlamaForCausalLM\"]"}, {"hidden_act", "\"silu\""}}).hidden == 64);
  CHECK(load("qwen2", {{"attention_bias", "true"}}).qkv_bias);
}

TEST(config_sliding_windows) {
  const struct {
    const char* name;
    const char* model_type;
    Members changes;
    int32_t max_positions;
  } kTable[] = {
      {"mistral, wide window", "mistral", {{"sliding_window", "512"}}, 512},
      {"mistral, short window", "mistral", {{"sliding_window", "100"}}, 100},
      {"mistral, no key means 4096", "mistral", {{"max_position_embeddings", "32768"}}, 4096},
      {"mistral, null", "mistral", {{"max_position_embeddings", "32768"}, {"sliding_window", "null"}}, 32768},
      {"mistral, layer types do not switch it off", "mistral",
       {{"sliding_window", "100"}, {"layer_types", "[\"full_attention\",\"full_attention\"]"}}, 100},
      {"qwen2, switched off", "qwen2", {{"sliding_window", "100"}, {"use_sliding_window", "false"}}, 512},
      {"qwen2, off by default", "qwen2", {{"sliding_window", "100"}}, 512},
      {"qwen2, switched on", "qwen2",
       {{"sliding_window", "100"}, {"use_sliding_window", "true"}, {"max_window_layers", "1"}}, 100},
      {"qwen2, on for no layer", "qwen2",
       {{"sliding_window", "100"}, {"use_sliding_window", "true"}, {"max_window_layers", "2"}}, 512},
      {"qwen3, layer types say none", "qwen3",
       {{"sliding_window", "100"}, {"use_sliding_window", "true"}, {"max_window_layers", "0"},
        {"layer_types", "[\"full_attention\",\"full_attention\"]"}}, 512},
      {"qwen3, layer types say one", "qwen3",
       {{"sliding_window", "100"}, {"use_sliding_window", "true"},
        {"layer_types", "[\"full_attention\",\"sliding_attention\"]"}}, 100},
      {"llama has none", "llama", {{"sliding_window", "100"}}, 512},
  };
  for (const auto& row : kTable) {
    const int32_t found = load(row.model_type, row.changes).max_positions;
    CHECK_MSG(found == row.max_positions, "%s: %d, expected %d", row.name, found, row.max_positions);
  }
}

TEST(config_rope_scaling) {
  const Members plain = {{"head_dim", "8"}, {"rope_theta", "500000.0"}};
  const auto with = [&](const std::string& key, const std::string& value) {
    Members members = plain;
    members[key] = value;
    return load("llama", members).inverse_frequencies;
  };
  const std::vector<float> base = load("llama", plain).inverse_frequencies;
  CHECK(with("rope_scaling", "null") == base);
  CHECK(with("rope_scaling", "{\"rope_type\":\"default\"}") == base);
  CHECK(with("rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":500000.0}") == base);
  for (const char* inside : {"{\"rope_theta\":500000,\"rope_type\":\"default\"}", "{\"rope_theta\":500000}"}) {
    CHECK(load("llama", {{"head_dim", "8"}, {"rope_parameters", inside}}).inverse_frequencies == base);
  }

  const std::vector<float> linear = with("rope_scaling", "{\"type\":\"linear\",\"factor\":4.0}");
  for (size_t i = 0; i < base.size(); ++i) CHECK(linear[i] == base[i] / 4);
  CHECK(with("rope_parameters", "{\"rope_type\":\"linear\",\"factor\":4}") == linear);
  Members both = plain;
  both["rope_scaling"] = "{\"type\":\"linear\",\"factor\":4.0}";
  both["rope_parameters"] = "{\"rope_type\":\"linear\",\"factor\":4,\"rope_theta\":500000}";
  CHECK(load("llama", both).inverse_frequencies == linear);

  // original_max_position_embeddings falls back to max_position_embeddings, as in transformers.
  const std::string llama3 = "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4";
  CHECK(with("rope_scaling", llama3 + "}") == with("rope_scaling", llama3 + ",\"original_max_position_embeddings\":512}"));
  CHECK(with("rope_scaling", llama3 + "}") != with("rope_scaling", llama3 + ",\"original_max_position_embeddings\":1024}"));
}

TEST(config_refusals) {
  const std::string llama3 = "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4}";
  const struct {
    const char* name;
    const char* model_type;
    Members changes;
    tl_status status;
    std::vector<std::string> fragments;
  } kTable[] = {
      {"no model_type", "llama", {{"model_type", ""}}, TL_BAD_FILE, {"model_type: required", "no such key"}},
      {"other family", "gemma2", {}, TL_UNSUPPORTED, {"model_type", "llama, qwen2, qwen3 and mistral", "\"gemma2\""}},
      {"model_type is a number", "llama", {{"model_type", "3"}}, TL_BAD_FILE, {"model_type: expected a string, found 3"}},
      {"classifier", "llama", {{"architectures", "[\"LlamaForSequenceClassification\"]"}}, TL_UNSUPPORTED,
       {"architectures", "LlamaForCausalLM", "\"LlamaForSequenceClassification\""}},
      {"no architecture", "llama", {{"architectures", "[]"}}, TL_UNSUPPORTED,
       {"architectures", "LlamaForCausalLM", "array of 0"}},
      {"architectures is text", "llama", {{"architectures", "\"LlamaForCausalLM\""}}, TL_BAD_FILE,
       {"architectures: expected an array"}},
      {"no hidden_size", "llama", {{"hidden_size", ""}}, TL_BAD_FILE, {"hidden_size: required", "no such key"}},
      {"null hidden_size", "llama", {{"hidden_size", "null"}}, TL_BAD_FILE, {"hidden_size: required", "found null"}},
      {"hidden_size as text", "llama", {{"hidden_size", "\"64\""}}, TL_BAD_FILE,
       {"hidden_size: expected an integer", "\"64\""}},
      {"fractional hidden_size", "llama", {{"hidden_size", "64.5"}}, TL_BAD_FILE, {"hidden_size", "integer", "64.5"}},
      {"hidden_size beyond 32 bits", "llama", {{"hidden_size", "4294967360"}}, TL_BAD_FILE,
       {"hidden_size", "16777216", "4294967360"}},
      {"zero layers", "llama", {{"num_hidden_layers", "0"}}, TL_BAD_FILE,
       {"num_hidden_layers", "from 1 to 4096", "found 0"}},
      {"negative vocabulary", "llama", {{"vocab_size", "-1"}}, TL_BAD_FILE, {"vocab_size", "from 1", "found -1"}},
      {"no intermediate_size", "qwen2", {{"intermediate_size", ""}}, TL_BAD_FILE, {"intermediate_size: required"}},
      {"kv heads do not divide", "llama", {{"num_key_value_heads", "3"}}, TL_BAD_FILE,
       {"num_key_value_heads", "divisor of num_attention_heads 4", "found 3"}},
      {"more kv heads than heads", "llama", {{"num_key_value_heads", "8"}}, TL_BAD_FILE,
       {"num_key_value_heads", "divisor", "found 8"}},
      {"heads do not divide", "llama", {{"num_attention_heads", "6"}}, TL_BAD_FILE,
       {"num_attention_heads", "divisor of hidden_size 64", "found 6"}},
      {"odd head_dim", "llama", {{"head_dim", "7"}}, TL_BAD_FILE, {"head_dim", "even", "7"}},
      {"odd head_dim by division", "llama", {{"hidden_size", "20"}}, TL_BAD_FILE, {"head_dim", "even", "5"}},
      {"heads times head_dim", "llama", {{"num_attention_heads", "65536"}, {"head_dim", "65536"}}, TL_BAD_FILE,
       {"num_attention_heads", "times head_dim 65536", "16777216", "found 65536"}},
      {"eps zero", "llama", {{"rms_norm_eps", "0"}}, TL_BAD_FILE, {"rms_norm_eps", "above 0", "found 0"}},
      {"eps negative", "llama", {{"rms_norm_eps", "-1e-5"}}, TL_BAD_FILE, {"rms_norm_eps", "above 0", "-1e-05"}},
      {"eps not an fp32 number", "llama", {{"rms_norm_eps", "1e-60"}}, TL_BAD_FILE, {"rms_norm_eps", "fp32", "1e-60"}},
      {"zero positions", "llama", {{"max_position_embeddings", "0"}}, TL_BAD_FILE,
       {"max_position_embeddings", "from 1", "found 0"}},
      {"tied as number", "llama", {{"tie_word_embeddings", "1"}}, TL_BAD_FILE,
       {"tie_word_embeddings: expected true or false, found 1"}},
      {"gelu", "llama", {{"hidden_act", "\"gelu\""}}, TL_UNSUPPORTED, {"hidden_act", "silu", "\"gelu\""}},
      {"llama with attention bias", "llama", {{"attention_bias", "true"}}, TL_UNSUPPORTED,
       {"attention_bias", "false", "found true"}},
      {"qwen3 with attention bias", "qwen3", {{"attention_bias", "true"}}, TL_UNSUPPORTED, {"attention_bias", "found true"}},
      {"MLP bias", "llama", {{"mlp_bias", "true"}}, TL_UNSUPPORTED, {"mlp_bias", "found true"}},
      {"interleaved rope", "llama", {{"rope_interleaved", "true"}}, TL_UNSUPPORTED, {"rope_interleaved", "found true"}},
      {"quantised", "llama", {{"quantization_config", "{\"quant_method\":\"awq\"}"}}, TL_UNSUPPORTED,
       {"quantization_config", "not supported"}},
      {"partial rotary", "llama", {{"partial_rotary_factor", "0.5"}}, TL_UNSUPPORTED,
       {"partial_rotary_factor", "1.0", "0.5"}},
      {"partial rotary inside", "llama", {{"rope_parameters", "{\"partial_rotary_factor\":0.25}"}}, TL_UNSUPPORTED,
       {"rope_parameters.partial_rotary_factor", "0.25"}},
      {"theta zero", "llama", {{"rope_theta", "0"}}, TL_BAD_FILE, {"rope_theta", "above 0", "found 0"}},
      {"theta too large", "llama", {{"rope_theta", "1e300"}}, TL_BAD_FILE, {"rope_theta", "positive fp32", "1e+300"}},
      {"theta twice", "llama",
       {{"rope_theta", "10000"}, {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":500000}"}}, TL_BAD_FILE,
       {"rope_parameters.rope_theta", "contradicts rope_theta 10000", "found 500000"}},
      {"yarn", "qwen3", {{"rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4.0}"}}, TL_UNSUPPORTED,
       {"rope_scaling.rope_type", "default, linear and llama3", "\"yarn\""}},
      {"dynamic, old name", "llama", {{"rope_scaling", "{\"type\":\"dynamic\",\"factor\":2.0}"}}, TL_UNSUPPORTED,
       {"rope_scaling.type", "\"dynamic\""}},
      {"scaling is text", "llama", {{"rope_scaling", "\"linear\""}}, TL_BAD_FILE, {"rope_scaling: expected an object"}},
      {"linear without factor", "llama", {{"rope_scaling", "{\"type\":\"linear\"}"}}, TL_BAD_FILE,
       {"rope_scaling.factor: required"}},
      {"linear that widens", "llama", {{"rope_scaling", "{\"type\":\"linear\",\"factor\":0.5}"}}, TL_BAD_FILE,
       {"rope_scaling.factor", "at least 1", "0.5"}},
      {"llama3 without factors", "llama", {{"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8}"}}, TL_BAD_FILE,
       {"rope_scaling.low_freq_factor: required"}},
      {"llama3 factors equal", "llama",
       {{"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}"}}, TL_BAD_FILE,
       {"rope_scaling.high_freq_factor", "above low_freq_factor 4", "found 4"}},
      {"two that differ", "llama",
       {{"rope_scaling", "{\"type\":\"linear\",\"factor\":4}"}, {"rope_parameters", llama3}}, TL_BAD_FILE,
       {"rope_scaling", "contradicts rope_parameters"}},
      {"rope by layer type", "qwen3", {{"rope_parameters", "{\"full_attention\":{\"rope_type\":\"default\"}}"}}, TL_UNSUPPORTED,
       {"rope_parameters.full_attention", "by layer type"}},
      {"window zero", "mistral", {{"sliding_window", "0"}}, TL_BAD_FILE, {"sliding_window", "from 1", "found 0"}},
      {"unknown layer type", "qwen3", {{"layer_types", "[\"full_attention\",\"linear_attention\"]"}}, TL_UNSUPPORTED,
       {"layer_types", "full_attention and sliding_attention", "\"linear_attention\""}},
      {"layer types too few", "qwen3", {{"layer_types", "[\"full_attention\"]"}}, TL_BAD_FILE,
       {"layer_types", "num_hidden_layers 2", "array of 1"}},
      {"window switch is text", "qwen2", {{"use_sliding_window", "\"no\""}}, TL_BAD_FILE,
       {"use_sliding_window: expected true or false", "\"no\""}},
  };
  for (const auto& row : kTable) {
    std::vector<std::string> fragments = row.fragments;
    fragments.push_back("/config.json\"");
    expect_error(row.name, row.status, fragments, [&] { load(row.model_type, row.changes); });
  }
}

TEST(config_file_refusals) {
  const TemporaryFolder folder;
  expect_error("absent", TL_NOT_FOUND, {"/config.json\"", "cannot be opened"}, [&] { load_model_config(folder.path()); });
  const struct {
    const char* name;
    std::string text;
    const char* rule;
  } kTable[] = {
      {"zero-length", "", "invalid JSON at byte 0"},
      {"array", "[]", "expected an object, found array of 0"},
      {"not UTF-8", "{\"model_type\":\"\xFE\"}", "not UTF-8"},
      {"duplicate", "{\"hidden_size\":1,\"hidden_size\":2}", "duplicate key \"hidden_size\""},
      {"too large", std::string((4 << 20) + 1, ' '), "file of 4194305 bytes, the limit is 4194304"},
  };
  for (const auto& row : kTable) {
    folder.write("config.json", row.text);
    expect_error(row.name, TL_BAD_FILE, {"/config.json\"", row.rule}, [&] { load_model_config(folder.path()); });
  }
  fs::remove(folder.file("config.json"));
  fs::create_directory(folder.file("config.json"));
  expect_error("directory", TL_BAD_FILE, {"/config.json\"", "a directory"}, [&] { load_model_config(folder.path()); });
}

TEST(config_frequencies_equal_those_of_transformers) {
  for (const char* name : {"llama", "qwen2", "qwen3", "mistral"}) {
    const Json golden = read_json_file(paths::golden(name) + "/golden.json", 10'000'000);
    const Json::Array& expected = *golden.find("inverse_frequencies")->array();
    const std::vector<float> found = load_model_config(paths::golden(name)).inverse_frequencies;
    REQUIRE_MSG(found.size() == expected.size(), "%s", name);
    for (size_t i = 0; i < found.size(); ++i) {
      CHECK_MSG(found[i] == static_cast<float>(*expected[i].number()), "%s: frequency %zu: %a, expected %a", name, i, found[i],
                *expected[i].number());
    }
  }
  // A head_dim that is no power of two: the exponents themselves are rounded. Values of transformers 5.18.
  const auto found = load("llama", {{"head_dim", "96"}, {"rope_theta", "500000"}}).inverse_frequencies;
  CHECK(near(found[1], 0x1.8587cap-1) && near(found[23], 0x1.e74918p-10) && near(found[47], 0x1.60d510p-19));
}

TEST(golden_models_open) {
  const struct {
    const char* name;
    std::vector<int64_t> q_proj;
  } kTable[] = {{"llama", {48, 48}}, {"qwen2", {32, 32}}, {"qwen3", {64, 40}}, {"mistral", {32, 32}}};
  for (const auto& row : kTable) {
    const ModelConfig config = load_model_config(paths::golden(row.name));
    const WeightFiles files(paths::golden(row.name));
    CHECK(files.get("model.embed_tokens.weight", {config.vocab, config.hidden}).dtype == DType::F32);
    files.get("model.layers.0.self_attn.q_proj.weight", row.q_proj);
    CHECK(files.has("lm_head.weight") != config.tied_embeddings);
    CHECK(files.has("model.layers.1.self_attn.k_proj.bias") == config.qkv_bias);
    CHECK(files.has("model.layers.1.self_attn.k_norm.weight") == config.qk_norm);
  }
}

// ---- real files, where they are present -----------------------------------------------------------------------------

namespace {

struct Dimensions {
  int32_t architecture, hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, max_positions;
  bool tied;
};

void check_dimensions(const char* name, const ModelConfig& config, const Dimensions& expected) {
  const Dimensions found = {config.architecture, config.hidden,       config.layers, config.heads,
                            config.kv_heads,     config.head_dim,     config.intermediate, config.vocab,
                            config.max_positions, config.tied_embeddings};
  CHECK_MSG(found.architecture == expected.architecture && found.hidden == expected.hidden && found.layers == expected.layers &&
                found.heads == expected.heads && found.kv_heads == expected.kv_heads && found.head_dim == expected.head_dim &&
                found.intermediate == expected.intermediate && found.vocab == expected.vocab &&
                found.max_positions == expected.max_positions && found.tied == expected.tied,
            "%s: found %d %d %d %d %d %d %d %d %d %d", name, found.architecture, found.hidden, found.layers, found.heads,
            found.kv_heads, found.head_dim, found.intermediate, found.vocab, found.max_positions, found.tied);
}

}  // namespace

TEST(real_configs) {
  const struct {
    const char* name;
    Dimensions expected;
  } kTable[] = {
      {"Qwen3-8B", {TL_ARCH_QWEN3, 4096, 36, 32, 8, 128, 12288, 151936, 40960, false}},
      {"Qwen3-0.6B", {TL_ARCH_QWEN3, 1024, 28, 16, 8, 128, 3072, 151936, 40960, true}},
      {"Meta-Llama-3.1-8B", {TL_ARCH_LLAMA, 4096, 32, 32, 8, 128, 14336, 128256, 131072, false}},
      {"stories260K", {TL_ARCH_LLAMA, 64, 5, 8, 4, 8, 172, 512, 512, true}},
  };
  for (const auto& row : kTable) {
    if (!fs::exists(paths::shared_model(row.name))) SKIP("%s is absent", paths::shared_model(row.name).c_str());
    check_dimensions(row.name, load_model_config(paths::shared_model(row.name)), row.expected);
  }
  // Frequencies that transformers 5.18 computes for Llama 3.1: unscaled, blended and divided by 8.
  const auto found = load_model_config(paths::shared_model("Meta-Llama-3.1-8B")).inverse_frequencies;
  CHECK(found[1] == 0.8146172165870667f && found[29] == 0.0021665706299245358f && found[33] == 0.0003126936499029398f);
  CHECK(found[35] == 9.556212171446532e-05f && found[63] == 3.068925877869333e-07f);
}

TEST(transcribed_configs) {
  const std::string path = paths::shared_model("transcribed_configs.json");
  if (!fs::exists(path)) SKIP("%s is absent", path.c_str());
  // Some are transcribed without the keys that follow here.
  const struct {
    const char* name;
    Members added;
    Dimensions expected;
  } kTable[] = {
      {"SmolLM2-135M", {}, {TL_ARCH_LLAMA, 576, 30, 9, 3, 64, 1536, 49152, 8192, true}},
      {"Qwen2.5-0.5B-Instruct", {}, {TL_ARCH_QWEN2, 896, 24, 14, 2, 64, 4864, 151936, 32768, true}},
      {"Qwen2.5-1.5B (dims)", {}, {TL_ARCH_QWEN2, 1536, 28, 12, 2, 128, 8960, 151936, 32768, true}},
      {"Qwen2.5-7B (dims)", {}, {TL_ARCH_QWEN2, 3584, 28, 28, 4, 128, 18944, 152064, 32768, false}},
      {"Mistral-7B (dims)", {{"intermediate_size", "14336"}, {"vocab_size", "32000"}},
       {TL_ARCH_MISTRAL, 4096, 32, 32, 8, 128, 14336, 32000, 4096, false}},
  };
  const Json all = read_json_file(path, 1'000'000);
  for (const auto& row : kTable) {
    REQUIRE_MSG(all.find(row.name) != nullptr, "%s", row.name);
    Members members = row.added;
    for (const auto& member : *all.find(row.name)->find("config")->object()) {
      const Json& value = member.second;
      members[member.first] = value.array() != nullptr ? "[" + (*value.array())[0].brief() + "]" : value.brief();
    }
    const TemporaryFolder folder;
    folder.write("config.json", object_text(members));
    check_dimensions(row.name, load_model_config(folder.path()), row.expected);
  }
}

TEST(real_weights) {
  const std::string folder = paths::shared_model("stories260K");
  if (!fs::exists(folder)) SKIP("%s is absent", folder.c_str());
  const WeightFiles files(folder);
  const TensorView& embedding = files.get("model.embed_tokens.weight", {512, 64});
  std::vector<float> values(static_cast<size_t>(embedding.elements));
  widen_to_f32(embedding, 0, embedding.elements, values.data());
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  // The root mean square of real embeddings; garbage read at a wrong offset would be far off.
  const double rms = std::sqrt(squares / static_cast<double>(values.size()));
  CHECK_MSG(rms > 0.05 && rms < 1, "%g", rms);
  CHECK(files.get("model.layers.4.mlp.down_proj.weight", {64, 172}).elements == 64 * 172);
}
