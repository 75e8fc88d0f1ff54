/* Python's locks: whether their maker is dead.
 *
 * A Python builder makes an empty lock file (os.open with O_CREAT|O_EXCL), holds it open while it
 * builds, closes it, then unlinks it by name. It is dead if a write lease is granted twice on one file,
 * some time apart: a lease is refused while anybody has the file open, and once is not enough, because
 * a live Python closes before it unlinks. What was granted once is a suspect until the second look. */
#include "internal.h"
#include "sys.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

enum { FORGET = 10000 /* ms: a suspect that nobody came back for */ };

/* Whether nobody else has the file open. */
static bool lease_granted(int fd) {
  /* Somebody who opens the file meanwhile breaks the lease, and the signal for that kills by default. */
  if (sys.lease(fd, F_SETSIG, SIGURG) != 0 || sys.lease(fd, F_SETLEASE, F_WRLCK) != 0) return false;
  sys.lease(fd, F_SETLEASE, F_UNLCK);
  return true;
}

/* The change time too: disk file systems use inode numbers again. */
static bool is_about(const struct sa_suspect *suspect, const struct stat *st) {
  return suspect->dev == st->st_dev && suspect->ino == st->st_ino && suspect->changed.tv_sec == st->st_ctim.tv_sec &&
         suspect->changed.tv_nsec == st->st_ctim.tv_nsec;
}

static void drop(sharearray_store *store, size_t i) { store->suspects[i] = store->suspects[--store->suspect_count]; }

static struct sa_suspect *find(sharearray_store *store, const struct stat *st, double now) {
  for (size_t i = store->suspect_count; i-- > 0;) {
    if (is_about(&store->suspects[i], st)) return &store->suspects[i];
    if (now - store->suspects[i].since > FORGET) drop(store, i);
  }
  return NULL;
}

/* Without memory for it the next look is a first one again. */
static void remember(sharearray_store *store, const struct stat *st, double now) {
  if (store->suspect_count == store->suspect_capacity) {
    size_t capacity = store->suspect_capacity * 2 + 8;
    struct sa_suspect *grown = realloc(store->suspects, capacity * sizeof *grown);
    if (!grown) return;
    store->suspects = grown;
    store->suspect_capacity = capacity;
  }
  store->suspects[store->suspect_count++] = (struct sa_suspect){
      .dev = st->st_dev, .ino = st->st_ino, .changed = st->st_ctim, .since = now};
}

int sa_python_look(sharearray_store *store, int fd, const struct stat *st) {
  if (!lease_granted(fd)) return SA_LOCK_LIVE;
  double now = sharearray_clock();
  struct sa_suspect *suspect = find(store, st, now);
  if (!suspect) {
    remember(store, st, now);
    return SA_LOCK_SUSPECT;
  }
  if (now - suspect->since < SA_LEASE_APART) return SA_LOCK_SUSPECT;
  drop(store, (size_t)(suspect - store->suspects));
  return SA_LOCK_HELD;
}
