/* Huge pages by advice. A tmpfs that is mounted with huge=advise gives them to mappings that ask for them
 * (MADV_HUGEPAGE), and to nobody else: neither to write(2) nor to fallocate(2). On such a one a draft is
 * reserved by touching it through a mapping, huge page by huge page; the kernel refuses where a plain
 * touch would be SIGBUS. What is written then fills pages that are there. */
#include "internal.h"
#include "sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; EINVAL before */
#endif

/* A line of mountinfo: "36 35 0:27 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=1g,huge=advise". */
static bool is_advised_mount(const char *line, dev_t dev) {
  unsigned major, minor;
  const char *options = strstr(line, " - ");
  return options && sscanf(line, "%*d %*d %u:%u", &major, &minor) == 2 && makedev(major, minor) == dev &&
         strstr(options, "huge=advise");
}

static bool is_advised(dev_t dev) {
  char *line = NULL;
  size_t capacity = 0;
  bool advised = false;
  FILE *file = fopen("/proc/self/mountinfo", "re");
  if (!file) return false;
  while (!advised && getline(&line, &capacity, file) > 0) advised = is_advised_mount(line, dev);
  free(line);
  fclose(file);
  return advised;
}

/* Maps all of the draft, to touch it by: false where huge pages are out of the question. */
static bool open_window(sharearray_draft *draft) {
  sharearray_store *store = draft->store;
  if (draft->bytes < SA_HUGE_PAGE || store->disk) return false;
  if (store->huge == SA_HUGE_UNKNOWN) store->huge = is_advised(store->dev) ? SA_HUGE_ADVISED : SA_HUGE_NO;
  if (store->huge == SA_HUGE_NO || sys.ftruncate(draft->file.fd, (off_t)draft->bytes) != 0) return false;
  void *window = sys.mmap(NULL, (size_t)draft->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, draft->file.fd, 0);
  if (window == MAP_FAILED) return false;
  sys.madvise(window, (size_t)draft->bytes, MADV_HUGEPAGE);
  draft->window = window;
  return true;
}

bool sa_huge_reserve(sharearray_draft *draft, uint64_t end) {
  if (draft->map || draft->windowless || draft->reserved % SA_HUGE_PAGE) return false;
  end = (end < draft->bytes ? end : draft->bytes) / SA_HUGE_PAGE * SA_HUGE_PAGE;
  if (end <= draft->reserved) return false;
  if (!draft->window && !open_window(draft)) draft->windowless = true;
  else if (sys.madvise(draft->window + draft->reserved, (size_t)(end - draft->reserved), MADV_POPULATE_WRITE) != 0)
    sa_huge_end(draft); /* full, or an old kernel: who asks tries the plain way, which has the right error */
  if (draft->windowless) return false;
  draft->reserved = end;
  return true;
}

void sa_huge_end(sharearray_draft *draft) {
  if (draft->window) sys.munmap(draft->window, (size_t)draft->bytes);
  draft->window = NULL;
  draft->windowless = true;
}
