/* Refusals that a sound program on a sound machine never meets: wrong arguments, a strange kernel,
 * another user's leftovers, a user namespace. */
#include "../../core/internal.h"
#include "../../core/sys.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64];
static char message[SHAREARRAY_MESSAGE];
static sharearray_store *store;
static sharearray_ticket ticket;

enum { STRANGER = 12345 };

static char *path_of(const char *name) {
  static char paths[4][256];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/t_%s", directory, name);
  return path;
}

static int open_store(sharearray_options options, sharearray_store **opened) {
  if (!options.shm_path) options.shm_path = directory;
  options.prefix = "t_";
  return sharearray_store_new(&options, opened, message);
}

static int attach(const char *id, uint32_t flags, sharearray_map **map, sharearray_build **build) {
  return sharearray_attach(store, id, flags, &ticket, map, build, message);
}

static uint64_t make_file(char *bytes) {
  uint64_t shape[1] = {1};
  int length = sharearray_npy_write("<i4", 1, shape, bytes, 4096);
  memcpy(bytes + length, "\7\0\0\0", 4);
  return (uint64_t)length + 4;
}

static void put_file(const char *name) {
  char bytes[4096];
  size_t size = make_file(bytes);
  int fd = open(path_of(name), O_CREAT | O_EXCL | O_WRONLY, 0644);
  CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && close(fd) == 0);
}

static sharearray_draft *make_draft(bool in_place) {
  char bytes[4096];
  uint64_t size = make_file(bytes);
  sharearray_draft *draft = NULL;
  sharearray_map *map = NULL;
  CHECK(sharearray_draft_new(store, size, &draft, message) == 0);
  if (!in_place) {
    CHECK(sharearray_draft_write(draft, bytes, size, message) == 0);
    return draft;
  }
  CHECK(sharearray_draft_reserve(draft, size, message) == 0 && sharearray_draft_map(draft, &map, message) == 0);
  memcpy(map->base, bytes, size);
  sharearray_unref(map);
  return draft;
}

/* ---- Wrong arguments ---- */

static void options_are_checked(void) {
  static char long_path[SA_PATH + 8];
  sharearray_store *none = NULL;
  memset(long_path, '/', sizeof long_path - 1); /* the root directory */
  long_path[SA_PATH - 100] = '\0';
  sharearray_options no_owner = {.mode = -1, .owner = -1};
  sharearray_options options = no_owner;
  options.shm_path = "/etc/passwd";
  CHECK(open_store(options, &none) == SHAREARRAY_EIO && strstr(message, "no directory"));
  options.shm_path = long_path;
  CHECK(open_store(options, &none) == SHAREARRAY_EINVAL && strstr(message, "too long"));
  options = no_owner;
  options.owner = INT64_C(1) << 32;
  CHECK(open_store(options, &none) == SHAREARRAY_EINVAL && strstr(message, "invalid owner"));
  options = no_owner;
  options.mode = 0666;
  CHECK(open_store(options, &none) == SHAREARRAY_EINVAL && strstr(message, "invalid mode"));
  CHECK(!none && strcmp(sharearray_code(SHAREARRAY_EINVAL), "argument") == 0);
}

static void a_state_has_its_reason(void) {
  char bytes[4096], *order;
  sharearray_info info;
  size_t size = make_file(bytes);
  for (order = bytes + 10; *order != '<';) order++;
  *order = '>';
  int fd = open(path_of("s.npy"), O_CREAT | O_EXCL | O_WRONLY, 0644);
  CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && close(fd) == 0);
  CHECK(sharearray_stat(store, "s", &info, message) == 0 && info.state == SHAREARRAY_STATE_UNSUPPORTED);
  CHECK(strstr(info.reason, "big-endian"));
  unlink(path_of("s.npy"));
}

static void members_are_checked(void) {
  uint64_t bytes;
  sharearray_member unnamed = {.name = "", .size = 1}, huge = {.name = "a", .name_length = 1, .size = INT64_MAX};
  CHECK(sharearray_npz_plan(&unnamed, 1, &bytes, message) == SHAREARRAY_EINVAL && strstr(message, "name"));
  CHECK(sharearray_npz_plan(&huge, 1, &bytes, message) == SHAREARRAY_EINVAL && strstr(message, "too large"));
}

static void no_more_is_lent_than_there_is(void) {
  sharearray_map *map = NULL, *lent = NULL;
  void *bytes;
  CHECK(sharearray_private(64, &map, message) == 0);
  CHECK(sharearray_lend(map, 65, 0, &lent, &bytes, message) == SHAREARRAY_EINVAL);
  CHECK(sharearray_lend(map, 60, 5, &lent, &bytes, message) == SHAREARRAY_EINVAL && !lent);
  sharearray_unref(map);
}

static void a_draft_larger_than_the_machine_is_refused_at_once(void) {
  sharearray_draft *draft = NULL;
  CHECK(sharearray_draft_new(store, INT64_MAX, &draft, message) == SHAREARRAY_ENOSPACE && !draft);
  CHECK(strstr(message, "9223372036854775807 bytes needed"));
}

/* ---- A strange kernel ---- */

static int fstat_of_a_removed_file(int fd, struct stat *st) {
  int result = fstat(fd, st);
  st->st_nlink = 0;
  return result;
}

static void an_entry_that_comes_and_goes_for_ever_is_given_up(void) {
  struct sa_sys kept = sys;
  sharearray_map *map = NULL;
  put_file("c.npy");
  sys.fstat = fstat_of_a_removed_file;
  CHECK(attach("c", SHAREARRAY_GET, &map, NULL) == SHAREARRAY_EIO && strstr(message, "faster than"));
  sys = kept;
  unlink(path_of("c.npy"));
}

static int lstat_of_another_file(const char *path, struct stat *st) {
  int result = lstat(path, st);
  st->st_ino++;
  return result;
}

static void a_lock_that_changes_for_ever_counts_as_alive(void) {
  struct sa_sys kept = sys;
  sharearray_build *build = NULL;
  int fd = open(path_of("m.npy.lock"), O_CREAT | O_EXCL | O_WRONLY, 0600);
  CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
  sys.lstat = lstat_of_another_file;
  CHECK(attach("m", 0, NULL, &build) == SHAREARRAY_WAIT);
  sys = kept;
  CHECK(attach("m", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_build_delete(build);
}

/* Names that are taken, and free when one looks: a link that always fails. */
static int linkat_of_a_taken_name(int from, const char *old, int to, const char *name, int flags) {
  if (!strstr(name, ".npy")) return linkat(from, old, to, name, flags);
  errno = EEXIST;
  return -1;
}

static void a_name_that_is_taken_and_free_for_ever_is_given_up(void) {
  struct sa_sys kept = sys;
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("n", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_draft *draft = make_draft(false);
  sys.linkat = linkat_of_a_taken_name;
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_EIO && strstr(message, "comes and goes"));
  sys = kept;
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  sharearray_remove(store, "n", NULL);
}

static ssize_t pread_of_a_bad_disk(int fd, void *bytes, size_t size, off_t offset) {
  if (size <= 1024) return pread(fd, bytes, size, offset);
  errno = EIO;
  return -1;
}

/* The first read holds no more than a part of its header. */
static void an_entry_that_cannot_be_read_to_the_end_is_no_killed_builders(void) {
  struct sa_sys kept = sys;
  sharearray_map *map = NULL;
  char bytes[4096], descr[2048] = "[('a', '<i4')";
  for (int i = 0; i < 100; i++) sprintf(descr + strlen(descr), ", ('b%d', '<i4')", i);
  strcat(descr, "]");
  uint64_t shape[1] = {1};
  int length = sharearray_npy_write(descr, 1, shape, bytes, sizeof bytes);
  int fd = open(path_of("l.npy"), O_CREAT | O_EXCL | O_WRONLY, 0644);
  CHECK(length > 1024 && write(fd, bytes, sizeof bytes) == sizeof bytes && close(fd) == 0);
  sys.pread = pread_of_a_bad_disk;
  CHECK(attach("l", SHAREARRAY_GET, &map, NULL) == SHAREARRAY_EIO && strstr(message, "cannot read"));
  sys = kept;
  CHECK(attach("l", SHAREARRAY_GET, &map, NULL) == SHAREARRAY_READY);
  sharearray_unref(map);
  unlink(path_of("l.npy"));
}

static ssize_t pwrite_of_nothing(int fd, const void *bytes, size_t size, off_t offset) {
  (void)fd, (void)bytes, (void)size, (void)offset;
  return 0;
}

static void a_write_that_gets_nowhere_is_given_up(void) {
  struct sa_sys kept = sys;
  sharearray_draft *draft = NULL;
  CHECK(sharearray_draft_new(store, 10, &draft, message) == 0);
  sys.pwrite = pwrite_of_nothing;
  CHECK(sharearray_draft_write(draft, "0123456789", 10, message) == SHAREARRAY_EIO);
  sys = kept;
  sharearray_draft_delete(draft);
}

/* ---- Memory that was lent ---- */

static void memory_that_was_lent_is_not_what_is_published(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL, *lent = NULL;
  const struct {
    void *(*malloc)(void *, ptrdiff_t);
    void *(*realloc)(void *, void *, ptrdiff_t);
    void (*free)(void *, void *);
  } *allocator = sharearray_torch_allocator();
  void *bytes;
  CHECK(attach("l", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_draft *draft = make_draft(true);
  sharearray_map *memory = &draft->map->public;
  CHECK(sharearray_lend(memory, memory->length - 4, 4, &lent, &bytes, message) == 0 && lent == memory);
  *(char *)bytes = 8;
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && map != lent);
  *(char *)bytes = 9; /* a copy from now on */
  CHECK(((char *)map->base)[map->length - 4] == 8 && ((char *)lent->base)[lent->length - 4] == 9);
  allocator->free(lent, bytes);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  sharearray_remove(store, "l", NULL);
}

/* ---- Others ---- */

/* What `act` returns in a child. */
static int in_child(int (*act)(void)) {
  int status = -1;
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) exit(act()); /* not _exit(): counts of coverage are written */
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static sharearray_draft *parents_draft;

static int use_parents_draft(void) {
  sharearray_map *map;
  return sharearray_draft_reserve(parents_draft, 1, message) == SHAREARRAY_EUNSUPPORTED &&
         sharearray_draft_map(parents_draft, &map, message) == SHAREARRAY_EUNSUPPORTED &&
         sharearray_draft_write(parents_draft, "", 1, message) == SHAREARRAY_EUNSUPPORTED;
}

static void *mmap_without_memory(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
  (void)address, (void)length, (void)protection, (void)flags, (void)fd, (void)offset;
  errno = ENOMEM;
  return MAP_FAILED;
}

static void a_child_cannot_fill_its_parents_draft(void) {
  struct sa_sys kept = sys;
  parents_draft = make_draft(true);
  CHECK(in_child(use_parents_draft) == 1);
  sys.mmap = mmap_without_memory; /* not even a copy of it */
  CHECK(in_child(use_parents_draft) == 1);
  sys = kept;
  sharearray_draft_delete(parents_draft);
}

/* Everybody is nobody there: the files of one's own too, since nobody is mapped. */
static int look_from_a_user_namespace(void) {
  sharearray_options options = {.mode = -1, .owner = -1};
  sharearray_store *inside = NULL;
  sharearray_map *map = NULL;
  if (unshare(CLONE_NEWUSER) != 0) return 77;
  if (open_store(options, &inside) != 0) return 2;
  int code = sharearray_attach(inside, "u", SHAREARRAY_GET, &ticket, &map, NULL, message);
  bool own_page = inside->page_ino != 0;
  sharearray_store_delete(inside);
  return code == SHAREARRAY_EUNTRUSTED && !own_page ? 1 : 3;
}

static void nobody_is_trusted_in_a_user_namespace(void) {
  put_file("u.npy");
  int result = in_child(look_from_a_user_namespace);
  CHECK(result == 1 || result == 77); /* 77: this kernel lets nobody make one */
  unlink(path_of("u.npy"));
}

static int (*open_plainly)(const char *path, int flags, mode_t mode);
static int map_reads;

static int count_map_reads(const char *path, int flags, mode_t mode) {
  map_reads += strstr(path, "uid_map") != NULL;
  return open_plainly(path, flags, mode);
}

/* The uid that stands for nobody in other namespaces is a user's in the first one: nginx's workers often have it. */
static int look_as_nobody(void) {
  enum { NOBODY = 65534 };
  sharearray_options options = {.mode = -1, .owner = -1};
  sharearray_store *nobodys = NULL;
  sharearray_map *map = NULL;
  open_plainly = sys.open;
  sys.open = count_map_reads;
  if (attach("n", SHAREARRAY_GET, &map, NULL) != SHAREARRAY_READY) return 2;
  sharearray_unref(map);
  if (map_reads != 0) return 3; /* root's file says nothing of namespaces */
  if (chown(path_of("n.npy"), NOBODY, NOBODY) != 0 || seteuid(NOBODY) != 0) return 77;
  if (open_store(options, &nobodys) != 0) return 4;
  for (int i = 0; i < 3; i++) {
    if (sharearray_attach(nobodys, "n", SHAREARRAY_GET, &ticket, &map, NULL, message) != SHAREARRAY_READY) return 5;
    sharearray_unref(map);
  }
  sharearray_store_delete(nobodys);
  return map_reads == 1 ? 1 : 6;
}

static void nobody_is_a_user_of_the_initial_namespace(void) {
  put_file("n.npy");
  int result = in_child(look_as_nobody);
  CHECK(result == 1 || (result == 77 && geteuid() != 0));
  unlink(path_of("n.npy"));
}

static int look_as_another_user(void) {
  sharearray_map *map = NULL;
  if (seteuid(STRANGER) != 0) return 77;
  int code = attach("w", SHAREARRAY_GET, &map, NULL);
  bool moved = sharearray_current(store, "w", map) == 1 && store->uid == STRANGER && store->page_ino == 0;
  sharearray_unref(map);
  return seteuid(0) == 0 && code == SHAREARRAY_READY && moved ? 1 : 2;
}

/* As a server's worker does. It writes to no page of its parent's user. */
static void a_worker_goes_on_as_another_user(void) {
  put_file("w.npy");
  int result = in_child(look_as_another_user);
  CHECK(result == 1 || (result == 77 && geteuid() != 0));
  unlink(path_of("w.npy"));
}

static void a_strangers_leftover_is_known_before_the_work(void) {
  sharearray_build *build = NULL;
  if (geteuid() != 0) return;
  put_file("f.npy.new");
  CHECK(chown(path_of("f.npy.new"), STRANGER, STRANGER) == 0);
  CHECK(attach("f", SHAREARRAY_REFRESH, NULL, &build) == SHAREARRAY_EUNTRUSTED && strstr(message, ".npy.new"));
  CHECK(access(path_of("f.npy.lock"), F_OK) != 0);
  unlink(path_of("f.npy.new"));
}

static void who_is_named_is_trusted(void) {
  const uint32_t trust[] = {1, STRANGER};
  sharearray_options options = {.mode = -1, .owner = -1, .trust = trust, .trusted = 2};
  sharearray_store *trusting = NULL;
  sharearray_map *map = NULL;
  if (geteuid() != 0) return;
  put_file("t.npy");
  CHECK(chown(path_of("t.npy"), STRANGER, STRANGER) == 0);
  CHECK(attach("t", SHAREARRAY_GET, &map, NULL) == SHAREARRAY_EUNTRUSTED);
  CHECK(open_store(options, &trusting) == 0);
  CHECK(sharearray_attach(trusting, "t", SHAREARRAY_GET, &ticket, &map, NULL, message) == SHAREARRAY_READY);
  sharearray_unref(map);
  sharearray_store_delete(trusting);
  unlink(path_of("t.npy"));
}

int main(void) {
  char name[64];
  sharearray_options options = {.mode = -1, .owner = -1};
  snprintf(directory, sizeof directory, "/dev/shm/core_test.XXXXXX");
  if (!mkdtemp(directory) || chmod(directory, 0755) != 0) return perror(directory), 1;
  umask(022);
  if (open_store(options, &store) != 0) return puts(message), 1;
  RUN(options_are_checked);
  RUN(members_are_checked);
  RUN(a_state_has_its_reason);
  RUN(no_more_is_lent_than_there_is);
  RUN(a_draft_larger_than_the_machine_is_refused_at_once);
  RUN(an_entry_that_comes_and_goes_for_ever_is_given_up);
  RUN(a_lock_that_changes_for_ever_counts_as_alive);
  RUN(a_name_that_is_taken_and_free_for_ever_is_given_up);
  RUN(an_entry_that_cannot_be_read_to_the_end_is_no_killed_builders);
  RUN(a_write_that_gets_nowhere_is_given_up);
  RUN(memory_that_was_lent_is_not_what_is_published);
  RUN(a_child_cannot_fill_its_parents_draft);
  RUN(nobody_is_trusted_in_a_user_namespace);
  RUN(nobody_is_a_user_of_the_initial_namespace);
  RUN(a_worker_goes_on_as_another_user);
  RUN(a_strangers_leftover_is_known_before_the_work);
  RUN(who_is_named_is_trusted);
  sharearray_store_delete(store);
  snprintf(name, sizeof name, ".changes.%u", geteuid());
  unlink(path_of(name));
  if (rmdir(directory) != 0) {
    printf("not ok nothing_is_left: %s is not empty\n", directory);
    harness_failures++;
  }
  FINISH();
}
