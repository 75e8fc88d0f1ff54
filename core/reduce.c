/* Sums and dot products of elements that lie without gaps, as fast as memory gives them.
 *
 * Eight elements at a time, into four accumulators each, which hide the latency of an addition: so floats
 * are added in another order than a loop would, and in double throughout, which loses less. Integers
 * are added modulo 2^64, as unsigned ones, which may overflow. */
#include "internal.h"

#include <math.h>

/* libc has asked the processor already. A table of functions for it to choose from (target_clones) would have the
 * processor asked again whenever the library is loaded, which a virtual machine takes 50 us for. */
#if defined(__x86_64__) && defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
#include <sys/platform/x86.h>
#define CHOOSES 1
#endif

/* Once for each width of registers: see the end of the file. */
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, UNROLLED = 4, STEP = LANES * UNROLLED };

#define VECTOR(name, type) typedef type name __attribute__((vector_size(LANES * sizeof(type)), aligned(sizeof(type))))
VECTOR(doubles, double);
VECTOR(integers, uint64_t);

#define ARGUMENTS(x, y) x, y

/* A macro: a function that returns a vector has another ABI for each width. */
#define LOAD(name, at, accumulators) __builtin_convertvector(*(const name##_lanes *)(at), accumulators)

/* <operation>_<name>, of elements of `type`, in accumulators of `wide`. `lanes` is what a step adds to
 * accumulator k, `one` the same of a single element. */
#define REDUCTION(function, parameters, wide, accumulators, lanes, one)                                                \
  INLINE wide function(parameters, uint64_t count) {                                                                   \
    accumulators a[UNROLLED] = {{0}};                                                                                  \
    wide sum = 0;                                                                                                      \
    uint64_t i = 0;                                                                                                    \
    for (; i + STEP <= count; i += STEP)                                                                               \
      for (int k = 0; k < UNROLLED; k++) a[k] += lanes;                                                                \
    for (; i < count; i++) sum += one;                                                                                 \
    a[0] += a[1] + a[2] + a[3];                                                                                        \
    for (int k = 0; k < LANES; k++) sum += a[0][k];                                                                    \
    return sum;                                                                                                        \
  }

#define REDUCTIONS(name, type, wide, accumulators)                                                                     \
  VECTOR(name##_lanes, type);                                                                                          \
  REDUCTION(sum_##name, const type *x, wide, accumulators, LOAD(name, x + i + k * LANES, accumulators), (wide)x[i])    \
  REDUCTION(dot_##name, ARGUMENTS(const type *x, const type *y), wide, accumulators,                                   \
            LOAD(name, x + i + k * LANES, accumulators) * LOAD(name, y + i + k * LANES, accumulators),                 \
            (wide)x[i] * (wide)y[i])

REDUCTIONS(f4, float, double, doubles)
REDUCTIONS(f8, double, double, doubles)
REDUCTIONS(i1, int8_t, uint64_t, integers)
REDUCTIONS(i2, int16_t, uint64_t, integers)
REDUCTIONS(i4, int32_t, uint64_t, integers)
REDUCTIONS(u1, uint8_t, uint64_t, integers)
REDUCTIONS(u2, uint16_t, uint64_t, integers)
REDUCTIONS(u4, uint32_t, uint64_t, integers)
REDUCTIONS(u8, uint64_t, uint64_t, integers) /* int64 too */

/* The sum, or with `y` the dot product. */
#define REDUCE(name, type)                                                                                             \
  (y ? dot_##name((const type *)x, (const type *)y, count) : sum_##name((const type *)x, count))

/* A NaN's payload is the file's choice, and LuaJIT keeps its types there. */
static double sound(double sum) { return isnan(sum) ? NAN : sum; }

INLINE int reduce(char kind, uint32_t itemsize, const void *x, const void *y, uint64_t count, double *real,
                  uint64_t *integer) {
  switch (kind << 8 | (int)itemsize) {
  case 'f' << 8 | 4: *real = sound(REDUCE(f4, float)); return 0;
  case 'f' << 8 | 8: *real = sound(REDUCE(f8, double)); return 0;
  case 'i' << 8 | 1: *integer = REDUCE(i1, int8_t); return 0;
  case 'i' << 8 | 2: *integer = REDUCE(i2, int16_t); return 0;
  case 'i' << 8 | 4: *integer = REDUCE(i4, int32_t); return 0;
  case 'b' << 8 | 1:
  case 'u' << 8 | 1: *integer = REDUCE(u1, uint8_t); return 0;
  case 'u' << 8 | 2: *integer = REDUCE(u2, uint16_t); return 0;
  case 'u' << 8 | 4: *integer = REDUCE(u4, uint32_t); return 0;
  case 'i' << 8 | 8:
  case 'u' << 8 | 8: *integer = REDUCE(u8, uint64_t); return 0;
  default: return SHAREARRAY_EUNSUPPORTED;
  }
}

#ifdef CHOOSES
#define REDUCE_WITH(features)                                                                                          \
  __attribute__((target(#features))) static int reduce_##features(                                                     \
      char kind, uint32_t itemsize, const void *x, const void *y, uint64_t count, double *real, uint64_t *integer) {   \
    return reduce(kind, itemsize, x, y, count, real, integer);                                                         \
  }
REDUCE_WITH(avx2)
REDUCE_WITH(avx512f)
#endif

int sharearray_reduce(char kind, uint32_t itemsize, const void *x, const void *y, uint64_t count, double *real,
                      uint64_t *integer) {
#ifdef CHOOSES
  if (CPU_FEATURE_ACTIVE(AVX512F)) return reduce_avx512f(kind, itemsize, x, y, count, real, integer);
  if (CPU_FEATURE_ACTIVE(AVX2)) return reduce_avx2(kind, itemsize, x, y, count, real, integer);
#endif
  return reduce(kind, itemsize, x, y, count, real, integer);
}
