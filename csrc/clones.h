// Functions that are compiled once for each of several instruction sets, where the loader can pick the best
// when the library is opened; what they call must be inlined to be compiled with them.
#pragma once

#include <cstddef>  // defines __GLIBC__

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FASTLT_CLONES(...) __attribute__((target_clones(__VA_ARGS__)))
#define FASTLT_INLINE inline __attribute__((always_inline))
#else
#define FASTLT_CLONES(...)
#define FASTLT_INLINE inline
#endif
