/* Every call, failed: each step of spec/torture/steps.h is done once for every system call that it makes and
 * every error this call can have, once and for ever; and once for every allocation. What comes of it is
 * success or a code with a message; nothing is left behind; nothing leaks; the next call works.
 *
 * The linker's --wrap (see the Makefile) leads what is no call of the core's table through here. */
#include "steps.h"

#include <time.h>

/* ---- Allocations, and calls of libraries that fail like one ---- */

static long allocations_made, allocation_to_fail, allocations_live;
static bool from_then_on;

static bool allocation_fails(void) {
  if (!plan.armed) return false;
  long n = ++allocations_made;
  bool fails = allocation_to_fail && (n == allocation_to_fail || (from_then_on && n > allocation_to_fail));
  if (fails) errno = ENOMEM;
  faults_given += fails;
  return fails;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *memory);
DIR *__real_fdopendir(int fd);
struct dirent *__real_readdir(DIR *directory);
void *__real_dlsym(void *library, const char *name);
int __real_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void));
int __real_clock_gettime(clockid_t clock, struct timespec *now);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *memory);
DIR *__wrap_fdopendir(int fd);
struct dirent *__wrap_readdir(DIR *directory);
void *__wrap_dlsym(void *library, const char *name);
int __wrap_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void));
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

static void *taken(void *memory) {
  allocations_live += memory != NULL;
  return memory;
}

void *__wrap_malloc(size_t size) { return allocation_fails() ? NULL : taken(__real_malloc(size)); }
void *__wrap_calloc(size_t n, size_t size) { return allocation_fails() ? NULL : taken(__real_calloc(n, size)); }
char *__wrap_strdup(const char *text) { return allocation_fails() ? NULL : taken(__real_strdup(text)); }

void *__wrap_realloc(void *memory, size_t size) {
  if (allocation_fails()) return NULL;
  void *grown = __real_realloc(memory, size);
  return memory ? grown : taken(grown);
}

void __wrap_free(void *memory) {
  allocations_live -= memory != NULL;
  __real_free(memory);
}

DIR *__wrap_fdopendir(int fd) { return allocation_fails() ? NULL : __real_fdopendir(fd); }
struct dirent *__wrap_readdir(DIR *open) {
  return allocation_fails() ? NULL : __real_readdir(open);
}

/* The core finds zlib's functions by their names. */
static int (*real_inflate_init)(z_streamp z, int bits, const char *version, int size);
static int (*real_inflate)(z_streamp z, int flush);

static int failing_inflate_init(z_streamp z, int bits, const char *version, int size) {
  return allocation_fails() ? Z_MEM_ERROR : real_inflate_init(z, bits, version, size);
}

static int failing_inflate(z_streamp z, int flush) { return allocation_fails() ? Z_MEM_ERROR : real_inflate(z, flush); }

static int (*const inflate_init_pointer)(z_streamp, int, const char *, int) = failing_inflate_init;
static int (*const inflate_pointer)(z_streamp, int) = failing_inflate;

void *__wrap_dlsym(void *library, const char *name) {
  void *found = __real_dlsym(library, name);
  if (strcmp(name, "inflateInit2_") == 0) {
    memcpy(&real_inflate_init, &found, sizeof found);
    memcpy(&found, &inflate_init_pointer, sizeof found);
  } else if (strcmp(name, "inflate") == 0) {
    memcpy(&real_inflate, &found, sizeof found);
    memcpy(&found, &inflate_pointer, sizeof found);
  }
  return found;
}

int __wrap_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void)) {
  return allocation_fails() ? ENOMEM : __real_pthread_atfork(before, parent, child);
}

/* Waiting costs no time here: the clocks go forward instead. */
static double skipped;

int __wrap_clock_gettime(clockid_t clock, struct timespec *now) {
  int result = __real_clock_gettime(clock, now);
  double seconds = (double)now->tv_nsec / 1e9 + skipped;
  now->tv_sec += (time_t)seconds;
  now->tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9);
  return result;
}

static long futex_without_sleep(const uint32_t *word, int operation, uint32_t value, const struct timespec *timeout) {
  if (timeout) skipped += (double)timeout->tv_sec + (double)timeout->tv_nsec / 1e9 + 0.01;
  (void)word, (void)operation, (void)value;
  errno = ETIMEDOUT;
  return timeout ? -1 : 0;
}

/* ---- One step with one fault ---- */

static int failures;
static bool judged; /* not in the first run: the core has lists that grow once */
static char what_is_done[192];

static void complain(const char *why) {
  if (failures++ < 3 || getenv("VERBOSE")) printf("# %s: %s\n", what_is_done, why);
}

static void hang(int signal) {
  (void)signal;
  printf("not ok %s: hangs\n", what_is_done);
  fflush(stdout);
  _exit(1);
}

static bool exists(const char *name) {
  struct stat st;
  return lstat(path_of(name), &st) == 0;
}

/* A wait that came to no end: only where the lock was said to be somebody's, or the fault stays. */
static bool may_wait(void) {
  return plan.what == FAIL_FROM || (plan.at && calls_seen[plan.at] == CALL_lock) || from_then_on;
}

/* A lock stays, for the next one to remove, where it could not be unlinked, or not be told from another's. */
static bool may_leave_lock(const struct step *step) {
  enum call call = plan.at ? calls_seen[plan.at] : CALL_COUNT;
  bool was_clean = step->prepare == nothing || step->prepare == entry;
  return !was_clean || call == CALL_unlink || call == CALL_lstat || call == CALL_fstat;
}

static void check_result(const struct step *step, int code) {
  if (code < 0 && (code < SHAREARRAY_EIO || !*message)) blame("a failure without a message");
  if (code == SHAREARRAY_WAIT && !may_wait()) blame("a wait without end");
  if (code < 0 || code == SHAREARRAY_WAIT) return;
  if (step->act == list && !listed) blame("a list that lacks an id");
  if (step->version && !exists("x.npy")) blame("a success without an entry");
  if (!step->version && exists("x.npy")) blame("a removal without effect");
}

/* Whether there was an entry that the step may replace, but not lose. */
static bool keeps_entry(const struct step *step) {
  return step->version && step->prepare != nothing && step->prepare != dead_lock && step->prepare != python_lock &&
         step->prepare != partial_entry;
}

/* Without faults, all is as it should be. */
static void check_next_call(const struct step *step, bool succeeded) {
  sharearray_store *store = NULL;
  int32_t version = SPARE, expected = succeeded ? step->version : 0;
  int pending = open_store(&store) == 0 ? sharearray_sweep(store, message) : -1;
  skipped += 0.1; /* a Python's lock needs a second look */
  if (pending > 0) pending = sharearray_sweep(store, message);
  if (pending != 0) blame("the next call fails: sweep");
  else if (obtain(store, 0, WRITTEN, &version) != 0) blame("the next call fails: cache");
  else if (expected && version != expected) blame("a success, but another version is there");
  else if (version == SPARE && keeps_entry(step)) blame("the entry is lost");
  else if (version != SPARE && version != OLD && version != step->version) blame("the next call gives other data");
  sharearray_store_delete(store);
}

static int run_once(const struct step *step) {
  wrong = NULL;
  *message = '\0';
  faults_given = allocations_made = 0;
  clear();
  step->prepare();
  long live = allocations_live;
  struct holdings before = holdings_now();
  alarm(30);
  arm();
  int code = run_step(step);
  disarm();
  check_result(step, code);
  struct holdings after = holdings_now();
  compare_holdings(&before, &after);
  if (allocations_live != live) blame("memory leaks");
  if (!may_leave_lock(step)) blame_leftover();
  check_next_call(step, code >= 0 && code != SHAREARRAY_WAIT);
  blame_leftover();
  clear();
  alarm(0);
  if (wrong && judged) complain(wrong);
  return code;
}

/* ---- The sweep ---- */

static long calls_swept, faults_swept, allocations_swept;

static void fail_call(const struct step *step, long n, enum call call, int error, int what) {
  /* Interrupted for ever is nothing that a call can be. */
  if (what == FAIL_FROM && error == EINTR) return;
  plan.what = what;
  plan.at = n;
  plan.error = error;
  snprintf(what_is_done, sizeof what_is_done, "%s: call %ld, %s: %s%s", step->name, n, call_infos[call].name,
           error == SHORT ? "short" : strerrorname_np(error), what == FAIL_FROM ? ", for ever" : "");
  run_once(step);
  faults_swept++;
  plan.what = COUNT_ONLY;
  plan.at = 0;
}

/* On a disk, what gets a name was synced before. */
static void check_synced(const enum call *seen, long calls) {
  bool synced = false, named = false;
  for (long n = 1; n <= calls; n++) {
    synced |= seen[n] == CALL_fsync;
    named |= synced && (seen[n] == CALL_linkat || seen[n] == CALL_rename || seen[n] == CALL_renameat2);
  }
  if (!named) complain("a name without a sync before it");
}

static void fail_calls(const struct step *step, enum kernel kind, int stride) {
  static enum call seen[CALLS_MAX + 1];
  run_once(step);
  long calls = calls_made < CALLS_MAX ? calls_made : CALLS_MAX;
  memcpy(seen, calls_seen, sizeof seen);
  if (kind == DISK && (step->version == NEW || step->version == IMPORTED)) check_synced(seen, calls);
  for (long n = 1; n <= calls; n += stride) {
    for (const int *error = call_infos[seen[n]].errors; *error; error++) {
      fail_call(step, n, seen[n], *error, FAIL_ONCE);
      fail_call(step, n, seen[n], *error, FAIL_FROM);
    }
    calls_swept++;
  }
}

static void fail_allocations(const struct step *step) {
  run_once(step);
  long count = allocations_made;
  for (long n = 1; n <= count; n++)
    for (int lasting = 0; lasting < 2; lasting++) {
      allocation_to_fail = n;
      from_then_on = lasting;
      snprintf(what_is_done, sizeof what_is_done, "%s: allocation %ld%s", step->name, n,
               lasting ? " and all after" : "");
      run_once(step);
    }
  allocations_swept += count;
  allocation_to_fail = from_then_on = 0;
}

/* What a process allocates once: each try in a child that has used nothing of the core yet. */
static bool fail_first_allocations(void) {
  int status = 1;
  long n = 0;
  for (bool failed = true; failed; n++) {
    pid_t child = fork();
    if (child == 0) {
      kernel.futex = futex_without_sleep;
      allocation_to_fail = n + 1;
      arm();
      int code = run_step(&steps[0]);
      disarm();
      check_result(&steps[0], code);
      check_next_call(&steps[0], code >= 0);
      if (wrong) printf("# first use: allocation %ld: %s\n", n + 1, wrong);
      exit(wrong ? 1 : faults_given ? 0 : 2);
    }
    waitpid(child, &status, 0);
    failed = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    clear();
  }
  bool right = WIFEXITED(status) && WEXITSTATUS(status) == 2;
  printf("%s first use in a process: %ld allocations\n", right ? "ok" : "not ok", n - 1);
  fflush(stdout);
  return right;
}

int main(void) {
  bool quick = getenv("QUICK");
  int status = 0;
  umask(022);
  signal(SIGALRM, hang);
  make_base();
  wrap_calls(PLAIN);
  status |= !fail_first_allocations();
  run_once(&steps[0]);
  judged = true;
  for (int i = 0; i < STEPS; i++) {
    const struct step *step = &steps[i];
    failures = 0;
    long calls = calls_swept, faults = faults_swept, allocations = allocations_swept;
    for (int kind = 0; kind < KERNELS; kind++) {
      wrap_calls(kind);
      kernel.futex = futex_without_sleep;
      snprintf(what_is_done, sizeof what_is_done, "%s", step->name);
      fail_calls(step, kind, quick && kind != PLAIN ? 3 : 1);
      fail_allocations(step);
    }
    printf("%s %s: %ld calls, %ld faults, %ld allocations", failures ? "not ok" : "ok", step->name, calls_swept - calls,
           faults_swept - faults, allocations_swept - allocations);
    printf(failures ? ", %d of them wrong\n" : "\n", failures);
    fflush(stdout);
    status |= failures != 0;
  }
  printf("# in all %ld calls, %ld faults, %ld allocations\n", calls_swept, faults_swept, allocations_swept);
  remove_base();
  return status;
}
