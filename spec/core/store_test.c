/* The store's protocol, one step at a time: builders, waiters, leftovers, strangers, fork and threads.
 * Runs in a private directory of /dev/shm; reaches the core's table of system calls. */
#include "../../core/internal.h"
#include "../../core/sys.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64];
static char message[SHAREARRAY_MESSAGE];
static sharearray_store *store;
static sharearray_ticket ticket;

static char *path_of(const char *name) {
  static char paths[4][256];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/t_%s", directory, name);
  return path;
}

static bool exists(const char *name) {
  struct stat st;
  return lstat(path_of(name), &st) == 0;
}

static sharearray_store *open_store(void) {
  sharearray_store *opened = NULL;
  sharearray_options options = {.shm_path = directory, .prefix = "t_", .mode = -1, .owner = -1};
  CHECK(sharearray_store_new(&options, &opened, message) == 0);
  return opened;
}

static int attach(const char *id, uint32_t flags, sharearray_map **map, sharearray_build **build) {
  return sharearray_attach(store, id, flags, &ticket, map, build, message);
}

/* Asks until the answer is something else than WAIT. */
static int attach_patiently(const char *id, uint32_t flags, sharearray_map **map, sharearray_build **build) {
  int step;
  while ((step = attach(id, flags, map, build)) == SHAREARRAY_WAIT) sharearray_wait(store, id, &ticket, 10);
  return step;
}

/* A draft of one int32 of the given value, written or filled in place. */
static sharearray_draft *draft_of(int32_t value, bool in_place) {
  char header[4096];
  uint64_t shape[1] = {1};
  int length = sharearray_npy_write("<i4", 1, shape, header, sizeof header), more;
  sharearray_draft *draft = NULL;
  sharearray_map *map = NULL;
  CHECK(sharearray_draft_new(store, (uint64_t)length + 4, &draft, message) == 0);
  if (in_place) {
    while ((more = sharearray_draft_reserve(draft, 64, message)) > 0) {
    }
    CHECK(more == 0 && sharearray_draft_map(draft, &map, message) == 0);
    memcpy(map->base, header, (size_t)length);
    memcpy((char *)map->base + length, &value, 4);
    sharearray_unref(map);
  } else {
    CHECK(sharearray_draft_write(draft, header, (uint64_t)length, message) == 0);
    CHECK(sharearray_draft_write(draft, &value, 4, message) == 0);
    CHECK(sharearray_draft_write(draft, &value, 1, message) == SHAREARRAY_EINVAL);
  }
  return draft;
}

static int32_t value_of(const sharearray_map *map) {
  int32_t value;
  memcpy(&value, (const char *)map->base + map->array.offset, 4);
  return value;
}

static void publish(sharearray_build *build, int32_t value) {
  sharearray_map *map = NULL;
  sharearray_draft *draft = draft_of(value, true);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY);
  CHECK(map && value_of(map) == value);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
}

static void put(const char *id, int32_t value) {
  sharearray_build *build = NULL;
  CHECK(attach(id, SHAREARRAY_REFRESH, NULL, &build) == SHAREARRAY_BUILD);
  publish(build, value);
}

static void expect_value(const char *id, int32_t value) {
  sharearray_map *map = NULL;
  int step = attach_patiently(id, SHAREARRAY_GET, &map, NULL);
  if (step < 0) printf("# %s\n", message);
  CHECK(step == SHAREARRAY_READY && value_of(map) == value);
  sharearray_unref(map);
}

/* A child that takes the build of `id` and is killed holding it. */
static void killed_builder(const char *id) {
  pid_t child = fork();
  if (child == 0) {
    sharearray_build *build;
    if (attach_patiently(id, 0, NULL, &build) == SHAREARRAY_BUILD) kill(getpid(), SIGKILL);
    _exit(1);
  }
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
}

static void builds_publishes_attaches_removes(void) {
  sharearray_build *build = NULL, *other = NULL;
  sharearray_map *map = NULL, *none = NULL;
  CHECK(attach("a", SHAREARRAY_GET, &map, &build) == SHAREARRAY_EABSENT);
  CHECK(attach("a", 0, &map, &build) == SHAREARRAY_BUILD && exists("a.npy.lock"));
  CHECK(attach("a", SHAREARRAY_YIELDS, &map, &other) == SHAREARRAY_WAIT && ticket.builder.pid == getpid());
  CHECK(attach("a", 0, &map, &other) == SHAREARRAY_ERECURSIVE);
  publish(build, 7);
  CHECK(!exists("a.npy.lock"));
  CHECK(attach("a", 0, &map, &build) == SHAREARRAY_READY && value_of(map) == 7);
  CHECK(sharearray_current(store, "a", map) == 1);
  CHECK(sharearray_held_current(store, "a", &map) == 1 && sharearray_held_age(&map) < 60);
  CHECK(sharearray_held_current(store, "a", &none) == 0 && sharearray_held_age(&none) == 0);
  put("a", 8);
  CHECK(sharearray_current(store, "a", map) == 0 && value_of(map) == 7);
  sharearray_unref(map);
  expect_value("a", 8);
  CHECK(sharearray_remove(store, "a", message) == 1 && sharearray_remove(store, "a", message) == 0);
}

static void publishes_what_was_written(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("w", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_draft *draft = draft_of(5, false);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && value_of(map) == 5);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  expect_value("w", 5);
  sharearray_remove(store, "w", NULL);
}

static void a_sealed_draft_is_examined_before_it_gets_a_name(void) {
  for (int mapped = 0; mapped < 2; mapped++) {
    sharearray_build *build = NULL;
    sharearray_map *map = NULL, *sealed = NULL;
    CHECK(attach("s", 0, NULL, &build) == SHAREARRAY_BUILD);
    sharearray_draft *bad = NULL, *draft = draft_of(5, mapped);
    CHECK(sharearray_draft_new(store, 3, &bad, message) == 0 && sharearray_draft_write(bad, "bad", 3, message) == 0);
    CHECK(sharearray_seal(build, bad, &sealed, message) == SHAREARRAY_ECORRUPT && !sealed);
    sharearray_draft_delete(bad);
    CHECK(sharearray_seal(build, draft, &sealed, message) == 0 && value_of(sealed) == 5 && !exists("s.npy"));
    CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && map == sealed);
    sharearray_unref(sealed);
    sharearray_unref(map);
    sharearray_draft_delete(draft);
    sharearray_build_delete(build);
    expect_value("s", 5);
    sharearray_remove(store, "s", NULL);
  }
}

static void abandoned_build_leaves_nothing(void) {
  sharearray_build *build = NULL;
  CHECK(attach("b", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_build_delete(build);
  CHECK(!exists("b.npy.lock") && !exists("b.npy"));
}

static void published_memory_is_read_only(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("ro", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_draft *draft = draft_of(5, true);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY);
  pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    *(volatile char *)map->base = 0;
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  /* The address sanitizer turns the signal into an exit status. */
  CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  sharearray_remove(store, "ro", NULL);
}

static void killed_builders_are_replaced_then_held_back(void) {
  sharearray_build *build = NULL;
  killed_builder("k");
  CHECK(exists("k.npy.lock"));
  CHECK(attach("k", 0, NULL, &build) == SHAREARRAY_BUILD && ticket.builder.attempt == 2);
  sharearray_build_delete(build);
  killed_builder("k"); /* a build that ended otherwise starts the count anew */
  CHECK(attach("k", SHAREARRAY_GET, NULL, NULL) == SHAREARRAY_EABSENT && !exists("k.npy.lock"));
  for (int i = 0; i < 3; i++) killed_builder("k");
  CHECK(attach("k", 0, NULL, &build) == SHAREARRAY_WAIT && ticket.builder.pid == 0 && ticket.builder.attempt == 3);
  CHECK(attach_patiently("k", 0, NULL, &build) == SHAREARRAY_BUILD && ticket.builder.attempt == 4);
  publish(build, 1);
  sharearray_remove(store, "k", NULL);
}

static void lock_taken_away_by_name(void) {
  sharearray_build *mine = NULL, *other = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("l", 0, NULL, &mine) == SHAREARRAY_BUILD);
  CHECK(unlink(path_of("l.npy.lock")) == 0);
  CHECK(attach("l", SHAREARRAY_YIELDS, NULL, &other) == SHAREARRAY_BUILD);
  sharearray_draft *draft = draft_of(1, true);
  CHECK(sharearray_publish(mine, draft, &map, message) == SHAREARRAY_WAIT);
  publish(other, 2);
  CHECK(sharearray_publish(mine, draft, &map, message) == SHAREARRAY_READY && value_of(map) == 2);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(mine);
  CHECK(!exists("l.npy.lock"));
  sharearray_remove(store, "l", NULL);
  /* Nobody else came: the name is simply taken again. */
  CHECK(attach("l", 0, NULL, &mine) == SHAREARRAY_BUILD && unlink(path_of("l.npy.lock")) == 0);
  publish(mine, 3);
  CHECK(!exists("l.npy.lock"));
  expect_value("l", 3);
  sharearray_remove(store, "l", NULL);
}

static sharearray_build *overtaking;
static sharearray_draft *overtaking_draft;
static int overtaking_step;

/* Just before a refresh's rename its lock is unlinked, and somebody else refreshes too. */
static int rename_overtaken(const char *from, const char *to) {
  sharearray_map *map;
  sys.rename = rename;
  CHECK(unlink(path_of("v.npy.lock")) == 0);
  CHECK(attach("v", SHAREARRAY_REFRESH | SHAREARRAY_YIELDS, NULL, &overtaking) == SHAREARRAY_BUILD);
  overtaking_draft = draft_of(3, true);
  overtaking_step = sharearray_publish(overtaking, overtaking_draft, &map, message);
  return rename(from, to);
}

static void refreshes_at_once_publish_one_after_the_other(void) {
  sharearray_map *map = NULL;
  put("v", 1);
  sys.rename = rename_overtaken;
  put("v", 2);
  expect_value("v", 2);
  CHECK(overtaking_step == SHAREARRAY_WAIT);
  CHECK(sharearray_publish(overtaking, overtaking_draft, &map, message) == SHAREARRAY_READY && value_of(map) == 3);
  sharearray_unref(map);
  sharearray_draft_delete(overtaking_draft);
  sharearray_build_delete(overtaking);
  expect_value("v", 3);
  CHECK(!exists("v.npy.lock") && !exists("v.npy.new"));
  sharearray_remove(store, "v", NULL);
}

static void write_file(const char *name, const char *bytes, size_t size, mode_t mode) {
  int fd = open(path_of(name), O_CREAT | O_EXCL | O_WRONLY, mode);
  CHECK(fd >= 0 && fchmod(fd, mode) == 0 && write(fd, bytes, size) == (ssize_t)size && close(fd) == 0);
}

static void short_file_is_awaited_then_replaced(void) {
  sharearray_build *build = NULL;
  write_file("s.npy", "\x93NUMPY\1\0", 8, 0644);
  int python = open(path_of("s.npy.lock"), O_CREAT | O_EXCL, 0777);
  CHECK(attach("s", 0, NULL, &build) == SHAREARRAY_WAIT);
  CHECK(attach("s", SHAREARRAY_GET, NULL, &build) == SHAREARRAY_EABSENT && strstr(message, "being built"));
  usleep(100000);
  CHECK(attach("s", 0, NULL, &build) == SHAREARRAY_WAIT); /* open: alive, however long it takes */
  close(python);
  CHECK(attach("s", 0, NULL, &build) == SHAREARRAY_WAIT); /* closed: once is not enough */
  CHECK(attach_patiently("s", 0, NULL, &build) == SHAREARRAY_BUILD);
  publish(build, 9);
  expect_value("s", 9);
  CHECK(!exists("s.npy.lock") && !exists("s.npy.new"));
  sharearray_remove(store, "s", NULL);
  write_file("s.npy", "", 0, 0644);
  CHECK(attach("s", SHAREARRAY_GET, NULL, &build) == SHAREARRAY_EABSENT && strstr(message, "killed builder"));
  CHECK(attach("s", 0, NULL, &build) == SHAREARRAY_BUILD);
  publish(build, 10);
  expect_value("s", 10);
  sharearray_remove(store, "s", NULL);
}

static void short_file_that_was_completed_wins(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  char file[4096];
  uint64_t shape[1] = {1};
  int length = sharearray_npy_write("<i4", 1, shape, file, sizeof file);
  memcpy(file + length, "\4\0\0\0", 4);
  int python = open(path_of("sc.npy"), O_CREAT | O_EXCL | O_WRONLY, 0644);
  CHECK(write(python, file, (size_t)length) == length);
  CHECK(attach("sc", 0, NULL, &build) == SHAREARRAY_BUILD); /* Python's free took its lock away */
  CHECK(write(python, file + length, 4) == 4 && close(python) == 0);
  sharearray_draft *draft = draft_of(5, true);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && value_of(map) == 4);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  expect_value("sc", 4);
  sharearray_remove(store, "sc", NULL);
}

static void dead_python_lock_beside_finished_data(void) {
  put("p", 1);
  write_file("p.npy.lock", "", 0, 0755);
  expect_value("p", 1);
  CHECK(!exists("p.npy.lock"));
  /* A live Python takes the lock on hits too: it holds nobody up. */
  int python = open(path_of("p.npy.lock"), O_CREAT | O_EXCL, 0777);
  sharearray_map *map = NULL;
  CHECK(attach("p", 0, &map, NULL) == SHAREARRAY_READY && exists("p.npy.lock"));
  sharearray_unref(map);
  close(python);
  unlink(path_of("p.npy.lock"));
  sharearray_remove(store, "p", NULL);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A child that builds `id` until it is killed. */
static pid_t living_builder(const char *id) {
  sharearray_build *build = NULL;
  int ready[2];
  char byte;
  CHECK(pipe(ready) == 0);
  pid_t child = fork();
  if (child == 0) {
    if (attach(id, 0, NULL, &build) == SHAREARRAY_BUILD && write(ready[1], "", 1) == 1) pause();
    _exit(1);
  }
  CHECK(read(ready[0], &byte, 1) == 1);
  close(ready[0]);
  close(ready[1]);
  return child;
}

static void wait_lasts_as_long_as_the_builder(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  pid_t child = living_builder("w");
  CHECK(attach("w", 0, &map, &build) == SHAREARRAY_WAIT);
  double start = now();
  sharearray_wait(store, "w", &ticket, 0.5);
  CHECK(now() - start >= 0.5);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  sharearray_wait(store, "w", &ticket, 60);
  CHECK(now() - start < 30);
  CHECK(attach_patiently("w", 0, &map, &build) == SHAREARRAY_BUILD);
  sharearray_build_delete(build);
}

static atomic_int looks; /* of waiters, whether the builder lives */

static int count_looks(int fd, int command, struct flock *range) {
  if (command == F_OFD_GETLK) atomic_fetch_add(&looks, 1);
  return fcntl(fd, command, range);
}

static void *wait_a_while(void *seconds) {
  sharearray_store *mine = open_store();
  sharearray_ticket my_ticket;
  sharearray_map *map = NULL;
  sharearray_build *build = NULL;
  CHECK(sharearray_attach(mine, "w", 0, &my_ticket, &map, &build, NULL) == SHAREARRAY_WAIT);
  sharearray_wait(mine, "w", &my_ticket, *(double *)seconds);
  sharearray_store_delete(mine);
  return NULL;
}

static void of_many_waiters_one_watches_the_builder(void) {
  enum { WAITERS = 8 };
  struct sa_sys kept = sys;
  pthread_t threads[WAITERS];
  double seconds = 2;
  pid_t child = living_builder("w");
  atomic_store(&looks, 0);
  sys.lock = count_looks;
  for (int i = 0; i < WAITERS; i++) CHECK(pthread_create(&threads[i], NULL, wait_a_while, &seconds) == 0);
  for (int i = 0; i < WAITERS; i++) pthread_join(threads[i], NULL);
  sys = kept;
  CHECK(atomic_load(&looks) > 0);
  CHECK(atomic_load(&looks) < WAITERS * seconds * 1e3 / SA_RECHECK / 2); /* half as many as if each did */
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  sharearray_sweep(store, message);
}

/* Whether a waiter comes back before its time although the builder lives: another one, who began to wait
 * earlier and so watched the builder, had less time. */
static bool is_woken_by_the_one_who_goes(void) {
  double less = 0.5, more = 2;
  pthread_t first, second;
  CHECK(pthread_create(&first, NULL, wait_a_while, &less) == 0);
  usleep(100000); /* on a slow machine the second one may be the first to watch: then there are more tries */
  double start = now();
  CHECK(pthread_create(&second, NULL, wait_a_while, &more) == 0);
  pthread_join(second, NULL);
  double seconds = now() - start;
  pthread_join(first, NULL);
  return seconds < more;
}

static void whoever_stops_watching_wakes_another_waiter(void) {
  enum { TRIES = 10 };
  pid_t child = living_builder("w");
  int tries = 0;
  while (tries < TRIES && !is_woken_by_the_one_who_goes()) tries++;
  CHECK(tries < TRIES);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  sharearray_sweep(store, message);
}

static atomic_bool lying;

/* Leaves every mark in the page as young as can be. */
static void *lie(void *argument) {
  enum { HEAD = 16, SLOT = 4, ALIVE = 3, WORDS = 1024, TIME = 0xfffff };
  _Atomic uint32_t *words = (_Atomic uint32_t *)store->page;
  while (atomic_load(&lying)) {
    for (int i = HEAD + ALIVE; i < WORDS; i += SLOT) {
      uint32_t mark = atomic_load(&words[i]);
      if (mark) atomic_store(&words[i], (mark & ~(uint32_t)TIME) | ((uint32_t)sharearray_clock() & TIME));
    }
    usleep(1000);
  }
  return argument;
}

static void page_that_calls_a_dead_builder_alive_holds_nobody_up(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  pthread_t liar;
  pid_t child = living_builder("w");
  CHECK(attach("w", 0, &map, &build) == SHAREARRAY_WAIT);
  sharearray_wait(store, "w", &ticket, 0.3); /* leaves marks */
  atomic_store(&lying, true);
  CHECK(pthread_create(&liar, NULL, lie, NULL) == 0);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  double start = now();
  sharearray_wait(store, "w", &ticket, 60);
  CHECK(now() - start < 30);
  atomic_store(&lying, false);
  pthread_join(liar, NULL);
  sharearray_sweep(store, message);
}

/* Waits until the directory's last change lies behind the clock's tick. */
static void let_it_settle(void) {
  for (int i = 0; i < 1000 && !sharearray_settled(store); i++) usleep(5000);
  CHECK(sharearray_settled(store) == 1);
}

static void directory_that_stands_still_is_settled(void) {
  bool late = true; /* some ticks of the clock, while which the processor may be another's */
  for (int tries = 0; late && tries < 100; tries++) {
    put("q", 1);
    CHECK(sharearray_settled(store) == 0); /* changed */
    late = sharearray_settled(store) != 0; /* just now */
  }
  CHECK(!late);
  let_it_settle();
  expect_value("q", 1);
  CHECK(sharearray_settled(store) == 1);
  unlink(path_of("q.npy"));
  CHECK(sharearray_settled(store) == 0);
}

/* However sure it is by then that there is none. */
static void lock_that_comes_late_is_found(void) {
  struct stat st;
  put("q", 1);
  let_it_settle();
  for (int i = 0; i < 200; i++) expect_value("q", 1);
  write_file("q.npy.lock", "", 0, 0755);
  expect_value("q", 1);
  CHECK(!exists("q.npy.lock"));
  let_it_settle();
  for (int i = 0; i < 200; i++) expect_value("q", 1);
  CHECK(stat(directory, &st) == 0);
  write_file("q.npy.lock", "", 0, 0755);
  const struct timespec as_before[2] = {st.st_atim, st.st_mtim};
  CHECK(utimensat(AT_FDCWD, directory, as_before, 0) == 0); /* as rsync does */
  expect_value("q", 1);
  CHECK(!exists("q.npy.lock"));
  let_it_settle();
  write_file("other.npy.lock", "", 0, 0755);
  write_file("q.npy.lock", "", 0, 0755);
  for (int i = 0; i < 200; i++) expect_value("q", 1);
  CHECK(!exists("q.npy.lock") && exists("other.npy.lock"));
  unlink(path_of("other.npy.lock"));
  sharearray_remove(store, "q", NULL);
}

static void existing_file_wins_over_a_late_link(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("e", 0, NULL, &build) == SHAREARRAY_BUILD);
  char file[4096];
  uint64_t shape[1] = {1};
  int length = sharearray_npy_write("<i4", 1, shape, file, sizeof file);
  memcpy(file + length, "\4\0\0\0", 4);
  write_file("e.npy", file, (size_t)length + 4, 0644);
  sharearray_draft *draft = draft_of(5, true);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && value_of(map) == 4);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  sharearray_remove(store, "e", NULL);
}

static void short_file_gives_way_to_a_late_link(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("f", 0, NULL, &build) == SHAREARRAY_BUILD);
  write_file("f.npy", "\x93NUMPY", 6, 0644); /* of a dead Python builder, whose lock was removed by its name */
  sharearray_draft *draft = draft_of(5, true);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && value_of(map) == 5);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  CHECK(!exists("f.npy.lock") && !exists("f.npy.new"));
  sharearray_remove(store, "f", NULL);
}

/* What must not be trusted, under the entry's name and under the lock's. */
static void squat(const char *name, int trick) {
  char *path = path_of(name);
  switch (trick) {
  case 0: CHECK(symlink("/etc/hostname", path) == 0); break;
  case 1: CHECK(mkfifo(path, 0600) == 0); break;
  case 2: CHECK(mkdir(path, 0700) == 0); break;
  case 3: write_file(name, "\x93NUMPY", 6, 0666); break;
  case 4:
    write_file("linked", "\x93NUMPY", 6, 0644);
    CHECK(link(path_of("linked"), path) == 0);
    break;
  case 5: /* somebody else's */ write_file(name, "\x93NUMPY", 6, 0644); CHECK(chown(path, 12345, 12345) == 0);
  }
}

static void refuses_what_it_must_not_trust(void) {
  static const char *const names[] = {"u.npy", "u.npy.lock"};
  for (int trick = 0; trick < (geteuid() == 0 ? 6 : 5); trick++)
    for (int i = 0; i < 2; i++) {
      sharearray_build *build = NULL;
      sharearray_map *map = NULL;
      sharearray_info info;
      squat(names[i], trick);
      CHECK(attach("u", 0, &map, &build) == SHAREARRAY_EUNTRUSTED);
      CHECK(attach("u", SHAREARRAY_GET, &map, &build) == SHAREARRAY_EUNTRUSTED);
      CHECK(sharearray_stat(store, "u", &info, message) == 0 && info.state == SHAREARRAY_STATE_UNTRUSTED);
      CHECK(sharearray_sweep(store, message) == 0 && exists(names[i]));
      /* An owner's free may remove it; a stranger's file and a directory stay. */
      int removed = sharearray_remove(store, "u", message);
      CHECK(removed == (trick == 2 || trick == 5 ? SHAREARRAY_EUNTRUSTED : 1));
      remove(path_of(names[i]));
      unlink(path_of("linked"));
    }
}

static void refresh_replaces_an_owners_untrusted_file(void) {
  write_file("r.npy", "junk", 4, 0666);
  put("r", 6);
  expect_value("r", 6);
  sharearray_remove(store, "r", NULL);
}

static void child_of_a_fork_neither_unlocks_nor_publishes(void) {
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("f", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_draft *draft = draft_of(1, true);
  int32_t *memory = (int32_t *)((char *)draft->map->public.base + draft->bytes - 4);
  pid_t child = fork();
  if (child == 0) {
    *memory = 666; /* its own copy */
    int failed = sharearray_publish(build, draft, &map, message) != SHAREARRAY_EUNSUPPORTED;
    sharearray_draft_delete(draft);
    sharearray_build_delete(build);
    failed |= !exists("f.npy.lock") || attach("f", 0, &map, &build) != SHAREARRAY_WAIT;
    exit(failed); /* with its coverage */
  }
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && value_of(map) == 1);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  sharearray_remove(store, "f", NULL);
}

static void *mmap_without_memory(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
  (void)address, (void)length, (void)protection, (void)flags, (void)fd, (void)offset;
  errno = ENOMEM;
  return MAP_FAILED;
}

/* It dies of a write, which would reach the published array. */
static void child_without_memory_for_a_copy_does_not_write(void) {
  struct sa_sys kept = sys;
  sharearray_build *build = NULL;
  sharearray_map *map = NULL;
  CHECK(attach("fm", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_draft *draft = draft_of(1, true);
  volatile int32_t *memory = (int32_t *)((char *)draft->map->public.base + draft->bytes - 4);
  sys.mmap = mmap_without_memory;
  pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    *memory = 666;
    _exit(0);
  }
  sys = kept;
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
  CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY && value_of(map) == 1);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  sharearray_remove(store, "fm", NULL);
}

static void lock_dies_with_its_holder_although_a_child_lives(void) {
  int ready[2];
  CHECK(pipe(ready) == 0);
  pid_t builder = fork();
  if (builder == 0) {
    sharearray_build *build;
    if (attach("o", 0, NULL, &build) != SHAREARRAY_BUILD) _exit(1);
    if (fork() == 0) {
      pid_t self = getpid();
      write(ready[1], &self, sizeof self);
    }
    pause();
  }
  pid_t child;
  CHECK(read(ready[0], &child, sizeof child) == sizeof child);
  kill(builder, SIGKILL);
  waitpid(builder, NULL, 0);
  sharearray_build *build = NULL;
  CHECK(attach("o", 0, NULL, &build) == SHAREARRAY_BUILD && ticket.builder.attempt == 2);
  sharearray_build_delete(build);
  CHECK(kill(child, SIGKILL) == 0);
  close(ready[0]);
  close(ready[1]);
}

static atomic_int built;

static void *race(void *argument) {
  sharearray_store *mine = open_store();
  sharearray_ticket my_ticket;
  sharearray_map *map = NULL;
  sharearray_build *build = NULL;
  int step;
  (void)argument;
  while ((step = sharearray_attach(mine, "t", 0, &my_ticket, &map, &build, NULL)) == SHAREARRAY_WAIT)
    sharearray_wait(mine, "t", &my_ticket, 10);
  if (step == SHAREARRAY_BUILD) {
    atomic_fetch_add(&built, 1);
    publish(build, 3);
  } else {
    CHECK(step == SHAREARRAY_READY && value_of(map) == 3);
    sharearray_unref(map);
  }
  sharearray_store_delete(mine);
  return NULL;
}

static void threads_of_one_process_build_once(void) {
  enum { THREADS = 8, ROUNDS = 50 };
  for (int round = 0; round < ROUNDS; round++) {
    pthread_t threads[THREADS];
    atomic_store(&built, 0);
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, race, NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(atomic_load(&built) == 1);
    CHECK(sharearray_remove(store, "t", message) == 1);
  }
}

static int open_without_tmpfile(const char *path, int flags, mode_t mode) {
  if ((flags & O_TMPFILE) == O_TMPFILE) {
    errno = EOPNOTSUPP;
    return -1;
  }
  return open(path, flags, mode);
}

static void works_without_unnamed_files(void) {
  struct sa_sys kept = sys;
  sys.open = open_without_tmpfile;
  put("n", 1);
  put("n", 2);
  expect_value("n", 2);
  killed_builder("m");
  sharearray_build *build = NULL;
  CHECK(attach("m", 0, NULL, &build) == SHAREARRAY_BUILD);
  sharearray_draft *draft = draft_of(1, true);
  struct stat st;
  CHECK(stat(draft->file.temporary, &st) == 0 && (st.st_mode & 0777) == 0600); /* its user's sweep can open it */
  CHECK(stat(path_of("n.npy"), &st) == 0 && (st.st_mode & 0777) == 0444);
  char name[64];
  snprintf(name, sizeof name, "%s", strrchr(draft->file.temporary, '/') + strlen("/t_"));
  CHECK(exists(name) && sharearray_sweep(store, message) == 0 && exists(name)); /* its maker lives */
  sharearray_draft_delete(draft);
  CHECK(!exists(name));
  sharearray_build_delete(build);
  sys = kept;
  write_file("~1.1", "", 0, 0600);
  CHECK(sharearray_sweep(store, message) == 0 && !exists("~1.1"));
  put(".tmp.1.1", 5); /* an id like any other */
  CHECK(sharearray_sweep(store, message) == 0);
  expect_value(".tmp.1.1", 5);
  sharearray_remove(store, ".tmp.1.1", NULL);
  sharearray_remove(store, "n", NULL);
}

static const char *changing; /* a name under which a symbolic link stands at the first look only */

static int open_of_changing(const char *path, int flags, mode_t mode) {
  if (!changing || strcmp(path, path_of(changing)) != 0) return open(path, flags, mode);
  changing = NULL;
  errno = ELOOP;
  return -1;
}

static void name_that_changes_is_looked_at_again(void) {
  struct sa_sys kept = sys;
  sharearray_build *build = NULL;
  put("y", 1);
  sys.open = open_of_changing;
  changing = "y.npy";
  expect_value("y", 1);
  changing = "gone.npy";
  CHECK(attach("gone", SHAREARRAY_GET, NULL, NULL) == SHAREARRAY_EABSENT);
  CHECK(attach("y", SHAREARRAY_REFRESH, NULL, &build) == SHAREARRAY_BUILD);
  changing = "y.npy.lock";
  CHECK(attach("y", SHAREARRAY_REFRESH | SHAREARRAY_YIELDS, NULL, NULL) == SHAREARRAY_WAIT && !changing);
  CHECK(ticket.builder.pid == getpid());
  sharearray_build_delete(build);
  sys = kept;
  sharearray_remove(store, "y", NULL);
}

static int linkat_without_capability(int from, const char *old, int to, const char *name, int flags) {
  if (flags & AT_EMPTY_PATH) {
    errno = ENOENT;
    return -1;
  }
  return linkat(from, old, to, name, flags);
}

static void links_through_proc_where_it_must(void) {
  struct sa_sys kept = sys;
  sys.linkat = linkat_without_capability;
  put("x", 4);
  sys = kept;
  expect_value("x", 4);
  sharearray_remove(store, "x", NULL);
}

static int fallocate_until_full(int fd, off_t offset, off_t length) {
  return offset > 0 ? ENOSPC : posix_fallocate(fd, offset, length);
}

static void says_no_space_in_the_middle_of_a_reservation(void) {
  struct sa_sys kept = sys;
  sharearray_draft *draft = NULL;
  CHECK(sharearray_draft_new(store, 1 << 20, &draft, message) == 0);
  sys.fallocate = fallocate_until_full;
  CHECK(sharearray_draft_reserve(draft, 1 << 16, message) == 1);
  CHECK(sharearray_draft_reserve(draft, 1 << 16, message) == SHAREARRAY_ENOSPACE);
  CHECK(strstr(message, "1048576 bytes needed") && strstr(message, "free of"));
  sys = kept;
  sharearray_map *map;
  CHECK(sharearray_draft_map(draft, &map, message) == SHAREARRAY_EINVAL);
  sharearray_draft_delete(draft);
}

static void no_descriptor_left(void) {
  struct rlimit limit, kept;
  sharearray_build *build = NULL;
  getrlimit(RLIMIT_NOFILE, &kept);
  put("d", 1);
  limit = kept;
  limit.rlim_cur = 3;
  setrlimit(RLIMIT_NOFILE, &limit);
  sharearray_map *map = NULL;
  CHECK(attach("d", 0, &map, &build) == SHAREARRAY_EIO && strstr(message, "ulimit -n"));
  CHECK(attach("d2", 0, &map, &build) == SHAREARRAY_EIO && strstr(message, "ulimit -n"));
  setrlimit(RLIMIT_NOFILE, &kept);
  expect_value("d", 1);
  CHECK(!exists("d2.npy.lock"));
  sharearray_remove(store, "d", NULL);
}

static void sweep_removes_leftovers(void) {
  killed_builder("q");
  write_file("q.npy.new", "rest", 4, 0444);
  write_file("z.npy.new", "rest", 4, 0444);
  write_file("y.npy.lock", "", 0, 0755);
  CHECK(sharearray_sweep(store, message) == 1); /* the Python lock needs a second look */
  CHECK(!exists("q.npy.lock") && !exists("q.npy.new") && !exists("z.npy.new") && !exists("z.npy.lock"));
  usleep(150000);
  CHECK(sharearray_sweep(store, message) == 0 && !exists("y.npy.lock"));
}

static void lists_sorted_ids_once(void) {
  char *ids;
  size_t count;
  sharearray_build *build = NULL;
  put("id2", 1);
  put("id10", 1);
  CHECK(attach("id2", SHAREARRAY_REFRESH, NULL, &build) == SHAREARRAY_BUILD);
  CHECK(sharearray_ids(store, &ids, &count, message) == 0);
  CHECK(count == 2 && strcmp(ids, "id10") == 0 && strcmp(ids + 5, "id2") == 0);
  sharearray_ids_delete(ids);
  sharearray_info info;
  CHECK(sharearray_stat(store, "id2", &info, message) == 0);
  CHECK(info.state == SHAREARRAY_STATE_READY && info.builder.pid == getpid() && info.age >= 0 && info.age < 60);
  sharearray_build_delete(build);
  CHECK(sharearray_stat(store, "id2", &info, message) == 0 && info.builder.pid == 0);
  sharearray_remove(store, "id2", NULL);
  sharearray_remove(store, "id10", NULL);
}

static void many_dead_python_locks_are_swept(void) {
  char name[32];
  for (int i = 0; i < 300; i++) {
    snprintf(name, sizeof name, "py%d.npy.lock", i);
    write_file(name, "", 0, 0755);
  }
  CHECK(sharearray_sweep(store, message) == 300);
  usleep(100000);
  CHECK(sharearray_sweep(store, message) == 0 && !exists("py0.npy.lock") && !exists("py299.npy.lock"));
}

static void garbage_in_a_lock_is_a_dead_builders(void) {
  static const char *const lines[] = {
      "pid=1 attempt=5 since=1e300 died=0 program=x\n",
      "pid=99999999999999999999999 attempt=-1 since=nan died=inf",
      "pid=1 attempt=4294967295 since=1 died=nan program=x",
      "\n\n\n",
      "pid=",
      "x",
  };
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    sharearray_build *build = NULL;
    write_file("g.npy.lock", lines[i], strlen(lines[i]), 0600);
    CHECK(attach("g", 0, NULL, &build) == SHAREARRAY_BUILD);
    sharearray_build_delete(build);
    CHECK(!exists("g.npy.lock"));
  }
}

static void asking_does_not_end_the_holding_back(void) {
  sharearray_build *build = NULL;
  sharearray_info info;
  static const char line[] = "pid=1 attempt=8 since=1 died=0 program=x\n";
  write_file("h.npy.lock", line, strlen(line), 0600);
  CHECK(attach("h", 0, NULL, &build) == SHAREARRAY_WAIT);
  CHECK(attach("h", SHAREARRAY_GET, NULL, NULL) == SHAREARRAY_EABSENT);
  CHECK(sharearray_stat(store, "h", &info, message) == SHAREARRAY_EABSENT);
  CHECK(attach("h", 0, NULL, &build) == SHAREARRAY_WAIT && ticket.builder.attempt == 8);
  CHECK(sharearray_remove(store, "h", message) == 1); /* free does */
  CHECK(attach("h", 0, NULL, &build) == SHAREARRAY_BUILD && ticket.builder.attempt == 1);
  sharearray_build_delete(build);
}

static void recursion_is_seen_through_another_path(void) {
  char other[80];
  sharearray_build *build = NULL, *inner = NULL;
  sharearray_store *alias = NULL;
  snprintf(other, sizeof other, "%s/../%s/", directory, strrchr(directory, '/') + 1);
  sharearray_options options = {.shm_path = other, .prefix = "t_", .mode = -1, .owner = -1};
  CHECK(sharearray_store_new(&options, &alias, message) == 0);
  CHECK(attach("al", 0, NULL, &build) == SHAREARRAY_BUILD);
  CHECK(sharearray_attach(alias, "al", 0, &ticket, NULL, &inner, message) == SHAREARRAY_ERECURSIVE);
  sharearray_build_delete(build);
  sharearray_store_delete(alias);
}

static atomic_bool stop;

static void *take_and_give(void *argument) {
  sharearray_store *mine = open_store();
  sharearray_ticket my_ticket;
  sharearray_map *map;
  sharearray_build *build;
  (void)argument;
  while (!atomic_load(&stop))
    if (sharearray_attach(mine, "leak", 0, &my_ticket, &map, &build, NULL) == SHAREARRAY_BUILD)
      sharearray_build_delete(build);
  sharearray_store_delete(mine);
  return NULL;
}

/* Whether this process has a lock open, by name or already without. */
static bool has_lock_open(void) {
  char link[64], target[256];
  for (int fd = 3; fd < 64; fd++) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length <= 0) continue;
    target[length] = '\0';
    if (strncmp(target, directory, strlen(directory)) == 0) return true;
  }
  return false;
}

/* A lock's description in a child would outlive a killed builder. */
static void fork_in_another_thread_inherits_no_lock(void) {
  pthread_t thread;
  int inherited = 0;
  atomic_store(&stop, false);
  pthread_create(&thread, NULL, take_and_give, NULL);
  for (int i = 0; i < 300; i++) {
    pid_t child = fork();
    if (child == 0) _exit(has_lock_open());
    int status;
    waitpid(child, &status, 0);
    inherited += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  }
  atomic_store(&stop, true);
  pthread_join(thread, NULL);
  CHECK(inherited == 0);
}

static void counter_page_comes_back(void) {
  char name[64];
  snprintf(name, sizeof name, ".changes.%u", geteuid());
  put("c", 1);
  CHECK(exists(name));
  const uint32_t *changes = sharearray_changes(store);
  CHECK(unlink(path_of(name)) == 0);
  put("c", 2);
  CHECK(exists(name) && changes == sharearray_changes(store));
  uint32_t before = *(volatile const uint32_t *)changes;
  sharearray_store *other = open_store();
  CHECK(sharearray_remove(other, "c", message) == 1);
  CHECK(*(volatile const uint32_t *)changes == before + 1);
  sharearray_store_delete(other);
}

static void version_is_the_contents_date(void) {
  CHECK(sharearray_version(store, "dated") == 0 && sharearray_version(store, "../x") == 0);
  for (int in_place = 0; in_place < 2; in_place++) {
    sharearray_build *build = NULL;
    sharearray_map *map = NULL;
    CHECK(attach("dated", SHAREARRAY_REFRESH, NULL, &build) == SHAREARRAY_BUILD);
    sharearray_draft *draft = draft_of(6, in_place);
    int64_t version = 1234567890987654321 + in_place, now = 0, later = 0;
    CHECK(sharearray_draft_version(draft, &now, message) == 0 && sharearray_draft_version(draft, &later, message) == 0);
    CHECK(now < later && (double)now / 1e9 > sa_wall_clock() - 60);
    CHECK(sharearray_draft_version(draft, &version, message) == 0 && version == 1234567890987654321 + in_place);
    CHECK(sharearray_publish(build, draft, &map, message) == SHAREARRAY_READY);
    CHECK(sharearray_version(store, "dated") == version);
    CHECK(sharearray_age(map) < 60); /* since it was published here */
    sharearray_unref(map);
    sharearray_draft_delete(draft);
    sharearray_build_delete(build);
  }
  CHECK(sharearray_remove(store, "dated", message) == 1);
}

static void refuses_bad_arguments(void) {
  sharearray_store *none = NULL;
  sharearray_options options = {.shm_path = directory, .prefix = "a/b", .mode = -1, .owner = -1};
  CHECK(sharearray_store_new(&options, &none, message) == SHAREARRAY_EINVAL && !none);
  options.prefix = "";
  options.mode = 0666;
  CHECK(sharearray_store_new(&options, &none, message) == SHAREARRAY_EINVAL);
  options.mode = -1;
  options.shm_path = "/nonexistent/directory";
  CHECK(sharearray_store_new(&options, &none, message) == SHAREARRAY_EIO && strstr(message, "shm_path"));
  sharearray_build *build = NULL;
  CHECK(attach("../x", 0, NULL, &build) == SHAREARRAY_EINVAL);
  char longest[256];
  memset(longest, 'i', sizeof longest);
  longest[255 - 9 - 2] = '\0';
  CHECK(sharearray_valid_id("t_", longest, strlen(longest)) == 1);
  put(longest, 1);
  CHECK(sharearray_remove(store, longest, message) == 1);
  CHECK(sharearray_valid_id("t_", longest, 245) == 0);
  CHECK(sharearray_valid_id("", "a\0b", 3) == 0 && sharearray_valid_id("", "", 0) == 0);
}

/* "/dev/shm/..." with as many slashes behind as make it so long. */
static int open_by_a_path_of(size_t length, sharearray_store **opened) {
  char path[SA_PATH + 1];
  char longest[NAME_MAX - 9];
  memset(path, '/', sizeof path);
  memcpy(path, directory, strlen(directory));
  path[length] = '\0';
  memset(longest, 't', sizeof longest - 1);
  longest[sizeof longest - 1] = '\0';
  sharearray_options options = {.shm_path = path, .prefix = longest, .mode = -1, .owner = geteuid() ? -1 : 4294967293};
  return sharearray_store_new(&options, opened, message);
}

static void no_name_is_longer_than_its_buffer(void) {
  size_t most = SA_PATH - NAME_MAX - sizeof "/.changes.4294967295";
  sharearray_store *opened = NULL;
  sharearray_map *map = NULL;
  CHECK(open_by_a_path_of(most, &opened) == 0);
  CHECK(sharearray_attach(opened, "i", SHAREARRAY_GET, &ticket, &map, NULL, message) == SHAREARRAY_EABSENT);
  sharearray_store_delete(opened);
  CHECK(open_by_a_path_of(most + 1, &opened) == SHAREARRAY_EINVAL);
}

int main(void) {
  snprintf(directory, sizeof directory, "/dev/shm/core_test.XXXXXX");
  if (!mkdtemp(directory)) return perror(directory), 1;
  umask(022);
  harness_case = "open_store";
  store = open_store();
  if (!store) return 1;
  RUN(builds_publishes_attaches_removes);
  RUN(publishes_what_was_written);
  RUN(a_sealed_draft_is_examined_before_it_gets_a_name);
  RUN(abandoned_build_leaves_nothing);
  RUN(published_memory_is_read_only);
  RUN(killed_builders_are_replaced_then_held_back);
  RUN(lock_taken_away_by_name);
  RUN(refreshes_at_once_publish_one_after_the_other);
  RUN(short_file_is_awaited_then_replaced);
  RUN(short_file_that_was_completed_wins);
  RUN(dead_python_lock_beside_finished_data);
  RUN(wait_lasts_as_long_as_the_builder);
  RUN(of_many_waiters_one_watches_the_builder);
  RUN(whoever_stops_watching_wakes_another_waiter);
  RUN(page_that_calls_a_dead_builder_alive_holds_nobody_up);
  RUN(directory_that_stands_still_is_settled);
  RUN(lock_that_comes_late_is_found);
  RUN(existing_file_wins_over_a_late_link);
  RUN(short_file_gives_way_to_a_late_link);
  RUN(refuses_what_it_must_not_trust);
  RUN(refresh_replaces_an_owners_untrusted_file);
  RUN(child_of_a_fork_neither_unlocks_nor_publishes);
  RUN(child_without_memory_for_a_copy_does_not_write);
  RUN(lock_dies_with_its_holder_although_a_child_lives);
  RUN(threads_of_one_process_build_once);
  RUN(works_without_unnamed_files);
  RUN(name_that_changes_is_looked_at_again);
  RUN(links_through_proc_where_it_must);
  RUN(says_no_space_in_the_middle_of_a_reservation);
  RUN(no_descriptor_left);
  RUN(sweep_removes_leftovers);
  RUN(lists_sorted_ids_once);
  RUN(many_dead_python_locks_are_swept);
  RUN(garbage_in_a_lock_is_a_dead_builders);
  RUN(asking_does_not_end_the_holding_back);
  RUN(recursion_is_seen_through_another_path);
  RUN(fork_in_another_thread_inherits_no_lock);
  RUN(counter_page_comes_back);
  RUN(version_is_the_contents_date);
  RUN(refuses_bad_arguments);
  RUN(no_name_is_longer_than_its_buffer);
  sharearray_store_delete(store);
  /* Nothing may be left but the counter page: rmdir fails otherwise. */
  char name[64];
  snprintf(name, sizeof name, ".changes.%u", geteuid());
  unlink(path_of(name));
  if (rmdir(directory) != 0) {
    printf("not ok nothing_is_left: %s is not empty\n", directory);
    harness_failures++;
  }
  FINISH();
}
