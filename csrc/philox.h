// Random words that are a pure function of a seed, a stream and a counter: Philox (Salmon et al., SC 2011).
#pragma once

#include <cstdint>

namespace fastlt {

// What a random word is for. Two streams never share a counter.
enum class Stream : std::uint32_t {
  kClassCycle,  // the order of the classes in one cycle through them
  kImageCycle,  // the order of one class's images in one cycle through them
  kEpoch,       // the order of all images in one epoch
  kSlot,        // class and image of one slot
  kCoin,        // a slot's side of the mixture, and the threshold of its alias table entry
  kBatch,       // the order of the slots in one batch
  kRepair,      // the images that replace duplicates
  kAugmentation,
};

struct Words2 {
  std::uint32_t a, b;
};

struct Words4 {
  std::uint32_t a, b, c, d;
};

// The words of every slot take the fewest rounds that the authors found to pass BigCrush. The few words that
// decide all others take 10, the authors' choice with a margin.
inline constexpr int kPhilox2Rounds = 7, kPhilox4Rounds = 10;
inline constexpr std::uint32_t kPhilox2Multiplier = 0xD256D193u, kPhilox2Weyl = 0x9E3779B9u;

constexpr Words4 philox4x32(Words4 counter, Words2 key) {
  for (int round = 0; round < kPhilox4Rounds; ++round) {
    const std::uint64_t p = std::uint64_t{0xD2511F53u} * counter.a;
    const std::uint64_t q = std::uint64_t{0xCD9E8D57u} * counter.c;
    counter = {static_cast<std::uint32_t>(q >> 32) ^ counter.b ^ key.a, static_cast<std::uint32_t>(q),
               static_cast<std::uint32_t>(p >> 32) ^ counter.d ^ key.b, static_cast<std::uint32_t>(p)};
    key.a += 0x9E3779B9u;
    key.b += 0xBB67AE85u;
  }
  return counter;
}

constexpr Words2 philox2x32(Words2 counter, std::uint32_t key) {
  for (int round = 0; round < kPhilox2Rounds; ++round) {
    const std::uint64_t p = std::uint64_t{kPhilox2Multiplier} * counter.a;
    counter = {static_cast<std::uint32_t>(p >> 32) ^ key ^ counter.b, static_cast<std::uint32_t>(p)};
    key += kPhilox2Weyl;
  }
  return counter;
}

// Two words for every 64-bit counter of one stream: philox2x32, whose short key is extended by whitening the
// counter. Key and whitening come from philox4x32 under the whole seed.
class WordStream {
 public:
  WordStream() = default;
  WordStream(std::uint64_t seed, Stream stream)
      : seed_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        stream_(static_cast<std::uint32_t>(stream)) {
    const Words4 words = philox4x32({0, 0, stream_, 0}, seed_);
    key_ = words.a;
    whitening_ = words.b;
  }

  std::uint32_t key() const { return key_; }
  std::uint32_t whitening() const { return whitening_; }

  Words2 words(std::uint32_t low, std::uint32_t high) const {
    return philox2x32({low, high ^ whitening_}, key_);
  }

  // Further words for a counter whose first ones were rejected. `attempt` >= 1, or `high` >= 1.
  Words4 more(std::uint32_t low, std::uint32_t middle, std::uint32_t high, std::uint32_t attempt) const {
    return philox4x32({low, middle, stream_ | attempt << 8, high}, seed_);
  }

 private:
  Words2 seed_{0, 0};
  std::uint32_t stream_ = 0, key_ = 0, whitening_ = 0;
};

constexpr std::uint64_t join(std::uint32_t low, std::uint32_t high) {
  return std::uint64_t{high} << 32 | low;
}

constexpr std::uint64_t multiply_high(std::uint64_t x, std::uint64_t y) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(x) * y >> 64);
}

// An exactly uniform integer below n (Lemire, ACM TOMACS 2019). `word` is the first try; `more(attempt)`
// gives 64 further random bits when `word` is one of the few values that would favour some results.
template <typename More>
std::uint64_t uniform_below(std::uint64_t n, std::uint32_t word, const More& more) {
  std::uint32_t attempt = 0;
  if (n >> 31 == 0) {
    std::uint64_t product = std::uint64_t{word} * n;
    if (static_cast<std::uint32_t>(product) < n) {
      const std::uint32_t biased = (0u - static_cast<std::uint32_t>(n)) % static_cast<std::uint32_t>(n);
      while (static_cast<std::uint32_t>(product) < biased) product = (more(++attempt) & 0xFFFFFFFFu) * n;
    }
    return product >> 32;
  }
  const std::uint64_t biased = (0u - n) % n;
  std::uint64_t bits;
  do bits = more(++attempt);
  while (bits * n < biased);
  return multiply_high(bits, n);
}

}  // namespace fastlt
