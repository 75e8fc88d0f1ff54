/* A store: one directory, one prefix; and the step that leads to an array in it. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool valid_prefix(const char *prefix) {
  return *prefix == '\0' || sharearray_valid_id("", prefix, strlen(prefix));
}

static int check_options(const sharearray_options *options, struct stat *directory, char *message) {
  struct stat st;
  if (!options->shm_path || !options->prefix || !valid_prefix(options->prefix))
    return sa_fail(message, SHAREARRAY_EINVAL, "invalid prefix: it may have the characters A-Z a-z 0-9 = + . _ -");
  if (options->mode != -1 && ((options->mode & ~0755) || !(options->mode & 0400)))
    return sa_fail(message, SHAREARRAY_EINVAL, "invalid mode %04o: the owner must read, nobody else write",
                   (unsigned)options->mode);
  if (sys.stat(options->shm_path, &st) != 0) return sa_fail_errno(message, "cannot use shm_path %s", options->shm_path);
  if (!S_ISDIR(st.st_mode))
    return sa_fail(message, SHAREARRAY_EIO, "cannot use shm_path %s: it is no directory", options->shm_path);
  /* The counter page's name may be too long for a file, but not for a buffer. */
  if (strlen(options->shm_path) + NAME_MAX + sizeof "/.changes.4294967295" > SA_PATH)
    return sa_fail(message, SHAREARRAY_EINVAL, "the path of shm_path is too long");
  if (options->owner < -1 || options->owner >= UINT32_MAX)
    return sa_fail(message, SHAREARRAY_EINVAL, "invalid owner: a uid is 0 to 4294967294");
  *directory = st;
  return 0;
}

static char *join(const char *directory, const char *name) {
  char *path = directory && name ? malloc(strlen(directory) + 1 + strlen(name) + 1) : NULL;
  if (path) stpcpy(stpcpy(stpcpy(path, directory), "/"), name);
  return path;
}

static int fill(sharearray_store *store, const sharearray_options *options, char *message) {
  struct statfs fs;
  atomic_init(&store->references, 1);
  store->mode = options->mode;
  store->owner = options->owner;
  store->uid = options->owner >= 0 ? (uint32_t)options->owner : geteuid();
  store->shm_path = strdup(options->shm_path);
  store->prefix = strdup(options->prefix);
  store->trust = calloc(options->trusted + 1, sizeof *store->trust);
  store->stem = join(store->shm_path, store->prefix);
  if (!store->prefix || !store->stem || !store->trust) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  if (options->trusted) memcpy(store->trust, options->trust, options->trusted * sizeof *store->trust);
  store->trusted = options->trusted;
  if (sys.statfs(store->shm_path, &fs) != 0) return sa_fail_errno(message, "cannot use shm_path %s", store->shm_path);
  store->disk = fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC;
  int code = sa_trust_new(store, message);
  return code ? code : sa_changes_new(store, message);
}

int sharearray_store_new(const sharearray_options *options, sharearray_store **out, char *message) {
  struct stat directory = {0};
  int code = check_options(options, &directory, message);
  if (code == 0) code = sa_process_init(message);
  if (code) return code;
  sharearray_store *store = calloc(1, sizeof *store);
  if (!store) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  store->dev = directory.st_dev;
  store->ino = directory.st_ino;
  code = fill(store, options, message);
  if (code) {
    sharearray_store_delete(store);
    return code;
  }
  *out = store;
  return 0;
}

void sa_store_ref(sharearray_store *store) { atomic_fetch_add(&store->references, 1); }

void sharearray_store_delete(sharearray_store *store) {
  if (!store || atomic_fetch_sub(&store->references, 1) > 1) return;
  sa_changes_delete(store);
  free(store->shm_path);
  free(store->prefix);
  free(store->stem);
  free(store->trust);
  free(store->suspects);
  free(store);
}

/* What stands under the entry's name, with the lock's name looked at too: else Python, which looks at
 * the lock first, would wait for ever beside finished data.
 * READY sets *map, EABSENT is the answer where a builder would have to be awaited. */
static int attach_finished(sharearray_store *store, const char *id, const struct sa_paths *paths, uint32_t flags,
                           sharearray_ticket *ticket, sharearray_map **out, char *message) {
  struct stat st;
  struct sa_map *map = NULL;
  int fd, entry = sa_entry_look(store, paths->entry, &st, &map, message);
  if (entry < 0) return entry;
  if (entry != SA_ENTRY_READY && !(flags & SHAREARRAY_GET)) return SHAREARRAY_EABSENT;

  int lock = map && sa_lockless(store) ? SA_LOCK_NONE
                                       : sa_lock_look(store, paths->lock, &fd, &ticket->builder, message);
  if (lock == SA_LOCK_HELD) {
    /* Beside no entry it keeps the count of killed builders, for as long as the next one holds back. */
    if (!map && sa_lock_is_held_back(fd)) sa_process_close(fd);
    else sa_lock_bury(store, paths, fd);
    /* Its builder was killed between its link and its unlink, so that nobody has woken who waits. */
    if (map) sa_changes_bump(store, id);
  }
  if (lock == SA_LOCK_SUSPECT && !(flags & SHAREARRAY_FINAL)) {
    if (map) sharearray_unref(&map->public);
    ticket->recheck = SA_LEASE_APART;
    return SHAREARRAY_WAIT;
  }
  if (map) { /* an untrusted lock beside a sound entry is no concern of a reader's */
    *out = &map->public;
    return SHAREARRAY_READY;
  }
  if (lock < 0) return lock;
  /* One more look: a builder publishes, then removes its lock. */
  if (sa_entry_look(store, paths->entry, &st, &map, message) == SA_ENTRY_READY) {
    *out = &map->public;
    return SHAREARRAY_READY;
  }
  if (lock == SA_LOCK_LIVE)
    return sa_fail(message, SHAREARRAY_EABSENT, "nothing under %s yet: it is being built", paths->entry);
  return sa_fail(message, SHAREARRAY_EABSENT, "nothing under %s%s", paths->entry,
                 entry == SA_ENTRY_SHORT ? " but what a killed builder left: cache or refresh replaces it" : "");
}

static int build_new(sharearray_store *store, const char *id, const struct sa_paths *paths, int lock, uint32_t flags,
                     sharearray_build **out, char *message) {
  sharearray_build *build = calloc(1, sizeof *build);
  if (!build) return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  build->store = store;
  sa_changes_begun(store, id);
  build->thread = pthread_self();
  build->lock = lock;
  build->refresh = build->replace = flags & SHAREARRAY_REFRESH;
  build->paths = *paths;
  snprintf(build->id, sizeof build->id, "%s", id);
  sa_store_ref(store);
  sa_process_add_build(build);
  *out = build;
  return SHAREARRAY_BUILD;
}

/* Whether a refresh may replace what made sa_entry_look() fail. */
static bool replaceable(int code, const struct stat *st) {
  return code == SHAREARRAY_ECORRUPT || code == SHAREARRAY_EUNSUPPORTED ||
         (code == SHAREARRAY_EUNTRUSTED && st->st_uid == geteuid() && !S_ISDIR(st->st_mode));
}

/* With the lock in hand, look once more: BUILD, or READY if somebody was quicker. */
static int attach_locked(sharearray_store *store, const char *id, const struct sa_paths *paths, int lock,
                         uint32_t flags, sharearray_map **out, sharearray_build **build, char *message) {
  struct stat st;
  struct sa_map *map = NULL;
  bool refresh = flags & SHAREARRAY_REFRESH;
  int code = sa_entry_look(store, paths->entry, &st, &map, message);
  if (map && refresh) sharearray_unref(&map->public);
  if (code == SA_ENTRY_READY && !refresh) {
    *out = &map->public;
    code = SHAREARRAY_READY;
  } else if (code >= 0 || (refresh && replaceable(code, &st))) {
    bool partial = code == SA_ENTRY_SHORT;
    /* What another user put in the way of the rename is better known before the work than after it. */
    code = refresh || partial ? sa_file_bury(store, paths->fresh, message) : 0;
    if (code >= 0) code = build_new(store, id, paths, lock, flags, build, message);
    if (code == SHAREARRAY_BUILD) {
      if (partial) (*build)->replace = true;
      return code;
    }
  }
  sa_lock_release(paths->lock, lock);
  return code;
}

/* To be had before the look: whatever is published from then on ends the wait. */
static sharearray_ticket new_ticket(const sharearray_store *store, const char *id) {
  return (sharearray_ticket){.seen = sharearray_changes_of(store, id), .recheck = SA_RECHECK};
}

static int attach(sharearray_store *store, const char *id, const struct sa_paths *paths, uint32_t flags, bool may_build,
                  sharearray_ticket *ticket, sharearray_map **map, sharearray_build **build, char *message) {
  int lock, code;
  *ticket = new_ticket(store, id);
  if (!(flags & SHAREARRAY_REFRESH)) {
    code = attach_finished(store, id, paths, flags, ticket, map, message);
    if (code != SHAREARRAY_EABSENT || (flags & SHAREARRAY_GET)) return code;
  }
  if (!may_build) return SHAREARRAY_WAIT;
  if (!(flags & SHAREARRAY_YIELDS) && sa_process_builds(store, paths))
    return sa_fail(message, SHAREARRAY_ERECURSIVE,
                   "%s is being built by this very thread: the function that builds an id must not ask for it, and no "
                   "other coroutine can wait for it here",
                   paths->entry);
  code = sa_lock_take(store, paths, &lock, &ticket->builder, message);
  if (code == SA_LOCK_HELD) return attach_locked(store, id, paths, lock, flags, map, build, message);
  if (code < 0) return code;
  sa_changes_look(store);
  if (code == SA_LOCK_SUSPECT) ticket->recheck = SA_LEASE_APART;
  else if (ticket->builder.pid < 0 || ticket->builder.uid != store->uid || !store->page_ino)
    ticket->recheck = SA_POLL; /* it touches no counter of ours */
  return SHAREARRAY_WAIT;
}

int sharearray_attach(sharearray_store *store, const char *id, uint32_t flags, sharearray_ticket *ticket,
                      sharearray_map **map, sharearray_build **build, char *message) {
  struct sa_paths paths;
  int code = sa_names(store, id, &paths, message);
  if (code == 0) code = attach(store, id, &paths, flags, true, ticket, map, build, message);
  if (code == SHAREARRAY_READY) ticket->layout = (*map)->array.layout;
  return code;
}

/* What a builder published who has said that its lock is gone: else it may be dead beside an entry, and has to go. That
 * is asked once more in the end, since it may be the entry of another builder by then, who has taken the word back. */
static bool take_published(sharearray_store *store, const char *id, uint32_t seen, const char *path,
                           struct sa_map *blank) {
  return sa_changes_are_published(store, id, seen) && sa_entry_take(store, path, blank) &&
         sa_changes_are_published(store, id, seen);
}

int sharearray_await(sharearray_store *store, const char *id, uint32_t flags, sharearray_ticket *ticket, double seconds,
                     const sharearray_blank *blanks, uint32_t count, const uint8_t *sealed, sharearray_map **map,
                     char *message) {
  struct sa_paths paths;
  int code = sa_names(store, id, &paths, message);
  if (code) return code;
  struct sa_map *blank = sa_map_blank(paths.entry);
  uint32_t seen = ticket->seen;
  sharearray_wait(store, id, ticket, seconds);
  *ticket = new_ticket(store, id);
  if (blank && !(flags & SHAREARRAY_REFRESH) && take_published(store, id, seen, paths.entry, blank)) {
    *map = &blank->public;
  } else {
    if (blank) sharearray_unref(&blank->public);
    code = attach(store, id, &paths, flags, false, ticket, map, NULL, message);
  }
  if (code != SHAREARRAY_READY) return code;
  ticket->layout = (*map)->array.layout;
  for (uint32_t i = 0; ticket->layout && i < count; i++) {
    if (blanks[i].layout != ticket->layout) continue;
    sharearray_view(*map, NULL, blanks[i].bits, sealed, blanks[i].view);
    return SHAREARRAY_FILLED + (int)i;
  }
  return code;
}

int sharearray_current(sharearray_store *store, const char *id, const sharearray_map *public) {
  const struct sa_map *map = (const struct sa_map *)public;
  struct sa_paths paths;
  struct stat st;
  sa_changes_look(store);
  return sa_names(store, id, &paths, NULL) == 0 && sys.lstat(paths.entry, &st) == 0 && map->ino == st.st_ino &&
         map->dev == st.st_dev;
}

int sharearray_held_current(sharearray_store *store, const char *id, const void *holder) {
  const sharearray_map *map;
  memcpy(&map, holder, sizeof map);
  return map ? sharearray_current(store, id, map) : 0;
}

int64_t sharearray_version(sharearray_store *store, const char *id) {
  struct sa_paths paths;
  struct stat st;
  if (sa_names(store, id, &paths, NULL) != 0 || sys.lstat(paths.entry, &st) != 0) return 0;
  return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}
