-- Rows: each keeps the memory that it shows, whatever happens while others are taken.
--
-- Every process here begins anew: what LuaJIT compiles, and when the collector comes, differs from one to the next.
local machine = require "support.machine"

-- Of rows that nobody keeps, the memory is not there any more: to read it is a crash.
local SETUP = [[
  local ffi = require "ffi"
  local owner = require("sharearray.rows").owner
  local new = require("sharearray.array").new
  local COUNT = 64
  local function array(value)
    local x = new("float32", { COUNT, 8 })
    x:fill(value)
    return x
  end
  local function collect() for _ = 1, 3 do collectgarbage() end end
  local function lost(rows)
    local found = 0
    for row, value in pairs(rows) do
      if row.map ~= nil and not (owner(row) and row(3) == value and row(7) == value) then found = found + 1 end
    end
    return found
  end
  local function memory()
    collect()
    return collectgarbage "count"
  end
]]

local function process(code, ...)
  return machine.worker(SETUP .. code, { ... }, {}):finish()
end

describe("rows", function()
  for _, way in ipairs { "compiled", "interpreted" } do
    it("of which few are kept, in " .. way .. " code, keep what they were taken from", function()
      local said = process([[
        if ... == "interpreted" then jit.off() end
        local kept = {}
        for round = 1, 400 do
          local x = array(round)
          for i = 0, 999 do
            local row = x[i % COUNT]
            if i % 97 == 0 then kept[row] = round end
            if i % 485 == 0 then row:close() end
          end
          if round % 100 == 0 then
            collect()
            say(lost(kept))
            for row in pairs(kept) do if row.map == nil or kept[row] % 3 > 0 then kept[row] = nil end end
          end
        end
      ]], way)
      assert.equal("0\n0\n0\n0\n", said)
    end)
  end

  it("are kept whatever a hook takes, closes or collects, at any instruction at which one is taken", function()
    local said = process [[
      jit.off()
      math.randomseed(1)
      local SOURCE = debug.getinfo(owner, "S").source
      local SIZES = { 1, 60, 500, 600 } -- around as many as a table has room for
      local x, y = array(1), array(2)
      local mine, others, closed, steps, acts = {}, {}, {}, 0, 0
      local function act(all)
        acts = acts + 1
        if acts % 150 == 0 then others = {} end
        for i = 1, acts % 2 == 0 and 5 or SIZES[math.random(#SIZES)] do
          local row = y[i % COUNT]
          if all or i % 60 == 0 then others[row] = 2 end
          if i % 301 == 0 then row:close() end
        end
        local row = next(mine)
        if row and acts % 20 == 0 then
          row:close()
          mine[row], closed[row] = nil, true
        end
        if not all and acts % 3 == 0 then collectgarbage() end
      end
      local function try(count, where, every, all)
        debug.sethook(function()
          local info = debug.getinfo(2, "Sn")
          if info.source ~= SOURCE or where and info.name ~= where then return end
          steps = steps + 1
          if steps % every == 0 then act(all) end
        end, "", 1)
        for i = 1, count do
          local row = x[i % COUNT]
          if i % 5 == 0 then mine[row] = 1 end
          if i % 35 == 0 then row:close() end
        end
        debug.sethook()
        collect()
        local open = 0
        for row in pairs(closed) do if row.map ~= nil then open = open + 1 end end
        say(acts > 100, lost(mine), lost(others), open)
        mine, others, closed, acts = {}, {}, {}, 0
      end
      for _, all in ipairs { false, true } do
        try(400, nil, 3, all)
        try(600, nil, 7, all)
        try(9000, "begin", 1, all)
        try(5000, "copy", 5, all)
      end
    ]]
    assert.equal(("true 0 0 0\n"):rep(8), said)
  end)

  it("are kept whatever rows finalizers take while compiled code takes some", function()
    local said = process [[
      local kept, taken, finalized = {}, 0, 0
      local function take(x, value, count)
        for i = 1, count do
          local row = x[i % COUNT]
          taken = taken + 1
          if taken % 7 == 0 then kept[row] = value end
          if taken % 77 == 0 then row:close() end
        end
      end
      for round = 1, 60 do
        local x, y = array(round), array(-round)
        for i = 1, 1000 do
          ffi.gc(ffi.new "int[1]", function()
            finalized = finalized + 1
            take(y, -round, i % 97 == 0 and 1500 or 3)
          end)
        end
        take(x, round, 20000)
        if round % 10 == 0 then
          say(lost(kept))
          kept = {}
        end
      end
      say(finalized > 30000)
    ]]
    assert.equal("0\n0\n0\n0\n0\n0\ntrue\n", said)
  end)

  it("that are closed keep nothing, although they are still there", function()
    local said = process [[
      local rows, x = {}, array(1)
      local values = setmetatable({ owner(x[0]) }, { __mode = "v" })
      for i = 1, 5000 do rows[i] = x[i % COUNT] end
      for _, row in ipairs(rows) do row:close() end
      x = nil
      collect()
      say(#rows, values[1] == nil)
    ]]
    assert.equal("5000 true\n", said)
  end)

  it("that are closed show no memory that is gone, to whoever reaches them in the midst of that", function()
    local said = process [[
      jit.off()
      local SOURCES = {
        [debug.getinfo(owner, "S").source] = true,
        [debug.getinfo(require("sharearray.lifetime").close, "S").source] = true,
      }
      local row
      local looks, open, wrong = 0, 0, 0
      local function look()
        if not SOURCES[debug.getinfo(2, "S").source] then return end
        collect()
        looks = looks + 1
        if row.map == nil then return end
        open = open + 1
        if row(3) ~= 1 then wrong = wrong + 1 end
      end
      for _ = 1, 20 do
        local x = array(1)
        row = x[1]
        x:close()
        x = nil
        debug.sethook(look, "", 1)
        row:close()
        debug.sethook()
      end
      say(looks > 200, open > 50, wrong, row.map == nil)
    ]]
    assert.equal("true true 0 true\n", said)
  end)

  it("leave nothing behind: the memory for a burst of them is there for others", function()
    local said = process [[
      local x, rows = array(1), {}
      local function drop() for i = 1, 200000 do assert(x[i % COUNT](0) == 1) end end
      drop()
      local before = memory()
      for i = 1, 300000 do rows[i] = x[i % COUNT] end
      local most = memory()
      rows = { rows[1], rows[150000], rows[300000] } -- in the first table, in the midst, in the last
      collect()
      drop()
      say(most - before > 20000, memory() - before < 500, #rows)
    ]]
    assert.equal("true true 3\n", said)
  end)

  it("of which a few are kept all the time take no more memory than these", function()
    local said = process [[
      local x, kept, before = array(1), {}, nil
      for i = 1, 2000000 do
        local row = x[i % COUNT]
        if i % 100 == 0 then kept[i / 100 % 1000] = row end -- the others are gone by then
        if i == 200000 then before = memory() end
      end
      say(memory() - before < 500)
    ]]
    assert.equal("true\n", said)
  end)

  -- Says at the end of the Lua state how many of `rows` are open.
  local AT_THE_END = [[
    local guard = newproxy(true)
    getmetatable(guard).__gc = function()
      local open = 0
      for _, row in ipairs(rows) do if row.map ~= nil then open = open + 1 end end
      io.write(open, " of ", #rows)
    end
    keep = guard
  ]]

  it("of several tables are closed for finalizers that reach them when the Lua state ends", function()
    local said = process([[
      local x, rows = array(1), {}
      for i = 1, 5000 do rows[i] = x[i % COUNT] end
    ]] .. AT_THE_END)
    assert.equal("0 of 5000", said)
  end)

  it("are kept, and closed in the end, although a hook threw an error in the midst of taking one", function()
    local said = process([[
      local x, rows = array(1), {}
      for i = 1, 10000 do
        local row = x[i % COUNT]
        if i % 10 == 0 then rows[i / 10] = row end
      end
      collect()
      jit.off()
      local done = 0
      debug.sethook(function()
        if debug.getinfo(2, "n").name ~= "copy" then return end
        done = done + 1
        if done == 100 then -- a part of the rows is copied
          debug.sethook()
          error "timeout"
        end
      end, "", 1)
      local ok, message
      for i = 1, 10000 do
        ok, message = pcall(function() return x[i % COUNT] end)
        if not ok then break end
      end
      collectgarbage "stop"
      local before = collectgarbage "count"
      for i = 1, 2000 do rows[1000 + i] = x[i % COUNT] end
      local cheap = collectgarbage "count" - before < 1000 -- the rows and a few tables
      collectgarbage "restart"
      local kept = {}
      for _, row in ipairs(rows) do kept[row] = 1 end
      x = nil
      collect()
      local right = 0
      for row in pairs(kept) do if row(3) == 1 and row(7) == 1 then right = right + 1 end end
      io.write(tostring(message):match "timeout", " ", tostring(cheap), " ", right, " ")
    ]] .. AT_THE_END)
    assert.equal("timeout true 3000 0 of 3000", said)
  end)

  it("are kept although hooks throw errors at whatever instructions at which room is made for them", function()
    local said = process [[
      jit.off()
      math.randomseed(1)
      local kept, taken, errors = {}, 0, 0
      local function take(x, value, count)
        for i = 1, count do
          local row = x[i % COUNT]
          taken = taken + 1
          if taken % 8 == 0 then kept[row] = value end
        end
      end
      local function timeout()
        debug.sethook()
        errors = errors + 1
        error "timeout"
      end
      local x
      for round = 1, 2000 do
        if round % 10 == 1 then x = array(round) end
        local count = math.random(round % 2 == 0 and 60 or 3000)
        debug.sethook(function()
          if debug.getinfo(2, "n").name == "begin" then debug.sethook(timeout, "", count) end
        end, "c")
        pcall(take, x, round - (round - 1) % 10, 600)
        debug.sethook()
        if round % 5 == 0 then
          for row in pairs(kept) do if math.random(4) == 1 then kept[row] = nil end end
          collectgarbage()
        end
      end
      x = nil
      collect()
      local right, wrong = 0, 0
      for row, value in pairs(kept) do
        if row(3) == value and row(7) == value then right = right + 1 else wrong = wrong + 1 end
      end
      say(errors > 1000, right > 100, wrong)
    ]]
    assert.equal("true true 0\n", said)
  end)
end)
