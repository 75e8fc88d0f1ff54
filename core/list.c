/* What is in a store: one id in detail, all ids, and the removal of entries and leftovers. */
#include "internal.h"
#include "sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int state_of(int entry) {
  switch (entry) {
  case SA_ENTRY_READY: return SHAREARRAY_STATE_READY;
  case SA_ENTRY_NONE:
  case SA_ENTRY_SHORT: return SHAREARRAY_STATE_PARTIAL;
  case SHAREARRAY_EUNTRUSTED: return SHAREARRAY_STATE_UNTRUSTED;
  case SHAREARRAY_ECORRUPT: return SHAREARRAY_STATE_CORRUPT;
  case SHAREARRAY_EUNSUPPORTED: return SHAREARRAY_STATE_UNSUPPORTED;
  case SHAREARRAY_EDENIED: return SHAREARRAY_STATE_DENIED;
  default: return entry;
  }
}

/* The entry, as far as it goes into an info. */
static int look_entry(sharearray_store *store, const struct sa_paths *paths, sharearray_info *info, struct stat *st,
                      char *reason) {
  struct sa_map *map = NULL;
  int entry = sa_entry_look(store, paths->entry, st, &map, reason);
  if (!map) return entry;
  info->array = map->public.array;
  size_t shown = info->array.descr_length < sizeof info->descr ? info->array.descr_length : sizeof info->descr;
  memcpy(info->descr, (const char *)map->public.base + info->array.descr_offset, shown);
  for (uint64_t i = 0; i < map->public.count; i++) info->members += map->public.members[i].array != NULL;
  sharearray_unref(&map->public);
  return entry;
}

/* The lock: LIVE while somebody builds, NONE, or untrusted. */
static int look_lock(sharearray_store *store, const struct sa_paths *paths, bool finished, sharearray_owner *builder,
                     char *reason) {
  int fd, lock = sa_lock_look(store, paths->lock, &fd, builder, reason);
  if (lock == SA_LOCK_HELD) {
    if (!finished && sa_lock_is_held_back(fd)) sa_process_close(fd);
    else sa_lock_bury(store, paths, fd);
    lock = SA_LOCK_NONE;
  }
  if (lock == SA_LOCK_SUSPECT) lock = SA_LOCK_LIVE;
  if (lock != SA_LOCK_LIVE) *builder = (sharearray_owner){0};
  return lock;
}

int sharearray_stat(sharearray_store *store, const char *id, sharearray_info *out, char *message) {
  struct sa_paths paths;
  struct stat st = {0};
  char reason[SHAREARRAY_MESSAGE] = "", lock_reason[SHAREARRAY_MESSAGE];
  sharearray_info info = {0};
  int code = sa_names(store, id, &paths, message);
  if (code) return code;
  int entry = look_entry(store, &paths, &info, &st, reason);
  int lock = look_lock(store, &paths, entry == SA_ENTRY_READY, &info.builder, lock_reason);
  /* One more look: a builder publishes, then removes its lock. */
  if (lock == SA_LOCK_NONE && (entry == SA_ENTRY_NONE || entry == SA_ENTRY_SHORT))
    entry = look_entry(store, &paths, &info, &st, reason);
  info.state = state_of(entry);
  if (info.state < 0) return sa_fail(message, entry, "%s", reason);
  if (entry == SA_ENTRY_NONE) {
    if (lock == SA_LOCK_NONE) return sa_fail(message, SHAREARRAY_EABSENT, "nothing under %s", paths.entry);
    if (lock < 0 && lock != SHAREARRAY_EUNTRUSTED) return sa_fail(message, lock, "%s", lock_reason);
    if (lock < 0) info.state = SHAREARRAY_STATE_UNTRUSTED;
    sys.lstat(paths.lock, &st);
  }
  if (lock == SA_LOCK_LIVE && info.state == SHAREARRAY_STATE_PARTIAL) info.state = SHAREARRAY_STATE_BUILDING;
  info.uid = st.st_uid;
  info.mode = st.st_mode & 07777;
  info.age = entry == SA_ENTRY_NONE ? -1 : sa_age(sa_published(&st));
  info.failed = info.state == SHAREARRAY_STATE_READY ? sharearray_failure_age(store, id) : -1;
  info.bytes = entry == SA_ENTRY_NONE ? 0 : (uint64_t)st.st_size;
  if (info.state > SHAREARRAY_STATE_PARTIAL)
    snprintf(info.reason, sizeof info.reason, "%.255s", entry < 0 ? reason : lock_reason);
  *out = info;
  return 0;
}

/* Removes what stands under the name, if this user may and should: 1, 0 for nothing there. */
static int remove_name(sharearray_store *store, const char *path, char *message) {
  struct stat st;
  if (sys.lstat(path, &st) != 0) {
    if (errno == ENOENT) return 0;
    return sa_fail_errno(message, "cannot examine %s", path);
  }
  if (S_ISDIR(st.st_mode) || !sa_trusted_uid(store, st.st_uid))
    return sa_fail(message, SHAREARRAY_EUNTRUSTED, "%s %s: left alone", path,
                   S_ISDIR(st.st_mode) ? "is a directory" : "belongs to a user who is not trusted");
  if (sys.unlink(path) == 0) return 1;
  if (errno == ENOENT) return 0;
  return sa_fail_errno(message, "cannot remove %s", path);
}

int sharearray_remove(sharearray_store *store, const char *id, char *message) {
  struct sa_paths paths;
  sharearray_owner owner;
  int fd, code = sa_names(store, id, &paths, message);
  if (code) return code;
  int removed = remove_name(store, paths.entry, message);
  if (removed < 0) return removed;
  int lock = sa_lock_look(store, paths.lock, &fd, &owner, message);
  if (lock == SA_LOCK_HELD) sa_lock_bury(store, &paths, fd);
  /* A lock's name that is squatted by something of this user's own: an owner's free may remove it. */
  if (lock == SHAREARRAY_EUNTRUSTED) lock = remove_name(store, paths.lock, message) == 1 ? SA_LOCK_HELD : lock;
  if (removed || lock == SA_LOCK_HELD) sa_changes_bump(store, id);
  if (lock < 0) return lock;
  return (removed || lock == SA_LOCK_HELD) | (lock == SA_LOCK_SUSPECT ? SHAREARRAY_WAIT : 0);
}

/* The names in the store's directory that begin with its prefix, without the prefix. */
struct names {
  char *bytes; /* each with its NUL */
  size_t used, capacity, count;
};

static int names_add(struct names *names, const char *name, size_t length) {
  if (!names->bytes || length >= names->capacity - names->used) {
    size_t capacity = (names->capacity + length + 1) * 2;
    char *bytes = realloc(names->bytes, capacity);
    if (!bytes) return -1;
    names->bytes = bytes;
    names->capacity = capacity;
  }
  memcpy(names->bytes + names->used, name, length);
  names->bytes[names->used + length] = '\0';
  names->used += length + 1;
  names->count++;
  return 0;
}

static int names_read(const sharearray_store *store, struct names *names, char *message) {
  size_t prefix = strlen(store->prefix);
  *names = (struct names){0};
  int fd = sys.open(store->shm_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
  if (!directory) {
    int code = sa_fail_errno(message, "cannot list %s", store->shm_path);
    if (fd >= 0) sys.close(fd);
    return code;
  }
  int code = 0;
  struct dirent *entry;
  /* NULL is the end of the directory, or an error: errno tells which. */
  while (code == 0 && (errno = 0, entry = readdir(directory)))
    if (strncmp(entry->d_name, store->prefix, prefix) == 0 &&
        names_add(names, entry->d_name + prefix, strlen(entry->d_name + prefix)) != 0)
      code = sa_fail(message, SHAREARRAY_EIO, "out of memory");
  if (code == 0 && errno) code = sa_fail_errno(message, "cannot list %s", store->shm_path);
  closedir(directory);
  if (code) free(names->bytes);
  return code;
}

/* The length of the id in "<id><suffix>", 0 if it is none. */
static size_t id_length(const sharearray_store *store, const char *name, const char *suffix) {
  size_t length = strlen(name), tail = strlen(suffix);
  if (length <= tail || strcmp(name + length - tail, suffix) != 0) return 0;
  return sharearray_valid_id(store->prefix, name, length - tail) ? length - tail : 0;
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Sorts the names and drops doubles. */
static int names_sort(struct names *names) {
  char **sorted = calloc(names->count + 1, sizeof *sorted), *at = names->bytes;
  struct names out = {0};
  int code = 0;
  if (!sorted) return -1;
  for (size_t i = 0; i < names->count; i++, at += strlen(at) + 1) sorted[i] = at;
  qsort(sorted, names->count, sizeof *sorted, compare);
  for (size_t i = 0; i < names->count && code == 0; i++)
    if (i == 0 || strcmp(sorted[i], sorted[i - 1]) != 0) code = names_add(&out, sorted[i], strlen(sorted[i]));
  free(sorted);
  free(code ? out.bytes : names->bytes);
  if (code == 0) *names = out;
  return code;
}

int sharearray_ids(sharearray_store *store, char **out, size_t *count, char *message) {
  struct names all, ids = {0};
  int code = names_read(store, &all, message);
  if (code) return code;
  char *name = all.bytes;
  for (size_t i = 0; i < all.count && code == 0; i++, name += strlen(name) + 1) {
    size_t length = id_length(store, name, ".npy");
    if (!length) length = id_length(store, name, ".npy.lock");
    if (length) code = names_add(&ids, name, length);
  }
  if (code == 0) code = names_sort(&ids);
  free(all.bytes);
  if (code) {
    free(ids.bytes);
    return sa_fail(message, SHAREARRAY_EIO, "out of memory");
  }
  *out = ids.bytes;
  *count = ids.count;
  return 0;
}

void sharearray_ids_delete(char *ids) { free(ids); }

/* A lock: 1 if it needs a second look. */
static int sweep_lock(sharearray_store *store, const char *id) {
  struct sa_paths paths;
  sharearray_owner owner;
  int fd;
  if (sa_names(store, id, &paths, NULL) != 0) return 0;
  int lock = sa_lock_look(store, paths.lock, &fd, &owner, NULL);
  if (lock == SA_LOCK_HELD) sa_lock_bury(store, &paths, fd);
  return lock == SA_LOCK_SUSPECT;
}

/* What a refresh left between its link and its rename. Only the lock's holder may touch it. */
static void sweep_new(sharearray_store *store, const char *id) {
  struct sa_paths paths;
  sharearray_owner owner;
  int fd;
  if (sa_names(store, id, &paths, NULL) != 0) return;
  if (sa_lock_take(store, &paths, &fd, &owner, NULL) != SA_LOCK_HELD) return;
  sa_file_bury(store, paths.fresh, NULL);
  sa_lock_release(paths.lock, fd);
}

/* A file of file.c's on a file system without O_TMPFILE, whose maker died. Of a live one the maker holds
 * a write lock. A read lock tells as much, and needs no permission to write: the file may have its final
 * mode already, or still the one it was created with. */
static void sweep_temporary(sharearray_store *store, const char *name) {
  char path[SA_PATH];
  if (snprintf(path, sizeof path, "%s%s", store->stem, name) >= SA_PATH) return;
  int fd = sa_open(path, O_RDONLY);
  if (fd < 0) return;
  struct flock range = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  if (sys.lock(fd, F_OFD_SETLK, &range) == 0) remove_name(store, path, NULL);
  sa_process_close(fd);
}

int sharearray_sweep(sharearray_store *store, char *message) {
  struct names names;
  int code = names_read(store, &names, message), pending = 0;
  if (code) return code;
  char *name = names.bytes;
  for (size_t i = 0; i < names.count; i++) {
    char *next = name + strlen(name) + 1;
    size_t lock = id_length(store, name, ".npy.lock"), fresh = id_length(store, name, ".npy.new");
    if (lock || fresh) name[lock ? lock : fresh] = '\0';
    if (lock) pending += sweep_lock(store, name);
    else if (fresh) sweep_new(store, name);
    else if (*name == '~') sweep_temporary(store, name);
    name = next;
  }
  free(names.bytes);
  return pending;
}
