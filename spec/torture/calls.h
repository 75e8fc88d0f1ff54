/* The core's table of system calls, wrapped: every call is counted, and at the one that the plan names
 * the process stops, just before it or just after, or the call fails with an error it can have. */
#ifndef CALLS_H
#define CALLS_H

#include "../../core/internal.h"
#include "../../core/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Every call, with the errors that it can have. 0 ends a list. SHORT: fewer bytes than were asked for. */
enum { SHORT = -1, ERRORS = 12 };
#define CALLS(CALL)                                                                                                    \
  CALL(open, EMFILE, ENFILE, ENOMEM, EACCES, EIO, EINTR, ENOSPC, EDQUOT, EAGAIN)                                       \
  CALL(close, EIO, EINTR)                                                                                              \
  CALL(fstat, EIO, ENOMEM)                                                                                             \
  CALL(stat, EACCES, EIO, ENOMEM)                                                                                      \
  CALL(lstat, EACCES, EIO, ENOMEM)                                                                                     \
  CALL(pread, EIO, EINTR, SHORT)                                                                                       \
  CALL(pwrite, ENOSPC, EDQUOT, EIO, EINTR, EFBIG, SHORT)                                                               \
  CALL(fallocate, ENOSPC, EDQUOT, EINTR, EIO, ENODEV, EFBIG)                                                           \
  CALL(fchmod, EPERM, EIO, EROFS)                                                                                      \
  CALL(fchown, EPERM, EIO, EDQUOT)                                                                                     \
  CALL(fsync, EIO, ENOSPC, EDQUOT, EINTR)                                                                              \
  CALL(futimens, EPERM, EACCES, EIO, EROFS)                                                                            \
  CALL(statfs, EIO, ENOMEM, EACCES, EINTR)                                                                             \
  CALL(linkat, ENOSPC, EDQUOT, EACCES, EPERM, EIO, ENOMEM, EROFS, ENOENT, EEXIST, EMLINK)                              \
  CALL(rename, ENOSPC, EDQUOT, EACCES, EPERM, EIO, ENOMEM, EROFS)                                                      \
  CALL(renameat2, ENOSPC, EDQUOT, EACCES, EPERM, EIO, ENOMEM, EROFS, EINVAL, EEXIST)                                   \
  CALL(unlink, EACCES, EPERM, EIO, EBUSY, EROFS)                                                                       \
  CALL(lock, EAGAIN, EACCES, ENOLCK, EINTR)                                                                            \
  CALL(lease, EAGAIN, EACCES, EINVAL)                                                                                  \
  CALL(mmap, ENOMEM, EACCES, EAGAIN, ENFILE)                                                                           \
  CALL(munmap, 0)                                                                                                      \
  CALL(mprotect, ENOMEM, EACCES)                                                                                       \
  CALL(madvise, EINVAL, ENOMEM)                                                                                        \
  CALL(mincore, EAGAIN, ENOMEM)                                                                                        \
  CALL(futex, EAGAIN, EINTR)

#define NUMBER(call, ...) CALL_##call,
enum call { CALLS(NUMBER) CALL_COUNT };
#undef NUMBER

struct call_info {
  const char *name;
  int errors[ERRORS];
};
#define ENTRY(call, ...) {#call, {__VA_ARGS__}},
static const struct call_info call_infos[] = {CALLS(ENTRY)};
#undef ENTRY

/* What happens at call number `at`, from 1. */
static struct {
  enum { COUNT_ONLY, STOP_BEFORE, STOP_AFTER, FAIL_ONCE, FAIL_FROM } what;
  long at;
  int error;
  void (*stop)(void);
  bool armed; /* only then is anything counted */
} plan;

enum { CALLS_MAX = 4096 };
static long calls_made;
static enum call calls_seen[CALLS_MAX + 1]; /* which call number n was */
static long faults_given;
static long regions;         /* mapped less unmapped */
static struct sa_sys kernel; /* the table as it was */

/* The error that the call is to fail with, or 0. FAIL_FROM goes on with the same call. */
static int arrive(enum call call) {
  if (!plan.armed) return 0;
  long n = ++calls_made;
  if (n <= CALLS_MAX) calls_seen[n] = call;
  if (n == plan.at && plan.what == STOP_BEFORE) plan.stop();
  bool fails = (plan.what == FAIL_ONCE && n == plan.at) ||
               (plan.what == FAIL_FROM && n >= plan.at && call == calls_seen[plan.at]);
  if (!fails) return 0;
  faults_given++;
  return plan.error;
}

static void leave(void) {
  int error = errno;
  if (plan.armed && calls_made == plan.at && plan.what == STOP_AFTER) plan.stop();
  errno = error;
}

#define WRAP(type, call, parameters, ...)                                                                              \
  static type planned_##call parameters {                                                                              \
    int error = arrive(CALL_##call);                                                                                   \
    if (error) {                                                                                                       \
      errno = error;                                                                                                   \
      return (type)-1;                                                                                                 \
    }                                                                                                                  \
    type result = kernel.call(__VA_ARGS__);                                                                            \
    leave();                                                                                                           \
    return result;                                                                                                     \
  }

WRAP(int, open, (const char *path, int flags, mode_t mode), path, flags, mode)
WRAP(int, fstat, (int fd, struct stat *st), fd, st)
WRAP(int, stat, (const char *path, struct stat *st), path, st)
WRAP(int, lstat, (const char *path, struct stat *st), path, st)
WRAP(int, fchmod, (int fd, mode_t mode), fd, mode)
WRAP(int, fchown, (int fd, uid_t uid, gid_t gid), fd, uid, gid)
WRAP(int, fsync, (int fd), fd)
WRAP(int, futimens, (int fd, const struct timespec times[2]), fd, times)
WRAP(int, statfs, (const char *path, struct statfs *st), path, st)
WRAP(int, linkat, (int from, const char *old, int to, const char *name, int flags), from, old, to, name, flags)
WRAP(int, rename, (const char *from, const char *to), from, to)
WRAP(int, renameat2, (const char *from, const char *to, unsigned flags), from, to, flags)
WRAP(int, unlink, (const char *path), path)
WRAP(int, lock, (int fd, int command, struct flock *range), fd, command, range)
WRAP(int, lease, (int fd, int command, int argument), fd, command, argument)
WRAP(int, mprotect, (void *address, size_t length, int protection), address, length, protection)
WRAP(int, madvise, (void *address, size_t length, int advice), address, length, advice)
WRAP(int, mincore, (void *address, size_t length, unsigned char *pages), address, length, pages)
WRAP(long, futex, (const uint32_t *word, int operation, uint32_t value, const struct timespec *timeout), word,
     operation, value, timeout)

/* Linux closes the descriptor whatever close() returns. */
static int planned_close(int fd) {
  int error = arrive(CALL_close), result = kernel.close(fd);
  if (error) {
    errno = error;
    return -1;
  }
  leave();
  return result;
}

/* A few bytes, in the middle of any header; or, so that large files are written in the end, a third. */
static size_t fewer(size_t size) { return size > 5 && size < 5000 ? 5 : (size + 2) / 3; }

#define WRAP_IO(call, pointer)                                                                                         \
  static ssize_t planned_##call(int fd, pointer bytes, size_t size, off_t offset) {                                    \
    int error = arrive(CALL_##call);                                                                                   \
    if (error > 0) {                                                                                                   \
      errno = error;                                                                                                   \
      return -1;                                                                                                       \
    }                                                                                                                  \
    ssize_t result = kernel.call(fd, bytes, error == SHORT ? fewer(size) : size, offset);                              \
    leave();                                                                                                           \
    return result;                                                                                                     \
  }
WRAP_IO(pread, void *)
WRAP_IO(pwrite, const void *)

static int planned_fallocate(int fd, off_t offset, off_t length) {
  int error = arrive(CALL_fallocate), result = error ? error : kernel.fallocate(fd, offset, length);
  leave();
  return result;
}

static void *planned_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
  int error = arrive(CALL_mmap);
  if (error) {
    errno = error;
    return MAP_FAILED;
  }
  void *result = kernel.mmap(address, length, protection, flags, fd, offset);
  if (result != MAP_FAILED && !(flags & MAP_FIXED)) regions++;
  leave();
  return result;
}

/* Never failed: unmapping a whole region cannot. */
static int planned_munmap(void *address, size_t length) {
  arrive(CALL_munmap);
  int result = kernel.munmap(address, length);
  if (result == 0) regions--;
  leave();
  return result;
}

/* A file system that knows no unnamed files. */
static int open_without_tmpfile(const char *path, int flags, mode_t mode) {
  if ((flags & O_TMPFILE) != O_TMPFILE) return open(path, flags, mode);
  errno = EOPNOTSUPP;
  return -1;
}

/* One that is no memory file system: what is published is synced first. */
static int statfs_of_a_disk(const char *path, struct statfs *fs) {
  int result = statfs(path, fs);
  fs->f_type = 0xef53; /* ext4 */
  return result;
}

enum kernel { PLAIN, NO_TMPFILE, DISK, KERNELS };
static const char *const kernel_names[] = {"tmpfs", "no unnamed files", "disk"};

/* Puts the wrapped table in place, over a kernel of the given kind. */
static void wrap_calls(enum kernel kind) {
  static struct sa_sys libc;
  if (!libc.open) libc = sys;
  kernel = libc;
  if (kind == NO_TMPFILE) kernel.open = open_without_tmpfile;
  if (kind == DISK) kernel.statfs = statfs_of_a_disk;
#define TAKE(call, ...) sys.call = planned_##call;
  CALLS(TAKE)
#undef TAKE
}

static void arm(void) {
  calls_made = 0;
  plan.armed = true;
}

static void disarm(void) { plan.armed = false; }

#endif
