-- What of the speed cannot be noisy: system calls, recorded traces, instructions. `make bench` has the times.

local machine = require "support.machine"
local instructions = require "support.instructions"

local HOT = " spec/support/hot.lua "
local ENVIRONMENT = "LD_PRELOAD=build/spec/steady_preload.so setarch -R "
local CALLGRIND = "valgrind --tool=callgrind --callgrind-out-file=/dev/null "

local function there(command) return select(2, machine.shell("command -v " .. command)) end

describe("a hot loop", function()
  local directory, run

  before_each(function()
    directory = machine.directory()
    run = "SHAREARRAY_SHM_PATH=" .. directory .. " "
  end)

  after_each(function() machine.remove(directory) end)

  -- A busy machine may take the processor away for longer than the 10 ms between two looks at the file
  -- system: so one span of many has to be free of calls.
  it("of hits makes no system call", function()
    if not there "strace" then return pending("strace is not installed") end
    if machine.under_valgrind then return pending("valgrind makes system calls of its own") end
    local said = machine.shell(run .. "strace -f " .. machine.luajit .. HOT .. "calls 1000")
    local least
    for span in said:gmatch "gettid%(%)[^\n]*\n(.-)gettid%(%)" do
      local calls = select(2, span:gsub("[^\n]+\n", ""))
      least = math.min(least or calls, calls)
    end
    assert.equal(0, least, said)
  end)

  -- The clock stands still: a look at the file system in the midst of a recording would end it.
  it("compiles, without an abort", function()
    local said, done = machine.shell(run .. ENVIRONMENT .. machine.luajit .. HOT .. "traces 20000")
    assert.is_true(done, said)
    local loops = 0
    for name, traces, aborts, reason in said:gmatch "(%S+)\t(%d+)\t(%d+)\t([^\n]*)" do
      loops = loops + 1
      assert.is_true(tonumber(traces) > 0, name .. " was not compiled")
      assert.equal(0, tonumber(aborts), name .. " was aborted: " .. reason)
    end
    assert.equal(9, loops, said)
  end)

  it("compiles after whatever number of calls that were no hits, which LuaJIT failed to compile", function()
    if machine.under_valgrind then return pending("it would take minutes") end
    local said, done = machine.shell(run .. machine.luajit .. HOT .. "revived 150000")
    assert.is_true(done, said)
    local traces = {}
    for name, count in said:gmatch "(%S+)\t(%d+)" do traces[name] = tonumber(count) end
    assert.is_true(traces.hit > 0, "a loop of cache was not compiled")
    assert.is_true(traces.get > 0, "a loop of get was not compiled")
  end)

  -- Compiled while it attaches, a loop's hits would be the slower: so it is, but where there are nothing but attaches.
  it("of attaches compiles where they come in bulk, and there alone", function()
    local function traces_of(environment, what)
      local said, done = machine.shell(run .. environment .. machine.luajit .. HOT .. what .. " 20000")
      assert.is_true(done, said)
      local traces = {}
      for name, count in said:gmatch "(%S+)\t(%d+)" do traces[name] = tonumber(count) end
      return traces
    end
    local bulk = traces_of(ENVIRONMENT, "bulk")
    assert.is_true(bulk.attach > 0 and bulk.hit > 0 and bulk.get > 0)
    assert.equal(0, traces_of("", "rare").attach)
  end)

  -- Per pass: the difference of two runs, so that the start of the process does not count. The clock stands
  -- still, addresses and random numbers are the same each time: else LuaJIT would not always compile the same, and
  -- an attach would take 24,200 to 26,500 instructions, by which strings meet in its tables.
  local function count(what, passes, flags)
    local totals = {}
    for i, n in ipairs { passes, 2 * passes } do
      local said = machine.shell(run .. ENVIRONMENT .. CALLGRIND .. machine.luajit .. flags .. HOT .. what .. " " .. n)
      totals[i] = assert(tonumber((said:match "Collected : (%d+)")), said)
    end
    return (totals[2] - totals[1]) / passes
  end

  -- An attach is interpreted at that: how much of it LuaJIT compiles, and when, is not always the same.
  for what, measured in pairs { hit = { 2000000, "" }, attach = { 4000, " -joff" }, element = { 3000000, "" } } do
    it("takes the instructions it took: " .. what, function()
      if not there "valgrind" then return pending("valgrind is not installed") end
      if machine.under_valgrind then return pending("valgrind cannot count what runs under valgrind") end
      if not package.searchpath("sharearray.core", package.cpath):find("build/lib/", 1, true) then
        return pending("another build of the core")
      end
      local stored = instructions.stored(machine.luajit)
      if not stored and not instructions.renewing then
        return pending("no figures for this build of LuaJIT; SHAREARRAY_RENEW=1 makes them")
      end
      if instructions.renewing then
        return instructions.renew(machine.luajit, what, count(what, unpack(measured)))
      end
      -- What LuaJIT spends on compiling differs a little from run to run; a loop that has changed stays so.
      local taken, expected = nil, stored[what]
      for _ = 1, 3 do
        taken = count(what, unpack(measured))
        if math.abs(taken / expected - 1) <= 0.05 then return end
      end
      error(("%s: %.1f instructions, stored are %.1f"):format(what, taken, expected))
    end)
  end
end)
