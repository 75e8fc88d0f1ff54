--- What the command asks the system: files, users, processes, mounts.
-- @module sharearray.cli.system

local ffi = require "ffi"

ffi.cdef [[
typedef struct sharearray_statx {
  uint32_t mask, blksize;
  uint64_t attributes;
  uint32_t nlink, uid, gid;
  uint16_t mode, spare;
  uint64_t ino, size, blocks, attributes_mask, times[8];
  uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
  uint64_t more[14];
} sharearray_statx;
typedef struct sharearray_statvfs {
  unsigned long bsize, frsize;
  uint64_t blocks, bfree, bavail, files, ffree, favail, more[8];
} sharearray_statvfs;
typedef struct sharearray_passwd { char *name; } sharearray_passwd;
typedef struct sharearray_dirent { uint64_t ino; int64_t off; uint16_t reclen; uint8_t type; char name[256]; }
  sharearray_dirent;
int statx(int directory, const char *path, int flags, unsigned mask, sharearray_statx *out);
int statvfs64(const char *path, sharearray_statvfs *out);
sharearray_passwd *getpwuid(uint32_t uid);
void *opendir(const char *path);
sharearray_dirent *readdir64(void *directory);
int closedir(void *directory);
int fileno(void *file);
int isatty(int fd);
int fsync(int fd);
size_t fwrite(const void *bytes, size_t size, size_t count, void *file);
int link(const char *from, const char *to);
int rename(const char *from, const char *to);
int getpid(void);
unsigned geteuid(void);
char *strerror(int error);
]]

local C = ffi.C
local M = {}

local PIECE = 16 * 2 ^ 20 -- bytes

local AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_BASIC, EACCES = -100, 0x100, 0x7ff, 13

M.pid, M.uid = C.getpid(), C.geteuid()

--- The words for errno.
function M.problem() return ffi.string(C.strerror(ffi.errno())) end

--- Whether an open file is a terminal.
function M.is_terminal(file) return C.isatty(C.fileno(file)) == 1 end

--- What a path names: `dev` ("0:25", as mountinfo has it), `maps` (device and inode as
-- /proc/PID/maps has them), `uid`, `mode`, `nlink`, `size`; nil if there is nothing.
function M.stat(path, follow)
  local st = ffi.new("sharearray_statx")
  if C.statx(AT_FDCWD, path, follow and 0 or AT_SYMLINK_NOFOLLOW, STATX_BASIC, st) ~= 0 then return nil end
  return {
    dev = ("%d:%d"):format(st.dev_major, st.dev_minor),
    maps = (" %02x:%02x %d "):format(st.dev_major, st.dev_minor, tonumber(st.ino)),
    uid = st.uid, mode = st.mode, nlink = st.nlink, size = tonumber(st.size),
  }
end

--- Bytes in all, and free, where `path` lies; nil where that cannot be told.
function M.space(path)
  local fs = ffi.new("sharearray_statvfs")
  if C.statvfs64(path, fs) ~= 0 then return nil end
  return tonumber(fs.blocks * fs.frsize), tonumber(fs.bavail * fs.frsize)
end

--- A user's name, or the number of one without a name.
function M.user(uid)
  local entry = C.getpwuid(uid)
  return entry ~= nil and ffi.string(entry.name) or tostring(uid)
end

--- The names in a directory; none if it cannot be read.
function M.names(path)
  local list, directory = {}, C.opendir(path)
  if directory == nil then return list end
  local entry = C.readdir64(directory)
  while entry ~= nil do
    list[#list + 1] = ffi.string(entry.name)
    entry = C.readdir64(directory)
  end
  C.closedir(directory)
  return list
end

--- The content of a file; nil and errno if it cannot be opened.
function M.read(path)
  local file, _, errno = io.open(path, "r")
  if not file then return nil, errno end
  local text = file:read("*a")
  file:close()
  return text
end

--- The processes that have a file mapped.
-- @treturn table their ids, sorted
-- @treturn number how many processes this user may not look at
function M.attached(path)
  local st, pids, hidden = M.stat(path), {}, 0
  if not st then return pids, hidden end
  for _, name in ipairs(M.names("/proc")) do
    if name:find("^%d+$") then
      local maps, errno = M.read("/proc/" .. name .. "/maps")
      if maps and maps:find(st.maps, 1, true) then pids[#pids + 1] = tonumber(name) end
      if errno == EACCES then hidden = hidden + 1 end
    end
  end
  table.sort(pids)
  return pids, hidden
end

--- The mount that holds a path: `point`, `kind` of file system, `options`; nil if /proc does not tell.
function M.mount(path)
  local st, mounts, found = M.stat(path, true), M.read("/proc/self/mountinfo"), nil
  if not st then return nil end
  for line in (mounts or ""):gmatch("[^\n]+") do
    local dev, point = line:match("^%d+ %d+ (%S+) %S+ (%S+)")
    local kind, options = line:match(" %- (%S+) %S+ (%S+)$")
    if dev == st.dev and kind then found = { point = point, kind = kind, options = options } end
  end
  return found
end

-- In pieces, between which Ctrl-C is heard: a debug hook, which compiled code never looks at.
local function write_all(file, pointer, bytes)
  local from = ffi.cast("const char *", pointer)
  for at = 0, bytes - 1, PIECE do
    local size = math.min(PIECE, bytes - at)
    if C.fwrite(from + at, 1, size, file) ~= size then return false end
  end
  return file:flush() and C.fsync(C.fileno(file)) == 0
end

jit.off(write_all)

--- Writes memory to a file, to the disk and under a name of its own, which then becomes `path`. Else nothing stays of
-- it, Ctrl-C included.
-- @tparam string path
-- @param pointer, bytes the memory
-- @tparam boolean replace whether to take the place of what has that name; else it is refused if something has
-- @return[1] true
-- @return[2] nil, message
function M.save(path, pointer, bytes, replace)
  local temporary = ("%s.%d.tmp"):format(path, M.pid)
  local file, problem
  local function refuse(name)
    problem = name .. ": " .. M.problem()
    return false
  end
  local function clear() -- of the second name that a link leaves, or of what was not finished
    if io.type(file) == "file" then file:close() end
    os.remove(temporary)
  end
  local ended, saved = pcall(function()
    file, problem = io.open(temporary, "wbxe") -- x: O_EXCL, e: O_CLOEXEC
    if not file then return false end
    local written = write_all(file, pointer, bytes) or refuse(temporary)
    local named = written and ((replace and C.rename or C.link)(temporary, path) == 0 or refuse(path))
    clear()
    return named
  end)
  if not ended then -- Ctrl-C, perhaps as soon as there was a file; LuaJIT raises it once, the next one ends the process
    clear()
    error(saved, 0)
  end
  if saved then return true end
  return nil, problem
end

return M
