/* Preloaded into a worker: kills it, as SIGKILL does, at one call of the C library.
 *
 * KILL_AT="CALL:SUFFIX:before" or "...:after": at the first call of linkat, unlink, rename or
 * posix_fallocate whose path ends in SUFFIX (posix_fallocate has none: leave it empty); "after" at the
 * first one that succeeds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void reach(const char *call, const char *path, const char *moment) {
  const char *at = getenv("KILL_AT");
  char text[128];
  size_t length = strlen(path);
  const char *suffix = at ? strchr(at, ':') : NULL;
  if (!suffix) return;
  size_t suffix_length = strcspn(++suffix, ":");
  if (length < suffix_length) return;
  snprintf(text, sizeof text, "%s:%s:%s", call, path + length - suffix_length, moment);
  if (strcmp(text, at) == 0) kill(getpid(), SIGKILL);
}

#define AROUND(call, path, result, arguments, names)                                                                   \
  static result(*next) arguments;                                                                                      \
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, call);                                                                 \
  reach(call, path, "before");                                                                                         \
  result value = next names;                                                                                           \
  if (value == 0) reach(call, path, "after");                                                                          \
  return value

#pragma GCC visibility push(default)

int linkat(int from, const char *old, int to, const char *name, int flags) {
  AROUND("linkat", name, int, (int, const char *, int, const char *, int), (from, old, to, name, flags));
}

int unlink(const char *path) { AROUND("unlink", path, int, (const char *), (path)); }

int rename(const char *from, const char *to) { AROUND("rename", to, int, (const char *, const char *), (from, to)); }

int posix_fallocate(int fd, off_t offset, off_t length) {
  AROUND("posix_fallocate", "", int, (int, off_t, off_t), (fd, offset, length));
}
