-- Views as guards of memory: read-only, alive as long as needed, closed, very large; and what is a view.

local ffi = require "ffi"
local machine = require "support.machine"
local views = require "support.views"
local array = require "sharearray.array"
local dtype = require "sharearray.dtype"
local instance = require "sharearray.instance"
local lifetime = require "sharearray.lifetime"
local view = require "sharearray.view"
local C = require("sharearray.cdefs").C

local read_only, counting, raises, private_map = views.read_only, views.counting, views.raises, views.private_map
local sparse, references, collect = views.sparse, views.references, views.collect

describe("a read-only view", function()
  it("refuses every way of writing", function()
    local x = counting("float32", 3)
    local m, v = read_only(x:reshape { 3, 1 }), read_only(x)
    raises("read%-only: cannot set %[0%]", function() m[0] = 1 end)
    raises("read%-only", function() v[0] = 1 end)
    raises("read%-only", function() v[7] = 1 end)
    raises("read%-only", function() v:set(0, 1) end)
    raises("read%-only", function() m:set(0, 0, 1) end)
    raises("read%-only", function() v:fill(1) end)
    raises("read%-only: cannot set 'anything'", function() v.anything = 1 end)
    for _, name in ipairs { "data", "shape", "ndim", "strides", "nbytes", "dtype", "iter" } do
      raises("read%-only: cannot set '" .. name .. "'", function() v[name] = 1 end)
    end
    raises("constant", function() v.data[0] = 1 end)
    raises("constant", function() v:slice(0, 2).data[0] = 1 end)
    raises("constant", function() m[0].data[0] = 1 end)
    assert.is_false(pcall(ffi.copy, v.data, "abc", 3))
    assert.is_false(pcall(ffi.fill, v.data, 4))
    assert.same({ 0, 1, 2 }, v:totable())
  end)

  it("has no member that can be written", function()
    local v = read_only(counting("float32", { 2, 3 })):transpose()
    local members = { "map", "sealed", "lent", "elements", "bits", "b0", "b1", "count", "n0", "n1", "s0", "s1" }
    for _, name in ipairs(members) do
      assert.is_true(pcall(function() return v[name] end), name .. " is no member any more")
      for _, value in ipairs { 0, 1e9, ffi.new("char[8]") } do
        local ok = pcall(function() v[name] = value end)
        assert.is_false(ok)
      end
    end
    assert.is_false(pcall(function() v.map = nil end))
    assert.is_false(pcall(function() v.sealed[0] = 0 end))
    assert.is_false(pcall(function() v.elements[0] = 0 end))
    assert.is_false(pcall(function() v.bits[0] = 0 end))
    assert.is_false(pcall(function() v.map.length = 0 end))
    assert.same({ { 0, 3 }, { 1, 4 }, { 2, 5 } }, v:totable())
  end)

  it("has no metatable to be had, and keeps its metatype", function()
    local v = read_only(counting("float32", 3))
    assert.is_false(pcall(ffi.metatype, ffi.typeof(v), {}))
    assert.is_false(pcall(setmetatable, v, {}))
  end)
end)

describe("memory", function()
  it("lives as long as the last view of it", function()
    local map = private_map(24)
    local x = instance.new(dtype.of("float32"), { 2, 3 }, nil, map.base, map, true)
    assert.equal(2, references(map))
    -- Rows have no references of their own: what they were taken from has one for all of them.
    local others = { x[1], x:slice(0, 1), x:reshape { 6 }, x:transpose(), x:transpose()[0] }
    collect()
    assert.equal(7, references(map))
    x:set(1, 2, 9)
    x:close()
    assert.equal(6, references(map))
    collect()
    assert.equal(9, others[1](2))
    assert.equal(9, others[4](2, 1))
    assert.equal(0, others[5](1))
    others[1]:close()
    raises("closed", function() local _ = others[1](2) end)
    collect()
    assert.equal(5, references(map))
    others[4]:close()
    assert.equal(4, references(map)) -- at once, where there is no row
    others = nil
    collect()
    assert.equal(1, references(map))
    assert.is_nil(others)
    C.sharearray_unref(map)
  end)

  it("is kept by rows of rows, whatever they came from is closed or collected", function()
    local map = private_map(96)
    local x = instance.new(dtype.of("float32"), { 2, 3, 4 }, nil, map.base, map, true)
    x:set(1, 2, 3, 9)
    local plane = x[1]
    local row = plane[2]
    plane:close()
    assert.equal(9, row(3))
    x, plane = nil, nil -- luacheck: ignore
    collect()
    assert.equal(2, references(map))
    assert.equal(9, row(3))
    assert.equal(9, row:slice(3)(0))
    row = nil -- luacheck: ignore
    collect()
    assert.equal(1, references(map))
    C.sharearray_unref(map)
  end)

  it("of an array that is closed may be written through its rows' rows as before", function()
    local x = counting("float32", { 2, 3, 4 })
    local plane = x[1]
    x:close()
    plane[2]:set(3, -1)
    assert.equal(-1, plane(2, 3))
    instance.freeze(plane)
    raises("read%-only", function() plane[2]:set(3, 0) end)
  end)

  it("is kept by rows of a copy that somebody made of a view's struct", function()
    local map = private_map(24)
    local x = instance.new(dtype.of("float32"), { 2, 3 }, nil, map.base, map, false)
    local row = ffi.new(ffi.typeof(x), x)[1]
    x = nil -- luacheck: ignore
    collect()
    assert.equal(2, references(map))
    assert.equal(0, row(2))
    C.sharearray_unref(map)
  end)

  it("is not there for rows that a finalizer reaches when the Lua state ends: they are closed", function()
    local said = machine.worker([[
      local ffi = require "ffi"
      local guards = {}
      for i = 1, 50 do
        local x = sharearray.array(ffi.new("float[2][600]"))
        local row = x[1]
        guards[i] = newproxy(true)
        getmetatable(guards[i]).__gc = function()
          local ok, result = pcall(function() return row(599) end)
          io.write((ok and result == 0 or tostring(result):find "closed") and "right " or "wrong ")
        end
      end
      keep = guards
    ]]):finish()
    assert.equal(50, select(2, said:gsub("right", "")), said)
  end)

  it("is given up at the end of the Lua state in one go, however many views and rows there are", function()
    local said = machine.worker([[
      local x = sharearray.array { { 1, 2 }, { 3, 4 } }
      keep = {}
      for _ = 1, 50000 do
        local v = x:slice(0, 1)
        keep[#keep + 1], keep[#keep + 2] = v, v[0]
      end
      io.write "kept"
    ]]):finish(20 * machine.slowness)
    assert.equal("kept", said)
  end)

  -- A collector with such a multiplier goes through all of its work whenever it begins.
  it("is there for what is made of a view that nobody else has, whenever the collector comes", function()
    local said = machine.worker([[
      local record = { { "a", "float32" }, { "b", "int32", { 3 } }, { "c", "S5" }, { "d", { { "e", "int8" } } } }
      local value = { a = 1, b = { 1, 2, 3 }, c = "x", d = { e = 5 } }
      local function records() return sharearray.array({ value }, record) end
      local function matrix() return sharearray.array { { 1, 2, 3 }, { 4, 5, 6 } } end
      local ways = {
        function() return matrix():slice(1)(0, 2) == 6 end,
        function() return matrix():reshape { 6 }[5] == 6 end,
        function() return matrix():transpose():copy()(2, 1) == 6 end,
        function() return matrix():transpose():slice(1)[1][1] == 6 end,
        function() return sharearray.array({ "ab", "c" }, "S3")[1] == "c" end,
        function() return sharearray.array({ "ab", "c" }, "U3"):reshape { 2, 1 }(1, 0) == "c" end,
        function() return sharearray.array({ "\0\64" }, "V2"):bfloat16()(0) == 2 end,
        function() return records()[0].a == 1 end,
        function() return records()(0).b(2) == 3 end,
        function() return records()[0].c == "x" end,
        function() return records()[0].d.e == 5 end,
        function() return records():field "b"(0, 1) == 2 end,
      }
      collectgarbage("setpause", 0)
      collectgarbage("setstepmul", 1000000)
      jit.off()
      for _ = 1, 3 do
        for i, way in ipairs(ways) do if not way() then io.write("wrong ", i, " ") end end
      end
      io.write "done"
    ]], {}, {}):finish()
    assert.equal("done", said)
  end)

  it("is dropped by rows made in compiled loops", function()
    local map = private_map(4000)
    local x = instance.new(dtype.of("float32"), { 100, 10 }, nil, map.base, map, false)
    local s = 0
    for _ = 1, 20 do
      for i = 0, 99 do s = s + x[i](3) end
    end
    for _, row in x:iter() do s = s + row(0) end
    collect()
    assert.equal(3, references(map)) -- of x, and for the rows of x
    assert.equal(0, s)
    x:close()
    collect()
    assert.equal(1, references(map))
    C.sharearray_unref(map)
  end)
end)

describe("close", function()
  it("makes any later use an error", function()
    for _, v in ipairs { read_only(counting("float32", 3)), counting("float32", 3),
      read_only(counting("int8", { 2, 3 })):transpose(), array.array(5), counting("complex64", { 1, 1 }) } do
      local zeros = {}
      for axis = 1, v.ndim do zeros[axis] = 0 end
      v:close()
      v:close()
      raises("closed", function() local _ = v(unpack(zeros)) end)
      raises("closed", function() local _ = #v end)
      raises("closed", function() v:set(0, 0) end)
      raises("closed", function() v:fill(0) end)
      raises("closed", function() local _ = v:tonumber() end)
      raises("closed", function() local _ = v:string() end)
      for _, name in ipairs { "data", "shape", "strides", "dtype", "ndim", "size", "nbytes" } do
        raises("closed", function() local _ = v[name] end)
        raises("closed", function() v[name] = 1 end)
      end
      for _, name in ipairs { "slice", "reshape", "transpose", "totable", "iter" } do
        raises("closed", function() v[name](v, 0) end)
      end
      if #zeros > 0 then
        raises("closed", function() local _ = v[0] end)
        raises("closed", function() v[0] = 1 end)
      end
      assert.is_true(view.is(v))
      assert.is_false(instance.is_writable(v))
      instance.freeze(v)
      assert.is_false(pcall(array.array, v))
    end
  end)

  it("in the middle of a compiled loop stops the next access", function()
    local v = read_only(counting("float32", 1000))
    local done = 0
    local ok, message = pcall(function()
      for i = 0, 999 do
        if i == 500 then v:close() end
        done = done + 1 + v(i) * 0
      end
    end)
    assert.is_false(ok)
    assert.matches("closed", message)
    assert.equal(500, done)
  end)

  it("in an iteration ends it with the error", function()
    for _, v in ipairs { counting("int8", 100), counting("int8", { 100, 2 }) } do
      raises("closed", function()
        for _ in v:iter() do v:close() end
      end)
    end
  end)

  it("takes no longer beside many rows of others", function()
    local x, kept = counting("float32", { 2, 3 }), {}
    local function seconds()
      local start = os.clock()
      for _ = 1, 1000 do
        local v = x:slice(0, 1)
        local _ = v[0]
        v:close()
      end
      return os.clock() - start
    end
    seconds()
    local before = seconds()
    for i = 1, 300000 do kept[i] = x[1] end
    assert.is_true(seconds() < 50 * math.max(before, 0.001))
    assert.equal(5, kept[1](2))
  end)

  it("by a finalizer in the midst of an access fails that access, or comes behind it", function()
    local directory = machine.directory()
    local times = machine.under_valgrind and 5 or 100
    local said = machine.worker([[
      jit.off() -- interpreted code makes objects of pointers and sizes, at which the collector may run
      collectgarbage("setpause", 100)
      local function part(x) return x:slice(0, 2) end
      local function turned(x) return x:transpose() end
      local wrong = 0
      local function expect(x, digit) if tostring(x):sub(1, 1) ~= digit then wrong = wrong + 1 end end
      local function of_one(v) expect(v(1), "2") end
      local function of_two(v) expect(v(1, 1), "4") end
      local function index(v) expect(v[1], "2") end
      local function row(v) expect(#v[1], "2") end
      local function record(v) expect(v(1).a, "2") end
      local function set(v) v:set(1, 7) end
      local function set_two(v) v:set(1, 1, 7) end
      local records = sharearray.array({ { a = 1 }, { a = 2 } }, sharearray.dtype { { "a", "int32" } })
      local count, times = 0, tonumber(...)
      for _, dtype in ipairs { "int32", "float32", "int64", "complex64" } do
        local one, two = sharearray.array({ 1, 2 }, dtype), sharearray.array({ { 1, 2 }, { 3, 4 } }, dtype)
        local cases = {
          { one, part, of_one }, { one, part, index }, { two, part, of_two }, { two, turned, of_two },
          { two, part, row }, { two, turned, row }, { one, part, set }, { two, turned, set_two },
          { records, part, record },
        }
        for _, case in ipairs(cases) do
          local whole, take, use = unpack(case)
          for _ = 1, times do
            local v = take(whole)
            getmetatable(newproxy(true)).__gc = function() v:close() end
            repeat until not pcall(use, v)
            if not pcall(function() return v.shape end) then count = count + 1 end
          end
        end
      end
      say(count, wrong)
    ]], { times }, { SHAREARRAY_SHM_PATH = directory }):finish()
    machine.remove(directory)
    assert.equal(36 * times .. " 0\n", said)
  end)

  it("by a finalizer in the midst of a method fails that method, or comes behind it", function()
    local directory = machine.directory()
    local times = machine.under_valgrind and 5 or 200
    local said = machine.worker([[
      jit.off() -- as above
      collectgarbage("setpause", 100)
      local ffi = require "ffi"
      local whole = sharearray.array({ { 1, 2 }, { 3, 4 } }, "float32")
      local function part() return whole:slice(0, 2) end
      local function turned() return whole:transpose() end
      local uses = { -- which view, what all these should answer, and so
        { part, 10, function(v) return v:sum() end }, { turned, 10, function(v) return v:sum() end },
        { part, 30, function(v) return v:dot(v) end }, { part, 30, function(v) return whole:dot(v) end },
        { turned, 29, function(v) return whole:dot(v) end }, { turned, 29, function(v) return v:dot(whole) end },
        { part, 4, function(v) return v:copy()(1, 1) end }, { turned, 4, function(v) return v:copy()(1, 1) end },
        { turned, 4, function(v) return sharearray.array(v)(1, 1) end },
        { turned, 4, function(v) return sharearray.array(v, "float64")(1, 1) end },
        { part, 4, function(v) return ffi.cast("const float *", v:string())[3] end },
        { part, 4, function(v) return v:slice(1)(0, 1) end }, { part, 4, function(v) return v:reshape { 4 }(3) end },
        { part, 4, function(v) return v:transpose()(1, 1) end },
        { turned, 4, function(v) return v:totable()[2][2] end },
      }
      local count, wrong = 0, {}
      for i, use in ipairs(uses) do
        local take, right, method = unpack(use)
        for _ = 1, tonumber(...) do
          local v = take()
          local closed
          getmetatable(newproxy(true)).__gc = function() v:close(); closed = true end
          repeat
            local ok, x = pcall(method, v)
            if ok and x ~= right then wrong[#wrong + 1] = i end
          until closed
          count = count + 1
        end
      end
      say(count, table.concat(wrong, " "))
    ]], { times }, { SHAREARRAY_SHM_PATH = directory }):finish()
    machine.remove(directory)
    assert.equal(15 * times .. " \n", said)
  end)

  it("is safe for what the collector finalizes in any order", function()
    local seen = {}
    for _ = 1, 50 do
      local holder = { v = counting("float32", 3), guard = newproxy(true) }
      getmetatable(holder.guard).__gc = function()
        local ok, result = pcall(function() return holder.v(2) end)
        seen[#seen + 1] = ok and result or result:match("closed")
      end
    end
    collect()
    assert.is_true(#seen >= 49) -- the last one may still lie in a slot of LuaJIT's stack
    for _, x in ipairs(seen) do assert.is_true(x == 2 or x == "closed") end
  end)
end)

describe("very large arrays", function()
  it("of more than 2^32 elements are indexed right", function()
    local n = 5 * 2 ^ 30
    local x = sparse("uint8", { n })
    assert.equal(n, #x)
    assert.equal(n, x.size)
    for _, i in ipairs { 0, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 32 - 1, 2 ^ 32, 2 ^ 32 + 1, n - 1 } do x[i] = 1 + i % 251 end
    for _, i in ipairs { 0, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 32 - 1, 2 ^ 32, 2 ^ 32 + 1, n - 1 } do
      assert.equal(1 + i % 251, x(i))
      assert.equal(1 + i % 251, x[i])
    end
    assert.equal(0, x(5))
    raises("index 5368709120 is out of bounds for axis 0 with size 5368709120", function() local _ = x(n) end)
    raises("too many for a Lua string", function() local _ = x:string() end)
    local s = 0
    for i = 2 ^ 32 - 200, 2 ^ 32 + 200 do s = s + x(i) end
    assert.equal(1 + (2 ^ 32 - 1) % 251 + 1 + 2 ^ 32 % 251 + 1 + (2 ^ 32 + 1) % 251, s)
    local tail = x:slice(2 ^ 32)
    assert.same({ n - 2 ^ 32 }, tail.shape)
    assert.equal(1 + 2 ^ 32 % 251, tail(0))
    assert.matches("shape=%(5368709120,%)", tostring(x))
  end)

  it("of two dimensions and wide strides are indexed right", function()
    local x = sparse("float32", { 40000, 30000 })
    x:set(39999, 29999, 2)
    x:set(20000, 7, 3)
    assert.equal(2, x(39999, 29999))
    assert.equal(2, x[39999](29999))
    assert.equal(2, x:transpose()(29999, 39999))
    assert.equal(3, x:transpose()[7][20000])
    assert.equal(2, x:reshape({ -1 })[40000 * 30000 - 1])
    local y = sparse("uint8", { 3, 2 ^ 31 })
    y:set(2, 2 ^ 31 - 1, 9)
    assert.equal(9, y(2, 2 ^ 31 - 1))
    assert.equal(9, y:transpose()(2 ^ 31 - 1, 2))
    assert.equal(9, y[2][2 ^ 31 - 1])
  end)

  it("of few elements far apart are indexed right", function()
    local x = sparse("uint8", { 5 * 2 ^ 30 })
    x[3 * 2 ^ 30] = 7
    local v = instance.new(x.dtype, { 2, 1 }, { 3 * 2 ^ 30, 1 }, instance.pointer(x), view.map(x), false)
    assert.equal(7, v(1, 0))
    assert.equal(7, v[1][0])
    assert.same({ { 0 }, { 7 } }, v:totable())
    assert.equal("\0\7", v:string())
  end)

  it("with a zero somewhere keep their sizes", function()
    local x = array.new("float32", { 0, 2 ^ 40 })
    assert.same({ 0, 2 ^ 40 }, x.shape)
    assert.same({ 2 ^ 40, 0 }, x:transpose().shape)
    assert.equal(0, x.nbytes)
  end)
end)

describe("view.is", function()
  it("knows views and nothing else", function()
    local x = array.new("int8", { 2, 2 })
    for _, v in ipairs { x, x[0], x:transpose(), read_only(x), array.array(1) } do assert.is_true(view.is(v)) end
    local others = { 1, "x", true, {}, print, ffi.new("float[3]"), ffi.new("int"), 1LL, ffi.typeof("int"),
      ffi.new("struct { int map; }"), ffi.cast("void *", 0), ffi.new("complex"), x.data, C }
    for _, other in pairs(others) do assert.is_false(view.is(other)) end
    assert.is_false(view.is(nil))
  end)

  it("does not take the C type of a view for one", function()
    local ct = ffi.typeof(counting("float32", { 2, 3 }))
    assert.is_false(view.is(ct))
    for _, name in ipairs { "data", "shape", "size", "map" } do
      assert.is_false(pcall(function() return ct[name] end))
    end
    assert.is_false(pcall(function() return ct[0] end))
    assert.is_false(pcall(function() return #ct end))
    assert.is_false(pcall(function() return ct.slice(ct, 0) end))
    assert.is_false(pcall(function() ct[0] = 1 end))
    assert.is_false(pcall(array.array, ct))
    assert.equal("array(closed)", tostring(ct())) -- made of nothing, it is a closed one
  end)

  it("works beside another copy of the library in the same process", function()
    local saved = {}
    for name in pairs(package.loaded) do
      if type(name) == "string" and name:match("^sharearray") then saved[name] = package.loaded[name] end
    end
    for name in pairs(saved) do package.loaded[name] = nil end
    local other = require "sharearray.array"
    local other_view = require "sharearray.view"
    for name in pairs(saved) do package.loaded[name] = saved[name] end
    assert.not_equal(array, other)
    local theirs, ours = other.array { 1, 2, 3 }, array.array { 4, 5 }
    assert.equal(2, theirs(1))
    assert.equal(5, ours(1))
    assert.is_true(other_view.is(theirs))
    assert.is_true(view.is(ours))
    assert.is_false(view.is(theirs))
    theirs:close()
    assert.is_false(pcall(function() return theirs(0) end))
  end)
end)

describe("the memory of a bundle", function()
  local directory, env

  -- A view of its first byte, without a reference.
  local function member(map)
    local class = view.class_for(dtype.of "int8", 1, true, false, false)
    return class.ctype(map, view.always, 0, ffi.cast(class.constant, map.base), 1, 1, 1) -- b0, count, n0
  end

  -- So many members of a bundle, whose owner nobody has.
  local function members_of(map, count)
    local list, members = lifetime.members(lifetime.owner(map), count), {}
    for i = 1, count do
      members[i] = member(map)
      lifetime.add(list, members[i])
    end
    return members
  end

  before_each(function()
    directory = machine.directory()
    env = { SHAREARRAY_SHM_PATH = directory }
  end)

  after_each(function() machine.remove(directory) end)

  for _, count in ipairs { 3, 100 } do
    it("of " .. count .. " members is there as long as one of them, or a row of one", function()
      local said = machine.worker([[
        local count = ...
        local function mapped()
          for _ = 1, 4 do collectgarbage() end -- the members, then what they lived on
          local files = 0
          for line in io.lines "/proc/self/maps" do
            if line:find("sharearray_spec", 1, true) and not line:find(".changes.", 1, true) then files = files + 1 end
          end
          return files
        end
        local function attach()
          local members = {}
          for i = 1, count do members["m" .. i] = sharearray.array { { i, i }, { i, i } } end
          return assert(sharearray.refresh("b", members))
        end
        local first, second = attach(), attach()
        local row, closed, member = first.m2[1], first.m3, second.m1
        first.m1:close()
        closed:close()
        first, second = nil, nil
        attach()
        local three = mapped() -- the last one is in the memo
        say(three, row(1), member(1, 1), tostring(closed))
        row = nil
        local two = mapped()
        say(two, member[1](0))
        member = nil
        say(mapped())
        sharearray.free "b"
        sharearray.get "b"
        say(mapped())
      ]], { tostring(count) }, env):finish()
      assert.equal("3 2 1 array(closed)\n2 1\n1\n0\n", said)
    end)
  end

  it("of 100 members is not there for those that a finalizer reaches when the Lua state ends", function()
    local said = machine.worker([[
      local members, guards = {}, {}
      for i = 1, 100 do members["m" .. i] = sharearray.array { 1 } end
      members = assert(sharearray.cache("b", members))
      for name, member in pairs(members) do
        local guard = newproxy(true)
        getmetatable(guard).__gc = function()
          local ok, result = pcall(function() return member(0) end)
          io.write((ok and result == 1 or tostring(result):find "closed") and "right " or "wrong ")
        end
        guards[name] = guard
      end
      keep = guards
    ]], {}, env):finish()
    assert.equal(100, select(2, said:gsub("right", "")), said)
  end)

  it("is there as long as a member, although nobody has its owner", function()
    local map = private_map(24)
    local members = members_of(map, 3)
    for i = 1, 3 do
      for _ = 1, 3 do collect() end
      assert.equal(2, references(map))
      members[i] = nil
    end
    collect()
    assert.equal(1, references(map))
    C.sharearray_unref(map)
  end)

  it("is that bundle's, although a finalizer attaches another one in the midst of it", function()
    local map, other, inner = private_map(24), private_map(24), nil
    local outer, globals = lifetime.owner(map), getfenv(lifetime.members)
    local real = globals.setmetatable
    globals.setmetatable = function(...) -- which allocates, as the collector's steps may
      globals.setmetatable = real
      inner = lifetime.members(lifetime.owner(other), 1)
      return real(...)
    end
    local list = lifetime.members(outer, 1)
    local one, two = member(map), member(other)
    lifetime.add(list, one)
    lifetime.add(inner, two)
    outer, one, list, inner = nil, nil, nil, nil -- luacheck: ignore
    for _ = 1, 3 do collect() end
    assert.same({ 1, 2 }, { references(map), references(other) })
    assert.equal(0, two(0))
    C.sharearray_unref(map)
    C.sharearray_unref(other)
  end)

  it("goes with the Lua state, whatever the collector was about to do with it", function()
    local said = machine.worker([[
      ffi.cdef "typedef struct lua_State lua_State; lua_State *luaL_newstate(void); void luaL_openlibs(lua_State *);"
      ffi.cdef "int luaL_loadstring(lua_State *, const char *); int lua_pcall(lua_State *, int, int, int);"
      ffi.cdef "void lua_close(lua_State *);"
      local function mapped()
        local files = 0
        for line in io.lines "/proc/self/maps" do
          if line:find("sharearray_spec", 1, true) and not line:find(".changes.", 1, true) then files = files + 1 end
        end
        return files
      end
      local function in_a_state(code)
        local state = ffi.C.luaL_newstate()
        ffi.C.luaL_openlibs(state)
        assert(ffi.C.luaL_loadstring(state, code) == 0 and ffi.C.lua_pcall(state, 0, 0, 0) == 0)
        local before = mapped()
        ffi.C.lua_close(state)
        return before, mapped()
      end
      local held, left = 0, 0
      for steps = 0, 150, 3 do
        local before, after = in_a_state(([=[
          local sharearray = require "sharearray"
          local bundle = assert(sharearray.cache("b", { m1 = sharearray.array { 1 }, m2 = sharearray.array { 2 } }))
          member, bundle = bundle.m2, nil
          sharearray.free "b"
          sharearray.get "b"
          collectgarbage "stop"
          for _ = 1, %d do collectgarbage("step", 0) end
          assert(member(0) == 2)
        ]=]):format(steps))
        held, left = held + before, left + after
      end
      say(held, left)
    ]], {}, env):finish()
    assert.equal("51 0\n", said)
  end)

  it("goes with the last member that is closed, although the closed ones are still there", function()
    local map = private_map(24)
    local members = members_of(map, 2)
    members[2]:close()
    collect()
    assert.equal(2, references(map))
    members[1]:close()
    collect()
    assert.equal(1, references(map))
    C.sharearray_unref(map)
  end)
end)

describe("a row that is closed", function()
  it("is closed, or still right, for a finalizer that reaches it in the midst of that", function()
    local directory = machine.directory()
    local said = machine.worker([[
      local ffi = require "ffi"
      jit.off()
      collectgarbage("setpause", 0)
      collectgarbage("setstepmul", 1000000) -- one step is a whole cycle
      local right, wrong = 0, 0
      for _ = 1, 50 do
        collectgarbage "stop"
        local row
        ffi.gc(ffi.new "int[1]", function() -- older than what the row lives on, so finalized after it
          local open, value = pcall(function() return row(1) end)
          if not open or value == 4 then right = right + 1 else wrong = wrong + 1 end
        end)
        local x = sharearray.array { { 1, 2 }, { 3, 4 } }
        row = x[1]
        x:close()
        x = nil
        row(1)
        collectgarbage "restart"
        row:close()
      end
      say(right > 0, wrong)
    ]], {}, { SHAREARRAY_SHM_PATH = directory }):finish()
    machine.remove(directory)
    assert.equal("true 0\n", said)
  end)
end)
