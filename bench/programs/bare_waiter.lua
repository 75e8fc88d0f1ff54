--- A process that waits on a futex and then maps, by FFI and without anything else: `bare_waiter.lua BOARD
-- COUNT SLOT PATH view|element`. What bench/programs/waiter.c does, in LuaJIT; see there.

local ffi = require "ffi"
local baseline = require "harness.baseline"

ffi.cdef [[
int open(const char *path, int flags, ...);
int fstat(int fd, void *stat);
long pread(int fd, void *bytes, size_t size, long offset);
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int close(int fd);
]]

local C = ffi.C
local O_RDONLY_CLOEXEC, PROT_READ, MAP_SHARED, SIZE = 0x80000, 1, 1, 4096

local board = baseline.board(arg[1], tonumber(arg[2]))
local slot, path, element = tonumber(arg[3]), arg[4], arg[5] == "element"
local word = ffi.cast("uint32_t *", board)
local seen, header, stat = word[0], ffi.new("char[1024]"), ffi.new("char[256]")
local bytes_p = ffi.typeof("const char *")

-- Looked up before the wake, as ours are.
local open, fstat, pread, mmap, close, wait, arrive = C.open, C.fstat, C.pread, C.mmap, C.close,
  baseline.C.baseline_wait, baseline.arrive

baseline.C.baseline_wait_in(board, slot)
wait(word, seen)
local fd = open(path, O_RDONLY_CLOEXEC)
assert(fd >= 0 and fstat(fd, stat) == 0 and pread(fd, header, 1024, 0) >= 0)
local map = mmap(nil, SIZE, PROT_READ, MAP_SHARED, fd, 0)
close(fd)
if element then assert(ffi.cast(bytes_p, map)[SIZE - 1] == 0) end
arrive()
