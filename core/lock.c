/* The builder's lock: <id>.npy.lock, held by an OFD write lock that the kernel drops with its holder.
 *
 *              link a locked file           unlink
 *   (no name) --------------------> LIVE ------------> (no name)
 *                                     | its holder dies
 *                                     v     lock, rewrite the line
 *                                    DEAD --------------------------> LIVE, next attempt
 *
 * The name alone says nothing: whoever locks the file compares it with what stands under the name.
 * An empty file is a Python builder's, see python.c. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
  LINE = 128,         /* the owner line has a fixed size: one pwrite replaces it whole */
  ATTEMPTS = 100,     /* looks at a name that changes under us */
  PATIENCE = 3,       /* so many builders may be killed running before the next one holds back */
  HOLD_BACK_MAX = 30, /* seconds */
  ATTEMPT_MAX = 1000000
};

struct line {
  sharearray_owner owner;
  double died; /* when somebody first saw that the builder is dead; 0: not yet */
};

static int line_write(int fd, const struct line *line) {
  char text[LINE + 1];
  int length = snprintf(text, sizeof text, "pid=%lld attempt=%u since=%.3f died=%.3f program=%.31s",
                        (long long)line->owner.pid, line->owner.attempt, line->owner.since, line->died,
                        line->owner.program);
  if (length > LINE - 1) length = LINE - 1; /* numbers that a stranger wrote may be long */
  memset(text + length, ' ', (size_t)(LINE - 1 - length));
  text[LINE - 1] = '\n';
  ssize_t written = sys.pwrite(fd, text, LINE, 0);
  if (written >= 0 && written < LINE) errno = ENOSPC;
  return written == LINE ? 0 : -1;
}

static int write_error(const sharearray_store *store, const char *path, char *message) {
  if (errno == ENOSPC || errno == EDQUOT) return sa_no_space(store, LINE, message);
  return sa_fail_errno(message, "cannot write %s", path);
}

/* For messages and the count of attempts; garbage gives a builder of whom nothing is known. */
static void line_read(int fd, struct line *line) {
  char text[LINE + 1];
  long long pid;
  *line = (struct line){.owner = {.pid = -1, .attempt = 1}};
  int64_t size = sa_read_all(fd, text, LINE, 0);
  text[size > 0 ? size : 0] = '\0';
  struct line read = {0};
  if (sscanf(text, "pid=%lld attempt=%u since=%lf died=%lf program=%31[^\n]", &pid, &read.owner.attempt,
             &read.owner.since, &read.died, read.owner.program) < 4)
    return;
  /* NaN fails both comparisons. */
  if (!(read.owner.since >= 0 && read.owner.since < 1e11) || !(read.died >= 0 && read.died < 1e11)) return;
  if (read.owner.attempt == 0 || read.owner.attempt > ATTEMPT_MAX) read.owner.attempt = ATTEMPT_MAX;
  read.owner.pid = pid;
  for (size_t i = strlen(read.owner.program); i && read.owner.program[i - 1] == ' ';) read.owner.program[--i] = '\0';
  *line = read;
}

static struct line line_of_mine(uint32_t attempt) {
  struct line line = {.owner = {.pid = getpid(), .since = sa_wall_clock(), .attempt = attempt, .uid = geteuid()}};
  snprintf(line.owner.program, sizeof line.owner.program, "%s", program_invocation_short_name);
  return line;
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool sa_lock_is_named(const char *path, int fd) {
  struct stat mine, named;
  return sys.fstat(fd, &mine) == 0 && sys.lstat(path, &named) == 0 && same_file(&mine, &named);
}

int sa_lock_state(const sharearray_store *store, const char *id) {
  struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  struct sa_paths paths;
  if (sa_names(store, id, &paths, NULL) != 0) return SA_LOCK_HELD;
  int fd = sa_open(paths.lock, O_RDWR);
  if (fd < 0) return fd == -ENOENT ? SA_LOCK_NONE : SA_LOCK_HELD;
  bool held = sys.lock(fd, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
  sa_process_close(fd);
  return held ? SA_LOCK_LIVE : SA_LOCK_HELD;
}

void sa_lock_unlink(const char *path, int fd) {
  if (sa_lock_is_named(path, fd)) sys.unlink(path);
}

void sa_lock_release(const char *path, int fd) {
  sa_lock_unlink(path, fd);
  sa_process_close(fd);
}

void sa_lock_bury(sharearray_store *store, const struct sa_paths *paths, int fd) {
  sa_file_bury(store, paths->fresh, NULL);
  sa_lock_release(paths->lock, fd);
}

/* A lock that cannot be opened: not to be trusted, or a trusted other user's, waited for by existence. */
static int look_from_outside(sharearray_store *store, const char *path, int error, sharearray_owner *owner,
                             char *message) {
  struct stat st;
  if (sys.lstat(path, &st) != 0) {
    if (errno == ENOENT) return SA_LOCK_NONE;
    return sa_fail_errno(message, "cannot examine %s", path);
  }
  int code = sa_check_trust(store, &st, "lock", path, message);
  if (code) return code;
  if (sa_is_no_file(error)) return SA_LOCK_MOVED;
  if (error != EACCES && error != EPERM && error != EWOULDBLOCK) {
    errno = error;
    return sa_fail_errno(message, "cannot open %s", path);
  }
  owner->pid = -1;
  owner->uid = st.st_uid;
  return SA_LOCK_LIVE;
}

static int look_inside(sharearray_store *store, const char *path, int fd, sharearray_owner *owner, char *message) {
  struct stat st;
  struct line line;
  if (sys.fstat(fd, &st) != 0) return sa_fail_errno(message, "cannot examine %s", path);
  if (st.st_nlink == 0) return SA_LOCK_MOVED;
  int code = sa_check_trust(store, &st, "lock", path, message);
  if (code) return code;
  line_read(fd, &line);
  *owner = line.owner;
  owner->uid = st.st_uid;
  if (sa_lock_file(fd) != 0) {
    if (errno == EAGAIN || errno == EACCES) return SA_LOCK_LIVE;
    return sa_fail_errno(message, "cannot lock %s", path);
  }
  /* The line and the size as they are under the lock: the holder may have changed in between. */
  if (!sa_lock_is_named(path, fd)) return SA_LOCK_MOVED;
  if (sys.fstat(fd, &st) != 0) return sa_fail_errno(message, "cannot examine %s", path);
  if (st.st_size == 0) {
    *owner = (sharearray_owner){.pid = -1, .since = (double)st.st_ctim.tv_sec, .attempt = 1, .uid = st.st_uid};
    snprintf(owner->program, sizeof owner->program, "python");
    return sa_python_look(store, fd, &st);
  }
  line_read(fd, &line);
  *owner = line.owner;
  owner->uid = st.st_uid;
  return SA_LOCK_HELD;
}

int sa_lock_look(sharearray_store *store, const char *path, int *out, sharearray_owner *owner, char *message) {
  struct stat st;
  *owner = (sharearray_owner){0};
  /* Nearly always there is none, and asking costs the kernel less than trying to open it. */
  if (sys.lstat(path, &st) != 0 && errno == ENOENT) return SA_LOCK_NONE;
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    int fd = sa_open(path, O_RDWR);
    if (fd == -ENOENT) return SA_LOCK_NONE;
    int result = fd < 0 ? look_from_outside(store, path, -fd, owner, message)
                        : look_inside(store, path, fd, owner, message);
    if (result == SA_LOCK_HELD) *out = fd;
    else if (fd >= 0) sa_process_close(fd);
    if (result != SA_LOCK_MOVED) return result;
  }
  return SA_LOCK_LIVE; /* locks come and go under this name: somebody is busy */
}

/* A new lock, born locked and with its line inside: HELD, or NONE if another one has the name. */
static int create(sharearray_store *store, const char *path, int *out, sharearray_owner *owner, char *message) {
  struct sa_file file;
  struct line line = line_of_mine(1);
  int code = sa_file_create(store, 0600, &file, message);
  if (code) return code;
  if (line_write(file.fd, &line) != 0) code = write_error(store, path, message);
  else if (sa_lock_file(file.fd) != 0) code = sa_fail_errno(message, "cannot lock %s", path);
  else code = sa_file_link(&file, path, message);
  if (code) {
    sa_file_close(&file);
    return code == EEXIST ? SA_LOCK_NONE : code;
  }
  *owner = line.owner;
  *out = file.fd;
  return SA_LOCK_HELD;
}

/* Seconds that the next builder holds back after so many were killed. */
static double hold_back(uint32_t killed) {
  double seconds = 0.5;
  if (killed < PATIENCE) return 0;
  while (killed-- > PATIENCE && seconds < HOLD_BACK_MAX) seconds *= 2;
  return seconds < HOLD_BACK_MAX ? seconds : HOLD_BACK_MAX;
}

/* Seconds that are left of the pause after several builders were killed. It begins when somebody first
 * sees the last one dead, and writes that down. */
static double pause_left(int fd, struct line *line) {
  double pause = line->owner.pid < 0 ? 0 : hold_back(line->owner.attempt), now = sa_wall_clock();
  if (pause == 0) return 0;
  if (line->died == 0) {
    line->died = now;
    line_write(fd, line); /* if not: the next one sees it die anew */
  }
  double over = now - line->died;
  /* The line rounds to milliseconds, so it may lie a little ahead; further ahead the clock was set back. */
  return over > -1 && over < pause ? pause - over : 0;
}

bool sa_lock_is_held_back(int fd) {
  struct line line;
  line_read(fd, &line);
  return pause_left(fd, &line) > 0;
}

/* A dead builder's lock becomes ours; or, where its builders are killed again and again (out of memory,
 * say), stays dead for a while. */
static int inherit(sharearray_store *store, const struct sa_paths *paths, int fd, sharearray_owner *owner,
                   char *message) {
  struct line old, mine;
  line_read(fd, &old);
  if (pause_left(fd, &old) > 0) {
    *owner = old.owner;
    owner->pid = 0;
    sa_process_close(fd);
    return SA_LOCK_HELD_BACK;
  }
  mine = line_of_mine(old.owner.pid < 0 ? 1 : old.owner.attempt + 1);
  if (line_write(fd, &mine) != 0) {
    int code = write_error(store, paths->lock, message);
    sa_process_close(fd);
    return code;
  }
  sa_file_bury(store, paths->fresh, NULL);
  *owner = mine.owner;
  return SA_LOCK_HELD;
}

int sa_lock_take(sharearray_store *store, const struct sa_paths *paths, int *fd, sharearray_owner *owner,
                 char *message) {
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    int result = sa_lock_look(store, paths->lock, fd, owner, message);
    if (result == SA_LOCK_HELD) return inherit(store, paths, *fd, owner, message);
    if (result == SA_LOCK_NONE) result = create(store, paths->lock, fd, owner, message);
    if (result != SA_LOCK_NONE) return result;
  }
  return SA_LOCK_LIVE;
}
