// Python bindings of the resampler: they check their arguments, then work without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "resample.h"
#include "without_gil.h"

namespace py = pybind11;

namespace {

using fastlt::Array;
using fastlt::check_shape;
using fastlt::listed;

constexpr int kMaxSide = 1 << 24;  // up to here a float represents every integer

[[noreturn]] void refuse(py::ssize_t i, const std::string& what) {
  throw std::invalid_argument("image " + std::to_string(i) + ": " + what);
}

void resample_batch(const py::list& images, const std::optional<Array<std::int32_t>>& windows,
                    const std::optional<Array<double>>& boxes, const std::optional<Array<bool>>& flips,
                    const std::string& interpolation, Array<std::uint8_t> out, int num_threads) {
  const auto count = static_cast<py::ssize_t>(images.size());
  if (windows) check_shape(*windows, "windows", {count, 4});
  if (boxes) check_shape(*boxes, "boxes", {count, 4});
  if (flips) check_shape(*flips, "flips", {count});
  if (out.ndim() != 4 || out.shape(0) != count || out.shape(1) < 1 || out.shape(2) != out.shape(1) ||
      out.shape(3) != 3)
    throw std::invalid_argument("out: got shape " + listed(out.shape(), out.shape() + out.ndim()) +
                                "; expected [" + std::to_string(count) + ", S, S, 3]");
  if (interpolation != "bilinear" && interpolation != "bicubic")
    throw std::invalid_argument("interpolation: got " + interpolation + "; expected bilinear or bicubic");
  const auto filter = interpolation == "bicubic" ? fastlt::Filter::kBicubic : fastlt::Filter::kBilinear;
  if (num_threads < 1)
    throw std::invalid_argument("num_threads: got " + std::to_string(num_threads) + "; expected at least 1");
  std::uint8_t* target = out.mutable_data();

  // References of our own: without the GIL, another thread may change the list.
  std::vector<Array<std::uint8_t>> held;
  std::vector<fastlt::ResampleTask> tasks(count);
  held.reserve(count);
  for (py::ssize_t i = 0; i < count; ++i) {
    if (!py::isinstance<Array<std::uint8_t>>(images[i]))
      refuse(i, "got no contiguous uint8 array; expected one, [height, width, 3]");
    held.push_back(py::reinterpret_borrow<Array<std::uint8_t>>(images[i]));
    const Array<std::uint8_t>& image = held.back();
    if (image.ndim() != 3 || image.shape(2) != 3 || image.size() == 0 || image.shape(0) > kMaxSide ||
        image.shape(1) > kMaxSide)
      refuse(i, "got shape " + listed(image.shape(), image.shape() + image.ndim()) +
                    "; expected [height, width, 3]");
    fastlt::ResampleTask& task = tasks[i];
    task.pixels = image.data();
    task.image_width = static_cast<int>(image.shape(1));
    std::int64_t window[4] = {0, 0, image.shape(1), image.shape(0)};
    if (windows)
      for (int k = 0; k < 4; ++k) window[k] = windows->at(i, k);
    if (window[0] < 0 || window[1] < 0 || window[2] < 1 || window[3] < 1 ||
        window[0] + window[2] > image.shape(1) || window[1] + window[3] > image.shape(0))
      refuse(i,
             "got window " + listed(window, window + 4) + "; expected x, y, width, height inside the image");
    task.x = static_cast<int>(window[0]);
    task.y = static_cast<int>(window[1]);
    task.width = static_cast<int>(window[2]);
    task.height = static_cast<int>(window[3]);
    float box[4] = {0.0F, 0.0F, static_cast<float>(task.width), static_cast<float>(task.height)};
    if (boxes)
      for (int k = 0; k < 4; ++k) box[k] = static_cast<float>(boxes->at(i, k));
    // Written in this way, the condition also rejects a NaN.
    if (!(box[0] >= 0.0F && box[1] >= 0.0F && box[2] <= task.width && box[3] <= task.height &&
          box[0] < box[2] && box[1] < box[3]))
      refuse(i, "got box " + listed(box, box + 4) + "; expected left, top, right, bottom inside the window");
    task.left = box[0];
    task.top = box[1];
    task.right = box[2];
    task.bottom = box[3];
    task.flip = flips && flips->at(i);
  }
  const fastlt::WithoutGil without_gil;
  fastlt::resample(tasks.data(), count, static_cast<int>(out.shape(1)), filter, target, num_threads);
}

}  // namespace

void bind_resample(py::module_& m) {
  m.def("resample_batch", &resample_batch, py::arg("images"), py::kw_only(),
        py::arg("windows").noconvert() = py::none(), py::arg("boxes").noconvert() = py::none(),
        py::arg("flips").noconvert() = py::none(), py::arg("interpolation") = "bilinear",
        py::arg("out").noconvert(), py::arg("num_threads") = 1,
        "Resample parts of RGB images to squares, bit for bit as Pillow does.");
}
