// Lets other Python threads run while C++ works.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace fastlt {

// Gives up the GIL until the end of the scope, as pybind11::gil_scoped_release does, but safe in a daemon
// thread when Python exits.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      // Before 3.14 a Python that exits ends the thread here: the stack is unwound, through destructors that
      // may not throw and objects that need the GIL. Sleep until the process is gone, as later Pythons do.
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace fastlt
