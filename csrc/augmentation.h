// Where each training image is cropped, whether it is mirrored and how its colours change.
#pragma once

#include <cstdint>

namespace fastlt {

struct AugmentationPlan {
  double min_scale, max_scale;  // share of the image's area
  double min_ratio, max_ratio;  // width / height
  double flip;                  // probability
  double jitter;                // factors lie in [max(0, 1 - jitter), 1 + jitter]
};

// Draws for slots first_slot ... first_slot + count - 1, each a pure function of seed, slot and image size.
// sizes [count, 2] are width and height; windows [count, 4] receive x, y, width, height, jitter [count, 3]
// the brightness, contrast and saturation factors, order [count] which of the six orders they are applied in.
void draw_augmentations(const AugmentationPlan& plan, std::uint64_t seed, std::uint64_t first_slot,
                        std::uint64_t count, const std::int32_t* sizes, std::int32_t* windows, bool* flips,
                        float* jitter, std::uint8_t* order);

}  // namespace fastlt
