/* Every step, killed: each step of spec/torture/steps.h is done once for every system call that it makes,
 * by a process that is stopped just before this call, or just after it. While it stands there four others
 * wait, read, refresh and free the same id. Then it is killed by SIGKILL, and the others must come to
 * their ends with right data and without leaks; nobody, NumPy included, may see anything partial; no two
 * may build at once; and one sweep later the directory holds finished entries only.
 *
 * Two more ways: killed on the run, at that call, with the others already at work; and not killed but
 * merely late: it goes on after the others have done what they could, and must succeed.
 *
 * All of it as root and as an ordinary user, whom the kernel denies more, and on each kind of kernel of
 * spec/torture/calls.h. Most of a case is waiting, so several shards of the sweep run side by side. */
#include "steps.h"

#include <poll.h>
#include <sys/prctl.h>
#include <time.h>

enum {
  SHARDS = 12,
  ORDINARY_USER = 12345,
  PROMISED = 1000, /* ms in which the survivors end */
  ALLOWED = 5000   /* ms before a late one is a failure: machines are busy */
};

enum moment { BEFORE, AFTER, RUNNING, LATE, MOMENTS };
static const char *const moment_names[] = {"killed before", "killed after", "killed running at", "late at"};

/* ---- What the shards report, in shared memory ---- */

static struct report {
  atomic_long cases[MOMENTS], failures, late, slowest; /* slowest: microseconds */
  atomic_long calls;                                   /* of the step, over all kinds */
} * reports;

static char what_is_done[192];

static void complain(struct report *report, const char *why) {
  if (atomic_fetch_add(&report->failures, 1) < 5 || getenv("VERBOSE")) {
    char line[640];
    int length = snprintf(line, sizeof line, "# %s: %s\n", what_is_done, why);
    if (write(1, line, (size_t)length) < 0) exit(1);
  }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- Events: what the processes of one case tell the shard ---- */

enum role { VICTIM, WAITER, READER, REFRESHER, FREER, ROLES };
static const char *const role_names[] = {"victim", "waiter", "reader", "refresher", "freer"};

struct event {
  int role;
  enum { STOPPED, BUSY, DONE } what;
  char why[120]; /* DONE: "" if all was right */
};

static int events[2];
static int my_role;

/* Shared by the processes of a case. */
static struct {
  atomic_bool victim_builds, victim_dies, victim_is_over;
  atomic_bool go_on;   /* LATE */
  atomic_int building; /* survivors */
  atomic_bool two_built;
} * shared;

static void tell(int what, const char *why) {
  struct event event = {.role = my_role, .what = what};
  snprintf(event.why, sizeof event.why, "%s", why ? why : "");
  if (write(events[1], &event, sizeof event) != sizeof event) _exit(1);
}

static bool hear(struct event *event, double deadline) {
  struct pollfd ready = {.fd = events[0], .events = POLLIN};
  double left = deadline - now();
  if (left < 0 || poll(&ready, 1, (int)(left * 1e3) + 1) <= 0) return false;
  return read(events[0], event, sizeof *event) == sizeof *event;
}

/* ---- The processes of a case ---- */

static void stop_here(void) {
  tell(STOPPED, NULL);
  while (!atomic_load(&shared->go_on)) usleep(200);
}

static void die_here(void) {
  atomic_store(&shared->victim_dies, true);
  kill(getpid(), SIGKILL);
}

/* Builds never overlap. Each side first says that it builds, then looks at the other. */
static void victim_marks_build(bool begins) {
  atomic_store(&shared->victim_builds, begins);
  if (begins && atomic_load(&shared->building)) atomic_store(&shared->two_built, true);
}

static void survivor_marks_build(bool begins) {
  int others = atomic_fetch_add(&shared->building, begins ? 1 : -1);
  if (!begins) return;
  bool with_victim = atomic_load(&shared->victim_builds) && !atomic_load(&shared->victim_dies);
  if (others || with_victim) atomic_store(&shared->two_built, true);
}

static void be_victim(const struct step *step, long n, enum moment moment) {
  plan.what = moment == AFTER ? STOP_AFTER : STOP_BEFORE;
  plan.at = n;
  plan.stop = moment == RUNNING ? die_here : stop_here;
  on_build = victim_marks_build;
  struct holdings before = holdings_now();
  arm();
  int code = run_step(step);
  disarm();
  struct holdings after = holdings_now();
  compare_holdings(&before, &after);
  if (code == SHAREARRAY_WAIT) blame("waited without end");
  if (code < 0 && code != SHAREARRAY_EABSENT) blame(message); /* ABSENT: freed before it looked */
  tell(DONE, wrong);
}

static void say_busy(void) { tell(BUSY, NULL); }

/* Reads until the victim is dead or done, and once more. */
static int read_all_the_time(sharearray_store *store) {
  int code = 0;
  bool last = false;
  for (int i = 0; !last && !wrong; i++) {
    last = atomic_load(&shared->victim_is_over);
    sharearray_info info;
    code = get_entry(store);
    if (code < 0 && code != SHAREARRAY_EABSENT) return code;
    int state = sharearray_stat(store, "x", &info, message);
    if (state < 0 && state != SHAREARRAY_EABSENT) return state;
    if (i == 0) say_busy();
    usleep(500);
  }
  return code == SHAREARRAY_EABSENT ? 0 : code;
}

static int survive(int role) {
  sharearray_store *store = NULL;
  int32_t version = 100 + role;
  int code = open_store(&store);
  if (code == 0) switch (role) {
    case WAITER: code = obtain(store, 0, IN_PLACE, &version); break;
    case READER: code = read_all_the_time(store); break;
    case REFRESHER: code = obtain(store, SHAREARRAY_REFRESH, WRITTEN, &version); break;
    default: code = sharearray_remove(store, "x", message);
    }
  sharearray_store_delete(store);
  return code;
}

static void be_survivor(int role) {
  on_wait = say_busy;
  on_build = survivor_marks_build;
  struct holdings before = holdings_now();
  int code = survive(role);
  struct holdings after = holdings_now();
  compare_holdings(&before, &after);
  if (role != FREER && code == SHAREARRAY_WAIT) blame("waited without end");
  if (code < 0) blame(message);
  tell(DONE, wrong);
}

static pid_t start(int role, const struct step *step, long n, enum moment moment) {
  pid_t pid = fork();
  if (pid) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  my_role = role;
  wrong = NULL;
  if (role == VICTIM) be_victim(step, n, moment);
  else be_survivor(role);
  exit(0);
}

/* ---- Readers ---- */

static FILE *to_numpy, *from_numpy;

static void start_numpy(void) {
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC)) exit(1);
  if (fork() == 0) {
    dup2(to[0], 0);
    dup2(from[1], 1);
    execl("/usr/bin/python3", "/usr/bin/python3", "spec/torture/numpy_peer.py", "read", (char *)NULL);
    _exit(127);
  }
  close(to[0]);
  close(from[1]);
  to_numpy = fdopen(to[1], "w");
  from_numpy = fdopen(from[0], "r");
}

/* Whatever stands under the entry's name is whole, for the core and for NumPy. */
static void look(bool partial_was_there) {
  static char reply[160], bad[160];
  sharearray_store *store = NULL;
  struct stat st;
  struct sa_map *map = NULL;
  if (open_store(&store) != 0) return blame(message);
  int found = sa_entry_look(store, path_of("x.npy"), &st, &map, message);
  if (found < 0) blame(message);
  if (found == SA_ENTRY_SHORT && !partial_was_there) blame("a partial file is there");
  if (map) version_of(&map->public);
  if (map) sharearray_unref(&map->public);
  sharearray_store_delete(store);
  if (found == SA_ENTRY_SHORT) return;
  fprintf(to_numpy, "%s\n", path_of("x.npy"));
  fflush(to_numpy);
  if (!fgets(reply, sizeof reply, from_numpy)) blame("NumPy is gone");
  else if (strncmp(reply, "bad", 3) == 0) blame(strcpy(bad, strtok(reply, "\n")));
}

/* One list, and nothing is left but entries. */
static void check_directory(void) {
  sharearray_store *store = NULL;
  if (open_store(&store) != 0) return blame(message);
  int pending = sharearray_sweep(store, message);
  if (pending > 0) usleep(100000); /* a Python's lock shows its death by two looks */
  if (pending > 0) pending = sharearray_sweep(store, message);
  if (pending) blame("the sweep is not done");
  sharearray_store_delete(store);
  look(false);
  blame_leftover();
  clear();
}

/* ---- One case ---- */

static bool heard_of[ROLES], done[ROLES];

static void take(const struct event *event) {
  static char text[160];
  heard_of[event->role] = true;
  if (event->what == DONE) done[event->role] = true;
  if (event->what != DONE || !*event->why) return;
  snprintf(text, sizeof text, "%s: %s", role_names[event->role], event->why);
  blame(text);
}

/* Listens until it is true of all roles from `first` to `last`. */
static void await(const bool *what, int first, int last, const char *otherwise) {
  double deadline = now() + ALLOWED / 1e3;
  struct event event;
  for (int role = first; role <= last; role++)
    while (!what[role]) {
      if (!hear(&event, deadline)) return blame(otherwise);
      take(&event);
    }
}

/* The victim goes its way: when it was over. */
static double release(pid_t victim, enum moment moment, int *status) {
  if (moment == LATE) {
    atomic_store(&shared->go_on, true);
    await(done, VICTIM, VICTIM, "the victim hangs");
  } else if (moment != RUNNING) {
    atomic_store(&shared->victim_dies, true);
    kill(victim, SIGKILL);
  }
  if (wrong) kill(victim, SIGKILL);
  waitpid(victim, status, 0);
  atomic_store(&shared->victim_is_over, true);
  return now();
}

static void note_time(struct report *report, double seconds) {
  long took = (long)(seconds * 1e6), slowest = atomic_load(&report->slowest);
  while (took > slowest && !atomic_compare_exchange_weak(&report->slowest, &slowest, took)) {
  }
  if (took > PROMISED * 1000) atomic_fetch_add(&report->late, 1);
}

static void run_case(const struct step *step, long n, enum moment moment, struct report *report) {
  pid_t pids[ROLES];
  int status;
  bool partial = step->prepare == partial_entry, stopped = false;
  if (moment == RUNNING)
    for (int role = WAITER; role < ROLES; role++) pids[role] = start(role, step, n, moment);
  pids[VICTIM] = start(VICTIM, step, n, moment);
  if (moment != RUNNING) {
    await(heard_of, VICTIM, VICTIM, "the victim hangs");
    stopped = !done[VICTIM];
    if (stopped) look(partial);
    for (int role = WAITER; role < ROLES; role++) pids[role] = start(role, step, n, moment);
    await(heard_of, WAITER, FREER, "a survivor hangs beside the victim");
    if (stopped) look(partial);
  }
  double over = release(pids[VICTIM], moment, &status);
  await(done, WAITER, FREER, "a survivor hangs");
  note_time(report, now() - over);
  for (int role = WAITER; role < ROLES; role++) {
    if (wrong) kill(pids[role], SIGKILL);
    waitpid(pids[role], NULL, 0);
  }
  if (moment == LATE ? stopped : WIFSIGNALED(status)) atomic_fetch_add(&report->cases[moment], 1);
}

static void sweep_case(const struct step *step, long n, enum moment moment, struct report *report) {
  wrong = NULL;
  clear();
  step->prepare();
  if (pipe2(events, O_CLOEXEC) != 0) exit(1);
  memset(shared, 0, sizeof *shared);
  memset(heard_of, 0, sizeof heard_of);
  memset(done, 0, sizeof done);
  run_case(step, n, moment, report);
  if (atomic_load(&shared->two_built)) blame("two build at once");
  close(events[0]);
  close(events[1]);
  check_directory();
  if (wrong) complain(report, wrong);
}

/* ---- The sweep ---- */

static long count_calls(const struct step *step) {
  clear();
  step->prepare();
  plan.what = COUNT_ONLY;
  arm();
  run_step(step);
  disarm();
  clear();
  return calls_made;
}

static void make_directory(int shard, const char *user) {
  snprintf(directory, sizeof directory, "%s/shm%d", base, shard);
  if (mkdir(directory, 0755) != 0) exit(1);
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) exit(1);
  if (geteuid() != 0 || strcmp(user, "root") == 0) return;
  if (chown(directory, ORDINARY_USER, ORDINARY_USER) || setgid(ORDINARY_USER) || setuid(ORDINARY_USER)) exit(1);
}

/* This shard's part of the cases. In a short cut, kills before and after every call on the plain kernel, and
 * every seventh of all others. */
static void run_shard(int shard, int shards, const char *user) {
  bool quick = getenv("QUICK");
  long serial = 0;
  start_numpy();
  for (int kind = 0; kind < KERNELS; kind++)
    for (int i = 0; i < STEPS; i++) {
      wrap_calls(kind);
      long calls = count_calls(&steps[i]);
      if (shard == 0) atomic_fetch_add(&reports[i].calls, calls);
      for (long n = 1; n <= calls; n++)
        for (int moment = 0; moment < MOMENTS; moment++) {
          if (quick && (kind != PLAIN || moment >= RUNNING) && (n + moment + i) % 7 != 0) continue;
          if (serial++ % shards != shard) continue;
          snprintf(what_is_done, sizeof what_is_done, "%s: %s call %ld, %s, on %s, as %s", steps[i].name,
                   moment_names[moment], n, call_infos[calls_seen[n]].name, kernel_names[kind], user);
          sweep_case(&steps[i], n, moment, &reports[i]);
        }
    }
  exit(0);
}

static void start_shards(int first, int count, const char *user) {
  for (int shard = 0; shard < count; shard++) {
    fflush(stdout);
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    make_directory(first + shard, user);
    run_shard(shard, count, user);
  }
}

static int print_report(const struct step *step, const struct report *report) {
  const atomic_long *cases = report->cases;
  bool failed = report->failures || !cases[BEFORE] || !cases[AFTER] || !cases[LATE];
  printf("%s %s: %ld calls; killed %ld times before, %ld after, %ld running; %ld times late; slowest survivor %ld ms, "
         "%ld over %d ms\n",
         failed ? "not ok" : "ok", step->name, report->calls, cases[BEFORE], cases[AFTER], cases[RUNNING], cases[LATE],
         report->slowest / 1000, report->late, PROMISED);
  return failed;
}

int main(void) {
  int status = 0, child, failed = 0;
  long kills = 0, slowest = 0;
  umask(022);
  make_base();
  reports = mmap(NULL, sizeof *reports * STEPS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (reports == MAP_FAILED) return 1;
  bool root = geteuid() == 0;
  start_shards(0, root ? SHARDS / 2 : SHARDS, root ? "root" : "an ordinary user");
  if (root) start_shards(SHARDS / 2, SHARDS / 2, "an ordinary user");
  while (wait(&child) > 0) failed |= child;
  if (failed) printf("not ok shards: one did not come to its end\n");
  status |= failed != 0;
  for (int i = 0; i < STEPS; i++) {
    status |= print_report(&steps[i], &reports[i]);
    kills += reports[i].cases[BEFORE] + reports[i].cases[AFTER] + reports[i].cases[RUNNING];
    if (reports[i].slowest > slowest) slowest = reports[i].slowest;
  }
  printf("# in all %ld kills, slowest survivor %ld ms\n", kills, slowest / 1000);
  remove_base();
  return status;
}
