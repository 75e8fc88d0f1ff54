--- The C core, loaded, and what an attach takes of it declared. sharearray.cdefs declares the rest.
-- @module sharearray.library

local ffi = require "ffi"

-- What an attach takes of the header's enums, which LuaJIT would take as long to parse as half of all else here.
local library = { ABI = 7, MESSAGE = 1024, EINVAL = -9 }
library.READY, library.BUILD, library.WAIT, library.FILLED = 0, 1, 2, 3 -- what an attach returns
library.GET, library.YIELDS = 1, 4 -- its flags

local declarations = [[
int sharearray_abi(void);
typedef struct sharearray_store sharearray_store;
typedef struct sharearray_build sharearray_build;
typedef struct sharearray_member sharearray_member;
typedef struct sharearray_map sharearray_map;
typedef struct sharearray_options {
  const char *shm_path;
  const char *prefix;
  int32_t mode;
  int64_t owner;
  const uint32_t *trust;
  size_t trusted;
} sharearray_options;
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
  uint32_t layout;
  sharearray_owner builder;
} sharearray_ticket;
const char *sharearray_code(int code);
int sharearray_store_new(const sharearray_options *options, sharearray_store **store, char *message);
void sharearray_store_delete(sharearray_store *store);
int sharearray_valid_id(const char *prefix, const char *id, size_t length);
int sharearray_attach(sharearray_store *store, const char *id, uint32_t flags, sharearray_ticket *ticket,
      sharearray_map **map, sharearray_build **build, char *message);
void sharearray_build_delete(sharearray_build *build);
const uint32_t *sharearray_changes(const sharearray_store *store);
int sharearray_settled(sharearray_store *store);
double sharearray_clock(void);
void sharearray_ref(sharearray_map *map);
void sharearray_unref(sharearray_map *map);
void sharearray_release(void *holder, size_t size);
void sharearray_view(sharearray_map *map, const sharearray_member *member, int bits, const uint8_t *sealed,
      void *view);
void sharearray_set_lent(void *view, double lent);
]]

-- Whoever takes our modules out of package.loaded (busted does) loads this file again, and the C types of a Lua state
-- may be declared only once. The registry is the state's own. Asking ffi.typeof would cost an error, which takes longer
-- than to declare all of it.
local registry = debug.getregistry()
if not registry["sharearray.library"] then
  ffi.cdef(declarations)
  registry["sharearray.library"] = true
end

local path, tried = package.searchpath("sharearray.core", package.cpath)
if not path then
  error("sharearray: its C core, sharearray/core.so, is not found: set LUA_CPATH to \"$PREFIX/lib/lua/5.1/?.so;;\" for "
    .. "the PREFIX it is installed to; in a checkout run `make`, and `eval \"$(make -s env)\"`:" .. tried, 0)
end

-- Pinned for the life of the process: at an error exit LuaJIT may unload a library before the last
-- finalizer has called into it. The Makefile links with `-z nodelete`; luarocks does not.
ffi.cdef 'void *sharearray_dlopen(const char *filename, int flags) __asm__("dlopen");' -- a libc may have it elsewhere
local RTLD_LAZY, RTLD_NODELETE = 0x1, 0x1000
pcall(function() return ffi.C.sharearray_dlopen(path, RTLD_LAZY + RTLD_NODELETE) end)

local C = ffi.load(path)

-- Called with another signature than it has, a function of C's does anything.
local function abi() return C.sharearray_abi() end

--- Raises where the core is another version's: one or the other was installed while a process ran, or not at all.
function library.check(expected)
  local found, number = pcall(abi)
  if found and number == expected then return end
  error(("sharearray: %s is of another version than the Lua modules: restart what ran while they were installed, "
    .. "or install them again"):format(path), 0)
end
library.check(library.ABI)

library.C, library.declarations = C, declarations

--- Where the core is to put what it hands out: of each call its own, of no module. LuaJIT may run finalizers where
-- compiled code is left, behind a call and before what it handed out is read; and one may make the same call.
library.new_message = ffi.typeof("char[" .. library.MESSAGE .. "]")
library.new_map_out = ffi.typeof("sharearray_map *[1]")
library.new_build_out = ffi.typeof("sharearray_build *[1]")

return library
