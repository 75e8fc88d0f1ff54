--- The C core: everything that `core/sharearray.h` exports, declared.
-- The header is the manual; a spec compares the two. Other modules take the library from here, as
-- `local C = require "sharearray.cdefs".C`, and declare nothing of the core's themselves. Those that every attach
-- takes get it from sharearray.library, which declares no more than they use.
-- @module sharearray.cdefs

local ffi = require "ffi"
local library = require "sharearray.library"

local declarations = [[
enum {
  SHAREARRAY_ABI = 7,
  SHAREARRAY_MESSAGE = 1024,
  SHAREARRAY_MAXDIMS = 32
};
enum {
  SHAREARRAY_READY = 0,
  SHAREARRAY_BUILD = 1,
  SHAREARRAY_WAIT = 2,
  SHAREARRAY_FILLED = 3
};
enum {
  SHAREARRAY_EABSENT = -1,
  SHAREARRAY_ENOSPACE = -2,
  SHAREARRAY_ECORRUPT = -3,
  SHAREARRAY_EUNTRUSTED = -4,
  SHAREARRAY_EDENIED = -5,
  SHAREARRAY_EUNSUPPORTED = -6,
  SHAREARRAY_ERECURSIVE = -7,
  SHAREARRAY_EIO = -8,
  SHAREARRAY_EINVAL = -9
};
enum {
  SHAREARRAY_GET = 1,
  SHAREARRAY_REFRESH = 2,
  SHAREARRAY_YIELDS = 4,
  SHAREARRAY_FINAL = 8
};
enum {
  SHAREARRAY_STATE_READY = 0,
  SHAREARRAY_STATE_BUILDING = 1,
  SHAREARRAY_STATE_PARTIAL = 2,
  SHAREARRAY_STATE_UNTRUSTED = 3,
  SHAREARRAY_STATE_CORRUPT = 4,
  SHAREARRAY_STATE_UNSUPPORTED = 5,
  SHAREARRAY_STATE_DENIED = 6
};
typedef struct sharearray_npy sharearray_npy;
struct sharearray_npy {
  char order;
  char kind;
  uint8_t version;
  uint32_t itemsize;
  uint8_t fortran;
  uint8_t ndim;
  uint64_t shape[32];
  uint64_t offset;
  uint64_t nbytes;
  uint32_t descr_offset;
  uint32_t descr_length;
  uint32_t layout;
};
struct sharearray_member {
  const char *name;
  uint64_t offset;
  uint64_t size;
  uint32_t name_length;
  uint32_t crc;
  const sharearray_npy *array;
};
struct sharearray_map {
  void *base;
  uint64_t length;
  sharearray_npy array;
  const sharearray_member *members;
  uint64_t count;
};
typedef struct sharearray_draft sharearray_draft;
typedef struct sharearray_import sharearray_import;
typedef struct sharearray_info {
  int32_t state;
  uint32_t uid;
  uint32_t mode;
  uint64_t bytes;
  double age;
  double failed;
  sharearray_npy array;
  char descr[256];
  uint64_t members;
  sharearray_owner builder;
  char reason[256];
} sharearray_info;
void sharearray_wait(sharearray_store *store, const char *id, const sharearray_ticket *ticket,
      double seconds);
typedef struct sharearray_blank {
  void *view;
  uint32_t layout;
  int32_t bits;
} sharearray_blank;
int sharearray_await(sharearray_store *store, const char *id, uint32_t flags, sharearray_ticket *ticket,
      double seconds, const sharearray_blank *blanks, uint32_t count, const uint8_t *sealed,
      sharearray_map **map, char *message);
uint32_t sharearray_changes_of(const sharearray_store *store, const char *id);
int sharearray_current(sharearray_store *store, const char *id, const sharearray_map *map);
double sharearray_age(const sharearray_map *map);
int sharearray_held_current(sharearray_store *store, const char *id, const void *holder);
double sharearray_held_age(const void *holder);
void sharearray_prefault(const sharearray_map *map);
int sharearray_stat(sharearray_store *store, const char *id, sharearray_info *info, char *message);
int sharearray_remove(sharearray_store *store, const char *id, char *message);
int sharearray_ids(sharearray_store *store, char **ids, size_t *count, char *message);
void sharearray_ids_delete(char *ids);
int sharearray_sweep(sharearray_store *store, char *message);
void sharearray_note_failure(sharearray_store *store, const char *id);
double sharearray_failure_age(const sharearray_store *store, const char *id);
int64_t sharearray_version(sharearray_store *store, const char *id);
int sharearray_first(unsigned what);
int sharearray_draft_new(sharearray_store *store, uint64_t bytes, sharearray_draft **draft,
      char *message);
int sharearray_draft_reserve(sharearray_draft *draft, uint64_t step, char *message);
int sharearray_draft_map(sharearray_draft *draft, sharearray_map **map, char *message);
int sharearray_draft_write(sharearray_draft *draft, const void *bytes, uint64_t size, char *message);
int sharearray_draft_version(sharearray_draft *draft, int64_t *version, char *message);
void sharearray_draft_delete(sharearray_draft *draft);
int sharearray_seal(sharearray_build *build, sharearray_draft *draft, sharearray_map **map,
      char *message);
int sharearray_publish(sharearray_build *build, sharearray_draft *draft, sharearray_map **map,
      char *message);
int sharearray_private(uint64_t bytes, sharearray_map **map, char *message);
int sharearray_lend(sharearray_map *map, uint64_t offset, uint64_t size, sharearray_map **lent,
      void **bytes, char *message);
const void *sharearray_torch_allocator(void);
int sharearray_reduce(char kind, uint32_t itemsize, const void *x, const void *y, uint64_t count,
      double *real, uint64_t *integer);
int sharearray_npy_read(const void *bytes, size_t size, uint64_t file_size, sharearray_npy *npy,
      int *is_short, char *message);
int sharearray_npy_write(const char *descr, int ndim, const uint64_t *shape, char *bytes, size_t size);
int sharearray_npz_read(const void *bytes, uint64_t length, sharearray_member **members, uint64_t *count,
      char *message);
int sharearray_npz_plan(sharearray_member *members, uint64_t count, uint64_t *bytes, char *message);
void sharearray_npz_frame(const sharearray_member *members, uint64_t count, uint64_t i, void *bytes);
int sharearray_crc32(const void *bytes, uint64_t size, uint32_t *crc, char *message);
int sharearray_import_new(const char *path, const char *extra, sharearray_import **import,
      char *message);
int sharearray_import_draft(const sharearray_import *import, sharearray_store *store,
      sharearray_draft **draft, char *message);
int sharearray_import_step(sharearray_import *import, sharearray_draft *draft, uint64_t step,
      char *message);
void sharearray_import_progress(const sharearray_import *import, uint64_t *done, uint64_t *total);
const char *sharearray_import_extra(const sharearray_import *import, uint64_t *length);
const sharearray_member *sharearray_import_members(const sharearray_import *import, uint64_t *count);
void sharearray_import_delete(sharearray_import *import);
]]

-- This file may be read long after library.lua was.
library.check(7)

-- As in library.lua, once in the process.
if not pcall(ffi.typeof, "sharearray_info") then ffi.cdef(declarations) end

return { C = library.C, declarations = library.declarations .. declarations }
