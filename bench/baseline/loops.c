/* Loops over elements, as anybody would write them. */
#include "baseline.h"

#include <math.h>
#include <string.h>

double baseline_sum(const float *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[i];
  return sum;
}

double baseline_gather(const float *x, const int32_t *index, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[index[i]];
  return sum;
}

/* With what a view's v(k(i)) makes sure of: that i and k(i) are inside, and that the float is no NaN, whose bits
 * LuaJIT might take for another type. NaN for all of it. */
double baseline_gather_checked(const float *x, int32_t size, const int32_t *index, int32_t indices, int32_t count) {
  double sum = 0;
  for (int32_t i = 0; i < count; i++) {
    int32_t k, bits;
    if (i < 0 || i >= indices) return (double)NAN;
    k = index[i];
    if (k < 0 || k >= size) return (double)NAN;
    memcpy(&bits, &x[k], sizeof bits);
    if ((bits & INT32_MAX) > 0x7f800000) return (double)NAN;
    sum += x[k];
  }
  return sum;
}

/* The fewest instructions that could do without the rest: one comparison for the bounds, one for the NaNs. */
double baseline_gather_least(const float *x, uint32_t size, const int32_t *index, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    uint32_t k = (uint32_t)index[i], bits;
    if (k >= size) return (double)NAN;
    memcpy(&bits, &x[k], sizeof bits);
    if ((bits << 1) > 0xff000000) return (double)NAN;
    sum += x[k];
  }
  return sum;
}

double baseline_dot(const float *x, const float *y, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (double)x[i] * y[i];
  return sum;
}

double baseline_sum_rows(const float *x, size_t rows, size_t columns) {
  double sum = 0;
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) sum += x[i * columns + j];
  return sum;
}
