// Permutations and random words for many places at once, written for any vector of 32-bit numbers.
//
// Included by the file of each instruction set, after its target has been set, so that nothing here is shared
// between them. The results are permute's and WordStream's, bit for bit.
#pragma once

#include "permutation.h"
#include "vectors.h"

namespace fastlt {
namespace {

// V has kLanes numbers and, as static functions, the operations used below. Masks have one bit a lane.
template <typename V>
struct VectorPermutations {
  using Reg = typename V::Reg;
  static constexpr std::uint32_t kLanes = V::kLanes;
  // Vectors of one permutation that take a pass together.
  static constexpr std::uint32_t kWays = 4;
  static constexpr std::uint32_t kSize = kVectorBlock + kWays * kLanes;

  // The upper and the lower 32 bits of products, computed in 64-bit lanes, with odd lanes kept apart.
  static void multiply(Reg x, Reg y, Reg& high, Reg& low) {
    const Reg even = V::multiply_halves(x, y);
    const Reg odd = V::multiply_halves(V::upper_halves(x), V::upper_halves(y));
    high = V::interleave_upper(even, odd);
    low = V::interleave_lower(even, odd);
  }

  static void philox(Reg& a, Reg& b, std::uint32_t key) {
    // In the low halves of 64-bit lanes, with odd lanes kept apart, so that products need not be split.
    Reg x[2] = {a, V::upper_halves(a)}, y[2] = {b, V::upper_halves(b)};
    for (int round = 0; round < kPhilox2Rounds; ++round, key += kPhilox2Weyl) {
      for (int odd = 0; odd < 2; ++odd) {
        const Reg product = V::multiply_halves(x[odd], V::all(kPhilox2Multiplier));
        x[odd] = V::exclusive_or(V::exclusive_or(V::upper_halves(product), V::all(key)), y[odd]);
        y[odd] = product;
      }
    }
    a = V::interleave_lower(x[0], x[1]);
    b = V::interleave_lower(y[0], y[1]);
  }

  // The parameters of a pass through Feistel networks.
  struct Network {
    Reg rows, half_bits, key_a, key_b;
  };

  // Several vectors take a pass together: a single one would mostly wait for its own results.
  template <std::uint32_t kNumVectors>
  static void feistel_pass(const Network (&network)[kNumVectors], Reg (&x)[kNumVectors], int rounds) {
    const Reg one = V::all(1);
    Reg row[kNumVectors], column[kNumVectors], key[kNumVectors], step[kNumVectors], mask[kNumVectors],
        left[kNumVectors], fine[kNumVectors], coarse[kNumVectors];
    for (std::uint32_t w = 0; w < kNumVectors; ++w) {
      const Reg h = network[w].half_bits;
      mask[w] = V::subtract(V::shift_left(one, h), one);
      left[w] = V::subtract(V::all(32), h);
      fine[w] = V::add(h, one);
      coarse[w] = V::subtract(left[w], one);
      row[w] = V::shift_right(x[w], h);
      column[w] = V::both(x[w], mask[w]);
      key[w] = network[w].key_a;
      step[w] = V::either(network[w].key_b, one);
    }
    for (int round = 0; round < rounds; round += 2) {
      for (std::uint32_t w = 0; w < kNumVectors; ++w) {
        const Reg mixed = V::shift_right(mix(V::exclusive_or(column[w], key[w])), fine[w]);
        row[w] = V::add(row[w], V::shift_right(V::multiply_low(mixed, network[w].rows), coarse[w]));
        row[w] = V::smaller(row[w], V::subtract(row[w], network[w].rows));
        key[w] = V::add(key[w], step[w]);
      }
      for (std::uint32_t w = 0; w < kNumVectors; ++w) {
        const Reg mixed = V::shift_right(mix(V::exclusive_or(row[w], key[w])), left[w]);
        column[w] = V::both(V::add(column[w], mixed), mask[w]);
        key[w] = V::add(key[w], step[w]);
      }
    }
    for (std::uint32_t w = 0; w < kNumVectors; ++w)
      x[w] = V::either(V::shift_left(row[w], network[w].half_bits), column[w]);
  }

  static Reg mix(Reg x) {
    x = V::multiply_low(x, V::all(kMix1));
    return V::multiply_low(V::exclusive_or(x, V::template shift_right_by<16>(x)), V::all(kMix2));
  }

  static Reg feistel_rows(Reg n, Reg h) {
    const Reg one = V::all(1);
    return V::shift_right(V::add(n, V::subtract(V::shift_left(one, h), one)), h);
  }

  static typename V::Mask first_lanes(std::uint32_t from, std::uint32_t count) {
    return V::less(V::add(V::all(from), V::iota()), V::all(count));
  }

  // Values of the permutations of n that follow one another, from place `first` counted through all of them.
  static void permute_run(const WordStream& stream, std::uint32_t n, std::uint64_t first, std::uint32_t count,
                          std::uint32_t* out) {
    std::uint64_t cycle = first / n;
    auto place = static_cast<std::uint32_t>(first % n);
    while (count != 0) {
      const std::uint32_t part = count < n - place ? count : n - place;
      if (n <= kMaxDecoded)
        permute_decoded(stream, cycle, n, place, part, out);
      else
        permute_feistel(stream, cycle, n, place, part, out);
      out += part;
      count -= part;
      place = 0;
      ++cycle;
    }
  }

  static void permute_decoded(const WordStream& stream, std::uint64_t cycle, std::uint32_t n,
                              std::uint32_t place, std::uint32_t count, std::uint32_t* out) {
    std::uint64_t word = decodable_word(stream, 0, cycle, n);
    std::uint32_t places[kMaxDecoded];  // the place of each value
    for (std::uint32_t i = 0; i < n; ++i) {
      const auto j = static_cast<std::uint32_t>(multiply_high(word, i + 1));
      word *= i + 1;
      places[i] = i;
      places[i] = places[j];
      places[j] = i;
    }
    for (std::uint32_t i = 0; i < n; ++i)
      if (places[i] - place < count) out[places[i] - place] = i;
  }

  static void permute_feistel(const WordStream& stream, std::uint64_t cycle, std::uint32_t n,
                              std::uint32_t place0, std::uint32_t count, std::uint32_t* out) {
    const Words2 key = permutation_key(stream, 0, cycle);
    const FeistelShape shape(n);
    const Network same{V::all(static_cast<std::uint32_t>(shape.rows)), V::all(shape.half_bits), V::all(key.a),
                       V::all(key.b)};
    constexpr std::uint32_t kStride = kWays * kLanes;
    const Network network[kWays] = {same, same, same, same};
    const int rounds = feistel_rounds(shape.half_bits);
    alignas(64) std::uint32_t where[kSize], value[kSize];
    std::uint32_t walking = 0;
    for (std::uint32_t i = 0; i < count; i += kStride) {
      const Reg places = V::add(V::all(place0 + i), V::iota());
      Reg x[kWays];
      for (std::uint32_t w = 0; w < kWays; ++w) x[w] = V::add(places, V::all(w * kLanes));
      feistel_pass(network, x, rounds);
      for (std::uint32_t w = 0; w < kWays; ++w) {
        const std::uint32_t at = i + w * kLanes;
        V::store(out + at, x[w]);
        const auto outside = V::without(first_lanes(at, count), V::less(x[w], V::all(n)));
        if (V::bits(outside) == 0) continue;
        const auto pick = V::picker(outside);
        V::compress(where + walking, pick, V::add(V::all(at), V::iota()));
        V::compress(value + walking, pick, x[w]);
        walking += V::count(outside);
      }
    }
    for (std::uint32_t i = 0; i < walking; ++i) {
      do value[i] = feistel_narrow(shape, key, value[i]);
      while (value[i] >= n);
      out[where[i]] = value[i];
    }
  }
};

}  // namespace
}  // namespace fastlt
