// The fp32 FMA rate of this machine now: what the benches' percentages are of.
#pragma once

#include <omp.h>

#include <time.h>

#include <algorithm>
#include <chrono>

#include "cpu/vec.h"

namespace tlora::bench {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Time that this thread ran: on a shared machine the wall clock of one thread measures the neighbours.
inline double thread_seconds_now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// FLOP/s of independent multiply-adds in registers on `threads` threads at once; the best of several short runs.
inline double fma_peak(int threads) {
  using cpu::Vec;
  constexpr int kChains = 12;  // 2 units x 4 cycles of latency, with room
  constexpr int64_t kRounds = 400000;
  double best = 0;
  for (int repeat = 0; repeat < 15; ++repeat) {
    double slowest = 0;
#pragma omp parallel num_threads(threads) reduction(max : slowest)
    {
      Vec a[kChains], x = cpu::broadcast(0.999f), y = cpu::broadcast(1e-9f);
      for (Vec& v : a) v = cpu::broadcast(1.0f);
#pragma omp barrier
      const double start = threads == 1 ? thread_seconds_now() : seconds_now();
      for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
        for (int j = 0; j < kChains; ++j) a[j] = a[j] * x + y;
        asm volatile("" : "+x"(x));  // keeps the rounds apart without touching memory
      }
      slowest = (threads == 1 ? thread_seconds_now() : seconds_now()) - start;
      float sink = 0;
      for (const Vec& v : a) sink += cpu::sum_lanes(v);
      asm volatile("" : : "r"(sink));
    }
    best = std::max(best, 2.0 * kChains * cpu::kLanes * static_cast<double>(kRounds) * threads / slowest);
  }
  return best;
}

}  // namespace tlora::bench
