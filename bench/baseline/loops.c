/* Loops over elements, as anybody would write them; each of them four times, name_0 to name_3.
 *
 * gcc and LuaJIT begin loops at multiples of 16 bytes, and it is chance at which of the four in a line of the cache.
 * A short loop that lies across two lines may take half as long again as within one. The four are the same code, each
 * 16 bytes further in its line than the one before, so that their loops lie at each of the places. */
#include "baseline.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* The nops lie before the function, behind what is aligned: no call runs them. */
#ifdef __x86_64__
#define NOP_BYTES 1
#else
#define NOP_BYTES 4
#endif
#define NOPS(place) (16 * (place) / NOP_BYTES)
#define AT(place) __attribute__((noinline, aligned(64), patchable_function_entry(NOPS(place), NOPS(place)))) double

#define AT_EACH_PLACE(name, parameters, arguments)                                                                     \
  AT(0) baseline_##name##_0 parameters { return name arguments; }                                                      \
  AT(1) baseline_##name##_1 parameters { return name arguments; }                                                      \
  AT(2) baseline_##name##_2 parameters { return name arguments; }                                                      \
  AT(3) baseline_##name##_3 parameters { return name arguments; }

#define LOOP static inline __attribute__((always_inline)) double

LOOP sum(const float *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[i];
  return sum;
}

AT_EACH_PLACE(sum, (const float *x, size_t count), (x, count))

LOOP gather(const float *x, const int32_t *index, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[index[i]];
  return sum;
}

AT_EACH_PLACE(gather, (const float *x, const int32_t *index, size_t count), (x, index, count))

/* What LuaJIT cannot do without: a comparison for the bounds, and one for the bits of a NaN before the number is loaded.
 * Its interpreter would have taken such a number for something else by then (see sharearray.readers); C alone would
 * ask whether x != x, which is three instructions less. */
static inline bool is_nan(const float *at) {
  uint32_t bits;
  memcpy(&bits, at, sizeof bits);
  return (bits << 1) > 0xff000000;
}

LOOP sum_guarded(const float *x, size_t size, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    if (i >= size || is_nan(&x[i])) return (double)NAN;
    sum += x[i];
  }
  return sum;
}

AT_EACH_PLACE(sum_guarded, (const float *x, size_t size, size_t count), (x, size, count))

/* All that v(k(i)) makes sure of: that i and k(i) are inside, and that the float is no NaN. */
LOOP gather_guarded(const float *x, uint32_t size, const int32_t *index, size_t indices, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    if (i >= indices) return (double)NAN;
    uint32_t k = (uint32_t)index[i];
    if (k >= size || is_nan(&x[k])) return (double)NAN;
    sum += x[k];
  }
  return sum;
}

AT_EACH_PLACE(gather_guarded, (const float *x, uint32_t size, const int32_t *index, size_t indices, size_t count),
              (x, size, index, indices, count))

LOOP sum_rows(const float *x, size_t rows, size_t columns) {
  double sum = 0;
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) sum += x[i * columns + j];
  return sum;
}

AT_EACH_PLACE(sum_rows, (const float *x, size_t rows, size_t columns), (x, rows, columns))
