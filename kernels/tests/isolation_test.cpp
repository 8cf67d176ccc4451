// The first promise, at the C ABI: what a job gets does not depend, in any bit, on who trains beside it, where its sequences
// lie in the batch, how they are split over calls, how many threads there are, or whether its state was moved.
#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include "engine.h"
#include "random_model.h"

namespace {

using engine::Model;
using engine::Sequence;

const random_model::Spec kSpec = [] {
  random_model::Spec s;
  s.hidden = 48;
  s.heads = 6;
  s.kv_heads = 2;
  s.head_dim = 8;
  s.intermediate = 72;
  s.vocab = 101;
  return s;
}();

const random_model::Folder& folder() {
  static const random_model::Folder shared(kSpec);
  return shared;
}

struct JobSpec {
  int rank;
  uint32_t targets;
  float dropout;
};

constexpr int kSteps = 4, kSequences = 3;

Sequence make_sequence(uint64_t job, int step, int index) {
  std::mt19937_64 random(job * 1000003 + static_cast<uint64_t>(step) * 101 + static_cast<uint64_t>(index));
  Sequence s;
  const int length = static_cast<int>(1 + random() % 33);
  for (int i = 0; i < length; ++i) {
    s.tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(kSpec.vocab)));
    s.targets.push_back(random() % 5 == 0 ? TL_IGNORE_INDEX : static_cast<int32_t>(random() % static_cast<uint64_t>(kSpec.vocab)));
  }
  s.loss_scale = 1.0f / static_cast<float>(37 + job % 23);  // neighbours have another than the job's own
  s.dropout_key = static_cast<uint64_t>(step * kSequences + index);
  return s;
}

tl_optimizer_item item(uint64_t slot, int64_t step, float rate = 1e-2f) { return {slot, step, rate, 0.9f, 0.999f, 1e-8f, 0.01f, 1.0f}; }

// Everything the job can see of its training.
struct History {
  std::string bits;
  void add(const std::vector<float>& values) { bits.append(reinterpret_cast<const char*>(values.data()), values.size() * 4); }
  void add(const tl_segment_result& r) { bits.append(reinterpret_cast<const char*>(&r), sizeof r); }
  void add(double v) { bits.append(reinterpret_cast<const char*>(&v), 8); }
};

struct Company {
  std::string name;
  int neighbours = 0;
  int place = 0;        // how many of the neighbours' sequences come before each of the job's
  bool split = false;   // one call per sequence of the job
  int threads = 1;
  bool move = false;    // export after every step, import into a fresh slot
  float neighbour_rate = 1e-2f;
  bool late = false;    // neighbours join after the first step and leave before the last
};

History train(const JobSpec& job, const Company& company, bool* neighbour_diverged = nullptr) {
  Model model(folder().path(), company.threads);
  uint64_t slot = 0;
  std::vector<uint64_t> others;
  auto join = [&] {
    for (int i = 0; i < company.neighbours; ++i)
      others.push_back(model.add(1 + 13 * i % 40, i % 3 ? 127u : 5u << i % 4, static_cast<uint64_t>(500 + i), i % 2 ? 0.2f : 0.0f));
  };
  if (!company.late) join();
  slot = model.add(job.rank, job.targets, 77, job.dropout);
  History history;
  history.add(model.get(slot, TL_STATE_WEIGHTS));
  for (int step = 1; step <= kSteps; ++step) {
    if (company.late && step == 2) join();
    if (company.late && step == kSteps) {
      for (const uint64_t other : others) OK(tl_adapter_remove(model.handle, other));
      others.clear();
    }
    std::vector<std::vector<Sequence>> calls(1);
    int foreign = 0;
    auto add_foreign = [&](int count) {
      for (; count > 0 && !others.empty(); --count, ++foreign) {
        Sequence s = make_sequence(900 + static_cast<uint64_t>(foreign), step, foreign);
        s.slot = others[static_cast<size_t>(foreign) % others.size()];
        calls.back().push_back(s);
      }
    };
    for (int i = 0; i < kSequences; ++i) {
      add_foreign(company.place);
      Sequence s = make_sequence(1, step, i);
      s.slot = slot;
      calls.back().push_back(s);
      if (company.split && i + 1 < kSequences) calls.emplace_back();
    }
    add_foreign(static_cast<int>(others.size()));
    std::vector<tl_segment_result> mine;
    for (const auto& call : calls) {
      const auto results = model.run(call);
      for (size_t i = 0; i < call.size(); ++i)
        if (call[i].slot == slot) history.add(results[i]);
    }
    history.add(model.get(slot, TL_STATE_GRADIENT));
    std::vector<tl_optimizer_item> items;
    for (const uint64_t other : others) items.push_back(item(other, step, company.neighbour_rate));
    items.insert(items.begin() + static_cast<int64_t>(items.size()) / 2, item(slot, step));
    const auto updates = model.update(items);
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].slot == slot) history.add(updates[i].grad_norm);
      if (items[i].slot == slot) CHECK(updates[i].finite == 1);
      else if (neighbour_diverged && !updates[i].finite) *neighbour_diverged = true;
    }
    for (int state = 0; state < 3; ++state) history.add(model.get(slot, state));
    if (company.move) {
      const uint64_t fresh = model.add(job.rank, job.targets, 77, job.dropout);
      for (int state = 0; state < 4; ++state) model.set(fresh, state, model.get(slot, state));
      OK(tl_adapter_remove(model.handle, slot));
      slot = fresh;
    }
  }
  const auto evaluated = model.run({[&] {
    Sequence s = make_sequence(2, 9, 0);
    s.slot = slot;
    return s;
  }()}, false);
  history.add(evaluated[0]);
  return history;
}

TEST(isolation_of_a_job) {
  const JobSpec jobs[] = {{8, 127, 0}, {3, 1u << TL_Q_PROJ | 1u << TL_V_PROJ, 0.1f}, {40, 127, 0.25f}, {1, 1u << TL_DOWN_PROJ, 0}};
  std::vector<Company> companies(1);
  companies[0].name = "again";
  auto with = [&](const char* name, const std::function<void(Company&)>& change) {
    Company c;
    c.name = name;
    change(c);
    companies.push_back(c);
  };
  with("1 neighbour", [](Company& c) { c.neighbours = 1; });
  with("3 neighbours", [](Company& c) { c.neighbours = 3; });
  with("7 neighbours", [](Company& c) { c.neighbours = 7; });
  with("7 neighbours, other place, 2 threads", [](Company& c) { c.neighbours = 7; c.place = 3; c.threads = 2; });
  with("1 neighbour first", [](Company& c) { c.neighbours = 1; c.place = 1; });
  with("one call per sequence", [](Company& c) { c.split = true; });
  with("one call per sequence among 3 neighbours", [](Company& c) { c.split = true; c.neighbours = 3; c.place = 2; });
  with("2 threads", [](Company& c) { c.threads = 2; });
  with("3 threads", [](Company& c) { c.threads = 3; });
  with("moved into fresh slots", [](Company& c) { c.move = true; });
  with("moved among 3 neighbours, 2 threads", [](Company& c) { c.move = true; c.neighbours = 3; c.place = 1; c.threads = 2; });
  with("neighbours join and leave", [](Company& c) { c.neighbours = 3; c.place = 1; c.late = true; });
  for (const JobSpec& job : jobs) {
    const History alone = train(job, Company());
    for (const Company& company : companies)
      CHECK_MSG(train(job, company).bits == alone.bits, "rank %d, dropout %g: %s", job.rank, static_cast<double>(job.dropout), company.name.c_str());
  }
}

TEST(isolation_from_a_diverged_neighbour) {
  const JobSpec job = {8, 127, 0.1f};
  const History alone = train(job, Company());
  Company company;
  company.neighbours = 3;
  company.place = 1;
  company.threads = 2;
  company.neighbour_rate = 1e25f;
  bool diverged = false;
  CHECK(train(job, company, &diverged).bits == alone.bits);
  CHECK_MSG(diverged, "the learning rate %g did not make a neighbour diverge", 1e25);
}

TEST(a_diverged_slot_keeps_its_weights) {
  Model model(folder().path(), 2);
  const uint64_t slot = model.add(8, 127, 1);
  auto run = [&] {
    Sequence s = make_sequence(1, 1, 0);
    s.slot = slot;
    return model.run({s})[0];
  };
  run();
  CHECK(model.update({item(slot, 1, 1e25f)})[0].finite == 1);
  const tl_segment_result result = run();
  CHECK(!std::isfinite(result.loss_sum));
  std::vector<float> before[3];
  for (int state = 0; state < 3; ++state) before[state] = model.get(slot, state);
  const tl_optimizer_result update = model.update({item(slot, 2)})[0];
  CHECK(update.finite == 0 && !std::isfinite(update.grad_norm));
  for (int state = 0; state < 3; ++state) CHECK(model.get(slot, state) == before[state]);
  for (const float g : model.get(slot, TL_STATE_GRADIENT)) CHECK(g == 0.0f);
}

TEST(gradients_accumulate_sequence_by_sequence) {
  // Two calls and an export/import of the gradient in between equal one call.
  const JobSpec job = {5, 127, 0};
  std::vector<float> expected;
  for (const bool split : {false, true}) {
    Model model(folder().path(), 1);
    const uint64_t slot = model.add(job.rank, job.targets, 3);
    std::vector<Sequence> sequences = {make_sequence(4, 1, 0), make_sequence(4, 1, 1)};
    for (Sequence& s : sequences) s.slot = slot;
    if (split) {
      model.run({sequences[0]});
      const std::vector<float> half = model.get(slot, TL_STATE_GRADIENT);
      OK(tl_adapter_clear_gradient(model.handle, slot));
      for (const float g : model.get(slot, TL_STATE_GRADIENT)) REQUIRE(g == 0.0f);
      model.set(slot, TL_STATE_GRADIENT, half);
      model.run({sequences[1]});
    } else {
      model.run(sequences);
    }
    const std::vector<float> gradient = model.get(slot, TL_STATE_GRADIENT);
    if (!split) expected = gradient;
    CHECK(gradient == expected);
  }
}

TEST(bf16_mode_is_isolated_and_near_fp32) {
  std::vector<float> gradients[3];
  double loss[3];
  for (int i = 0; i < 3; ++i) {
    Model model(folder().path(), 1 + i % 2, i == 0 ? TL_COMPUTE_FP32 : TL_COMPUTE_BF16);
    const uint64_t other = model.add(4, 127, 9);
    const uint64_t slot = model.add(8, 127, 3, 0.1f);
    std::vector<float> weights = model.get(slot, TL_STATE_WEIGHTS);
    for (size_t e = 0; e < weights.size(); ++e) weights[e] += 0.02f * (static_cast<float>(e % 7) - 3.0f);
    model.set(slot, TL_STATE_WEIGHTS, weights);
    std::vector<Sequence> batch = {make_sequence(3, 1, 1), make_sequence(3, 1, 2)};
    batch[0].slot = other;
    batch[1].slot = slot;
    if (i == 2) std::swap(batch[0], batch[1]);
    const auto results = model.run(batch);
    loss[i] = results[i == 2 ? 0 : 1].loss_sum;
    gradients[i] = model.get(slot, TL_STATE_GRADIENT);
  }
  CHECK(gradients[1] == gradients[2] && loss[1] == loss[2]);
  CHECK(gradients[0] != gradients[1]);
  double difference = 0, norm = 0;
  for (size_t e = 0; e < gradients[0].size(); ++e) {
    difference += std::pow(static_cast<double>(gradients[0][e]) - gradients[1][e], 2);
    norm += std::pow(static_cast<double>(gradients[0][e]), 2);
  }
  CHECK_MSG(std::fabs(loss[0] - loss[1]) < 0.02 * loss[0], "losses %g and %g", loss[0], loss[1]);
  CHECK_MSG(std::sqrt(difference / norm) < 0.1, "gradients differ by %g", std::sqrt(difference / norm));
}

}  // namespace
