// Permutations that are never stored: place -> value under a 64-bit key, in constant time and memory.
#pragma once

#include <cstdint>

#include "philox.h"

namespace fastlt {

// Up to this size a permutation is decoded from one uniform integer, so all n! are exactly equally likely.
inline constexpr std::uint32_t kMaxDecoded = 20;
// Up to this size a Feistel network's arithmetic fits 32 bits.
inline constexpr std::uint64_t kMaxNarrow = (std::uint64_t{1} << 31) - 1;

// Two places in one row of the network keep their distance unless the hashes of their columns differ; with
// few rows and columns, more rounds are needed to make that as rare as by chance.
inline constexpr int kManyRounds = 16, kSomeRounds = 12, kFewRounds = 8;
// The largest sizes of permutations that take many rounds, and some.
inline constexpr std::uint32_t kMaxManyRounds = 128, kMaxSomeRounds = 2048;
constexpr int feistel_rounds(std::uint32_t half_bits) {
  return half_bits < 4 ? kManyRounds : half_bits < 6 ? kSomeRounds : kFewRounds;
}
inline constexpr std::uint32_t kMix1 = 0x7FEB352Du, kMix2 = 0x846CA68Bu;

constexpr std::uint64_t factorial(std::uint32_t n) { return n < 2 ? 1 : n * factorial(n - 1); }

// 2^64 mod n!: a word whose product with n! has a low half below this favours some permutations.
constexpr std::uint64_t biased_below(std::uint32_t n) { return (0 - factorial(n)) % factorial(n); }

struct DecodeTable {
  std::uint64_t factorials[kMaxDecoded + 1]{}, biased[kMaxDecoded + 1]{};
  constexpr DecodeTable() {
    for (std::uint32_t n = 1; n <= kMaxDecoded; ++n) {
      factorials[n] = factorial(n);
      biased[n] = biased_below(n);
    }
  }
};
inline constexpr DecodeTable kDecode;

// Whether `word` may be decoded into a permutation of n without favouring any.
constexpr bool decodes(std::uint32_t n, std::uint64_t word) {
  return word * kDecode.factorials[n] >= kDecode.biased[n];
}

// Value at `place` of permutation number floor(word * n! / 2^64). The digits of that number in the factorial
// base, taken off the word one by one, say which transpositions to apply (Fisher and Yates's shuffle).
constexpr std::uint32_t decode(std::uint32_t n, std::uint64_t word, std::uint32_t place) {
  for (std::uint32_t i = 1; i < n; ++i) {
    const auto j = static_cast<std::uint32_t>(multiply_high(word, i + 1));
    word *= i + 1;
    place = place == i ? j : place == j ? i : place;
  }
  return place;
}

// A Feistel network on [0, rows << half_bits): the smallest such rectangle, nearly square, that holds n
// values.
struct FeistelShape {
  std::uint32_t half_bits;
  std::uint64_t rows;
  explicit constexpr FeistelShape(std::uint64_t n) : half_bits(0), rows(0) {
    std::uint32_t bits = 0;
    while (bits < 64 && (n - 1) >> bits != 0) ++bits;
    half_bits = bits / 2;
    rows = (n + (std::uint64_t{1} << half_bits) - 1) >> half_bits;
  }
};

// One pass through the network. Rounds alternate between adding a keyed hash of the column to the row, modulo
// the number of rows, and adding one of the row to the column, modulo a power of two. Additions, not
// exclusive ors, so that odd permutations occur as well.
constexpr std::uint32_t feistel_narrow(FeistelShape shape, Words2 key, std::uint32_t x) {
  const std::uint32_t h = shape.half_bits, rows = static_cast<std::uint32_t>(shape.rows);
  std::uint32_t row = x >> h, column = x & ((1u << h) - 1), round_key = key.a;
  for (int round = 0; round < feistel_rounds(h); ++round) {
    std::uint32_t mixed = ((round % 2 == 0 ? column : row) ^ round_key) * kMix1;
    mixed = (mixed ^ mixed >> 16) * kMix2;
    if (round % 2 == 0) {
      row += (mixed >> (h + 1)) * rows >> (31 - h);
      row = row < rows ? row : row - rows;
    } else {
      column = (column + (mixed >> (32 - h))) & ((1u << h) - 1);
    }
    round_key += key.b | 1u;
  }
  return row << h | column;
}

// The same for more than kMaxNarrow values.
constexpr std::uint64_t feistel_wide(FeistelShape shape, Words2 key, std::uint64_t x) {
  const std::uint32_t h = shape.half_bits;
  const std::uint64_t mask = (std::uint64_t{1} << h) - 1;
  std::uint64_t row = x >> h, column = x & mask, round_key = join(key.a, key.b);
  for (int round = 0; round < feistel_rounds(h); ++round) {
    std::uint64_t mixed = ((round % 2 == 0 ? column : row) ^ round_key) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ mixed >> 32) * 0x94D049BB133111EBu;
    if (round % 2 == 0) {
      row += multiply_high(mixed, shape.rows);
      row = row < shape.rows ? row : row - shape.rows;
    } else {
      column = (column + (mixed >> (64 - h))) & mask;
    }
    round_key += 0x9E3779B97F4A7C15u;
  }
  return row << h | column;
}

// Value at `place` of the key's permutation of n > kMaxDecoded values. A value outside is fed back until it
// is inside (cycle walking), which keeps the map one to one.
constexpr std::uint64_t feistel(std::uint64_t n, Words2 key, std::uint64_t place) {
  const FeistelShape shape(n);
  do
    place = n <= kMaxNarrow ? feistel_narrow(shape, key, static_cast<std::uint32_t>(place))
                            : feistel_wide(shape, key, place);
  while (place >= n);
  return place;
}

// The key of permutation `cycle` of the items of `group`, in a stream of permutations.
inline Words2 permutation_key(const WordStream& stream, std::uint32_t group, std::uint64_t cycle) {
  const auto low = static_cast<std::uint32_t>(cycle), high = static_cast<std::uint32_t>(cycle >> 32);
  if (high == 0) return stream.words(group, low);
  const Words4 words = stream.more(group, low, high, 0);
  return {words.a, words.b};
}

// The word to decode into permutation `cycle` of n <= kMaxDecoded items.
inline std::uint64_t decodable_word(const WordStream& stream, std::uint32_t group, std::uint64_t cycle,
                                    std::uint32_t n) {
  const Words2 key = permutation_key(stream, group, cycle);
  std::uint64_t word = join(key.a, key.b);
  for (std::uint32_t attempt = 1; !decodes(n, word); ++attempt) {
    const Words4 words = stream.more(group, static_cast<std::uint32_t>(cycle),
                                     static_cast<std::uint32_t>(cycle >> 32), attempt);
    word = join(words.a, words.b);
  }
  return word;
}

// Value at `place` of permutation `cycle` of the n items of `group`, in a stream of permutations.
inline std::uint64_t permute(const WordStream& stream, std::uint32_t group, std::uint64_t cycle,
                             std::uint64_t n, std::uint64_t place) {
  if (n > kMaxDecoded) return feistel(n, permutation_key(stream, group, cycle), place);
  const auto few = static_cast<std::uint32_t>(n);
  return decode(few, decodable_word(stream, group, cycle, few), static_cast<std::uint32_t>(place));
}

}  // namespace fastlt
