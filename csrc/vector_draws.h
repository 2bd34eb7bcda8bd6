// The sampler's laws for many slots at once, written for any vector of 32-bit numbers.
//
// Included in the same way as vector_permutations.h. The results equal Sampler::at's bit for bit; slots that
// need more than 32-bit arithmetic, or the second try of a draw, are drawn by Sampler::at.
#pragma once

#include <cstring>

#include "permutation.h"
#include "sampler.h"
#include "vector_permutations.h"

namespace fastlt {
namespace {

template <typename V>
class VectorDraws {
 public:
  using Reg = typename V::Reg;

  explicit VectorDraws(const Sampler& sampler)
      : sampler_(sampler),
        offsets_(sampler.index()->narrow_offsets().data()),
        num_samples_(static_cast<std::uint32_t>(sampler.index()->num_samples())),
        num_classes_(static_cast<std::uint32_t>(sampler.index()->num_classes())) {}

  // Positions of `count` <= kVectorBlock slots; vectors.h says what they have in common.
  void positions(std::uint64_t first, std::uint32_t count, std::uint32_t* out) {
    first_ = first;
    const Law law = sampler_.plan().law;
    if (law == Law::kEpochs)
      epochs(count, out);
    else if (law == Law::kClassCycles)
      class_cycles(count, out);
    else
      independent(count, out);
  }

 private:
  using Permutations = VectorPermutations<V>;
  using Network = typename Permutations::Network;
  static constexpr std::uint32_t kLanes = Permutations::kLanes, kSize = Permutations::kSize;

  static typename V::Mask first_lanes(std::uint32_t from, std::uint32_t count) {
    return Permutations::first_lanes(from, count);
  }

  // Slots of a block whose images are drawn from permutations of similar size, and the numbers needed.
  struct List {
    // Slot, then n and place in 8 bits each if both fit; else slot and half_bits.
    alignas(64) std::uint32_t item[kSize];
    alignas(64) std::uint32_t key_a[kSize], key_b[kSize], n[kSize], place[kSize];
    std::uint32_t size = 0;

    void append(typename V::Mask mask, Reg items, Reg a, Reg b) {
      const auto pick = V::picker(mask);
      const std::uint32_t at = size;
      V::compress(item + at, pick, items);
      V::compress(key_a + at, pick, a);
      V::compress(key_b + at, pick, b);
      size = at + V::count(mask);
    }
    void append(typename V::Mask mask, Reg items, Reg a, Reg b, Reg counts, Reg places) {
      const auto pick = V::picker(mask);
      const std::uint32_t at = size;
      V::compress(item + at, pick, items);
      V::compress(key_a + at, pick, a);
      V::compress(key_b + at, pick, b);
      V::compress(n + at, pick, counts);
      V::compress(place + at, pick, places);
      size = at + V::count(mask);
    }
  };
  static_assert(kVectorBlock <= 256 && kMaxManyRounds < 256);

  static Reg pack(Reg slots, Reg n, Reg place) {
    return V::either(slots, V::either(V::template shift_left_by<8>(n), V::template shift_left_by<16>(place)));
  }
  static Reg packed_n(Reg item) { return V::both(V::template shift_right_by<8>(item), V::all(0xFF)); }
  static Reg packed_place(Reg item) { return V::template shift_right_by<16>(item); }

  void redo(typename V::Mask mask, std::uint32_t from, std::uint32_t* out) const {
    for (std::uint32_t bits = V::bits(mask); bits != 0; bits &= bits - 1) {
      const auto lane = static_cast<std::uint32_t>(__builtin_ctz(bits));
      out[from + lane] = static_cast<std::uint32_t>(sampler_.at(first_ + from + lane));
    }
  }

  // kSmall: at most kMaxManyRounds values each.
  template <bool kSmall>
  void feistel_list(List& list, const std::uint32_t* starts, std::uint32_t* out) const {
    constexpr std::uint32_t kWays = V::kListWays, kStride = kWays * kLanes;
    static_assert((kVectorBlock + kStride - 1) / kStride * kStride <= kSize);
    // Slots whose value lies outside go to the front of the list and take another pass.
    while (list.size != 0) {
      const std::uint32_t size = list.size;
      list.size = 0;
      for (std::uint32_t i = 0; i < size; i += kStride) {
        Network network[kWays];
        Reg x[kWays], item[kWays], n[kWays];
        for (std::uint32_t w = 0; w < kWays; ++w) {
          const std::uint32_t at = i + w * kLanes;
          item[w] = V::load(list.item + at);
          n[w] = kSmall ? packed_n(item[w]) : V::load(list.n + at);
          x[w] = kSmall ? packed_place(item[w]) : V::load(list.place + at);
          // Up to 32 values have 5 bits or fewer, up to 128 seven or fewer.
          const Reg h =
              kSmall ? V::choose(V::less(n[w], V::all(33)), V::all(2), V::all(3)) : packed_n(item[w]);
          network[w] = {Permutations::feistel_rows(n[w], h), h, V::load(list.key_a + at),
                        V::load(list.key_b + at)};
        }
        Permutations::template feistel_pass<kWays>(network, x, kSmall ? kManyRounds : kFewRounds);
        if (!kSmall) more_rounds<kWays>(network, n, x);
        for (std::uint32_t w = 0; w < kWays; ++w) {
          const std::uint32_t at = i + w * kLanes;
          write(item[w], x[w], size - (at < size ? at : size), starts, out);
          const auto outside = V::without(first_lanes(at, size), V::less(x[w], n[w]));
          if (V::bits(outside) == 0) continue;
          const Network& same = network[w];
          if (kSmall)
            list.append(outside, pack(V::both(item[w], V::all(0xFF)), n[w], x[w]), same.key_a, same.key_b);
          else
            list.append(outside, item[w], same.key_a, same.key_b, n[w], x[w]);
        }
      }
    }
  }

  // Continues from few rounds to some, for those n that need them.
  template <std::uint32_t kWays>
  static void more_rounds(const Network (&network)[kWays], const Reg (&n)[kWays], Reg (&x)[kWays]) {
    static_assert(kFewRounds == 8, "the shift below");
    Network rest[kWays];
    Reg more[kWays];
    for (std::uint32_t w = 0; w < kWays; ++w) {
      const Reg step = V::either(network[w].key_b, V::all(1));
      rest[w] = network[w];
      rest[w].key_a = V::add(network[w].key_a, V::template shift_left_by<3>(step));
      more[w] = x[w];
    }
    Permutations::template feistel_pass<kWays>(rest, more, kSomeRounds - kFewRounds);
    for (std::uint32_t w = 0; w < kWays; ++w)
      x[w] = V::choose(V::less(n[w], V::all(kMaxSomeRounds + 1)), more[w], x[w]);
  }

  // Values outside are written as well, and overwritten later.
  static void write(Reg item, Reg value, std::uint32_t left, const std::uint32_t* starts,
                    std::uint32_t* out) {
    alignas(64) std::uint32_t slot[kLanes], values[kLanes];
    V::store(slot, V::both(item, V::all(0xFF)));
    V::store(values, value);
    const std::uint32_t count = left < kLanes ? left : kLanes;
    for (std::uint32_t lane = 0; lane < count; ++lane) out[slot[lane]] = starts[slot[lane]] + values[lane];
  }

  template <std::uint32_t kWays>
  static bool any_less(Reg x, const Reg (&n)[kWays]) {
    std::uint32_t bits = 0;
    for (std::uint32_t w = 0; w < kWays; ++w) bits |= V::bits(V::less(x, n[w]));
    return bits != 0;
  }

  void decode_list(const List& list, const std::uint32_t* starts, std::uint32_t* out) const {
    constexpr std::uint32_t kWays = V::kListWays, kStride = kWays * kLanes;
    static_assert((kVectorBlock + kStride - 1) / kStride * kStride <= kSize);
    for (std::uint32_t i = 0; i < list.size; i += kStride) {
      // The 64-bit words in two halves, each the low half of a 64-bit lane, with odd lanes kept apart.
      Reg n[kWays], x[kWays], item[kWays], low[kWays][2], high[kWays][2];
      for (std::uint32_t w = 0; w < kWays; ++w) {
        const std::uint32_t at = i + w * kLanes;
        item[w] = V::load(list.item + at);
        n[w] = packed_n(item[w]);
        x[w] = packed_place(item[w]);
        low[w][0] = V::load(list.key_a + at);
        high[w][0] = V::load(list.key_b + at);
        low[w][1] = V::upper_halves(low[w][0]);
        high[w][1] = V::upper_halves(high[w][0]);
      }
      for (std::uint32_t step = 1; step < kMaxDecoded; ++step) {
        const Reg at = V::all(step), base = V::all(step + 1);
        if (step % 4 == 1 && !any_less(at, n)) break;
        for (std::uint32_t w = 0; w < kWays; ++w) {
          for (int odd = 0; odd < 2; ++odd) {
            low[w][odd] = V::multiply_halves(low[w][odd], base);
            high[w][odd] = V::add_wide(V::multiply_halves(high[w][odd], base), V::upper_halves(low[w][odd]));
          }
          const Reg digit = V::interleave_upper(high[w][0], high[w][1]);
          const auto is_digit = V::both(V::less(at, n[w]), V::equal(x[w], digit));
          x[w] = V::choose(V::equal(x[w], at), digit, V::choose(is_digit, at, x[w]));
        }
      }
      for (std::uint32_t w = 0; w < kWays; ++w) {
        const std::uint32_t at = i + w * kLanes, left = list.size - (at < list.size ? at : list.size);
        write(item[w], x[w], left, starts, out);
        for (std::uint32_t j = at; j < at + kLanes && j < list.size; ++j) {
          const std::uint32_t slot = list.item[j] & 0xFF, few = list.item[j] >> 8 & 0xFF;
          if (!decodes(few, join(list.key_a[j], list.key_b[j])))
            out[slot] = static_cast<std::uint32_t>(sampler_.at(first_ + slot));
        }
      }
    }
  }

  // Start and end of each class; in a loop of its own, so that the processor waits for many loads at once.
  void load_bounds(const std::uint32_t* classes, std::uint32_t count, std::uint64_t* bounds) const {
    for (std::uint32_t i = 0; i < (count + kLanes - 1) / kLanes * kLanes; ++i)
      std::memcpy(bounds + i, offsets_ + classes[i], sizeof(*bounds));
  }

  void epochs(std::uint32_t count, std::uint32_t* out) const {
    const std::uint64_t slots = sampler_.plan().epoch_slots;
    const WordStream& stream = sampler_.stream(Stream::kEpoch);
    std::uint64_t epoch = first_ / slots, place = first_ % slots;
    while (count != 0) {
      const auto part = static_cast<std::uint32_t>(count < slots - place ? count : slots - place);
      Permutations::permute_run(stream, num_samples_, epoch * num_samples_ + place, part, out);
      out += part;
      count -= part;
      place = 0;
      ++epoch;
    }
  }

  void class_cycles(std::uint32_t count, std::uint32_t* out) {
    const std::uint64_t repeats = sampler_.plan().samples_per_class;
    const std::uint64_t group0 = first_ / repeats;
    const auto num_groups = static_cast<std::uint32_t>((first_ + count - 1) / repeats - group0 + 1);
    alignas(64) std::uint32_t classes[kSize], groups[kSize], visits[kSize], starts[kSize];
    Permutations::permute_run(sampler_.stream(Stream::kClassCycle), num_classes_, group0, num_groups,
                              repeats == 1 ? classes : groups);
    // In one cycle through the classes every class is visited `repeats` times.
    auto visit0 = static_cast<std::uint32_t>(group0 / num_classes_ * repeats);
    auto place = static_cast<std::uint32_t>(group0 % num_classes_);
    auto repeat = static_cast<std::uint32_t>(first_ % repeats);
    if (repeats == 1) {
      for (std::uint32_t i = 0; i < count; ++visit0, place = 0) {
        const std::uint32_t left = count - i,
                            part = left < num_classes_ - place ? left : num_classes_ - place;
        for (std::uint32_t j = 0; j < part; ++j) visits[i + j] = visit0;
        i += part;
      }
    } else {
      for (std::uint32_t i = 0, group = 0; i < count; ++i) {
        classes[i] = groups[group];
        visits[i] = visit0 + repeat;
        if (++repeat < repeats) continue;
        repeat = 0;
        ++group;
        if (++place < num_classes_) continue;
        place = 0;
        visit0 += static_cast<std::uint32_t>(repeats);
      }
    }
    for (std::uint32_t i = count; i % kLanes != 0; ++i) classes[i] = visits[i] = 0;
    alignas(64) std::uint64_t bounds[kSize];
    load_bounds(classes, count, bounds);

    decoded_.size = many_.size = few_.size = 0;
    const WordStream& stream = sampler_.stream(Stream::kImageCycle);
    const Reg whitening = V::all(stream.whitening());
    for (std::uint32_t i = 0; i < count; i += kLanes) {
      Reg start, end;
      V::load_pairs(bounds + i, start, end);
      const Reg n = V::subtract(end, start), visit = V::load(visits + i);
      const Reg image_cycle = V::divide(visit, n);
      const Reg place = V::subtract(visit, V::multiply_low(image_cycle, n));
      Reg a = V::load(classes + i), b = V::exclusive_or(image_cycle, whitening);
      Permutations::philox(a, b, stream.key());
      const Reg slots = V::add(V::all(i), V::iota());
      const auto valid = first_lanes(i, count);
      const auto decoded = V::both(valid, V::less(n, V::all(kMaxDecoded + 1)));
      const auto many = V::both(valid, V::less(n, V::all(kMaxManyRounds + 1)));
      const auto few = V::without(valid, many);
      V::store(starts + i, start);
      const Reg packed = pack(slots, n, place);
      decoded_.append(decoded, packed, a, b);
      many_.append(V::without(many, decoded), packed, a, b);
      if (V::bits(few) == 0) continue;
      const Reg half_bits = V::template shift_right_by<1>(V::bit_length(V::subtract(n, V::all(1))));
      few_.append(few, V::either(slots, V::template shift_left_by<8>(half_bits)), a, b, n, place);
    }
    decode_list(decoded_, starts, out);
    feistel_list<true>(many_, starts, out);
    feistel_list<false>(few_, starts, out);
  }

  // Laws with replacement.
  void independent(std::uint32_t count, std::uint32_t* out) const {
    const Law law = sampler_.plan().law;
    const auto low0 = static_cast<std::uint32_t>(first_), high = static_cast<std::uint32_t>(first_ >> 32);
    const WordStream& draws = sampler_.stream(Stream::kSlot);
    const WordStream& coins = sampler_.stream(Stream::kCoin);
    const bool by_class = law != Law::kUniform;
    const std::uint32_t n = by_class ? num_classes_ : num_samples_;
    const Reg biased = V::all((0u - n) % n);
    alignas(64) std::uint32_t classes[kSize], images[kSize], coin_words[kSize];
    std::uint32_t again[kVectorBlock / kLanes + 1];
    for (std::uint32_t i = 0; i < count; i += kLanes) {
      const Reg slots = V::add(V::all(low0 + i), V::iota());
      Reg a = slots, b = V::all(high ^ draws.whitening()), value, rest;
      Permutations::philox(a, b, draws.key());
      Permutations::multiply(a, V::all(n), value, rest);
      V::store((by_class ? classes : out) + i, value);
      V::store(images + i, b);
      again[i / kLanes] = V::bits(V::less(rest, biased));
      if (law == Law::kMixture || law == Law::kWeighted) {
        Reg coin = slots, other = V::all(high ^ coins.whitening());
        Permutations::philox(coin, other, coins.key());
        V::store(coin_words + i, coin);
      }
      if (law == Law::kMixture) {
        Permutations::multiply(a, V::all(num_samples_), value, rest);
        V::store(out + i, value);
        again[i / kLanes] |= V::bits(V::less(rest, V::all((0u - num_samples_) % num_samples_)));
      }
    }
    if (law == Law::kWeighted) {
      const AliasEntry* alias = sampler_.alias().data();
      for (std::uint32_t i = 0; i < count; ++i) {
        const AliasEntry entry = alias[classes[i]];
        classes[i] = coin_words[i] < entry.threshold ? classes[i] : entry.other;
      }
    }
    if (by_class) {
      alignas(64) std::uint64_t bounds[kSize];
      load_bounds(classes, count, bounds);
      const std::uint64_t mixture = law == Law::kMixture ? sampler_.mixture(first_) : 0;
      for (std::uint32_t i = 0; i < count; i += kLanes) {
        Reg start, end, value, rest;
        V::load_pairs(bounds + i, start, end);
        const Reg size = V::subtract(end, start);
        Permutations::multiply(V::load(images + i), size, value, rest);
        value = V::add(start, value);
        if (law == Law::kMixture && mixture >> 32 == 0)
          value = V::choose(V::less(V::load(coin_words + i), V::all(static_cast<std::uint32_t>(mixture))),
                            value, V::load(out + i));
        V::store(out + i, value);
        again[i / kLanes] |= V::bits(V::less(rest, size));
      }
    }
    for (std::uint32_t i = 0; i < count; i += kLanes)
      if (again[i / kLanes] != 0)
        redo(V::both(V::from_bits(again[i / kLanes]), first_lanes(i, count)), i, out);
  }

  const Sampler& sampler_;
  const std::uint32_t* offsets_;
  std::uint32_t num_samples_, num_classes_;
  std::uint64_t first_ = 0;
  List decoded_, many_, few_;
};

}  // namespace
}  // namespace fastlt
