/* Whom to trust with what stands under a name. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { OVERFLOW_UID = 65534, UNKNOWN = 0, INITIAL, OTHER };

/* The beginning of a file of /proc, which one call gives, as text: 0, or -1 and errno. */
static int read_proc(const char *path, char *text, size_t size) {
  int fd = sys.open(path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return -1;
  ssize_t n = sys.pread(fd, text, size - 1, 0);
  int error = errno;
  sys.close(fd);
  errno = error;
  text[n > 0 ? n : 0] = '\0';
  return n < 0 ? -1 : 0;
}

/* In a user namespace everybody without a mapping shows as one uid, which is the kernel's to name. */
int sa_trust_new(sharearray_store *store, char *message) {
  char text[64];
  store->overflow_uid = OVERFLOW_UID;
  if (read_proc("/proc/sys/kernel/overflowuid", text, sizeof text) == 0)
    store->overflow_uid = (uint32_t)strtoul(text, NULL, 10);
  else if (errno != ENOENT) return sa_fail_errno(message, "cannot read /proc/sys/kernel/overflowuid");
  return 0;
}

/* Only the initial namespace maps the whole range onto itself (user_namespaces(7)). Not to know counts as another:
 * strangers would pass for one user. */
static int find_namespace(void) {
  char text[64];
  unsigned inside, outside, count;
  if (read_proc("/proc/self/uid_map", text, sizeof text) != 0)
    return errno == ENOENT ? INITIAL : UNKNOWN; /* a kernel without user namespaces */
  int n = sscanf(text, "%u %u %u", &inside, &outside, &count);
  return n == 3 && inside == 0 && outside == 0 && count == UINT32_MAX ? INITIAL : OTHER;
}

/* Where the uid is one that nobody's could be, as it mostly is, the namespace's file is not read, which takes a process
 * as long as three attaches. */
bool sa_is_nobody(sharearray_store *store, uint32_t uid) {
  if (uid != store->overflow_uid) return false;
  if (atomic_load(&store->user_namespace) == UNKNOWN) atomic_store(&store->user_namespace, find_namespace());
  return atomic_load(&store->user_namespace) != INITIAL;
}

bool sa_trusted_uid(sharearray_store *store, uint32_t uid) {
  if (sa_is_nobody(store, uid)) return false;
  if (uid == store->uid || uid == geteuid() || uid == 0) return true;
  for (size_t i = 0; i < store->trusted; i++)
    if (store->trust[i] == uid) return true;
  return false;
}

int sa_check_trust(sharearray_store *store, const struct stat *st, const char *what, const char *path, char *message) {
  const char *reason = NULL;
  unsigned uid = st->st_uid;
  if (S_ISLNK(st->st_mode)) reason = "is a symbolic link";
  else if (S_ISDIR(st->st_mode)) reason = "is a directory";
  else if (!S_ISREG(st->st_mode)) reason = "is no regular file";
  else if (!sa_trusted_uid(store, uid)) reason = "belongs to a user whom the option trust does not name";
  else if (st->st_mode & S_IWOTH) reason = "can be written by everybody";
  /* A umask of 002 is common, and one's own group one's own choice. */
  else if ((st->st_mode & S_IWGRP) && uid != geteuid()) reason = "can be written by its group";
  else if (st->st_nlink > 1) reason = "has a second hard link";
  if (!reason) return 0;
  return sa_fail(message, SHAREARRAY_EUNTRUSTED,
                 "the %s %s %s (uid %u, mode %04o): left alone; remove or rename it, or "
                 "use another id, prefix or shm_path",
                 what, path, reason, uid, (unsigned)st->st_mode & 07777);
}
