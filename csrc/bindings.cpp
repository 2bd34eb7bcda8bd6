// The Python face of the C++ core: bindings only, numpy in and numpy out.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_curve(py::module_& m);
void bind_resample(py::module_& m);
void bind_sampler(py::module_& m);

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastlt's C++ core: sampling order, augmentation draws, image resampling and the tau curve.";
  bind_curve(m);
  bind_resample(m);
  bind_sampler(m);
}
