// Walker's alias method (Vose, IEEE TSE 1991): a class drawn with any probabilities in constant time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastlt {

// Column c gives class c when a 32-bit word lies below `threshold`, else class `other`.
struct AliasEntry {
  std::uint32_t threshold, other;
};

// The table of `weights`, which are finite, not negative and not all zero. Probabilities are right to 2^-32
// of a column, and exactly zero for weight zero.
std::vector<AliasEntry> make_alias_table(const double* weights, std::size_t count);

}  // namespace fastlt
