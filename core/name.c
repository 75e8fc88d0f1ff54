/* Ids, and the names made from them. */
#include "internal.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

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
