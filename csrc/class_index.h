// Which samples each class has, in compressed sparse row form.
#pragma once

#include <cstdint>
#include <vector>

#include "large_array.h"

namespace fastlt {

class ClassIndex {
 public:
  // Counts the samples of every class and, if `with_order`, sorts the samples by class, each class's
  // ascending. Labels are any type of integer. Throws std::invalid_argument for a label outside [0,
  // num_classes), or more than 2^31 - 1 classes.
  template <typename Label>
  static ClassIndex build(const Label* labels, std::uint64_t num_samples, std::uint64_t num_classes,
                          bool with_order, bool wide_ids, int num_threads);

  // Rebuilds an index from its offsets(), its narrow_order() or wide_order(), and its fingerprint().
  ClassIndex(std::vector<std::uint64_t> offsets, LargeArray<std::uint32_t> narrow,
             LargeArray<std::uint64_t> wide, std::uint64_t fingerprint);

  std::uint64_t num_samples() const { return offsets_.back(); }
  std::uint64_t num_classes() const { return offsets_.size() - 1; }
  bool has_order() const { return !narrow_.empty() || !wide_.empty(); }
  // A hash of the labels, the same for every integer type and number of threads.
  std::uint64_t fingerprint() const { return fingerprint_; }

  // Class c's samples are sample(offsets[c]) ... sample(offsets[c + 1] - 1).
  const std::vector<std::uint64_t>& offsets() const { return offsets_; }
  std::uint64_t start(std::uint64_t c) const { return offsets_[c]; }
  std::uint64_t count(std::uint64_t c) const { return offsets_[c + 1] - offsets_[c]; }
  std::uint64_t sample(std::uint64_t position) const {
    return wide_.empty() ? narrow_[position] : wide_[position];
  }
  // The class of the sample at a position.
  std::uint64_t class_at(std::uint64_t position) const;
  const LargeArray<std::uint32_t>& narrow_order() const { return narrow_; }
  const LargeArray<std::uint64_t>& wide_order() const { return wide_; }
  // offsets() in 32 bits, to stay in a processor's cache; empty if ids are wide or not sorted.
  const LargeArray<std::uint32_t>& narrow_offsets() const { return narrow_offsets_; }

 private:
  std::vector<std::uint64_t> offsets_;
  LargeArray<std::uint32_t> narrow_, narrow_offsets_;
  LargeArray<std::uint64_t> wide_;
  std::uint64_t fingerprint_;
};

}  // namespace fastlt
