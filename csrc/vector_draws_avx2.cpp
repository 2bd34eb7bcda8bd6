// The sampler's laws on eight slots at once.
#include "permutation.h"
#include "sampler.h"
#include "vectors.h"

#ifdef FASTLT_X86_VECTORS
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#include "vector_draws.h"

namespace fastlt {
namespace {

// For each mask, the lanes that it selects, moved to the front: one byte per lane.
struct CompressTable {
  std::uint64_t lanes[256]{};
  constexpr CompressTable() {
    for (int mask = 0; mask < 256; ++mask)
      for (int lane = 0, next = 0; lane < 8; ++lane)
        if (mask >> lane & 1) lanes[mask] |= static_cast<std::uint64_t>(lane) << 8 * next++;
  }
};
constexpr CompressTable kCompress;

struct Avx2 {
  using Reg = __m256i;
  using Mask = __m256i;  // all bits of a lane
  static constexpr std::uint32_t kLanes = 8, kListWays = 3;

  static Reg all(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static Reg iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static Reg load(const std::uint32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static void store(std::uint32_t* to, Reg x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }

  static Reg add(Reg x, Reg y) { return _mm256_add_epi32(x, y); }
  static Reg subtract(Reg x, Reg y) { return _mm256_sub_epi32(x, y); }
  static Reg smaller(Reg x, Reg y) { return _mm256_min_epu32(x, y); }
  static Reg both(Reg x, Reg y) { return _mm256_and_si256(x, y); }
  static Reg either(Reg x, Reg y) { return _mm256_or_si256(x, y); }
  static Reg exclusive_or(Reg x, Reg y) { return _mm256_xor_si256(x, y); }
  static Reg multiply_low(Reg x, Reg y) { return _mm256_mullo_epi32(x, y); }
  // On 64-bit lanes: the product of the low halves, the sum, the upper halves as low ones, and the upper or
  // the low halves of both in turns.
  static Reg multiply_halves(Reg x, Reg y) { return _mm256_mul_epu32(x, y); }
  static Reg add_wide(Reg x, Reg y) { return _mm256_add_epi64(x, y); }
  static Reg upper_halves(Reg x) { return _mm256_srli_epi64(x, 32); }
  static Reg interleave_upper(Reg even, Reg odd) { return _mm256_blend_epi32(upper_halves(even), odd, 0xAA); }
  static Reg interleave_lower(Reg even, Reg odd) {
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }
  static Reg shift_left(Reg x, Reg by) { return _mm256_sllv_epi32(x, by); }
  static Reg shift_right(Reg x, Reg by) { return _mm256_srlv_epi32(x, by); }
  template <int kBy>
  static Reg shift_left_by(Reg x) {
    return _mm256_slli_epi32(x, kBy);
  }
  template <int kBy>
  static Reg shift_right_by(Reg x) {
    return _mm256_srli_epi32(x, kBy);
  }

  static Mask less(Reg x, Reg y) {
    const Mask not_less = _mm256_cmpeq_epi32(_mm256_max_epu32(x, y), x);
    return _mm256_xor_si256(not_less, _mm256_set1_epi32(-1));
  }
  static Mask equal(Reg x, Reg y) { return _mm256_cmpeq_epi32(x, y); }
  static Mask without(Mask x, Mask y) { return _mm256_andnot_si256(y, x); }
  static Reg choose(Mask mask, Reg yes, Reg no) { return _mm256_blendv_epi8(no, yes, mask); }
  static std::uint32_t bits(Mask mask) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(mask)));
  }
  static Mask from_bits(std::uint32_t bits) {
    const Reg lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(all(bits), lane), lane);
  }
  static std::uint32_t count(Mask mask) { return static_cast<std::uint32_t>(__builtin_popcount(bits(mask))); }
  // The numbers of the selected lanes, moved to the front.
  static Reg picker(Mask mask) {
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kCompress.lanes[bits(mask)])));
  }
  // Writes the selected lanes, and garbage up to a whole vector.
  static void compress(std::uint32_t* to, Reg picker, Reg x) {
    store(to, _mm256_permutevar8x32_epi32(x, picker));
  }

  // The lower and the upper halves of kLanes numbers of 64 bits.
  static void load_pairs(const std::uint64_t* from, Reg& low, Reg& high) {
    const auto* at = reinterpret_cast<const float*>(from);
    const __m256 front = _mm256_loadu_ps(at), back = _mm256_loadu_ps(at + 8);
    low = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(front, back, 0x88)), 0xD8);
    high = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(front, back, 0xDD)), 0xD8);
  }
  // floor(x / y), both below 2^31: a double's quotient of such numbers never rounds up to a whole one.
  static __m128i divide_half(__m128i x, __m128i y) {
    return _mm256_cvttpd_epi32(_mm256_div_pd(_mm256_cvtepi32_pd(x), _mm256_cvtepi32_pd(y)));
  }
  static Reg divide(Reg x, Reg y) {
    const __m128i low = divide_half(_mm256_castsi256_si128(x), _mm256_castsi256_si128(y));
    const __m128i high = divide_half(_mm256_extracti128_si256(x, 1), _mm256_extracti128_si256(y, 1));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
  // For 1 <= x < 2^31, from the exponent of a float, after bits are cleared so that x is not rounded up.
  static Reg bit_length(Reg x) {
    const Reg sparse = _mm256_andnot_si256(_mm256_srli_epi32(x, 1), x);
    return subtract(_mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(sparse)), 23), all(126));
  }
};

}  // namespace

void permute_places_avx2(const WordStream& stream, std::uint32_t n, std::uint64_t first, std::uint32_t count,
                         std::uint32_t* out) {
  VectorPermutations<Avx2>::permute_run(stream, n, first, count, out);
}

void draw_positions_avx2(const Sampler& sampler, std::uint64_t first, std::uint32_t count,
                         std::uint32_t* out) {
  VectorDraws<Avx2>(sampler).positions(first, count, out);
}

}  // namespace fastlt

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
