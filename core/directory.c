/* The directory's own time of change: what is true of all its names as long as it stands still. */
#include "internal.h"
#include "sys.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
  TICKS = 30000000, /* ns; a change within the same tick of the kernel's clock leaves no trace */
  ENTRY = 20,       /* a tmpfs counts so many bytes of its directory for each name */
  LOOKS_LEAST = 32
};

/* Whether nothing came or went since the last look, which left its time in *changed; no time where that was
 * too young for what came after the look to be told by it. The time of change, which nobody can put back, as rsync and
 * tar do with that of modification. *names is how many there are, roughly.
 *
 * By the path, each time, though a descriptor would answer in a quarter of the time: it would still tell of the old
 * directory when a link on the way was switched, or something mounted over it. */
static bool settled(const sharearray_store *store, struct timespec *changed, uint64_t *names) {
  struct stat st;
  struct timespec now;
  if (store->disk) return false; /* some keep times in whole seconds */
  if (sys.stat(store->shm_path, &st) != 0 || st.st_dev != store->dev || st.st_ino != store->ino) return false;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  bool same = st.st_ctim.tv_sec == changed->tv_sec && st.st_ctim.tv_nsec == changed->tv_nsec;
  int64_t age = (int64_t)(now.tv_sec - st.st_ctim.tv_sec) * 1000000000 + (now.tv_nsec - st.st_ctim.tv_nsec);
  *changed = age > TICKS ? st.st_ctim : (struct timespec){0};
  *names = (uint64_t)st.st_size / ENTRY;
  return same && age > TICKS;
}

int sharearray_settled(sharearray_store *store) {
  uint64_t names;
  return settled(store, &store->changed, &names);
}

/* Whether no name in it is a lock's. */
static bool has_no_lock(const sharearray_store *store) {
  static const char suffix[] = ".npy.lock";
  DIR *directory = opendir(store->shm_path);
  bool none = directory != NULL;
  struct dirent *entry;
  while (none && (entry = readdir(directory))) {
    size_t length = strlen(entry->d_name);
    none = length < sizeof suffix || strcmp(entry->d_name + length - (sizeof suffix - 1), suffix) != 0;
  }
  if (directory) closedir(directory);
  return none;
}

bool sa_lockless(sharearray_store *store) {
  uint64_t names;
  if (store->looks < LOOKS_LEAST) {
    store->looks++; /* whoever attaches a few arrays is quicker without the looks at the directory */
    return false;
  }
  bool still = settled(store, &store->lockless, &names);
  if (!still) store->looks = 0;
  if (!still || store->looks == UINT32_MAX) return still;
  /* Reading the directory has to pay: it is read when the single looks have cost as much. */
  if (++store->looks < LOOKS_LEAST + names / 4 || !has_no_lock(store)) return false;
  still = settled(store, &store->lockless, &names);
  store->looks = still ? UINT32_MAX : 0;
  return still;
}
