/* libFuzzer: any bytes as a bundle. Accepted members must lie inside the file, one behind the other. */
#include "../../core/internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_member *members = NULL;
  uint64_t count = 0, end = 0;
  int code = sharearray_npz_read(bytes, size, &members, &count, message);
  if (code != 0) {
    if (code != SHAREARRAY_ECORRUPT && code != SHAREARRAY_EUNSUPPORTED) abort();
    return 0;
  }
  for (uint64_t i = 0; i < count; i++) {
    const sharearray_member *member = &members[i];
    if (member->offset < end || member->offset > size || member->size > size - member->offset) abort();
    end = member->offset + member->size;
    if (member->array && member->array->offset + member->array->nbytes > member->size) abort();
    const uint8_t *name = (const uint8_t *)member->name;
    if (name < bytes || name + member->name_length > bytes + size) abort();
  }
  free(members);
  return 0;
}
