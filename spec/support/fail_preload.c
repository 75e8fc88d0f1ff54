/* Preloaded into a LuaJIT: lets the C library fail for the core, at one call or from one on.
 *
 * Lua says when, through the FFI: fault_begin(at, error, lasting) arms; fault_end() disarms and tells how
 * many calls and allocations the core made meanwhile. Only what comes from core.so counts: LuaJIT itself
 * needs its memory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#pragma GCC visibility push(default)

static bool armed;
static long made, fails_at, given;
static int fails_with;
static bool fails_on;

void fault_begin(long at, int error, int lasting) {
  made = given = 0;
  fails_at = at;
  fails_with = error;
  fails_on = lasting;
  armed = true;
}

long fault_end(void) {
  armed = false;
  return made;
}

/* How often something failed since fault_begin(). */
long fault_given(void) { return given; }

int fault_descriptors(void) {
  int count = 0;
  for (int fd = 0; fd < 256; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

static bool from_core(void *address) {
  Dl_info info;
  static const char name[] = "sharearray/core.so";
  if (!dladdr(address, &info)) return false;
  size_t length = strlen(info.dli_fname);
  return length >= strlen(name) && strcmp(info.dli_fname + length - strlen(name), name) == 0;
}

/* Disarmed meanwhile: dladdr() may allocate. */
static bool fails(void *caller) {
  if (!armed) return false;
  armed = false;
  bool counts = from_core(caller);
  armed = true;
  if (!counts) return false;
  made++;
  bool now = fails_at && (made == fails_at || (fails_on && made > fails_at));
  given += now;
  return now;
}

static void *next(const char *name) {
  bool kept = armed;
  armed = false;
  void *function = dlsym(RTLD_NEXT, name);
  armed = kept;
  return function;
}

#define CALL(type, name, parameters, ...)                                                                              \
  type name parameters {                                                                                               \
    static type(*libc) parameters;                                                                                     \
    if (!libc) *(void **)&libc = next(#name);                                                                          \
    if (!fails(__builtin_return_address(0))) return libc(__VA_ARGS__);                                                 \
    errno = fails_with;                                                                                                \
    return (type)-1;                                                                                                   \
  }

CALL(int, fstat, (int fd, struct stat *st), fd, st)
CALL(int, stat, (const char *path, struct stat *st), path, st)
CALL(int, lstat, (const char *path, struct stat *st), path, st)
CALL(ssize_t, pread, (int fd, void *bytes, size_t size, off_t offset), fd, bytes, size, offset)
CALL(ssize_t, pwrite, (int fd, const void *bytes, size_t size, off_t offset), fd, bytes, size, offset)
CALL(int, fchmod, (int fd, mode_t mode), fd, mode)
CALL(int, fsync, (int fd), fd)
CALL(int, statfs, (const char *path, struct statfs *st), path, st)
CALL(int, linkat, (int from, const char *old, int to, const char *name, int flags), from, old, to, name, flags)
CALL(int, rename, (const char *from, const char *to), from, to)
CALL(int, unlink, (const char *path), path)
CALL(int, mprotect, (void *address, size_t length, int protection), address, length, protection)
CALL(int, madvise, (void *address, size_t length, int advice), address, length, advice)
CALL(int, mincore, (void *address, size_t length, unsigned char *pages), address, length, pages)
CALL(void *, mmap, (void *address, size_t length, int protection, int flags, int fd, off_t offset), address, length,
     protection, flags, fd, offset)

int open(const char *path, int flags, ...) {
  static int (*libc)(const char *path, int flags, ...);
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (!libc) *(void **)&libc = next("open");
  if (!fails(__builtin_return_address(0))) return libc(path, flags, mode);
  errno = fails_with;
  return -1;
}

int fcntl(int fd, int command, ...) {
  static int (*libc)(int fd, int command, ...);
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (!libc) *(void **)&libc = next("fcntl");
  if (!fails(__builtin_return_address(0))) return libc(fd, command, argument);
  errno = fails_with;
  return -1;
}

/* A library that is not there: what dlerror() says comes from libc. */
void *dlopen(const char *path, int flags) {
  static void *(*libc)(const char *path, int flags);
  if (!libc) *(void **)&libc = next("dlopen");
  return libc(fails(__builtin_return_address(0)) ? "libmissing.so.1" : path, flags);
}

int posix_fallocate(int fd, off_t offset, off_t length) {
  static int (*libc)(int fd, off_t offset, off_t length);
  if (!libc) *(void **)&libc = next("posix_fallocate");
  return fails(__builtin_return_address(0)) ? fails_with : libc(fd, offset, length);
}

/* dlsym() itself allocates: glibc's own names for these need no looking up. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

void *malloc(size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, size);
}
char *strdup(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
  return copy ? memcpy(copy, text, size) : NULL;
}
