/* The table of system calls, filled with libc's functions. */
#include "internal.h"
#include "sys.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sys_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }
static int sys_fstat(int fd, struct stat *st) { return fstat(fd, st); }
static int sys_stat(const char *path, struct stat *st) { return stat(path, st); }
static int sys_lstat(const char *path, struct stat *st) { return lstat(path, st); }
static int sys_lock(int fd, int command, struct flock *range) { return fcntl(fd, command, range); }
static int sys_lease(int fd, int command, int argument) { return fcntl(fd, command, argument); }

static int sys_renameat2(const char *from, const char *to, unsigned flags) {
  return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

static long sys_futex(const uint32_t *word, int operation, uint32_t value, const struct timespec *timeout) {
  return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

struct sa_sys sys = {
    .open = sys_open,
    .close = close,
    .fstat = sys_fstat,
    .stat = sys_stat,
    .lstat = sys_lstat,
    .pread = pread,
    .pwrite = pwrite,
    .fallocate = posix_fallocate,
    .fchmod = fchmod,
    .fchown = fchown,
    .futimens = futimens,
    .fsync = fsync,
    .ftruncate = ftruncate,
    .statfs = statfs,
    .linkat = linkat,
    .rename = rename,
    .renameat2 = sys_renameat2,
    .unlink = unlink,
    .lock = sys_lock,
    .lease = sys_lease,
    .mmap = mmap,
    .munmap = munmap,
    .mprotect = mprotect,
    .madvise = madvise,
    .mincore = mincore,
    .futex = sys_futex,
};
