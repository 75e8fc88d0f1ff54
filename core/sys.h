/* The core reaches the kernel through this one table, so that a harness can count, fail or kill at
 * every call. In the library it holds libc's own functions and never changes. */
#ifndef SHAREARRAY_SYS_H
#define SHAREARRAY_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>
#include <time.h>

#pragma GCC visibility push(hidden)

struct flock;

struct sa_sys {
  int (*open)(const char *path, int flags, mode_t mode);
  int (*close)(int fd);
  int (*fstat)(int fd, struct stat *st);
  int (*stat)(const char *path, struct stat *st);
  int (*lstat)(const char *path, struct stat *st);
  ssize_t (*pread)(int fd, void *bytes, size_t size, off_t offset);
  ssize_t (*pwrite)(int fd, const void *bytes, size_t size, off_t offset);
  int (*fallocate)(int fd, off_t offset, off_t length); /* posix_fallocate(): returns the errno */
  int (*fchmod)(int fd, mode_t mode);
  int (*fchown)(int fd, uid_t uid, gid_t gid);
  int (*futimens)(int fd, const struct timespec times[2]);
  int (*fsync)(int fd);
  int (*ftruncate)(int fd, off_t length);
  int (*statfs)(const char *path, struct statfs *st);
  int (*linkat)(int from, const char *old, int to, const char *name, int flags);
  int (*rename)(const char *from, const char *to);
  int (*renameat2)(const char *from, const char *to, unsigned flags);
  int (*unlink)(const char *path);
  int (*lock)(int fd, int command, struct flock *range); /* fcntl: F_OFD_SETLK, F_OFD_GETLK */
  int (*lease)(int fd, int command, int argument);       /* fcntl: F_SETLEASE, F_SETSIG */
  void *(*mmap)(void *address, size_t length, int protection, int flags, int fd, off_t offset);
  int (*munmap)(void *address, size_t length);
  int (*mprotect)(void *address, size_t length, int protection);
  int (*madvise)(void *address, size_t length, int advice);
  int (*mincore)(void *address, size_t length, unsigned char *pages);
  long (*futex)(const uint32_t *word, int operation, uint32_t value, const struct timespec *timeout);
};

extern struct sa_sys sys;

#pragma GCC visibility pop
#endif
