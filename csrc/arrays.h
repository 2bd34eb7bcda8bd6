// Arrays that Python hands over, and the check of their shapes.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace fastlt {

template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

// The numbers [begin, end) as text.
template <typename T>
std::string listed(const T* begin, const T* end) {
  std::string text;
  for (; begin != end; ++begin) text += (text.empty() ? "" : ", ") + std::to_string(*begin);
  return "[" + text + "]";
}

// Throws std::invalid_argument unless an array has the expected lengths.
inline void check_shape(const pybind11::array& array, const char* name,
                        std::initializer_list<pybind11::ssize_t> expected) {
  const pybind11::ssize_t *begin = array.shape(), *end = begin + array.ndim();
  if (!std::equal(begin, end, expected.begin(), expected.end()))
    throw std::invalid_argument(std::string(name) + ": got shape " + listed(begin, end) + "; expected " +
                                listed(expected.begin(), expected.end()));
}

}  // namespace fastlt
