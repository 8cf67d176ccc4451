#include "format/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>

#include "error.h"

namespace tlora {

namespace {

constexpr int kMaxDepth = 64;
// The headers of the largest published models hold well under a million values. Without this bound a header of
// 100 MB of "[0,0,0,…" would take gigabytes once parsed.
constexpr int64_t kMaxValues = 4'000'000;

// Length in bytes of the well-formed UTF-8 sequence at p (RFC 3629: no overlong forms, no surrogates), or 0.
int utf8_sequence(const unsigned char* p, const unsigned char* end) {
  auto continues = [&](int i) { return p + i < end && (p[i] & 0xC0) == 0x80; };
  if (p[0] < 0x80) return 1;
  if (p[0] >= 0xC2 && p[0] <= 0xDF) return continues(1) ? 2 : 0;
  if (p[0] >= 0xE0 && p[0] <= 0xEF) {
    if (!continues(1) || !continues(2)) return 0;
    if (p[0] == 0xE0 && p[1] < 0xA0) return 0;
    if (p[0] == 0xED && p[1] > 0x9F) return 0;
    return 3;
  }
  if (p[0] >= 0xF0 && p[0] <= 0xF4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if (p[0] == 0xF0 && p[1] < 0x90) return 0;
    if (p[0] == 0xF4 && p[1] > 0x8F) return 0;
    return 4;
  }
  return 0;
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  Parser(const std::string& text, const std::string& file) : text_(text), file_(file) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("expected the end of the document");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& rule) const {
    throw Error(TL_BAD_FILE, quoted(file_) + ": invalid JSON at byte " + std::to_string(at_) + ": " + rule +
                                 (at_ < text_.size() ? ", found byte " + std::to_string(byte(at_)) : ", found the end"));
  }

  int byte(size_t i) const { return static_cast<unsigned char>(text_[i]); }
  bool looking_at(char c) const { return at_ < text_.size() && text_[at_] == c; }

  void skip_space() {
    while (at_ < text_.size() && std::strchr(" \t\n\r", text_[at_]) != nullptr && text_[at_] != '\0') ++at_;
  }

  Json parse_value(int depth) {
    if (++values_ > kMaxValues) fail("more than " + std::to_string(kMaxValues) + " values");
    skip_space();
    if (at_ == text_.size()) fail("expected a value");
    if (depth == kMaxDepth && (looking_at('{') || looking_at('['))) fail("nesting deeper than " + std::to_string(kMaxDepth));
    switch (text_[at_]) {
      case '{': return parse_object(depth);
      case '[': return parse_array(depth);
      case '"': return Json(parse_string());
      case 't': literal("true"); return Json(true);
      case 'f': literal("false"); return Json(false);
      case 'n': literal("null"); return Json(nullptr);
      default: return parse_number();
    }
  }

  void literal(const char* word) {
    const size_t length = std::strlen(word);
    if (text_.compare(at_, length, word) != 0) fail("expected a value");
    at_ += length;
  }

  Json parse_array(int depth) {
    Json::Array items;
    ++at_;
    skip_space();
    if (looking_at(']')) {
      ++at_;
      return Json(std::move(items));
    }
    while (true) {
      items.push_back(parse_value(depth + 1));
      skip_space();
      if (looking_at(']')) break;
      if (!looking_at(',')) fail("expected ',' or ']'");
      ++at_;
    }
    ++at_;
    return Json(std::move(items));
  }

  Json parse_object(int depth) {
    Json::Object members;
    ++at_;
    skip_space();
    if (looking_at('}')) {
      ++at_;
      return Json(std::move(members));
    }
    while (true) {
      skip_space();
      if (!looking_at('"')) fail("expected a key in double quotes");
      std::string key = parse_string();
      skip_space();
      if (!looking_at(':')) fail("expected ':'");
      ++at_;
      members.emplace_back(std::move(key), parse_value(depth + 1));
      skip_space();
      if (looking_at('}')) break;
      if (!looking_at(',')) fail("expected ',' or '}'");
      ++at_;
    }
    std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 1; i < members.size(); ++i) {
      if (members[i].first == members[i - 1].first) {
        fail("duplicate key " + quoted(members[i].first) + " in the object that ends here");
      }
    }
    ++at_;
    return Json(std::move(members));
  }

  uint32_t parse_hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      if (is_digit(c)) {
        code = code * 16 + static_cast<uint32_t>(c - '0');
      } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
        code = code * 16 + static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      } else {
        fail("expected four hexadecimal digits after \\u");
      }
    }
    return code;
  }

  void parse_escape(std::string& out) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    if (c != 'u') {
      static const char kFrom[] = "\"\\/bfnrt";
      static const char kTo[] = "\"\\/\b\f\n\r\t";
      const char* found = c == '\0' ? nullptr : std::strchr(kFrom, c);
      if (found == nullptr) fail("unknown escape");
      out += kTo[found - kFrom];
      ++at_;
      return;
    }
    ++at_;
    uint32_t code = parse_hex4();
    if (code >= 0xDC00 && code <= 0xDFFF) fail("unpaired surrogate");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (text_.compare(at_, 2, "\\u") != 0) fail("unpaired surrogate");
      at_ += 2;
      const uint32_t low = parse_hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("unpaired surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
  }

  std::string parse_string() {
    std::string out;
    ++at_;
    while (true) {
      if (at_ == text_.size()) fail("unterminated string");
      const unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) fail("unescaped control character in a string");
      if (c == '\\') {
        ++at_;
        parse_escape(out);
        continue;
      }
      const auto* begin = reinterpret_cast<const unsigned char*>(text_.data());
      const int length = utf8_sequence(begin + at_, begin + text_.size());
      if (length == 0) fail("not UTF-8");
      out.append(text_, at_, static_cast<size_t>(length));
      at_ += static_cast<size_t>(length);
    }
    ++at_;
    return out;
  }

  void digits() {
    if (at_ == text_.size() || !is_digit(text_[at_])) fail("expected a digit");
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
  }

  Json parse_number() {
    const size_t begin = at_;
    bool integral = true;
    if (looking_at('-')) ++at_;
    if (at_ == text_.size() || !is_digit(text_[at_])) {
      at_ = begin;
      fail("expected a value");
    }
    if (looking_at('0')) {
      ++at_;
      if (at_ < text_.size() && is_digit(text_[at_])) fail("a number must not begin with 0");
    } else {
      digits();
    }
    if (looking_at('.')) {
      integral = false;
      ++at_;
      digits();
    }
    if (looking_at('e') || looking_at('E')) {
      integral = false;
      ++at_;
      if (looking_at('+') || looking_at('-')) ++at_;
      digits();
    }
    const char* first = text_.data() + begin;
    const char* last = text_.data() + at_;
    if (integral) {
      int64_t value = 0;
      if (std::from_chars(first, last, value).ec == std::errc()) return Json(value);
    }
    // from_chars, not strtod: the host process may have set a locale with a decimal comma.
    double value = 0;
    const auto parsed = std::from_chars(first, last, value);
    if (parsed.ec != std::errc() || !std::isfinite(value)) {
      at_ = begin;
      fail("number beyond the range of a double");
    }
    return Json(value);
  }

  const std::string& text_;
  const std::string& file_;
  size_t at_ = 0;
  int64_t values_ = 0;
};

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::optional<double> Json::number() const {
  if (const int64_t* value = integer()) return static_cast<double>(*value);
  if (const double* value = std::get_if<double>(&value_)) return *value;
  return std::nullopt;
}

const Json* Json::find(const std::string& key) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  const auto found = std::lower_bound(members->begin(), members->end(), key,
                                      [](const auto& member, const std::string& k) { return member.first < k; });
  return found != members->end() && found->first == key ? &found->second : nullptr;
}

std::string Json::brief() const {
  if (is_null()) return "null";
  if (const bool* value = boolean()) return *value ? "true" : "false";
  if (const int64_t* value = integer()) return std::to_string(*value);
  if (const double* value = std::get_if<double>(&value_)) {
    char buffer[40];
    const auto written = std::to_chars(buffer, buffer + sizeof buffer, *value);
    return std::string(buffer, written.ptr);
  }
  if (const std::string* value = string()) return quoted(*value);
  if (const Array* value = array()) return "array of " + std::to_string(value->size());
  return "object of " + std::to_string(object()->size());
}

Json parse_json(const std::string& text, const std::string& file) { return Parser(text, file).document(); }

Json read_json_file(const std::string& path, int64_t max_bytes) {
  int64_t bytes = 0;
  const Descriptor file(open_regular_file(path, &bytes));
  if (bytes > max_bytes) {
    throw Error(TL_BAD_FILE, quoted(path) + ": file of " + std::to_string(bytes) + " bytes, the limit is " +
                                 std::to_string(max_bytes));
  }
  std::string text(static_cast<size_t>(bytes), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.get(), &text[done], text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(TL_BAD_FILE, quoted(path) + ": cannot be read: " + std::strerror(errno));
    if (got == 0) {
      throw Error(TL_BAD_FILE, quoted(path) + ": file became shorter than " + std::to_string(bytes) + " bytes while it was read");
    }
    done += static_cast<size_t>(got);
  }
  return parse_json(text, path);
}

std::string quoted(const std::string& text) {
  // Long texts lose their middle: the end of a path names the file.
  constexpr size_t kHead = 100, kTail = 200;
  static const char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
  for (size_t i = 0; i < text.size();) {
    if (i >= kHead && text.size() > kHead + kTail && i < text.size() - kTail) {
      out += "…";
      i = text.size() - kTail;
    }
    const int length = utf8_sequence(begin + i, begin + text.size());
    if (length == 0 || begin[i] < 0x20 || begin[i] == 0x7F) {
      out += "\\x";
      out += kHex[begin[i] >> 4];
      out += kHex[begin[i] & 15];
      ++i;
      continue;
    }
    if (text[i] == '"' || text[i] == '\\') out += '\\';
    out.append(text, i, static_cast<size_t>(length));
    i += static_cast<size_t>(length);
  }
  return out + "\"";
}

int open_regular_file(const std::string& path, int64_t* bytes) {
  if (path.find('\0') != std::string::npos) {
    throw Error(TL_NOT_FOUND, quoted(path) + ": a path must not contain a zero byte");
  }
  // O_NONBLOCK: opening a FIFO must fail below instead of waiting for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int reason = errno;
    const bool absent = reason == ENOENT || reason == ENOTDIR || reason == ENAMETOOLONG;
    throw Error(absent ? TL_NOT_FOUND : TL_BAD_FILE, quoted(path) + ": cannot be opened: " + std::strerror(reason));
  }
  struct stat status;
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    const bool directory = S_ISDIR(status.st_mode);
    ::close(fd);
    throw Error(TL_BAD_FILE, quoted(path) + ": not a regular file" + (directory ? " but a directory" : ""));
  }
  *bytes = static_cast<int64_t>(status.st_size);
  return fd;
}

}  // namespace tlora
