/* libFuzzer: any bytes as a file to import. Refused with its reason, or a complete draft that is sound. */
#include "../../core/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST = 1 << 20 }; /* bytes of a draft: a small file may truly inflate to a thousand times its size */

static char directory[] = "/dev/shm/sharearray_fuzz.XXXXXX";
static sharearray_store *store;
static int fd;

static void clean_up(void) {
  char page[sizeof directory + 64];
  sharearray_store_delete(store);
  snprintf(page, sizeof page, "%s/f_.changes.%u", directory, geteuid());
  unlink(page);
  rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  sharearray_options options = {.shm_path = directory, .prefix = "f_", .mode = -1, .owner = -1};
  (void)argc, (void)argv;
  fd = memfd_create("source", MFD_CLOEXEC);
  if (fd < 0 || !mkdtemp(directory) || sharearray_store_new(&options, &store, NULL) != 0) abort();
  atexit(clean_up);
  return 0;
}

static int copy(sharearray_import *import, sharearray_draft *draft) {
  char message[SHAREARRAY_MESSAGE];
  struct sa_map *map;
  struct stat st;
  int more;
  if (draft->bytes > MOST) return 0;
  while ((more = sharearray_import_step(import, draft, 1 << 20, message)) > 0) {
  }
  if (more < 0) return more;
  if (fstat(draft->file.fd, &st) != 0 || (uint64_t)st.st_size != draft->bytes) abort();
  if (sa_map_file(draft->file.fd, draft->bytes, &st, &map, message) != 0) abort();
  if (sa_map_read(map, message) != 0) abort();
  sharearray_unref(&map->public);
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  char path[32], message[SHAREARRAY_MESSAGE];
  sharearray_import *import;
  sharearray_draft *draft;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size) abort();
  int code = sharearray_import_new(path, "sharearray.json", &import, message);
  if (code == 0) {
    code = sharearray_import_draft(import, store, &draft, message);
    if (code == 0) {
      code = copy(import, draft);
      sharearray_draft_delete(draft);
    }
    sharearray_import_delete(import);
  }
  if (code && code != SHAREARRAY_ECORRUPT && code != SHAREARRAY_EUNSUPPORTED && code != SHAREARRAY_ENOSPACE) abort();
  return 0;
}
