--- In nginx: worker 0 holds a lock while the others wait for it, as caches do that keep a herd from
-- building the same thing (lua-resty-lock: lock, look into the cache, unlock). Says
-- `<seconds from the publication to the last view>`.
--
-- Debian has no lua-resty-lock. Where it is not installed, the lock is the same in outline: `add` to a
-- shared dictionary, with the back-off that its manual gives as default: 1 ms, twice as long each
-- time, up to 500 ms.

local baseline = require "harness.baseline"

local waiters = tonumber(os.getenv "BENCH_WAITERS")
local dict, me = ngx.shared.bench, ngx.worker.id()
local STEP, RATIO, MAX_STEP, TIMEOUT = 0.001, 2, 0.5, 30

local Lock = {}
Lock.__index = Lock

function Lock.new(_, _, _) return setmetatable({}, Lock) end

function Lock.lock(_, key)
  local step, waited = STEP, 0
  while not dict:add(key, true, TIMEOUT) do
    if waited >= TIMEOUT then return nil, "timeout" end
    ngx.sleep(step)
    waited = waited + step
    step = math.min(step * RATIO, TIMEOUT - waited, MAX_STEP)
  end
  return waited
end

function Lock.unlock(_) return dict:delete("lock") end

local found, resty = pcall(require, "resty.lock")
local lock_class = found and resty or Lock

local function say(...)
  io.stdout:write(table.concat({ ... }, " "), "\n")
  io.stdout:flush()
end

local function build()
  local lock = lock_class:new("bench", { timeout = TIMEOUT, exptime = TIMEOUT })
  assert(lock:lock("lock"))
  dict:set("locked", true)
  while (dict:get("waiting") or 0) < waiters do ngx.sleep(0.01) end
  ngx.sleep(1.5) -- a build that takes a while
  dict:set("array", 1)
  local start = baseline.now()
  assert(lock:unlock())
  while (dict:get("done") or 0) < waiters do ngx.sleep(0.01) end
  local last = 0
  for i = 1, waiters do last = math.max(last, dict:get("time" .. i)) end
  say(last - start)
  say(found and "resty.lock" or "its back-off")
end

local function wait()
  while not dict:get("locked") do ngx.sleep(0.01) end
  local lock = lock_class:new("bench", { timeout = TIMEOUT, exptime = TIMEOUT })
  dict:incr("waiting", 1, 0)
  assert(lock:lock("lock"))
  assert(dict:get("array") == 1)
  local now = baseline.now()
  lock:unlock()
  dict:set("time" .. me, now)
  dict:incr("done", 1, 0)
end

ngx.timer.at(0, me == 0 and build or wait)
