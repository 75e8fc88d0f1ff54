/* Random operations of 8 processes or 8 threads on five ids, checked against a model of the store.
 *
 *   random [SEED]      OPERATIONS=400000 (in each case), QUICK=1 for 10,000
 *
 * Every version is an array that holds nothing but its number, in a length that follows from it, so a
 * reader knows what it sees, and whether it is whole. What all did and saw, with times, is judged
 * afterwards by history.h. The ids: on two of them somebody unlinks the lock by its name at any time,
 * as Python's free does; on two Python's builders take part; the last is left to the core alone, and
 * there is one builder at a time, who finds nothing. System calls are held up at random, so that what
 * seldom comes between two of them comes often.
 *
 * Where it is started by root it goes on as an ordinary user: what is published is read-only to it, as
 * it is to the Python processes that it plays. A seed repeats the choices, not their interleaving. */
#include "../../core/internal.h"
#include "../../core/sys.h"
#include "../core/harness.h"
#include "history.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 8, UNLOCKED = 2, ALONE = 4, IDS = 5, MOST = 2000, USER = 54321, KEPT = 16 };

static char directory[64];
static uint64_t seed;
static size_t operations;

/* What the workers share, processes too. */
struct shared {
  _Atomic uint32_t versions;
  atomic_int builders; /* of the id that is left to the core */
  atomic_bool stop, failed;
  char why[SHAREARRAY_MESSAGE + 128];
  size_t counts[WORKERS];
  struct record records[]; /* WORKERS times `room` */
};
static struct shared *shared;
static size_t room;

struct worker {
  unsigned number;
  uint64_t random;
  sharearray_store *store;
  sharearray_map *kept[KEPT]; /* old views, which stay what they are */
  uint32_t kept_version[KEPT];
};

/* Views that one thread gave to another. */
static _Atomic(sharearray_map *) passed[KEPT];

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* xorshift64 (Marsaglia). */
static uint32_t draw(struct worker *me, uint32_t below) {
  me->random ^= me->random << 13;
  me->random ^= me->random >> 7;
  me->random ^= me->random << 17;
  return (uint32_t)(me->random >> 32) % below;
}

/* Of the thread, for the calls that are held up. */
static _Thread_local struct worker *working;

static void dawdle(void) {
  uint32_t chance = working ? draw(working, 64) : 1;
  if (chance == 0) usleep(draw(working, 100));
  else if (chance < 8) sched_yield();
}

static int slow_lstat(const char *path, struct stat *st) {
  dawdle();
  return lstat(path, st);
}

static int slow_linkat(int from, const char *old, int to, const char *name, int flags) {
  dawdle();
  return linkat(from, old, to, name, flags);
}

static int slow_rename(const char *from, const char *to) {
  dawdle();
  return rename(from, to);
}

static int slow_unlink(const char *path) {
  dawdle();
  return unlink(path);
}

static int slow_lock(int fd, int command, struct flock *range) {
  dawdle();
  return fcntl(fd, command, range);
}

static const char *id_of(unsigned id) {
  static const char *const names[IDS] = {"a", "b", "python", "p.q", "alone"};
  return names[id];
}

static void path_of(char *path, unsigned id, const char *suffix) {
  snprintf(path, 128, "%s/r_%s.npy%s", directory, id_of(id), suffix);
}

/* The first failure of all is told. */
static void wrong(const struct worker *me, const char *what, const char *detail) {
  if (atomic_exchange(&shared->failed, true)) return;
  snprintf(shared->why, sizeof shared->why, "worker %u: %s: %s", me->number, what, detail);
}

static void note(const struct worker *me, unsigned id, enum operation operation, uint32_t version, uint64_t begin) {
  size_t *count = &shared->counts[me->number];
  if (*count == room) return wrong(me, "no room for the history", "");
  shared->records[me->number * room + (*count)++] = (struct record){
      begin, now_ns(), version, (uint16_t)id, (uint8_t)operation, (uint8_t)me->number};
}

static uint64_t length_of(uint32_t version) { return 1 + version * 2654435761u % MOST; }

/* The version that a map holds; 0: it is not one whole version. */
static uint32_t version_of(const sharearray_map *map) {
  uint64_t length = map->array.shape[0];
  const char *at = (const char *)map->base + map->array.offset;
  uint32_t first, other;
  if (map->array.ndim != 1 || map->array.kind != 'u' || map->array.itemsize != 4 || length == 0) return 0;
  memcpy(&first, at, 4);
  for (uint64_t i = 1; i < length; i++) {
    memcpy(&other, at + 4 * i, 4);
    if (other != first) return 0;
  }
  return length == length_of(first) ? first : 0;
}

static void keep(struct worker *me, sharearray_map *map, uint32_t version) {
  unsigned i = draw(me, KEPT);
  if (me->kept[i] && version_of(me->kept[i]) != me->kept_version[i]) wrong(me, "an old view changed", "");
  sharearray_unref(me->kept[i]);
  me->kept[i] = map;
  me->kept_version[i] = version;
  sharearray_ref(map);
  sharearray_map *other = atomic_exchange(&passed[draw(me, KEPT)], map);
  if (other && version_of(other) == 0) wrong(me, "a view changed on its way", "");
  sharearray_unref(other);
}

static void note_read(struct worker *me, unsigned id, sharearray_map *map, uint64_t begin) {
  uint32_t version = version_of(map);
  if (version == 0) wrong(me, "partial or foreign data under", id_of(id));
  note(me, id, READ, version, begin);
  keep(me, map, version);
}

static void open_store(struct worker *me) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_options options = {.shm_path = directory, .prefix = "r_", .mode = -1, .owner = -1};
  sharearray_store_delete(me->store);
  me->store = NULL;
  if (sharearray_store_new(&options, &me->store, message) != 0) wrong(me, "cannot open the store", message);
}

/* An .npy file of the version, in *bytes. */
static size_t file_of(uint32_t version, char *bytes) {
  uint64_t shape[1] = {length_of(version)};
  int header = sharearray_npy_write("<u4", 1, shape, bytes, 4096);
  for (uint64_t i = 0; i < shape[0]; i++) memcpy(bytes + (uint64_t)header + 4 * i, &version, 4);
  return (size_t)header + 4 * shape[0];
}

/* Filled in place, or written. */
static int fill(struct worker *me, uint32_t version, sharearray_draft **draft, char *message) {
  char bytes[4096 + 4 * MOST];
  sharearray_map *map;
  size_t size = file_of(version, bytes);
  int code = sharearray_draft_new(me->store, size, draft, message);
  if (code) return code;
  if (draw(me, 2)) return sharearray_draft_write(*draft, bytes, size, message);
  while ((code = sharearray_draft_reserve(*draft, 4096, message)) > 0) {
  }
  if (code == 0) code = sharearray_draft_map(*draft, &map, message);
  if (code) return code;
  memcpy(map->base, bytes, size);
  sharearray_unref(map);
  return 0;
}

/* Until it is published, or somebody else builds for too long. */
static void publish(struct worker *me, unsigned id, sharearray_build *build) {
  char message[SHAREARRAY_MESSAGE] = "";
  sharearray_ticket ticket = {.recheck = 5};
  sharearray_draft *draft = NULL;
  sharearray_map *map;
  uint32_t version = atomic_fetch_add(&shared->versions, 1) + 1;
  int step = fill(me, version, &draft, message);
  for (int round = 0; step >= 0 && round < 20; round++) {
    uint64_t begin = now_ns();
    step = sharearray_publish(build, draft, &map, message);
    if (step == SHAREARRAY_READY) {
      if (version_of(map) != version) note_read(me, id, map, begin);
      else {
        /* A dead builder's short file that is replaced counts as nothing. */
        note(me, id, build->refresh ? REPLACE : LINK, version, begin);
        keep(me, map, version);
      }
      break;
    }
    if (step == SHAREARRAY_WAIT) {
      ticket.seen = sharearray_changes_of(me->store, id_of(id));
      sharearray_wait(me->store, id_of(id), &ticket, 0.005);
    }
  }
  if (step < 0) wrong(me, "cannot publish", message);
  sharearray_draft_delete(draft);
}

/* As a killed builder leaves it: the lock is there, and nobody holds it. */
static void die(sharearray_build *build) {
  sa_process_close(build->lock);
  build->lock = -1;
}

/* Where nobody meddles, the holder of the lock is alone, and builds what is not there. */
static void check_alone(struct worker *me, const sharearray_build *build) {
  char path[128];
  path_of(path, ALONE, "");
  if (atomic_fetch_add(&shared->builders, 1) != 0) wrong(me, "two builders at once", id_of(ALONE));
  if (draw(me, 8) == 0) usleep(draw(me, 200));
  if (!build->refresh && access(path, F_OK) == 0) wrong(me, "a builder of what is there", id_of(ALONE));
  atomic_fetch_sub(&shared->builders, 1);
}

static void attach(struct worker *me, unsigned id, uint32_t flags) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_ticket ticket;
  sharearray_map *map;
  sharearray_build *build;
  for (int round = 0; round < 10; round++) {
    uint64_t begin = now_ns();
    int step = sharearray_attach(me->store, id_of(id), flags, &ticket, &map, &build, message);
    if (step == SHAREARRAY_READY) return note_read(me, id, map, begin);
    if (step == SHAREARRAY_EABSENT && (flags & SHAREARRAY_GET)) return note(me, id, ABSENT, 0, begin);
    if (step < 0) return wrong(me, "attach", message);
    if (step == SHAREARRAY_BUILD) {
      unsigned fate = draw(me, 100);
      if (id == ALONE) check_alone(me, build);
      if (fate < 2) die(build);
      else if (fate >= 5) publish(me, id, build);
      sharearray_build_delete(build);
      return;
    }
    sharearray_wait(me->store, id_of(id), &ticket, 0.02);
  }
}

static void look_whether_current(struct worker *me, unsigned id) {
  unsigned i = draw(me, KEPT);
  if (!me->kept[i]) return;
  uint64_t begin = now_ns();
  /* Under another id's name it cannot be. */
  if (sharearray_current(me->store, id_of(id), me->kept[i])) note(me, id, READ, me->kept_version[i], begin);
}

static void remove_entry(struct worker *me, unsigned id) {
  char message[SHAREARRAY_MESSAGE];
  uint64_t begin = now_ns();
  if (sharearray_remove(me->store, id_of(id), message) < 0) return wrong(me, "free", message);
  note(me, id, REMOVE, 0, begin);
}

static void ask(struct worker *me, unsigned id) {
  char message[SHAREARRAY_MESSAGE];
  sharearray_info info;
  uint64_t begin = now_ns();
  int code = sharearray_stat(me->store, id_of(id), &info, message);
  if (code == SHAREARRAY_EABSENT || (code == 0 && info.state == SHAREARRAY_STATE_BUILDING) ||
      (code == 0 && info.state == SHAREARRAY_STATE_PARTIAL))
    return note(me, id, ABSENT, 0, begin);
  if (code < 0) return wrong(me, "stat", message);
  if (info.state != SHAREARRAY_STATE_READY) wrong(me, "stat says of a sound entry", info.reason);
}

static void sweep(struct worker *me) {
  char message[SHAREARRAY_MESSAGE], *ids;
  size_t count;
  if (sharearray_sweep(me->store, message) < 0) return wrong(me, "sweep", message);
  if (sharearray_ids(me->store, &ids, &count, message) != 0) return wrong(me, "ids", message);
  if (count > IDS) wrong(me, "too many ids", ids);
  sharearray_ids_delete(ids);
}

static void unlink_behind(struct worker *me, unsigned id) {
  char path[128];
  uint64_t begin = now_ns();
  path_of(path, id, "");
  if (unlink(path) == 0 || errno == ENOENT) note(me, id, REMOVE, 0, begin);
  else wrong(me, "rm", strerror(errno));
}

static void unlink_lock(unsigned id) {
  char path[128];
  path_of(path, id, ".lock");
  unlink(path);
}

/* Writes the file in place; false: dies half-way. */
static bool python_writes(struct worker *me, unsigned id, const char *path) {
  char bytes[4096 + 4 * MOST];
  uint32_t version = atomic_fetch_add(&shared->versions, 1) + 1;
  size_t size = file_of(version, bytes), half = draw(me, (uint32_t)size);
  bool dies = draw(me, 10) == 0;
  uint64_t begin = now_ns();
  int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) return true; /* what the core published is read-only */
  if (write(fd, bytes, half) != (ssize_t)half) wrong(me, "write", strerror(errno));
  if (draw(me, 10) == 0) usleep(1000);
  if (!dies && write(fd, bytes + half, size - half) != (ssize_t)(size - half)) wrong(me, "write", strerror(errno));
  close(fd);
  if (!dies) note(me, id, WRITTEN, version, begin);
  return !dies;
}

/* The Python package's cache(): an empty lock, the file, and the lock let go in this order. */
static void python_builds(struct worker *me, unsigned id) {
  char path[128], lock_path[128];
  path_of(path, id, "");
  path_of(lock_path, id, ".lock");
  int lock = open(lock_path, O_CREAT | O_EXCL | O_CLOEXEC, 0755);
  if (lock < 0) return;
  bool lives = access(path, F_OK) == 0 || python_writes(me, id, path);
  close(lock);
  if (lives && draw(me, 20)) unlink(lock_path);
}

static void operate(struct worker *me) {
  unsigned id = draw(me, IDS), choice = draw(me, 1000);
  if (choice < 450) attach(me, id, SHAREARRAY_GET);
  else if (choice < 650) attach(me, id, 0);
  else if (choice < 720) attach(me, id, SHAREARRAY_REFRESH);
  else if (choice < 800) look_whether_current(me, id);
  else if (choice < 860) remove_entry(me, id);
  else if (choice < 890) unlink_behind(me, id);
  else if (choice < 950) ask(me, id);
  else if (choice < 960) sweep(me);
  else if (choice < 965) open_store(me);
  else if (id < UNLOCKED) unlink_lock(id);
  else if (id != ALONE) python_builds(me, id);
}

static void *work(void *argument) {
  struct worker me = {.number = (unsigned)(uintptr_t)argument};
  me.random = (seed + me.number + 1) * 0x9e3779b97f4a7c15u | 1;
  working = &me;
  open_store(&me);
  for (size_t i = 0; i < operations / WORKERS && !atomic_load(&shared->failed); i++) operate(&me);
  for (int i = 0; i < KEPT; i++) sharearray_unref(me.kept[i]);
  sharearray_store_delete(me.store);
  working = NULL;
  return NULL;
}

static void drop_passed(void) {
  for (int i = 0; i < KEPT; i++) sharearray_unref(atomic_exchange(&passed[i], NULL));
}

static void run_threads(void) {
  pthread_t threads[WORKERS];
  for (uintptr_t i = 0; i < WORKERS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
  for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
  drop_passed();
}

static pid_t start(void (*run)(void *), void *argument) {
  pid_t parent = getpid(), child = fork();
  if (child) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() == parent) run(argument);
  _exit(0);
}

static void work_as_process(void *argument) { work(argument); }

static void run_processes(void) {
  pid_t children[WORKERS];
  int status;
  for (uintptr_t i = 0; i < WORKERS; i++) children[i] = start(work_as_process, (void *)i);
  for (int i = 0; i < WORKERS; i++) {
    waitpid(children[i], &status, 0);
    if (status) CHECK(!"a worker process died");
  }
}

/* One who writes garbage over what processes of one user share: the counter page, and the locks' lines. */
static void scribble(void *argument) {
  struct worker me = {.number = WORKERS, .random = seed * 2 + 1};
  char path[128];
  volatile unsigned char *page = MAP_FAILED;
  (void)argument;
  while (!atomic_load(&shared->stop)) {
    snprintf(path, sizeof path, "%s/r_.changes.%u", directory, geteuid());
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (draw(&me, 50) == 0) unlink(path); /* the next page is a fresh one */
    for (int i = 0; i < 2000 && page != MAP_FAILED; i++) {
      /* Mostly the counters, so that the page stays one: a few values each, so that they come back. */
      unsigned at = draw(&me, 100) ? 12 + draw(&me, 4096 - 12) : draw(&me, 12);
      page[at] = (unsigned char)(draw(&me, 4) ? draw(&me, 2) : draw(&me, 256));
    }
    if (page != MAP_FAILED) munmap((void *)page, 4096);
    page = MAP_FAILED;
    path_of(path, draw(&me, UNLOCKED), ".lock");
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;
    char bytes[128];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)draw(&me, 256);
    uint32_t from = draw(&me, 128), size = draw(&me, 128 - from) + 1;
    if (pwrite(fd, bytes, size, from) < 0) wrong(&me, "pwrite", strerror(errno));
    close(fd);
  }
}

static int open_without_tmpfile(const char *path, int flags, mode_t mode) {
  if ((flags & O_TMPFILE) == O_TMPFILE) {
    errno = EOPNOTSUPP;
    return -1;
  }
  return open(path, flags, mode);
}

/* At most the entries and the counter page are left after one list, with a second look at Python's locks. */
static void check_directory(void) {
  struct worker me = {.number = WORKERS};
  char path[128];
  static const char *const leftovers[] = {".lock", ".new"};
  open_store(&me);
  for (int i = 0; i < 50 && sharearray_sweep(me.store, NULL) > 0; i++) usleep(100000);
  for (unsigned id = 0; id < IDS; id++)
    for (size_t i = 0; i < 2; i++) {
      path_of(path, id, leftovers[i]);
      CHECK(access(path, F_OK) != 0);
    }
  for (unsigned id = 0; id < IDS; id++) CHECK(sharearray_remove(me.store, id_of(id), NULL) >= 0);
  sharearray_store_delete(me.store);
  snprintf(path, sizeof path, "%s/r_.changes.%u", directory, geteuid());
  unlink(path);
  CHECK(rmdir(directory) == 0 && mkdir(directory, 0700) == 0); /* nothing else is there */
}

static void judge(void) {
  struct history history = {.records = shared->records, .versions = atomic_load(&shared->versions), .ids = IDS};
  size_t counts[REMOVE + 1] = {0};
  for (int i = 0; i < WORKERS; i++) {
    memmove(&history.records[history.count], &shared->records[(size_t)i * room],
            shared->counts[i] * sizeof *history.records);
    history.count += shared->counts[i];
  }
  for (size_t i = 0; i < history.count; i++) counts[history.records[i].operation]++;
  printf("# %s: %zu operations, seed %llu: %zu reads, %zu absences, %zu links, %zu replacements, %zu written in place, "
         "%zu removals\n",
         harness_case, operations / WORKERS * WORKERS, (unsigned long long)seed, counts[READ], counts[ABSENT],
         counts[LINK], counts[REPLACE], counts[WRITTEN], counts[REMOVE]);
  if (atomic_load(&shared->failed)) printf("# %s\n", shared->why);
  CHECK(!atomic_load(&shared->failed));
  CHECK(counts[READ] && counts[ABSENT] && counts[LINK] && counts[REPLACE] && counts[REMOVE]);
  if (history_check(&history) != 0) {
    printf("# %s\n", history_problem);
    CHECK(!"the model rules out what was seen");
  }
}

static void run_and_judge(void (*run)(void)) {
  room = operations / WORKERS * 2 + 64; /* an operation notes two things at most */
  size_t size = sizeof *shared + WORKERS * room * sizeof *shared->records;
  shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shared == MAP_FAILED) abort();
  run();
  judge();
  check_directory();
  munmap(shared, size);
}

static void threads_see_what_the_model_allows(void) { run_and_judge(run_threads); }
static void processes_see_what_the_model_allows(void) { run_and_judge(run_processes); }

static void run_scribbled(void) {
  pid_t scribbler = start(scribble, NULL);
  run_processes();
  atomic_store(&shared->stop, true);
  waitpid(scribbler, NULL, 0);
}
static void garbage_in_page_and_locks_gives_no_wrong_data(void) { run_and_judge(run_scribbled); }

static void without_unnamed_files_too(void) {
  struct sa_sys kept = sys;
  sys.open = open_without_tmpfile;
  run_and_judge(run_processes);
  sys = kept;
}

/* Histories that no store may have, each for one rule. */
static void the_check_can_fail(void) {
  static struct record records[] = {
      {10, 20, 1, 0, LINK, 0}, {30, 40, 2, 0, REPLACE, 1}, {50, 60, 0, 0, REMOVE, 0}, {70, 80, 3, 0, LINK, 1},
      {35, 65, 2, 0, READ, 2}, {62, 68, 0, 0, ABSENT, 2},  {90, 95, 3, 0, READ, 2},   {0, 0, 0, 0, NOTHING, 3},
  };
  static const struct {
    struct record last;
    const char *problem; /* NULL: allowed */
  } cases[] = {
      {{0, 0, 0, 0, NOTHING, 3}, NULL},
      {{31, 39, 1, 0, READ, 3}, NULL},
      {{39, 45, 1, 0, READ, 3}, NULL},
      {{41, 45, 1, 0, READ, 3}, "while another one was"},
      {{85, 99, 1, 0, READ, 3}, "at once"},
      {{1, 5, 1, 0, READ, 3}, "before it was published"},
      {{90, 95, 4, 0, READ, 3}, "nobody published"},
      {{90, 95, 0, 0, READ, 3}, "nobody published"},
      {{12, 25, 1, 1, READ, 3}, "under another id"},
      {{82, 88, 0, 0, ABSENT, 3}, "absent while"},
      {{82, 88, 0, 0, REMOVE, 3}, "absent while"},
      {{82, 88, 2, 0, REPLACE, 3}, "published twice"},
      {{96, 99, 4, 0, LINK, 3}, "nobody removed"},
      {{96, 99, 4, 0, REPLACE, 3}, NULL},
      {{32, 64, 4, 0, WRITTEN, 3}, NULL},
  };
  size_t count = sizeof records / sizeof *records;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    records[count - 1] = cases[i].last;
    struct history history = {records, count, 4, 2};
    int result = history_check(&history);
    CHECK(result == (cases[i].problem ? -1 : 0));
    if (cases[i].problem) CHECK(strstr(history_problem, cases[i].problem));
    if (harness_case_failed) printf("# history %zu: %d %s\n", i, result, history_problem);
  }
}

static size_t number(const char *name, size_t otherwise) {
  const char *text = getenv(name);
  return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
  seed = argc > 1 ? strtoull(argv[1], NULL, 0) : number("SEED", now_ns());
  operations = number("OPERATIONS", number("QUICK", 0) ? 10000 : 400000);
  umask(022);
  if (geteuid() == 0 && (setgid(USER) != 0 || setuid(USER) != 0)) return perror("setuid"), 1;
  snprintf(directory, sizeof directory, "/dev/shm/sharearray_spec.XXXXXX");
  if (!mkdtemp(directory)) return perror(directory), 1;
  sys.lstat = slow_lstat;
  sys.linkat = slow_linkat;
  sys.rename = slow_rename;
  sys.unlink = slow_unlink;
  sys.lock = slow_lock;
  RUN(the_check_can_fail);
  RUN(threads_see_what_the_model_allows);
  RUN(processes_see_what_the_model_allows);
  RUN(garbage_in_page_and_locks_gives_no_wrong_data);
  RUN(without_unnamed_files_too);
  rmdir(directory);
  FINISH();
}
