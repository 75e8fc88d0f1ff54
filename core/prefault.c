/* Prefaulting: all pages of a mapping are entered into the process's page table at once. */
#include "internal.h"
#include "sys.h"

#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; EINVAL before */
#endif

/* Bytes. A fault enters all that is in memory of the 64 KiB around it (fault_around_bytes in the kernel's mm/memory.c).
 * To ask for a page in each takes a quarter less time than to have the kernel go from page to page. */
enum { AROUND = 1 << 16, PIECE = 1 << 21, SMALLEST_PAGE = 4096 };

/* Whether no page has to come from swap, or from a disk, first. */
static bool is_in_memory(const struct sa_map *map, char *from, size_t size) {
  unsigned char pages[PIECE / SMALLEST_PAGE];
  size_t count = (size - 1) / (size_t)getpagesize() + 1;
  uid_t me = geteuid();
  if (map->uid != me && me != 0) return false; /* mincore(2) says of others' files that all is there */
  if (sys.mincore(from, size, pages) != 0) return false;
  while (count && pages[count - 1] & 1) count--;
  return count == 0;
}

/* What is around a fault begins with the mapping, or at a multiple of 64 KiB: so what is behind the last of these
 * steps may not be around any of them. (Of a file on a disk the kernel leaves out the page that it has marked to begin
 * to read ahead at.) */
static int enter(const struct sa_map *map, char *from, size_t size) {
  if (!is_in_memory(map, from, size)) return sys.madvise(from, size, MADV_POPULATE_READ);
  size_t page = (size_t)getpagesize(), last = (size - 1) / page * page;
  for (size_t at = 0; at < last; at += AROUND)
    if (sys.madvise(from + at, page, MADV_POPULATE_READ) != 0) return -1;
  return sys.madvise(from + last, page, MADV_POPULATE_READ);
}

void sharearray_prefault(const sharearray_map *map) {
  if (map->base == map) return;
  char *at = map->base, *end = at + map->length;
  while (at < end) {
    size_t size = PIECE - (uintptr_t)at % PIECE;
    if (size > (size_t)(end - at)) size = (size_t)(end - at);
    if (enter((const struct sa_map *)map, at, size) != 0) return;
    at += size;
  }
}
