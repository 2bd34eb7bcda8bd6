// Antialiased bilinear and bicubic resampling of RGB images, bit for bit as Pillow's resize does it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastlt {

enum class Filter { kBilinear, kBicubic };

// One image of a batch, and the part of it that becomes a square.
struct ResampleTask {
  const std::uint8_t* pixels;  // RGB rows of the whole image, without padding
  int image_width;
  int x, y, width, height;         // the window: pixels outside it do not exist for the filter
  float left, top, right, bottom;  // the box inside the window that is resampled
  bool flip;                       // mirror the result left to right
};

// Resamples `count` images to [count, size, size, 3] at `out`, on at most `num_threads` threads.
void resample(const ResampleTask* tasks, std::ptrdiff_t count, int size, Filter filter, std::uint8_t* out,
              int num_threads);

}  // namespace fastlt
