// Exercises the sampler's C++ core without Python, for builds with sanitizers. Prints what fails.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "augmentation.h"
#include "parallel.h"
#include "permutation.h"
#include "sampler.h"

namespace {

using namespace fastlt;

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

// Known answers that the authors of Philox publish.
static_assert(philox2x32({0, 0}, 0).a == 0x257A3673u && philox2x32({0, 0}, 0).b == 0xCD26BE2Au);
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}).a == 0x6627E8D5u);
static_assert(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}).d == 0x6D5451FDu);

// Every permutation has its own share of the words.
void test_decode() {
  for (std::uint32_t n = 1; n <= 7; ++n) {
    const std::uint64_t width = ~std::uint64_t{0} / factorial(n);
    std::set<std::vector<std::uint32_t>> seen;
    for (std::uint64_t number = 0; number < factorial(n); ++number) {
      std::vector<std::uint32_t> values;
      for (std::uint32_t place = 0; place < n; ++place)
        values.push_back(decode(n, number * width + width / 2, place));
      seen.insert(values);
    }
    check(seen.size() == factorial(n), "decoded permutations differ");
  }
}

void test_permutations() {
  const WordStream stream(7, Stream::kImageCycle);
  for (std::uint64_t n = 1; n < 400; ++n) {
    std::set<std::uint64_t> values;
    for (std::uint64_t place = 0; place < n; ++place) values.insert(permute(stream, 3, n, n, place));
    check(values.size() == n && *values.rbegin() == n - 1, "permutations are one to one");
  }
  for (const std::uint64_t n : {kMaxNarrow, kMaxNarrow + 1, std::uint64_t{1} << 45})
    for (std::uint64_t place = 0; place < 1000; ++place)
      check(permute(stream, 3, n, n, n - 1 - place) < n, "values stay inside");
}

template <typename Label>
std::shared_ptr<const ClassIndex> make_index(const std::vector<std::uint64_t>& counts, bool wide,
                                             int num_threads) {
  std::vector<Label> labels;
  for (std::uint64_t round = 0; labels.size() < 100'000 && round < 1000; ++round)
    for (std::size_t c = 0; c < counts.size(); ++c)
      if (round < counts[c]) labels.push_back(static_cast<Label>(c));
  return std::make_shared<ClassIndex>(
      ClassIndex::build(labels.data(), labels.size(), counts.size(), true, wide, num_threads));
}

void test_laws(const std::vector<std::uint64_t>& counts, bool wide) {
  const auto index = make_index<std::int16_t>(counts, wide, 3);
  const std::uint64_t num_samples = index->num_samples();
  for (const Law law :
       {Law::kEpochs, Law::kUniform, Law::kClassCycles, Law::kClasses, Law::kWeighted, Law::kMixture}) {
    std::vector<double> weights;
    if (law == Law::kWeighted)
      for (const std::uint64_t n : counts) weights.push_back(static_cast<double>(n % 5 + 1));
    for (const int options : {0, 1, 2, 3}) {
      const std::uint64_t batch_size = 24;
      const SamplerPlan plan{law,
                             5,
                             batch_size,
                             num_samples,
                             law == Law::kClassCycles ? 3u : 1u,
                             2 * batch_size,
                             50,
                             (options & 1) != 0,
                             (options & 2) != 0};
      const Sampler sampler(index, plan, weights);
      for (const std::uint64_t first :
           {std::uint64_t{0}, std::uint64_t{4294967200u}, std::uint64_t{1} << 50}) {
        const std::uint64_t count = 9001;
        std::vector<std::int64_t> expected(count), drawn(count);
        sampler.draw(first, count, expected.data(), 1, Simd::kScalar);
        for (const Simd simd : {Simd::kAvx2, Simd::kAvx512}) {
          sampler.draw(first, count, drawn.data(), 3, simd);
          check(drawn == expected, "vectors and threads change nothing");
        }
        for (const std::int64_t id : expected)
          check(id >= 0 && static_cast<std::uint64_t>(id) < num_samples, "samples are in range");
      }
    }
  }
}

void test_draws() {
  const std::vector<std::int32_t> sizes = {500, 375, 1, 1, 2147483647, 2147483647, 1, 2147483647, 3, 1000};
  const std::size_t count = sizes.size() / 2;
  std::vector<std::int32_t> windows(4 * count);
  const std::unique_ptr<bool[]> flips(new bool[count]);
  std::vector<float> jitter(3 * count);
  std::vector<std::uint8_t> order(count);
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    const AugmentationPlan plan{0.08, 1.0, seed % 2 == 0 ? 0.75 : 1e-3, seed % 2 == 0 ? 4.0 / 3.0 : 1e3,
                                0.5,  0.4};
    draw_augmentations(plan, seed, ~std::uint64_t{0} - 2, count, sizes.data(), windows.data(), flips.get(),
                       jitter.data(), order.data());
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t k = 0; k < 2; ++k)
        check(windows[4 * i + k] >= 0 && windows[4 * i + 2 + k] >= 1 &&
                  windows[4 * i + k] <= sizes[2 * i + k] - windows[4 * i + 2 + k],
              "windows stay inside");
  }
}

// Several threads call at once, from within the work as well, with pauses that let the workers fall asleep.
void test_parallel() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([] {
      for (int call = 0; call < 300; ++call) {
        std::vector<int> visits(7);
        bool caught = false;
        try {
          parallel_workers(visits.size(), [&](std::uint64_t part) {
            // Only one half writes: both may run at once where the outer call found the pool busy.
            parallel_workers(2, [&](std::uint64_t half) {
              if (half == 0) ++visits[part];
            });
            if (part == 4) throw std::runtime_error("part 4");
          });
        } catch (const std::runtime_error&) {
          caught = true;
        }
        check(caught, "an exception reaches the caller");
        check(visits == std::vector<int>(7, 1), "every part is worked on once");
        if (call % 30 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
  test_decode();
  test_permutations();
  test_laws({1}, false);
  test_laws({2, 1}, false);
  test_laws({300, 200, 129, 128, 64, 33, 32, 21, 20, 20, 19, 13, 8, 5, 2, 1, 1}, false);
  test_laws({300, 200, 21, 20, 5, 1}, true);
  test_laws(std::vector<std::uint64_t>(700, 23), false);
  test_draws();
  test_parallel();
  std::puts("ok");
}
