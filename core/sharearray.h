/* sharearray: numeric arrays that the processes of one machine build once and share.
 *
 * This header is the manual of the C core. What the core keeps, and where:
 *
 *   <shm_path>/<prefix><id>.npy        the entry: a NumPy file, complete and immutable under this name
 *   <shm_path>/<prefix><id>.npy.lock   there while somebody builds <id>
 *   <shm_path>/<prefix><id>.npy.new    the moment of a refresh: complete, about to be renamed
 *   <shm_path>/<prefix>.changes.<uid>  one page of counters: who waits sleeps on them
 *
 * A caller drives one protocol by hand. Nothing in it blocks except sharearray_wait() and sharearray_await(), so an
 * event loop may put its own sleep in that place:
 *
 *   for (;;) {
 *     int step = sharearray_attach(store, id, 0, &ticket, &map, &build, message);
 *     if (step == SHAREARRAY_READY) break;                   // map is the array
 *     if (step == SHAREARRAY_BUILD) { ...build, publish...; break; }
 *     if (step < 0) return step;                             // message says why
 *     sharearray_wait(store, id, &ticket, 1.0);              // SHAREARRAY_WAIT: somebody else builds
 *   }
 *
 * and, holding a build:
 *
 *   sharearray_draft_new(store, bytes, &draft, message);     // a file without a name
 *   while ((more = sharearray_draft_reserve(draft, 64 << 20, message)) > 0) {}
 *   sharearray_draft_map(draft, &memory, message);           // fill `memory`, header first
 *   sharearray_publish(build, draft, &map, message);         // under its name from here on
 *   sharearray_draft_delete(draft);
 *   sharearray_build_delete(build);
 *
 * Conventions. A function that can fail returns 0 or more on success and one of the negative
 * SHAREARRAY_E codes otherwise; it then writes one line for a person to `message`, a buffer of
 * SHAREARRAY_MESSAGE bytes owned by the caller (or NULL). Out-pointers are set on success only.
 * The core never prints, never exits, and keeps no descriptor but a build's lock and a draft's file.
 *
 * Threads. A store, a build and a draft belong to one thread at a time. A map's reference count is
 * atomic: maps may travel between threads. fork(): maps are inherited; builds and drafts stay with
 * the parent. In the child a build can only be deleted, and what it writes to a draft's memory is private.
 *
 * What no mapping can survive: a process of the same user, or root, that truncates an entry or the
 * counter page under its readers (SIGBUS). Removing a file is harmless, truncating it is not.
 */
#ifndef SHAREARRAY_H
#define SHAREARRAY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef SHAREARRAY_VISIBILITY
#define SHAREARRAY_VISIBILITY "default"
#endif
#define SHAREARRAY_API __attribute__((visibility(SHAREARRAY_VISIBILITY)))

enum {
  /* One more whenever a function or a struct here, or what one Lua module is to another, is no longer what it was: those
   * of two versions meet where one is installed under a process. */
  SHAREARRAY_ABI = 7,
  SHAREARRAY_MESSAGE = 1024, /* bytes of a message buffer, with its final NUL */
  SHAREARRAY_MAXDIMS = 32    /* NumPy's own limit before 2.0 */
};

/* SHAREARRAY_ABI as the library was compiled with, which may be another one than the caller. */
SHAREARRAY_API int sharearray_abi(void);

/* What a step of the protocol asks of the caller. */
enum {
  SHAREARRAY_READY = 0, /* there is a map */
  SHAREARRAY_BUILD = 1, /* the caller holds the build */
  SHAREARRAY_WAIT = 2,  /* somebody else holds it: wait, then ask again */
  SHAREARRAY_FILLED = 3 /* and more, sharearray_await() only: there is a map, and a view of it */
};

/* Failures. sharearray_code() has the same as words. */
enum {
  SHAREARRAY_EABSENT = -1,      /* no entry under this id */
  SHAREARRAY_ENOSPACE = -2,     /* shm_path is full */
  SHAREARRAY_ECORRUPT = -3,     /* the file is no NumPy file, or a damaged one */
  SHAREARRAY_EUNTRUSTED = -4,   /* something stands under the name that this user must not rely on */
  SHAREARRAY_EDENIED = -5,      /* the kernel refused permission */
  SHAREARRAY_EUNSUPPORTED = -6, /* a sound file of a kind not handled here */
  SHAREARRAY_ERECURSIVE = -7,   /* this thread is building this id itself */
  SHAREARRAY_EIO = -8,          /* any other refusal of the system; the message has the errno */
  SHAREARRAY_EINVAL = -9        /* a wrong argument */
};

/* Flags of sharearray_attach(). */
enum {
  SHAREARRAY_GET = 1,     /* never build: EABSENT instead of BUILD, and instead of waiting for one */
  SHAREARRAY_REFRESH = 2, /* build although there is an entry; publishing replaces it */
  SHAREARRAY_YIELDS = 4,  /* waiting lets this thread's other builds go on: WAIT, not ERECURSIVE */
  SHAREARRAY_FINAL = 8    /* the last call before a timeout: do not hold back to examine a lock */
};

/* What stands under an id: states of sharearray_info. */
enum {
  SHAREARRAY_STATE_READY = 0,
  SHAREARRAY_STATE_BUILDING = 1, /* no entry yet, or a short one, and a live builder */
  SHAREARRAY_STATE_PARTIAL = 2,  /* a short file that a dead builder left; the next builder replaces it */
  SHAREARRAY_STATE_UNTRUSTED = 3,
  SHAREARRAY_STATE_CORRUPT = 4,
  SHAREARRAY_STATE_UNSUPPORTED = 5,
  SHAREARRAY_STATE_DENIED = 6 /* somebody's that this user may not read */
};

typedef struct sharearray_store sharearray_store;
typedef struct sharearray_build sharearray_build;
typedef struct sharearray_draft sharearray_draft;
typedef struct sharearray_import sharearray_import;
typedef struct sharearray_npy sharearray_npy;
typedef struct sharearray_member sharearray_member;
typedef struct sharearray_map sharearray_map;

/* How a store is opened. Everything is copied. */
typedef struct sharearray_options {
  const char *shm_path;  /* an existing directory, for instance "/dev/shm" */
  const char *prefix;    /* characters of an id, or "" */
  int32_t mode;          /* permissions of what is published; -1: 0444 less the umask */
  int64_t owner;         /* uid that gets what is built (root only); -1: the caller keeps it */
  const uint32_t *trust; /* further uids whose entries may be used */
  size_t trusted;        /* how many */
} sharearray_options;

/* The header of an .npy file (NumPy format 1.0, 2.0, 3.0; numpy/lib/format.py). */
struct sharearray_npy {
  char order;            /* '<', '>' or '|' */
  char kind;             /* NumPy's kind: b i u f c M m S U V; V of structured types too */
  uint8_t version;       /* of the format: text is Latin-1 in 1 and 2, UTF-8 in 3 */
  uint32_t itemsize;     /* bytes of an element, at most 2^30 */
  uint8_t fortran;       /* 1: the first index varies fastest */
  uint8_t ndim;          /* 0 to SHAREARRAY_MAXDIMS */
  uint64_t shape[32];    /* elements along each of the ndim dimensions; behind those, anything */
  uint64_t offset;       /* of the data, from the start of the file, bytes */
  uint64_t nbytes;       /* of the data */
  uint32_t descr_offset; /* where the descr stands in the file, without quotes, bytes; '[': structured */
  uint32_t descr_length;
  uint32_t layout; /* dtype, dimension and width of the sizes in one number: arrays of one layout have views of one
                      struct. 0: none in C order of bool, integers, floats or complex numbers */
};

/* A member of a bundle. */
struct sharearray_member {
  const char *name;     /* UTF-8, no final NUL; in the mapping, or the writer's own */
  uint64_t offset;      /* of the content, from the start of the file, bytes: a multiple of 64 if we wrote it */
  uint64_t size;        /* of the content, bytes */
  uint32_t name_length; /* bytes */
  uint32_t crc;         /* CRC-32 of the content */
  /* Of a member "*.npy" as sharearray_npz_read() has it, else NULL. Its offsets count from the start of the content. It
   * lives as long as the members do, and those whose headers are alike may share it. */
  const sharearray_npy *array;
};

/* Mapped memory, counted. The caller of a function that returns one owns one reference.
 * array.order is 0 as long as the memory may be written: a draft's until it is published, private
 * memory always. */
struct sharearray_map {
  void *base;                       /* first byte of the file; read-only but for sharearray_private() */
  uint64_t length;                  /* of the file, bytes */
  sharearray_npy array;             /* kind 0: a bundle */
  const sharearray_member *members; /* of a bundle, in the file's order */
  uint64_t count;                   /* of the members */
};

/* Who builds, as the lock says. For messages only: nothing is decided by it. */
typedef struct sharearray_owner {
  int64_t pid;      /* 0: nobody builds; -1: a builder that leaves no line (Python), or not readable */
  double since;     /* seconds since the epoch */
  uint32_t uid;     /* whose process it is */
  uint32_t attempt; /* 1, or more where builders of this id were killed before */
  char program[32];
} sharearray_owner;

/* Filled by sharearray_attach(). */
typedef struct sharearray_ticket {
  uint32_t seen;            /* the id's counter before the look */
  uint32_t recheck;         /* milliseconds after which to ask again, come what may */
  uint32_t layout;          /* READY: the array's */
  sharearray_owner builder; /* WAIT: who builds */
} sharearray_ticket;

typedef struct sharearray_info {
  int32_t state;
  uint32_t uid;         /* owner of the entry, or of the lock where there is no entry */
  uint32_t mode;        /* permission bits of the same */
  uint64_t bytes;       /* of the file */
  double age;           /* seconds since the publication; -1 where there is no entry */
  double failed;        /* seconds since a rebuild of it failed, see sharearray_note_failure(); -1: none */
  sharearray_npy array; /* state READY only; kind 0: a bundle */
  char descr[256];      /* the array's, without a final NUL; cut off where array.descr_length is more */
  uint64_t members;     /* arrays of a bundle */
  sharearray_owner builder;
  char reason[256]; /* state UNTRUSTED, CORRUPT, UNSUPPORTED: why */
} sharearray_info;

/* The word for a code: "absent", "no_space", "corrupt", "untrusted", "denied", "unsupported",
 * "recursive", "io", "argument". Static. */
SHAREARRAY_API const char *sharearray_code(int code);

/* Opens the store in options->shm_path. The path may be a symbolic link; what is in it may not.
 * Error: EINVAL (prefix, mode), EIO (no such directory), EDENIED. */
SHAREARRAY_API int sharearray_store_new(const sharearray_options *options, sharearray_store **store, char *message);
/* Maps and builds that came from the store outlive it. NULL is allowed, here and in every _delete. */
SHAREARRAY_API void sharearray_store_delete(sharearray_store *store);

/* 1 if `id` matches ^[A-Za-z0-9=+._-]+$ and "<prefix><id>.npy.lock" fits a file name, else 0. */
SHAREARRAY_API int sharearray_valid_id(const char *prefix, const char *id, size_t length);

/* One step towards the array: READY sets *map, BUILD sets *build; *ticket is filled.
 * `flags`: 0, or GET, REFRESH, YIELDS, FINAL. Never blocks, and never runs anything of the caller's.
 * Removes what dead builders left. Errors: EABSENT (GET only), ECORRUPT, EUNTRUSTED, EDENIED,
 * EUNSUPPORTED, ERECURSIVE, ENOSPACE (not even for the lock), EIO, EINVAL (id). */
SHAREARRAY_API int sharearray_attach(sharearray_store *store, const char *id, uint32_t flags, sharearray_ticket *ticket,
                                     sharearray_map **map, sharearray_build **build, char *message);

/* Sleeps until the id changes, its builder has died, `seconds` are over, or a signal came; of a builder of
 * whom less is known, until ticket->recheck is over. */
SHAREARRAY_API void sharearray_wait(sharearray_store *store, const char *id, const sharearray_ticket *ticket,
                                    double seconds);

/* A view to be: a struct as sharearray_view() fills in, for arrays of that layout. */
typedef struct sharearray_blank {
  void *view;
  uint32_t layout;
  int32_t bits;
} sharearray_blank;
/* Waits like that, with a ticket of sharearray_attach(), and attaches to what is there then: one call for those who are
 * woken by the hundred, each of whom makes it with cold caches. For the same reason it does not look at a lock whose
 * builder has said that it is gone, and fills a view in if the array's layout is the one of blank i, of `count`: then it
 * returns SHAREARRAY_FILLED + i, and the reference of *map is that view's. It never takes a build, which a caller whom a
 * signal ends first could lose: after WAIT, and always with REFRESH, call sharearray_attach(). */
SHAREARRAY_API int sharearray_await(sharearray_store *store, const char *id, uint32_t flags, sharearray_ticket *ticket,
                                    double seconds, const sharearray_blank *blanks, uint32_t count,
                                    const uint8_t *sealed, sharearray_map **map, char *message);

/* What stands under the id. EABSENT where there is neither entry nor builder. */
SHAREARRAY_API int sharearray_stat(sharearray_store *store, const char *id, sharearray_info *info, char *message);

/* Removes the entry, and a dead builder's lock. Returns 1 if there was something, 0 if not; and 2 more
 * (SHAREARRAY_WAIT) where a Python builder's lock needs a second look: call again after 100 milliseconds.
 * Views of the entry stay valid. A build that is under way goes on and publishes.
 * Errors: EUNTRUSTED, EDENIED, EIO, EINVAL. */
SHAREARRAY_API int sharearray_remove(sharearray_store *store, const char *id, char *message);

/* All ids in the store, sorted: *ids is *count strings, each with its NUL, one behind the other. The
 * caller gives it back to sharearray_ids_delete(). */
SHAREARRAY_API int sharearray_ids(sharearray_store *store, char **ids, size_t *count, char *message);
SHAREARRAY_API void sharearray_ids_delete(char *ids);

/* Removes what dead builders left anywhere in the store. Returns how many locks need a second look,
 * after 100 milliseconds (a Python builder shows its death only by that), 0 when all is done. */
SHAREARRAY_API int sharearray_sweep(sharearray_store *store, char *message);

/* A memo in front of sharearray_attach() needs no system call: as long as *sharearray_changes() is
 * what it was, this user changed nothing in the store. The word is valid as long as the store is. It
 * is a hint: a removal by `rm` touches no counter, so ask sharearray_current() now and then. */
SHAREARRAY_API const uint32_t *sharearray_changes(const sharearray_store *store);
/* The same for one id (which it shares with a few others). */
SHAREARRAY_API uint32_t sharearray_changes_of(const sharearray_store *store, const char *id);
/* 1 if `map` is what stands under `id` now, else 0. Two or three system calls: it looks after the
 * counter page as well. */
SHAREARRAY_API int sharearray_current(sharearray_store *store, const char *id, const sharearray_map *map);
/* Seconds since `map` was published, 0 for memory that was not. The wall clock decides, as for files. */
SHAREARRAY_API double sharearray_age(const sharearray_map *map);
/* The same two of the map that stands at `holder`, 0 where that is NULL: for a Lua program, whose collector could run
 * between the look at it and the call. */
SHAREARRAY_API int sharearray_held_current(sharearray_store *store, const char *id, const void *holder);
SHAREARRAY_API double sharearray_held_age(const void *holder);
/* For those who rebuild an entry that has grown too old, and serve it on if that fails: notes that it
 * failed, for all processes of this user to see before they try. A hint like the counters; the next
 * publication of the id takes it back. */
SHAREARRAY_API void sharearray_note_failure(sharearray_store *store, const char *id);
/* Seconds since a rebuild of this id failed, -1 if none did, or if one of the few that share its counter
 * failed later. */
SHAREARRAY_API double sharearray_failure_age(const sharearray_store *store, const char *id);
/* The version of what stands under the id, see sharearray_draft_version(); 0 where nothing does. */
SHAREARRAY_API int64_t sharearray_version(sharearray_store *store, const char *id);
/* 1 for the first one who asks in this process since its fork, 0 for all others: for what several Lua
 * states of a process must not do twice. `what`: 0 to 3. */
SHAREARRAY_API int sharearray_first(unsigned what);
/* 1 if no name came to the store's directory, or went, since the last call: whatever was current is so
 * still. 0 if one did, or may have in the last few clock ticks. One system call. */
SHAREARRAY_API int sharearray_settled(sharearray_store *store);
/* Milliseconds of CLOCK_MONOTONIC_COARSE (a few ms fine, a few ns to read). */
SHAREARRAY_API double sharearray_clock(void);

/* Gives the build up, unless it was published: the next waiter takes it. Frees it in every case. */
SHAREARRAY_API void sharearray_build_delete(sharearray_build *build);

/* An unnamed file of `bytes` bytes in the store's directory. */
SHAREARRAY_API int sharearray_draft_new(sharearray_store *store, uint64_t bytes, sharearray_draft **draft,
                                        char *message);
/* Reserves the next `step` bytes: 1 while some are left, 0 when the whole draft is reserved.
 * ENOSPACE with the figures. To be finished before sharearray_draft_map(). */
SHAREARRAY_API int sharearray_draft_reserve(sharearray_draft *draft, uint64_t step, char *message);
/* The draft's memory, writable until it is given to sharearray_publish(), whatever that returns, and
 * read-only from then on. It belongs to a map, returned with a reference for the caller: memory that is
 * never published goes with its last one. */
SHAREARRAY_API int sharearray_draft_map(sharearray_draft *draft, sharearray_map **map, char *message);
/* Appends `size` bytes with write(2), instead of reserving and mapping: twice as fast for memory that
 * exists already. ENOSPACE with the figures. */
SHAREARRAY_API int sharearray_draft_write(sharearray_draft *draft, const void *bytes, uint64_t size, char *message);
/* For copies on several machines: dates the content of a draft that is complete, in nanoseconds since
 * the epoch. The date is the file's time of modification, so that it comes and goes with the entry.
 * *version 0: now, which is put there; more finely than the kernel dates files, so that no two builds
 * are alike. EIO. */
SHAREARRAY_API int sharearray_draft_version(sharearray_draft *draft, int64_t *version, char *message);
SHAREARRAY_API void sharearray_draft_delete(sharearray_draft *draft);

/* For a draft of which others have to say whether it is good: makes it read-only, as sharearray_publish() does
 * anyway, and sets *map, with a reference for the caller. Errors: ECORRUPT, EUNSUPPORTED, EIO. */
SHAREARRAY_API int sharearray_seal(sharearray_build *build, sharearray_draft *draft, sharearray_map **map,
                                   char *message);
/* Gives the draft its name: READY sets *map (a mapped draft's own map, read-only from now on), and the
 * build is over. WAIT: somebody took the lock away by its name (Python's free does) and builds again;
 * call again after a while, or delete both. If their entry came first, READY gives that one.
 * Errors: ECORRUPT (the draft is no NumPy file), EUNTRUSTED, EDENIED, ENOSPACE, EIO,
 * EUNSUPPORTED (in a forked child). */
SHAREARRAY_API int sharearray_publish(sharearray_build *build, sharearray_draft *draft, sharearray_map **map,
                                      char *message);

/* Zeroed private memory of `bytes` bytes, writable, aligned to 64, that no other process sees. */
SHAREARRAY_API int sharearray_private(uint64_t bytes, sharearray_map **map, char *message);
SHAREARRAY_API void sharearray_ref(sharearray_map *map);
/* At the last reference the memory is unmapped. NULL is allowed. */
SHAREARRAY_API void sharearray_unref(sharearray_map *map);

/* The same for the map that a struct of `size` bytes has in its first member, after which the struct is all
 * zeros. One call for a finalizer, which interpreted code is slow at. */
SHAREARRAY_API void sharearray_release(void *holder, size_t size);
/* Fills in a view of an array whose layout is not 0: the map's own (`member` NULL), or a member's. Its struct has
 * const void *map; const uint8_t *sealed, as given; double lent, 1 for a member's; T *elements; const int32_t *bits,
 * the same address, if `bits` is 1; of up to two dimensions, the size of each as uint64_t; then the count and all sizes
 * as int32_t. Where the last bit of the layout is set, it has the count and the sizes as double instead of all these.
 * No reference is taken: what the caller has and gives to the view of a whole map, sharearray_release() gives back; who
 * has the view of a member keeps the map for it. */
SHAREARRAY_API void sharearray_view(sharearray_map *map, const sharearray_member *member, int bits,
                                    const uint8_t *sealed, void *view);
/* Sets the `lent` of a view whose struct is as above: not 0 where it lives on another's reference. For where the binding
 * may not allocate, as it would for a pointer to that. */
SHAREARRAY_API void sharearray_set_lent(void *view, double lent);
/* Enters all pages into the process's page table now, instead of one fault at a time: what is going to be
 * read in full is read sooner. Advice: nothing happens where the kernel is older than 5.14. */
SHAREARRAY_API void sharearray_prefault(const sharearray_map *map);

/* `size` bytes of the map's memory from `offset`, for an owner who writes to them as he likes, on any
 * thread and after the map's other holders: *bytes, as part of *lent, a map with a reference for the
 * caller. Memory that may be written is lent itself; if it is published later, the borrower keeps what
 * from then on is a private copy (and the arrays of the build see what he writes to it). Of a published
 * entry it is a private copy, whose pages are the entry's until they are written; a plain copy where a
 * refresh or a removal came first. EINVAL, EIO. */
SHAREARRAY_API int sharearray_lend(sharearray_map *map, uint64_t offset, uint64_t size, sharearray_map **lent,
                                   void **bytes, char *message);
/* A THAllocator of Torch7, to be put into a storage over a map's memory, with the map as its context
 * and flag 5: the last tensor drops one reference of the map. Static. */
SHAREARRAY_API const void *sharearray_torch_allocator(void);

/* The sum of `count` elements at `x`, or, where `y` is not NULL, of their products with those at `y`: native
 * numbers without gaps. Kinds b, i, u set *integer, modulo 2^64 (of negative ones the two's complement);
 * f of 4 and 8 bytes sets *real, added in double, in no particular order. EUNSUPPORTED: others. */
SHAREARRAY_API int sharearray_reduce(char kind, uint32_t itemsize, const void *x, const void *y, uint64_t count,
                                     double *real, uint64_t *integer);

/* Reads the header in the first `size` bytes of a file of `file_size` bytes.
 * ECORRUPT, EUNSUPPORTED with the reason. A file that is merely too short gives ECORRUPT as well and
 * sets *is_short (may be NULL): somebody may be writing it. */
SHAREARRAY_API int sharearray_npy_read(const void *bytes, size_t size, uint64_t file_size, sharearray_npy *npy,
                                       int *is_short, char *message);
/* Writes a header (format 1.0, C order) for `descr` as NumPy spells it ("<f4", "[('a', '<f4')]"; ASCII):
 * its length, a multiple of 64, or EINVAL if `size` bytes do not hold it, or more than the 10,000 that
 * numpy.load reads. */
SHAREARRAY_API int sharearray_npy_write(const char *descr, int ndim, const uint64_t *shape, char *bytes, size_t size);

/* Bundles: zip files of stored members, as numpy.savez writes them.
 *
 * Reads the directory of one that lies in memory. *members is the caller's, to be freed with free();
 * the names in it point into `bytes`. ECORRUPT, EUNSUPPORTED with the reason. */
SHAREARRAY_API int sharearray_npz_read(const void *bytes, uint64_t length, sharearray_member **members, uint64_t *count,
                                       char *message);
/* To write one: fill name, name_length and size of each member, and plan sets their offsets and *bytes,
 * the size of the file. Then, when all crcs are known too, frame i is what stands in front of content i
 * (from the end of the content before it), and frame `count` what follows the last one. */
SHAREARRAY_API int sharearray_npz_plan(sharearray_member *members, uint64_t count, uint64_t *bytes, char *message);
SHAREARRAY_API void sharearray_npz_frame(const sharearray_member *members, uint64_t count, uint64_t i, void *bytes);
/* *crc, 0 to begin with, goes on over `size` bytes: CRC-32 as zip files have it. EIO where zlib, which is loaded when it
 * is first needed, is not there. */
SHAREARRAY_API int sharearray_crc32(const void *bytes, uint64_t size, uint32_t *crc, char *message);

/* Imports: an .npy file, or an .npz file (stored or deflated), from anywhere, copied into a draft.
 *
 *   sharearray_import_new("train.npz", "sharearray.json", &import, message);
 *   sharearray_import_draft(import, store, &draft, message);
 *   while ((more = sharearray_import_step(import, draft, 16 << 20, message)) > 0) {}
 *   sharearray_import_delete(import);                        // and publish the draft
 *
 * What it is is decided by content, not by name. The draft holds an .npy file or a bundle, in both
 * little-endian elements in C order, whatever the source has. The file is read with pread(2), through a
 * buffer of 256 KiB (16 MiB where an array is in Fortran order or has large elements to swap): it may be
 * truncated meanwhile.
 *
 * Opens `path` (symbolic links are followed; a regular file) and reads all headers. Of an .npz file the
 * members "*.npy" are taken, and the one named `extra` as it is; others are passed over.
 * ECORRUPT, EUNSUPPORTED with the reason and the member; EIO (no such file), EDENIED. */
SHAREARRAY_API int sharearray_import_new(const char *path, const char *extra, sharearray_import **import,
                                         char *message);
/* A draft of the right size; to be deleted by the caller. Its import may be deleted before it. */
SHAREARRAY_API int sharearray_import_draft(const sharearray_import *import, sharearray_store *store,
                                           sharearray_draft **draft, char *message);
/* Copies about `step` bytes more: 1 while some are left, 0 when the draft is complete. After a failure
 * both are only good for being deleted. ECORRUPT (also: a checksum does not match, or the file became
 * shorter), ENOSPACE, EIO. */
SHAREARRAY_API int sharearray_import_step(sharearray_import *import, sharearray_draft *draft, uint64_t step,
                                          char *message);
/* How much of the arrays' data has been copied, and how much there is, bytes. */
SHAREARRAY_API void sharearray_import_progress(const sharearray_import *import, uint64_t *done, uint64_t *total);
/* The content of the member `extra`, *length bytes, or NULL: the import's. */
SHAREARRAY_API const char *sharearray_import_extra(const sharearray_import *import, uint64_t *length);
/* Of an .npz file the arrays: *count of them, with their names. The import's. */
SHAREARRAY_API const sharearray_member *sharearray_import_members(const sharearray_import *import, uint64_t *count);
SHAREARRAY_API void sharearray_import_delete(sharearray_import *import);

#ifdef __cplusplus
}
#endif
#endif
