#include "class_index.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "parallel.h"
#include "permutation.h"

namespace fastlt {
namespace {

constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

// A hash of one label and its position; the sum over all labels does not depend on the order of summation.
std::uint64_t hash_label(std::uint64_t label, std::uint64_t position) {
  std::uint64_t x = (label + 1) * 0x9E3779B97F4A7C15u ^ (position + 1) * 0xD1B54A32D192ED03u;
  x = (x ^ x >> 32) * 0xBF58476D1CE4E5B9u;
  return x ^ x >> 29;
}

// Counts labels[begin, end) into `counts`. Returns the position of the first one out of range, or kNone.
template <typename Label>
std::uint64_t count_labels(const Label* labels, std::uint64_t begin, std::uint64_t end,
                           std::uint64_t num_classes, std::uint64_t* counts, std::uint64_t* hash) {
  std::uint64_t sum = 0;
  for (std::uint64_t i = begin; i < end; ++i) {
    const auto label = static_cast<std::uint64_t>(labels[i]);  // a negative label becomes a large one
    if (label >= num_classes) return i;
    ++counts[label];
    sum += hash_label(label, i);
  }
  *hash = sum;
  return kNone;
}

}  // namespace

template <typename Label>
ClassIndex ClassIndex::build(const Label* labels, std::uint64_t num_samples, std::uint64_t num_classes,
                             bool with_order, bool wide_ids, int num_threads) {
  if (num_classes > kMaxNarrow)
    throw std::invalid_argument("num_classes: got " + std::to_string(num_classes) +
                                "; expected at most 2147483647");
  // Every thread counts every class: with few samples per class, more threads cost more than they save.
  const std::uint64_t useful = num_samples / std::max<std::uint64_t>(4 * num_classes, 65536) + 1;
  const auto num_parts = std::min<std::uint64_t>(std::max(num_threads, 1), useful);
  std::vector<std::vector<std::uint64_t>> counts(num_parts);
  std::vector<std::uint64_t> hashes(num_parts), wrong(num_parts, kNone);
  parallel_parts(num_samples, num_parts, [&](std::uint64_t part, std::uint64_t begin, std::uint64_t end) {
    counts[part].assign(num_classes, 0);
    wrong[part] = count_labels(labels, begin, end, num_classes, counts[part].data(), &hashes[part]);
  });
  for (const std::uint64_t i : wrong)
    if (i != kNone)
      throw std::invalid_argument("labels: got " + std::to_string(labels[i]) + " at position " +
                                  std::to_string(i) + "; expected 0 to " + std::to_string(num_classes - 1));

  std::vector<std::uint64_t> offsets(num_classes + 1);
  std::uint64_t total = 0, fingerprint = num_classes;
  for (std::uint64_t c = 0; c < num_classes; ++c) {
    offsets[c] = total;
    // Turns each count into the place of the part's next sample of the class.
    for (auto& part : counts) total += std::exchange(part[c], total);
  }
  offsets[num_classes] = total;
  for (const std::uint64_t hash : hashes) fingerprint += hash;

  LargeArray<std::uint32_t> narrow;
  LargeArray<std::uint64_t> wide;
  if (with_order) {
    wide_ids = wide_ids || num_samples > std::uint64_t{1} << 32;
    if (wide_ids)
      wide = LargeArray<std::uint64_t>(num_samples);
    else
      narrow = LargeArray<std::uint32_t>(num_samples);
    parallel_parts(num_samples, num_parts, [&](std::uint64_t part, std::uint64_t begin, std::uint64_t end) {
      std::uint64_t* next = counts[part].data();
      if (wide_ids)
        for (std::uint64_t i = begin; i < end; ++i) wide[next[labels[i]]++] = i;
      else
        for (std::uint64_t i = begin; i < end; ++i) narrow[next[labels[i]]++] = static_cast<std::uint32_t>(i);
    });
  }
  return ClassIndex(std::move(offsets), std::move(narrow), std::move(wide), fingerprint);
}

ClassIndex::ClassIndex(std::vector<std::uint64_t> offsets, LargeArray<std::uint32_t> narrow,
                       LargeArray<std::uint64_t> wide, std::uint64_t fingerprint)
    : offsets_(std::move(offsets)),
      narrow_(std::move(narrow)),
      wide_(std::move(wide)),
      fingerprint_(fingerprint) {
  if (narrow_.empty() || num_samples() > kMaxNarrow) return;
  narrow_offsets_ = LargeArray<std::uint32_t>(offsets_.size());
  for (std::size_t c = 0; c < offsets_.size(); ++c)
    narrow_offsets_[c] = static_cast<std::uint32_t>(offsets_[c]);
}

std::uint64_t ClassIndex::class_at(std::uint64_t position) const {
  return static_cast<std::uint64_t>(std::upper_bound(offsets_.begin(), offsets_.end(), position) -
                                    offsets_.begin()) -
         1;
}

#define FASTLT_LABELS(Label) \
  template ClassIndex ClassIndex::build(const Label*, std::uint64_t, std::uint64_t, bool, bool, int);
FASTLT_LABELS(std::int8_t)
FASTLT_LABELS(std::int16_t)
FASTLT_LABELS(std::int32_t)
FASTLT_LABELS(std::int64_t)
FASTLT_LABELS(std::uint8_t)
FASTLT_LABELS(std::uint16_t)
FASTLT_LABELS(std::uint32_t)
FASTLT_LABELS(std::uint64_t)
#undef FASTLT_LABELS

}  // namespace fastlt
