// The vector kernels, and the slots that one call of them may hold.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define FASTLT_X86_VECTORS 1
#endif

namespace fastlt {

class Sampler;
class WordStream;

inline constexpr std::uint32_t kVectorBlock = 256;
// Room that `out` must have after `count`: the kernels write whole vectors, four at a time.
inline constexpr std::uint32_t kVectorSlack = 64;

#ifdef FASTLT_X86_VECTORS
// Fill out[0, count), count <= kVectorBlock, with the positions of slots first ... first + count - 1. The
// slots lie in one step of the mixture, their numbers differ in the low 32 bits only, and no class has been
// drawn 2^31 times.
void draw_positions_avx2(const Sampler& sampler, std::uint64_t first, std::uint32_t count,
                         std::uint32_t* out);
void draw_positions_avx512(const Sampler& sampler, std::uint64_t first, std::uint32_t count,
                           std::uint32_t* out);

// Fill out[0, count), count <= kVectorBlock, with values of a stream's permutations of n <= 2^31 - 1, one
// after another, from place `first` on, counted through all of them.
void permute_places_avx2(const WordStream& stream, std::uint32_t n, std::uint64_t first, std::uint32_t count,
                         std::uint32_t* out);
void permute_places_avx512(const WordStream& stream, std::uint32_t n, std::uint64_t first,
                           std::uint32_t count, std::uint32_t* out);
#endif

}  // namespace fastlt
