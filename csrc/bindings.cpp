// Python bindings of the C++ core: numpy in and numpy out.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_intervals(py::module_& m);
void bind_resample(py::module_& m);
void bind_sampler(py::module_& m);

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastlt's C++ core: sampling order, augmentation draws, image resampling and tau intervals.";
  bind_intervals(m);
  bind_resample(m);
  bind_sampler(m);
}
