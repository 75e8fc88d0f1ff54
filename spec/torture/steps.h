/* What the torture programs have a process do: builds of every kind, refreshes, frees, readers, leftovers
 * of dead builders. Everything happens to the id "x", in a directory of its own.
 *
 * A step returns what the core said: 0 or more, or the first negative code, with the text in `message`;
 * whatever it was, all that the step took is given back. What must never be said goes to `wrong`. */
#ifndef STEPS_H
#define STEPS_H

#include "calls.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ITEMS = 3000, PATIENCE = 30 /* waits */ };

static char base[64];      /* of all that this program makes */
static char directory[96]; /* shm_path */
static char message[SHAREARRAY_MESSAGE];
static const char *wrong; /* the first thing that went wrong */

static void blame(const char *why) {
  if (!wrong) wrong = why;
}

enum manner { IN_PLACE, WRITTEN, BUNDLE };

static const char *path_of(const char *name) {
  static char paths[4][192];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/t_%s", directory, name);
  return path;
}

static int open_store(sharearray_store **store) {
  sharearray_options options = {.shm_path = directory, .prefix = "t_", .mode = -1, .owner = -1};
  return sharearray_store_new(&options, store, message);
}

static void (*on_wait)(void);         /* called before each wait, if there is one, */
static void (*on_build)(bool begins); /* and while this process alone may build */

static void mark_build(bool begins) {
  if (on_build) on_build(begins);
}

/* Asks until the answer is not WAIT, or patience is over. */
static int attach(sharearray_store *store, uint32_t flags, sharearray_map **map, sharearray_build **build) {
  sharearray_ticket ticket;
  int step = SHAREARRAY_WAIT;
  for (int i = 0; i < PATIENCE && step == SHAREARRAY_WAIT; i++) {
    if (i && on_wait) on_wait();
    if (i) sharearray_wait(store, "x", &ticket, 60);
    step = sharearray_attach(store, "x", flags, &ticket, map, build, message);
  }
  if (step == SHAREARRAY_BUILD) mark_build(true);
  return step;
}

/* ---- Data: every element of an entry is its version ---- */

static int32_t version_at(const void *data, uint64_t count) {
  const int32_t *items = data;
  for (uint64_t i = 1; i < count; i++)
    if (items[i] != items[0]) blame("a partial array");
  return items[0];
}

/* The version of what is mapped; 0, and `wrong`, if it is not whole. */
static int32_t version_of(const sharearray_map *map) {
  const char *bytes = map->base;
  if (map->array.kind) return version_at(bytes + map->array.offset, map->array.nbytes / 4);
  int32_t version = 0;
  for (uint64_t i = 0; i < map->count; i++) {
    const sharearray_member *member = &map->members[i];
    if (!member->array) continue;
    uint32_t crc = 0;
    int code = sharearray_crc32(bytes + member->offset, member->size, &crc, message);
    if (code || crc != member->crc) blame("a checksum does not match");
    int32_t its = version_at(bytes + member->offset + member->array->offset, member->array->nbytes / 4);
    if (version && its != version) blame("two versions in one bundle");
    version = its;
  }
  if (version == 0) blame("an empty bundle");
  return version;
}

static char content[128 + 4 * ITEMS]; /* an .npy file of the version that is built */

static uint64_t make_content(int32_t version) {
  uint64_t shape[1] = {ITEMS};
  int length = sharearray_npy_write("<i4", 1, shape, content, sizeof content);
  for (int i = 0; i < ITEMS; i++) memcpy(content + length + 4 * i, &version, 4);
  return (uint64_t)length + 4 * ITEMS;
}

static int fill_in_place(sharearray_draft *draft, uint64_t size) {
  sharearray_map *map;
  int more = 1;
  while (more > 0) more = sharearray_draft_reserve(draft, 8000, message);
  if (more == 0) more = sharearray_draft_map(draft, &map, message);
  if (more < 0) return more;
  memcpy(map->base, content, size / 2); /* a reader may look now */
  memcpy((char *)map->base + size / 2, content + size / 2, size - size / 2);
  sharearray_unref(map);
  return 0;
}

static int write_in_pieces(sharearray_draft *draft, uint64_t size) {
  int code = 0;
  for (uint64_t at = 0; code == 0 && at < size; at += 5000)
    code = sharearray_draft_write(draft, content + at, size - at < 5000 ? size - at : 5000, message);
  int64_t version = 0;
  return code ? code : sharearray_draft_version(draft, &version, message);
}

static int write_bundle(sharearray_draft *draft, uint64_t size, sharearray_member *members, uint64_t total) {
  static char frame[4096];
  int code = 0;
  uint64_t from = 0;
  for (uint64_t i = 0; i <= 2 && code == 0; i++) {
    uint64_t length = (i < 2 ? members[i].offset : total) - from;
    sharearray_npz_frame(members, 2, i, frame);
    code = sharearray_draft_write(draft, frame, length, message);
    if (code == 0 && i < 2) code = sharearray_draft_write(draft, content, size, message);
    if (i < 2) from = members[i].offset + members[i].size;
  }
  return code;
}

static int make_draft(sharearray_store *store, enum manner manner, int32_t version, sharearray_draft **draft) {
  uint64_t size = make_content(version), total = size;
  sharearray_member members[2] = {{.name = "a.npy", .name_length = 5, .size = size},
                                  {.name = "b.npy", .name_length = 5, .size = size}};
  int code = sharearray_crc32(content, size, &members[0].crc, message);
  members[1].crc = members[0].crc;
  if (code == 0 && manner == BUNDLE) code = sharearray_npz_plan(members, 2, &total, message);
  if (code == 0) code = sharearray_draft_new(store, total, draft, message);
  if (code) return code;
  if (manner == IN_PLACE) code = fill_in_place(*draft, size);
  else code = manner == BUNDLE ? write_bundle(*draft, size, members, total) : write_in_pieces(*draft, size);
  if (code == 0) return 0;
  sharearray_draft_delete(*draft);
  return code;
}

static void give_up(sharearray_build *build) {
  mark_build(false);
  sharearray_build_delete(build);
}

/* Publishes the draft; both are used up. Looks at what came of it. */
static int publish(sharearray_store *store, sharearray_build *build, sharearray_draft *draft) {
  sharearray_map *map = NULL;
  sharearray_ticket ticket = {.recheck = 20};
  int step = SHAREARRAY_WAIT;
  mark_build(false);
  for (int i = 0; i < PATIENCE && step == SHAREARRAY_WAIT; i++) {
    if (i) sharearray_wait(store, "x", &ticket, 60);
    ticket.seen = sharearray_changes_of(store, "x");
    step = sharearray_publish(build, draft, &map, message);
  }
  if (step == SHAREARRAY_READY) version_of(map);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  return step;
}

/* cache(), refresh() with REFRESH, get() with GET; *version is what is there then. */
static int obtain(sharearray_store *store, uint32_t flags, enum manner manner, int32_t *version) {
  sharearray_map *map = NULL;
  sharearray_build *build = NULL;
  sharearray_draft *draft = NULL;
  int step = attach(store, flags, &map, &build);
  if (step == SHAREARRAY_READY) {
    *version = version_of(map);
    sharearray_unref(map);
  }
  if (step != SHAREARRAY_BUILD) return step;
  step = make_draft(store, manner, *version, &draft);
  if (step == 0) return publish(store, build, draft);
  give_up(build);
  return step;
}

/* ---- Steps ---- */

enum { OLD = 11, NEW = 22, IMPORTED = 7, SPARE = 33 }; /* versions */

static int cache_as(sharearray_store *store, enum manner manner) {
  int32_t version = NEW;
  return obtain(store, 0, manner, &version);
}

static int build_in_place(sharearray_store *store) { return cache_as(store, IN_PLACE); }
static int build_written(sharearray_store *store) { return cache_as(store, WRITTEN); }
static int build_bundle(sharearray_store *store) { return cache_as(store, BUNDLE); }

static int refresh(sharearray_store *store) {
  int32_t version = NEW;
  return obtain(store, SHAREARRAY_REFRESH, IN_PLACE, &version);
}

static int get_entry(sharearray_store *store) {
  int32_t version = 0;
  return obtain(store, SHAREARRAY_GET, IN_PLACE, &version);
}

static int free_entry(sharearray_store *store) { return sharearray_remove(store, "x", message); }

/* As root does for its workers; here for itself. */
static int build_given_away(sharearray_store *unused) {
  sharearray_options options = {.shm_path = directory, .prefix = "t_", .mode = 0440, .owner = geteuid()};
  sharearray_store *store = NULL;
  (void)unused;
  int code = sharearray_store_new(&options, &store, message);
  if (code == 0) code = build_in_place(store);
  sharearray_store_delete(store);
  return code;
}

/* Python's free takes the lock away in the middle of a build. */
static int build_without_lock(sharearray_store *store) {
  sharearray_build *build = NULL;
  sharearray_draft *draft = NULL;
  sharearray_map *map = NULL;
  int code = attach(store, 0, &map, &build);
  sharearray_unref(map);
  if (code != SHAREARRAY_BUILD) return code;
  mark_build(false);
  unlink(path_of("x.npy.lock"));
  code = make_draft(store, WRITTEN, NEW, &draft);
  if (code == 0) return publish(store, build, draft);
  give_up(build);
  return code;
}

static bool listed; /* whether list() found the entry: ready, or with a reason why not */

/* What the Lua function of this name does, among `leftovers`. */
static int list(sharearray_store *store) {
  char *ids = NULL;
  size_t count = 0;
  sharearray_info info = {.state = -1};
  int code = sharearray_sweep(store, message);
  if (code == 0) code = sharearray_ids(store, &ids, &count, message);
  if (code) return code;
  bool first = count > 0 && strcmp(ids, "x") == 0;
  sharearray_ids_delete(ids);
  code = sharearray_stat(store, "x", &info, message);
  listed = first && (info.state == SHAREARRAY_STATE_READY || *info.reason);
  return code;
}

/* A tensor over the entry, which it writes to. */
static int lend(sharearray_store *store) {
  sharearray_map *map = NULL, *lent = NULL;
  void *bytes;
  int code = attach(store, SHAREARRAY_GET, &map, NULL);
  if (code) return code;
  sharearray_current(store, "x", map);
  int32_t version = version_of(map);
  code = sharearray_lend(map, map->array.offset, map->array.nbytes, &lent, &bytes, message);
  if (code == 0) {
    if (version_at(bytes, map->array.nbytes / 4) != version) blame("a tensor of something else");
    memset(bytes, 0, map->array.nbytes);
    if (version_of(map) != version) blame("a tensor that writes to the entry");
    sharearray_unref(lent);
  }
  sharearray_unref(map);
  return code;
}

static int import_from(sharearray_store *store, const char *source) {
  char path[128];
  sharearray_build *build = NULL;
  sharearray_draft *draft = NULL;
  sharearray_import *import = NULL;
  sharearray_map *map = NULL;
  int code = attach(store, 0, &map, &build);
  sharearray_unref(map);
  if (code != SHAREARRAY_BUILD) return code;
  snprintf(path, sizeof path, "%s/%s", base, source);
  code = sharearray_import_new(path, "sharearray.json", &import, message);
  if (code == 0) code = sharearray_import_draft(import, store, &draft, message);
  for (int more = 1; code == 0 && more;) {
    more = sharearray_import_step(import, draft, 4096, message);
    if (more < 0) code = more;
  }
  sharearray_import_delete(import);
  if (code == 0) return publish(store, build, draft);
  sharearray_draft_delete(draft);
  give_up(build);
  return code;
}

static int import_plain(sharearray_store *store) { return import_from(store, "plain.npy"); }
static int import_fortran(sharearray_store *store) { return import_from(store, "fortran.npy"); }
static int import_stored(sharearray_store *store) { return import_from(store, "stored.npz"); }
static int import_deflated(sharearray_store *store) { return import_from(store, "deflated.npz"); }

/* ---- What stands there before ---- */

static void put_file(const char *name, const void *bytes, size_t size, mode_t mode) {
  int fd = open(path_of(name), O_CREAT | O_EXCL | O_WRONLY, mode);
  if (fd < 0 || write(fd, bytes, size) != (ssize_t)size || fchmod(fd, mode) || close(fd))
    blame("could not prepare a file");
}

static void nothing(void) {}

static void entry(void) { put_file("x.npy", content, make_content(OLD), 0444); }

static void dead_lock(void) {
  static const char line[] = "pid=1 attempt=1 since=1 died=0 program=torture\n";
  put_file("x.npy.lock", line, strlen(line), 0600);
  put_file("x.npy.new", content, make_content(NEW) / 2, 0444);
}

static void entry_beside_dead_lock(void) {
  entry();
  dead_lock();
}

static void partial_entry(void) { put_file("x.npy", content, make_content(OLD) / 2, 0644); }

static void python_lock(void) { put_file("x.npy.lock", "", 0, 0755); }

static void bundle_entry(void) {
  sharearray_store *store = NULL;
  int32_t version = OLD;
  if (open_store(&store) || obtain(store, 0, BUNDLE, &version)) blame("could not prepare a bundle");
  sharearray_store_delete(store);
}

static void leftovers(void) {
  entry_beside_dead_lock();
  put_file("z.npy.new", content, 1000, 0444);
  put_file("~1.1", content, 1000, 0444);
}

struct step {
  const char *name;
  void (*prepare)(void);
  int (*act)(sharearray_store *store);
  int32_t version; /* that must stand there after a success; 0: none may */
};

static const struct step steps[] = {
    {"build in place", nothing, build_in_place, NEW},
    {"build by write", nothing, build_written, NEW},
    {"build of a bundle", nothing, build_bundle, NEW},
    {"build after a killed builder", dead_lock, build_in_place, NEW},
    {"build over a partial file", partial_entry, build_written, NEW},
    {"build beside a dead Python's lock", python_lock, build_in_place, NEW},
    {"build that lost its lock", nothing, build_without_lock, NEW},
    {"build with an owner and a mode", nothing, build_given_away, NEW},
    {"refresh", entry, refresh, NEW},
    {"free", entry, free_entry, 0},
    {"free beside a dead lock", entry_beside_dead_lock, free_entry, 0},
    {"attach", entry, build_in_place, OLD},
    {"attach beside a dead lock", entry_beside_dead_lock, build_in_place, OLD},
    {"attach of a bundle", bundle_entry, build_in_place, OLD},
    {"get", entry, get_entry, OLD},
    {"get of nothing", nothing, get_entry, 0},
    {"list among leftovers", leftovers, list, OLD},
    {"lend", entry, lend, OLD},
    {"import of .npy", nothing, import_plain, IMPORTED},
    {"import in Fortran order", nothing, import_fortran, IMPORTED},
    {"import of .npz", nothing, import_stored, IMPORTED},
    {"import of compressed .npz", nothing, import_deflated, IMPORTED},
};
enum { STEPS = sizeof steps / sizeof *steps };

/* The whole of it, from the opening of the store. */
static int run_step(const struct step *step) {
  sharearray_store *store = NULL;
  int code = open_store(&store);
  if (code == 0) code = step->act(store);
  sharearray_store_delete(store);
  return code;
}

/* ---- Around it ---- */

/* The name in the directory that is neither the entry's nor the counter page's; NULL for none. */
static const char *find_leftover(void) {
  static char name[256];
  char page[32];
  const char *found = NULL;
  snprintf(page, sizeof page, "t_.changes.%u", geteuid());
  DIR *open = opendir(directory);
  for (struct dirent *at; open && !found && (at = readdir(open));)
    if (*at->d_name != '.' && strcmp(at->d_name, "t_x.npy") != 0 && strcmp(at->d_name, page) != 0)
      found = strcpy(name, at->d_name);
  closedir(open);
  return found;
}

static void blame_leftover(void) {
  static char text[300];
  const char *name = find_leftover();
  if (!name) return;
  snprintf(text, sizeof text, "%s is left behind", name);
  blame(text);
}

/* Removes all that is in the directory. */
static void clear(void) {
  DIR *open = opendir(directory);
  for (struct dirent *at; open && (at = readdir(open));)
    if (*at->d_name != '.') unlinkat(dirfd(open), at->d_name, 0);
  closedir(open);
}

/* What this process holds. The core's memory: `regions`, and in fail.c the allocations too. */
struct holdings {
  int descriptors, mappings;
  long regions;
};

static struct holdings holdings_now(void) {
  struct holdings now = {.regions = regions};
  char line[512];
  DIR *open = opendir("/proc/self/fd");
  while (open && readdir(open)) now.descriptors++;
  closedir(open);
  FILE *maps = fopen("/proc/self/maps", "re");
  while (maps && fgets(line, sizeof line, maps)) now.mappings += strstr(line, base) != NULL;
  if (maps) fclose(maps);
  return now;
}

static void compare_holdings(const struct holdings *before, const struct holdings *now) {
  if (now->descriptors != before->descriptors) blame("a descriptor leaks");
  if (now->mappings != before->mappings || now->regions != before->regions) blame("a mapping leaks");
}

/* A directory under /dev/shm, with the files that imports are tried with. */
static void make_base(void) {
  char script[256];
  snprintf(base, sizeof base, "/dev/shm/sharearray_torture.XXXXXX");
  if (!mkdtemp(base) || chmod(base, 0755) != 0) exit(1);
  snprintf(directory, sizeof directory, "%s/shm", base);
  snprintf(script, sizeof script, "/usr/bin/python3 spec/torture/numpy_peer.py sources %s", base);
  if (mkdir(directory, 0755) != 0 || system(script) != 0) exit(1);
}

static void remove_base(void) {
  char script[128];
  snprintf(script, sizeof script, "rm -rf %s", base);
  if (system(script) != 0) printf("# %s is left\n", base);
}

#endif
