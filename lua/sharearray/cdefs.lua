--- The C core, declared and loaded: everything that `core/sharearray.h` exports.
-- The header is the manual; a spec compares the two. Other modules take the library from here, as
-- `local C = require "sharearray.cdefs".C`, and declare nothing of the core's themselves.
-- @module sharearray.cdefs

local ffi = require "ffi"

local declarations = [[
enum {
  SHAREARRAY_MESSAGE = 1024,
  SHAREARRAY_MAXDIMS = 32
};
enum {
  SHAREARRAY_READY = 0,
  SHAREARRAY_BUILD = 1,
  SHAREARRAY_WAIT = 2
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
typedef struct sharearray_store sharearray_store;
typedef struct sharearray_build sharearray_build;
typedef struct sharearray_draft sharearray_draft;
typedef struct sharearray_import sharearray_import;
typedef struct sharearray_options {
  const char *shm_path;
  const char *prefix;
  int32_t mode;
  int64_t owner;
  const uint32_t *trust;
  size_t trusted;
} sharearray_options;
typedef struct sharearray_npy {
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
} sharearray_npy;
typedef struct sharearray_member {
  const char *name;
  uint64_t offset;
  uint64_t size;
  uint32_t name_length;
  uint32_t crc;
  sharearray_npy array;
} sharearray_member;
typedef struct sharearray_map {
  void *base;
  uint64_t length;
  sharearray_npy array;
  const sharearray_member *members;
  uint64_t count;
} sharearray_map;
typedef struct sharearray_owner {
  int64_t pid;
  double since;
  uint32_t uid;
  uint32_t attempt;
  char program[32];
} sharearray_owner;
typedef struct sharearray_ticket {
  uint32_t seen;
  uint32_t recheck;
  sharearray_owner builder;
} sharearray_ticket;
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
const char *sharearray_code(int code);
int sharearray_store_new(const sharearray_options *options, sharearray_store **store, char *message);
void sharearray_store_delete(sharearray_store *store);
int sharearray_valid_id(const char *prefix, const char *id, size_t length);
int sharearray_attach(sharearray_store *store, const char *id, uint32_t flags, sharearray_ticket *ticket,
      sharearray_map **map, sharearray_build **build, char *message);
void sharearray_wait(sharearray_store *store, const char *id, const sharearray_ticket *ticket,
      double seconds);
int sharearray_stat(sharearray_store *store, const char *id, sharearray_info *info, char *message);
int sharearray_remove(sharearray_store *store, const char *id, char *message);
int sharearray_ids(sharearray_store *store, char **ids, size_t *count, char *message);
void sharearray_ids_delete(char *ids);
int sharearray_sweep(sharearray_store *store, char *message);
const uint32_t *sharearray_changes(const sharearray_store *store);
uint32_t sharearray_changes_of(const sharearray_store *store, const char *id);
int sharearray_current(sharearray_store *store, const char *id, const sharearray_map *map);
double sharearray_age(const sharearray_map *map);
void sharearray_note_failure(sharearray_store *store, const char *id);
double sharearray_failure_age(const sharearray_store *store, const char *id);
int64_t sharearray_version(sharearray_store *store, const char *id);
int sharearray_first(unsigned what);
int sharearray_settled(sharearray_store *store);
double sharearray_clock(void);
void sharearray_build_delete(sharearray_build *build);
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
void sharearray_ref(sharearray_map *map);
void sharearray_unref(sharearray_map *map);
void sharearray_release(void *holder, size_t size);
void sharearray_view(sharearray_map *map, const sharearray_npy *array, int bits, const uint8_t *sealed,
      void *view);
void sharearray_prefault(const sharearray_map *map);
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
uint32_t sharearray_crc32(uint32_t crc, const void *bytes, uint64_t size);
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

-- nginx with its code cache off, busted and two Lua states load this file again in one process; the
-- C types of one state may be declared only once.
if not pcall(ffi.typeof, "sharearray_map") then ffi.cdef(declarations) end

local path, tried = package.searchpath("sharearray.core", package.cpath)
if not path then
  error("sharearray: the C core is not installed (run `make`, and `eval \"$(make -s env)\"`):" .. tried, 0)
end

-- Pinned for the life of the process: at an error exit LuaJIT may unload a library before the last
-- finalizer has called into it. The Makefile links with `-z nodelete`; luarocks does not.
if not pcall(function() return ffi.C.dlopen end) then ffi.cdef "void *dlopen(const char *filename, int flags);" end
local RTLD_LAZY, RTLD_NODELETE = 0x1, 0x1000
pcall(function() return ffi.C.dlopen(path, RTLD_LAZY + RTLD_NODELETE) end)

return { C = ffi.load(path), declarations = declarations }
