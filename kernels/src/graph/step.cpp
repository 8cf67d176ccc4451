#include "graph/step.h"

#include <algorithm>

namespace tlora {

Batch make_batch(std::vector<Segment> segments, int64_t tokens, bool train) {
  Batch batch;
  batch.tokens = tokens;
  batch.train = train;
  batch.segments = std::move(segments);
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    Segment& s = batch.segments[i];
    s.strip = batch.strip_elements;
    if (s.adapter) batch.strip_elements += s.length * s.adapter->strip_columns;
    batch.longest = std::max(batch.longest, s.length);
    if (!batch.runs.empty() && batch.runs.back().adapter == s.adapter)
      batch.runs.back().rows += s.length;
    else
      batch.runs.push_back({s.adapter, s.start, s.length, s.strip});
    if (!s.adapter) continue;
    auto owner = std::find_if(batch.adapters.begin(), batch.adapters.end(),
                              [&](const auto& entry) { return entry.first == s.adapter; });
    if (owner == batch.adapters.end()) {
      owner = batch.adapters.insert(owner, {s.adapter, {}});
      batch.strip_columns += s.adapter->strip_columns;
    }
    owner->second.push_back(static_cast<int32_t>(i));
  }
  return batch;
}

namespace {

StepShape shape_of(const Batch& batch, int64_t loss_rows) {
  StepShape shape;
  shape.tokens = batch.tokens;
  shape.segments = static_cast<int64_t>(batch.segments.size());
  shape.longest = batch.longest;
  shape.loss_rows = loss_rows;
  shape.strip_elements = batch.strip_elements;
  shape.strip_columns = batch.strip_columns;
  shape.train = batch.train;
  for (const auto& owner : batch.adapters) shape.dropout |= batch.dropout(owner.first) > 0;
  return shape;
}

// From the tokens to the losses and, in training, the gradients: nothing but ops.
void training_or_evaluation(Model& model, const Batch& batch, StepBuffers& b, int64_t loss_rows) {
  Backend& backend = model.backend();
  const ModelConfig& c = model.config();
  const int64_t element = backend.activation_bytes();
  forward(model, batch, b);

  const Matrix last = b.hidden_in(c.layers);
  if (loss_rows)
    backend.rmsnorm_forward(last, model.final_norm(), c.rms_eps, b.rows, loss_rows, c.hidden, b.head_input, b.head_rstd);
  for (int64_t first = 0; first < loss_rows; first += b.head_chunk) {
    const int64_t count = std::min(b.head_chunk, loss_rows - first);
    const Matrix x = columns(b.head_input, first * b.head_input.ld, element);
    backend.head_logits(x, count, model.head(), b.logits, b.logits_ld);
    backend.cross_entropy(b.logits, b.logits_ld, count, c.vocab, b.targets + first, batch.train ? b.scale + first : nullptr,
                          b.loss + first, b.correct + first);
    if (batch.train)
      backend.head_backward(b.logits, b.logits_ld, count, model.head(), columns(b.head_dinput, first * b.head_dinput.ld, element));
  }

  if (batch.train) {
    backend.zero(b.dhidden.data, batch.tokens * b.dhidden.ld * element);
    if (loss_rows)
      backend.rmsnorm_backward(b.head_dinput, last, model.final_norm(), b.head_rstd, b.rows, loss_rows, c.hidden, nullptr,
                               b.dhidden);
    backward(model, batch, b);
  }
}

// The bytes of all that the ops' arguments depend on beside the batch's tables: see Backend::run.
std::string arguments_of(const Batch& batch, const StepBuffers& b, int64_t loss_rows) {
  uint32_t targets = 0;  // backward leaves out what no adapter needs
  for (const auto& owner : batch.adapters) targets |= owner.first->config.target_modules;
  const struct {
    const void *workspace, *cosine, *sine;
    int64_t bytes, loss_rows, longest, recompute, targets, train;
  } arguments{b.tokens, b.rope.cosine, b.rope.sine, b.bytes, loss_rows, batch.longest, b.recompute, targets, batch.train};
  return std::string(reinterpret_cast<const char*>(&arguments), sizeof arguments);
}

}  // namespace

void run_step(Model& model, const Batch& batch, const int32_t* tokens, const int32_t* targets, tl_segment_result* results) {
  Backend& backend = model.backend();

  // The rows that carry a loss, compacted: only they reach the head.
  std::vector<int64_t> rows;
  std::vector<int32_t> row_targets;
  std::vector<float> row_scale;
  for (const Segment& s : batch.segments)
    for (int64_t t = s.start; t < s.start + s.length; ++t)
      if (targets[t] != TL_IGNORE_INDEX) {
        rows.push_back(t);
        row_targets.push_back(targets[t]);
        row_scale.push_back(s.loss_scale);
      }
  const int64_t loss_rows = static_cast<int64_t>(rows.size());
  std::vector<double> loss(rows.size());
  std::vector<uint8_t> correct(rows.size());

  // Everything up at the start and down at the end: on a GPU a download waits for all work before it.
  StepBuffers b = model.prepare(shape_of(batch, loss_rows));
  backend.upload(b.tokens, tokens, batch.tokens * 4);
  if (loss_rows) {
    backend.upload(b.rows, rows.data(), loss_rows * 8);
    backend.upload(b.targets, row_targets.data(), loss_rows * 4);
    if (batch.train) backend.upload(b.scale, row_scale.data(), loss_rows * 4);
  }
  if (batch.train) model.gradients_touched(batch);
  backend.begin_step(batch);
  backend.run(arguments_of(batch, b, loss_rows), [&] { training_or_evaluation(model, batch, b, loss_rows); });
  if (loss_rows) {
    backend.download(loss.data(), b.loss, loss_rows * 8);
    backend.download(correct.data(), b.correct, loss_rows);
  }

  size_t row = 0;
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const int64_t end = batch.segments[i].start + batch.segments[i].length;
    tl_segment_result result{};
    for (; row < rows.size() && rows[row] < end; ++row) {
      result.loss_sum += loss[row];
      result.loss_tokens += 1;
      result.correct += correct[row];
    }
    results[i] = result;
  }
}

void run_logits(Model& model, const Batch& batch, const int32_t* tokens, const int64_t* rows, int64_t row_count, float* logits) {
  Backend& backend = model.backend();
  const ModelConfig& c = model.config();
  StepBuffers b = model.prepare(shape_of(batch, row_count));
  backend.upload(b.tokens, tokens, batch.tokens * 4);
  backend.upload(b.rows, rows, row_count * 8);
  backend.begin_step(batch);
  forward(model, batch, b);
  backend.rmsnorm_forward(b.hidden_in(c.layers), model.final_norm(), c.rms_eps, b.rows, row_count, c.hidden, b.head_input,
                          b.head_rstd);
  std::vector<float> chunk(static_cast<size_t>(b.head_chunk * b.logits_ld));
  for (int64_t first = 0; first < row_count; first += b.head_chunk) {
    const int64_t count = std::min(b.head_chunk, row_count - first);
    backend.head_logits(columns(b.head_input, first * b.head_input.ld, backend.activation_bytes()), count, model.head(),
                        b.logits, b.logits_ld);
    backend.download(chunk.data(), b.logits, count * b.logits_ld * 4);
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(chunk.data() + i * b.logits_ld, c.vocab, logits + (first + i) * c.vocab);
  }
}

}  // namespace tlora
