// What it costs to let a job join a running engine, and to swap one out and in.
#pragma once

#include <memory>

#include "engine.h"
#include "steps.h"

namespace bench {

struct Timed {
  std::vector<double> ms;
  template <typename Body>
  void take(const Body& body) {
    const double start = now();
    body();
    ms.push_back((now() - start) * 1e3);
  }
  double typical() const { return median(ms); }
};

inline void run_latency(const Options& o, Model& model) {
  const int length = std::max(1, 512 / o.shrink), vocab = model.info().vocab, repeats = std::max(3, o.steps);
  // Seven jobs train; an eighth comes and goes.
  Group others(model, jobs_of(7, {16, 2, kAllModules, 0}), length);
  for (int i = 0; i < o.warmup; ++i) others.step();
  Timed alone;
  for (int i = 0; i < repeats; ++i) alone.take([&] { others.step(); });

  // The step of all eight: the others' batch with the newcomer's sequence behind it.
  Batch batch = others.batch;
  batch.append(0, length, 1.0f / static_cast<float>(length), 0, 99, vocab);
  int64_t newcomer_step = 0, others_step = 100;
  const auto step_of_all = [&](uint64_t slot) {
    batch.segments.back().slot = slot;
    batch.run(model);
    std::vector<tl_optimizer_item> items;
    ++others_step;
    for (const uint64_t other : others.slots) items.push_back(optimizer_item(other, others_step));
    items.push_back(optimizer_item(slot, ++newcomer_step));
    std::vector<tl_optimizer_result> updates(items.size());
    REQUIRE_OK(tl_optimizer_step(model.handle, items.data(), static_cast<int32_t>(items.size()), updates.data()));
  };

  Timed add, first_step, together;
  double first_join = 0;  // the very first, in which the workspace grows
  for (int i = 0; i < repeats; ++i) {
    newcomer_step = 0;
    uint64_t slot = 0;
    add.take([&] { slot = model.add(16, kAllModules, 7); });
    first_step.take([&] { step_of_all(slot); });
    if (i == 0) first_join = add.ms[0] + first_step.ms[0];
    for (int k = 0; k < 2; ++k) together.take([&] { step_of_all(slot); });
    model.remove(slot);
    others.step();
  }
  std::vector<double> join;
  for (size_t i = 0; i < add.ms.size(); ++i) join.push_back(add.ms[i] + first_step.ms[i] - together.typical());
  const std::vector<double> later(join.begin() + 1, join.end());

  // Out and in at once, then a step of all: its excess over a plain one is what the copies still cost behind the calls.
  newcomer_step = 0;
  const uint64_t slot = model.add(16, kAllModules, 7);
  step_of_all(slot);
  Timed offload, restore, at_once, beside, export_import;
  for (int i = 0; i < repeats; ++i) {
    at_once.take([&] {
      offload.take([&] { REQUIRE_OK(tl_adapter_offload(model.handle, slot)); });
      restore.take([&] { REQUIRE_OK(tl_adapter_restore(model.handle, slot)); });
      step_of_all(slot);
    });
  }
  // Out, a step of the others, in, a step of all: how it goes in service.
  for (int i = 0; i < repeats; ++i) {
    beside.take([&] {
      REQUIRE_OK(tl_adapter_offload(model.handle, slot));
      others.step();
      REQUIRE_OK(tl_adapter_restore(model.handle, slot));
      step_of_all(slot);
    });
  }
  // All states through the caller's memory, into a fresh slot.
  uint64_t held = slot;
  std::vector<std::vector<float>> states(3, std::vector<float>(static_cast<size_t>(model.elements(slot)), 0.0f));
  Timed exported, imported;
  for (int i = 0; i < repeats; ++i) {
    export_import.take([&] {
      const int64_t n = static_cast<int64_t>(states[0].size());
      exported.take([&] {
        for (int s = 0; s < 3; ++s) REQUIRE_OK(tl_adapter_export(model.handle, held, s, states[static_cast<size_t>(s)].data(), n));
        model.remove(held);
      });
      imported.take([&] {
        held = model.add(16, kAllModules, 7);
        for (int s = 0; s < 3; ++s) REQUIRE_OK(tl_adapter_import(model.handle, held, s, states[static_cast<size_t>(s)].data(), n));
      });
    });
    step_of_all(held);
  }
  model.remove(held);

  const auto excess = [](const Timed& t, double plain) {
    std::vector<double> ms;
    for (const double v : t.ms) ms.push_back(v - plain);
    return ms;
  };
  const std::vector<double> swap = excess(at_once, together.typical()), service = excess(beside, together.typical() + alone.typical());
  const auto numbers = [](Json& j, const char* key, const std::vector<double>& ms) {
    j.add(std::string(key) + "_ms", median(ms)).add(std::string(key) + "_all_ms", ms);
  };
  Json out;
  out.add("model", model_json(o, model)).add("tokens", batch.size()).add("adapter_bytes_of_state", static_cast<int64_t>(states[0].size()) * 16);
  out.add("step_of_7_ms", alone.typical()).add("step_of_8_ms", together.typical());
  numbers(out, "add", add.ms);
  numbers(out, "join", later);
  out.add("first_join_ms", first_join - together.typical());
  numbers(out, "offload_call", offload.ms);
  numbers(out, "restore_call", restore.ms);
  numbers(out, "swap", swap);
  numbers(out, "swap_beside_steps", service);
  numbers(out, "export", exported.ms);
  numbers(out, "import", imported.ms);
  numbers(out, "export_import", export_import.ms);
  say("add %.2f ms, join %.2f ms (the first %.2f), swap %.2f ms, export and import %.2f ms", add.typical(), median(later),
      first_join - together.typical(), median(swap), export_import.typical());
  write_json(o, "latency", out);
}

}  // namespace bench
