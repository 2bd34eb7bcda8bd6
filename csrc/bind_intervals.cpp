// The Python face of the tau intervals: checks what it is handed, then works without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "intervals.h"
#include "without_gil.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
void check_length(const Array<T>& array, const char* name, py::ssize_t length) {
  if (array.ndim() != 1 || array.shape(0) != length)
    throw std::invalid_argument(std::string(name) + ": wrong shape, expected [" + std::to_string(length) +
                                "]");
}

void interval_bounds(const Array<float>& logits, const Array<std::int64_t>& labels, const Array<float>& slope,
                     bool log, Array<float> low, Array<float> high, int num_threads) {
  if (logits.ndim() != 2) throw std::invalid_argument("logits: wrong shape, expected [rows, classes]");
  const py::ssize_t rows = logits.shape(0), classes = logits.shape(1);
  check_length(labels, "labels", rows);
  check_length(slope, "slope", classes);
  check_length(low, "low", rows);
  check_length(high, "high", rows);
  if (num_threads < 1) throw std::invalid_argument("num_threads: expected at least 1");
  if (std::any_of(labels.data(), labels.data() + rows, [&](std::int64_t y) { return y < 0 || y >= classes; }))
    throw std::invalid_argument("labels: expected 0.." + std::to_string(classes - 1));
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
