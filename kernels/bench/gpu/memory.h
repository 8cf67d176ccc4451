// The engine's estimate of a step against what the driver counts, under each recompute policy; refusal of what does not fit;
// and that a policy changes no bit.
#pragma once

#include <memory>

#include "bits.h"
#include "engine.h"
#include "steps.h"

namespace bench {

struct MemoryCase {
  const char* policy;
  std::vector<Job> jobs;
  int length;
};

inline std::vector<MemoryCase> memory_cases() {
  const auto job = [](int rank, int sequences, float dropout = 0) { return Job{rank, sequences, kAllModules, dropout}; };
  return {
      {"nothing", {job(16, 4)}, 512},
      {"nothing", jobs_of(4, job(16, 1)), 2048},
      {"nothing", jobs_of(16, job(16, 1)), 512},
      {"nothing", {job(2, 8), job(8, 8), job(32, 8), job(64, 8)}, 512},
      {"mlp", {job(64, 1)}, 4096},
      {"mlp", jobs_of(8, job(16, 1)), 2048},
      {"mlp", jobs_of(32, job(8, 1)), 512},
      {"layer", {job(256, 1)}, 8192},
      {"layer", jobs_of(4, job(16, 4, 0.1f)), 1024},
      {"layer", jobs_of(16, job(32, 1)), 2048},
  };
}

// More tokens than any policy has room for must be refused with a text, and leave the model as it was.
inline Json refusal(const Options& o, Model& model) {
  const int length = std::max(1, 2048 / o.shrink), vocab = model.info().vocab;
  Job job{16, 1, kAllModules, 0};
  tl_memory_request r = estimate(model, {job}, length);
  for (; r.fits && job.sequences < 4096; r = estimate(model, {job}, length)) job.sequences *= 2;
  Json out;
  if (r.fits) {
    out.add("tested", false).add("reason", "the backend has room for everything that was tried");
    return out;
  }
  Group small(model, {{16, 1, kAllModules, 0}}, std::max(1, 64 / o.shrink));
  small.batch.run(model);
  const double before = small.batch.loss();
  Batch large;
  for (int i = 0; i < job.sequences; ++i) large.append(small.slots[0], length, 1, static_cast<uint64_t>(i), static_cast<uint64_t>(i), vocab);
  large.results.resize(large.segments.size());
  const double start = now();
  const tl_status status = tl_forward_backward(model.handle, large.tokens.data(), large.targets.data(), large.size(), large.segments.data(),
                                               static_cast<int32_t>(large.segments.size()), large.results.data());
  out.add("tested", true).add("tokens", large.size()).add("needed_bytes", r.step_bytes + r.adapter_bytes).add("available_bytes", r.available_bytes);
  out.add("status", status).add("refused", status == TL_OUT_OF_MEMORY).add("refused_in_ms", (now() - start) * 1e3);
  out.add("text", status == TL_OK ? "" : last_error());
  small.batch.run(model);
  out.add("model_usable", small.batch.loss() == before);
  return out;
}

inline void run_memory(const Options& o, const DeviceMemory& memory) {
  std::vector<Json> rows;
  Json refused;
  std::vector<History> histories;
  double worst = 0, worst_of_step = 0;
  for (const char* policy : {"nothing", "mlp", "layer"}) {
    // Read once per model: each policy opens its own.
    setenv("TLORA_RECOMPUTE", policy, 1);
    Model model(o);
    const int64_t base = memory.used();
    const tl_model_info opened = model.info();
    struct Planned {
      MemoryCase test;
      tl_memory_request estimate;
    };
    std::vector<Planned> planned;
    for (MemoryCase c : memory_cases()) {
      if (c.policy != std::string(policy)) continue;
      c.length = std::max(1, c.length / o.shrink);
      planned.push_back({c, estimate(model, c.jobs, c.length)});
    }
    // A workspace only grows: the smallest first, so that each has its own.
    std::sort(planned.begin(), planned.end(), [](const Planned& a, const Planned& b) { return a.estimate.step_bytes < b.estimate.step_bytes; });
    for (const Planned& p : planned) {
      std::string jobs;
      for (const Job& job : p.test.jobs) jobs += (jobs.empty() ? "r" : " r") + std::to_string(job.rank);
      Json row;
      row.add("policy", policy).add("tokens", p.estimate.tokens).add("segment", p.test.length).add("jobs", jobs);
      row.add("recompute", recompute_name(p.estimate.recompute)).add("fits", p.estimate.fits != 0);
      if (!p.estimate.fits) {
        rows.push_back(row);
        continue;
      }
      PeakMemory peak(memory);
      tl_model_info during{};
      {
        Group group(model, p.test.jobs, p.test.length);
        group.step();
        during = model.info();
      }
      // The driver counts the base, the context and the code; without a driver, the engine's own count stands in.
      const int64_t measured = memory.known() ? peak.stop() : during.weight_bytes + during.adapter_bytes + during.workspace_bytes;
      const int64_t before = memory.known() ? base : opened.weight_bytes + opened.adapter_bytes + opened.workspace_bytes;
      const int64_t step = p.estimate.step_bytes + p.estimate.adapter_bytes;
      const double error = std::fabs(static_cast<double>(before + step - measured)) / static_cast<double>(measured);
      const double step_error = std::fabs(static_cast<double>(before + step - measured)) / static_cast<double>(std::max<int64_t>(1, measured - before));
      worst = std::max(worst, error);
      worst_of_step = std::max(worst_of_step, step_error);
      row.add("base_bytes", before).add("estimated_step_bytes", p.estimate.step_bytes).add("estimated_adapter_bytes", p.estimate.adapter_bytes);
      row.add("predicted_bytes", before + step).add("measured_bytes", measured).add("error", error).add("error_of_step_and_adapters", step_error);
      row.add("engine_workspace_bytes", during.workspace_bytes).add("engine_adapter_bytes", during.adapter_bytes);
      say("%-8s %6lld tokens, %-44.44s predicted %7.2f GiB, measured %7.2f GiB, off by %.2f%%", policy, static_cast<long long>(p.estimate.tokens),
          jobs.c_str(), static_cast<double>(before + step) / (1 << 30), static_cast<double>(measured) / (1 << 30), 100 * error);
      rows.push_back(row);
    }
    histories.push_back(History());
    train(model, bit_jobs()[0], Company{}, o, histories.back());
    if (policy == std::string("layer")) refused = refusal(o, model);
  }
  unsetenv("TLORA_RECOMPUTE");
  bool same = true;
  for (const History& h : histories) same = same && h.difference(histories[0]).empty();
  Json out;
  out.add("source", memory.known() ? "driver" : "engine").add("device_total_bytes", memory.total()).add("rows", rows).add("worst_error", worst);
  out.add("worst_error_of_step_and_adapters", worst_of_step).add("refusal", refused).add("policies_give_equal_bits", same);
  write_json(o, "memory", out);
}

}  // namespace bench
