/* What an import converts on the way from a file to the draft: the text of headers, byte order, and the
 * order of the axes. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

/* ---- Text ---- */

/* The rest of a character of UTF-8 (RFC 3629), whose first byte is in `character`: false for what is
 * longer than need be, a surrogate, behind the last character, or cut off. */
static bool take_utf8(const unsigned char **at, const unsigned char *end, uint32_t *character) {
  uint32_t first = *character;
  int more = first < 0xc2 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 0;
  if (more == 0 || end - *at < more) return false;
  uint32_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  uint32_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  *character = first & (0x3fu >> more);
  for (; more; more--, low = 0x80, high = 0xbf) {
    uint32_t byte = *(*at)++;
    if (byte < low || byte > high) return false;
    *character = *character << 6 | (byte & 0x3f);
  }
  return true;
}

bool sa_is_utf8(const char *text, uint64_t length) {
  const unsigned char *at = (const unsigned char *)text, *end = at + length;
  while (at < end) {
    uint32_t character = *at++;
    if (character >= 0x80 && !take_utf8(&at, end, &character)) return false;
  }
  return true;
}

bool sa_spell_dtype(const sharearray_npy *npy, const unsigned char *file, char *descr, size_t size) {
  enum { ESCAPE = 11 }; /* "\\U0001f600" and a NUL */
  const unsigned char *at = file + npy->descr_offset, *end = at + npy->descr_length;
  char *to = descr, *limit = descr + size - ESCAPE;
  if (*at != '[') {
    if (strchr("<>|=", *at)) at++;
    *to++ = npy->order == '|' ? '|' : '<';
  }
  while (at < end && to < limit) {
    uint32_t character = *at++;
    if (character >= 0x80 && npy->version > 2 && !take_utf8(&at, end, &character)) return false;
    if (character < 0x80) *to++ = (char)character;
    else to += sprintf(to, character < 0x100 ? "\\x%02x" : character < 0x10000 ? "\\u%04x" : "\\U%08x", character);
  }
  *to = '\0';
  return at == end;
}

/* ---- Byte order ---- */

/* The bytes may lie anywhere: memcpy is a load that needs no alignment. */
#define SWAP(type, swap)                                                                                               \
  for (; at < end; at += sizeof(type)) {                                                                               \
    type number;                                                                                                       \
    memcpy(&number, at, sizeof number);                                                                                \
    number = swap(number);                                                                                             \
    memcpy(at, &number, sizeof number);                                                                                \
  }

static void swap_numbers(char *at, uint64_t size, unsigned unit) {
  char *end = at + size;
  switch (unit) {
  case 2: SWAP(uint16_t, __builtin_bswap16) break;
  case 4: SWAP(uint32_t, __builtin_bswap32) break;
  case 8: SWAP(uint64_t, __builtin_bswap64) break;
  default: break;
  }
}

bool sa_swaps_fill(const struct sa_swaps *swaps, uint32_t itemsize) {
  return swaps->count == 1 && (uint64_t)swaps->list->count * swaps->list->unit == itemsize;
}

void sa_swap(void *bytes, uint64_t size, uint32_t itemsize, const struct sa_swaps *swaps) {
  if (sa_swaps_fill(swaps, itemsize)) {
    swap_numbers(bytes, size, swaps->list->unit);
    return;
  }
  for (char *at = bytes, *end = at + size; at < end; at += itemsize)
    for (size_t i = 0; i < swaps->count; i++) {
      const struct sa_swap *swap = &swaps->list[i];
      swap_numbers(at + swap->offset, (uint64_t)swap->count * swap->unit, swap->unit);
    }
}

/* ---- Fortran order ---- */

void sa_fortran_init(struct sa_fortran *order, const sharearray_npy *npy, uint64_t room) {
  *order = (struct sa_fortran){.itemsize = npy->itemsize, .unit = 1};
  if (!npy->fortran || npy->nbytes == 0) return;
  uint64_t stride = npy->nbytes / npy->itemsize;
  for (int i = 0; i < npy->ndim; i++) {
    stride /= npy->shape[i];
    if (npy->shape[i] == 1) continue;
    order->strides[order->ndim] = stride;
    order->shape[order->ndim++] = npy->shape[i];
  }
  if (order->ndim < 2) order->ndim = 0;
  if (order->ndim == 0) return;
  uint64_t elements = room / npy->itemsize;
  while (order->axis + 1 < order->ndim && order->shape[order->axis] <= elements / order->unit)
    order->unit *= order->shape[order->axis++];
  order->most = elements / order->unit;
}

/* The index along the split axis at which a piece begins. */
static uint64_t index_of(const struct sa_fortran *order, uint64_t at) {
  return at / order->unit % order->shape[order->axis];
}

static uint64_t steps_of(const struct sa_fortran *order, uint64_t at) {
  uint64_t left = order->shape[order->axis] - index_of(order, at);
  return left < order->most ? left : order->most;
}

uint64_t sa_fortran_piece(const struct sa_fortran *order, uint64_t at) { return steps_of(order, at) * order->unit; }

/* A matrix of elements, each row `down` elements behind the one before, read from one whose columns
 * are `across` elements apart. Its few lines of memory all stay in the first cache. */
struct tile {
  const char *from;
  char *to;
  uint64_t rows, columns; /* along the fastest axis of the file, and along the split one */
  uint64_t across;        /* columns in the file */
  uint64_t down, right;   /* rows and columns in memory */
};

/* Inlined where `size` is a constant, so that an element is one load and one store. */
static inline __attribute__((always_inline)) void copy_tile(const struct tile *tile, size_t size) {
  for (uint64_t row = 0; row < tile->rows; row++) {
    const char *from = tile->from + row * size;
    char *to = tile->to + row * tile->down * size;
    for (uint64_t column = 0; column < tile->columns; column++) {
      memcpy(to, from, size);
      from += tile->across * size;
      to += tile->right * size;
    }
  }
}

static void place_tile(const struct tile *tile, size_t size) {
  switch (size) {
  case 1: copy_tile(tile, 1); break;
  case 2: copy_tile(tile, 2); break;
  case 4: copy_tile(tile, 4); break;
  case 8: copy_tile(tile, 8); break;
  case 16: copy_tile(tile, 16); break;
  default: copy_tile(tile, size); break;
  }
}

/* Goes through the axes between the fastest and the split one, the last of them fastest: as memory
 * lies. False when all were visited. */
static bool next_index(const struct sa_fortran *order, uint64_t *index, uint64_t *from, uint64_t *to) {
  uint64_t unit = order->unit;
  for (int axis = order->axis - 1; axis > 0; axis--) {
    unit /= order->shape[axis];
    *from += unit;
    *to += order->strides[axis];
    if (++index[axis] < order->shape[axis]) return true;
    *from -= index[axis] * unit;
    *to -= index[axis] * order->strides[axis];
    index[axis] = 0;
  }
  return false;
}

/* Blocks of both axes that are the fastest, one in the file and the other in memory. */
void sa_fortran_scatter(const struct sa_fortran *order, uint64_t at, const void *from, void *to) {
  enum { TILE = 64 };
  uint64_t start = 0, rest = at, steps = steps_of(order, at), index[32] = {0};
  size_t size = order->itemsize;
  for (int axis = 0; axis < order->ndim; axis++) {
    start += rest % order->shape[axis] * order->strides[axis];
    rest /= order->shape[axis];
  }
  uint64_t rows = order->axis ? order->shape[0] : steps, columns = order->axis ? steps : 1;
  for (uint64_t row = 0; row < rows; row += TILE) {
    uint64_t source = row, target = start + row * order->strides[0];
    do {
      for (uint64_t column = 0; column < columns; column += TILE) {
        struct tile tile = {
            .from = (const char *)from + (source + column * order->unit) * size,
            .to = (char *)to + (target + column * order->strides[order->axis]) * size,
            .rows = rows - row < TILE ? rows - row : TILE,
            .columns = columns - column < TILE ? columns - column : TILE,
            .across = order->unit,
            .down = order->strides[0],
            .right = order->strides[order->axis],
        };
        place_tile(&tile, size);
      }
    } while (next_index(order, index, &source, &target));
  }
}
