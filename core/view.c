/* Views of mapped arrays, filled in as the LuaJIT binding lays them out (lua/sharearray/element.lua): what it
 * would do with a dozen conversions, each of which costs more here than in C. */
#include "internal.h"

#include <string.h>

uint32_t sa_layout(const sharearray_npy *npy) {
  uint64_t extent = 1;
  if (!npy->kind || !strchr("biufc", npy->kind) || npy->itemsize > 16 || npy->fortran) return 0;
  for (int i = 0; i < npy->ndim; i++)
    if (npy->shape[i]) extent *= npy->shape[i]; /* no overflow: the header was measured */
  return (uint32_t)npy->kind << 24 | npy->itemsize << 16 | (uint32_t)npy->ndim << 8 | (extent > INT32_MAX);
}

void sharearray_set_lent(void *view, double lent) {
  memcpy((char *)view + 2 * sizeof(void *), &lent, sizeof lent); /* behind map and sealed */
}

void sharearray_view(sharearray_map *map, const sharearray_member *member, int bits, const uint8_t *sealed,
                     void *view) {
  const sharearray_npy *array = member ? member->array : &map->array;
  const char *elements = (const char *)map->base + (member ? member->offset : 0) + array->offset;
  const void *pointers[5] = {map, sealed, NULL, elements, elements};
  uint64_t count = 1, sizes[1 + SHAREARRAY_MAXDIMS];
  int ndim = array->ndim;
  uint32_t wide_sizes = array->layout & 1;
  for (int i = 0; i < ndim; i++) count *= sizes[1 + i] = array->shape[i];
  sizes[0] = count;
  memcpy(view, pointers, sizeof pointers); /* without bits, the sizes take the place of the last */
  sharearray_set_lent(view, member != NULL);
  char *at = (char *)view + (bits ? 5 : 4) * sizeof *pointers;
  if (!wide_sizes && ndim <= 2) { /* whose bounds are checked so, see lua/sharearray/template.lua */
    for (int i = 1; i <= ndim; i++, at += sizeof *sizes) memcpy(at, sizes + i, sizeof *sizes);
  }
  for (int i = 0; i <= ndim; i++) {
    int32_t narrow = (int32_t)sizes[i];
    double wide = (double)sizes[i];
    if (wide_sizes) memcpy(at + (size_t)i * sizeof wide, &wide, sizeof wide);
    else memcpy(at + (size_t)i * sizeof narrow, &narrow, sizeof narrow);
  }
}
