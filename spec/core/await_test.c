/* sharearray_await(): what a waiter is given, and the view that is filled in for it. */
#include "../../core/internal.h"
#include "../../core/sys.h"
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/dev/shm/core_test.XXXXXX";
static char message[SHAREARRAY_MESSAGE];
static sharearray_store *store;
static sharearray_ticket ticket;
static const uint8_t sealed = 1;

/* As the LuaJIT binding lays out rows of int32. */
struct view {
  const void *map;
  const uint8_t *sealed;
  uint64_t lent;
  const int32_t *elements;
  uint64_t b0;
  int32_t count, n0;
};

static struct view other, row;
static const sharearray_blank blanks[2] = {{&other, 'f' << 24 | 8 << 16 | 1 << 8, 0},
                                           {&row, 'i' << 24 | 4 << 16 | 1 << 8, 0}};

/* A child that builds `id` and publishes {7, 8}, or a bundle of nothing, when it is told to. */
struct builder {
  pid_t child;
  int told;
};

static void publish(sharearray_build *build, bool bundle) {
  char bytes[256];
  uint64_t shape[1] = {2}, size = 22;
  int32_t values[2] = {7, 8};
  sharearray_draft *draft;
  sharearray_map *map;
  if (bundle) sharearray_npz_frame(NULL, 0, 0, bytes);
  else size = (uint64_t)sharearray_npy_write("<i4", 1, shape, bytes, sizeof bytes);
  if (!bundle) memcpy(bytes + size, values, sizeof values);
  size += bundle ? 0 : sizeof values;
  if (sharearray_draft_new(store, size, &draft, message) || sharearray_draft_write(draft, bytes, size, message))
    _exit(2);
  if (sharearray_publish(build, draft, &map, message) != SHAREARRAY_READY) _exit(3);
  sharearray_draft_delete(draft);
  sharearray_unref(map);
}

static struct builder start_builder(const char *id, bool bundle) {
  sharearray_build *build;
  int ready[2], told[2];
  char byte;
  CHECK(pipe(ready) == 0 && pipe(told) == 0);
  pid_t child = fork();
  if (child == 0) {
    if (sharearray_attach(store, id, 0, &ticket, NULL, &build, message) != SHAREARRAY_BUILD) _exit(1);
    if (write(ready[1], "", 1) != 1 || read(told[0], &byte, 1) != 1) _exit(1);
    publish(build, bundle);
    sharearray_build_delete(build);
    _exit(0);
  }
  close(ready[1]);
  CHECK(read(ready[0], &byte, 1) == 1);
  close(ready[0]);
  close(told[0]);
  return (struct builder){child, told[1]};
}

static void tell(struct builder builder) {
  int status = -1;
  CHECK(write(builder.told, "", 1) == 1);
  waitpid(builder.child, &status, 0);
  CHECK(status == 0);
  close(builder.told);
}

/* Waits for `id` from before its builder publishes; what is there at last. */
static int await(const char *id, bool bundle, uint32_t count, sharearray_map **map) {
  sharearray_build *build;
  struct builder builder = start_builder(id, bundle);
  CHECK(sharearray_attach(store, id, 0, &ticket, map, &build, message) == SHAREARRAY_WAIT);
  CHECK(sharearray_await(store, id, 0, &ticket, 0.01, blanks, count, &sealed, map, message) == SHAREARRAY_WAIT);
  CHECK(sharearray_await(store, id, 0, &ticket, 0, blanks, count, &sealed, map, message) == SHAREARRAY_WAIT);
  tell(builder);
  return sharearray_await(store, id, 0, &ticket, 60, blanks, count, &sealed, map, message);
}

static void fills_the_blank_of_the_layout(void) {
  sharearray_map *map = NULL;
  memset(&other, 0, sizeof other);
  CHECK(await("filled", false, 2, &map) == SHAREARRAY_FILLED + 1);
  CHECK(row.map == map && row.sealed == &sealed && row.lent == 0 && row.b0 == 2 && row.count == 2 && row.n0 == 2);
  CHECK(row.elements[0] == 7 && row.elements[1] == 8);
  CHECK(other.map == NULL && other.elements == NULL);
  CHECK(((struct sa_map *)map)->references == 1); /* the view's */
  sharearray_release(&row, sizeof row);
  CHECK(row.map == NULL && row.count == 0);
}

static void fills_nothing_of_another_layout(void) {
  sharearray_map *map = NULL;
  const char *const ids[3] = {"none", "others", "bundle"};
  for (uint32_t i = 0; i < 3; i++) {
    memset(&row, 0, sizeof row);
    CHECK(await(ids[i], i == 2, i, &map) == SHAREARRAY_READY);
    CHECK(row.map == NULL && other.map == NULL && ((struct sa_map *)map)->references == 1);
    CHECK((ticket.layout == 0) == (i == 2));
    sharearray_unref(map);
  }
}

/* It is left to sharearray_attach(), for a caller whom a signal ends in between. */
static void takes_no_build(void) {
  sharearray_map *map = NULL;
  sharearray_build *build = NULL;
  struct builder builder = start_builder("killed", false);
  CHECK(sharearray_attach(store, "killed", 0, &ticket, &map, &build, message) == SHAREARRAY_WAIT);
  kill(builder.child, SIGKILL);
  waitpid(builder.child, NULL, 0);
  close(builder.told);
  CHECK(sharearray_await(store, "killed", 0, &ticket, 60, blanks, 2, &sealed, &map, message) == SHAREARRAY_WAIT);
  CHECK(sharearray_attach(store, "killed", 0, &ticket, &map, &build, message) == SHAREARRAY_BUILD && map == NULL);
  sharearray_build_delete(build);
}

/* Without a look at the lock -------------------------------------------------------------------------- */

static struct builder awaited;
static const char *awaited_id;
static void (*then)(void);
static int lock_looks;
static bool interrupted; /* the next wait */
static pid_t me;

static long futex_with_event(const uint32_t *word, int operation, uint32_t value, const struct timespec *timeout) {
  if (operation == FUTEX_WAIT && then) {
    then();
    then = NULL;
  }
  if (!interrupted) return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
  errno = EINTR;
  return -1;
}

static int lstat_counting(const char *path, struct stat *st) {
  if (strstr(path, ".lock")) lock_looks++;
  return lstat(path, st);
}

/* Waits; before it sleeps comes `event`, which tells the builder what to do. */
static int await_event(const char *id, bool bundle, uint32_t flags, void (*event)(void), sharearray_map **map) {
  struct sa_sys kept = sys;
  sharearray_build *build;
  awaited = start_builder(id, bundle);
  awaited_id = id;
  then = event;
  CHECK(sharearray_attach(store, id, flags, &ticket, map, &build, message) == SHAREARRAY_WAIT);
  sys.futex = futex_with_event;
  sys.lstat = lstat_counting;
  lock_looks = 0;
  int code = sharearray_await(store, id, flags, &ticket, 60, blanks, 2, &sealed, map, message);
  CHECK(then == NULL);
  interrupted = false;
  sys = kept;
  return code;
}

static void publish_now(void) { tell(awaited); }

static void publish_as(const char *id) {
  sharearray_ticket own;
  sharearray_map *map = NULL;
  sharearray_build *build = NULL;
  CHECK(sharearray_attach(store, id, 0, &own, &map, &build, message) == SHAREARRAY_BUILD);
  if (!build) return;
  publish(build, false);
  sharearray_build_delete(build);
}

static bool ends_with(const char *text, const char *end) {
  size_t length = text ? strlen(text) : 0;
  return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

static int count_of(const char *directory_of_proc) {
  DIR *entries = opendir(directory_of_proc);
  int count = 0;
  while (entries && readdir(entries)) count++;
  if (entries) closedir(entries);
  return count;
}

static void who_hears_that_the_lock_is_gone_does_not_look_at_it(void) {
  sharearray_map *map = NULL;
  CHECK(await_event("taken", false, 0, publish_now, &map) == SHAREARRAY_FILLED + 1);
  CHECK(lock_looks == 0);
  CHECK(row.map == map && row.count == 2 && row.elements[0] == 7 && row.elements[1] == 8);
  CHECK(((struct sa_map *)map)->references == 1 && sharearray_current(store, "taken", map) == 1);
  CHECK(sharearray_age(map) < 60 && ends_with(((struct sa_map *)map)->path, "/taken.npy"));
  CHECK(ticket.seen == sharearray_changes_of(store, "taken") && ticket.builder.pid == 0);
  sharearray_release(&row, sizeof row);
}

/* Somebody else's file stands under the name instead. */
static void let_a_stranger_publish(void) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s.npy", directory, awaited_id);
  publish_now();
  CHECK(chmod(path, 0666) == 0);
}

static void and_trusts_nobody_more(void) {
  sharearray_map *map = NULL;
  int descriptors = count_of("/proc/self/fd");
  CHECK(await_event("theirs", false, 0, let_a_stranger_publish, &map) == SHAREARRAY_EUNTRUSTED);
  CHECK(map == NULL && strstr(message, "can be written by everybody"));
  CHECK(count_of("/proc/self/fd") == descriptors);
}

static void and_gets_what_is_no_array_too(void) {
  sharearray_map *map = NULL;
  int descriptors = count_of("/proc/self/fd");
  CHECK(await_event("members", true, 0, publish_now, &map) == SHAREARRAY_READY);
  CHECK(map && map->members && map->count == 0 && ((struct sa_map *)map)->references == 1);
  CHECK(count_of("/proc/self/fd") == descriptors);
  sharearray_unref(map);
}

static void and_refreshes_what_was_published(void) {
  sharearray_map *map = NULL;
  CHECK(await_event("again", false, SHAREARRAY_REFRESH, publish_now, &map) == SHAREARRAY_WAIT);
  CHECK(map == NULL);
}

/* Another id of the same slot changes. */
static void change_another(void) { sa_changes_bump(store, awaited_id); }

static void who_hears_of_another_id_waits_on(void) {
  sharearray_map *map = NULL;
  CHECK(await_event("slow", false, 0, change_another, &map) == SHAREARRAY_WAIT);
  CHECK(map == NULL);
  tell(awaited);
}

static int unlink_or_die(const char *path) { return getpid() == me ? unlink(path) : raise(SIGKILL); }

/* The builder is killed between its link and its unlink. */
static void kill_beside_its_lock(void) {
  int status;
  CHECK(write(awaited.told, "", 1) == 1);
  waitpid(awaited.child, &status, 0);
  CHECK(WIFSIGNALED(status));
  close(awaited.told);
}

static void kill_beside_its_lock_and_change_another(void) {
  kill_beside_its_lock();
  change_another();
}

static int lock_and_change_another(int fd, int command, struct flock *range) {
  if (command == F_OFD_GETLK && !then) change_another();
  return fcntl(fd, command, range);
}

/* Waits, and has the view; whether a lock is there after that. */
static bool leaves_the_lock_of(const char *id, void (*event)(void)) {
  sharearray_map *map = NULL;
  char lock[128];
  snprintf(lock, sizeof lock, "%s/%s.npy.lock", directory, id);
  CHECK(await_event(id, false, 0, event, &map) == SHAREARRAY_FILLED + 1);
  sharearray_release(&row, sizeof row);
  return access(lock, F_OK) == 0;
}

/* The same beside a builder that is killed so. */
static bool leaves_the_lock(const char *id, void (*event)(void)) {
  sys.unlink = unlink_or_die;
  bool left = leaves_the_lock_of(id, event);
  sys.unlink = unlink;
  return left;
}

static void dead_lock_is_removed_whatever_else_changes(void) {
  CHECK(!leaves_the_lock("dead", kill_beside_its_lock_and_change_another));
}

static void dead_lock_is_removed_although_an_earlier_builder_was_done(void) {
  publish_as("twice");
  CHECK(sharearray_remove(store, "twice", message) == 1);
  CHECK(!leaves_the_lock("twice", kill_beside_its_lock_and_change_another));
}

/* The other id of the same slot is published, and so has left its mark there. */
static void kill_beside_its_lock_and_publish_another(void) {
  static char other_id[16];
  uint32_t before = sharearray_changes_of(store, awaited_id);
  for (int i = 0; sharearray_changes_of(store, awaited_id) == before; i++) {
    snprintf(other_id, sizeof other_id, "%d", i);
    sa_changes_bump(store, other_id);
  }
  kill_beside_its_lock();
  publish_as(other_id);
}

static void dead_lock_is_removed_although_another_builder_is_done(void) {
  CHECK(!leaves_the_lock("beside", kill_beside_its_lock_and_publish_another));
}

static int (*plain_open)(const char *path, int flags, mode_t mode);

/* The builder is done, and the next one of the id, which was free again, is killed beside its lock. */
static void let_the_next_one_die(void) {
  CHECK(sharearray_remove(store, awaited_id, message) == 1);
  sys.unlink = unlink_or_die;
  awaited = start_builder(awaited_id, false);
  kill_beside_its_lock();
  sys.unlink = unlink;
}

static void publish_and_let_the_next_one_die(void) {
  publish_now();
  let_the_next_one_die();
}

static int open_with_event(const char *path, int flags, mode_t mode) {
  if (ends_with(path, ".npy")) {
    sys.open = plain_open;
    kill_beside_its_lock();
  }
  return plain_open(path, flags, mode);
}

/* The same, but that the next builder begins when the waiter is about to open the entry; a process there is before. */
static void publish_and_let_the_next_one_die_later(void) {
  int told[2];
  char byte;
  publish_now();
  CHECK(pipe(told) == 0);
  awaited = (struct builder){fork(), told[1]};
  if (awaited.child == 0) {
    if (read(told[0], &byte, 1) != 1 || sharearray_remove(store, awaited_id, message) != 1) _exit(1);
    sys.unlink = unlink_or_die;
    publish_as(awaited_id);
    _exit(1);
  }
  close(told[0]);
  plain_open = sys.open;
  sys.open = open_with_event;
}

static void dead_lock_of_the_next_builder_is_removed(void) {
  CHECK(!leaves_the_lock_of("next", publish_and_let_the_next_one_die));
  CHECK(!leaves_the_lock_of("late", publish_and_let_the_next_one_die_later));
}

static void kill_beside_its_lock_and_interrupt(void) {
  kill_beside_its_lock();
  interrupted = true;
}

static void who_is_interrupted_looks_at_the_lock(void) {
  CHECK(!leaves_the_lock("broken", kill_beside_its_lock_and_interrupt));
}

static void who_saw_that_the_builder_is_dead_removes_the_lock(void) {
  struct sa_sys kept = sys;
  sys.lock = lock_and_change_another;
  CHECK(!leaves_the_lock("seen", kill_beside_its_lock));
  sys = kept;
}

int main(void) {
  sharearray_options options = {.shm_path = mkdtemp(directory), .prefix = "", .mode = -1, .owner = -1};
  char command[64];
  me = getpid();
  CHECK(options.shm_path && sharearray_store_new(&options, &store, message) == 0);
  RUN(fills_the_blank_of_the_layout);
  RUN(fills_nothing_of_another_layout);
  RUN(takes_no_build);
  RUN(who_hears_that_the_lock_is_gone_does_not_look_at_it);
  RUN(and_trusts_nobody_more);
  RUN(and_gets_what_is_no_array_too);
  RUN(and_refreshes_what_was_published);
  RUN(who_hears_of_another_id_waits_on);
  RUN(dead_lock_is_removed_whatever_else_changes);
  RUN(dead_lock_is_removed_although_an_earlier_builder_was_done);
  RUN(dead_lock_is_removed_although_another_builder_is_done);
  RUN(dead_lock_of_the_next_builder_is_removed);
  RUN(who_is_interrupted_looks_at_the_lock);
  RUN(who_saw_that_the_builder_is_dead_removes_the_lock);
  sharearray_store_delete(store);
  snprintf(command, sizeof command, "rm -r %s", directory);
  CHECK(system(command) == 0);
  FINISH();
}
