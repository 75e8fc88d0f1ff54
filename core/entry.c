/* The finished file: opened, examined, mapped. No lock is needed for any of it. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum {
  FIRST_READ = 1024,  /* holds any header but a structured dtype's */
  SHORT_HEADER = 256, /* of numbers in a few dimensions */
  WHOLE_HEADER = (64 << 10) + 12,
  ATTEMPTS = 1000 /* a reader beside an endless row of refreshes is overtaken once or twice */
};

/* Why an open failed: something other than a file stands there, or permission is refused. NONE if it is
 * gone by now, or became a file. */
static int explain_open(sharearray_store *store, const char *path, int error, struct stat *st, char *message) {
  if (sys.lstat(path, st) == 0) {
    int code = sa_check_trust(store, st, "entry", path, message);
    if (code) return code;
    if (sa_is_no_file(error)) return SA_ENTRY_NONE;
  } else if (errno == ENOENT && (sa_is_no_file(error) || error == EACCES)) return SA_ENTRY_NONE;
  errno = error;
  return sa_fail_errno(message, "cannot open %s", path);
}

static int read_header(int fd, uint64_t file_size, sharearray_npy *npy, int *is_short, char *message) {
  char head[FIRST_READ];
  /* No more than there is, or the kernel would be asked once more whether there is none. */
  int64_t size = sa_read_all(fd, head, file_size < sizeof head ? file_size : sizeof head, 0);
  if (size < 0) return sa_fail_errno(message, "cannot read");
  int code = sa_npy_read(head, (size_t)size, file_size, npy, is_short, message);
  if (!*is_short || (size_t)size < sizeof head) return code;
  *is_short = 0;
  char *whole = malloc(WHOLE_HEADER);
  if (!whole) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  size = sa_read_all(fd, whole, WHOLE_HEADER, 0);
  code = size < 0 ? sa_fail_errno(message, "cannot read")
                  : sa_npy_read(whole, (size_t)size, file_size, npy, is_short, message);
  free(whole);
  return code;
}

/* Whether the file begins as a zip file does, which may be empty. */
static bool is_bundle(int fd) {
  char magic[4];
  return sa_read_all(fd, magic, sizeof magic, 0) == sizeof magic &&
         (memcmp(magic, "PK\3\4", 4) == 0 || memcmp(magic, "PK\5\6", 4) == 0);
}

/* Maps the open file into the blank map: READY; SHORT, or a failure. */
static int fill(const char *path, int fd, const struct stat *st, struct sa_map *blank, char *message) {
  char reason[SHAREARRAY_MESSAGE];
  int is_short = 0, code = read_header(fd, (uint64_t)st->st_size, &blank->public.array, &is_short, reason);
  if (is_short) return SA_ENTRY_SHORT;
  bool bundle = code == SHAREARRAY_ECORRUPT && is_bundle(fd);
  if (code == 0 || bundle) {
    code = sa_map_fill(blank, fd, st, message);
    if (code) return code;
  }
  if (bundle) code = sa_map_read(blank, reason); /* its members, through the mapping */
  if (code) return sa_fail(message, code, "the entry %s is not usable: %s; refresh or free it", path, reason);
  return SA_ENTRY_READY;
}

/* NONE also for a file that was replaced between its opening and the look at it. */
static int look_at(sharearray_store *store, const char *path, int fd, struct stat *st, struct sa_map **map,
                   char *message) {
  if (sys.fstat(fd, st) != 0) return sa_fail_errno(message, "cannot examine %s", path);
  if (st->st_nlink == 0) return SA_ENTRY_NONE;
  int code = sa_check_trust(store, st, "entry", path, message);
  if (code) return code;
  struct sa_map *blank = sa_map_blank(path);
  if (!blank) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  code = fill(path, fd, st, blank, message);
  if (code == SA_ENTRY_READY) *map = blank;
  else sharearray_unref(&blank->public);
  return code;
}

int sa_entry_look(sharearray_store *store, const char *path, struct stat *st, struct sa_map **map, char *message) {
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    int fd = sa_open(path, O_RDONLY);
    if (fd == -ENOENT) return SA_ENTRY_NONE;
    int result = fd < 0 ? explain_open(store, path, -fd, st, message) : look_at(store, path, fd, st, map, message);
    if (fd >= 0) sa_process_close(fd);
    if (result != SA_ENTRY_NONE) return result;
  }
  return sa_fail(message, SHAREARRAY_EIO, "%s is replaced faster than it can be opened", path);
}

static bool take(sharearray_store *store, const char *path, int fd, struct sa_map *blank) {
  char reason[SHAREARRAY_MESSAGE], head[SHORT_HEADER];
  struct stat st;
  if (sys.fstat(fd, &st) != 0 || st.st_nlink == 0 || sa_check_trust(store, &st, "entry", path, reason) != 0)
    return false;
  uint64_t file_size = (uint64_t)st.st_size;
  int64_t size = sa_read_all(fd, head, file_size < sizeof head ? file_size : sizeof head, 0);
  return size > 0 && sa_npy_read(head, (size_t)size, file_size, &blank->public.array, NULL, reason) == 0 &&
         sa_map_fill(blank, fd, &st, reason) == 0;
}

bool sa_entry_take(sharearray_store *store, const char *path, struct sa_map *blank) {
  int fd = sa_open(path, O_RDONLY);
  if (fd < 0) return false;
  bool taken = take(store, path, fd, blank);
  sa_process_close(fd);
  return taken;
}
