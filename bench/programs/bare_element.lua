--- A whole process without the library: `bare_element.lua PATH` starts, maps a file by FFI as an attach does, reads one
-- element of it.

local ffi = require "ffi"

ffi.cdef [[
int open(const char *path, int flags, ...);
int fstat(int fd, void *stat);
long pread(int fd, void *bytes, size_t size, long offset);
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int close(int fd);
]]

local C = ffi.C
local O_RDONLY_CLOEXEC, PROT_READ, MAP_SHARED, SIZE, HEADER = 0x80000, 1, 1, 144, 128
local header, stat = ffi.new("char[1024]"), ffi.new("char[256]")

local fd = C.open(arg[1], O_RDONLY_CLOEXEC)
assert(fd >= 0 and C.fstat(fd, stat) == 0 and C.pread(fd, header, SIZE, 0) == SIZE)
local map = C.mmap(nil, SIZE, PROT_READ, MAP_SHARED, fd, 0)
C.close(fd)
assert(ffi.cast("const float *", ffi.cast("const char *", map) + HEADER)[0] == 0)
