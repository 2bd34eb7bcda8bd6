#include "resample.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "clones.h"
#include "parallel.h"

namespace fastlt {
namespace {

constexpr int kChannels = 3;
// Fractional bits of a weight: a rounded sum of its products with 8-bit values still fits 32 bits.
constexpr int kPrecision = 22;
constexpr std::int32_t kHalf = 1 << (kPrecision - 1);
// Rows that the horizontal pass takes together, and the bytes of one of their columns, padded to whole
// vectors.
constexpr int kRows = 10;
constexpr int kColumn = 32;

// Half the width of a filter, in input pixels if nothing shrinks.
double radius_of(Filter filter) { return filter == Filter::kBicubic ? 2.0 : 1.0; }

// The triangle, or Keys' cubic with a = -1/2, at a distance from the middle; their terms in Pillow's order.
double value_at(Filter filter, double distance) {
  if (filter == Filter::kBilinear) return distance < 1.0 ? 1.0 - distance : 0.0;
  constexpr double a = -0.5;
  if (distance < 1.0) return ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0;
  if (distance < 2.0) return (((distance - 5.0) * distance + 8.0) * distance - 4.0) * a;
  return 0.0;
}

// For each output pixel of an axis, the input pixels that it is a weighted mean of.
class Axis {
 public:
  // A filter over [begin, end) of `input` pixels. When shrinking, it is stretched to the step, so that it
  // averages; it is cut off at the ends of the input. The arithmetic, down to where it rounds, is Pillow's.
  void build(int input, float begin, float end, int output, Filter filter) {
    const double scale = static_cast<double>(end - begin) / output;
    const double stretch = std::max(scale, 1.0);
    const double support = radius_of(filter) * stretch;
    const double shrink = 1.0 / stretch;
    stride_ = static_cast<int>(std::ceil(support)) * 2 + 1;
    first_.resize(output);
    count_.resize(output);
    weights_.resize(static_cast<std::size_t>(output) * stride_);
    exact_.resize(stride_);
    is_copy_ = true;
    begin_ = input;
    end_ = 0;
    for (int i = 0; i < output; ++i) {
      const double center = begin + (i + 0.5) * scale;
      int first = std::max(static_cast<int>(center - support + 0.5), 0);
      int count = std::min(static_cast<int>(center + support + 0.5), input) - first;
      double sum = 0.0;
      for (int k = 0; k < count; ++k) {
        exact_[k] = value_at(filter, std::abs((k + first - center + 0.5) * shrink));
        sum += exact_[k];
      }
      std::int32_t* weights = &weights_[static_cast<std::size_t>(i) * stride_];
      for (int k = 0; k < count; ++k) {
        const double weight = sum != 0.0 ? exact_[k] / sum : exact_[k];
        weights[k] = static_cast<std::int32_t>((weight < 0.0 ? -0.5 : 0.5) + weight * (1 << kPrecision));
      }
      while (count > 1 && weights[count - 1] == 0) --count;
      int zeros = 0;
      while (zeros < count - 1 && weights[zeros] == 0) ++zeros;
      std::copy(weights + zeros, weights + count, weights);
      first_[i] = first + zeros;
      count_[i] = count - zeros;
      begin_ = std::min(begin_, first_[i]);
      end_ = std::max(end_, first_[i] + count_[i]);
      is_copy_ = is_copy_ && count_[i] == 1 && weights[0] == 1 << kPrecision && first_[i] == first_[0] + i;
    }
  }

  int size() const { return static_cast<int>(first_.size()); }
  int first(int i) const { return first_[i]; }
  int count(int i) const { return count_[i]; }
  const std::int32_t* weights(int i) const { return &weights_[static_cast<std::size_t>(i) * stride_]; }
  // The input pixels that are used at all: [begin(), end()).
  int begin() const { return begin_; }
  int end() const { return end_; }
  // Whether output pixel i is simply input pixel begin() + i.
  bool is_copy() const { return is_copy_; }

 private:
  int stride_ = 0, begin_ = 0, end_ = 0;
  bool is_copy_ = false;
  std::vector<int> first_, count_;
  std::vector<std::int32_t> weights_;
  std::vector<double> exact_;
};

// Weighted mean of `count` vectors of `kWidth` bytes, `stride` bytes apart.
template <int kWidth>
FASTLT_INLINE void blend(const std::uint8_t* source, std::ptrdiff_t stride, const std::int32_t* weights,
                         int count, std::uint8_t* out) {
  std::int32_t sums[kWidth];
  for (int j = 0; j < kWidth; ++j) sums[j] = kHalf;
  for (int k = 0; k < count; ++k, source += stride) {
    const std::int32_t weight = weights[k];
    for (int j = 0; j < kWidth; ++j) sums[j] += weight * source[j];
  }
  for (int j = 0; j < kWidth; ++j)
    out[j] = static_cast<std::uint8_t>(std::clamp(sums[j] >> kPrecision, 0, 255));
}

// Shrinks or stretches `num_rows` <= kRows rows of pixels along x. `columns` holds kColumn bytes a pixel: the
// rows are interleaved there, so that all of a column's bytes share one weight.
FASTLT_CLONES("avx2", "default")
void resample_rows(const std::uint8_t* rows, std::ptrdiff_t row_bytes, int num_rows, const Axis& axis,
                   bool flip, std::uint8_t* columns, std::uint8_t* out, std::ptrdiff_t out_row_bytes) {
  const int begin = axis.begin(), width = axis.end() - begin;
  for (int row = 0; row < num_rows; ++row) {
    const std::uint8_t* source = rows + row * row_bytes + static_cast<std::ptrdiff_t>(begin) * kChannels;
    std::uint8_t* column = columns + row * kChannels;
    for (int x = 0; x < width; ++x, source += kChannels, column += kColumn) {
      column[0] = source[0];
      column[1] = source[1];
      column[2] = source[2];
    }
  }
  const int size = axis.size();
  for (int i = 0; i < size; ++i) {
    std::uint8_t pixels[kColumn];
    blend<kColumn>(columns + static_cast<std::ptrdiff_t>(axis.first(i) - begin) * kColumn, kColumn,
                   axis.weights(i), axis.count(i), pixels);
    std::uint8_t* target = out + static_cast<std::ptrdiff_t>(flip ? size - 1 - i : i) * kChannels;
    for (int row = 0; row < num_rows; ++row)
      std::memcpy(target + row * out_row_bytes, pixels + row * kChannels, kChannels);
  }
}

// Shrinks or stretches rows of `row_bytes` bytes along y.
FASTLT_CLONES("avx2", "default")
void resample_columns(const std::uint8_t* rows, std::ptrdiff_t row_bytes, const Axis& axis, std::uint8_t* out,
                      std::ptrdiff_t out_row_bytes) {
  constexpr int kWide = 64;
  for (int i = 0; i < axis.size(); ++i, out += out_row_bytes) {
    const std::uint8_t* source = rows + (axis.first(i) - axis.begin()) * row_bytes;
    std::ptrdiff_t at = 0;
    for (; at + kWide <= out_row_bytes; at += kWide)
      blend<kWide>(source + at, row_bytes, axis.weights(i), axis.count(i), out + at);
    for (; at + kColumn <= out_row_bytes; at += kColumn)
      blend<kColumn>(source + at, row_bytes, axis.weights(i), axis.count(i), out + at);
    for (; at < out_row_bytes; ++at)
      blend<1>(source + at, row_bytes, axis.weights(i), axis.count(i), out + at);
  }
}

void mirror(const std::uint8_t* row, int width, std::uint8_t* out) {
  for (int x = 0; x < width; ++x)
    std::memcpy(out + static_cast<std::ptrdiff_t>(width - 1 - x) * kChannels,
                row + static_cast<std::ptrdiff_t>(x) * kChannels, kChannels);
}

// Resamples one image after another; the buffers grow to the largest one.
class Resampler {
 public:
  void run(const ResampleTask& task, int size, Filter filter, std::uint8_t* out) {
    horizontal_.build(task.width, task.left, task.right, size, filter);
    vertical_.build(task.height, task.top, task.bottom, size, filter);
    const std::ptrdiff_t row_bytes = static_cast<std::ptrdiff_t>(task.image_width) * kChannels;
    const std::ptrdiff_t out_bytes = static_cast<std::ptrdiff_t>(size) * kChannels;
    const std::uint8_t* rows = task.pixels + (task.y + vertical_.begin()) * row_bytes +
                               static_cast<std::ptrdiff_t>(task.x) * kChannels;
    const int num_rows = vertical_.end() - vertical_.begin();
    // Pillow rounds to 8 bits between the passes, horizontal first.
    std::uint8_t* narrowed = out;
    if (!vertical_.is_copy()) {
      narrowed_.resize(static_cast<std::size_t>(num_rows) * out_bytes);
      narrowed = narrowed_.data();
    }
    if (!horizontal_.is_copy()) {
      columns_.resize(static_cast<std::size_t>(horizontal_.end() - horizontal_.begin()) * kColumn);
      for (int row = 0; row < num_rows; row += kRows)
        resample_rows(rows + row * row_bytes, row_bytes, std::min(kRows, num_rows - row), horizontal_,
                      task.flip, columns_.data(), narrowed + row * out_bytes, out_bytes);
    } else {
      rows += static_cast<std::ptrdiff_t>(horizontal_.begin()) * kChannels;
      for (int row = 0; row < num_rows; ++row) {
        std::uint8_t* target = narrowed + row * out_bytes;
        if (task.flip)
          mirror(rows + row * row_bytes, size, target);
        else
          std::memcpy(target, rows + row * row_bytes, out_bytes);
      }
    }
    if (!vertical_.is_copy()) resample_columns(narrowed, out_bytes, vertical_, out, out_bytes);
  }

 private:
  Axis horizontal_, vertical_;
  std::vector<std::uint8_t> columns_, narrowed_;
};

}  // namespace

void resample(const ResampleTask* tasks, std::ptrdiff_t count, int size, Filter filter, std::uint8_t* out,
              int num_threads) {
  const std::ptrdiff_t image_bytes = static_cast<std::ptrdiff_t>(size) * size * kChannels;
  std::atomic<std::ptrdiff_t> next{0};
  // Waking a thread up may cost as much as a few small images.
  constexpr std::ptrdiff_t kImagesPerThread = 4;
  const std::ptrdiff_t useful = (count + kImagesPerThread - 1) / kImagesPerThread;
  const auto threads =
      static_cast<std::uint64_t>(std::clamp<std::ptrdiff_t>(useful, 1, std::max(num_threads, 1)));
  // Images differ in size: each thread takes the next one instead of a fixed part.
  parallel_parts(threads, threads, [&](std::uint64_t, std::uint64_t, std::uint64_t) {
    Resampler resampler;
    for (std::ptrdiff_t i; (i = next.fetch_add(1)) < count;)
      resampler.run(tasks[i], size, filter, out + i * image_bytes);
  });
}

}  // namespace fastlt
