// Splits work among threads that live for one call, so that a fork between calls finds none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace fastlt {

// Calls work(part, begin, end) for `num_parts` consecutive parts of [0, count), each on its own thread, the
// last one on the caller's. Rethrows one of the exceptions.
template <typename Work>
void parallel_parts(std::uint64_t count, std::uint64_t num_parts, const Work& work) {
  std::vector<std::exception_ptr> failures(num_parts);
  const auto run = [&](std::uint64_t part) {
    try {
      work(part, count / num_parts * part + std::min(part, count % num_parts),
           count / num_parts * (part + 1) + std::min(part + 1, count % num_parts));
    } catch (...) {
      failures[part] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(num_parts);
  for (std::uint64_t part = 0; part + 1 < num_parts; ++part) {
    try {
      threads.emplace_back(run, part);
    } catch (const std::system_error&) {
      run(part);  // No more threads to be had: the caller's does the work.
    }
  }
  run(num_parts - 1);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace fastlt
