/* Ids, the names made from them, and whom to trust with what stands there. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Not isalnum(): that follows the locale. */
static bool valid_character(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr("=+._-", c));
}

int sharearray_valid_id(const char *prefix, const char *id, size_t length) {
  if (length == 0 || strlen(prefix) + length + strlen(".npy.lock") > NAME_MAX) return 0;
  for (size_t i = 0; i < length; i++)
    if (!valid_character(id[i])) return 0;
  return 1;
}

int sa_names(const sharearray_store *store, const char *id, struct sa_paths *paths, char *message) {
  if (!id || !sharearray_valid_id(store->prefix, id, strlen(id)))
    return sa_fail(message, SHAREARRAY_EINVAL,
                   "invalid id '%.80s': it must match ^[A-Za-z0-9=+._-]+$ and, with the prefix '%.80s', be at most %d "
                   "characters",
                   id ? id : "", store->prefix, (int)(NAME_MAX - strlen(".npy.lock")));
  size_t stem = strlen(store->stem), length = stem + strlen(id) + strlen(".npy");
  if (length + sizeof ".lock" > SA_PATH) return sa_fail(message, SHAREARRAY_EINVAL, "the path of '%s' is too long", id);
  memcpy(paths->entry, store->stem, stem);
  memcpy(paths->entry + stem, id, length - stem - strlen(".npy"));
  memcpy(paths->entry + length - strlen(".npy"), ".npy", sizeof ".npy");
  memcpy(paths->lock, paths->entry, length);
  memcpy(paths->lock + length, ".lock", sizeof ".lock");
  memcpy(paths->fresh, paths->entry, length);
  memcpy(paths->fresh + length, ".new", sizeof ".new");
  return 0;
}

bool sa_trusted_uid(const sharearray_store *store, uint32_t uid) {
  /* In a user namespace everybody without a mapping shows as this one: nobody in particular. */
  if ((int64_t)uid == store->overflow_uid) return false;
  if (uid == store->uid || uid == geteuid() || uid == 0) return true;
  for (size_t i = 0; i < store->trusted; i++)
    if (store->trust[i] == uid) return true;
  return false;
}

int sa_check_trust(const sharearray_store *store, const struct stat *st, const char *what, const char *path,
                   char *message) {
  const char *reason = NULL;
  unsigned uid = st->st_uid;
  if (S_ISLNK(st->st_mode)) reason = "is a symbolic link";
  else if (S_ISDIR(st->st_mode)) reason = "is a directory";
  else if (!S_ISREG(st->st_mode)) reason = "is no regular file";
  else if (!sa_trusted_uid(store, uid)) reason = "belongs to a user whom the option trust does not name";
  else if (st->st_mode & S_IWOTH) reason = "can be written by everybody";
  /* A umask of 002 is common, and one's own group one's own choice. */
  else if ((st->st_mode & S_IWGRP) && uid != geteuid()) reason = "can be written by its group";
  else if (st->st_nlink > 1) reason = "has a second hard link";
  if (!reason) return 0;
  return sa_fail(message, SHAREARRAY_EUNTRUSTED,
                 "the %s %s %s (uid %u, mode %04o): left alone; remove or rename it, or "
                 "use another id, prefix or shm_path",
                 what, path, reason, uid, (unsigned)st->st_mode & 07777);
}
