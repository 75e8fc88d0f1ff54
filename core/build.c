/* A build: the lock that one process holds for one id, and the moment of publication. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void sharearray_build_delete(sharearray_build *build) {
  if (!build) return;
  sa_process_remove_build(build);
  if (build->lock >= 0) {
    sa_lock_release(build->paths.lock, build->lock);
    /* Waiters need not sleep until their next look. */
    sa_changes_bump(build->store, build->id);
  }
  sharearray_store_delete(build->store);
  free(build);
}

static int check_child(const sharearray_build *build, const sharearray_draft *draft, char *message) {
  if (!build->orphan && !draft->orphan) return 0;
  return sa_fail(message, SHAREARRAY_EUNSUPPORTED,
                 "this process was forked in the middle of the build of '%s', which belongs to its parent: a child "
                 "cannot publish it; call again to wait for the parent's",
                 build->id);
}

/* The file's mode does not stop a mapping that exists already. Memory that was lent goes on being
 * written, so it turns into a private copy at the same address. */
static int protect(sharearray_build *build, sharearray_draft *draft, char *message) {
  struct sa_map *map = draft->map;
  if (!map) return 0;
  size_t length = (size_t)map->public.length;
  bool done = map->lent ? sys.mmap(map->public.base, length, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, draft->file.fd, 0) != MAP_FAILED
                        : sys.mprotect(map->public.base, length, PROT_READ) == 0;
  if (!done) return sa_fail_errno(message, "cannot protect the memory of '%s'", build->id);
  if (!map->lent && length == draft->bytes) return 0;
  /* It was lent, or more was written behind the mapped part: what is published needs a mapping of its own. */
  map->public.array.order = '|';
  sharearray_unref(&map->public);
  draft->map = NULL;
  return 0;
}

/* Makes the draft what it will be for ever: readable only, and known by its inode. */
static int seal(sharearray_build *build, sharearray_draft *draft, char *message) {
  struct stat st;
  char reason[SHAREARRAY_MESSAGE];
  int code = 0;
  sa_huge_end(draft); /* the last mapping by which it could be written */
  if (sys.fstat(draft->file.fd, &st) != 0) return sa_fail_errno(message, "cannot examine the file of '%s'", build->id);
  code = protect(build, draft, message);
  if (code == 0 && !draft->map) code = sa_map_file(draft->file.fd, (uint64_t)st.st_size, &st, &draft->map, message);
  if (code) return code;
  struct sa_map *map = draft->map;
  map->dev = st.st_dev;
  map->ino = st.st_ino;
  if (map->public.array.order == 0) code = sa_map_read(map, reason); /* else sealed by an earlier call */
  if (code) return sa_fail(message, code, "the file of '%s' is not usable: %s", build->id, reason);
  if (build->store->disk && sys.fsync(draft->file.fd) != 0)
    return sa_fail_errno(message, "cannot write the file of '%s' to disk", build->id);
  return 0;
}

int sharearray_seal(sharearray_build *build, sharearray_draft *draft, sharearray_map **out, char *message) {
  int code = check_child(build, draft, message);
  if (code == 0) code = seal(build, draft, message);
  if (code) return code;
  sharearray_ref(&draft->map->public);
  *out = &draft->map->public;
  return 0;
}

/* Somebody may have unlinked the lock by its name, as Python's free does: take it again, and say so in
 * *anew. HELD, or LIVE and SUSPECT while another one builds. */
static int hold_lock(sharearray_build *build, bool *anew, char *message) {
  sharearray_owner owner;
  *anew = build->lock < 0 || !sa_lock_is_named(build->paths.lock, build->lock);
  if (!*anew) return SA_LOCK_HELD;
  if (build->lock >= 0) sa_process_close(build->lock);
  build->lock = -1;
  return sa_lock_take(build->store, &build->paths, &build->lock, &owner, message);
}

/* What stands under the name although we are about to take it: READY with somebody's array, or 0 and
 * build->replace if it is a dead builder's. */
static int yield_to_other(sharearray_build *build, sharearray_map **out, char *message) {
  struct stat st;
  struct sa_map *map = NULL;
  int code = sa_entry_look(build->store, build->paths.entry, &st, &map, message);
  if (code == SA_ENTRY_READY) *out = &map->public;
  if (code == SA_ENTRY_SHORT) build->replace = true;
  return code;
}

static int give_name(sharearray_build *build, sharearray_draft *draft, char *message) {
  if (build->replace)
    return sa_file_replace(build->store, &draft->file, build->paths.fresh, build->paths.entry, message);
  return sa_file_link(&draft->file, build->paths.entry, message);
}

/* The entry has its name. The waiters wake first of all, as soon as none of them can find the lock; then the
 * caller takes the draft's map over. */
static int finish(sharearray_build *build, sharearray_draft *draft, sharearray_map **out) {
  struct sa_map *map = draft->map;
  sa_changes_succeeded(build->store, build->id);
  sa_lock_unlink(build->paths.lock, build->lock);
  sa_changes_published(build->store, build->id);
  map->path = strdup(build->paths.entry);
  map->published = sa_wall_clock();
  draft->map = NULL;
  sa_process_remove_draft(draft); /* a child forked from now on shares the memory like any other */
  sa_file_close(&draft->file);
  sa_process_close(build->lock);
  build->lock = -1;
  sa_process_remove_build(build);
  *out = &map->public;
  return SHAREARRAY_READY;
}

int sharearray_publish(sharearray_build *build, sharearray_draft *draft, sharearray_map **out, char *message) {
  int code = check_child(build, draft, message);
  if (code == 0) code = seal(build, draft, message);
  if (code) return code;
  /* A short file that the build found may have been completed: its Python lost the lock by its name, but lives. */
  bool look = build->replace;
  for (int attempt = 0; attempt < 100; attempt++) {
    bool anew;
    code = hold_lock(build, &anew, message);
    if (code < 0) return code;
    if (code != SA_LOCK_HELD) return SHAREARRAY_WAIT;
    if ((anew || look) && !build->refresh) { /* another builder may have come first */
      code = yield_to_other(build, out, message);
      if (code == SA_ENTRY_READY) return SHAREARRAY_READY;
      if (code < 0) return code;
    }
    sa_changes_look(build->store); /* now, as nothing should keep the waiters waiting once the name is there */
    code = give_name(build, draft, message);
    if (code == 0) return finish(build, draft, out);
    if (code < 0) return code;
    if (build->refresh) return SHAREARRAY_WAIT; /* until the other one's rename */
    look = true;                                /* EEXIST: it may be a Python process's half-written file */
  }
  return sa_fail(message, SHAREARRAY_EIO, "%s comes and goes", build->paths.entry);
}
