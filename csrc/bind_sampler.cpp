// Python bindings of the sampler and the augmentation draws: they check shapes, then work without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "augmentation.h"
#include "permutation.h"
#include "sampler.h"
#include "without_gil.h"

namespace py = pybind11;

namespace {

using fastlt::Array;
using fastlt::ClassIndex;
using fastlt::LargeArray;
using fastlt::Sampler;

template <typename Label>
bool build_as(const py::array& labels, std::uint64_t num_classes, bool with_order, bool wide_ids,
              int num_threads, std::shared_ptr<ClassIndex>& index) {
  if (!py::isinstance<Array<Label>>(labels)) return false;
  const auto* data = static_cast<const Label*>(labels.data());
  const auto size = static_cast<std::uint64_t>(labels.size());
  const fastlt::WithoutGil without_gil;
  index = std::make_shared<ClassIndex>(
      ClassIndex::build(data, size, num_classes, with_order, wide_ids, num_threads));
  return true;
}

std::shared_ptr<ClassIndex> build_index(const py::array& labels, std::uint64_t num_classes, bool with_order,
                                        bool wide_ids, int num_threads) {
  if (labels.ndim() != 1)
    throw std::invalid_argument("labels: got " + std::to_string(labels.ndim()) + " dimensions; expected 1");
  std::shared_ptr<ClassIndex> index;
  const auto with = [&](auto label) {
    return build_as<decltype(label)>(labels, num_classes, with_order, wide_ids, num_threads, index);
  };
  if (!(with(std::int64_t{}) || with(std::int32_t{}) || with(std::int16_t{}) || with(std::int8_t{}) ||
        with(std::uint64_t{}) || with(std::uint32_t{}) || with(std::uint16_t{}) || with(std::uint8_t{})))
    throw py::type_error(
        "labels: got another kind of array; expected contiguous integers in native byte order");
  return index;
}

// A view that keeps the index alive.
template <typename T>
py::array view(const std::shared_ptr<ClassIndex>& index, const T* data, std::size_t size) {
  auto array = py::array_t<T>(static_cast<py::ssize_t>(size), data, py::cast(index));
  array.attr("flags").attr("writeable") = false;
  return array;
}

py::object order_of(const std::shared_ptr<ClassIndex>& index) {
  if (!index->wide_order().empty())
    return view(index, index->wide_order().data(), index->wide_order().size());
  if (!index->narrow_order().empty())
    return view(index, index->narrow_order().data(), index->narrow_order().size());
  return py::none();
}

template <typename T>
LargeArray<T> copy(const py::object& array) {
  if (!py::isinstance<Array<T>>(array)) return {};
  const auto source = py::cast<Array<T>>(array);
  LargeArray<T> target(static_cast<std::size_t>(source.size()));
  std::memcpy(target.data(), source.data(), target.size() * sizeof(T));
  return target;
}

std::unique_ptr<Sampler> make_sampler(std::shared_ptr<ClassIndex> index, fastlt::Law law, std::uint64_t seed,
                                      std::uint64_t batch_size, std::uint64_t epoch_slots,
                                      std::uint64_t samples_per_class, std::uint64_t ramp_slots,
                                      std::uint64_t ramp_units, bool shuffle_batches, bool unique_batches,
                                      const std::vector<double>& weights) {
  if (index->num_samples() == 0 || batch_size == 0 || batch_size > fastlt::kMaxNarrow || epoch_slots == 0 ||
      epoch_slots > index->num_samples() || samples_per_class == 0 || ramp_slots == 0)
    throw std::invalid_argument(
        "sizes: got one out of range; expected samples, and at least 1 and at most 2^31 - 1 a batch");
  if (weights.size() != (law == fastlt::Law::kWeighted ? index->num_classes() : 0))
    throw std::invalid_argument("weights: got " + std::to_string(weights.size()) +
                                "; expected one a class for the weighted law, none for others");
  const fastlt::SamplerPlan plan{law,        seed,       batch_size,      epoch_slots,   samples_per_class,
                                 ramp_slots, ramp_units, shuffle_batches, unique_batches};
  auto sampler = std::make_unique<Sampler>(std::move(index), plan, weights);
  if (sampler->by_position() && !sampler->index()->has_order())
    throw std::invalid_argument("index: got one without an order; expected samples sorted by class");
  return sampler;
}

Array<std::int64_t> draw(const Sampler& sampler, std::uint64_t first_slot, std::uint64_t count,
                         int num_threads, fastlt::Simd simd) {
  Array<std::int64_t> out(static_cast<py::ssize_t>(count));
  std::int64_t* data = out.mutable_data();
  {
    const fastlt::WithoutGil without_gil;
    sampler.draw(first_slot, count, data, num_threads, simd);
  }
  return out;
}

Array<std::int64_t> permutation(std::uint64_t n, std::uint64_t seed, std::uint64_t cycle,
                                const Array<std::int64_t>& places) {
  const fastlt::WordStream stream(seed, fastlt::Stream::kEpoch);
  Array<std::int64_t> values(places.size());
  for (py::ssize_t i = 0; i < places.size(); ++i) {
    const auto place = static_cast<std::uint64_t>(places.data()[i]);
    if (place >= n)
      throw std::invalid_argument("places: got " + std::to_string(places.data()[i]) + "; expected 0 to " +
                                  std::to_string(n - 1));
    values.mutable_data()[i] = static_cast<std::int64_t>(fastlt::permute(stream, 0, cycle, n, place));
  }
  return values;
}

py::tuple draw_augmentations(std::uint64_t seed, std::uint64_t first_slot, const Array<std::int32_t>& sizes,
                             std::pair<double, double> scale, std::pair<double, double> ratio, double flip,
                             double jitter) {
  if (sizes.ndim() != 2 || sizes.shape(1) != 2)
    throw std::invalid_argument("sizes: got shape " +
                                fastlt::listed(sizes.shape(), sizes.shape() + sizes.ndim()) +
                                "; expected [B, 2]");
  const py::ssize_t count = sizes.shape(0);
  for (py::ssize_t i = 0; i < sizes.size(); ++i)
    if (sizes.data()[i] < 1)
      throw std::invalid_argument("sizes: got a side of " + std::to_string(sizes.data()[i]) +
                                  " pixels in image " + std::to_string(i / 2) + "; expected at least 1");
  Array<std::int32_t> windows({count, py::ssize_t{4}});
  Array<bool> flips(count);
  Array<float> factors({count, py::ssize_t{3}});
  Array<std::uint8_t> order(count);
  const fastlt::AugmentationPlan plan{scale.first, scale.second, ratio.first, ratio.second, flip, jitter};
  std::int32_t* windows_data = windows.mutable_data();
  bool* flips_data = flips.mutable_data();
  float* factors_data = factors.mutable_data();
  std::uint8_t* order_data = order.mutable_data();
  {
    const fastlt::WithoutGil without_gil;
    fastlt::draw_augmentations(plan, seed, first_slot, static_cast<std::uint64_t>(count), sizes.data(),
                               windows_data, flips_data, factors_data, order_data);
  }
  return py::make_tuple(windows, flips, factors, order);
}

}  // namespace

void bind_sampler(py::module_& m) {
  py::enum_<fastlt::Law>(m, "Law")
      .value("epochs", fastlt::Law::kEpochs)
      .value("uniform", fastlt::Law::kUniform)
      .value("class_cycles", fastlt::Law::kClassCycles)
      .value("classes", fastlt::Law::kClasses)
      .value("weighted", fastlt::Law::kWeighted)
      .value("mixture", fastlt::Law::kMixture);
  py::enum_<fastlt::Simd>(m, "Simd")
      .value("scalar", fastlt::Simd::kScalar)
      .value("avx2", fastlt::Simd::kAvx2)
      .value("avx512", fastlt::Simd::kAvx512);
  m.def("best_simd", &fastlt::best_simd, "Return the widest vectors that this processor has kernels for.");

  py::class_<ClassIndex, std::shared_ptr<ClassIndex>>(m, "ClassIndex", "The samples of each class.")
      .def(py::init(&build_index), py::arg("labels"), py::kw_only(), py::arg("num_classes"),
           py::arg("with_order") = true, py::arg("wide_ids") = false, py::arg("num_threads") = 1)
      .def_property_readonly("num_samples", &ClassIndex::num_samples)
      .def_property_readonly("num_classes", &ClassIndex::num_classes)
      .def_property_readonly("fingerprint", &ClassIndex::fingerprint)
      .def_property_readonly("offsets",
                             [](const std::shared_ptr<ClassIndex>& index) {
                               return view(index, index->offsets().data(), index->offsets().size());
                             })
      .def_property_readonly("order", &order_of)
      .def(py::pickle(
          [](const std::shared_ptr<ClassIndex>& index) {
            return py::make_tuple(view(index, index->offsets().data(), index->offsets().size()),
                                  order_of(index), index->fingerprint());
          },
          [](const py::tuple& state) {
            const auto offsets = py::cast<Array<std::uint64_t>>(state[0]);
            return std::make_shared<ClassIndex>(
                std::vector<std::uint64_t>(offsets.data(), offsets.data() + offsets.size()),
                copy<std::uint32_t>(state[1]), copy<std::uint64_t>(state[1]),
                py::cast<std::uint64_t>(state[2]));
          }));

  py::class_<Sampler>(m, "Sampler", "The sample of every slot, as a pure function of seed and slot.")
      .def(py::init(&make_sampler), py::arg("index"), py::kw_only(), py::arg("law"), py::arg("seed"),
           py::arg("batch_size"), py::arg("epoch_slots"), py::arg("samples_per_class") = 1,
           py::arg("ramp_slots") = 1, py::arg("ramp_units") = 0, py::arg("shuffle_batches") = false,
           py::arg("unique_batches") = false, py::arg("weights") = std::vector<double>())
      .def("draw", &draw, py::arg("first_slot"), py::arg("count"), py::kw_only(), py::arg("num_threads") = 1,
           py::arg("simd") = fastlt::best_simd());

  m.def("permutation", &permutation, py::arg("n"), py::kw_only(), py::arg("seed"), py::arg("cycle"),
        py::arg("places"), "Return the values at some places of a keyed permutation of 0 .. n - 1.");
  m.def("draw_augmentations", &draw_augmentations, py::kw_only(), py::arg("seed"), py::arg("first_slot"),
        py::arg("sizes"), py::arg("scale"), py::arg("ratio"), py::arg("flip"), py::arg("jitter"),
        "Draw windows, flips, colour factors and their order for consecutive slots.");
}
