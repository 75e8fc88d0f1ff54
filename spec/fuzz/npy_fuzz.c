/* libFuzzer: any bytes as an .npy file. What is accepted must lie inside the file. */
#include "../../core/internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_npy npy;
  int is_short = 0;
  int code = sharearray_npy_read(bytes, size, size, &npy, &is_short, message);
  if (code == 0 && (npy.offset > size || npy.nbytes > size - npy.offset)) abort();
  if (code == 0 && (npy.ndim > SHAREARRAY_MAXDIMS || is_short)) abort();
  if (code != 0 && code != SHAREARRAY_ECORRUPT && code != SHAREARRAY_EUNSUPPORTED) abort();
  return 0;
}
