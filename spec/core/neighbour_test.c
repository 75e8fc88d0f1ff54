/* Hostile neighbours: what another user of the machine can do to a store in a world-writable directory,
 * trick by trick, with an ordinary user and with root as the victim. Never is anything read that is not
 * to be trusted, nothing is written outside the directory, nobody waits longer than he wants to.
 *
 * It takes root to play two users; whoever else runs it sees one line that says so. */
#include "../../core/internal.h"
#include "../../core/sys.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/futex.h>
#include <limits.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VICTIM = 64001, NEIGHBOUR = 64002, PATIENCE = 1000 /* ms, the victim's timeout */, HANGS = 60 /* s */ };

static char directory[64], outside[64], message[SHAREARRAY_MESSAGE];
static sharearray_ticket ticket;
static double patience = PATIENCE;

static char *path_of(const char *name) {
  static char paths[4][160];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/n_%s", directory, name);
  return path;
}

static char *outside_of(const char *name) {
  static char path[160];
  snprintf(path, sizeof path, "%s/%s", outside, name);
  return path;
}

/* Processes. */

static pid_t start(uid_t uid, void (*act)(void *), void *argument) {
  pid_t parent = getpid();
  fflush(stdout);
  pid_t child = fork();
  if (child) return child;
  alarm(HANGS);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent || setgroups(0, NULL) != 0 || setgid(uid) != 0 || setuid(uid) != 0) _exit(99);
  harness_case_failed = 0;
  act(argument);
  fflush(stdout);
  _exit(harness_case_failed != 0);
}

static void finish(pid_t child) {
  int status;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 1) harness_case_failed++; /* it said why */
  else CHECK(status == 0);
}

static void as(uid_t uid, void (*act)(void *), void *argument) { finish(start(uid, act, argument)); }

/* A neighbour who does something and then stays, until he is told to go. */
struct stayer {
  pid_t pid;
  int ready[2];
  void (*act)(void *);
  void *argument;
};

static void act_and_stay(void *argument) {
  struct stayer *stayer = argument;
  stayer->act(stayer->argument);
  CHECK(write(stayer->ready[1], "x", 1) == 1);
  fflush(stdout);
  pause();
}

static void stay(struct stayer *stayer, uid_t uid, void (*act)(void *), void *argument) {
  char byte;
  stayer->act = act;
  stayer->argument = argument;
  CHECK(pipe(stayer->ready) == 0);
  stayer->pid = start(uid, act_and_stay, stayer);
  CHECK(read(stayer->ready[0], &byte, 1) == 1);
}

static void send_away(struct stayer *stayer) {
  kill(stayer->pid, SIGKILL);
  waitpid(stayer->pid, NULL, 0);
  close(stayer->ready[0]);
  close(stayer->ready[1]);
}

/* What the victim does. */

static sharearray_store *open_store(const uint32_t *trust) {
  sharearray_store *store = NULL;
  sharearray_options options = {
      .shm_path = directory, .prefix = "n_", .mode = -1, .owner = -1, .trust = trust, .trusted = trust != NULL};
  CHECK(sharearray_store_new(&options, &store, message) == 0);
  return store;
}

static size_t file_of(int32_t value, char *bytes) {
  uint64_t shape[1] = {1};
  int length = sharearray_npy_write("<i4", 1, shape, bytes, 4096);
  memcpy(bytes + length, &value, 4);
  return (size_t)length + 4;
}

static int32_t value_of(const sharearray_map *map) {
  int32_t value;
  memcpy(&value, (const char *)map->base + map->array.offset, 4);
  return value;
}

static int publish(sharearray_store *store, sharearray_build *build, int32_t value, int32_t *seen) {
  char bytes[4200];
  size_t size = file_of(value, bytes);
  sharearray_draft *draft = NULL;
  sharearray_map *map = NULL;
  int code = sharearray_draft_new(store, size, &draft, message);
  if (code == 0) code = sharearray_draft_write(draft, bytes, size, message);
  if (code == 0) code = sharearray_publish(build, draft, &map, message);
  if (code == SHAREARRAY_READY) *seen = value_of(map);
  sharearray_unref(map);
  sharearray_draft_delete(draft);
  sharearray_build_delete(build);
  return code;
}

/* cache, get (flags GET) or refresh (flags REFRESH), with a timeout: READY and what there was, WAIT for the
 * timeout, or a failure. */
static int ask(sharearray_store *store, const char *id, uint32_t flags, int32_t value, int32_t *seen) {
  double deadline = sharearray_clock() + patience;
  for (;;) {
    sharearray_map *map = NULL;
    sharearray_build *build = NULL;
    double left = (deadline - sharearray_clock()) / 1000;
    uint32_t last = left <= 0 ? SHAREARRAY_FINAL : 0;
    int step = sharearray_attach(store, id, flags | last, &ticket, &map, &build, message);
    if (step == SHAREARRAY_BUILD) return publish(store, build, value, seen);
    if (step == SHAREARRAY_READY) {
      *seen = value_of(map);
      sharearray_unref(map);
    }
    if (step != SHAREARRAY_WAIT || last) return step;
    sharearray_wait(store, id, &ticket, left);
  }
}

static bool gives(sharearray_store *store, const char *id, uint32_t flags, int32_t value, int32_t expected) {
  int32_t seen = 0;
  int code = ask(store, id, flags, value, &seen);
  if (code != 0 || seen != expected) printf("# %s: code %d, value %d, %s\n", id, code, seen, message);
  return code == 0 && seen == expected;
}

static bool fails(sharearray_store *store, const char *id, uint32_t flags, int expected) {
  int32_t seen = 0;
  int code = ask(store, id, flags, -1, &seen);
  if (code != expected) printf("# %s: code %d instead of %d, %s\n", id, code, expected, message);
  return code == expected;
}

/* What the neighbour puts under a name. */

static const char *const tricks[] = {"symbolic link", "dangling symbolic link",  "FIFO",       "socket",   "directory",
                                     "file",          "file that all may write", "empty file", "hard link"};
enum { TRICKS = sizeof tricks / sizeof *tricks };

struct squat {
  const char *name;
  int trick;
};

static void write_file(const char *path, int32_t value, mode_t mode) {
  char bytes[4200];
  size_t size = file_of(value, bytes);
  int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, mode);
  CHECK(fd >= 0 && fchmod(fd, mode) == 0 && write(fd, bytes, size) == (ssize_t)size && close(fd) == 0);
}

static void squat(void *argument) {
  const struct squat *squat = argument;
  char *path = path_of(squat->name);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  switch (squat->trick) {
  case 0: CHECK(symlink(outside_of("secret"), path) == 0); break;
  case 1: CHECK(symlink(outside_of("new"), path) == 0); break;
  case 2: CHECK(mkfifo(path, 0666) == 0 && chmod(path, 0666) == 0); break;
  case 3: CHECK(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, sizeof address) == 0); break;
  case 4: CHECK(mkdir(path, 0777) == 0); break;
  case 5: write_file(path, 666, 0644); break;
  case 6: write_file(path, 666, 0666); break;
  case 7: CHECK(close(open(path, O_CREAT | O_EXCL | O_WRONLY, 0644)) == 0); break;
  case 8: write_file(path_of("~second"), 666, 0644); CHECK(link(path_of("~second"), path) == 0);
  }
}

static ino_t inode_of(const char *name) {
  struct stat st;
  return lstat(path_of(name), &st) == 0 ? st.st_ino : 0;
}

/* Nothing was written outside, or made there. */
static void check_outside(void) {
  char bytes[16] = "";
  int fd = open(outside_of("secret"), O_RDONLY);
  CHECK(fd >= 0 && read(fd, bytes, sizeof bytes) == 6 && memcmp(bytes, "secret", 6) == 0);
  close(fd);
  CHECK(access(outside_of("new"), F_OK) != 0);
}

/* One by one, since only root may. */
static void clean(void) {
  static const char *const names[] = {"x.npy",   "x.npy.lock", "x.npy.new",     "bait.npy",
                                      "~second", ".changes.0", ".changes.64001"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) remove(path_of(names[i]));
}

/* The neighbour squats, then the victim does everything that he can. */
static void try(const char *name, void (*suffer)(void *)) {
  static const uid_t victims[] = {VICTIM, 0};
  for (int trick = 0; trick < TRICKS; trick++)
    for (int i = 0; i < 2; i++) {
      char page[32];
      snprintf(page, sizeof page, ".changes.%u", victims[i]);
      struct squat squatted = {name ? name : page, trick};
      int failed = harness_case_failed;
      as(NEIGHBOUR, squat, &squatted);
      ino_t inode = inode_of(squatted.name);
      as(victims[i], suffer, &squatted);
      CHECK(inode_of(squatted.name) == inode); /* it is left alone */
      check_outside();
      if (harness_case_failed > failed)
        printf("# %s as %s, the victim being uid %u\n", tricks[trick], squatted.name, victims[i]);
      clean();
    }
}

static void suffer_entry(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  sharearray_info info;
  CHECK(fails(store, "x", SHAREARRAY_GET, SHAREARRAY_EUNTRUSTED));
  CHECK(fails(store, "x", 0, SHAREARRAY_EUNTRUSTED));
  CHECK(fails(store, "x", SHAREARRAY_REFRESH, SHAREARRAY_EUNTRUSTED));
  CHECK(sharearray_stat(store, "x", &info, message) == 0 && info.state == SHAREARRAY_STATE_UNTRUSTED);
  CHECK(sharearray_sweep(store, message) == 0);
  CHECK(sharearray_remove(store, "x", message) == SHAREARRAY_EUNTRUSTED);
  CHECK(inode_of("x.npy.lock") == 0);
  sharearray_store_delete(store);
}
static void what_squats_an_entry_is_untrusted(void) { try("x.npy", suffer_entry); }

static void suffer_lock(void *argument) {
  (void)argument;
  char bytes[4200];
  sharearray_store *store = open_store(NULL);
  CHECK(fails(store, "x", SHAREARRAY_GET, SHAREARRAY_EUNTRUSTED));
  CHECK(fails(store, "x", 0, SHAREARRAY_EUNTRUSTED));
  CHECK(fails(store, "x", SHAREARRAY_REFRESH, SHAREARRAY_EUNTRUSTED));
  CHECK(sharearray_sweep(store, message) == 0);
  /* An entry that was there before, or that Python put there: a lock is no concern of its readers. */
  file_of(7, bytes);
  write_file(path_of("x.npy"), 7, 0444);
  CHECK(gives(store, "x", SHAREARRAY_GET, -1, 7) && gives(store, "x", 0, -1, 7));
  CHECK(fails(store, "x", SHAREARRAY_REFRESH, SHAREARRAY_EUNTRUSTED));
  CHECK(sharearray_remove(store, "x", message) == SHAREARRAY_EUNTRUSTED && inode_of("x.npy") == 0);
  sharearray_store_delete(store);
}
static void what_squats_a_lock_is_untrusted_and_hides_no_entry(void) { try("x.npy.lock", suffer_lock); }

static void suffer_new(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  CHECK(gives(store, "x", 0, 7, 7));
  CHECK(fails(store, "x", SHAREARRAY_REFRESH, SHAREARRAY_EUNTRUSTED));
  CHECK(gives(store, "x", SHAREARRAY_GET, -1, 7));
  CHECK(sharearray_sweep(store, message) == 0 && inode_of("x.npy.lock") == 0);
  CHECK(sharearray_remove(store, "x", message) == 1);
  sharearray_store_delete(store);
}
static void what_squats_the_way_of_a_refresh_stops_only_that(void) { try("x.npy.new", suffer_new); }

/* Who comes late finds the entry. */
static void await_builder(void) {
  while (inode_of("x.npy.lock") == 0 && inode_of("x.npy") == 0) usleep(1000);
}

static void suffer_page(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  sharearray_build *build = NULL;
  CHECK(store->page_ino == 0);
  CHECK(gives(store, "x", 0, 7, 7) && gives(store, "x", SHAREARRAY_REFRESH, 8, 8) && gives(store, "x", 0, -1, 8));
  CHECK(sharearray_remove(store, "x", message) == 1);
  /* A waiter polls. */
  pid_t waiter = fork();
  if (waiter == 0) {
    alarm(HANGS);
    int32_t seen = 0;
    await_builder();
    _exit(!(ask(store, "x", 0, -1, &seen) == 0 && seen == 9));
  }
  CHECK(sharearray_attach(store, "x", 0, &ticket, NULL, &build, message) == SHAREARRAY_BUILD);
  usleep(20000);
  int32_t seen;
  CHECK(publish(store, build, 9, &seen) == 0);
  finish(waiter);
  CHECK(sharearray_remove(store, "x", message) == 1);
  sharearray_store_delete(store);
}
static void what_squats_the_counter_page_changes_no_answer(void) { try(NULL, suffer_page); }

/* A page as it should be, but for its owner, who cuts it off under whoever has mapped it. */
static void make_page(void *argument) {
  char bytes[4096];
  sharearray_store_delete(open_store(NULL)); /* leaves .changes.64002 */
  int own = open(path_of(".changes.64002"), O_RDONLY), fd = open(path_of(argument), O_CREAT | O_EXCL | O_RDWR, 0644);
  CHECK(read(own, bytes, sizeof bytes) == sizeof bytes && write(fd, bytes, sizeof bytes) == sizeof bytes);
  CHECK(close(fd) == 0 && close(own) == 0 && unlink(path_of(".changes.64002")) == 0);
}

static void cut_page(void *argument) { CHECK(truncate(path_of(argument), 0) == 0); }

static void live_beside_page(void *argument) {
  const int *pipes = argument; /* tells that the store is open, and hears that the page was cut */
  char byte;
  sharearray_store *store = open_store(NULL);
  CHECK(store->page_ino == 0);
  CHECK(write(pipes[1], "x", 1) == 1 && read(pipes[2], &byte, 1) == 1);
  CHECK(gives(store, "x", 0, 7, 7) && gives(store, "x", SHAREARRAY_REFRESH, 8, 8));
  sharearray_store_delete(store);
}

static void a_strangers_counter_page_is_not_mapped(void) {
  static const struct {
    uid_t uid;
    char *page;
  } victims[] = {{VICTIM, ".changes.64001"}, {0, ".changes.0"}};
  for (int i = 0; i < 2; i++) {
    char byte;
    int pipes[4];
    CHECK(pipe(pipes) == 0 && pipe(pipes + 2) == 0);
    as(NEIGHBOUR, make_page, victims[i].page);
    pid_t victim = start(victims[i].uid, live_beside_page, pipes);
    CHECK(read(pipes[0], &byte, 1) == 1);
    as(NEIGHBOUR, cut_page, victims[i].page);
    CHECK(write(pipes[3], "x", 1) == 1);
    finish(victim);
    for (int j = 0; j < 4; j++) close(pipes[j]);
    clean();
  }
}

/* The kernel's own protections, which may be off. */

static const char *const settings[] = {"regular", "fifos", "hardlinks", "symlinks"};
enum { SETTINGS = 4 };

static int setting(int i, int value) {
  char path[64], text[8] = "";
  snprintf(path, sizeof path, "/proc/sys/fs/protected_%s", settings[i]);
  int fd = open(path, O_RDWR | O_CLOEXEC), old = -1;
  if (fd < 0) return -1;
  if (read(fd, text, sizeof text - 1) > 0) old = atoi(text);
  snprintf(text, sizeof text, "%d\n", value);
  if (value >= 0 && pwrite(fd, text, strlen(text), 0) < 0) old = -1;
  close(fd);
  return old;
}

/* The machine has them once: one run at a time changes them, and a process of its own puts them back, even
 * if the run is killed. */
struct guard {
  int old[SETTINGS], lock, rope;
  pid_t process;
};

static void guard_settings(struct guard *guard) {
  int ends[2];
  char byte;
  guard->lock = open("/proc/sys/fs/protected_regular", O_RDONLY | O_CLOEXEC);
  CHECK(flock(guard->lock, LOCK_EX) == 0 && pipe2(ends, O_CLOEXEC) == 0);
  for (int i = 0; i < SETTINGS; i++) guard->old[i] = setting(i, -1);
  fflush(stdout);
  guard->process = fork();
  if (guard->process == 0) {
    setsid();
    close(ends[1]);
    while (read(ends[0], &byte, 1) < 0) {
    }
    for (int i = 0; i < SETTINGS; i++) setting(i, guard->old[i]);
    _exit(0);
  }
  close(ends[0]);
  guard->rope = ends[1];
}

static void restore_settings(struct guard *guard) {
  close(guard->rope);
  finish(guard->process);
  for (int i = 0; i < SETTINGS; i++) CHECK(setting(i, -1) == guard->old[i]);
  close(guard->lock);
}

static void the_same_whatever_the_kernel_protects(void) {
  struct guard guard;
  guard_settings(&guard);
  for (int value = 0; value <= 2; value++) {
    for (int i = 0; i < SETTINGS; i++) setting(i, i < 2 ? value : value > 0);
    CHECK(setting(0, -1) == value);
    what_squats_an_entry_is_untrusted();
    what_squats_a_lock_is_untrusted_and_hides_no_entry();
    what_squats_the_way_of_a_refresh_stops_only_that();
    what_squats_the_counter_page_changes_no_answer();
  }
  restore_settings(&guard);
}

/* What he can do to what the victim has published. */

static void publish_bait(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  CHECK(gives(store, "bait", 0, 7, 7));
  sharearray_store_delete(store);
}

static void attack(const char *name) {
  const char *path = path_of(name);
  write_file(path_of("~second"), 666, 0644);
  CHECK(open(path, O_WRONLY) < 0 && errno == EACCES);
  CHECK(open(path, O_RDWR) < 0 && errno == EACCES);
  CHECK(open(path, O_WRONLY | O_TRUNC) < 0 && errno == EACCES);
  CHECK(truncate(path, 0) != 0 && errno == EACCES);
  CHECK(unlink(path) != 0 && errno == EPERM);
  CHECK(rename(path_of("~second"), path) != 0 && errno == EPERM);
  CHECK(rename(path, path_of("~third")) != 0 && errno == EPERM);
  CHECK(chmod(path, 0666) != 0 && errno == EPERM);
  int fd = open(path, O_RDONLY);
  CHECK(fd >= 0 && mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EACCES);
  CHECK(fcntl(fd, F_SETLEASE, F_RDLCK) != 0);
  close(fd);
  unlink(path_of("~second"));
}

static void attack_bait(void *argument) {
  (void)argument;
  attack("bait.npy");
  attack(".changes.64001");
}

static void check_bait(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  CHECK(gives(store, "bait", SHAREARRAY_GET, -1, 7));
  sharearray_store_delete(store);
}

static void entry_and_counter_page_cannot_be_written_truncated_or_moved(void) {
  as(VICTIM, publish_bait, NULL);
  as(NEIGHBOUR, attack_bait, NULL);
  as(VICTIM, check_bait, NULL);
  clean();
}

static void link_bait(void *argument) {
  (void)argument;
  CHECK(link(path_of("bait.npy"), path_of("~second")) == 0);
}

static void linked_bait(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  CHECK(fails(store, "bait", SHAREARRAY_GET, SHAREARRAY_EUNTRUSTED) && fails(store, "bait", 0, SHAREARRAY_EUNTRUSTED));
  CHECK(gives(store, "bait", SHAREARRAY_REFRESH, 8, 8) && gives(store, "bait", SHAREARRAY_GET, -1, 8));
  sharearray_store_delete(store);
}

/* A second link to an entry, where the kernel allows it: an owner's refresh helps. */
static void a_hard_link_to_an_entry_makes_it_untrusted_until_a_refresh(void) {
  struct guard guard;
  guard_settings(&guard);
  setting(2, 0);
  as(VICTIM, publish_bait, NULL);
  as(NEIGHBOUR, link_bait, NULL);
  as(VICTIM, linked_bait, NULL);
  restore_settings(&guard);
  clean();
}

/* Locks that are never given back. */

static int held;

static void hold(void *argument) {
  const char *name = argument;
  struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  write_file(path_of(name), 666, 0600);
  held = open(path_of(name), O_RDWR);
  CHECK(fcntl(held, F_OFD_SETLK, &range) == 0);
}

static void hold_lease(void *argument) {
  const char *name = argument;
  write_file(path_of(name), 666, 0644);
  held = open(path_of(name), O_RDWR);
  signal(SIGIO, SIG_IGN);
  CHECK(fcntl(held, F_SETLEASE, F_WRLCK) == 0);
}

static void refuse_lock(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  double started = sharearray_clock();
  CHECK(fails(store, "x", 0, SHAREARRAY_EUNTRUSTED) && fails(store, "x", SHAREARRAY_GET, SHAREARRAY_EUNTRUSTED));
  CHECK(sharearray_clock() - started < PATIENCE / 2);
  sharearray_store_delete(store);
}

static void a_strangers_lock_or_lease_is_not_waited_for(void) {
  static const char *const names[] = {"x.npy.lock", "x.npy"};
  static void (*const holds[])(void *) = {hold, hold_lease};
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) {
      struct stayer stayer;
      stay(&stayer, NEIGHBOUR, holds[j], (void *)names[i]);
      as(VICTIM, refuse_lock, NULL);
      as(0, refuse_lock, NULL);
      send_away(&stayer);
      clean();
    }
}

static void trust_lock(void *argument) {
  static const uint32_t trust[] = {NEIGHBOUR};
  (void)argument;
  sharearray_store *store = open_store(trust);
  double started = sharearray_clock();
  CHECK(fails(store, "x", 0, SHAREARRAY_WAIT));
  CHECK(sharearray_clock() - started >= PATIENCE && sharearray_clock() - started < 10 * PATIENCE);
  CHECK(fails(store, "x", SHAREARRAY_GET, SHAREARRAY_EABSENT));
  sharearray_store_delete(store);
}

static void a_trusted_users_lock_is_waited_for_until_the_timeout(void) {
  struct stayer stayer;
  stay(&stayer, NEIGHBOUR, hold, (void *)"x.npy.lock");
  as(VICTIM, trust_lock, NULL);
  as(0, trust_lock, NULL);
  send_away(&stayer);
  clean();
}

static void leave_python_lock(void *argument) {
  (void)argument;
  CHECK(close(open(path_of("x.npy.lock"), O_CREAT | O_EXCL | O_WRONLY, 0755)) == 0);
}

static void open_python_lock(void *argument) {
  (void)argument;
  CHECK((held = open(path_of("x.npy.lock"), O_RDONLY)) >= 0);
}

static void wait_for_python(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  CHECK(fails(store, "x", 0, SHAREARRAY_WAIT));
  sharearray_store_delete(store);
}

static void build_after_python(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  CHECK(gives(store, "x", 0, 7, 7));
  sharearray_store_delete(store);
}

/* A dead Python's lock can be read by all, and looks alive while a neighbour has it open. */
static void a_dead_pythons_lock_that_is_held_open_costs_the_timeout(void) {
  struct stayer stayer;
  as(VICTIM, leave_python_lock, NULL);
  stay(&stayer, NEIGHBOUR, open_python_lock, NULL);
  as(VICTIM, wait_for_python, NULL);
  send_away(&stayer);
  as(VICTIM, build_after_python, NULL);
  clean();
}

/* The counter page of the victim, which the neighbour may read. */

static void build_slowly(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  sharearray_build *build = NULL;
  int32_t seen;
  CHECK(sharearray_attach(store, "x", 0, &ticket, NULL, &build, message) == SHAREARRAY_BUILD);
  usleep(300000);
  CHECK(publish(store, build, 7, &seen) == 0);
  sharearray_store_delete(store);
}

static void wait_for_build(void *argument) {
  (void)argument;
  sharearray_store *store = open_store(NULL);
  await_builder();
  double started = sharearray_clock();
  patience = 40 * PATIENCE;
  CHECK(gives(store, "x", 0, -1, 7));
  CHECK(sharearray_clock() - started < 20 * PATIENCE); /* by a look of its own, not by its timeout */
  sharearray_store_delete(store);
}

/* Moves all who sleep on one of the victim's words to a word of his own, where nobody wakes them. */
static void steal_sleepers(void *argument) {
  (void)argument;
  uint32_t *mine = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const uint32_t *page = MAP_FAILED;
  for (;;) {
    int fd = open(path_of(".changes.64001"), O_RDONLY);
    if (fd >= 0) page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (page != MAP_FAILED) break;
  }
  for (;;)
    for (int i = 0; i < 1024; i++) syscall(SYS_futex, page + i, FUTEX_REQUEUE, 0, INT_MAX, mine, 0);
}

static void waiters_whose_sleep_is_stolen_look_again(void) {
  pid_t thief = start(NEIGHBOUR, steal_sleepers, NULL);
  pid_t builder = start(VICTIM, build_slowly, NULL), waiter = start(VICTIM, wait_for_build, NULL);
  finish(waiter);
  finish(builder);
  kill(thief, SIGKILL);
  waitpid(thief, NULL, 0);
  clean();
}

static void waiters_do_not_miss_what_comes_after_the_page_was_removed(void) {
  pid_t builder = start(VICTIM, build_slowly, NULL), waiter = start(VICTIM, wait_for_build, NULL);
  usleep(100000); /* after which the waiter mostly sleeps */
  int tries = 0;  /* on a busy machine they may begin late */
  while (unlink(path_of(".changes.64001")) != 0 && tries++ < 60000) usleep(1000);
  CHECK(tries < 60000);
  finish(waiter);
  finish(builder);
  clean();
}

/* Names that change all the time. */

static void flip(void *argument) {
  static const char *const names[] = {"x.npy", "x.npy.lock", "x.npy.new", ".changes.64001"};
  bool may_move = argument != NULL; /* the directory is not sticky */
  for (unsigned round = 0;; round++) {
    struct squat squatted = {names[round / TRICKS % 4], (int)(round % TRICKS)};
    char aside[160];
    snprintf(aside, sizeof aside, "%s/n_%s", directory, "~aside");
    if (may_move && round % 3 == 0) rename(path_of(squatted.name), aside);
    harness_case = "";
    int quiet = harness_case_failed = 1; /* a squat that fails was too late */
    squat(&squatted);
    if (round % 2) usleep(50);
    remove(path_of(squatted.name));
    remove(path_of("~second"));
    remove(aside);
    harness_case_failed = !quiet;
  }
}

static void live_beside_flips(void *argument) {
  const int *rounds = argument;
  sharearray_store *store = open_store(NULL);
  int counts[2] = {0};
  /* On a busy machine the neighbour may not get a turn for long. */
  for (int i = 0; i < *rounds || (i < 200 * *rounds && !(counts[0] && counts[1])); i++) {
    static const uint32_t flags[] = {0, SHAREARRAY_GET, SHAREARRAY_REFRESH};
    sharearray_info info;
    int32_t seen = 7;
    int code = ask(store, "x", flags[i % 3], 7, &seen);
    counts[code == 0]++;
    CHECK(seen == 7); /* nothing but what the victim made */
    /* Who may move our file away between its link and its rename. */
    bool moved = code == SHAREARRAY_EIO && i % 3 == 2 && strstr(message, "cannot replace");
    if (code != 0 && code != SHAREARRAY_EUNTRUSTED && code != SHAREARRAY_EDENIED && code != SHAREARRAY_WAIT && !moved &&
        !(code == SHAREARRAY_EABSENT && i % 3 == 1)) {
      printf("# flags %u: code %d, %s\n", flags[i % 3], code, message);
      CHECK(!"a code for names that a neighbour squats");
    }
    sharearray_stat(store, "x", &info, message);
    sharearray_sweep(store, message);
    if (i % 5 == 0) sharearray_remove(store, "x", message);
  }
  CHECK(counts[0] > 0 && counts[1] > 0); /* it met both */
  sharearray_store_delete(store);
}

static void flipping_names(mode_t mode) {
  int rounds = 500;
  CHECK(chmod(directory, mode) == 0);
  pid_t flipper = start(NEIGHBOUR, flip, mode == 0777 ? directory : NULL);
  as(VICTIM, live_beside_flips, &rounds);
  kill(flipper, SIGKILL);
  waitpid(flipper, NULL, 0);
  check_outside();
  CHECK(chmod(directory, 01777) == 0);
  remove(path_of("~aside"));
  clean();
}

static void names_that_change_all_the_time_never_give_foreign_data(void) { flipping_names(01777); }
static void nor_do_they_where_the_directory_is_not_sticky(void) { flipping_names(0777); }

/* A trusted user may still write nonsense. */

static void poison(void *argument) {
  const struct iovec_text {
    const char *bytes;
    size_t size;
  } *text = argument;
  int fd = open(path_of("x.npy"), O_CREAT | O_EXCL | O_WRONLY, 0444);
  CHECK(fd >= 0 && write(fd, text->bytes, text->size) == (ssize_t)text->size && close(fd) == 0);
}

static void taste(void *argument) {
  static const uint32_t trust[] = {NEIGHBOUR};
  (void)argument;
  sharearray_store *store = open_store(trust);
  sharearray_map *map = NULL;
  sharearray_info info;
  int code = sharearray_attach(store, "x", SHAREARRAY_GET, &ticket, &map, NULL, message);
  if (code != SHAREARRAY_ECORRUPT && code != SHAREARRAY_EUNSUPPORTED) printf("# code %d, %s\n", code, message);
  CHECK(code == SHAREARRAY_ECORRUPT || code == SHAREARRAY_EUNSUPPORTED);
  CHECK(sharearray_stat(store, "x", &info, message) == 0 && info.state >= SHAREARRAY_STATE_CORRUPT);
  store = (sharearray_store_delete(store), open_store(NULL));
  CHECK(fails(store, "x", SHAREARRAY_GET, SHAREARRAY_EUNTRUSTED));
  sharearray_store_delete(store);
}

static void poisoned_files_of_a_trusted_user_are_corrupt(void) {
#define TEXT(text)                                                                                                     \
  { text, sizeof text - 1 }
  static const struct {
    const char *bytes;
    size_t size;
  } texts[] = {
      TEXT("#!/bin/sh\n"),
      TEXT("\x93NUMPY\x01\x00\x06\x00{'a'}\n"),
      TEXT("\x93NUMPY\x09\x00\x06\x00{'a'}\n"),
      TEXT("\x93NUMPY\x01\x00\x3b\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}   \n12345678"),
      TEXT("\x93NUMPY\x01\x00\x45\x00{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}\n"),
      TEXT("\x93NUMPY\x01\x00\x3b\x00{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)} \n12345678"),
      TEXT("PK\x03\x04 but no directory"),
      TEXT("PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0"),
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    int failed = harness_case_failed;
    as(NEIGHBOUR, poison, (void *)&texts[i]);
    as(VICTIM, taste, NULL);
    if (harness_case_failed > failed) printf("# poison %zu\n", i);
    clean();
  }
}

int main(void) {
  if (geteuid() != 0) {
    puts("skip hostile_neighbours: it takes root to play two users");
    FINISH();
  }
  umask(022);
  snprintf(directory, sizeof directory, "/dev/shm/sharearray_spec.XXXXXX");
  snprintf(outside, sizeof outside, "/dev/shm/sharearray_spec.XXXXXX");
  if (!mkdtemp(directory) || !mkdtemp(outside)) return perror(directory), 1;
  harness_case = "set-up";
  int fd = open(outside_of("secret"), O_CREAT | O_EXCL | O_WRONLY, 0666);
  CHECK(write(fd, "secret", 6) == 6 && fchmod(fd, 0666) == 0 && close(fd) == 0);
  CHECK(chmod(directory, 01777) == 0 && chmod(outside, 0777) == 0);
  RUN(what_squats_an_entry_is_untrusted);
  RUN(what_squats_a_lock_is_untrusted_and_hides_no_entry);
  RUN(what_squats_the_way_of_a_refresh_stops_only_that);
  RUN(what_squats_the_counter_page_changes_no_answer);
  RUN(a_strangers_counter_page_is_not_mapped);
  if (access("/proc/sys/fs/protected_regular", W_OK) == 0) {
    RUN(the_same_whatever_the_kernel_protects);
    RUN(a_hard_link_to_an_entry_makes_it_untrusted_until_a_refresh);
  } else puts("skip the_same_whatever_the_kernel_protects: /proc/sys/fs/protected_* cannot be written");
  RUN(entry_and_counter_page_cannot_be_written_truncated_or_moved);
  RUN(a_strangers_lock_or_lease_is_not_waited_for);
  RUN(a_trusted_users_lock_is_waited_for_until_the_timeout);
  RUN(a_dead_pythons_lock_that_is_held_open_costs_the_timeout);
  RUN(waiters_whose_sleep_is_stolen_look_again);
  RUN(waiters_do_not_miss_what_comes_after_the_page_was_removed);
  RUN(names_that_change_all_the_time_never_give_foreign_data);
  RUN(nor_do_they_where_the_directory_is_not_sticky);
  RUN(poisoned_files_of_a_trusted_user_are_corrupt);
  clean();
  unlink(outside_of("secret"));
  if (rmdir(outside) != 0 || rmdir(directory) != 0) {
    printf("not ok nothing_is_left: %s or %s is not empty\n", directory, outside);
    harness_failures++;
  }
  FINISH();
}
