/* Sums and dot products of elements that lie without gaps, as fast as memory gives them.
 *
 * As many elements at a time as a register holds doubles, into four registers in turn, which hide the latency of an
 * addition: so floats are added in another order than a loop would, and in double throughout, which loses less.
 * Integers are added modulo 2^64, as unsigned ones, which may overflow. */
#include "internal.h"

#include <math.h>

/* libc has asked the processor already. A table of functions for it to choose from (target_clones) would have the
 * processor asked again whenever the library is loaded, which a virtual machine takes 50 us for. */
#if defined(__x86_64__) && defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
#include <sys/platform/x86.h>
#define CHOOSES 1
#endif

enum { PART = 1 << 18 }; /* bytes */

/* All below is there once for each width of registers, `lanes` doubles. A compiler that is given wider vectors than the
 * registers keeps the accumulators in memory. */
#define INLINE static inline __attribute__((always_inline))

#define VECTOR(name, type, lanes)                                                                                      \
  typedef type name##_##lanes __attribute__((vector_size(lanes * sizeof(type)), aligned(sizeof(type))));

#define ARGUMENTS(x, y) x, y

/* A macro: a function that returns a vector has another ABI for each width. */
#define LOAD(name, at, accumulators) __builtin_convertvector(*(const name *)(at), accumulators)

/* `several` is what a step adds to an accumulator, from element `at` on; `one` the same of element `i` alone. Each
 * accumulator walks a part of its own: a processor fetches ahead to the end of a page, and fetches four at once; nearer
 * or farther apart took longer. */
#define REDUCTION(function, type, parameters, lanes, wide, accumulators, several, one)                                 \
  INLINE wide function(parameters, uint64_t count) {                                                                   \
    accumulators a = {0}, b = {0}, c = {0}, d = {0};                                                                   \
    wide sum = 0;                                                                                                      \
    uint64_t i = 0;                                                                                                    \
    while (i + 4 * lanes <= count) {                                                                                   \
      uint64_t part = (count - i) / (4 * lanes) * lanes;                                                               \
      if (part > PART / sizeof(type)) part = PART / sizeof(type);                                                      \
      for (uint64_t end = i + part; i < end; i += lanes) {                                                             \
        uint64_t at = i;                                                                                               \
        a += several, at += part;                                                                                      \
        b += several, at += part;                                                                                      \
        c += several, at += part;                                                                                      \
        d += several;                                                                                                  \
      }                                                                                                                \
      i += 3 * part;                                                                                                   \
    }                                                                                                                  \
    for (; i < count; i++) sum += one;                                                                                 \
    a += b + c + d;                                                                                                    \
    for (int k = 0; k < lanes; k++) sum += a[k];                                                                       \
    return sum;                                                                                                        \
  }

/* sum_<name>_<lanes> and dot_<name>_<lanes>, of elements of `type`. */
#define REDUCTIONS(name, type, lanes, wide, accumulators)                                                              \
  VECTOR(name, type, lanes)                                                                                            \
  REDUCTION(sum_##name##_##lanes, type, const type *x, lanes, wide, accumulators,                                      \
            LOAD(name##_##lanes, x + at, accumulators), (wide)x[i])                                                    \
  REDUCTION(dot_##name##_##lanes, type, ARGUMENTS(const type *x, const type *y), lanes, wide, accumulators,            \
            LOAD(name##_##lanes, x + at, accumulators) * LOAD(name##_##lanes, y + at, accumulators),                   \
            (wide)x[i] * (wide)y[i])

/* The same of booleans: any byte but 0 is true. Not by a comparison, as clang 14 has none of vectors of 512 bits, and makes
 * vectors of elements. */
#define TRUE(v) ((v + 255) / 256)

#define BOOLEANS(lanes)                                                                                                \
  REDUCTION(sum_b1_##lanes, uint8_t, const uint8_t *x, lanes, uint64_t, integers_##lanes,                              \
            TRUE(LOAD(u1_##lanes, x + at, integers_##lanes)), TRUE((uint64_t)x[i]))                                    \
  REDUCTION(dot_b1_##lanes, uint8_t, ARGUMENTS(const uint8_t *x, const uint8_t *y), lanes, uint64_t, integers_##lanes, \
            TRUE(LOAD(u1_##lanes, x + at, integers_##lanes)) * TRUE(LOAD(u1_##lanes, y + at, integers_##lanes)),       \
            TRUE((uint64_t)x[i]) * TRUE((uint64_t)y[i]))

/* A NaN's payload is the file's choice, and LuaJIT keeps its types there. */
static double sound(double sum) { return isnan(sum) ? NAN : sum; }

/* The sum, or with `y` the dot product. */
#define REDUCE(name, type, lanes)                                                                                      \
  (y ? dot_##name##_##lanes((const type *)x, (const type *)y, count) : sum_##name##_##lanes((const type *)x, count))

/* uint64 serves int64 too. */
#define REDUCER(lanes, target)                                                                                         \
  VECTOR(doubles, double, lanes)                                                                                       \
  VECTOR(integers, uint64_t, lanes)                                                                                    \
  REDUCTIONS(f4, float, lanes, double, doubles_##lanes)                                                                \
  REDUCTIONS(f8, double, lanes, double, doubles_##lanes)                                                               \
  REDUCTIONS(i1, int8_t, lanes, uint64_t, integers_##lanes)                                                            \
  REDUCTIONS(i2, int16_t, lanes, uint64_t, integers_##lanes)                                                           \
  REDUCTIONS(i4, int32_t, lanes, uint64_t, integers_##lanes)                                                           \
  REDUCTIONS(u1, uint8_t, lanes, uint64_t, integers_##lanes)                                                           \
  REDUCTIONS(u2, uint16_t, lanes, uint64_t, integers_##lanes)                                                          \
  REDUCTIONS(u4, uint32_t, lanes, uint64_t, integers_##lanes)                                                          \
  REDUCTIONS(u8, uint64_t, lanes, uint64_t, integers_##lanes)                                                          \
  BOOLEANS(lanes)                                                                                                      \
  target static int reduce_##lanes(char kind, uint32_t itemsize, const void *x, const void *y, uint64_t count,         \
                                   double *real, uint64_t *integer) {                                                  \
    switch (kind << 8 | (int)itemsize) {                                                                               \
    case 'f' << 8 | 4: *real = sound(REDUCE(f4, float, lanes)); return 0;                                              \
    case 'f' << 8 | 8: *real = sound(REDUCE(f8, double, lanes)); return 0;                                             \
    case 'i' << 8 | 1: *integer = REDUCE(i1, int8_t, lanes); return 0;                                                 \
    case 'i' << 8 | 2: *integer = REDUCE(i2, int16_t, lanes); return 0;                                                \
    case 'i' << 8 | 4: *integer = REDUCE(i4, int32_t, lanes); return 0;                                                \
    case 'b' << 8 | 1: *integer = REDUCE(b1, uint8_t, lanes); return 0;                                                \
    case 'u' << 8 | 1: *integer = REDUCE(u1, uint8_t, lanes); return 0;                                                \
    case 'u' << 8 | 2: *integer = REDUCE(u2, uint16_t, lanes); return 0;                                               \
    case 'u' << 8 | 4: *integer = REDUCE(u4, uint32_t, lanes); return 0;                                               \
    case 'i' << 8 | 8:                                                                                                 \
    case 'u' << 8 | 8: *integer = REDUCE(u8, uint64_t, lanes); return 0;                                               \
    default: return SHAREARRAY_EUNSUPPORTED;                                                                           \
    }                                                                                                                  \
  }

REDUCER(2, )
#ifdef CHOOSES
REDUCER(4, __attribute__((target("avx2"))))
REDUCER(8, __attribute__((target("avx512f"))))
#endif

int sharearray_reduce(char kind, uint32_t itemsize, const void *x, const void *y, uint64_t count, double *real,
                      uint64_t *integer) {
#ifdef CHOOSES
  if (CPU_FEATURE_ACTIVE(AVX512F)) return reduce_8(kind, itemsize, x, y, count, real, integer);
  if (CPU_FEATURE_ACTIVE(AVX2)) return reduce_4(kind, itemsize, x, y, count, real, integer);
#endif
  return reduce_2(kind, itemsize, x, y, count, real, integer);
}
