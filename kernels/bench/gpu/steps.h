// Tokens per second of whole steps (forward, backward, AdamW of all jobs), and the device's memory at its highest.
#pragma once

#include <memory>

#include "engine.h"

namespace bench {

struct Config {
  std::string name;
  std::vector<Job> jobs;
  int length;  // tokens per sequence
};

inline std::vector<Job> jobs_of(int count, const Job& job) { return std::vector<Job>(static_cast<size_t>(count), job); }

// Ranks 2, 4, 8, 16 twice, with 1, 2, 4, 8 sequences per step: 30 in all.
inline std::vector<Job> heterogeneous_jobs() {
  std::vector<Job> jobs;
  for (int round = 0; round < 2; ++round)
    for (int i = 0; i < 4; ++i) jobs.push_back({2 << i, 1 << i, kAllModules, 0});
  return jobs;
}

// Configurations of one entry take turns, step by step, so that a change of the clocks hits all alike: these are compared
// with each other. In order of their need, since a workspace only grows: what the driver counts during one is then its own.
inline std::vector<std::vector<Config>> step_configs() {
  const Job one{16, 1, kAllModules, 0};
  return {
      {{"one small job, 512", {one}, 512}},
      {{"4 jobs r16, 8192 in segments of 2048", jobs_of(4, one), 2048}},
      {{"16 jobs r16, 8192 in segments of 512", jobs_of(16, one), 512},
       {"1 job r16, 8192 in segments of 512", {{16, 16, kAllModules, 0}}, 512},
       // The nearest to the frozen base's forward and dX that can be asked for: all of dX, next to no adapter.
       {"1 job r2 on q_proj, 8192 in segments of 512", {{2, 16, 1u << TL_Q_PROJ, 0}}, 512}},
      {{"8 mixed jobs, 15360 in segments of 512", heterogeneous_jobs(), 512}},
      {{"8 jobs r16, 16384 in segments of 512", jobs_of(8, {16, 4, kAllModules, 0}), 512}},
  };
}

// A text in quotes on the command line picks the configurations whose name contains it; none: all.
inline bool picked(const Options& o, const std::string& name) {
  return o.configs.empty() || std::any_of(o.configs.begin(), o.configs.end(), [&](const std::string& c) { return name.find(c) != std::string::npos; });
}

inline void run_steps(const Options& o, Model& model, const DeviceMemory& memory) {
  const double flops_per_token = 4 * model.active_parameters();
  std::vector<Json> rows;
  // After each configuration: what is cut short keeps what it has.
  const auto write = [&] {
    Json out;
    out.add("model", model_json(o, model)).add("flops_per_token", flops_per_token).add("sustained_tflops", o.sustained);
    if (o.sustained > 0) out.add("limit_tokens_per_second", o.sustained * 1e12 / flops_per_token);
    out.add("rows", rows);
    write_json(o, "steps-" + o.name, out);
  };
  for (const std::vector<Config>& together : step_configs()) {
    struct Entry {
      Config config;
      tl_memory_request estimate;
      std::unique_ptr<Group> group;
      std::vector<double> seconds, optimizer;
      int64_t peak = 0;
      double first_loss = 0;
    };
    std::vector<Entry> entries;
    for (const Config& c : together) {
      if (!picked(o, c.name)) continue;
      Entry e;
      e.config = c;
      e.config.length = std::max(1, c.length / o.shrink);
      e.estimate = estimate(model, c.jobs, e.config.length);
      entries.push_back(std::move(e));
    }
    for (Entry& e : entries) {
      e.group = std::make_unique<Group>(model, e.config.jobs, e.config.length);
      PeakMemory peak(memory);
      e.group->step(o.micro_batch);
      e.first_loss = e.group->batch.loss();
      e.peak = peak.stop();
    }
    if (entries.empty()) continue;
    // Short steps are many, so that the median is of a second of work.
    const int steps = entries[0].group->batch.size() < 2048 / o.shrink ? 4 * o.steps : o.steps;
    for (int i = 1 - o.warmup; i <= steps; ++i)
      for (Entry& e : entries) {
        const double start = now();
        const double middle = e.group->step(o.micro_batch);
        const double end = now();
        if (i <= 0) continue;
        e.seconds.push_back(end - start);
        e.optimizer.push_back(end - middle);
      }
    for (Entry& e : entries) {
      const double tokens = static_cast<double>(e.group->batch.size()), seconds = median(e.seconds);
      const double best = *std::min_element(e.seconds.begin(), e.seconds.end());
      std::vector<double> ranks;
      for (const Job& job : e.config.jobs) ranks.push_back(job.rank);
      Json row;
      row.add("config", e.config.name).add("tokens", tokens).add("segment", e.config.length).add("ranks", ranks);
      row.add("sequences", static_cast<int64_t>(e.group->batch.segments.size())).add("steps", static_cast<int64_t>(e.seconds.size()));
      row.add("recompute", recompute_name(e.estimate.recompute));
      row.add("tokens_per_second", tokens / seconds).add("tokens_per_second_best", tokens / best);
      row.add("step_ms", seconds * 1e3).add("optimizer_ms", median(e.optimizer) * 1e3);
      row.add("tflops", flops_per_token * tokens / seconds / 1e12);
      if (o.sustained > 0) row.add("percent_of_limit", 100 * flops_per_token * tokens / seconds / 1e12 / o.sustained);
      row.add("device_bytes", e.peak).add("alone_on_device", entries.size() == 1);
      row.add("first_loss", e.first_loss).add("last_loss", e.group->batch.loss());
      say("%-48s %9.0f tok/s  %8.2f ms  %6.1f GiB", e.config.name.c_str(), tokens / seconds, seconds * 1e3, static_cast<double>(e.peak) / (1 << 30));
      rows.push_back(row);
    }
    write();
  }
}

}  // namespace bench
