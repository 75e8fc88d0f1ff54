/* sharearray_prefault(): which pages it enters, and how it asks the kernel for them. */
#include "../../core/internal.h"
#include "../../core/sys.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20, AROUND = 1 << 16 };

static const char zeros[6 * MIB];
static size_t page;
static struct sa_map mapping;
#define map mapping.public
static size_t calls, asked; /* of madvise(), and for how many bytes */

static int madvise_counting(void *address, size_t length, int advice) {
  calls++;
  asked += length;
  return madvise(address, length, advice);
}

static int madvise_refusing(void *address, size_t length, int advice) {
  (void)address, (void)length, (void)advice;
  calls++;
  errno = EINVAL;
  return -1;
}

/* One page of the first 2 MiB is swapped out. */
static int mincore_missing(void *address, size_t length, unsigned char *pages) {
  int result = mincore(address, length, pages);
  if (result == 0 && (char *)address == (char *)map.base) pages[3] = 0;
  return result;
}

/* A mapping of `length` bytes of a file in shared memory, which begins `shift` bytes behind a multiple of 4 MiB. */
static void begin(size_t shift, size_t length) {
  char name[] = "/dev/shm/core_test.XXXXXX";
  int fd = mkstemp(name);
  char *room = mmap(NULL, 16 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char *base = room + 4 * MIB - (uintptr_t)room % (4 * MIB) + shift;
  CHECK(fd >= 0 && unlink(name) == 0 && pwrite(fd, zeros, length, 0) == (ssize_t)length);
  map.base = mmap(base, length, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
  map.length = length;
  mapping.uid = geteuid();
  CHECK(map.base == (void *)base);
  close(fd);
  calls = asked = 0;
  sys.madvise = madvise_counting;
}

/* Bit 63 of a word of pagemap: the page is present (Documentation/admin-guide/mm/pagemap.rst). */
static size_t missing(void) {
  size_t count = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY);
  CHECK(fd >= 0);
  for (size_t at = 0; at < map.length; at += page) {
    uint64_t entry = 0;
    off_t offset = (off_t)(((uintptr_t)map.base + at) / page * sizeof entry);
    CHECK(pread(fd, &entry, sizeof entry, offset) == sizeof entry);
    count += !(entry >> 63);
  }
  close(fd);
  return count;
}

static void every_page_is_entered(void) {
  size_t lengths[] = {1, page, AROUND, AROUND + 1, 2 * MIB, 5 * MIB + 12345};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    for (size_t shift = 0; shift < 2 * AROUND; shift += page) {
      begin(shift, lengths[i]);
      CHECK(missing() > 0);
      sharearray_prefault(&map);
      CHECK(missing() == 0);
      munmap(map.base, map.length);
    }
  }
}

static void what_is_in_memory_is_asked_for_once_in_64_KiB(void) {
  begin(AROUND / 2, 3 * MIB);
  sharearray_prefault(&map);
  CHECK(calls == 3 * MIB / AROUND + 3); /* and at the ends of three pieces */
  munmap(map.base, map.length);
}

static void what_is_not_in_memory_is_asked_for_page_by_page(void) {
  begin(0, 4 * MIB);
  sys.mincore = mincore_missing;
  sharearray_prefault(&map);
  sys.mincore = mincore;
  CHECK(calls == 1 + 2 * MIB / AROUND + 1);
  CHECK(asked >= 2 * MIB);
  CHECK(missing() == 0);
  munmap(map.base, map.length);
}

/* To whom it is another's, mincore(2) says that all is there. */
static void what_is_anothers_is_asked_for_page_by_page(void) {
  begin(0, 2 * MIB);
  pid_t child = fork();
  if (child == 0)
    _exit((geteuid() == 0 && seteuid(65534) != 0) || (mapping.uid = 1, sharearray_prefault(&map), calls != 1));
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  munmap(map.base, map.length);
}

static void an_old_kernel_is_asked_once(void) {
  begin(0, 6 * MIB);
  sys.madvise = madvise_refusing;
  sharearray_prefault(&map);
  CHECK(calls == 1);
  munmap(map.base, map.length);
}

int main(void) {
  page = (size_t)getpagesize();
  RUN(every_page_is_entered);
  RUN(what_is_in_memory_is_asked_for_once_in_64_KiB);
  RUN(what_is_not_in_memory_is_asked_for_page_by_page);
  RUN(what_is_anothers_is_asked_for_page_by_page);
  RUN(an_old_kernel_is_asked_once);
  FINISH();
}
