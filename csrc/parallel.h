// Splits work among threads that live for one call, so that a fork between calls finds none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace fastlt {

// Calls work(part) for the parts 0 ... num_parts - 1, each on its own thread, the last one on the caller's.
// Rethrows one of the exceptions.
template <typename Work>
void parallel_workers(std::uint64_t num_parts, const Work& work) {
  std::vector<std::exception_ptr> failures(num_parts);
  const auto run = [&](std::uint64_t part) {
    try {
      work(part);
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

// The same with consecutive shares of [0, count): work(part, begin, end).
template <typename Work>
void parallel_parts(std::uint64_t count, std::uint64_t num_parts, const Work& work) {
  const auto bound = [&](std::uint64_t part) {
    return count / num_parts * part + std::min(part, count % num_parts);
  };
  parallel_workers(num_parts, [&](std::uint64_t part) { work(part, bound(part), bound(part + 1)); });
}

}  // namespace fastlt
