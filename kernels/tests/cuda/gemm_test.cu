// The group GEMMs (gemm_generic, gemm_sm90) against a double-precision loop over the bf16 inputs, and their bits: no
// row may show its neighbours, its place, m, or where its adapter lies. Whatever is not an operand is NaN (or huge,
// where the contract says finite), and every element of `out` that is not a result must keep its poison.
#include <algorithm>
#include <cmath>
#include <set>

#include "cuda/cublaslt.h"
#include "device.h"

namespace {

using namespace device;
using cuda::Gemm;

struct Kernel {
  const char* name;
  void (*run)(cudaStream_t, const Gemm&);
  bool sm90_only;
};
const Kernel kKernels[] = {{"generic", cuda::gemm_generic, false}, {"sm90", cuda::gemm_sm90, true}};

template <class Body>
void for_each_kernel(const Body& body) {
  for (const Kernel& kernel : kKernels) {
    if (kernel.sm90_only && !is_sm90()) {
      std::printf("  not run here: gemm_%s wants a device of compute capability 9.0\n", kernel.name);
      continue;
    }
    body(kernel);
  }
}

// Rows of random numbers in (-1, 1): element c of the row named by four numbers.
class Noise {
 public:
  Noise() : pool_(size_t{1} << 20) {
    for (size_t i = 0; i < pool_.size(); ++i) pool_[i] = to_bf16(static_cast<float>(noise(i, 1, 2, 3)));
  }
  size_t row(uint64_t a, uint64_t b, uint64_t c, uint64_t d) const {
    return static_cast<size_t>((noise(a, b, c, d) + 1.0) * 0.5 * static_cast<double>(pool_.size()));
  }
  bf16 at(size_t row, int64_t c) const { return pool_[(row + static_cast<size_t>(c) * 7) % pool_.size()]; }

 private:
  std::vector<bf16> pool_;
};
const Noise& random_rows() {
  static const Noise instance;
  return instance;
}

constexpr uint64_t kHostile = 1000;  // sequences of this content or more: activations and strips are NaN and infinity

struct Setup {
  int64_t n = 0, k = 0;
  bool k_major = true;
  std::vector<int64_t> part_n;  // forward: sums to n; backward: as many entries as parts
  std::vector<AdapterSpec> adapters;
  std::vector<uint64_t> adapter_content;  // equal content: equal weights
  std::vector<SequenceSpec> sequences;
  std::vector<int32_t> homes;  // empty: side by side
  int64_t capacity = 0;        // 0: as much as the adapters take
  bool bias = false;
  int residual = 0;  // 1: a matrix of its own, 2: out itself
  bool fp32 = false;
  int64_t extra_ld = 8;  // columns of every matrix beyond the needed ones
};

Setup plain(int64_t m, int64_t n, int64_t k, bool k_major) {
  Setup s;
  s.n = n;
  s.k = k;
  s.k_major = k_major;
  s.part_n = {n};
  s.sequences = {{-1, m, 7}};
  return s;
}

int64_t up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

struct HostMatrix {
  HostMatrix(int64_t rows_, int64_t ld_, float value)
      : rows(rows_), ld(ld_), values(static_cast<size_t>(rows_ * ld_), to_bf16(value)) {}
  bf16& at(int64_t r, int64_t c) { return values[static_cast<size_t>(r * ld + c)]; }
  double get(int64_t r, int64_t c) const { return to_float(values[static_cast<size_t>(r * ld + c)]); }
  int64_t rows, ld;
  std::vector<bf16> values;
};

class Case {
 public:
  explicit Case(const Setup& setup)
      : s(setup),
        batch(setup.adapters, setup.sequences, true, setup.homes),
        m(batch.tokens()),
        parts(static_cast<int>(setup.part_n.size())),
        a_(padded(m), up(s.k, 8) + s.extra_ld, NAN),
        b_(s.k_major ? s.n : s.k, up(s.k_major ? s.k : s.n, 8) + s.extra_ld, NAN),
        residual_(padded(m), up(s.n, 8) + s.extra_ld, NAN),
        strip_(0, 0, 0),
        home_(0, 0, 0) {
    const Noise& random = random_rows();
    for (const SequenceSpec& spec : s.sequences)
      for (int64_t t = 0; t < spec.length; ++t) {
        owner_.push_back(spec.adapter);
        content_.push_back(spec.content);
        position_.push_back(t);
      }
    for (int64_t r = 0; r < m; ++r) {
      const size_t row = random.row(1, content(r), position(r), 0),
                   residual_row = random.row(2, content(r), position(r), 0);
      for (int64_t c = 0; c < s.k; ++c) a_.at(r, c) = content(r) >= kHostile ? hostile(r + c) : random.at(row, c);
      for (int64_t c = 0; c < s.n; ++c)
        residual_.at(r, c) = content(r) >= kHostile ? hostile(r + c) : random.at(residual_row, c);
    }
    for (int64_t r = 0; r < b_.rows; ++r) {
      const size_t row = random.row(3, static_cast<uint64_t>(r), 0, 0);
      for (int64_t c = 0; c < (s.k_major ? s.k : s.n); ++c) b_.at(r, c) = random.at(row, c);
    }
    bias_.resize(static_cast<size_t>(s.n));
    for (int64_t c = 0; c < s.n; ++c)
      bias_[static_cast<size_t>(c)] = static_cast<float>(noise(4, static_cast<uint64_t>(c), 0, 0));
    if (!s.adapters.empty()) make_strips();

    upload(a_, device_a_);
    upload(b_, device_b_);
    upload(residual_, device_residual_);
    device_bias_ = Buffer<float>(bias_);
    ldc_ = residual_.ld;
    out_ = Buffer<char>(padded(m) * ldc_ * (s.fp32 ? 4 : 2));

    gemm.m = m;
    gemm.n = s.n;
    gemm.k = s.k;
    gemm.a = device_a_.data();
    gemm.lda = a_.ld;
    gemm.b = device_b_.data();
    gemm.ldb = b_.ld;
    gemm.b_is_k_major = s.k_major;
    gemm.parts = parts;
    for (int p = 0; p < parts; ++p) {
      gemm.part_n[p] = s.part_n[static_cast<size_t>(p)];
      gemm.part_bit[p] = 1u << p;
    }
    if (!s.adapters.empty()) {
      gemm.strip = device_strip_.data();
      gemm.ld_strip = strip_.ld;
      gemm.strip_rows = padded(m);
      gemm.home = device_home_.data();
      gemm.ld_home = home_.ld;
      gemm.capacity = capacity_;
      gemm.chunks = batch.tables.strip_chunks;
      gemm.chunk_first = batch.tables.chunk_first;
    }
    gemm.out = out_.data();
    gemm.ldc = ldc_;
    gemm.out_fp32 = s.fp32;
    gemm.bias = s.bias ? device_bias_.data() : nullptr;
    if (s.residual == 1) gemm.residual = device_residual_.data();
    if (s.residual == 2) gemm.residual = reinterpret_cast<const bf16*>(out_.data());
    gemm.ld_residual = ldc_;
    gemm.padded_rows = padded(m);
  }

  void run(const Kernel& kernel) {
    out_.poison();
    if (s.residual == 2)
      cuda::check(cudaMemcpy2D(out_.data(), static_cast<size_t>(ldc_) * 2, device_residual_.data(),
                               static_cast<size_t>(ldc_) * 2, static_cast<size_t>(s.n) * 2, static_cast<size_t>(m),
                               cudaMemcpyDeviceToDevice),
                  "cudaMemcpy2D");
    synchronize();
    kernel.run(nullptr, gemm);
    synchronize();
    result_ = out_.get();
  }

  void check(const std::string& kernel) const {
    const std::string name = kernel + " " + describe();
    const size_t size = s.fp32 ? 4 : 2;
    int64_t touched = 0, missing = 0;
    for (int64_t r = 0; r < padded(m); ++r)
      for (int64_t c = 0; c < ldc_; ++c) {
        bool poison = true;
        for (size_t i = 0; i < size; ++i)
          poison = poison && result_[static_cast<size_t>(r * ldc_ + c) * size + i] == '\xff';
        if (r < m && c < s.n) {
          missing += poison || !std::isfinite(value(r, c));
        } else {
          touched += !poison;
        }
      }
    CHECK_MSG(missing == 0, "%s: %lld elements not written or not finite", name.c_str(),
              static_cast<long long>(missing));
    CHECK_MSG(touched == 0, "%s: %lld elements outside the result were written", name.c_str(),
              static_cast<long long>(touched));
    const bool all = m * s.n * s.k <= 20000000;
    Comparison comparison;
    for (const int64_t r : sample(m, all ? m : 40))
      for (const int64_t c : sample(s.n, all ? s.n : 60)) comparison.add(value(r, c), reference(r, c));
    comparison.check(name, s.fp32 ? 1e-5 : 4e-3);
  }

  // The result's bits in the rows of all sequences of one content.
  std::string rows_of(uint64_t wanted) const {
    const size_t size = s.fp32 ? 4 : 2;
    std::string bits;
    for (int64_t r = 0; r < m; ++r)
      if (content(r) == wanted)
        bits.append(&result_[static_cast<size_t>(r * ldc_) * size], static_cast<size_t>(s.n) * size);
    return bits;
  }

  std::string describe() const {
    std::string text = "m " + std::to_string(m) + " n " + std::to_string(s.n) + " k " + std::to_string(s.k) +
                       (s.k_major ? " forward" : " backward") + " parts " + std::to_string(parts) + " adapters " +
                       std::to_string(s.adapters.size());
    if (s.bias) text += " bias";
    if (s.residual) text += s.residual == 1 ? " residual" : " residual in place";
    return text + (s.fp32 ? " fp32" : "");
  }

  const Setup s;
  TestBatch batch;
  const int64_t m;
  const int parts;
  Gemm gemm;

 private:
  static bf16 hostile(int64_t i) { return to_bf16(i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY); }
  uint64_t content(int64_t r) const { return content_[static_cast<size_t>(r)]; }
  uint64_t position(int64_t r) const { return static_cast<uint64_t>(position_[static_cast<size_t>(r)]); }

  void make_strips() {
    const Noise& random = random_rows();
    // Adapters lie in the strips in the order of their first sequence.
    int32_t width = 0;
    batch_column_.assign(s.adapters.size(), -1);
    for (const SequenceSpec& q : s.sequences)
      if (q.adapter >= 0 && batch_column_[static_cast<size_t>(q.adapter)] < 0) {
        batch_column_[static_cast<size_t>(q.adapter)] = width;
        width += static_cast<int32_t>(up(s.adapters[static_cast<size_t>(q.adapter)].rank, 16));
      }
    REQUIRE(width == batch.tables.strip_columns);
    capacity_ = s.capacity;
    for (size_t i = 0; i < s.adapters.size(); ++i)
      capacity_ = std::max<int64_t>(capacity_, batch.homes[i] + up(s.adapters[i].rank, 16));

    strip_ = HostMatrix(parts * padded(m), up(width, 8) + s.extra_ld, NAN);
    for (int p = 0; p < parts; ++p)
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < width; ++c) strip_.at(p * padded(m) + r, c) = to_bf16(0);
        const int owner = owner_[static_cast<size_t>(r)];
        if (owner < 0 || !(s.adapters[static_cast<size_t>(owner)].targets >> p & 1u)) continue;
        const size_t row = random.row(5, content(r), position(r), static_cast<uint64_t>(p));
        for (int64_t c = 0; c < s.adapters[static_cast<size_t>(owner)].rank; ++c)
          strip_.at(p * padded(m) + r, batch_column_[static_cast<size_t>(owner)] + c) =
              content(r) >= kHostile ? hostile(r + c) : random.at(row, c);
      }

    // Homes are finite everywhere, so columns of nobody are huge rather than NaN.
    home_ = s.k_major ? HostMatrix(s.n, up(capacity_, 8) + s.extra_ld, 1e30f)
                      : HostMatrix(parts * capacity_, up(s.n, 8) + s.extra_ld, 1e30f);
    for (size_t i = 0; i < s.adapters.size(); ++i)
      for (int64_t c = 0; c < up(s.adapters[i].rank, 16); ++c)
        for (int p = 0; p < (s.k_major ? 1 : parts); ++p) {
          const size_t row = random.row(6, s.adapter_content[i], static_cast<uint64_t>(c), static_cast<uint64_t>(p));
          for (int64_t column = 0; column < s.n; ++column) {
            bf16& element =
                s.k_major ? home_.at(column, batch.homes[i] + c) : home_.at(p * capacity_ + batch.homes[i] + c, column);
            element = c < s.adapters[i].rank ? random.at(row, column) : to_bf16(0);
          }
        }
    upload(strip_, device_strip_);
    upload(home_, device_home_);
  }

  static void upload(const HostMatrix& from, Buffer<bf16>& to) { to = Buffer<bf16>(from.values); }

  // About `count` of [0, size): the ends of 128-row blocks and 64-column groups first, then spread.
  static std::set<int64_t> sample(int64_t size, int64_t count) {
    std::set<int64_t> chosen;
    for (const int64_t i : {int64_t{0}, int64_t{1}, size - 1, size - 2, int64_t{63}, int64_t{64}, int64_t{127},
                            int64_t{128}, int64_t{255}, int64_t{256}})
      if (i >= 0 && i < size) chosen.insert(i);
    for (int64_t i = 0; i < count; ++i) chosen.insert(i * size / count);
    return chosen;
  }

  double reference(int64_t r, int64_t c) const {
    double sum = 0;
    for (int64_t i = 0; i < s.k; ++i) sum += a_.get(r, i) * (s.k_major ? b_.get(c, i) : b_.get(i, c));
    const int owner = owner_[static_cast<size_t>(r)];
    int64_t before = 0;
    for (int p = 0; owner >= 0 && p < parts; ++p) {
      const bool own_part = c >= before && c < before + s.part_n[static_cast<size_t>(p)];
      before += s.part_n[static_cast<size_t>(p)];
      if ((s.k_major && !own_part) || !(s.adapters[static_cast<size_t>(owner)].targets >> p & 1u)) continue;
      const int32_t home = batch.homes[static_cast<size_t>(owner)], column = batch_column_[static_cast<size_t>(owner)];
      for (int64_t i = 0; i < s.adapters[static_cast<size_t>(owner)].rank; ++i)
        sum += strip_.get(p * padded(m) + r, column + i) *
               (s.k_major ? home_.get(c, home + i) : home_.get(p * capacity_ + home + i, c));
    }
    if (s.bias) sum += bias_[static_cast<size_t>(c)];
    if (s.residual) sum += residual_.get(r, c);
    return sum;
  }

  double value(int64_t r, int64_t c) const {
    const char* at = &result_[static_cast<size_t>(r * ldc_ + c) * (s.fp32 ? 4 : 2)];
    if (s.fp32) {
      float f;
      std::memcpy(&f, at, 4);
      return f;
    }
    bf16 h;
    std::memcpy(&h, at, 2);
    return to_float(h);
  }

  HostMatrix a_, b_, residual_, strip_, home_;
  std::vector<float> bias_;
  std::vector<int> owner_;
  std::vector<uint64_t> content_;
  std::vector<int64_t> position_;
  std::vector<int32_t> batch_column_;
  int64_t capacity_ = 0, ldc_ = 0;
  Buffer<bf16> device_a_, device_b_, device_residual_, device_strip_, device_home_;
  Buffer<float> device_bias_;
  Buffer<char> out_;
  std::vector<char> result_;
};

void run_and_check(const Setup& setup) {
  Case c(setup);
  for (const Kernel& kernel : kKernels) {
    if (kernel.sm90_only && !is_sm90()) continue;
    c.run(kernel);
    c.check(kernel.name);
  }
}

void shapes(std::initializer_list<int64_t> ms, std::initializer_list<int64_t> ns, std::initializer_list<int64_t> ks) {
  for_each_kernel([](const Kernel&) {});  // says what is left out
  int i = 0;
  for (const int64_t m : ms)
    for (const int64_t n : ns)
      for (const int64_t k : ks)
        for (const bool k_major : {true, false}) {
          Setup s = plain(m, n, k, k_major);
          const auto dice = static_cast<unsigned>((noise(99, static_cast<uint64_t>(i), 0, 0) + 1) * 1e6);
          s.bias = dice % 2 == 1;
          s.fp32 = dice / 2 % 4 == 0;
          s.residual = static_cast<int>(dice / 8 % (s.fp32 ? 2 : 3));  // a bf16 residual cannot lie in an fp32 out
          if (s.fp32 && dice / 64 % 2 == 0) s.bias = s.residual = 0;   // as the head's logits are
          s.extra_ld = 8 * (dice / 128 % 4);
          run_and_check(s);
          ++i;
        }
}

// Adapters of all the ranks of the contract's edges, each for other modules; sequence borders inside and at the ends of
// 128-row blocks, some of the frozen base.
Setup many_adapters(bool k_major, std::vector<int64_t> part_n, int64_t backward_n, int64_t k) {
  Setup s;
  s.k_major = k_major;
  s.part_n = part_n;
  s.n = backward_n;
  if (k_major) {
    s.n = 0;
    for (const int64_t n : part_n) s.n += n;
  }
  s.k = k;
  s.adapters = {{1, 7, 0}, {3, 1, 0}, {16, 6, 0}, {64, 7, 0}, {128, 5, 0}, {200, 7, 0}};
  s.adapter_content = {11, 12, 13, 14, 15, 16};
  s.sequences = {{2, 37, 1},  {-1, 20, 2}, {0, 5, 3}, {5, 100, 4}, {1, 94, 5},
                 {3, 129, 6}, {4, 127, 7}, {2, 1, 8}, {0, 64, 9},  {-1, 3, 10}};
  s.homes = {400, 0, 16, 48, 128, 432};  // neither in batch order nor without gaps
  s.capacity = 656;
  return s;
}

TEST(gemm_shapes_small) {
  REQUIRE_GPU();
  shapes({1, 127, 129}, {5, 8, 48, 50, 200, 203}, {5, 33, 64, 70, 90});
}

TEST(gemm_shapes_medium) {
  REQUIRE_GPU();
  shapes({1, 127, 129, 512}, {8, 200, 1000, 1001}, {70, 1100});
}

TEST(gemm_shapes_large) {
  REQUIRE_GPU();
  shapes({1, 129, 512}, {1000, 4096}, {64, 4096});
  shapes({2304}, {4096}, {1100});
}

TEST(gemm_strips_small) {
  REQUIRE_GPU();
  for (const bool k_major : {true, false}) {
    Setup s = many_adapters(k_major, {104, 48, 40}, 136, 70);
    run_and_check(s);
    s.bias = true;
    s.fp32 = true;
    s.k = 33;
    run_and_check(s);
  }
}

TEST(gemm_strips) {
  REQUIRE_GPU();
  for (const bool k_major : {true, false})
    for (const int64_t k : {64, 1100})
      for (int i = 0; i < 7; ++i) {
        Setup s = i % 3 == 0   ? many_adapters(k_major, {1024, 256, 256}, 1000, k)
                  : i % 3 == 1 ? many_adapters(k_major, {1000, 1000}, 520, k)
                               : many_adapters(k_major, {520}, 2048, k);
        s.bias = i % 2 == 1;
        s.fp32 = i >= 5;
        s.residual = i == 5 ? 1 : i / 2 % 3;
        run_and_check(s);
      }
}

// One adapter alone fills a block; every rank by itself, so that each number of slices is seen.
TEST(gemm_strip_ranks) {
  REQUIRE_GPU();
  for (const bool k_major : {true, false})
    for (const int rank : {1, 3, 16, 17, 33, 48, 64, 80, 128, 200, 256}) {
      Setup s;
      s.k_major = k_major;
      s.part_n = {200};
      s.n = 200;
      s.k = 64;
      s.adapters = {{rank, 1, 0}};
      s.adapter_content = {21};
      s.sequences = {{0, 50, 1}, {-1, 60, 2}, {0, 30, 3}};
      s.homes = {16};
      run_and_check(s);
    }
}

// Chunks of two and three slices, whose slices meet in stages with those of other adapters and parts, before and behind chunks
// of four; a block with more of them than its partner in the cluster.
TEST(gemm_strip_slices_share_stages) {
  REQUIRE_GPU();
  for (const bool k_major : {true, false})
    for (const bool residual : {false, true}) {
      Setup s;
      s.k_major = k_major;
      s.part_n = residual ? std::vector<int64_t>{520} : std::vector<int64_t>{512, 136, 128};
      s.n = residual ? 520 : k_major ? 776 : 264;
      s.k = 200;
      s.residual = residual ? 1 : 0;
      s.adapters = {{33, 7, 0}, {17, 5, 0}, {48, 7, 0}, {64, 7, 0}, {2, 3, 0}, {112, 7, 0}, {30, 6, 0}};
      s.adapter_content = {51, 52, 53, 54, 55, 56, 57};
      s.sequences = {{0, 10, 1}, {1, 11, 2}, {2, 20, 3}, {3, 7, 4}, {4, 60, 5}, {5, 20, 6}, {6, 130, 7}, {2, 126, 8}, {-1, 5, 9}, {0, 300, 10}};
      run_and_check(s);
    }
}

// The rows of contents 4 and 6 (ranks 200 and 64): alone; among others; among hostile others at another place, in other
// batch columns and another home; with fewer rows behind them.
void isolation(int64_t n1, int64_t n2, int64_t backward_n, int64_t k, int64_t more_rows) {
  for_each_kernel([&](const Kernel& kernel) {
    for (const bool k_major : {true, false})
      for (const bool fp32 : {false, true}) {
        Setup base;
        base.k_major = k_major;
        base.part_n = {n1, n2};
        base.n = k_major ? n1 + n2 : backward_n;
        base.k = k;
        base.fp32 = fp32;
        base.bias = !fp32;
        base.residual = fp32 ? 0 : 2;

        Setup alone = base;
        alone.adapters = {{200, 3, 0}};
        alone.adapter_content = {16};
        alone.sequences = {{0, 100, 4}};

        Setup company = base;
        company.adapters = {{16, 3, 0}, {200, 3, 0}, {64, 2, 0}};
        company.adapter_content = {31, 16, 14};
        company.sequences = {{0, 30, 1}, {1, 100, 4}, {2, 129, 6}, {-1, 20, 2}};

        Setup hostile = base;
        hostile.adapters = {{64, 2, 0}, {128, 3, 0}, {200, 3, 0}, {3, 3, 0}};
        hostile.adapter_content = {14, 41, 16, 42};
        hostile.sequences = {{1, 77, kHostile},       {2, 100, 4},
                             {3, 9, kHostile + 1},    {0, 129, 6},
                             {-1, 200, kHostile + 2}, {1, more_rows, kHostile + 3}};
        hostile.homes = {464, 0, 192, 128};

        Case first(alone), second(company), third(hostile);
        first.run(kernel);
        second.run(kernel);
        third.run(kernel);
        const std::string name = std::string(kernel.name) + " " + second.describe();
        CHECK_MSG(first.rows_of(4).size() == static_cast<size_t>(100 * base.n * (fp32 ? 4 : 2)), "%s", name.c_str());
        CHECK_MSG(first.rows_of(4) == second.rows_of(4), "%s: rows differ in company", name.c_str());
        CHECK_MSG(first.rows_of(4) == third.rows_of(4), "%s: rows differ among hostile neighbours", name.c_str());
        CHECK_MSG(second.rows_of(6) == third.rows_of(6), "%s: rows at a block border differ among hostile neighbours",
                  name.c_str());
        second.run(kernel);
        CHECK_MSG(first.rows_of(4) == second.rows_of(4), "%s: a second run differs", name.c_str());
      }
  });
}

TEST(gemm_isolation_small) {
  REQUIRE_GPU();
  isolation(72, 48, 104, 70, 5);
}

TEST(gemm_isolation) {
  REQUIRE_GPU();
  isolation(1024, 264, 1000, 1100, 300);
}

// So many rows that other tile shapes and schedules may be chosen.
TEST(gemm_isolation_many_rows) {
  REQUIRE_GPU();
  isolation(3072, 1024, 4096, 320, 2500);
}

// A sequence cut in two calls at any row has the same bits: here its rows start at the top of the second call.
TEST(gemm_rows_do_not_know_m) {
  REQUIRE_GPU();
  for_each_kernel([](const Kernel& kernel) {
    for (const bool k_major : {true, false}) {
      Setup whole = plain(0, 200, 1100, k_major);
      whole.sequences = {{-1, 190, 1}, {-1, 129, 2}, {-1, 1, 3}};
      Setup one = whole, two = whole;
      one.sequences = {{-1, 129, 2}};
      two.sequences = {{-1, 1, 3}};
      Case a(whole), b(one), c(two);
      a.run(kernel);
      b.run(kernel);
      c.run(kernel);
      CHECK_MSG(a.rows_of(2) == b.rows_of(2), "%s %s", kernel.name, a.describe().c_str());
      CHECK_MSG(a.rows_of(3) == c.rows_of(3), "%s %s", kernel.name, a.describe().c_str());
    }
  });
}

// ---- q and k with their rotary positions ----------------------------------------------------------------------------

// All bytes of `out`, poison included.
std::string bytes_of(const Gemm& g) {
  std::string bytes(static_cast<size_t>(g.padded_rows * g.ldc) * 2, '\0');
  cuda::check(cudaMemcpy(bytes.data(), g.out, bytes.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
  return bytes;
}

// Angles of exactly the positions that the batch has.
struct Angles {
  Angles(int64_t positions, int64_t head_dim) {
    std::vector<float> c, s;
    for (int64_t p = 0; p < positions; ++p)
      for (int64_t i = 0; i < head_dim / 2; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
        c.push_back(static_cast<float>(std::cos(angle)));
        s.push_back(static_cast<float>(std::sin(angle)));
      }
    cosine = Buffer<float>(c);
    sine = Buffer<float>(s);
  }
  Buffer<float> cosine, sine;
};

// The product that rotates, against the product and rope_forward in its place: bit for bit, in all of `out`.
void rotated(const Setup& setup, int32_t head_dim) {
  const Kernel kernel = kKernels[1];
  Case apart(setup), fused(setup);
  const std::string name = fused.describe() + " heads of " + std::to_string(head_dim);
  const Angles angles(apart.batch.batch.longest, head_dim);

  apart.run(kernel);
  const std::string raw = bytes_of(apart.gemm);
  cuda::RopeArguments rope;
  rope.heads = static_cast<int32_t>(setup.part_n[0] / head_dim);
  rope.kv_heads = static_cast<int32_t>(setup.part_n[1] / head_dim);
  rope.head_dim = head_dim;
  rope.cosine = angles.cosine.data();
  rope.sine = angles.sine.data();
  bf16* const q = static_cast<bf16*>(apart.gemm.out);
  const int64_t ld = apart.gemm.ldc;
  cuda::rope_forward(nullptr, apart.batch.tables, rope, q, ld, q, ld, q + setup.part_n[0], ld);
  synchronize();
  const std::string want = bytes_of(apart.gemm);
  CHECK_MSG((want != raw) == (apart.batch.batch.longest > 1), "%s: the rotation does nothing", name.c_str());

  fused.gemm.rotation = {fused.batch.tables.position, angles.cosine.data(), angles.sine.data(), head_dim,
                         static_cast<int32_t>(setup.part_n[0] + setup.part_n[1])};
  REQUIRE_MSG(cuda::gemm_sm90_rotates(fused.gemm), "%s", name.c_str());
  for (int repeat = 0; repeat < 2; ++repeat) {
    fused.run(kernel);
    const std::string got = bytes_of(fused.gemm);
    size_t wrong = 0, first = 0;
    for (size_t i = 0; i < want.size(); ++i)
      if (got[i] != want[i] && wrong++ == 0) first = i / 2;
    CHECK_MSG(wrong == 0, "%s: %zu bytes differ, the first in row %lld, column %lld", name.c_str(), wrong,
              static_cast<long long>(first) / static_cast<long long>(fused.gemm.ldc),
              static_cast<long long>(first) % static_cast<long long>(fused.gemm.ldc));
  }
}

Setup qkv(std::vector<int64_t> part_n, int64_t k, std::vector<SequenceSpec> sequences) {
  Setup s = plain(0, part_n[0] + part_n[1] + part_n[2], k, true);
  s.part_n = std::move(part_n);
  s.sequences = std::move(sequences);
  return s;
}

// Short products, whose tiles are finished before the next begins, and long ones; strips, so that tiles begin where parts do
// and hang over their ends.
TEST(gemm_rotated) {
  REQUIRE_GPU();
  if (!is_sm90()) SKIP("gemm_sm90 wants a device of compute capability 9.0");
  struct Shape {
    int32_t head_dim;
    std::vector<int64_t> part_n;
  };
  for (const Shape& shape : {Shape{128, {1024, 256, 256}}, {128, {640, 128, 128}}, {128, {384, 384, 384}}, {64, {576, 192, 192}},
                             {64, {896, 128, 128}}, {64, {64, 64, 64}}})
    for (const int64_t k : {70, 576, 1100}) {
      Setup strips = many_adapters(true, shape.part_n, 0, k);
      rotated(strips, shape.head_dim);
      strips.bias = true;
      strips.sequences.push_back({3, 77, kHostile});
      strips.sequences.push_back({-1, 30, kHostile + 1});
      rotated(strips, shape.head_dim);
      Setup bare = qkv(shape.part_n, k, {{-1, 1, 1}, {-1, 127, 2}, {-1, 1, 3}, {-1, 200, 4}});
      bare.bias = k == 576;
      rotated(bare, shape.head_dim);
      rotated(qkv(shape.part_n, k, {{-1, 1, 1}}), shape.head_dim);
    }
}

// So many tiles that a CTA has several: a tile turns beside the products of the next. On a device of 132 multiprocessors the
// first shape of a pair has tiles of 256 columns, the second of 128; those with strips of 256.
TEST(gemm_rotated_many_tiles) {
  REQUIRE_GPU();
  if (!is_sm90()) SKIP("gemm_sm90 wants a device of compute capability 9.0");
  const std::vector<SequenceSpec> many = {{-1, 1000, 1}, {-1, 3, 2}, {-1, 900, 3}, {-1, 100, 4}},
                                  fewer = {{-1, 700, 1}, {-1, 129, 2}, {-1, 671, 3}};
  for (const int64_t k : {320, 1100, 1600}) {
    rotated(qkv({4096, 1024, 1024}, k, many), 128);
    rotated(qkv({2048, 512, 512}, k, fewer), 128);
    rotated(qkv({4032, 1024, 1024}, k, many), 64);
    rotated(qkv({2048, 512, 512}, k, fewer), 64);
    // q's last tile and k's hang over; v's tiles are not rotated.
    Setup strips = many_adapters(true, {3712, 896, 896}, 0, k);
    strips.sequences.push_back({5, 900, 11});
    strips.sequences.push_back({-1, 500, 12});
    rotated(strips, 128);
    rotated(strips, 64);
  }
}

TEST(gemm_rotates_whole_heads_only) {
  const float* const angles = reinterpret_cast<const float*>(uintptr_t{256});
  Gemm g;
  g.m = 10, g.n = 1024, g.k = 256, g.lda = g.ldb = 256, g.ldc = 1024;
  g.parts = 3, g.part_n[0] = 512, g.part_n[1] = 256, g.part_n[2] = 256;
  g.rotation = {nullptr, angles, angles, 128, 768};
  CHECK(cuda::gemm_sm90_rotates(g));
  const auto refused = [&](auto&& change) {
    Gemm other = g;
    change(other);
    return !cuda::gemm_sm90_rotates(other);
  };
  CHECK(refused([](Gemm& o) { o.rotation = {}; }));
  CHECK(refused([](Gemm& o) { o.rotation.head_dim = 32; }));
  CHECK(refused([](Gemm& o) { o.rotation.head_dim = 96; }));
  CHECK(refused([](Gemm& o) { o.part_n[0] = 448, o.part_n[1] = 320; }));
  CHECK(refused([](Gemm& o) { o.b_is_k_major = false; }));
  CHECK(refused([](Gemm& o) { o.out_fp32 = true; }));
  CHECK(refused([](Gemm& o) { o.residual = reinterpret_cast<const bf16*>(uintptr_t{256}); }));
}

// The baseline of the bench computes the same product.
TEST(gemm_cublaslt) {
  REQUIRE_GPU();
  static cuda::CublasLt library;
  std::string reason;
  if (!library.load(reason)) SKIP("cuBLASLt is not here: %s", reason.c_str());
  const Kernel kernel = {"cuBLASLt",
                         [](cudaStream_t stream, const Gemm& g) {
                           library.gemm(stream, g.b_is_k_major, g.m, g.n, g.k, g.a, g.lda, g.b, g.ldb, g.out, g.ldc,
                                        g.out_fp32);
                         },
                         false};
  for (const bool k_major : {true, false})
    for (const bool fp32 : {false, true}) {
      Setup s = plain(129, 200, 1104, k_major);
      s.fp32 = fp32;
      Case c(s);
      c.run(kernel);
      c.check(kernel.name);
    }
}

// Sums that are zero come out as +0, whatever was added to them.
TEST(gemm_zero_is_positive) {
  REQUIRE_GPU();
  for_each_kernel([](const Kernel& kernel) {
    for (const bool k_major : {true, false}) {
      Case c(plain(3, 16, 32, k_major));
      Buffer<bf16> negative_zero(
          std::vector<bf16>(static_cast<size_t>(c.gemm.padded_rows * c.gemm.lda), to_bf16(-0.0f)));
      c.gemm.a = negative_zero.data();
      c.run(kernel);
      const std::string bits = c.rows_of(7);
      CHECK_MSG(bits == std::string(3 * 16 * 2, '\0'), "%s", kernel.name);
    }
  });
}

}  // namespace
