// A minimal test registry; main.cpp runs what all test files of the program registered.
//
//   TEST(adds_numbers) { CHECK(1 + 1 == 2); CHECK_MSG(sum == 2, "sum is %d", sum); }
//
// CHECK notes a failure and goes on; REQUIRE ends the test; both have a _MSG form with a printf format and its values, which
// are printed when the check fails. SKIP ends the test and says why. `program TEXT…` runs the tests whose name contains one of
// the texts.
// Exit status 0 when no test failed and at least one was found.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

namespace harness {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Register {
  Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

struct Stop {};

struct State {
  int failures = 0;  // of the running test
  bool skipped = false;
};

inline State& state() {
  static State current;
  return current;
}

inline void print(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline void print(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
}

inline int run(int argc, char** argv) {
  // Line by line, so that what a crashing test said before is seen.
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int passed = 0, failed = 0, skipped = 0;
  for (const Test& test : tests()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted |= std::strstr(test.name, argv[i]) != nullptr;
    if (!wanted) continue;
    state() = State();
    try {
      test.body();
    } catch (const Stop&) {
    } catch (const std::exception& error) {
      ++state().failures;
      std::printf("  uncaught: %s\n", error.what());
    }
    const char* verdict = state().failures > 0 ? "FAIL" : state().skipped ? "skip" : "ok";
    ++(state().failures > 0 ? failed : state().skipped ? skipped : passed);
    std::printf("%-4s %s\n", verdict, test.name);
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed > 0 || passed + skipped == 0 ? 1 : 0;
}

}  // namespace harness

#define TEST(name)                                                 \
  static void test_##name();                                       \
  static const harness::Register register_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(...) HARNESS_CHECK((__VA_ARGS__), #__VA_ARGS__, (void)0, " ")
#define CHECK_MSG(condition, ...) HARNESS_CHECK((condition), #condition, (void)0, __VA_ARGS__)
#define REQUIRE(...) HARNESS_CHECK((__VA_ARGS__), #__VA_ARGS__, throw harness::Stop(), " ")
#define REQUIRE_MSG(condition, ...) HARNESS_CHECK((condition), #condition, throw harness::Stop(), __VA_ARGS__)
#define HARNESS_CHECK(condition, text, then, ...)             \
  do {                                                        \
    if (!condition) {                                         \
      ++harness::state().failures;                            \
      std::printf("  %s:%d: %s  ", __FILE__, __LINE__, text); \
      harness::print(__VA_ARGS__);                            \
      std::printf("\n");                                      \
      then;                                                   \
    }                                                         \
  } while (0)

#define SKIP(...)                   \
  do {                              \
    harness::state().skipped = true; \
    std::printf("  skipped: ");     \
    harness::print(__VA_ARGS__);    \
    std::printf("\n");              \
    throw harness::Stop();          \
  } while (0)
