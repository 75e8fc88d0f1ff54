/* Loops over elements, as anybody would write them. */
#include "baseline.h"

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
