/* The file that an import reads: its bytes, and the content of a zip member, inflated if need be.
 *
 * The file is hostile and may change while it is read. It is never mapped (a truncation would be
 * SIGBUS); a read that comes short is ECORRUPT. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static int corrupt(char *message, const char *reason) { return sa_fail(message, SHAREARRAY_ECORRUPT, "%s", reason); }

int sa_source_open(struct sa_source *source, const char *path, char *message) {
  struct stat st;
  memset(source, 0, sizeof *source);
  /* O_NONBLOCK: a FIFO under the name must not hold us. */
  source->fd = sys.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
  if (source->fd < 0 && errno == ENOENT)
    return sa_fail(message, SHAREARRAY_EIO, "there is no such file; a relative path counts from the working directory");
  if (source->fd < 0) return sa_fail_errno(message, "it cannot be opened");
  if (sys.fstat(source->fd, &st) != 0) return sa_fail_errno(message, "it cannot be examined");
  if (!S_ISREG(st.st_mode)) return sa_fail(message, SHAREARRAY_EUNSUPPORTED, "it is no regular file");
  source->length = (uint64_t)st.st_size;
  return 0;
}

void sa_source_close(struct sa_source *source) {
  if (source->fd >= 0) sys.close(source->fd);
  if (source->inflating) source->zlib->inflate_end(&source->z);
}

int sa_source_read_at(const struct sa_source *source, void *bytes, uint64_t size, uint64_t offset, char *message) {
  int64_t n = sa_read_all(source->fd, bytes, size, offset);
  if (n < 0) return sa_fail_errno(message, "it cannot be read");
  return (uint64_t)n == size ? 0 : corrupt(message, "it became shorter while it was read");
}

int sa_source_begin(struct sa_source *source, uint64_t offset, const struct sa_packed *packed, char *message) {
  source->next = offset;
  source->left = packed->size;
  source->deflated = packed->deflated;
  if (!packed->deflated) return 0;
  source->z.avail_in = 0;
  source->ended = false;
  /* Negative: without zlib's own header. */
  const struct sa_zlib *zlib = source->zlib;
  int result = source->inflating ? zlib->inflate_reset(&source->z)
                                 : zlib->inflate_init(&source->z, -MAX_WBITS, ZLIB_VERSION, (int)sizeof source->z);
  if (result != Z_OK) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  source->inflating = true;
  return 0;
}

/* Towards a full output buffer, or the end of the deflated data. */
static int inflate_more(struct sa_source *source, char *message) {
  if (source->z.avail_in == 0 && source->left) {
    uint64_t size = source->left < sizeof source->input ? source->left : sizeof source->input;
    int code = sa_source_read_at(source, source->input, size, source->next, message);
    if (code) return code;
    source->next += size;
    source->left -= size;
    source->z.next_in = source->input;
    source->z.avail_in = (uInt)size;
  }
  switch (source->zlib->inflate(&source->z, Z_NO_FLUSH)) {
  case Z_OK: return 0;
  case Z_STREAM_END: source->ended = true; return 0;
  case Z_MEM_ERROR: return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  case Z_BUF_ERROR: return corrupt(message, "its compressed data is cut off"); /* there was room, and no input */
  default: return corrupt(message, "its compressed data is damaged");
  }
}

int sa_source_read(struct sa_source *source, void *bytes, uint64_t size, char *message) {
  if (!source->deflated) {
    int code = sa_source_read_at(source, bytes, size, source->next, message);
    source->next += size;
    return code;
  }
  source->z.next_out = bytes;
  source->z.avail_out = (uInt)size;
  while (source->z.avail_out) {
    if (source->ended) return corrupt(message, "it inflates to less than its size");
    int code = inflate_more(source, message);
    if (code) return code;
  }
  return 0;
}

int sa_source_end(struct sa_source *source, char *message) {
  unsigned char more;
  if (!source->deflated) return 0;
  source->z.next_out = &more;
  source->z.avail_out = 1;
  while (!source->ended && source->z.avail_out) {
    int code = inflate_more(source, message);
    if (code) return code;
  }
  if (!source->z.avail_out) return corrupt(message, "it inflates to more than its size");
  if (source->z.avail_in || source->left) return corrupt(message, "something follows its compressed data");
  return 0;
}
