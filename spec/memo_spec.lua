-- What the memo in front of the store lets a process see, judged by a model: random operations of eight
-- processes, with times, and afterwards the question whether anybody saw what was certainly gone.
--
-- A version is gone once a change that began after it was published has returned. A change that touches
-- a counter (refresh, free) must be seen from then on; after `rm`, which touches none, the old version
-- may be seen for 10 ms, by the clock that the memo itself uses. MEMO_OPERATIONS=100000 runs longer,
-- MEMO_SEED=1 repeats the choices.
local machine = require "support.machine"
local sharearray = require "sharearray"

local WORKERS, IDS = 8, 3
local OPERATIONS = tonumber(os.getenv "MEMO_OPERATIONS" or 2000)
local SEED = tonumber(os.getenv "MEMO_SEED") or os.time() % 100000
local ALLOWED = 10 -- ms

-- Notes `kind id version begin end tick_before tick_after`, times in us, ticks in ms of the coarse clock.
local WORKER = [[
  local directory, number, seed, operations, removes, scribbles = ...
  number, seed, operations = tonumber(number), tonumber(seed), tonumber(operations)
  local C = require("sharearray.cdefs").C
  local store = sharearray.new { shm_path = directory, timeout = 0.05 }
  ffi.cdef "int unlink(const char *path); unsigned geteuid(void); int open(const char *path, int flags, ...);"
  ffi.cdef "void *mmap(void *at, size_t length, int protection, int flags, int fd, long offset);"
  math.randomseed(seed * 100 + number)
  local notes, made, page = {}, 0, nil

  local function note(kind, id, version, begin, tick)
    notes[#notes + 1] = ("%s %d %d %.1f %.1f %.0f %.0f"):format(kind, id, version, begin, now() * 1e6, tick,
      C.sharearray_clock())
  end

  local function fresh()
    made = made + 1
    return sharearray.array({ made * 100 + number, made * 100 + number }, "int32")
  end

  local function scribble()
    if not page then
      page = ffi.C.open(directory .. "/sharearray_.changes." .. ffi.C.geteuid(), 2)
      page = ffi.cast("uint8_t *", ffi.C.mmap(nil, 4096, 3, 1, page, 0))
    end
    for _ = 1, 200 do page[math.random(12, 4095)] = math.random(0, 1) end
  end

  local function step()
    local name, choice = math.random(0, ]] .. IDS - 1 .. [[), math.random(100)
    local id = "m" .. name
    local tick, begin = C.sharearray_clock(), now() * 1e6
    if choice <= 92 then
      -- Mostly hits of the memo, many in a row.
      for _ = 1, 5 do
        tick, begin = C.sharearray_clock(), now() * 1e6
        local view, err, code = store:get(id)
        if view then
          assert(view(0) == view(1), "partial")
          note("read", name, view(0), begin, tick)
        else
          assert(code == "absent", err)
        end
      end
    elseif choice <= 97 then
      local mine = fresh()
      local view = choice <= 95 and store:refresh(id, mine) or choice > 95 and store:cache(id, mine)
      if view and view(0) == mine(0) then note("publish", name, view(0), begin, tick)
      elseif view then note("read", name, view(0), begin, tick) end
    elseif choice <= 99 or removes == "no" then
      local removed, err = store:free(id)
      assert(not err, err)
      if removed then note("free", name, 0, begin, tick) end -- else it touched no counter
    else
      ffi.C.unlink(directory .. "/sharearray_" .. id .. ".npy")
      note("rm", name, 0, begin, tick)
    end
  end

  for i = 1, operations do
    step()
    if scribbles == "yes" then scribble() end
  end
  local file = assert(io.open(directory .. "/notes." .. number, "w"))
  file:write(table.concat(notes, "\n"), "\n")
  file:close()
]]

local function read_notes(directory)
  local notes = {}
  for number = 1, WORKERS do
    for line in io.lines(directory .. "/notes." .. number) do
      local kind, id, version, begin, end_, tick, after = line:match(
        "(%S+) (%d+) (%d+) (%S+) (%S+) (%d+) (%d+)")
      notes[#notes + 1] = { kind = kind, id = tonumber(id), version = tonumber(version), begin = tonumber(begin),
        end_ = tonumber(end_), tick = tonumber(tick), after = tonumber(after), worker = number }
    end
  end
  return notes
end

-- For each id its changes, the last first, each with the earliest end of all that begin no earlier.
local function changes_of(notes, counted)
  local changes = {}
  for id = 0, IDS - 1 do changes[id] = {} end
  for _, note in ipairs(notes) do
    local counts = note.kind == "publish" or note.kind == "free"
    if counts == counted and note.kind ~= "read" then
      table.insert(changes[note.id], { begin = note.begin, end_ = note.end_, after = note.after })
    end
  end
  for _, list in pairs(changes) do
    table.sort(list, function(a, b) return a.begin > b.begin end)
    for i = 2, #list do
      if list[i - 1].end_ < list[i].end_ then list[i].end_, list[i].after = list[i - 1].end_, list[i - 1].after end
    end
  end
  return changes
end

-- The first change to return of those that began after `time`.
local function first_after(list, time)
  local low, high = 0, #list
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if list[middle].begin > time then low = middle else high = middle - 1 end
  end
  return list[low]
end

-- nil, or what the model rules out. `allowed`: ms for which a counted change may go unseen.
local function judge(notes, allowed)
  local published, reads = {}, 0
  for _, note in ipairs(notes) do
    if note.kind == "publish" then published[note.version] = note end
  end
  local counted, uncounted = changes_of(notes, true), changes_of(notes, false)
  for _, note in ipairs(notes) do
    if note.kind == "read" then
      reads = reads + 1
      local origin = published[note.version]
      if not origin or origin.id ~= note.id then return "a version that nobody published here: " .. note.version end
      if note.end_ < origin.begin then return "a version before its time: " .. note.version end
      local gone = first_after(counted[note.id], origin.end_)
      if gone and (allowed and note.tick - gone.after >= allowed or not allowed and note.begin > gone.end_) then
        return ("version %d, %.0f us after a counted change, in worker %d"):format(note.version,
          note.begin - gone.end_, note.worker)
      end
      gone = first_after(uncounted[note.id], origin.end_)
      if gone and note.tick - gone.after >= ALLOWED then
        return ("version %d, %d ms after an uncounted change, in worker %d"):format(note.version,
          note.tick - gone.after, note.worker)
      end
    end
  end
  return nil, reads
end

describe("the memo of eight processes", function()
  local directory

  before_each(function() directory = machine.directory() end)
  after_each(function() machine.remove(directory) end)

  local function run(removes, scribbles)
    local workers = {}
    sharearray.cache("m0", sharearray.array({ 0 }), { shm_path = directory }) -- makes the counter page
    assert(sharearray.free("m0", { shm_path = directory }))
    for number = 1, WORKERS do
      workers[number] = machine.worker(WORKER, { directory, number, SEED, OPERATIONS, removes, scribbles })
    end
    for _, worker in ipairs(workers) do worker:finish(600) end
    return read_notes(directory)
  end

  it("shows a change that touched a counter at once, and another one after 10 ms, seed " .. SEED, function()
    local problem, reads = judge(run("yes", "no"), nil)
    assert.is_nil(problem)
    assert.is_true(reads > OPERATIONS * WORKERS)
  end)

  it("is wrong for 10 ms at most while somebody writes garbage over the counters, seed " .. SEED, function()
    local problem, reads = judge(run("yes", "yes"), ALLOWED)
    assert.is_nil(problem)
    assert.is_true(reads > OPERATIONS * WORKERS)
  end)

  it("counts the 10 ms from the look, however late the process comes to note what it saw", function()
    local place, upvalue = require "sharearray.place", 0
    machine.worker("assert(sharearray.cache('late', sharearray.array({1})))", {},
      { SHAREARRAY_SHM_PATH = directory }):finish()
    local store = sharearray.new { shm_path = directory }
    local name, whole
    repeat
      upvalue = upvalue + 1
      name, whole = debug.getupvalue(place.remember, upvalue)
    until name == "whole"
    debug.setupvalue(place.remember, upvalue, function(...) -- called in between
      os.remove(directory .. "/sharearray_late.npy")
      local stopped = machine.now()
      repeat until machine.now() > stopped + 0.03
      return whole(...)
    end)
    local view = store:get("late")
    debug.setupvalue(place.remember, upvalue, whole)
    assert.equal(1, view(0))
    assert.equal("absent", (select(3, store:get("late"))))
  end)

  it("is none the worse for a wait that Ctrl-C ends while room is made in it", function()
    local store = sharearray.new { shm_path = directory }
    assert(store:cache("other", sharearray.array({ 1 })))
    local place = store.place
    local interrupted = 0
    for line = 1, 20 do -- as the interpreter does it: by a hook
      local lines = 0
      local function interrupt()
        lines = lines + 1
        if lines < line then return end
        debug.sethook()
        error "interrupted!"
      end
      local whole = pcall(function()
        debug.sethook(interrupt, "l")
        place:expect "awaited"
        debug.sethook()
      end)
      if not whole then interrupted = interrupted + 1 end
      assert.equal("absent", (select(3, store:get "awaited")))
      assert(store:refresh("other", sharearray.array({ line })))
      assert.equal("absent", (select(3, store:get "awaited")))
      assert.equal(line, store:get("other")(0))
    end
    assert.is_true(interrupted > 3)
  end)

  it("has one view for all coroutines that waited for an id", function()
    local builder = machine.worker([[
      sharearray.cache("x", function() say "building" hear() return sharearray.array({5}) end)
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    builder:expect("building")
    local store = sharearray.new { shm_path = directory, sleep = function() coroutine.yield() end }
    local threads, views = {}, {}
    for i = 1, 3 do
      threads[i] = coroutine.create(function() views[i] = assert(store:cache("x", error)) end)
      assert(coroutine.resume(threads[i]))
    end
    builder:tell()
    builder:finish()
    for _, thread in ipairs(threads) do
      while coroutine.status(thread) ~= "dead" do assert(coroutine.resume(thread)) end
    end
    for i = 1, 3 do assert.is_true(rawequal(views[i], store:get "x")) end
    assert.equal(5, views[1](0))
  end)

  it("misses no removal in the very tick of its look at the directory, however seldom it looks", function()
    local C = require("sharearray.cdefs").C
    local store = sharearray.new { shm_path = directory }
    local function pause(milliseconds)
      local stop = C.sharearray_clock() + milliseconds
      repeat until C.sharearray_clock() > stop
    end
    for _ = 1, 100 do
      assert(store:cache("seldom", sharearray.array({ 1 })))
      pause(12)
      local tick = C.sharearray_clock()
      assert(io.open(directory .. "/other", "w")):close()
      os.remove(directory .. "/other") -- the directory has this tick's time
      assert(store:get("seldom"))
      os.remove(directory .. "/sharearray_seldom.npy")
      local within = C.sharearray_clock() == tick
      pause(60)
      assert.equal("absent", (select(3, store:get("seldom"))))
      if within then return end
    end
    error "no look and removal came within one tick"
  end)

  it("sees a removal although the directory's time was put back, as touch -r, tar and rsync do", function()
    local C = require("sharearray.cdefs").C
    local store = sharearray.new { shm_path = directory }
    local clock = os.tmpname()
    assert(store:cache("back", sharearray.array({ 1 })))
    local stop = C.sharearray_clock() + 100 -- by then it relies on the directory's time
    repeat assert(store:get("back")) until C.sharearray_clock() > stop
    machine.shell(("touch -r %s %s"):format(directory, clock))
    os.remove(directory .. "/sharearray_back.npy")
    machine.shell(("touch -r %s %s"):format(clock, directory))
    stop = C.sharearray_clock() + 3000 -- 10 would do
    while store:get("back") do assert(C.sharearray_clock() < stop, "it is still served") end
    os.remove(clock)
  end)

  it("would be caught", function()
    local function note(kind, version, begin, end_)
      return { kind = kind, id = 0, version = version, begin = begin * 1000, end_ = end_ * 1000, tick = begin,
        after = end_, worker = 1 }
    end
    local notes = { note("publish", 1, 0, 1), note("publish", 2, 4, 5), note("rm", 0, 20, 21) }
    local function with(last, allowed)
      notes[4] = last
      return judge(notes, allowed)
    end
    assert.is_nil(with(note("read", 1, 4.5, 6)))
    assert.truthy(with(note("read", 1, 6, 7)):find("counted change"))
    assert.is_nil(with(note("read", 1, 6, 7), 10))
    assert.truthy(with(note("read", 1, 16, 17), 10):find("counted change"))
    assert.is_nil(with(note("read", 2, 30, 32)))
    assert.truthy(with(note("read", 2, 31, 32)):find("uncounted change"))
    assert.truthy(with(note("read", 2, 1, 2)):find("before its time"))
    assert.truthy(with(note("read", 3, 1, 2)):find("nobody published"))
  end)
end)
