/* The counter page: which ids changed, which failed to be rebuilt, and where waiters sleep.
 *
 * One page a user, <prefix>.changes.<uid>, mapped by every process of that user. Each publication and
 * removal adds one to the id's counter (a futex word, in a slot chosen by hash) and to the page's
 * total. The page is a hint: nothing is correct because of it. Without one (no room, not ours, a
 * wrong size) the store has private memory in its place, and waiters poll.
 *
 * The mapping's address stays the same for the life of the store, so that a memo may keep pointers
 * into it: a page that is replaced is mapped over the old one. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
  PAGE = 4096,
  SLOTS = 252,
  VERSION = 1,
  WATCHED = 4 * SA_RECHECK, /* ms between the looks of a waiter while another one watches the builder */
  DONE = 1 << 20,           /* a mark is part of the id's hash, whether its builder is done, and */
  NUMBER = DONE - 1         /* ms of a clock, which go round in 17 minutes, or a counter */
};

struct sa_page {
  char magic[8];
  uint32_t version;
  _Atomic uint32_t total;
  uint32_t reserved[12];
  struct {
    _Atomic uint32_t counter;
    _Atomic uint32_t failed; /* when a rebuild of an id in this slot failed last, see stamp(); 0: never */
    _Atomic uint32_t whose;  /* hash of that id */
    _Atomic uint32_t mark;   /* when a waiter last saw its builder alive, or that one is done: see mark_of() */
  } slots[SLOTS];
};
_Static_assert(sizeof(struct sa_page) <= PAGE, "the counters fit one page");

static const char magic[8] = "SHAREAR";

/* FNV-1a (Fowler, Noll, Vo; draft-eastlake-fnv). */
static uint32_t hash_of(const char *id) {
  uint32_t hash = 2166136261u;
  for (; *id; id++) hash = (hash ^ (unsigned char)*id) * 16777619u;
  return hash;
}

static unsigned slot_of(const char *id) {
  uint32_t hash = hash_of(id);
  return (hash ^ hash >> 16) % SLOTS;
}

/* Not by snprintf(), which no start takes otherwise: it would cost four page faults. */
static void page_path(const sharearray_store *store, char *path) {
  char digits[] = "4294967295", *first = digits + sizeof digits - 1;
  uint32_t uid = store->uid;
  do *--first = (char)('0' + uid % 10);
  while (uid /= 10);
  stpcpy(stpcpy(stpcpy(path, store->stem), ".changes."), first);
}

static void page_make(const sharearray_store *store, const char *path) {
  struct sa_page page = {.version = VERSION};
  struct sa_file file;
  memcpy(page.magic, magic, sizeof magic);
  if (sa_file_create(store, 0644, &file, NULL) != 0) return;
  if (sys.fallocate(file.fd, 0, PAGE) == 0 && sa_write_all(file.fd, &page, sizeof page, 0) == 0)
    sa_file_link(&file, path, NULL); /* EEXIST: somebody else's is as good */
  sa_file_close(&file);
}

/* Whether the open file is a page of this store's user that may be mapped. */
static bool page_sound(const sharearray_store *store, int fd, struct stat *st) {
  struct sa_page head;
  enum { HEAD = offsetof(struct sa_page, total) };
  return sys.fstat(fd, st) == 0 && S_ISREG(st->st_mode) && st->st_uid == store->uid && st->st_nlink == 1 &&
         !(st->st_mode & S_IWOTH) && st->st_size == PAGE && sa_read_all(fd, &head, HEAD, 0) == HEAD &&
         memcmp(head.magic, magic, sizeof magic) == 0 && head.version == VERSION;
}

/* Maps the page under the name over the store's present one. */
static bool page_open(sharearray_store *store, const char *path) {
  struct stat st;
  int fd = sa_open(path, O_RDWR);
  if (fd < 0) return false;
  bool sound = page_sound(store, fd, &st);
  if (sound) {
    void *page = sys.mmap(store->page, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    sound = page != MAP_FAILED;
    if (sound) store->page_ino = st.st_ino;
  }
  sa_process_close(fd);
  return sound;
}

static void page_none(sharearray_store *store) {
  store->page_ino = 0;
  sys.mmap(store->page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

void sa_changes_look(sharearray_store *store) {
  char path[SA_PATH];
  struct stat st;
  uint32_t uid = store->owner >= 0 ? (uint32_t)store->owner : geteuid();
  /* A server's worker goes on as another user with what root opened before the fork. */
  if (uid != store->uid) page_none(store);
  store->uid = uid;
  /* Without a mapping in a user namespace: a page of this uid may be anybody's, who might truncate it. */
  if (sa_is_nobody(store, uid)) return;
  page_path(store, path);
  if (sys.lstat(path, &st) == 0) {
    if (st.st_ino != store->page_ino) page_open(store, path);
  } else if (errno == ENOENT) {
    page_make(store, path);
    page_open(store, path);
  }
}

int sa_changes_new(sharearray_store *store, char *message) {
  store->page = sys.mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (store->page == MAP_FAILED) {
    store->page = NULL;
    return sa_fail_errno(message, "cannot map a page");
  }
  sa_changes_look(store);
  return 0;
}

void sa_changes_delete(sharearray_store *store) {
  if (store->page) sys.munmap(store->page, PAGE);
}

static void wake(sharearray_store *store, unsigned slot, uint32_t waiters) {
  sys.futex((const uint32_t *)&store->page->slots[slot].counter, FUTEX_WAKE, waiters, NULL);
}

static uint32_t mark_of(const char *id, uint32_t done, uint32_t number) {
  return (hash_of(id) & ~(DONE | NUMBER)) | done | (number & NUMBER);
}

void sa_changes_begun(sharearray_store *store, const char *id) {
  unsigned slot = slot_of(id);
  sa_changes_look(store);
  uint32_t mark = atomic_load(&store->page->slots[slot].mark);
  if (mark == mark_of(id, DONE, mark)) atomic_compare_exchange_strong(&store->page->slots[slot].mark, &mark, 0);
}

void sa_changes_published(sharearray_store *store, const char *id) {
  unsigned slot = slot_of(id);
  uint32_t counter = atomic_fetch_add(&store->page->slots[slot].counter, 1) + 1;
  atomic_store(&store->page->slots[slot].mark, mark_of(id, DONE, counter));
  atomic_fetch_add(&store->page->total, 1);
  wake(store, slot, INT_MAX);
}

void sa_changes_bump(sharearray_store *store, const char *id) {
  unsigned slot = slot_of(id);
  sa_changes_look(store);
  atomic_fetch_add(&store->page->slots[slot].counter, 1);
  atomic_fetch_add(&store->page->total, 1);
  wake(store, slot, INT_MAX);
}

const uint32_t *sharearray_changes(const sharearray_store *store) { return (const uint32_t *)&store->page->total; }

uint32_t sharearray_changes_of(const sharearray_store *store, const char *id) {
  return atomic_load(&store->page->slots[slot_of(id)].counter);
}

/* That a builder of the id was seen alive just now. */
static uint32_t alive_mark(const char *id) { return mark_of(id, 0, (uint32_t)(uint64_t)sharearray_clock()); }

/* Whether another waiter watches the id's builder: it left a mark within two of its looks. `mine` is the
 * caller's own last one. */
static bool is_watched(uint32_t mark, uint32_t mine, const char *id) {
  uint32_t now = alive_mark(id);
  return mark != mine && (mark & ~NUMBER) == (now & ~NUMBER) && ((now - mark) & NUMBER) < 2 * SA_RECHECK;
}

/* Its mark has the counter that the builder left, which has gone on since if others of the slot changed. */
bool sa_changes_are_published(const sharearray_store *store, const char *id, uint32_t seen) {
  unsigned slot = slot_of(id);
  uint32_t mark = atomic_load(&store->page->slots[slot].mark);
  uint32_t now = atomic_load(&store->page->slots[slot].counter);
  uint32_t since = (mark - seen) & NUMBER;
  return mark == mark_of(id, DONE, mark) && since && since <= ((now - seen) & NUMBER);
}

/* Whoever watched and goes wakes another waiter, who takes his place. Without that nobody would see for four
 * looks that the next builder dies too, or this one when the watcher's time is over. */
static void stop_watching(sharearray_store *store, unsigned slot, uint32_t mine) {
  if (mine && atomic_compare_exchange_strong(&store->page->slots[slot].mark, &mine, 0)) wake(store, slot, 1);
}

/* While the counter stands still, all that a full look could find is that our builder has died. Of hundreds
 * of waiters one looks for that, every SA_RECHECK. The others see by its marks that it still does, and look
 * themselves now and then, as the page may lie. */
void sharearray_wait(sharearray_store *store, const char *id, const sharearray_ticket *ticket, double seconds) {
  unsigned slot = slot_of(id);
  const uint32_t *counter = (const uint32_t *)&store->page->slots[slot].counter;
  uint32_t mine = 0;
  bool doubt = false;
  double bound = ticket->recheck / 1e3;
  while (seconds > 0) {
    if (seconds < bound) bound = seconds;
    struct timespec timeout = {.tv_sec = (time_t)bound, .tv_nsec = (long)((bound - (double)(time_t)bound) * 1e9)};
    /* EAGAIN: it changed already. EINTR goes back too, so that Lua can see the signal. */
    if (sys.futex(counter, FUTEX_WAIT, ticket->seen, &timeout) == 0 || errno != ETIMEDOUT) break;
    if (!store->page_ino || ticket->recheck != SA_RECHECK) break;
    bool watched = is_watched(atomic_load(&store->page->slots[slot].mark), mine, id);
    int lock = !watched || doubt ? sa_lock_state(store, id) : SA_LOCK_LIVE;
    /* A builder that was killed between its unlink and its wake. */
    if (lock == SA_LOCK_NONE) wake(store, slot, INT_MAX);
    watched = watched && lock == SA_LOCK_LIVE;
    if (lock != SA_LOCK_LIVE) break;
    if (!watched) atomic_store(&store->page->slots[slot].mark, mine = alive_mark(id));
    doubt = watched && !doubt;
    seconds -= bound;
    bound = (watched ? WATCHED : SA_RECHECK) / 1e3;
  }
  stop_watching(store, slot, mine);
}

/* Milliseconds of the wall clock, as far as 32 bits go: seven weeks. Never 0. */
static uint32_t stamp(void) { return (uint32_t)(uint64_t)(sa_wall_clock() * 1e3) | 1; }

void sharearray_note_failure(sharearray_store *store, const char *id) {
  unsigned slot = slot_of(id);
  sa_changes_look(store);
  atomic_store(&store->page->slots[slot].whose, hash_of(id));
  atomic_store(&store->page->slots[slot].failed, stamp());
}

void sa_changes_succeeded(sharearray_store *store, const char *id) {
  unsigned slot = slot_of(id);
  if (atomic_load(&store->page->slots[slot].whose) == hash_of(id)) atomic_store(&store->page->slots[slot].failed, 0);
}

double sharearray_failure_age(const sharearray_store *store, const char *id) {
  unsigned slot = slot_of(id);
  uint32_t failed = atomic_load(&store->page->slots[slot].failed);
  int32_t age = (int32_t)(stamp() - failed);
  /* Ahead of us: the clock was set back, or it is garbage. */
  if (failed == 0 || age < -1000 || atomic_load(&store->page->slots[slot].whose) != hash_of(id)) return -1;
  return age > 0 ? age / 1e3 : 0;
}

double sa_wall_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double sharearray_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}
