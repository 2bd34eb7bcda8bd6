#include "sampler.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <utility>

#include "parallel.h"
#include "permutation.h"
#include "vectors.h"

namespace fastlt {
namespace {

constexpr int kNumStreams = static_cast<int>(Stream::kAugmentation) + 1;
constexpr std::uint64_t kChunk = 4096;

std::uint32_t low_word(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
std::uint32_t high_word(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }

// A small map from numbers to counts that start at 0, for one batch.
class Counter {
 public:
  explicit Counter(std::size_t num_keys) {
    while ((std::size_t{1} << bits_) < 2 * num_keys) ++bits_;
    slots_.resize(std::size_t{1} << bits_, {kFree, 0});
  }
  std::uint64_t& operator[](std::uint64_t key) {
    std::size_t i = key * 0x9E3779B97F4A7C15u >> (64 - bits_);
    while (slots_[i].first != key && slots_[i].first != kFree) i = (i + 1) & (slots_.size() - 1);
    slots_[i].first = key;
    return slots_[i].second;
  }

 private:
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  int bits_ = 1;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> slots_;
};

}  // namespace

Sampler::Sampler(std::shared_ptr<const ClassIndex> index, const SamplerPlan& plan,
                 const std::vector<double>& weights)
    : index_(std::move(index)), plan_(plan) {
  if (!weights.empty()) alias_ = make_alias_table(weights.data(), weights.size());
  for (int stream = 0; stream < kNumStreams; ++stream)
    streams_.emplace_back(plan.seed, static_cast<Stream>(stream));
}

std::uint64_t Sampler::mixture(std::uint64_t slot) const {
  const std::uint64_t unit = slot / plan_.ramp_slots;
  if (plan_.ramp_units == 0) return 0;
  if (unit >= plan_.ramp_units) return std::uint64_t{1} << 32;
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(unit) << 32) / plan_.ramp_units);
}

std::uint64_t Sampler::at(std::uint64_t slot) const {
  const std::uint64_t num_samples = index_->num_samples(), num_classes = index_->num_classes();
  if (plan_.law == Law::kEpochs)
    return permute(stream(Stream::kEpoch), 0, slot / plan_.epoch_slots, num_samples,
                   slot % plan_.epoch_slots);
  if (plan_.law == Law::kClassCycles) {
    const std::uint64_t group = slot / plan_.samples_per_class, cycle = group / num_classes;
    const std::uint64_t c = permute(stream(Stream::kClassCycle), 0, cycle, num_classes, group % num_classes);
    const std::uint64_t n = index_->count(c);
    const std::uint64_t visit = cycle * plan_.samples_per_class + slot % plan_.samples_per_class;
    return index_->start(c) + permute(stream(Stream::kImageCycle), low_word(c), visit / n, n, visit % n);
  }

  const std::uint32_t low = low_word(slot), high = high_word(slot);
  const Words2 words = stream(Stream::kSlot).words(low, high);
  const auto below = [&](std::uint64_t n, std::uint32_t word, std::uint32_t which) {
    return uniform_below(n, word, [&](std::uint32_t attempt) {
      const Words4 more = stream(Stream::kSlot).more(low, which, high, attempt);
      return join(more.a, more.b);
    });
  };
  const Words2 coin = stream(Stream::kCoin).words(low, high);
  if (plan_.law == Law::kUniform || (plan_.law == Law::kMixture && coin.a >= mixture(slot)))
    return below(num_samples, words.a, 0);
  std::uint64_t c = below(num_classes, words.a, 0);
  if (plan_.law == Law::kWeighted && coin.a >= alias_[c].threshold) c = alias_[c].other;
  return index_->start(c) + below(index_->count(c), words.b, 1);
}

void Sampler::draw(std::uint64_t first, std::uint64_t count, std::int64_t* out, int num_threads,
                   Simd simd) const {
  if (count == 0) return;
  simd = std::min(simd, best_simd());
  // Each thread takes the next chunk, since some wake up late. Batches that are repaired or shuffled stay
  // whole.
  const bool whole = plan_.shuffle_batches || plan_.unique_batches;
  const std::uint64_t chunk =
      whole ? std::max<std::uint64_t>(kChunk / plan_.batch_size, 1) * plan_.batch_size : kChunk;
  const std::uint64_t begin = first / chunk, end = (first + count - 1) / chunk + 1;
  std::atomic<std::uint64_t> next{begin};
  parallel_workers(std::min<std::uint64_t>(std::max(num_threads, 1), end - begin), [&](std::uint64_t) {
    for (std::uint64_t i; (i = next.fetch_add(1)) < end;) {
      const std::uint64_t from = std::max(first, i * chunk), to = std::min(first + count, (i + 1) * chunk);
      if (whole)
        fill_batches(from, to - from, out + (from - first), simd);
      else
        fill(from, to - from, out + (from - first), simd);
    }
  });
}

void Sampler::fill(std::uint64_t first, std::uint64_t count, std::int64_t* out, Simd simd) const {
  const bool sorted = by_position();
  std::uint32_t positions[kVectorBlock + kVectorSlack];
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t slot = first + done;
    const std::uint32_t size = vector_block(slot, count - done, simd);
    if (size == 0) {
      const std::uint64_t position = at(slot);
      out[done++] = static_cast<std::int64_t>(sorted ? index_->sample(position) : position);
      continue;
    }
#ifdef FASTLT_X86_VECTORS
    (simd == Simd::kAvx512 ? draw_positions_avx512 : draw_positions_avx2)(*this, slot, size, positions);
#endif
    const std::uint32_t* order = index_->narrow_order().data();
    for (std::uint32_t i = 0; i < size; ++i) out[done + i] = sorted ? order[positions[i]] : positions[i];
    done += size;
  }
}

std::uint32_t Sampler::vector_block(std::uint64_t slot, std::uint64_t count, Simd simd) const {
  if (simd == Simd::kScalar || index_->num_samples() > kMaxNarrow ||
      (by_position() && index_->narrow_offsets().empty()))
    return 0;
  std::uint64_t end = slot + std::min<std::uint64_t>(count, kVectorBlock);
  end = std::min(end, (slot | 0xFFFFFFFFu) + 1);
  if (plan_.law == Law::kMixture) end = std::min(end, (slot / plan_.ramp_slots + 1) * plan_.ramp_slots);
  if (plan_.law == Law::kClassCycles) {
    const std::uint64_t visits =
        (end / plan_.samples_per_class / index_->num_classes() + 1) * plan_.samples_per_class;
    if (visits > kMaxNarrow) return 0;
  }
  return static_cast<std::uint32_t>(end - slot);
}

void Sampler::fill_batches(std::uint64_t first, std::uint64_t count, std::int64_t* out, Simd simd) const {
  const std::uint64_t size = plan_.batch_size;
  std::vector<std::uint64_t> positions(size);
  std::vector<std::int64_t> batch(size);
  for (std::uint64_t slot = first; slot < first + count;) {
    const std::uint64_t step = slot / size, start = step * size;
    const std::uint64_t end = std::min(start + size, first + count);
    if (plan_.unique_batches) {
      for (std::uint64_t i = 0; i < size; ++i) positions[i] = at(start + i);
      repair(step, positions);
      for (std::uint64_t i = 0; i < size; ++i)
        batch[i] = static_cast<std::int64_t>(by_position() ? index_->sample(positions[i]) : positions[i]);
    } else {
      fill(start, size, batch.data(), simd);
    }
    if (!plan_.shuffle_batches) {
      out = std::copy(batch.begin() + static_cast<std::ptrdiff_t>(slot - start),
                      batch.begin() + static_cast<std::ptrdiff_t>(end - start), out);
      slot = end;
    }
    while (slot < end) {
      std::uint32_t places[kVectorBlock + kVectorSlack];
      const auto part = static_cast<std::uint32_t>(std::min<std::uint64_t>(end - slot, kVectorBlock));
      shuffled_places(slot, part, places, simd);
      for (std::uint32_t i = 0; i < part; ++i) *out++ = batch[places[i]];
      slot += part;
    }
  }
}

void Sampler::shuffled_places(std::uint64_t slot, std::uint32_t count, std::uint32_t* out, Simd simd) const {
  const WordStream& stream = streams_[static_cast<int>(Stream::kBatch)];
  const auto size = static_cast<std::uint32_t>(plan_.batch_size);
#ifdef FASTLT_X86_VECTORS
  if (simd == Simd::kAvx512) return permute_places_avx512(stream, size, slot, count, out);
  if (simd == Simd::kAvx2) return permute_places_avx2(stream, size, slot, count, out);
#endif
  for (std::uint32_t i = 0; i < count; ++i)
    out[i] = static_cast<std::uint32_t>(permute(stream, 0, slot / size, size, slot % size + i));
}

void Sampler::repair(std::uint64_t step, std::vector<std::uint64_t>& positions) const {
  Counter uses(positions.size()), drawn(positions.size());
  for (std::uint64_t i = 0; i < positions.size(); ++i) {
    std::uint64_t start = 0, n = index_->num_samples();
    if (by_position()) {
      const std::uint64_t c = index_->class_at(positions[i]);
      start = index_->start(c);
      n = index_->count(c);
    }
    // All samples of the class have been used this often before one may be used again.
    const std::uint64_t rounds = drawn[start]++ / n;
    for (std::uint64_t j = 0; uses[positions[i]] > rounds; ++j)
      positions[i] = start + permute(stream(Stream::kRepair), 0, step * plan_.batch_size + i, n, j);
    ++uses[positions[i]];
  }
}

Simd best_simd() {
#ifdef FASTLT_X86_VECTORS
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return Simd::kAvx512;
  if (__builtin_cpu_supports("avx2")) return Simd::kAvx2;
#endif
  return Simd::kScalar;
}

}  // namespace fastlt
