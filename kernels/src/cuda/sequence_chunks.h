// The walk of the kernels that sum over an adapter's tokens: its sequences in table order, each from its first token in chunks of
// at most 64.
#pragma once

#include "cuda/tables.h"

namespace tlora::cuda {

class SequenceChunks {
 public:
  // Sequences adapter_segments[first … first + count).
  __device__ SequenceChunks(const Tables& tables, int first, int count)
      : segments_(tables.segments), order_(tables.adapter_segments + first), count_(count) {
    fetch();
    advance();
  }
  __device__ bool done() const { return left_ == 0; }
  __device__ int row() const { return row_; }
  __device__ int rows() const { return left_ < 64 ? left_ : 64; }
  __device__ bool ends_sequence() const { return left_ <= 64; }
  __device__ void next() {
    if (left_ > 64) {
      row_ += 64;
      left_ -= 64;
    } else {
      advance();
    }
  }

 private:
  // The following sequence is looked up while this one is being read.
  __device__ void fetch() {
    next_left_ = 0;
    while (next_ < count_ && next_left_ == 0) {
      const DeviceSegment& segment = segments_[order_[next_++]];
      next_row_ = segment.start;
      next_left_ = segment.length;
    }
  }
  __device__ void advance() {
    row_ = next_row_;
    left_ = next_left_;
    fetch();
  }
  const DeviceSegment* segments_;
  const int32_t* order_;
  int count_, next_ = 0;
  int row_ = 0, left_ = 0, next_row_ = 0, next_left_ = 0;
};

}  // namespace tlora::cuda
