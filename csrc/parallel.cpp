#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace fastlt {
namespace {

// The parts of one call: every thread takes the next one.
struct Job {
  void (*run)(const void*, std::uint64_t);
  const void* work;
  std::uint64_t num_parts;
  std::atomic<std::uint64_t> next{0};

  void take_parts() {
    for (std::uint64_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < num_parts;)
      run(work, part);
  }
};

void pause_processor() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_ia32_pause();
#endif
}

// Waits for `holds()` for a while without giving up the processor; returns whether it became true.
template <typename Condition>
bool spin_until(const Condition& holds) {
  // Longer than what a caller does between two batches, and about what it takes to wake a thread up.
  constexpr auto kLimit = std::chrono::microseconds(50);
  const auto end = std::chrono::steady_clock::now() + kLimit;
  do {
    for (int i = 0; i < 16; ++i) {
      if (holds()) return true;
      pause_processor();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// The atomics are sequentially consistent, which matters in three places. A worker counts as running before
// it looks for a job, and the caller withdraws the job before it counts the running workers. A worker counts
// as asleep before it looks for a call, and the caller announces a call before it counts the sleepers. The
// caller sets caller_waits_ before it counts the running workers, and a worker stops counting as running
// before it reads caller_waits_.
class Pool {
 public:
  // False while another thread's job runs.
  bool try_run(Job& job) {
    if (busy_.exchange(true)) return false;
    grow(job.num_parts - 1);
    job_.store(&job);
    num_calls_.fetch_add(1);
    if (num_sleepers_.load() != 0) wake(job.num_parts - 1);
    job.take_parts();
    job_.store(nullptr);
    // Waits only for workers that have begun: one that wakes up late finds no job, and causes no delay.
    const auto is_done = [&] { return num_running_.load() == 0; };
    if (!spin_until(is_done)) {
      std::unique_lock<std::mutex> lock(mutex_);
      caller_waits_.store(true);
      done_.wait(lock, is_done);
      caller_waits_.store(false);
    }
    busy_.store(false);
    return true;
  }

 private:
  // More workers than processors would only get in each other's way.
  void grow(std::uint64_t wanted) {
    wanted = std::min<std::uint64_t>(wanted, std::max(std::thread::hardware_concurrency(), 2u) - 1);
    while (num_workers_ < wanted) {
      try {
        std::thread(&Pool::serve, this, num_calls_.load()).detach();
      } catch (const std::system_error&) {
        return;  // The system has no more threads: the caller does the work.
      }
      ++num_workers_;
    }
  }

  void wake(std::uint64_t wanted) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::uint64_t i = std::min(wanted, num_workers_); i != 0; --i) awake_.notify_one();
  }

  void serve(std::uint64_t num_seen) {
    for (;;) {
      const auto is_called = [&] { return num_calls_.load() != num_seen; };
      if (!spin_until(is_called)) {
        std::unique_lock<std::mutex> lock(mutex_);
        num_sleepers_.fetch_add(1);
        awake_.wait(lock, is_called);
        num_sleepers_.fetch_sub(1);
      }
      num_seen = num_calls_.load();
      num_running_.fetch_add(1);
      if (Job* job = job_.load()) job->take_parts();
      if (num_running_.fetch_sub(1) == 1 && caller_waits_.load()) {
        const std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::atomic<bool> busy_{false}, caller_waits_{false};
  std::atomic<Job*> job_{nullptr};
  std::atomic<std::uint64_t> num_calls_{0}, num_running_{0}, num_sleepers_{0};
  std::uint64_t num_workers_ = 0;  // changed only by the thread that has set busy_
  std::mutex mutex_;
  std::condition_variable awake_, done_;
};

// Never deleted: workers are detached and use the pool until the process ends, which neither waits for them
// nor deletes the pool before they stop. Workers touch a caller's memory only while it waits in run_parts.
std::atomic<Pool*> shared_pool{nullptr};

#ifndef _WIN32
// In a forked child, whose copy of the pool has no threads and may be in any state.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { shared_pool.store(nullptr); });
#endif

// Without a lock, which another thread could hold at a fork.
Pool& pool() {
  Pool* current = shared_pool.load();
  if (current == nullptr) {
    auto fresh = std::make_unique<Pool>();
    if (shared_pool.compare_exchange_strong(current, fresh.get())) current = fresh.release();
  }
  return *current;
}

}  // namespace

void run_parts(std::uint64_t num_parts, void (*run)(const void* work, std::uint64_t part), const void* work) {
  if (num_parts == 0) return;
  Job job{run, work, num_parts};
  if (num_parts == 1 || !pool().try_run(job)) job.take_parts();
}

}  // namespace fastlt
