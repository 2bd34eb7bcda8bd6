#include "intervals.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "clones.h"
#include "parallel.h"

namespace fastlt {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kTiny = std::numeric_limits<float>::min();      // logits below it count as zero
constexpr float kHuge = std::numeric_limits<float>::max() / 4;  // logits beyond it count as equal
constexpr int kLanes = 64;  // independent running maxima, so that the loop over them becomes vectors

// log2 of a normal positive number to about one unit in the last place: exponent plus a polynomial in the
// mantissa, taken from [sqrt(1/2), sqrt(2)). Straight-line code, which a compiler turns into vectors
// (std::log2 is a call).
FASTLT_INLINE float log2_normal(float x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::int32_t exponent = (bits - 0x3f3504f3) >> 23;
  bits -= exponent << 23;
  float m;
  std::memcpy(&m, &bits, sizeof m);
  // log2((1 + s) / (1 - s)) = 2 / ln 2 * (s + s^3 / 3 + s^5 / 5 + ...), |s| <= 0.1716
  const float f = m - 1.0F;
  const float s = f / (2.0F + f);
  const float q = s * s;
  const float tail = q * (0.961796694F + q * (0.577078016F + q * (0.412198583F + q * 0.320598898F)));
  return static_cast<float>(exponent) + s * (2.885390082F + tail);
}

// The bounds that a row's rivals have set so far, one of each side per lane, and whether some rival wins at
// every tau.
struct Bounds {
  float low[kLanes], high[kLanes];
  std::int32_t beaten[kLanes];
};

// The label: its place on its line, and the sign of its logit. Only rivals of that sign cross the line; where
// it is negative all lines change sign with it, and any rival that is not negative wins at every tau.
struct Label {
  float sign, height, slope;
};

// Takes in kLanes rivals, all before the label (kBefore: they win ties) or all after it. Each stage is a
// loop of its own over the lanes: compilers turn these loops into vectors, but not one loop with a division
// under a condition.
template <bool kLog, bool kBefore>
FASTLT_INLINE void take_lanes(const float* z, const float* slope, const Label& label, Bounds& bounds) {
  float rise[kLanes], run[kLanes], tau[kLanes];
  std::int32_t rival[kLanes];
  for (int k = 0; k < kLanes; ++k) {
    const float height = z[k] * label.sign;
    rival[k] = kLog ? -static_cast<std::int32_t>(height >= kTiny) : -1;
    bounds.beaten[k] |= -static_cast<std::int32_t>(height != height);
    if (kLog) bounds.beaten[k] |= -static_cast<std::int32_t>(label.sign < 0.0F) & ~rival[k];
    const float floor = kLog ? kTiny : -kHuge;
    const float above = height > floor ? height : floor;
    rise[k] = above < kHuge ? above : kHuge;
  }
  if (kLog)
    for (int k = 0; k < kLanes; ++k) rise[k] = log2_normal(rise[k]) * label.sign;
  for (int k = 0; k < kLanes; ++k) {
    rise[k] -= label.height;
    run[k] = (slope[k] - label.slope) * label.sign;
    tau[k] = rise[k] / run[k];
  }
  for (int k = 0; k < kLanes; ++k) {
    const std::int32_t wins = -static_cast<std::int32_t>(kBefore ? rise[k] >= 0.0F : rise[k] > 0.0F);
    bounds.beaten[k] |= rival[k] & wins & -static_cast<std::int32_t>(run[k] == 0.0F);
    const std::int32_t below = rival[k] & -static_cast<std::int32_t>(run[k] > 0.0F);
    const std::int32_t above = rival[k] & -static_cast<std::int32_t>(run[k] < 0.0F);
    const float low = below != 0 ? tau[k] : -kInf;
    const float high = above != 0 ? tau[k] : kInf;
    bounds.low[k] = low > bounds.low[k] ? low : bounds.low[k];
    bounds.high[k] = high < bounds.high[k] ? high : bounds.high[k];
  }
}

// Takes in the rivals [begin, end); the last lanes are filled up with lines that never beat the label.
template <bool kLog, bool kBefore>
FASTLT_INLINE void take(const float* z, const float* slope, std::ptrdiff_t begin, std::ptrdiff_t end,
                        float label_logit, const Label& label, Bounds& bounds) {
  for (; begin + kLanes <= end; begin += kLanes)
    take_lanes<kLog, kBefore>(z + begin, slope + begin, label, bounds);
  if (begin >= end) return;
  float last_z[kLanes], last_slope[kLanes];
  // Below the label's line at every tau.
  const float lower = kLog ? (label.sign < 0.0F ? 2.0F : 0.5F) * label_logit : -kInf;
  std::fill_n(last_z, kLanes, lower);
  std::fill_n(last_slope, kLanes, label.slope);
  std::copy(z + begin, z + end, last_z);
  std::copy(slope + begin, slope + end, last_slope);
  take_lanes<kLog, kBefore>(last_z, last_slope, label, bounds);
}

// A zero label is beaten by a positive rival and by an earlier zero, and by no other.
FASTLT_INLINE bool zero_wins(const float* z, std::ptrdiff_t classes, std::ptrdiff_t label) {
  for (std::ptrdiff_t j = 0; j < classes; ++j)
    if (j != label && !(z[j] < (j < label ? -kTiny : kTiny) || (j < label && z[j] == -kTiny))) return false;
  return true;
}

template <bool kLog>
FASTLT_INLINE void bound_rows(const IntervalTask& task, std::ptrdiff_t first, std::ptrdiff_t last) {
  Bounds bounds;
  for (std::ptrdiff_t i = first; i < last; ++i) {
    const float* z = task.logits + i * task.classes;
    const std::ptrdiff_t label = task.labels[i];
    const float logit = z[label];
    task.low[i] = kInf;
    task.high[i] = -kInf;
    if (logit != logit) continue;
    if (kLog && std::max(logit, -logit) < kTiny) {
      if (zero_wins(z, task.classes, label)) std::swap(task.low[i], task.high[i]);
      continue;
    }
    const float sign = kLog && logit < 0.0F ? -1.0F : 1.0F;
    const float label_logit = std::min(std::max(logit, -kHuge), kHuge);
    const Label line{sign, kLog ? log2_normal(label_logit * sign) * sign : label_logit, task.slope[label]};
    std::fill_n(bounds.low, kLanes, -kInf);
    std::fill_n(bounds.high, kLanes, kInf);
    std::fill_n(bounds.beaten, kLanes, 0);
    take<kLog, true>(z, task.slope, 0, label, label_logit, line, bounds);
    take<kLog, false>(z, task.slope, label + 1, task.classes, label_logit, line, bounds);
    const float low = *std::max_element(bounds.low, bounds.low + kLanes);
    const float high = *std::min_element(bounds.high, bounds.high + kLanes);
    if (!(low < high) ||
        std::any_of(bounds.beaten, bounds.beaten + kLanes, [](std::int32_t b) { return b != 0; }))
      continue;
    task.low[i] = low;
    task.high[i] = high;
  }
}

FASTLT_CLONES("avx512f", "avx2", "default")
void bound_log(const IntervalTask& task, std::ptrdiff_t first, std::ptrdiff_t last) {
  bound_rows<true>(task, first, last);
}

FASTLT_CLONES("avx512f", "avx2", "default")
void bound_linear(const IntervalTask& task, std::ptrdiff_t first, std::ptrdiff_t last) {
  bound_rows<false>(task, first, last);
}

}  // namespace

void interval_bounds(const IntervalTask& task, int num_threads) {
  const auto bound = task.log ? bound_log : bound_linear;
  if (task.rows == 0) return;
  const auto rows = static_cast<std::uint64_t>(task.rows);
  const auto num_parts = std::min(rows, static_cast<std::uint64_t>(std::max(num_threads, 1)));
  parallel_parts(rows, num_parts, [&](std::uint64_t, std::uint64_t begin, std::uint64_t end) {
    bound(task, static_cast<std::ptrdiff_t>(begin), static_cast<std::ptrdiff_t>(end));
  });
}

}  // namespace fastlt
