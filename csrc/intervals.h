// The taus at which a sample's label has the first largest score, from its row of logits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastlt {

// Rows of logits [rows, classes] against lines log2|z_j| - tau slope_j (log) or z_j - tau slope_j.
struct IntervalTask {
  const float* logits;
  std::ptrdiff_t rows, classes;
  const std::int64_t* labels;  // [rows], each in [0, classes)
  const float* slope;          // [classes]
  bool log;
  float* low;  // [rows], receives the open interval; (inf, -inf) where the label never wins
  float* high;
};

// Fills task.low and task.high, on at most `num_threads` threads.
void interval_bounds(const IntervalTask& task, int num_threads);

}  // namespace fastlt
