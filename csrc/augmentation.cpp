#include "augmentation.h"

#include <algorithm>
#include <cmath>

#include "philox.h"

namespace fastlt {
namespace {

constexpr std::uint32_t kNumTries = 10;
// Counters of a slot: one for each try, then these.
constexpr std::uint32_t kColors = kNumTries, kOrder = kNumTries + 1, kMore = kNumTries + 2;
constexpr double kLog2 = 0.693147180559945309417;

// Logarithm and exponential from additions, multiplications and divisions alone: these round alike
// everywhere, which the system's own functions need not. Right to a few units in the last place.
double portable_log(double x) {
  int exponent;
  double mantissa = std::frexp(x, &exponent);  // exact
  if (mantissa < 0.70710678118654752) {
    mantissa *= 2.0;
    --exponent;
  }
  const double t = (mantissa - 1.0) / (mantissa + 1.0), square = t * t;
  double sum = 0.0;
  for (int k = 25; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return 2.0 * t * sum + exponent * kLog2;
}

double portable_exp(double x) {
  const double whole = std::nearbyint(x / kLog2), rest = x - whole * kLog2;
  double sum = 1.0;
  for (int k = 14; k >= 1; --k) sum = 1.0 + sum * rest / k;
  return std::ldexp(sum, static_cast<int>(whole));  // exact
}

// In [0, 1), every multiple of 2^-32 equally likely.
double unit(std::uint32_t word) { return word * (1.0 / 4294967296.0); }

double between(double low, double high, std::uint32_t word) { return low + (high - low) * unit(word); }

}  // namespace

void draw_augmentations(const AugmentationPlan& plan, std::uint64_t seed, std::uint64_t first_slot,
                        std::uint64_t count, const std::int32_t* sizes, std::int32_t* windows, bool* flips,
                        float* jitter, std::uint8_t* order) {
  const Words2 key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const double min_log = portable_log(plan.min_ratio), max_log = portable_log(plan.max_ratio);
  const double darkest = std::max(0.0, 1.0 - plan.jitter), brightest = 1.0 + plan.jitter;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t slot = first_slot + i;
    const auto words = [&](std::uint32_t number) {
      return philox4x32({static_cast<std::uint32_t>(slot), number,
                         static_cast<std::uint32_t>(Stream::kAugmentation) | 1u << 8,
                         static_cast<std::uint32_t>(slot >> 32)},
                        key);
    };
    // An integer below n <= 2^31, exactly uniform, from the two last words of a try.
    const auto below = [&](std::int32_t n, std::uint32_t word, std::uint32_t which) {
      return static_cast<std::int32_t>(
          uniform_below(static_cast<std::uint64_t>(n), word, [&](std::uint32_t attempt) {
            const Words4 more = words(kMore + 2 * attempt + which);
            return join(more.a, more.b);
          }));
    };

    const std::int32_t image_width = sizes[2 * i], image_height = sizes[2 * i + 1];
    const double area = static_cast<double>(image_width) * image_height;
    std::int32_t* window = windows + 4 * i;
    bool fits = false;
    for (std::uint32_t attempt = 0; attempt < kNumTries && !fits; ++attempt) {
      const Words4 w = words(attempt);
      const double target = area * between(plan.min_scale, plan.max_scale, w.a);
      const double ratio = portable_exp(between(min_log, max_log, w.b));
      const double width = std::nearbyint(std::sqrt(target * ratio));
      const double height = std::nearbyint(std::sqrt(target / ratio));
      if (!(width >= 1 && width <= image_width && height >= 1 && height <= image_height)) continue;
      fits = true;
      window[2] = static_cast<std::int32_t>(width);
      window[3] = static_cast<std::int32_t>(height);
      window[0] = below(image_width - window[2] + 1, w.c, 0);
      window[1] = below(image_height - window[3] + 1, w.d, 1);
    }
    if (!fits) {
      const double ratio = static_cast<double>(image_width) / image_height;
      window[2] = image_width;
      window[3] = image_height;
      if (ratio < plan.min_ratio)
        window[3] = static_cast<std::int32_t>(std::nearbyint(image_width / plan.min_ratio));
      else if (ratio > plan.max_ratio)
        window[2] = static_cast<std::int32_t>(std::nearbyint(image_height * plan.max_ratio));
      window[2] = std::clamp(window[2], 1, image_width);
      window[3] = std::clamp(window[3], 1, image_height);
      window[0] = (image_width - window[2]) / 2;
      window[1] = (image_height - window[3]) / 2;
    }
    const Words4 colors = words(kColors), last = words(kOrder);
    flips[i] = unit(colors.d) < plan.flip;
    jitter[3 * i] = static_cast<float>(between(darkest, brightest, colors.a));
    jitter[3 * i + 1] = static_cast<float>(between(darkest, brightest, colors.b));
    jitter[3 * i + 2] = static_cast<float>(between(darkest, brightest, colors.c));
    order[i] = static_cast<std::uint8_t>(std::uint64_t{last.a} * 6 >> 32);
  }
}

}  // namespace fastlt
