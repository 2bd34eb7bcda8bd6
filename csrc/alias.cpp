#include "alias.h"

#include <algorithm>
#include <cmath>

namespace fastlt {

std::vector<AliasEntry> make_alias_table(const double* weights, std::size_t count) {
  const double largest = *std::max_element(weights, weights + count);
  double sum = 0.0;
  for (std::size_t c = 0; c < count; ++c) sum += weights[c] / largest;
  const double mean = sum / static_cast<double>(count);

  std::vector<double> share(count);  // of a column's height
  std::vector<std::uint32_t> low, high;
  for (std::size_t c = 0; c < count; ++c) {
    share[c] = weights[c] / largest / mean;
    (share[c] < 1.0 ? low : high).push_back(static_cast<std::uint32_t>(c));
  }
  std::vector<AliasEntry> table(count);
  // Whole columns: both sides are the class itself.
  for (std::size_t c = 0; c < count; ++c) table[c] = {0, static_cast<std::uint32_t>(c)};
  while (!low.empty() && !high.empty()) {
    const std::uint32_t poor = low.back(), rich = high.back();
    low.pop_back();
    const double threshold = std::nearbyint(share[poor] * 4294967296.0);
    if (threshold < 4294967296.0) table[poor] = {static_cast<std::uint32_t>(threshold), rich};
    share[rich] -= 1.0 - share[poor];
    if (share[rich] < 1.0) {
      high.pop_back();
      low.push_back(rich);
    }
  }
  // Columns that rounding left over are whole, unless their class must never be drawn.
  const auto safe = static_cast<std::uint32_t>(std::max_element(weights, weights + count) - weights);
  for (const std::uint32_t c : low)
    if (weights[c] == 0.0) table[c].other = safe;
  return table;
}

}  // namespace fastlt
