/* What the core's files share with each other and with nobody else. */
#ifndef SHAREARRAY_INTERNAL_H
#define SHAREARRAY_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_TMPFILE, F_OFD_SETLK, F_SETSIG, renameat2 */
#endif

/* The core calls its own functions directly, whoever else has a function of that name. */
#define SHAREARRAY_VISIBILITY "protected"
#include "sharearray.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <zlib.h>

/* luarocks compiles without -fvisibility=hidden. */
#pragma GCC visibility push(hidden)

enum {
  SA_PATH = 4096, /* bytes of a path with its NUL */
  SA_HUGE_PAGE = 2 << 20,
  SA_PIECE = 1 << 24, /* bytes of one call that copies or reserves: lets signals and event loops in */
  SA_RECHECK = 70,    /* ms: a waiter looks again, so that a killed builder is replaced within 100 */
  SA_POLL = 20,       /* ms: the same where no counter tells of a change */
  SA_LEASE_APART = 60 /* ms between two looks at a Python lock: 50 at least, and the clock is 4 ms coarse */
};

/* A file of the store's directory that has no name yet, or (file systems without O_TMPFILE) a
 * temporary one. */
struct sa_file {
  int fd;
  mode_t mode;             /* of a temporary one, once it is complete */
  char temporary[SA_PATH]; /* its name, "" for none */
};

/* A Python lock whose maker has closed it: dead, or about to unlink it. */
struct sa_suspect {
  dev_t dev;
  ino_t ino;
  struct timespec changed;
  double since; /* sharearray_clock() of the first look */
};

struct sa_page; /* changes.c */

struct sharearray_store {
  atomic_uint references; /* the caller's, and one for each build and draft */
  char *shm_path;
  char *prefix;
  char *stem; /* what the path of every file begins with: <shm_path>/<prefix> */
  int32_t mode;
  int64_t owner;
  uint32_t uid; /* who owns what is built here: `owner`, else the effective uid */
  uint32_t *trust;
  size_t trusted;
  enum { SA_HUGE_UNKNOWN, SA_HUGE_NO, SA_HUGE_ADVISED } huge; /* pages of the file system, by advice */
  bool disk;                 /* not a memory file system: fsync before a name is given */
  uint32_t overflow_uid;     /* trust.c: who has it is nobody in particular, */
  atomic_int user_namespace; /* unless this is the initial one */
  struct sa_page *page;      /* private memory where the counter page cannot be had */
  ino_t page_ino;            /* 0: private */
  dev_t dev;                 /* the directory itself, whatever path leads to it */
  ino_t ino;
  struct timespec changed;  /* its time of change at the last sharearray_settled() */
  struct timespec lockless; /* and at the last sa_lockless() */
  uint32_t looks;           /* for locks so far, or since then; UINT32_MAX: there is none */
  struct sa_suspect *suspects;
  size_t suspect_count, suspect_capacity;
};

/* The names of one id. */
struct sa_paths {
  char entry[SA_PATH]; /* <id>.npy */
  char lock[SA_PATH];  /* <id>.npy.lock */
  char fresh[SA_PATH]; /* <id>.npy.new */
};

struct sa_map {
  sharearray_map public; /* first: the public pointer is this one */
  atomic_uint references;
  dev_t dev;
  ino_t ino;        /* 0: no file */
  uid_t uid;        /* whose the file is */
  double published; /* seconds since the epoch */
  char *path;       /* the name it was found or published under, mostly behind this struct; NULL: none, or no memory */
  bool lent;        /* sharearray_lend() gave this very memory away */
};

struct sharearray_build {
  struct sharearray_build *next; /* in the process's list */
  sharearray_store *store;
  pthread_t thread;
  int lock;     /* descriptor of the lock file; -1: lost or given back */
  bool replace; /* a refresh, or a dead builder's short file stands there */
  bool refresh;
  bool orphan; /* inherited through fork() */
  struct sa_paths paths;
  char id[256];
};

struct sharearray_draft {
  struct sharearray_draft *next;
  sharearray_store *store;
  struct sa_file file;
  uint64_t bytes, reserved, written;
  struct sa_map *map; /* NULL until sharearray_draft_map() */
  char *window;       /* huge.c: all of the file, to reserve it by; NULL: none */
  bool windowless;    /* and there will be none */
  bool orphan;
};

/* error.c: every failure passes here. Writes the message and returns `code`. */
int sa_fail(char *message, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same for a system call that failed: adds errno's text, and picks the code by errno. */
int sa_fail_errno(char *message, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef SHAREARRAY_ANALYZE
/* For programs that read the code one file at a time: a failure is negative. */
static inline int sa_negative(int code) {
  if (code >= 0) __builtin_unreachable();
  return code;
}
#define sa_fail(...) sa_negative(sa_fail(__VA_ARGS__))
#define sa_fail_errno(...) sa_negative(sa_fail_errno(__VA_ARGS__))
#endif

/* name.c */
int sa_names(const sharearray_store *store, const char *id, struct sa_paths *paths, char *message);

/* trust.c: whom to trust with what stands under a name. */
/* Finds the kernel's overflow uid, at the opening of a store: 0, or EDENIED, EIO where it cannot be read. */
int sa_trust_new(sharearray_store *store, char *message);
/* Whether the uid stands for everybody who has none in this user namespace; also where that cannot be told. */
bool sa_is_nobody(sharearray_store *store, uint32_t uid);
/* Whether it is this user's, the owner option's, root's, or one that the trust option names; and not nobody's. */
bool sa_trusted_uid(sharearray_store *store, uint32_t uid);
/* 0, or EUNTRUSTED with the reason. `what` names the file's role in the message. */
int sa_check_trust(sharearray_store *store, const struct stat *st, const char *what, const char *path, char *message);

/* file.c: unnamed files, and giving them a name. */
int sa_file_create(const sharearray_store *store, uint32_t mode, struct sa_file *file, char *message);
/* 0; EEXIST as a positive value; negative with a message. */
int sa_file_link(struct sa_file *file, const char *path, char *message);
/* Over whatever stands under `path`, in one step, by way of `by`. EEXIST: another builder is on that way. */
int sa_file_replace(sharearray_store *store, struct sa_file *file, const char *by, const char *path, char *message);
/* Removes what a dead builder left on that way: 0, also if there is nothing; EEXIST: its maker lives.
 * A stranger's is EUNTRUSTED. */
int sa_file_bury(sharearray_store *store, const char *by, char *message);
int sa_file_mode(struct sa_file *file, mode_t mode);
/* ENOSPACE with the figures: `bytes` more did not fit into the store's directory. */
int sa_no_space(const sharearray_store *store, uint64_t bytes, char *message);
void sa_file_close(struct sa_file *file);
/* An OFD write lock on all of the file, without waiting: 0, or -1 and errno EAGAIN. */
int sa_lock_file(int fd);
int sa_write_all(int fd, const void *bytes, uint64_t size, uint64_t offset);
/* How many of the `size` bytes there are before the end of the file; -1 on error. */
int64_t sa_read_all(int fd, void *bytes, uint64_t size, uint64_t offset);
/* Opens a file of the store as the design asks: no link followed, nothing waited for. -errno on error. */
int sa_open(const char *path, int flags);
/* Whether that error of it means a symbolic link, a socket or a directory: a file that is seen there now was not there
 * then. */
bool sa_is_no_file(int error);

/* changes.c: the counter page. */
int sa_changes_new(sharearray_store *store, char *message);
void sa_changes_delete(sharearray_store *store);
/* Notices a page that was removed, and finds or makes the new one. */
void sa_changes_look(sharearray_store *store);
/* Counts the change and wakes who waits for it, with a look first, as the waiters sleep on the page that has the name. */
void sa_changes_bump(sharearray_store *store, const char *id);
/* The same for a builder that has published and removed its lock, which it says; on the page as it was looked at last. */
void sa_changes_published(sharearray_store *store, const char *id);
/* Takes that word of the builder before it back, which must happen between the lock and the publication. One who is held
 * up between its unlink and its word may say it later still: then a dead lock of the next one can stay beside its entry
 * until the next look. */
void sa_changes_begun(sharearray_store *store, const char *id);
/* Whether a builder's word since the counter stood at `seen` is that its lock is gone. The page may lie. */
bool sa_changes_are_published(const sharearray_store *store, const char *id, uint32_t seen);
/* Takes back what sharearray_note_failure() noted of this id. */
void sa_changes_succeeded(sharearray_store *store, const char *id);
/* Seconds since the epoch. */
double sa_wall_clock(void);

/* lock.c: the builder's lock; python.c: that of Python's builders. */
enum sa_lock {
  SA_LOCK_NONE,      /* no lock under the name */
  SA_LOCK_LIVE,      /* somebody builds */
  SA_LOCK_SUSPECT,   /* a Python lock to be looked at once more, after SA_LEASE_APART */
  SA_LOCK_HELD,      /* its maker is dead, and now *fd is the caller's: locked, and under the name */
  SA_LOCK_HELD_BACK, /* nobody builds, and nobody may for a while: its builders were killed again and again */
  SA_LOCK_MOVED      /* the name changed under us; lock.c only */
};
/* What stands under the lock's name, and who builds (`owner`): NONE, LIVE, SUSPECT, HELD. Negative:
 * EUNTRUSTED, EDENIED, EIO. */
int sa_lock_look(sharearray_store *store, const char *path, int *fd, sharearray_owner *owner, char *message);
/* Of an empty lock file, OFD-locked by the caller for the moment: LIVE, SUSPECT, or HELD for dead. */
int sa_python_look(sharearray_store *store, int fd, const struct stat *st);
/* Makes the lock, or inherits a dead builder's: HELD. Else LIVE, SUSPECT or HELD_BACK. */
int sa_lock_take(sharearray_store *store, const struct sa_paths *paths, int *fd, sharearray_owner *owner,
                 char *message);
/* Of one of our own builders: LIVE, HELD for one that is dead (nothing is held, then), NONE. */
int sa_lock_state(const sharearray_store *store, const char *id);
/* Whether the next builder of a HELD lock would have to hold back. */
bool sa_lock_is_held_back(int fd);
bool sa_lock_is_named(const char *path, int fd);
/* Removes the name, if it is still this file's; and closes, too. */
void sa_lock_unlink(const char *path, int fd);
void sa_lock_release(const char *path, int fd);
/* The same for a dead builder's lock: what else it left goes first. */
void sa_lock_bury(sharearray_store *store, const struct sa_paths *paths, int fd);

/* map.c */
int sa_map_file(int fd, uint64_t length, const struct stat *st, struct sa_map **map, char *message);
int sa_map_shared(int fd, uint64_t length, struct sa_map **map, char *message);
/* A map of nothing yet, with one reference, which the caller gives back by sharearray_unref(); NULL if there is no memory
 * for it. The path is copied, and may be NULL. */
struct sa_map *sa_map_blank(const char *path);
/* Maps the whole open file into a blank map: 0; or EIO, EDENIED, and it is as blank as before. */
int sa_map_fill(struct sa_map *blank, int fd, const struct stat *st, char *message);
/* Seconds since the epoch at which the file got its name; how long ago that is. */
double sa_published(const struct stat *st);
double sa_age(double published);
/* Writable; what is written stays here. */
int sa_map_private(int fd, uint64_t length, struct sa_map **map, char *message);
/* Reads what a whole file's mapping holds, an array or a bundle, into its public part. */
int sa_map_read(struct sa_map *map, char *message);

/* huge.c: reserves, in huge pages, up to `end` or the last whole one before it; false if it did nothing,
 * and what is to be reserved has to be so in the plain way. */
bool sa_huge_reserve(sharearray_draft *draft, uint64_t end);
void sa_huge_end(sharearray_draft *draft);

/* npy.c: the same as sharearray_npy_read(), but read in place: *npy is of no use after a failure, and of its sizes only
 * the first `ndim` are set. */
int sa_npy_read(const void *bytes, size_t size, uint64_t file_size, sharearray_npy *npy, int *is_short, char *message);
/* For big-endian arrays too. */
int sa_npy_read_any(const void *bytes, size_t size, uint64_t file_size, sharearray_npy *npy, int *is_short,
                    char *message);
/* Numbers of an element that lie one behind the other and are big-endian. */
struct sa_swap {
  uint32_t offset, count, unit; /* from the start of the element, bytes; how many; bytes of each */
};
struct sa_swaps {
  struct sa_swap *list; /* to be freed, after a failure too */
  size_t count;
};
/* Of an array with order '>', whose header is at `bytes`: makes its descr there a little-endian one, and
 * adds to `swaps` what has to be swapped in each element. */
int sa_npy_turn(void *bytes, const sharearray_npy *npy, struct sa_swaps *swaps, char *message);

/* view.c: what sharearray_npy has as its layout, of a header whose size was found to be possible. */
uint32_t sa_layout(const sharearray_npy *npy);

/* npz.c: the directory of a zip file of which the last bytes are in memory. */
struct sa_zip {
  const unsigned char *base; /* the bytes from `origin` to the end of the file */
  uint64_t origin, length;   /* length of the file */
  uint64_t directory, directory_size, count;
};
/* How a member lies in its file. */
struct sa_packed {
  uint64_t start; /* of its local header */
  uint64_t size;  /* of the content as it is stored there */
  bool deflated;
};
/* Fills directory, directory_size and count. The end records must be in memory. */
int sa_zip_find(struct sa_zip *zip, char *message);
/* The directory's entry at `at`, which must be in memory: its length, or a failure. Sets all of
 * `member` but its offset and array. */
int64_t sa_zip_entry(const struct sa_zip *zip, uint64_t at, sharearray_member *member, struct sa_packed *packed,
                     char *message);
/* How much of the local header has to be in memory, and is in the file; then, from it, the offset. */
uint64_t sa_zip_local_size(const sharearray_member *member);
int sa_zip_local(const struct sa_zip *zip, const unsigned char *local, const struct sa_packed *packed,
                 sharearray_member *member, char *message);
int sa_zip_check_names(const sharearray_member *members, uint64_t count, char *message);
/* Whether its name ends in .npy. */
bool sa_zip_is_array(const sharearray_member *member);

/* zlib.c: what is used of zlib. See its own manual, zlib.h. */
struct sa_zlib {
  uLong (*crc32_z)(uLong crc, const Bytef *bytes, z_size_t size);
  uLong (*crc32_combine)(uLong first, uLong second, int64_t second_size);
  int (*inflate_init)(z_streamp z, int bits, const char *version, int size);
  int (*inflate_reset)(z_streamp z);
  int (*inflate)(z_streamp z, int flush);
  int (*inflate_end)(z_streamp z);
};
/* Loads it if need be. EIO: it is not there. */
int sa_zlib(const struct sa_zlib **zlib, char *message);

/* source.c: the file that an import reads. */
struct sa_source {
  int fd;
  uint64_t length;
  const struct sa_zlib *zlib; /* of a zip file */
  bool deflated;              /* of the content that is being read: */
  uint64_t next;              /* byte of the file */
  uint64_t left;              /* deflated bytes to be read yet */
  z_stream z;
  bool inflating; /* `z` is initialised */
  bool ended;     /* its data is complete */
  unsigned char input[64 << 10];
};
/* A regular file, under whatever path. To be closed even if it was refused. */
int sa_source_open(struct sa_source *source, const char *path, char *message);
void sa_source_close(struct sa_source *source);
int sa_source_read_at(const struct sa_source *source, void *bytes, uint64_t size, uint64_t offset, char *message);
/* The content that begins at `offset` is read next; */
int sa_source_begin(struct sa_source *source, uint64_t offset, const struct sa_packed *packed, char *message);
/* then exactly `size` bytes more of it, less than 4 GiB; */
int sa_source_read(struct sa_source *source, void *bytes, uint64_t size, char *message);
/* and at last: that it has no more. */
int sa_source_end(struct sa_source *source, char *message);

/* convert.c: what an import converts. */
bool sa_is_utf8(const char *text, uint64_t length);
/* The dtype as a header of ours has it: little-endian, and in ASCII. Names of fields are Latin-1 in
 * versions 1 and 2 of the format, UTF-8 in 3; what is not ASCII becomes Python's escapes.
 * False if `size` bytes do not hold it, or it is not UTF-8. */
bool sa_spell_dtype(const sharearray_npy *npy, const unsigned char *file, char *descr, size_t size);
/* `size` bytes of elements from one byte order to the other. Numbers that fill elements may begin with
 * any; if there is more in an element, `bytes` is the start of one. */
void sa_swap(void *bytes, uint64_t size, uint32_t itemsize, const struct sa_swaps *swaps);
/* Whether swaps do fill the elements. */
bool sa_swaps_fill(const struct sa_swaps *swaps, uint32_t itemsize);
/* An array in Fortran order, to be read from its start to its end in pieces that become C order. */
struct sa_fortran {
  uint32_t itemsize;
  int ndim;             /* axes of more than one element, 2 or more: else both orders are the same, and 0 */
  uint64_t shape[32];   /* of these, the one that varies fastest in the file first */
  uint64_t strides[32]; /* theirs in C order, elements */
  int axis;             /* a piece is all of the axes before this one, and some of this one */
  uint64_t unit, most;  /* elements of one step along it; steps of one piece */
};
void sa_fortran_init(struct sa_fortran *order, const sharearray_npy *npy, uint64_t room);
/* Elements of the piece that begins at element `at` of the file. */
uint64_t sa_fortran_piece(const struct sa_fortran *order, uint64_t at);
/* Puts that piece where it belongs in the array at `to`. */
void sa_fortran_scatter(const struct sa_fortran *order, uint64_t at, const void *from, void *to);

/* entry.c: the finished file. */
enum sa_entry { SA_ENTRY_NONE, SA_ENTRY_SHORT, SA_ENTRY_READY };
/* What stands under the entry's name. READY sets *map, with a reference for the caller; `st` is filled
 * unless NONE. Negative: EUNTRUSTED, EDENIED, ECORRUPT, EUNSUPPORTED, EIO. */
int sa_entry_look(sharearray_store *store, const char *path, struct stat *st, struct sa_map **map, char *message);
/* The same in fewer steps, into a blank map of the path, for those who are woken by the hundred. False where there is
 * more to be done or to be said, which sa_entry_look() does: no array with a short header. The blank stays the caller's. */
bool sa_entry_take(sharearray_store *store, const char *path, struct sa_map *blank);

/* directory.c: whether there is no lock in the directory, as far as that is known for less than a look
 * at one name costs: the kernel keeps nothing of names that are not there. */
bool sa_lockless(sharearray_store *store);

/* store.c */
void sa_store_ref(sharearray_store *store);

/* process.c: builds and drafts of this process, for fork() and recursion. */
int sa_process_init(char *message);
void sa_process_add_build(sharearray_build *build);
void sa_process_remove_build(sharearray_build *build);
void sa_process_add_draft(sharearray_draft *draft);
void sa_process_remove_draft(sharearray_draft *draft);
/* Whether this thread holds the build of the entry. */
bool sa_process_builds(const sharearray_store *store, const struct sa_paths *paths);
/* open(2), with O_CLOEXEC, and close(2) for descriptors that a child of fork() must not keep. */
int sa_process_open(const char *path, int flags, mode_t mode);
void sa_process_close(int fd);

#pragma GCC visibility pop
#endif
