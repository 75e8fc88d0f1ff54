/* Mappings: memory that is counted, and unmapped when nobody holds it any more.
 *
 * A mapping keeps no descriptor. Any number of threads may hold references to one. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct sa_map *sa_map_blank(const char *path) {
  size_t size = path ? strlen(path) + 1 : 0;
  /* Not calloc(), which glibc serves more slowly, and never with what was freed just now. */
  struct sa_map *map = malloc(sizeof *map + size);
  if (!map) return NULL;
  /* But for the sizes, which are most of it: there are none yet. */
  memset(map, 0, offsetof(struct sa_map, public.array.shape));
  memset(&map->public.array.offset, 0, sizeof *map - offsetof(struct sa_map, public.array.offset));
  if (path) map->path = memcpy(map + 1, path, size);
  atomic_init(&map->references, 1);
  return map;
}

static int fill(struct sa_map *map, int protection, int flags, int fd, uint64_t length, char *message) {
  /* mmap refuses to map no bytes; a file with a header never gets here. */
  void *base = length ? MAP_FAILED : map;
  if (length > SIZE_MAX || length > INT64_MAX) errno = EOVERFLOW;
  else if (length) base = sys.mmap(NULL, (size_t)length, protection, flags, fd, 0);
  if (length && base == MAP_FAILED) return sa_fail_errno(message, "cannot map %llu bytes", (unsigned long long)length);
  map->public.base = base;
  map->public.length = length;
  /* Advice only: where huge pages are not allowed for this memory nothing happens. */
  if (length >= SA_HUGE_PAGE) sys.madvise(base, (size_t)length, MADV_HUGEPAGE);
  return 0;
}

static int map_new(int protection, int flags, int fd, uint64_t length, struct sa_map **out, char *message) {
  struct sa_map *map = sa_map_blank(NULL);
  if (!map) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  int code = fill(map, protection, flags, fd, length, message);
  if (code) free(map);
  else *out = map;
  return code;
}

/* The change time is that of the link or rename: nothing is written to an entry after it. */
double sa_published(const struct stat *st) { return (double)st->st_ctim.tv_sec + (double)st->st_ctim.tv_nsec / 1e9; }

double sa_age(double published) {
  double age = sa_wall_clock() - published;
  return age > 0 ? age : 0; /* a clock that was set back */
}

double sharearray_age(const sharearray_map *public) {
  const struct sa_map *map = (const struct sa_map *)public;
  return map->ino ? sa_age(map->published) : 0;
}

double sharearray_held_age(const void *holder) {
  const sharearray_map *map;
  memcpy(&map, holder, sizeof map);
  return map ? sharearray_age(map) : 0;
}

static void note_file(struct sa_map *map, const struct stat *st) {
  map->dev = st->st_dev;
  map->ino = st->st_ino;
  map->uid = st->st_uid;
  map->published = sa_published(st);
}

int sa_map_file(int fd, uint64_t length, const struct stat *st, struct sa_map **out, char *message) {
  int code = map_new(PROT_READ, MAP_SHARED, fd, length, out, message);
  if (code == 0) note_file(*out, st);
  return code;
}

int sa_map_fill(struct sa_map *blank, int fd, const struct stat *st, char *message) {
  int code = fill(blank, PROT_READ, MAP_SHARED, fd, (uint64_t)st->st_size, message);
  if (code == 0) note_file(blank, st);
  return code;
}

int sa_map_shared(int fd, uint64_t length, struct sa_map **out, char *message) {
  return map_new(PROT_READ | PROT_WRITE, MAP_SHARED, fd, length, out, message);
}

int sa_map_private(int fd, uint64_t length, struct sa_map **out, char *message) {
  return map_new(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, length, out, message);
}

int sa_map_read(struct sa_map *map, char *message) {
  sharearray_map *public = &map->public;
  sharearray_member *members;
  if (public->length < 2 || memcmp(public->base, "PK", 2) != 0)
    return sharearray_npy_read(public->base, (size_t) public->length, public->length, &public->array, NULL, message);
  int code = sharearray_npz_read(public->base, public->length, &members, &public->count, message);
  if (code) return code;
  public->members = members;
  public->array.order = '|'; /* no longer 0, which means that the memory is being filled */
  return 0;
}

int sharearray_private(uint64_t bytes, sharearray_map **out, char *message) {
  struct sa_map *map = NULL;
  int code = map_new(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, bytes ? bytes : 1, &map, message);
  if (code == 0) *out = &map->public;
  return code;
}

void sharearray_ref(sharearray_map *public) {
  struct sa_map *map = (struct sa_map *)public;
  atomic_fetch_add_explicit(&map->references, 1, memory_order_relaxed);
}

void sharearray_unref(sharearray_map *public) {
  struct sa_map *map = (struct sa_map *)public;
  if (!map) return;
  /* What other threads did with the memory happens before it is unmapped. */
  if (atomic_fetch_sub_explicit(&map->references, 1, memory_order_acq_rel) != 1) return;
  if (map->public.base && map->public.base != map) sys.munmap(map->public.base, (size_t)map->public.length);
  free((void *)map->public.members);
  if (map->path != (char *)(map + 1)) free(map->path); /* of what was published here: see sa_map_blank() */
  free(map);
}

void sharearray_release(void *holder, size_t size) {
  sharearray_map *map;
  memcpy(&map, holder, sizeof map);
  memset(holder, 0, size);
  sharearray_unref(map);
}
