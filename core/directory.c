/* The directory's own time of change: what is true of all its names as long as it stands still. */
#include "internal.h"
#include "sys.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
  TICKS = 30000000, /* ns; a change within the same tick of the kernel's clock leaves no trace */
  ENTRY = 20,       /* a tmpfs counts so many bytes of its directory for each name */
  LOOKS_LEAST = 32
};

static bool is_ours(const sharearray_store *store, const struct stat *st) {
  return st->st_dev == store->dev && st->st_ino == store->ino;
}

/* By its descriptor, where there is one: that takes a quarter of the time of the way along its path. A directory that
 * was moved away or removed has changed, too. */
static bool look(const sharearray_store *store, int fd, struct stat *st) {
  return (fd >= 0 ? sys.fstat(fd, st) : sys.stat(store->shm_path, st)) == 0 && is_ours(store, st);
}

/* Whether nothing came or went since the last look, which left its time in *changed; no time where that was
 * too young for what came after the look to be told by it. *names is how many there are, roughly. */
static bool settled(const sharearray_store *store, int fd, struct timespec *changed, uint64_t *names) {
  struct stat st;
  struct timespec now;
  if (store->disk) return false; /* some keep times in whole seconds */
  if (!look(store, fd, &st)) return false;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  bool same = st.st_ctim.tv_sec == changed->tv_sec && st.st_ctim.tv_nsec == changed->tv_nsec;
  int64_t age = (int64_t)(now.tv_sec - st.st_ctim.tv_sec) * 1000000000 + (now.tv_nsec - st.st_ctim.tv_nsec);
  *changed = age > TICKS ? st.st_ctim : (struct timespec){0};
  *names = (uint64_t)st.st_size / ENTRY;
  return same && age > TICKS;
}

int sharearray_settled(sharearray_store *store) {
  uint64_t names;
  bool still = settled(store, -1, &store->changed, &names);
  if (!still) store->looks = 0; /* its path may lead to another one now */
  return still;
}

/* Somebody may have closed what he did not open, as daemons do when they start, and the number may be another file's
 * now: that is his. */
void sa_directory_close(sharearray_store *store) {
  struct stat st;
  if (store->directory >= 0 && sys.fstat(store->directory, &st) == 0 && is_ours(store, &st))
    sys.close(store->directory);
  store->directory = -1;
}

/* O_PATH: good for fstat() alone, and an exec closes it. Without it the path will do. */
static void open_directory(sharearray_store *store) {
  sa_directory_close(store);
  store->directory = sys.open(store->shm_path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
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
  bool still = settled(store, store->directory, &store->lockless, &names);
  if (!still) {
    store->looks = 0;
    sa_directory_close(store);
  }
  if (!still || store->looks == UINT32_MAX) return still;
  /* Reading the directory has to pay: it is read when the single looks have cost as much. */
  if (++store->looks < LOOKS_LEAST + names / 4 || !has_no_lock(store)) return false;
  still = settled(store, -1, &store->lockless, &names);
  store->looks = still ? UINT32_MAX : 0;
  if (still) open_directory(store);
  return still;
}
