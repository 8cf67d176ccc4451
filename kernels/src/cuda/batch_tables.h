// From a Batch to the tables the kernels read (tables.h): laid out on the host as one block, so that a step needs one copy.
#pragma once

#include <vector>

#include "backend.h"
#include "cuda/tables.h"

namespace tlora::cuda {

// What the backend knows of an adapter beyond Adapter itself.
struct Placement {
  int32_t home_column = 0;
};

class BatchTables {
 public:
  // placements: in the order of batch.adapters.
  BatchTables(const Batch& batch, const std::vector<Placement>& placements);

  const std::vector<char>& image() const { return image_; }  // to be copied to `device`, 256-byte aligned
  // The tables with their pointers into the image at `device`.
  Tables at(const void* device) const;

 private:
  template <class T>
  int64_t append(const std::vector<T>& values);

  std::vector<char> image_;
  Tables counts_;
  int64_t position_, segments_, adapters_, adapter_segments_, walks_, row_tiles_, tiles64_, tiles128_, strip_chunks_,
      chunk_first_, backward_chunk_first_;
};

}  // namespace tlora::cuda
