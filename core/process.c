/* The builds and drafts of this process: what fork() must not share, and who asks for what it is
 * building itself. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static sharearray_build *builds;
static sharearray_draft *drafts;

/* Every descriptor the core has open, from before its open() until after its close(): a lock's
 * description that leaked into a child would outlive a killed builder. */
static int *descriptors;
static size_t descriptor_count, descriptor_capacity;

static void before_fork(void) { pthread_mutex_lock(&mutex); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&mutex); }

/* A draft's memory turns into a private copy at the same address, so that a child that goes on writing
 * neither reaches the published array nor dies of it. Without memory for that, better it dies. */
static void make_private(const sharearray_draft *draft) {
  void *base = draft->map->public.base;
  size_t length = (size_t)draft->map->public.length;
  if (sys.mmap(base, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, draft->file.fd, 0) ==
      MAP_FAILED)
    sys.mprotect(base, length, PROT_READ);
}

/* Only calls that are safe between fork() and exec(): close, mmap and mprotect. A lock's description is
 * shared with the parent: closing the child's descriptor leaves the lock with the parent, and with it
 * alone. */
static void after_fork_in_child(void) {
  for (sharearray_build *build = builds; build; build = build->next) {
    build->lock = -1;
    build->orphan = true;
  }
  for (sharearray_draft *draft = drafts; draft; draft = draft->next) {
    if (draft->map) make_private(draft);
    draft->file.fd = -1;
    draft->file.temporary[0] = '\0';
    draft->orphan = true;
  }
  for (size_t i = 0; i < descriptor_count; i++) sys.close(descriptors[i]);
  descriptor_count = 0;
  builds = NULL;
  drafts = NULL;
  pthread_mutex_unlock(&mutex); /* the child's only thread is the one that took it */
}

static atomic_int atfork_error;
static void register_atfork(void) {
  atomic_store(&atfork_error, pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child));
}

int sa_process_init(char *message) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_atfork);
  if (!atomic_load(&atfork_error)) return 0;
  pthread_mutex_lock(&mutex); /* there was no memory for it: try again */
  if (atomic_load(&atfork_error)) register_atfork();
  pthread_mutex_unlock(&mutex);
  errno = atomic_load(&atfork_error);
  return errno ? sa_fail_errno(message, "pthread_atfork") : 0;
}

int sharearray_first(unsigned what) {
  static atomic_long pids[4];
  long me = getpid();
  return what < sizeof pids / sizeof *pids && atomic_exchange(&pids[what], me) != me;
}

void sa_process_add_build(sharearray_build *build) {
  pthread_mutex_lock(&mutex);
  build->next = builds;
  builds = build;
  pthread_mutex_unlock(&mutex);
}

void sa_process_remove_build(sharearray_build *build) {
  pthread_mutex_lock(&mutex);
  for (sharearray_build **link = &builds; *link; link = &(*link)->next)
    if (*link == build) {
      *link = build->next;
      break;
    }
  pthread_mutex_unlock(&mutex);
}

void sa_process_add_draft(sharearray_draft *draft) {
  pthread_mutex_lock(&mutex);
  draft->next = drafts;
  drafts = draft;
  pthread_mutex_unlock(&mutex);
}

void sa_process_remove_draft(sharearray_draft *draft) {
  pthread_mutex_lock(&mutex);
  for (sharearray_draft **link = &drafts; *link; link = &(*link)->next)
    if (*link == draft) {
      *link = draft->next;
      break;
    }
  pthread_mutex_unlock(&mutex);
}

int sa_process_open(const char *path, int flags, mode_t mode) {
  int fd = -1;
  pthread_mutex_lock(&mutex);
  if (descriptor_count == descriptor_capacity) {
    size_t capacity = descriptor_capacity * 2 + 16;
    int *grown = realloc(descriptors, capacity * sizeof *grown);
    if (grown) {
      descriptors = grown;
      descriptor_capacity = capacity;
    }
  }
  if (descriptor_count < descriptor_capacity) fd = sys.open(path, flags | O_CLOEXEC, mode);
  else errno = ENOMEM;
  if (fd >= 0) descriptors[descriptor_count++] = fd;
  pthread_mutex_unlock(&mutex);
  return fd;
}

void sa_process_close(int fd) {
  int error = errno;
  pthread_mutex_lock(&mutex);
  for (size_t i = descriptor_count; i-- > 0;)
    if (descriptors[i] == fd) {
      descriptors[i] = descriptors[--descriptor_count];
      sys.close(fd);
      break;
    }
  pthread_mutex_unlock(&mutex);
  errno = error; /* of the failure that led here */
}

/* The directory is compared by what it is: one may be reached by several paths. */
bool sa_process_builds(const sharearray_store *store, const struct sa_paths *paths) {
  const char *name = strrchr(paths->entry, '/');
  bool found = false;
  pthread_mutex_lock(&mutex);
  for (sharearray_build *build = builds; build && !found; build = build->next)
    found = pthread_equal(build->thread, pthread_self()) && build->store->dev == store->dev &&
            build->store->ino == store->ino && strcmp(strrchr(build->paths.entry, '/'), name) == 0;
  pthread_mutex_unlock(&mutex);
  return found;
}
