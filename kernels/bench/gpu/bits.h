// The first promise on a large model: a job's losses, gradients, moments and weights, byte for byte, in other company, at other
// places, split, moved, swapped out and resumed in another process.
#pragma once

#include <functional>
#include <memory>
#include <random>

#include "engine.h"

namespace bench {

struct BitJob {
  const char* name;
  int rank;
  uint32_t targets;
  float dropout;
  std::vector<int> lengths;  // of the sequences of each step
};

inline const std::vector<BitJob>& bit_jobs() {
  static const std::vector<BitJob> jobs = {
      {"r16 on all modules", 16, kAllModules, 0, {512, 301, 129}},
      {"r5 on q, v and down, dropout 0.1", 5, 1u << TL_Q_PROJ | 1u << TL_V_PROJ | 1u << TL_DOWN_PROJ, 0.1f, {257, 64, 511}},
  };
  return jobs;
}

constexpr int kBitSteps = 2;

struct Company {
  std::string name;
  int neighbours = 0;
  int before = 0;         // neighbours' sequences before each of the job's
  bool split = false;     // one call per sequence of the job
  bool move = false;      // all states out and into a fresh slot, between calls and between steps
  bool swap = false;      // offloaded and restored between steps
  bool diverging = false; // a neighbour whose numbers overflow
  std::string save;       // file that gets all states after the first step
  std::string load;       // file to begin from, after the first step
};

// What a job can see of its training, by label.
class History {
 public:
  void add(const std::string& label, const void* data, size_t bytes) {
    entries_.push_back({label, hash(data, bytes), {}});
  }
  void add(const std::string& label, std::vector<float> values) {
    const uint64_t h = hash(values.data(), values.size() * 4);
    entries_.push_back({label, h, std::move(values)});
  }
  // What differs from the other's entry of the same label; empty: nothing does.
  std::string difference(const History& other) const {
    if (entries_.empty()) return "nothing recorded";
    for (const Entry& e : entries_) {
      const Entry* twin = nullptr;
      for (const Entry& o : other.entries_)
        if (o.label == e.label) twin = &o;
      if (!twin) return e.label + " is missing";
      if (e.hash == twin->hash) continue;
      if (e.values.empty() || e.values.size() != twin->values.size()) return e.label;
      size_t count = 0, first = 0;
      for (size_t i = e.values.size(); i-- > 0;)
        if (std::memcmp(&e.values[i], &twin->values[i], 4) != 0) ++count, first = i;
      return e.label + ": " + std::to_string(count) + " of " + std::to_string(e.values.size()) + " elements, the first " + std::to_string(first);
    }
    return "";
  }
  void write(const std::string& path) const {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (!file) fail("cannot write " + path);
    for (const Entry& e : entries_) std::fprintf(file, "%016llx %s\n", static_cast<unsigned long long>(e.hash), e.label.c_str());
    std::fclose(file);
  }
  void read(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "r");
    if (!file) return;
    unsigned long long h = 0;
    char label[200];
    while (std::fscanf(file, "%llx %199[^\n]", &h, label) == 2) entries_.push_back({label, h, {}});
    std::fclose(file);
  }
  Json hashes() const {
    Json j;
    for (const Entry& e : entries_) {
      char text[20];
      std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(e.hash));
      j.add(e.label, text);
    }
    return j;
  }

 private:
  struct Entry {
    std::string label;
    uint64_t hash;
    std::vector<float> values;  // kept to say how much differs
  };
  static uint64_t hash(const void* data, size_t bytes) {
    uint64_t h = 0x9E3779B97F4A7C15u ^ bytes;
    const auto* p = static_cast<const unsigned char*>(data);
    for (; bytes > 0; p += 8, bytes -= std::min<size_t>(8, bytes)) {
      uint64_t word = 0;
      std::memcpy(&word, p, std::min<size_t>(8, bytes));
      h = (h ^ word) * 0xD6E8FEB86659FD93u;
      h ^= h >> 32;
    }
    return h;
  }
  std::vector<Entry> entries_;
};

inline void save_states(Model& model, uint64_t slot, const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file) fail("cannot write " + path);
  for (int state = 0; state < 4; ++state) {
    const std::vector<float> values = model.get(slot, state);
    if (std::fwrite(values.data(), 4, values.size(), file) != values.size()) fail("cannot write " + path);
  }
  if (std::fclose(file) != 0) fail("cannot write " + path);
}

inline void load_states(Model& model, uint64_t slot, const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) fail("cannot read " + path);
  std::vector<float> values(static_cast<size_t>(model.elements(slot)));
  for (int state = 0; state < 4; ++state) {
    if (std::fread(values.data(), 4, values.size(), file) != values.size()) fail("cannot read " + path);
    model.set(slot, state, values);
  }
  std::fclose(file);
}

inline void train(Model& model, const BitJob& job, const Company& company, const Options& o, History& history) {
  constexpr uint64_t kSeed = 77;
  static const int kRanks[] = {1, 8, 64, 3, 16, 24, 2, 40, 4, 32, 5, 12, 17, 8, 16};
  const int vocab = model.info().vocab;
  std::vector<uint64_t> others;
  for (int i = 0; i < company.neighbours; ++i)
    others.push_back(model.add(kRanks[i % 15], i % 3 == 1 ? 5u << i % 4 : kAllModules, static_cast<uint64_t>(500 + i), i % 4 == 2 ? 0.2f : 0.0f));
  if (company.diverging) {
    std::vector<float> weights = model.get(others[0], TL_STATE_WEIGHTS);
    std::fill(weights.begin(), weights.end(), 1e30f);
    model.set(others[0], TL_STATE_WEIGHTS, weights);
  }
  uint64_t slot = model.add(job.rank, job.targets, kSeed, job.dropout);
  const auto move = [&] {
    const uint64_t fresh = model.add(job.rank, job.targets, kSeed, job.dropout);
    for (int state = 0; state < 4; ++state) model.set(fresh, state, model.get(slot, state));
    model.remove(slot);
    slot = fresh;
  };
  if (!company.load.empty()) load_states(model, slot, company.load);

  for (int step = company.load.empty() ? 1 : 2; step <= kBitSteps; ++step) {
    const std::string at = "step " + std::to_string(step) + " ";
    std::mt19937_64 random(static_cast<uint64_t>(step) * 7919);
    std::vector<Batch> calls(1);
    size_t foreign = 0;
    const auto add_foreign = [&](size_t count) {
      for (; count > 0 && !others.empty(); --count, ++foreign)
        calls.back().append(others[foreign % others.size()], static_cast<int>(1 + random() % static_cast<uint64_t>(std::max(1, 400 / o.shrink))),
                            1.0f / static_cast<float>(37 + foreign % 23), foreign, 9000 + foreign, vocab);
    };
    int rows = 0;
    for (const int length : job.lengths) rows += std::max(1, length / o.shrink);
    std::vector<std::pair<size_t, size_t>> mine;  // call and segment of each of the job's sequences
    for (size_t i = 0; i < job.lengths.size(); ++i) {
      add_foreign(static_cast<size_t>(company.before));
      const uint64_t index = static_cast<uint64_t>(step) * job.lengths.size() + i;
      calls.back().append(slot, std::max(1, job.lengths[i] / o.shrink), 1.0f / static_cast<float>(rows), index, index, vocab);
      mine.push_back({calls.size() - 1, calls.back().segments.size() - 1});
      if (company.split && i + 1 < job.lengths.size()) calls.emplace_back();
    }
    add_foreign(others.size());
    for (size_t c = 0; c < calls.size(); ++c) {
      if (c > 0 && company.move) move();
      for (const auto& [call, segment] : mine)
        if (call == c) calls[c].segments[segment].slot = slot;
      calls[c].run(model);
    }
    for (size_t i = 0; i < mine.size(); ++i) {
      const tl_segment_result& r = calls[mine[i].first].results[mine[i].second];
      history.add(at + "loss of sequence " + std::to_string(i), &r, sizeof r);
    }
    history.add(at + "gradient", model.get(slot, TL_STATE_GRADIENT));
    std::vector<tl_optimizer_item> items;
    for (const uint64_t other : others) items.push_back(optimizer_item(other, step, 1e-3f));
    const size_t own = items.size() / 2;
    items.insert(items.begin() + static_cast<int64_t>(own), optimizer_item(slot, step, 1e-3f));
    std::vector<tl_optimizer_result> updates(items.size());
    REQUIRE_OK(tl_optimizer_step(model.handle, items.data(), static_cast<int32_t>(items.size()), updates.data()));
    if (!updates[own].finite) fail("the job's step was not finite");
    history.add(at + "gradient norm", &updates[own].grad_norm, sizeof(double));
    history.add(at + "weights", model.get(slot, TL_STATE_WEIGHTS));
    history.add(at + "first moments", model.get(slot, TL_STATE_MOMENT1));
    history.add(at + "second moments", model.get(slot, TL_STATE_MOMENT2));
    if (company.move) move();
    if (company.swap) {
      REQUIRE_OK(tl_adapter_offload(model.handle, slot));
      REQUIRE_OK(tl_adapter_restore(model.handle, slot));
    }
    if (step == 1 && !company.save.empty()) save_states(model, slot, company.save);
  }
  model.remove(slot);
  for (const uint64_t other : others) model.remove(other);
}

inline std::vector<Company> companies() {
  std::vector<Company> all;
  const auto with = [&](const char* name, const std::function<void(Company&)>& change) {
    all.emplace_back();
    all.back().name = name;
    change(all.back());
  };
  with("alone again", [](Company&) {});
  with("3 neighbours behind", [](Company& c) { c.neighbours = 3; });
  with("7 neighbours, two before each sequence", [](Company& c) { c.neighbours = 7, c.before = 2; });
  with("15 neighbours, five before each sequence", [](Company& c) { c.neighbours = 15, c.before = 5; });
  with("one call per sequence", [](Company& c) { c.split = true; });
  with("one call per sequence, 7 neighbours", [](Company& c) { c.split = true, c.neighbours = 7, c.before = 3; });
  with("exported and imported between calls and steps", [](Company& c) { c.split = c.move = true; });
  with("offloaded and restored between steps, 3 neighbours", [](Company& c) { c.swap = true, c.neighbours = 3, c.before = 1; });
  with("beside a neighbour that diverges", [](Company& c) { c.diverging = true, c.neighbours = 3, c.before = 1; });
  return all;
}

// The second half of "resumed in another process": everything comes from the command line and the file.
inline void resume_bits(const Options& o) {
  Model model(o);
  for (size_t i = 0; i < bit_jobs().size(); ++i) {
    Company company;
    company.load = o.state + "." + std::to_string(i);
    History history;
    train(model, bit_jobs()[i], company, o, history);
    history.write(company.load + ".hashes");
  }
}

inline std::string quoted_for_shell(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Closes the model before the other process opens its own.
inline void run_bits(const Options& o, std::unique_ptr<Model>& model) {
  struct Outcome {
    History reference;
    std::vector<Json> rows;
  };
  std::vector<Outcome> outcomes(bit_jobs().size());
  bool all = true;
  const auto note = [&](size_t job, const std::string& name, const std::string& difference, double seconds) {
    all = all && difference.empty();
    say("%-36s %-52s %s (%.1f s)", bit_jobs()[job].name, name.c_str(), difference.empty() ? "identical" : difference.c_str(), seconds);
    Json row;
    row.add("company", name).add("identical", difference.empty());
    if (!difference.empty()) row.add("difference", difference);
    outcomes[job].rows.push_back(row);
  };
  const std::string state = o.out + "/bits.state";
  for (size_t i = 0; i < bit_jobs().size(); ++i) {
    Company alone;
    alone.save = state + "." + std::to_string(i);
    train(*model, bit_jobs()[i], alone, o, outcomes[i].reference);
    for (const Company& company : companies()) {
      const double start = now();
      History history;
      train(*model, bit_jobs()[i], company, o, history);
      note(i, company.name, history.difference(outcomes[i].reference), now() - start);
    }
  }
  const Json described = model_json(o, *model);
  model.reset();
  const double start = now();
  const std::string command = quoted_for_shell(o.self) + " bits-resume --model " + quoted_for_shell(o.model) + " --backend " +
                              (o.backend == TL_BACKEND_CUDA ? "cuda" : "cpu") + " --device " + std::to_string(o.device) + " --threads " +
                              std::to_string(o.threads) + " --shrink " + std::to_string(o.shrink) + " --state " + quoted_for_shell(state);
  const int status = std::system(command.c_str());
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const std::string file = state + "." + std::to_string(i);
    History resumed;
    resumed.read(file + ".hashes");
    note(i, "resumed in another process", status == 0 ? resumed.difference(outcomes[i].reference) : "the other process failed", now() - start);
    std::remove(file.c_str());
    std::remove((file + ".hashes").c_str());
  }
  std::vector<Json> jobs;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    Json job;
    job.add("job", bit_jobs()[i].name).add("hashes", outcomes[i].reference.hashes()).add("companies", outcomes[i].rows);
    jobs.push_back(job);
  }
  Json out;
  out.add("model", described).add("all_identical", all).add("jobs", jobs);
  write_json(o, "bits", out);
}

}  // namespace bench
