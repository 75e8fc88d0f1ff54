--- `sharearray doctor`: what may be wrong with a store and the machine under it, and what to do.
--
-- Each check says one line or more: `ok`, `hint` for what could be better, `wrong` for what should be
-- repaired; and with the last two what to do about it.
-- @module sharearray.cli.doctor

local console = require "sharearray.cli.console"
local system = require "sharearray.cli.system"
local text = require "sharearray.cli.text"

local CONTAINER = 64 * 2 ^ 20 -- bytes of /dev/shm where a container is started without --shm-size
local PAGE = 4096

local Report = {}
Report.__index = Report

local function line(level, words, remedy)
  console.say(("%-6s %s\n"):format(level, words))
  if remedy then console.say("       ", remedy, "\n") end
end

function Report.ok(_, words) line("ok", words) end
function Report.hint(_, words, remedy) line("hint", words, remedy) end

function Report:wrong(words, remedy)
  self.good = false
  line("wrong", words, remedy)
end

local function check_space(report, path, mount)
  local total, free = system.space(path)
  local kind = mount and mount.kind or "file system"
  if mount and kind ~= "tmpfs" then
    return report:hint(("%s lies on %s, not in memory"):format(path, kind), "use a directory on a tmpfs")
  end
  if not total then return end
  local words = ("%s: %s of %s, %s free"):format(path, kind, text.size(total), text.size(free))
  local point = mount and mount.point or path
  if total <= CONTAINER then
    report:wrong(words .. "; 64M is what a container gets unasked",
      "docker run --shm-size=8g, or: mount -o remount,size=8g " .. point)
  elseif free < total / 20 then
    report:wrong(words .. ": nearly full", "sharearray gc --older-than 1d, or: mount -o remount,size=... " .. point)
  else
    report:ok(words)
  end
end

-- For a mounted tmpfs its own option counts, unless the kernel's switch is at one of two extremes.
local function check_huge_pages(report, mount)
  if mount and mount.kind ~= "tmpfs" then return end -- check_space has said what to do
  local switch = system.read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
  switch = switch and switch:match("%[(%w+)%]")
  local option = mount and mount.options:match("huge=(%w+)") or "never"
  if not switch then
    report:hint("huge pages: this kernel has none for shared memory")
  elseif switch == "deny" then
    report:hint("huge pages: denied by the kernel's switch",
      "echo never >/sys/kernel/mm/transparent_hugepage/shmem_enabled, then allow them in the mount")
  elseif switch == "force" or option ~= "never" then
    report:ok(("huge pages: %s"):format(switch == "force" and "forced" or option))
  else
    report:hint("huge pages: off; with them large arrays are built several times faster",
      "mount -o remount,huge=advise " .. (mount and mount.point or "/dev/shm"))
  end
end

-- The ids that have a lock file.
local function locked_ids(settings)
  local ids = {}
  for _, name in ipairs(system.names(settings.shm_path)) do
    local id = name:sub(1, #settings.prefix) == settings.prefix
      and name:sub(#settings.prefix + 1):match("^(.+)%.npy%.lock$")
    if id then ids[#ids + 1] = id end
  end
  table.sort(ids)
  return ids
end

-- Listing removes dead builders' locks: those that were there before and not after were stale, unless
-- their builder published meanwhile.
local function check_locks(report, before, list, settings, seconds)
  local left, entries = {}, {}
  for _, id in ipairs(locked_ids(settings)) do left[id] = true end
  for _, info in ipairs(list) do entries[info.id] = info end
  local stale = 0
  for _, id in ipairs(before) do
    local info = entries[id]
    if not left[id] and not (info and info.state == "ready" and info.age <= seconds) then
      stale = stale + 1
      report:wrong(("'%s': a dead builder's lock"):format(id), "it is removed now: nothing to do")
    end
  end
  if stale == 0 then report:ok(("locks: none is stale, %d live"):format(#before)) end
end

local function check_entries(report, list)
  local ready, bad = 0, 0
  for _, info in ipairs(list) do
    local remedy = "sharearray free " .. info.id
    bad = bad + 1
    if info.state == "partial" then
      report:wrong(("'%s' is partial: a dead builder left it"):format(info.id), remedy)
    elseif info.state == "corrupt" then
      report:wrong(("'%s' is corrupt: %s"):format(info.id, info.reason), remedy)
    elseif info.state == "untrusted" then
      report:wrong(("'%s' is untrusted"):format(info.id), info.reason)
    elseif info.state == "unsupported" then
      report:hint(("'%s' cannot be used: %s"):format(info.id, info.reason), remedy)
    else
      bad, ready = bad - 1, ready + 1
    end
  end
  if bad == 0 then report:ok(("entries: %d, all sound"):format(ready)) end
end

local function check_page(report, settings)
  local path = ("%s/%s.changes.%d"):format(settings.shm_path, settings.prefix, system.uid)
  local st = system.stat(path)
  local sound = st and st.uid == system.uid and st.nlink == 1 and st.size == PAGE and bit.band(st.mode, 2) == 0
    and (system.read(path) or ""):sub(1, 12) == "SHAREAR\0\1\0\0\0"
  if sound then
    report:ok("counter page: " .. path)
  elseif st then
    report:wrong(("counter page: %s is not sound; waiters poll"):format(path), "rm " .. path)
  else
    report:wrong(("counter page: %s cannot be made; waiters poll"):format(path),
      "free some space, or allow this user to write there")
  end
end

-- Every entry that a process uses is a mapping, and it has others.
local function check_mappings(report, count)
  local limit = tonumber(system.read("/proc/sys/vm/max_map_count") or "")
  if not limit then return end
  local words = ("mappings: %d of a process, %d entries"):format(limit, count)
  if count > limit / 2 then
    report:wrong(words, ("sysctl -w vm.max_map_count=%d"):format(count * 4))
  else
    report:ok(words)
  end
end

return function(store)
  local settings, started = store.settings, os.time()
  local report = setmetatable({ good = true }, Report)
  local before = locked_ids(settings)
  local list, problem = store:list()
  if not list then
    report:wrong((problem:gsub("^sharearray: ", ""))) -- it says what to do
    return false
  end
  local mount = system.mount(settings.shm_path)
  check_space(report, settings.shm_path, mount)
  check_huge_pages(report, mount)
  check_locks(report, before, list, settings, os.difftime(os.time(), started) + 1)
  check_entries(report, list)
  check_page(report, settings)
  check_mappings(report, #list)
  return report.good
end
