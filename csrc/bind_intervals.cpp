// Python bindings of the tau intervals: they check their arguments, then work without the GIL.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "arrays.h"
#include "intervals.h"
#include "without_gil.h"

namespace py = pybind11;

namespace {

using fastlt::Array;
using fastlt::check_shape;
using fastlt::listed;

void interval_bounds(const Array<float>& logits, const Array<std::int64_t>& labels, const Array<float>& slope,
                     bool log, Array<float> low, Array<float> high, int num_threads) {
  if (logits.ndim() != 2)
    throw std::invalid_argument("logits: got shape " +
                                listed(logits.shape(), logits.shape() + logits.ndim()) +
                                "; expected [rows, classes]");
  const py::ssize_t rows = logits.shape(0), classes = logits.shape(1);
  check_shape(labels, "labels", {rows});
  check_shape(slope, "slope", {classes});
  check_shape(low, "low", {rows});
  check_shape(high, "high", {rows});
  if (num_threads < 1)
    throw std::invalid_argument("num_threads: got " + std::to_string(num_threads) + "; expected at least 1");
  const std::int64_t* end = labels.data() + rows;
  const auto* outside =
      std::find_if(labels.data(), end, [&](std::int64_t y) { return y < 0 || y >= classes; });
  if (outside != end)
    throw std::invalid_argument("labels: got " + std::to_string(*outside) + "; expected 0 to " +
                                std::to_string(classes - 1));
  const fastlt::IntervalTask task{
      logits.data(),      rows, classes, labels.data(), slope.data(), log, low.mutable_data(),
      high.mutable_data()};
  const fastlt::WithoutGil without_gil;
  fastlt::interval_bounds(task, num_threads);
}

}  // namespace

void bind_intervals(py::module_& m) {
  m.def("interval_bounds", &interval_bounds, py::arg("logits").noconvert(), py::arg("labels").noconvert(),
        py::arg("slope").noconvert(), py::kw_only(), py::arg("log"), py::arg("low").noconvert(),
        py::arg("high").noconvert(), py::arg("num_threads") = 1,
        "The open interval of taus at which each row's label has the first largest score.");
}
