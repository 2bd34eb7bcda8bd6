// Splits work among the threads of a small pool that lives as long as the process.
//
// The first call that wants threads starts them; between calls they spin for some microseconds, then sleep.
// The caller takes its share of the work, and all of it while the pool works for another thread: calls from
// several threads, and calls from within the work, never wait for each other. A forked child, which inherits
// no threads, starts a pool of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <vector>

namespace fastlt {

// Calls run(work, part) once for each of the parts 0 ... num_parts - 1, on at most as many threads, and
// returns when all calls have. `run` must not throw; a call must not wait for another one, which may start
// after it.
void run_parts(std::uint64_t num_parts, void (*run)(const void* work, std::uint64_t part), const void* work);

// Calls work(part) for the parts 0 ... num_parts - 1, as run_parts does. Rethrows one of the exceptions,
// after all calls.
template <typename Work>
void parallel_workers(std::uint64_t num_parts, const Work& work) {
  if (num_parts == 1) return work(std::uint64_t{0});
  std::vector<std::exception_ptr> failures(num_parts);
  const auto guarded = [&](std::uint64_t part) {
    try {
      work(part);
    } catch (...) {
      failures[part] = std::current_exception();
    }
  };
  using Guarded = decltype(guarded);
  run_parts(
      num_parts, [](const void* it, std::uint64_t part) { (*static_cast<Guarded*>(it))(part); }, &guarded);
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

// The same with consecutive shares of [0, count): work(part, begin, end).
template <typename Work>
void parallel_parts(std::uint64_t count, std::uint64_t num_parts, const Work& work) {
  const auto bound = [&](std::uint64_t part) {
    return count / num_parts * part + std::min(part, count % num_parts);
  };
  parallel_workers(num_parts, [&](std::uint64_t part) { work(part, bound(part), bound(part + 1)); });
}

}  // namespace fastlt
