/* Drafts: the file that a build fills before it has a name. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static int io_error(const sharearray_draft *draft, const char *what, char *message) {
  if (errno == ENOSPC || errno == EDQUOT) return sa_no_space(draft->store, draft->bytes, message);
  return sa_fail_errno(message, "cannot %s a file in %s", what, draft->store->shm_path);
}

/* Says no before half the memory of the machine has been touched; the reservation itself decides. */
static int check_space(const sharearray_draft *draft, char *message) {
  struct statfs fs;
  if (sys.statfs(draft->store->shm_path, &fs) != 0 || fs.f_blocks == 0) return 0; /* 0: a tmpfs without limit */
  if (draft->bytes / (uint64_t)fs.f_bsize > fs.f_bavail) return sa_no_space(draft->store, draft->bytes, message);
  return 0;
}

int sharearray_draft_new(sharearray_store *store, uint64_t bytes, sharearray_draft **out, char *message) {
  if (bytes == 0 || bytes > INT64_MAX) return sa_fail(message, SHAREARRAY_EINVAL, "invalid size of a file");
  sharearray_draft *draft = calloc(1, sizeof *draft);
  if (!draft) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  draft->store = store;
  draft->bytes = bytes;
  sa_store_ref(store);
  /* 0444 at creation, so that the umask applies; the option mode is meant as it stands. */
  int code = check_space(draft, message);
  if (code == 0) code = sa_file_create(store, 0444, &draft->file, message);
  else draft->file.fd = -1;
  if (code == 0 && store->mode >= 0 && sa_file_mode(&draft->file, (mode_t)store->mode) != 0)
    code = io_error(draft, "set the mode of", message);
  if (code) {
    sa_file_close(&draft->file);
    sharearray_store_delete(store);
    free(draft);
    return code;
  }
  sa_process_add_draft(draft);
  *out = draft;
  return 0;
}

static int check_child(const sharearray_draft *draft, char *message) {
  if (!draft->orphan) return 0;
  return sa_fail(message, SHAREARRAY_EUNSUPPORTED,
                 "this process was forked in the middle of a build, which belongs to its parent: a child cannot fill "
                 "or publish it");
}

int sharearray_draft_reserve(sharearray_draft *draft, uint64_t step, char *message) {
  int code = check_child(draft, message);
  if (code) return code;
  uint64_t end = step < draft->bytes - draft->reserved ? draft->reserved + step : draft->bytes;
  while (draft->reserved < end) {
    uint64_t piece = end - draft->reserved < SA_PIECE ? end - draft->reserved : SA_PIECE;
    if (sa_huge_reserve(draft, draft->reserved + piece)) continue;
    int error = sys.fallocate(draft->file.fd, (off_t)draft->reserved, (off_t)piece);
    if (error == EINTR) continue;
    if (error) {
      errno = error;
      return io_error(draft, "reserve", message);
    }
    draft->reserved += piece;
  }
  return draft->reserved < draft->bytes;
}

int sharearray_draft_map(sharearray_draft *draft, sharearray_map **out, char *message) {
  int code = check_child(draft, message);
  if (code) return code;
  if (draft->reserved < draft->bytes || draft->map)
    return sa_fail(message, SHAREARRAY_EINVAL, "a draft is mapped once, after it was reserved in full");
  struct sa_map *map;
  sa_huge_end(draft);
  code = sa_map_shared(draft->file.fd, draft->bytes, &map, message);
  if (code) return code;
  draft->written = draft->bytes; /* what is written from now on goes behind the mapped part */
  draft->map = map;              /* one reference for the draft, one for the caller */
  sharearray_ref(&map->public);
  *out = &map->public;
  return 0;
}

/* Writes some of it, and returns how much; 0 with errno on failure. A huge page is reserved first, and
 * filled while it is still in the cache. */
static uint64_t write_some(sharearray_draft *draft, const char *bytes, uint64_t size) {
  while (draft->reserved <= draft->written && sa_huge_reserve(draft, draft->reserved + SA_HUGE_PAGE)) {
  }
  if (draft->window && draft->reserved > draft->written) {
    if (size > draft->reserved - draft->written) size = draft->reserved - draft->written;
    memcpy(draft->window + draft->written, bytes, (size_t)size);
    return size;
  }
  return sa_write_all(draft->file.fd, bytes, size, draft->written) == 0 ? size : 0;
}

int sharearray_draft_write(sharearray_draft *draft, const void *bytes, uint64_t size, char *message) {
  int code = check_child(draft, message);
  if (code) return code;
  if (size > draft->bytes - draft->written && !draft->map)
    return sa_fail(message, SHAREARRAY_EINVAL, "more was written to a draft than it was made for");
  const char *at = bytes;
  while (size) {
    uint64_t piece = write_some(draft, at, size);
    if (piece == 0) return io_error(draft, "write", message);
    draft->written += piece;
    at += piece;
    size -= piece;
  }
  if (draft->map) draft->bytes = draft->written;
  return 0;
}

int sharearray_draft_version(sharearray_draft *draft, int64_t *version, char *message) {
  const int64_t second = 1000000000;
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
  int code = check_child(draft, message);
  if (code) return code;
  times[1] = (struct timespec){.tv_sec = *version / second, .tv_nsec = *version % second};
  if (*version == 0) clock_gettime(CLOCK_REALTIME, &times[1]);
  if (sys.futimens(draft->file.fd, times) != 0) return io_error(draft, "date", message);
  *version = times[1].tv_sec * second + times[1].tv_nsec;
  return 0;
}

void sharearray_draft_delete(sharearray_draft *draft) {
  if (!draft) return;
  sa_process_remove_draft(draft);
  if (draft->map) sharearray_unref(&draft->map->public);
  sa_huge_end(draft);
  sa_file_close(&draft->file);
  sharearray_store_delete(draft->store);
  free(draft);
}
