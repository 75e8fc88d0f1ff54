/* libFuzzer: any bytes as an .npy file. What is accepted must lie inside the file; and however its dict is spelled, it
 * says the same with a space more, with which it is not the spelling that has a reader of its own. */
#include "../../core/internal.h"

#include <stdlib.h>
#include <string.h>

enum { DICT = 10 };

/* Whether the file says the same with a space behind its first brace, one byte further on. */
static int agrees(const uint8_t *bytes, size_t size, int code, const sharearray_npy *npy) {
  sharearray_npy other;
  uint8_t *spaced = malloc(size + 1);
  memcpy(spaced, bytes, DICT + 1);
  spaced[DICT + 1] = ' ';
  memcpy(spaced + DICT + 2, bytes + DICT + 1, size - DICT - 1);
  if (++spaced[8] == 0) spaced[9]++;
  int same = sharearray_npy_read(spaced, size + 1, size + 1, &other, NULL, NULL) == code;
  if (same && code == 0)
    same = other.order == npy->order && other.kind == npy->kind && other.itemsize == npy->itemsize &&
           other.fortran == npy->fortran && other.ndim == npy->ndim && other.nbytes == npy->nbytes &&
           other.offset == npy->offset + 1 && other.descr_offset == npy->descr_offset + 1 &&
           other.descr_length == npy->descr_length && other.layout == npy->layout &&
           memcmp(other.shape, npy->shape, npy->ndim * sizeof *npy->shape) == 0;
  free(spaced);
  return same;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_npy npy;
  int is_short = 0;
  int code = sharearray_npy_read(bytes, size, size, &npy, &is_short, message);
  if (code == 0 && (npy.offset > size || npy.nbytes > size - npy.offset)) abort();
  if (code == 0 && (npy.ndim > SHAREARRAY_MAXDIMS || is_short)) abort();
  if (code != 0 && code != SHAREARRAY_ECORRUPT && code != SHAREARRAY_EUNSUPPORTED) abort();
  if (size > DICT && bytes[6] == 1 && bytes[DICT] == '{' && !is_short && (bytes[8] < 255 || bytes[9] < 255))
    if (!agrees(bytes, size, code, &npy)) abort();
  return 0;
}
