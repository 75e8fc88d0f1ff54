/* Files that are made without a name and get one when they are complete.
 *
 *   sa_file_create   ->  unnamed (O_TMPFILE)  ->  sa_file_link or sa_file_replace  ->  named, immutable
 *                        or ~<pid>.<n>             (the kernel drops an unnamed file with its process)
 *
 * On file systems without O_TMPFILE (NFS, FUSE) the file has a temporary name instead, which
 * sharearray_sweep() removes once nobody holds its lock. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int sa_open(const char *path, int flags) {
  /* O_NONBLOCK: a FIFO under the name must not hold us, nor a lease that somebody takes. */
  int fd = sa_process_open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
  return fd < 0 ? -errno : fd;
}

bool sa_is_no_file(int error) { return error == ELOOP || error == ENXIO || error == EISDIR; }

int sa_write_all(int fd, const void *bytes, uint64_t size, uint64_t offset) {
  const char *at = bytes;
  while (size) {
    ssize_t n = sys.pwrite(fd, at, size > SA_PIECE ? SA_PIECE : (size_t)size, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO; /* or it would be asked for ever */
    if (n <= 0) return -1;
    at += n;
    size -= (uint64_t)n;
    offset += (uint64_t)n;
  }
  return 0;
}

int64_t sa_read_all(int fd, void *bytes, uint64_t size, uint64_t offset) {
  uint64_t done = 0;
  while (done < size) {
    ssize_t n = sys.pread(fd, (char *)bytes + done, (size_t)(size - done), (off_t)(offset + done));
    if (n < 0 && errno != EINTR) return -1;
    if (n == 0) break;
    if (n > 0) done += (uint64_t)n;
  }
  return (int64_t)done;
}

int sa_lock_file(int fd) {
  struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return sys.lock(fd, F_OFD_SETLK, &range);
}

/* The mode waits until the file is complete: a sweep by the same user must be able to open what a dead
 * maker left. A lock on its own file tells it that the maker lives. */
static int try_temporary(const sharearray_store *store, uint32_t mode, struct sa_file *file) {
  static atomic_uint serial;
  struct stat st;
  /* '~' is no character of an id: this is no entry's name, whatever the id. */
  snprintf(file->temporary, SA_PATH, "%s~%ld.%u", store->stem, (long)getpid(), atomic_fetch_add(&serial, 1));
  int fd = sa_process_open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  if (fd < 0) {
    file->temporary[0] = '\0';
    return -1;
  }
  file->fd = fd;
  if (sys.fstat(fd, &st) == 0 && sys.fchmod(fd, 0600) == 0 && sa_lock_file(fd) == 0) {
    file->mode = st.st_mode & 07777; /* what the umask left of it */
    /* Somebody may have swept it away between its creation and its lock. */
    if (sys.fstat(fd, &st) == 0 && st.st_nlink == 1) return fd;
    errno = EEXIST;
  } else if (errno == EAGAIN) errno = EEXIST; /* a sweep is looking at it */
  sa_file_close(file);
  return -1;
}

static int create_temporary(const sharearray_store *store, uint32_t mode, struct sa_file *file) {
  for (int attempt = 0; attempt < 100; attempt++) {
    int fd = try_temporary(store, mode, file);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

int sa_no_space(const sharearray_store *store, uint64_t bytes, char *message) {
  const char *path = store->shm_path;
  struct statfs fs;
  if (sys.statfs(path, &fs) != 0) return sa_fail(message, SHAREARRAY_ENOSPACE, "%s is full", path);
  if (fs.f_files && fs.f_ffree == 0)
    return sa_fail(message, SHAREARRAY_ENOSPACE,
                   "no space in %s: all of its %llu inodes are used; free entries, or allow more files (mount -o "
                   "remount,nr_inodes=...)",
                   path, (unsigned long long)fs.f_files);
  unsigned long long block = (unsigned long long)fs.f_bsize;
  return sa_fail(message, SHAREARRAY_ENOSPACE,
                 "no space in %s: %llu bytes needed, %llu free of %llu; free entries, or make it larger (mount -o "
                 "remount,size=..., for a container --shm-size)",
                 path, (unsigned long long)bytes, fs.f_bavail * block, fs.f_blocks * block);
}

int sa_file_create(const sharearray_store *store, uint32_t mode, struct sa_file *file, char *message) {
  file->temporary[0] = '\0';
  file->fd = sa_process_open(store->shm_path, O_TMPFILE | O_RDWR, mode);
  /* EISDIR: a kernel that does not know O_TMPFILE; EOPNOTSUPP: a file system that does not. */
  if (file->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) file->fd = create_temporary(store, mode, file);
  if (file->fd < 0 && errno == ENOSPC) return sa_no_space(store, 0, message);
  if (file->fd < 0) return sa_fail_errno(message, "cannot create a file in %s", store->shm_path);
  if (store->owner >= 0 && sys.fchown(file->fd, (uid_t)store->owner, (gid_t)-1) != 0) {
    int code = errno == EPERM ? sa_fail(message, SHAREARRAY_EDENIED, "only root can give a file in %s to uid %lld",
                                        store->shm_path, (long long)store->owner)
                              : sa_fail_errno(message, "cannot give a file in %s to uid %lld", store->shm_path,
                                              (long long)store->owner);
    sa_file_close(file);
    return code;
  }
  return 0;
}

int sa_file_mode(struct sa_file *file, mode_t mode) {
  file->mode = mode;
  return file->temporary[0] ? 0 : sys.fchmod(file->fd, mode);
}

static int link_unnamed(int fd, const char *path) {
  char proc[64];
  /* Before Linux 6.10 an empty path needs a capability (ENOENT); the detour needs a mounted /proc. */
  if (sys.linkat(fd, "", AT_FDCWD, path, AT_EMPTY_PATH) == 0) return 0;
  if (errno != ENOENT && errno != EINVAL) return -1;
  snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
  return sys.linkat(AT_FDCWD, proc, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

/* A temporary file gets the mode it was created for. */
static int prepare(const struct sa_file *file) { return file->temporary[0] ? sys.fchmod(file->fd, file->mode) : 0; }

int sa_file_link(struct sa_file *file, const char *path, char *message) {
  int result = prepare(file);
  if (result == 0)
    result = file->temporary[0] ? sys.renameat2(file->temporary, path, RENAME_NOREPLACE) : link_unnamed(file->fd, path);
  if (result == 0) {
    file->temporary[0] = '\0';
    return 0;
  }
  if (errno == EEXIST) return EEXIST;
  return sa_fail_errno(message, "cannot link %s", path);
}

/* Where the lock was taken away by its name, as Python's free does, two builders may come this way at
 * once. So a file under `by` is locked as long as its maker lives, and only a dead one's is removed. */
int sa_file_bury(sharearray_store *store, const char *by, char *message) {
  /* A read lock: what was published read-only cannot be opened for writing. */
  struct flock range = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  struct stat st;
  int fd = -1, code = 0;
  if (sys.lstat(by, &st) != 0) return errno == ENOENT ? 0 : sa_fail_errno(message, "cannot examine %s", by);
  if (!sa_trusted_uid(store, st.st_uid))
    return sa_fail(message, SHAREARRAY_EUNTRUSTED, "%s belongs to a user who is not trusted: left alone", by);
  if (S_ISREG(st.st_mode)) {
    fd = sa_open(by, O_RDONLY);
    if (fd == -ENOENT) return 0;
    if (fd < 0 && sa_is_no_file(-fd)) return EEXIST;
    if (fd < 0 && fd != -EACCES) {
      errno = -fd;
      return sa_fail_errno(message, "cannot open %s", by);
    }
  }
  if (fd >= 0 && sys.lock(fd, F_OFD_SETLK, &range) != 0 && (errno == EAGAIN || errno == EACCES)) code = EEXIST;
  else if (sys.unlink(by) != 0 && errno != ENOENT) code = sa_fail_errno(message, "cannot remove %s", by);
  if (fd >= 0) sa_process_close(fd);
  return code;
}

int sa_file_replace(sharearray_store *store, struct sa_file *file, const char *by, const char *path, char *message) {
  if (!file->temporary[0]) {
    int code = sa_file_bury(store, by, message);
    if (code) return code;
    if (sa_lock_file(file->fd) != 0) return sa_fail_errno(message, "cannot lock %s", by);
    if (link_unnamed(file->fd, by) != 0) return errno == EEXIST ? EEXIST : sa_fail_errno(message, "cannot link %s", by);
  } else {
    if (prepare(file) != 0) return sa_fail_errno(message, "cannot set the mode of %s", file->temporary);
    by = file->temporary;
  }
  if (sys.rename(by, path) != 0) {
    int code = sa_fail_errno(message, "cannot replace %s", path);
    if (!file->temporary[0]) sys.unlink(by);
    return code;
  }
  file->temporary[0] = '\0';
  return 0;
}

void sa_file_close(struct sa_file *file) {
  int error = errno; /* of the failure that led here */
  if (file->temporary[0]) sys.unlink(file->temporary);
  if (file->fd >= 0) sa_process_close(file->fd);
  file->temporary[0] = '\0';
  file->fd = -1;
  errno = error;
}
