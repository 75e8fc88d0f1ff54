/* Memory for Torch7: tensors write where they stand, outlive views, and are freed on any thread.
 *
 * What is published must not change, and its mapping cannot be written. So a tensor over it gets a
 * private mapping of the same file: its pages are the entry's until the tensor writes to one. That
 * takes a descriptor, and a map keeps none (ten thousand ids would need as many): the entry is opened
 * again by its name. A newer one may stand there by now; device and inode tell, and cannot be reused
 * while the old file is mapped. Then the elements are copied. The other ways do not work:
 * /proc/self/map_files asks for privileges, and mremap() cannot make a shared mapping private. */
#include "internal.h"
#include "sys.h"

#include <fcntl.h>
#include <string.h>

/* The entry's file, privately. Fails where it has no name any more, or may not be opened. */
static int map_again(const struct sa_map *map, struct sa_map **out, char *message) {
  struct stat st;
  int fd = map->path ? sa_open(map->path, O_RDONLY) : -1;
  if (fd < 0) return SHAREARRAY_EABSENT;
  int code = SHAREARRAY_EABSENT;
  if (sys.fstat(fd, &st) == 0 && st.st_ino == map->ino && st.st_dev == map->dev)
    code = sa_map_private(fd, map->public.length, out, message);
  sa_process_close(fd);
  return code;
}

int sharearray_lend(sharearray_map *public, uint64_t offset, uint64_t size, sharearray_map **lent, void **bytes,
                    char *message) {
  struct sa_map *map = (struct sa_map *)public, *again;
  if (offset > public->length || size > public->length - offset)
    return sa_fail(message, SHAREARRAY_EINVAL, "more memory was asked for than the map has");
  if (public->array.order == 0) { /* may be written as it is */
    map->lent = true;
    sharearray_ref(public);
    *lent = public;
    *bytes = (char *)public->base + offset;
    return 0;
  }
  if (map_again(map, &again, message) == 0) {
    *lent = &again->public;
    *bytes = (char *)again->public.base + offset;
    return 0;
  }
  int code = sharearray_private(size, lent, message);
  if (code) return code;
  *bytes = memcpy((*lent)->base, (const char *)public->base + offset, (size_t)size);
  return 0;
}

static void drop(void *context, void *data) {
  (void)data;
  sharearray_unref(context);
}

/* THAllocator, as lib/TH/THAllocator.h has it. The first two are for storages that may be resized. */
static const struct {
  void *(*malloc)(void *context, ptrdiff_t size);
  void *(*realloc)(void *context, void *data, ptrdiff_t size);
  void (*free)(void *context, void *data);
} allocator = {NULL, NULL, drop};

const void *sharearray_torch_allocator(void) { return &allocator; }
