-- Many processes, one id: one builder, everybody right, everybody soon.
local ffi = require "ffi"
local machine = require "support.machine"
local sharearray = require "sharearray"

-- It says "waiting" when it has met the builder's lock.
local WAITER = [[
  local function log(line) if line:find("is building it; waiting", 1, true) then say "waiting" end end
  say(assert(sharearray.cache("x", error, {verbose = true, log_func = log}))(2))
]]

describe("processes that share an id", function()
  local directory, env

  before_each(function()
    directory = machine.directory()
    env = { SHAREARRAY_SHM_PATH = directory }
  end)

  after_each(function() machine.remove(directory) end)

  -- Seconds from the publication to the last view of 64 processes that ask at once.
  local function last_of_64()
    local program = [[
      local done
      say "ready"
      hear()
      local view = assert(sharearray.cache("big", function(alloc)
        say "building"
        local x = alloc("float32", {1000, 100})
        for i = 0, x.size - 1 do x.data[i] = i % 977 end
        local wait = now() + 0.5
        while now() < wait do end
        return x
      end))
      local seen = now(0)
      local sum = 0
      for i = 0, 999 do for j = 0, 99 do sum = sum + view(i, j) end end
      say("sum", sum)
      say("seen", ("%.6f"):format(seen))
    ]]
    local workers = {}
    for i = 1, 64 do workers[i] = machine.worker(program, {}, env) end
    for _, worker in ipairs(workers) do worker:expect("ready") end
    for _, worker in ipairs(workers) do worker:tell() end
    local builders, sums, last = 0, {}, 0
    for _, worker in ipairs(workers) do
      local said = worker:finish()
      if said:find("building") then builders = builders + 1 end
      sums[said:match("sum (%d+)")] = true
      last = math.max(last, tonumber(said:match("seen ([%d.]+)")))
    end
    assert.equal(1, builders)
    local sum = 0
    for i = 0, 99999 do sum = sum + i % 977 end
    assert.same({ [tostring(sum)] = true }, sums)
    assert.same({ "sharearray_big.npy" }, machine.names(directory))
    -- The change time of the file is that of its link; the kernel's clock for it lags up to 4 ms.
    return last - tonumber((machine.shell("stat -c %.9Z " .. directory .. "/sharearray_big.npy")))
  end

  it("64 at once: fn runs once, all read equal data, the last within 150 ms of the publication", function()
    local seconds, tries = last_of_64(), 1
    while seconds >= 0.150 * machine.slowness and tries < 3 do -- a machine may be busy for a moment
      sharearray.free("big", { shm_path = directory })
      seconds, tries = last_of_64(), tries + 1
    end
    assert.is_true(seconds < 0.150 * machine.slowness, ("the last view came after %.1f ms"):format(seconds * 1000))
  end)

  it("waiters that are killed hurt nobody", function()
    local builder = machine.worker([[
      sharearray.cache("x", function(alloc)
        say "building"
        hear()
        return sharearray.array({1, 2, 3})
      end)
      say "built"
    ]], {}, env)
    builder:expect("building")
    local waiters = {}
    for i = 1, 8 do waiters[i] = machine.worker(WAITER, {}, env) end
    for i, waiter in ipairs(waiters) do
      waiter:expect("waiting")
      if i % 2 == 0 then
        waiter:kill()
        assert.equal(-9, (waiter:wait()))
      end
    end
    builder:tell()
    builder:finish()
    for i = 1, 8, 2 do assert.truthy(waiters[i]:finish():find("\n3\n")) end
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("a builder whose fn fails hands over to a waiter, who runs its own", function()
    local program = [[
      local me = ...
      local function log(line) if line:find("is building it; waiting", 1, true) then say "waiting" end end
      local view, err, code = sharearray.cache("x", function()
        say "building"
        hear()
        if me == "raises" then error("no " .. me, 0) end
        if me == "gives nothing" then return nil, "no " .. me end
        return sharearray.array({7})
      end, {verbose = true, log_func = log})
      say("got", view and view(0) or err, code)
    ]]
    local first = machine.worker(program, { "raises" }, env)
    first:expect("building")
    local others = {}
    for i, what in ipairs { "gives nothing", "builds", "builds" } do
      others[i] = machine.worker(program, { what }, env)
      others[i]:expect("waiting")
      others[i]:tell()
    end
    first:tell()
    assert.truthy(first:finish():find("got no raises callback\n", 1, true))
    local built, failed = 0, 0
    for _, other in ipairs(others) do
      local said = other:finish()
      if said:find("building", 1, true) then built = built + 1 end
      if said:find("got no gives nothing callback\n", 1, true) then failed = failed + 1
      else assert.truthy(said:find("got 7 nil\n", 1, true), said) end
    end
    -- Whether the one that gives nothing had its turn before the array was there is chance.
    assert.equal(1 + failed, built)
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("goes on without the counter page", function()
    local builder = machine.worker([[
      sharearray.cache("x", function(alloc)
        say "building"
        hear()
        return sharearray.array({1, 2, 3})
      end)
    ]], {}, env)
    builder:expect("building")
    local waiters = {}
    for i = 1, 4 do
      waiters[i] = machine.worker(WAITER, {}, env)
      waiters[i]:expect("waiting")
    end
    os.remove(("%s/sharearray_.changes.%d"):format(directory, ffi.C.geteuid()))
    builder:tell()
    builder:finish()
    for _, waiter in ipairs(waiters) do assert.truthy(waiter:finish():find("\n3\n")) end
    -- And where none can be made, or it is not what it should be.
    for _, bad in ipairs { "mkdir P", "ln -s /etc/passwd P", "truncate -s 100 P", "head -c 4096 /dev/urandom > P" } do
      local page = ("%s/sharearray_.changes.%d"):format(directory, ffi.C.geteuid())
      machine.shell("rm -rf " .. page .. "; " .. (bad:gsub("P", page)))
      local store = sharearray.new { shm_path = directory }
      assert.equal(3, assert(store:cache("x", error))(2))
      assert.equal(9, assert(store:refresh("x", sharearray.array({ 9 })))(0))
      assert.equal(3, assert(store:refresh("x", sharearray.array({ 1, 2, 3 })))(2))
      assert.equal(3, assert(sharearray.get("x", { shm_path = directory }))(2))
      machine.shell("rm -rf " .. page)
    end
  end)

  it("tells the one who has no descriptor left, and nobody else", function()
    sharearray.cache("x", sharearray.array({ 1, 2, 3 }), { shm_path = directory })
    local worker = machine.worker([[
      ffi.cdef "int setrlimit(int resource, const unsigned long *limit);"
      sharearray.cache("warm", sharearray.array({ 0 })) -- opens the store, and loads what a build needs
      local held = {}
      ffi.C.setrlimit(7, ffi.new("unsigned long[2]", 20, 20))
      while true do
        local file = io.open("/dev/null")
        if not file then break end
        held[#held + 1] = file
      end
      local view, err, code = sharearray.get("x")
      say(view, code, err)
      view, err, code = sharearray.cache("y", sharearray.array({1}))
      say(view, code, err)
      for _, file in ipairs(held) do file:close() end
      say(sharearray.get("x")(1), sharearray.cache("y", sharearray.array({5}))(0))
    ]], {}, env)
    for _ = 1, 2 do
      local line = assert(worker:line())
      assert.truthy(line:find("^nil io sharearray: '[xy]'.*ulimit %-n"), line)
    end
    worker:expect("2 5")
    worker:finish()
  end)

  it("keeps no descriptor open for 1,000 ids", function()
    local worker = machine.worker([[
      ffi.cdef "int setrlimit(int resource, const unsigned long *limit);"
      ffi.C.setrlimit(7, ffi.new("unsigned long[2]", 24, 24))
      local views = {}
      for i = 1, 1000 do
        views[i] = assert(sharearray.cache("id" .. i, function(alloc)
          local x = alloc("int32", 1)
          x[0] = i
          return x
        end))
      end
      for i = 1, 1000 do assert(views[i](0) == i) end
      say(#sharearray.list())
    ]], {}, env)
    worker:expect("1000")
    worker:finish()
    local store = sharearray.new { shm_path = directory }
    for i = 1, 1000 do assert.equal(i, assert(store:get("id" .. i))(0)) end
  end)

  it("times out with the builder's name, at once with 0", function()
    local builder = machine.worker([[
      sharearray.cache("x", function() say "building" hear() return sharearray.array({1}) end)
    ]], {}, env)
    builder:expect("building")
    for _, timeout in ipairs { 0, 0.2 } do
      local started = machine.now()
      local view, err, code = sharearray.cache("x", error, { shm_path = directory, timeout = timeout })
      local took = machine.now() - started
      assert.is_nil(view)
      assert.equal("timeout", code)
      assert.truthy(err:find(("timed out after %g s: process %d ("):format(timeout, builder.pid), 1, true)
        and err:find("is building it; wait longer (option timeout), or end that process", 1, true), err)
      assert.is_true(took >= timeout - 0.01 and took < timeout + 5)
      local _, _, refresh_code = sharearray.refresh("x", error, { shm_path = directory, timeout = timeout })
      assert.equal("timeout", refresh_code)
    end
    builder:tell()
    builder:finish()
    assert.equal(1, assert(sharearray.cache("x", error, { shm_path = directory, timeout = 0 }))(0))
  end)

  it("a waiter's view is the one of the memo, read-only, and as any other, whatever it is of", function()
    -- Of some the view is made before the wait, of the others after it.
    local sources = [[
      local arrays = {
        sharearray.array({ 1, 2 }, "float32"), sharearray.array({ { 1, 2 }, { 3, 4 } }, "float64"),
        sharearray.array({ { 1, 2, 3 } }, "uint8"), sharearray.array({ 5 }, "int32"),
        sharearray.array({ 5, 6 }, "int16"), sharearray.array({ { { 1 }, { 2 } } }, "float32"),
        sharearray.array(7, "float32"), sharearray.array({}, "float64"), sharearray.array({ "ab", "c" }, "S3"),
        sharearray.array({ true, false }), { x = sharearray.array({ 1, 2 }, "float32") },
      }
    ]]
    local builder = machine.worker(sources .. [[
      for i, x in ipairs(arrays) do
        assert(sharearray.cache("x" .. i, function() say "building" hear() return x end))
      end
      say "done"
    ]], {}, env)
    local waiter = machine.worker(sources .. [[
      local function log(line) if line:find("is building it; waiting", 1, true) then say "waiting" end end
      for i, x in ipairs(arrays) do
        hear()
        local v = assert(sharearray.cache("x" .. i, error, {verbose = true, log_func = log}))
        assert(rawequal(v, sharearray.get("x" .. i)), "another than the memo's")
        if type(x) == "table" then x, v = x.x, v.x end
        assert(tostring(v) == tostring(x), tostring(v))
        local _, problem = pcall(v.fill, v, 0)
        assert(tostring(problem):find "read%-only")
      end
      local function mapped()
        local files = 0
        for line in io.lines "/proc/self/maps" do
          if line:find("sharearray_x", 1, true) then files = files + 1 end
        end
        return files
      end
      local before = mapped()
      for i in ipairs(arrays) do sharearray.free("x" .. i) end
      sharearray.get "x1"
      for _ = 1, 4 do collectgarbage() end
      say(#arrays, before, mapped())
    ]], {}, env)
    for _ = 1, 11 do
      builder:expect("building")
      waiter:tell()
      waiter:expect("waiting")
      builder:tell()
    end
    builder:expect("done")
    assert.equal("11 11 0", waiter:finish():match("([^\n]*)\n$"))
  end)

  it("a wait can be interrupted", function()
    local builder = machine.worker([[
      sharearray.cache("x", function() say "building" hear() return sharearray.array({1}) end)
    ]], {}, env)
    builder:expect("building")
    local waiter = machine.worker(WAITER, {}, env)
    waiter:expect("waiting")
    waiter:kill(machine.SIGINT)
    local _, said = waiter:wait()
    assert.truthy(said:find("interrupted"), said)
    builder:tell()
    builder:finish()
  end)

  it("a wait can be interrupted just before it sleeps, while nothing is to be seen of that yet", function()
    local builder = machine.worker([[
      sharearray.cache("x", function() say "building" hear() return sharearray.array({1}) end)
    ]], {}, env)
    builder:expect("building")
    local interrupted = { LD_PRELOAD = "build/spec/interrupt_preload.so" }
    for name, value in pairs(env) do interrupted[name] = value end
    local _, said = machine.worker(WAITER, {}, interrupted):wait()
    assert.truthy(said:find("interrupted"), said)
    builder:tell()
    builder:finish()
  end)

  -- Stopped, so that it learns of both at once.
  it("a wait that is interrupted as the builder dies leaves the build to whoever wants it", function()
    local builder = machine.worker([[
      sharearray.cache("x", function() say "building" hear() end)
    ]], {}, env)
    builder:expect("building")
    local waiter = machine.worker([[
      local function log(line) if line:find("is building it; waiting", 1, true) then say "waiting" end end
      local _, problem = pcall(sharearray.cache, "x", error, {verbose = true, log_func = log})
      say(tostring(problem):match "interrupted" or problem)
      hear()
      say(assert(sharearray.cache("x", error))(0))
    ]], {}, env)
    waiter:expect("waiting")
    local stop = machine.now() + 60
    repeat
      local state = machine.shell("cat /proc/" .. waiter.pid .. "/stat"):match "%) (%a)"
    until state == "S" or machine.now() > stop
    waiter:kill(machine.SIGSTOP)
    builder:kill(machine.SIGKILL)
    builder:wait()
    waiter:kill(machine.SIGINT)
    waiter:kill(machine.SIGCONT)
    waiter:expect("interrupted")
    local own = { shm_path = directory, timeout = 20 }
    assert.equal(7, assert(sharearray.cache("x", sharearray.array { 7 }, own))(0))
    waiter:tell()
    waiter:expect("7")
    waiter:finish()
  end)

  it("readers beside an endless row of refreshes always get a whole version", function()
    local writer = machine.worker([[
      local n = 0
      repeat
        n = n + 1
        assert(sharearray.refresh("x", function(alloc)
          local x = alloc("int32", 5000)
          x:fill(n)
          return x
        end))
        if n == 1 then
          say "first"
          hear()
        end
      until n >= 1500
      say "end"
    ]], {}, env)
    writer:expect("first")
    local program = [[
      local versions, last = 0, 0
      repeat
        local store = sharearray.new { prefix = "sharearray_" }
        local view = assert(store:get("x"))
        local n = view(0)
        for i = 1, 4999, 7 do assert(view(i) == n, "mixed") end
        assert(n >= last, "went back")
        if n > last then versions = versions + 1 end
        if last == 0 then say "up" end
        last = n
      until n == 1500
      say(versions)
    ]]
    local readers = {}
    for i = 1, 3 do readers[i] = machine.worker(program, {}, env) end
    for _, reader in ipairs(readers) do reader:expect("up") end
    writer:tell()
    for _, reader in ipairs(readers) do assert.is_true(tonumber(reader:finish(120):match("(%d+)%s*$")) > 1) end
    writer:finish()
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("a view outlives free, refresh by another process, and its parent", function()
    local store = sharearray.new { shm_path = directory }
    local view = assert(store:cache("x", sharearray.array({ { 1, 2 }, { 3, 4 } })))
    local row = view[1]
    machine.worker([[assert(sharearray.refresh("x", sharearray.array({{9, 9}})))]], {}, env):finish()
    assert.same({ { 1, 2 }, { 3, 4 } }, view:totable())
    machine.worker([[assert(sharearray.free("x"))]], {}, env):finish()
    assert.same({ { 1, 2 }, { 3, 4 } }, view:totable())
    view = view:slice(0, 1)
    store:free("x")
    for _ = 1, 4 do collectgarbage() end
    assert.same({ 3, 4 }, row:totable())
    assert.same({ { 1, 2 } }, view:totable())
  end)

  it("free in the middle of a build: the build publishes", function()
    local builder = machine.worker([[
      local view = assert(sharearray.cache("x", function() say "building" hear() return sharearray.array({1, 2}) end))
      say(view(1))
    ]], {}, env)
    builder:expect("building")
    assert.is_false(sharearray.free("x", { shm_path = directory }))
    assert.same({ "sharearray_x.npy.lock" }, machine.names(directory))
    builder:tell()
    builder:expect("2")
    builder:finish()
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("5 GiB of float32: one builder, right at both ends and beyond 2^32 bytes", function()
    local room = machine.shell("df --output=avail -B1 /dev/shm | tail -n 1")
    if tonumber(room) < 6 * 2 ^ 30 then pending("needs 6 GiB in /dev/shm") return end
    local program = [[
      local n = 5 * 2 ^ 28
      say "ready"
      hear()
      local view = assert(sharearray.cache("huge", function(alloc)
        say "building"
        local x = alloc("float32", {5 * 2 ^ 18, 1024})
        for i = 0, n - 1, 2 ^ 20 do x.data[i] = i / 2 ^ 20 end
        x.data[n - 1] = 77
        return x
      end))
      assert(view.nbytes == 5 * 2 ^ 30)
      for i = 0, n - 1, 2 ^ 20 do assert(view(i / 1024, 0) == i / 2 ^ 20) end
      assert(view(5 * 2 ^ 18 - 1, 1023) == 77)
      assert(view:reshape{n}(n - 1) == 77)
      say "right"
    ]]
    local workers, builders = {}, 0
    for i = 1, 2 do workers[i] = machine.worker(program, {}, env) end
    for _, worker in ipairs(workers) do worker:expect("ready") end
    for _, worker in ipairs(workers) do worker:tell() end
    for _, worker in ipairs(workers) do
      local said = worker:finish(300)
      if said:find("building") then builders = builders + 1 end
      assert.truthy(said:find("right"))
    end
    assert.equal(1, builders)
  end)
end)
