/* Writing and filling files in memory. */
#define _GNU_SOURCE
#include "baseline.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PIECE = 16 << 20 };

double baseline_write(const char *path, const void *bytes, size_t size) {
  double start = baseline_now();
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
  if (fd < 0) return -1;
  for (size_t at = 0; at < size;) {
    ssize_t n = write(fd, (const char *)bytes + at, size - at < PIECE ? size - at : PIECE);
    if (n < 0) return -1;
    at += (size_t)n;
  }
  close(fd);
  double end = baseline_now();
  unlink(path);
  return end - start;
}

/* A new file, mapped: reserved in full, or on a tmpfs with huge=advise, with its mapping asking for huge pages. */
static void *map_new(const char *path, size_t bytes, bool huge) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
  if (fd < 0) return MAP_FAILED;
  void *x = MAP_FAILED;
  if ((huge ? ftruncate(fd, (off_t)bytes) : posix_fallocate(fd, 0, (off_t)bytes)) == 0)
    x = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (huge && x != MAP_FAILED) madvise(x, bytes, MADV_HUGEPAGE);
  close(fd);
  unlink(path);
  return x;
}

/* With one value, as the work in Lua does: what is measured is the memory. */
static void fill(float *x, size_t count) {
  for (size_t i = 0; i < count; i++) x[i] = 1;
}

double baseline_fill(const char *path, size_t count) {
  float *x = map_new(path, count * sizeof *x, false);
  if (x == MAP_FAILED) return -1;
  double start = baseline_now();
  fill(x, count);
  double end = baseline_now();
  munmap(x, count * sizeof *x);
  return end - start;
}

static double map_and_fill(const char *path, size_t count, bool huge) {
  double start = baseline_now();
  float *x = map_new(path, count * sizeof *x, huge);
  if (x == MAP_FAILED) return -1;
  fill(x, count);
  double end = baseline_now();
  munmap(x, count * sizeof *x);
  return end - start;
}

double baseline_reserve_and_fill(const char *path, size_t count) { return map_and_fill(path, count, false); }

double baseline_fill_huge(const char *path, size_t count) { return map_and_fill(path, count, true); }

double baseline_copy_huge(const char *path, const void *bytes, size_t size) {
  double start = baseline_now();
  void *x = map_new(path, size, true);
  if (x == MAP_FAILED) return -1;
  memcpy(x, bytes, size);
  double end = baseline_now();
  munmap(x, size);
  return end - start;
}

double baseline_scan(const void *bytes, size_t size) {
  enum { PAGE = 4096 };
  const volatile char *at = bytes;
  double start = baseline_now();
  for (size_t i = 0; i < size; i += PAGE) (void)at[i];
  return baseline_now() - start;
}
