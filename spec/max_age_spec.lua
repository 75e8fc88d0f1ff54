-- The option max_age: one process rebuilds what is too old, all others are served the old one at once.
local machine = require "support.machine"
local sharearray = require "sharearray"

describe("max_age", function()
  local directory, env, store

  before_each(function()
    directory = machine.directory()
    env = { SHAREARRAY_SHM_PATH = directory }
    store = sharearray.new { shm_path = directory }
  end)

  after_each(function() machine.remove(directory) end)

  -- A little longer: the file system's clock is coarse, and behind that of the process that published.
  local function wait_for_age(seconds, id)
    repeat until assert(store:stat(id or "x")).age > seconds + 0.02
  end

  local function number(n)
    return function() return sharearray.array({ n }) end
  end

  it("leaves a young entry alone", function()
    local aging = sharearray.new { shm_path = directory, max_age = 3600 }
    assert.equal(1, assert(aging:cache("x", number(1)))(0))
    assert.equal(1, assert(aging:cache("x", number(2)))(0))
    machine.worker([[say(assert(sharearray.cache("x", error, {max_age = 3600}))(0))]], {}, env):expect("1")
  end)

  it("past it one process of many rebuilds; all others have the old one at once", function()
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local rebuilder = machine.worker([[
      say(assert(sharearray.cache("x", function()
        say "rebuilding"
        hear()
        return sharearray.array({2})
      end, {max_age = 0.05}))(0))
    ]], {}, env)
    rebuilder:expect("rebuilding")
    for _ = 1, 8 do
      machine.worker([[say(assert(sharearray.cache("x", error, {max_age = 0.05}))(0))]], {}, env):expect("1")
    end
    rebuilder:tell()
    rebuilder:expect("2")
    rebuilder:finish()
    assert.equal(2, assert(store:get "x")(0))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("16 processes that all find it too old run one function", function()
    assert(store:cache("x", number(1)))
    wait_for_age(1)
    local workers = {}
    for i = 1, 16 do
      workers[i] = machine.worker([[
        say "ready"
        hear()
        sharearray.cache("x", function()
          say "rebuilding"
          local wait = now() + 0.2
          while now() < wait do end
          return sharearray.array({2})
        end, {max_age = 1})
      ]], {}, env)
    end
    for _, worker in ipairs(workers) do worker:expect("ready") end
    for _, worker in ipairs(workers) do worker:tell() end
    local rebuilds = 0
    for _, worker in ipairs(workers) do
      if worker:finish():find("rebuilding") then rebuilds = rebuilds + 1 end
    end
    assert.equal(1, rebuilds)
  end)

  it("does not rebuild what another process rebuilt between the look at its age and the lock", function()
    assert(store:cache("x", number(1)))
    local place, rebuilt = store.place, false
    function place.age()
      place.age = nil -- the method again
      machine.worker([[assert(sharearray.refresh("x", sharearray.array({2})))]], {}, env):finish()
      rebuilt = true
      return 100
    end
    local function never() error "built again" end
    assert.equal(2, assert(store:cache("x", never, { max_age = 60 }))(0))
    assert.is_true(rebuilt)
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("a failed rebuild keeps the old one, says so, and is not tried again at every call", function()
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local said, tries = {}, 0
    local aging = sharearray.new { shm_path = directory, max_age = 0.05,
      log_func = function(line, level) said[#said + 1] = (level or "") .. ": " .. line end }
    local function failing()
      tries = tries + 1
      error("no source today", 0)
    end
    -- Started before, as the pause is short.
    local other = machine.worker([[
      say "ready"
      hear()
      say(assert(sharearray.cache("x", error, {max_age = 0.05}))(0))
    ]], {}, env)
    other:expect("ready")
    assert.equal(1, assert(aging:cache("x", failing))(0))
    assert.equal(1, tries)
    assert.equal(1, #said)
    assert.truthy(said[1]:find("^warn: sharearray: 'x': not rebuilt: no source today; the one of %d+ s ago serves on"),
      said[1])
    -- For this process and for others, until the pause is over.
    for _ = 1, 1000 do assert.equal(1, assert(aging:cache("x", failing))(0)) end
    other:tell()
    other:expect("1")
    assert.equal(1, tries)
    local stat = store:stat "x"
    assert.is_true(stat.failed >= 0 and stat.failed < 30)
    assert.is_nil(store:stat("x").reason)
    assert.truthy(machine.shell(("LUAJIT='%s' bin/sharearray stat x --shm-path '%s'"):format(machine.luajit, directory))
      :find "\nfailed +a rebuild for max_age, %d+s ago\n")
    -- The pause is 1 s here; then the next try, which succeeds and takes the failure back.
    local deadline = machine.now() + 60
    repeat until tries == 2 or machine.now() > deadline or assert(aging:cache("x", failing))(0) ~= 1
    assert.equal(2, tries)
    repeat until assert(aging:cache("x", number(2)))(0) == 2 or machine.now() > deadline
    assert.equal(2, assert(store:get "x")(0))
    assert.is_nil(assert(store:stat "x").failed)
  end)

  it("a failure is there to be seen before the next one can have the build", function()
    local build = require "sharearray.build"
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local give_up, failed = build.give_up, nil
    finally(function() build.give_up = give_up end)
    function build.give_up(handle)
      failed = store:stat("x").failed
      return give_up(handle)
    end
    assert(store:cache("x", error, { max_age = 0.05 }))
    assert.truthy(failed)
  end)

  it("a failure of who had the lock before is seen by who gets it then, and is not repeated", function()
    local build, C = require "sharearray.build", require("sharearray.cdefs").C
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local own, tries = build.own, 0
    finally(function() build.own = own end)
    function build.own(handle) -- the lock is had
      C.sharearray_note_failure(store.place.handle, "x")
      return own(handle)
    end
    assert.equal(1, assert(store:cache("x", function() tries = tries + 1 end, { max_age = 0.05 }))(0))
    assert.equal(0, tries)
    build.own = own
    assert.equal(2, assert(store:refresh("x", number(2)))(0)) -- nobody has the lock
  end)

  it("a failure of one id is not said of another", function()
    assert(store:cache("x", number(1)))
    assert(store:cache("y", number(1)))
    wait_for_age(0.05)
    store:cache("x", error, { max_age = 0.05 })
    assert.truthy(store:stat("x").failed)
    assert.is_nil(store:stat("y").failed)
  end)

  -- An id, not x, that has x's slot in the counter page.
  local function neighbour_of_x()
    local C = require("sharearray.cdefs").C
    local handle, before = store.place.handle, {}
    for i = 1, 5000 do before[i] = C.sharearray_changes_of(handle, "n" .. i) end
    assert(store:refresh("x", number(1)))
    for i = 1, 5000 do
      if C.sharearray_changes_of(handle, "n" .. i) ~= before[i] then return "n" .. i end
    end
  end

  it("a failure of one id does not keep another from its rebuild, though they share a slot", function()
    assert(store:cache("x", number(1)))
    local other = neighbour_of_x()
    assert(store:cache(other, number(1)))
    wait_for_age(0.05, other) -- the younger one
    local aging = sharearray.new { shm_path = directory, max_age = 0.05 }
    repeat assert(aging:cache("x", error)) until store:stat("x").failed
    assert.equal(2, assert(aging:cache(other, number(2)))(0))
    -- Nor does it make it try again at every call, where both fail.
    local tries, calls = { x = 0, [other] = 0 }, 0
    local from = machine.now()
    repeat
      for id in pairs(tries) do
        assert(aging:cache(id, function()
          tries[id] = tries[id] + 1
          error("no source today", 0)
        end))
      end
      calls = calls + 1
    until tries.x > 1 and tries[other] > 1
    assert.is_true(calls > 100)
    for id, count in pairs(tries) do
      assert.is_true(count <= 1 + machine.now() - from, ("%d tries for %s"):format(count, id))
    end
  end)

  it("says so to standard error, wanted or not, where there is no log_func", function()
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local said = machine.worker([[
      sharearray.cache("x", function() error("no source today", 0) end, {max_age = 0.05})
    ]], {}, env):finish()
    assert.truthy(said:find("^sharearray: 'x': not rebuilt: no source today; the one of %d+ s ago serves on"), said)
  end)

  it("a rebuilder that is killed is replaced, and the old one serves meanwhile", function()
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    machine.worker([[sharearray.cache("x", function() die() end, {max_age = 0.05})]], {}, env):wait()
    assert.equal(1, assert(store:get "x")(0))
    assert.equal(2, assert(store:cache("x", number(2), { max_age = 0.05 }))(0))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("a function that asks for its own id in a rebuild has the old one", function()
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local aging = sharearray.new { shm_path = directory, max_age = 0.05 }
    local function next_one()
      return sharearray.array({ assert(aging:cache("x", error))(0) + 1 })
    end
    assert.equal(2, assert(aging:cache("x", next_one))(0))
  end)

  it("an entry that goes in the middle of a rebuild, and views of the old one, do no harm", function()
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local old = assert(store:get "x")
    local new = assert(store:cache("x", function()
      machine.worker([[say(sharearray.free "x")]], {}, env):expect("true")
      return sharearray.array({ 2 })
    end, { max_age = 0.05 }))
    collectgarbage()
    assert.equal(1, old(0))
    assert.equal(2, new(0))
    assert.equal(2, assert(store:get "x")(0))
  end)

  it("what was closed in the midst of a rebuild that failed is attached anew", function()
    local aging = sharearray.new { shm_path = directory, max_age = 0.05, log_func = function() end }
    local function closing(target)
      return function()
        target:close()
        error "no data"
      end
    end
    local view = assert(store:cache("x", number(1)))
    local bundle = assert(store:cache("y", { a = sharearray.array { 2 }, b = sharearray.array { 3 } }))
    wait_for_age(0.05, "y")
    local function result_alone(...)
      assert.equal(1, select("#", ...))
      return (...)
    end
    assert.equal(1, result_alone(aging:cache("x", closing(view)))(0))
    assert.equal(1, result_alone(aging:cache("x", number(2)))(0)) -- its next try comes later
    assert.equal(2, assert(aging:cache("y", closing(bundle.a))).a(0))
    assert.has_error(function() return view(0) end)
  end)

  it("is for cache and decorator; get and refresh do as ever", function()
    assert(store:cache("x", number(1)))
    wait_for_age(0.05)
    local aging = sharearray.new { shm_path = directory, max_age = 0.05 }
    assert.equal(1, assert(aging:get "x")(0))
    machine.worker([[say(assert(sharearray.get("x", {max_age = 0.05}))(0))]], {}, env):expect("1") -- at its first look
    local load = aging:decorator "x"(number(2))
    repeat until assert(load())(0) == 2 -- a hit looks at the age once in 10 ms
    assert.equal(3, assert(aging:refresh("x", number(3)))(0))
  end)

  it("given at each call, it does not keep LuaJIT from compiling the hits of others", function()
    assert(store:cache("x", number(1)))
    local said = machine.worker([[
      local store = sharearray.new()
      -- Seconds of so many hits, the best of several runs; each function is new to the compiler.
      local function hits()
        local best = math.huge
        for _ = 1, 9 do
          local from = os.clock()
          for _ = 1, 200000 do store:cache("x", error) end
          best = math.min(best, os.clock() - from)
        end
        return best
      end
      local before = hits()
      for _ = 1, 300000 do store:cache("x", error, {max_age = 3600}) end
      jit.flush(hits, true)
      say(hits() / before)
    ]], {}, env):finish()
    -- Where they are interpreted, it is 30 or more.
    assert.is_true(tonumber(said) < 8, said)
  end)

  it("must be more than 0", function()
    for _, wrong in ipairs { 0, -1, 0 / 0, "60", true } do
      assert.error_matches(function() sharearray.new { max_age = wrong } end, "option 'max_age' must be a number")
    end
  end)
end)
