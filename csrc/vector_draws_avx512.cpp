// The sampler's laws on sixteen slots at once.
#include "permutation.h"
#include "sampler.h"
#include "vectors.h"

#ifdef FASTLT_X86_VECTORS
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#endif

// GCC 12 takes its own intrinsics' "undefined" operands for uninitialized variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "vector_draws.h"

namespace fastlt {
namespace {

struct Avx512 {
  using Reg = __m512i;
  // A class, so that both() and choose() tell it from a number.
  struct Mask {
    __mmask16 bits;
  };
  static constexpr std::uint32_t kLanes = 16, kListWays = 2;

  static Reg all(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static Reg iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static Reg load(const std::uint32_t* from) { return _mm512_loadu_si512(from); }
  static void store(std::uint32_t* to, Reg x) { _mm512_storeu_si512(to, x); }

  static Reg add(Reg x, Reg y) { return _mm512_add_epi32(x, y); }
  static Reg subtract(Reg x, Reg y) { return _mm512_sub_epi32(x, y); }
  static Reg smaller(Reg x, Reg y) { return _mm512_min_epu32(x, y); }
  static Reg both(Reg x, Reg y) { return _mm512_and_si512(x, y); }
  static Reg either(Reg x, Reg y) { return _mm512_or_si512(x, y); }
  static Reg exclusive_or(Reg x, Reg y) { return _mm512_xor_si512(x, y); }
  static Reg multiply_low(Reg x, Reg y) { return _mm512_mullo_epi32(x, y); }
  // On 64-bit lanes: the product of the low halves, the sum, the upper halves as low ones, and the upper or
  // the low halves of both in turns.
  static Reg multiply_halves(Reg x, Reg y) { return _mm512_mul_epu32(x, y); }
  static Reg add_wide(Reg x, Reg y) { return _mm512_add_epi64(x, y); }
  static Reg upper_halves(Reg x) { return _mm512_srli_epi64(x, 32); }
  static Reg interleave_upper(Reg even, Reg odd) {
    return _mm512_mask_blend_epi32(0xAAAA, upper_halves(even), odd);
  }
  static Reg interleave_lower(Reg even, Reg odd) {
    return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  }
  static Reg shift_left(Reg x, Reg by) { return _mm512_sllv_epi32(x, by); }
  static Reg shift_right(Reg x, Reg by) { return _mm512_srlv_epi32(x, by); }
  template <int kBy>
  static Reg shift_left_by(Reg x) {
    return _mm512_slli_epi32(x, kBy);
  }
  template <int kBy>
  static Reg shift_right_by(Reg x) {
    return _mm512_srli_epi32(x, kBy);
  }

  static Mask less(Reg x, Reg y) { return {_mm512_cmplt_epu32_mask(x, y)}; }
  static Mask equal(Reg x, Reg y) { return {_mm512_cmpeq_epi32_mask(x, y)}; }
  static Mask both(Mask x, Mask y) { return {static_cast<__mmask16>(x.bits & y.bits)}; }
  static Mask without(Mask x, Mask y) { return {static_cast<__mmask16>(x.bits & ~y.bits)}; }
  static Reg choose(Mask mask, Reg yes, Reg no) { return _mm512_mask_blend_epi32(mask.bits, no, yes); }
  static std::uint32_t bits(Mask mask) { return mask.bits; }
  static Mask from_bits(std::uint32_t bits) { return {static_cast<__mmask16>(bits)}; }
  static std::uint32_t count(Mask mask) { return static_cast<std::uint32_t>(__builtin_popcount(mask.bits)); }
  static Mask picker(Mask mask) { return mask; }
  // Writes the selected lanes, and garbage up to a whole vector: faster than a store that compresses.
  static void compress(std::uint32_t* to, Mask mask, Reg x) {
    store(to, _mm512_maskz_compress_epi32(mask.bits, x));
  }

  // The lower and the upper halves of kLanes numbers of 64 bits.
  static void load_pairs(const std::uint64_t* from, Reg& low, Reg& high) {
    const Reg even = _mm512_add_epi32(iota(), iota()), odd = _mm512_or_si512(even, all(1));
    const Reg front = _mm512_loadu_si512(from), back = _mm512_loadu_si512(from + 8);
    low = _mm512_permutex2var_epi32(front, even, back);
    high = _mm512_permutex2var_epi32(front, odd, back);
  }
  // floor(x / y), both below 2^31: a double's quotient of such numbers never rounds up to a whole one.
  static __m256i divide_half(__m256i x, __m256i y) {
    return _mm512_cvttpd_epi32(_mm512_div_pd(_mm512_cvtepi32_pd(x), _mm512_cvtepi32_pd(y)));
  }
  static Reg divide(Reg x, Reg y) {
    const __m256i low = divide_half(_mm512_castsi512_si256(x), _mm512_castsi512_si256(y));
    const __m256i high = divide_half(_mm512_extracti64x4_epi64(x, 1), _mm512_extracti64x4_epi64(y, 1));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  // For 1 <= x < 2^31, from the exponent of a float, after bits are cleared so that x is not rounded up.
  static Reg bit_length(Reg x) {
    const Reg sparse = _mm512_andnot_si512(_mm512_srli_epi32(x, 1), x);
    return subtract(_mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(sparse)), 23), all(126));
  }
};

}  // namespace

void permute_places_avx512(const WordStream& stream, std::uint32_t n, std::uint64_t first,
                           std::uint32_t count, std::uint32_t* out) {
  VectorPermutations<Avx512>::permute_run(stream, n, first, count, out);
}

void draw_positions_avx512(const Sampler& sampler, std::uint64_t first, std::uint32_t count,
                           std::uint32_t* out) {
  VectorDraws<Avx512>(sampler).positions(first, count, out);
}

}  // namespace fastlt

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
