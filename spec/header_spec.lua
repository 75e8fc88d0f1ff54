-- cdefs.lua declares exactly what core/sharearray.h does, in an order of its own.
local function statements(text)
  text = text:gsub("/%*.-%*/", " "):gsub("SHAREARRAY_API ", ""):gsub("\n#[^\n]*", "\n")
  text = text:gsub('extern "C" {', ""):gsub("\n}%s*$", "\n")
  text = text:gsub("%s+", " "):gsub("%b{}", function(body) return (body:gsub(";", ",")) end)
  local list = {}
  for statement in text:gmatch(" *([^;]+);") do list[#list + 1] = statement end
  table.sort(list)
  return list
end

describe("cdefs.lua", function()
  it("declares what the header does", function()
    local file = assert(io.open("core/sharearray.h"))
    local header = file:read("*a"):gsub("^.-\n#define SHAREARRAY_API[^\n]*\n", "\n")
    file:close()
    header = header:gsub("\n#ifdef __cplusplus\n}\n#endif.*$", "\n")
    local expected = statements(header)
    assert.is_true(#expected > 50)
    assert.same(expected, statements(require("sharearray.cdefs").declarations))
  end)

  it("leaves what an attach takes to library.lua", function()
    local library = require "sharearray.library"
    local declared = library.declarations
    local machine, used = require "support.machine", 0
    -- But for those that take everything anyway.
    local modules = [[$(grep -L 'require("sharearray.cdefs").C' lua/sharearray/*.lua | grep -v cdefs)]]
    for path in machine.shell("grep -lE 'require.{1,2}sharearray.library' " .. modules):gmatch "%S+" do
      for line in io.lines(path) do
        for name in line:gsub("cdefs%.C", "later"):gmatch "%f[%w]C%.([%w_]+)" do
          assert.truthy(declared:find("%f[%w]" .. name .. "%f[^%w_]"), path .. " takes " .. name)
          used = used + 1
        end
      end
    end
    assert.is_true(used > 15)
    local numbers, C = 0, require("sharearray.cdefs").C
    for name, value in pairs(library) do
      if type(value) == "number" then
        assert.equal(C["SHAREARRAY_" .. name], value)
        numbers = numbers + 1
      end
    end
    assert.is_true(numbers > 5)
  end)

  -- As between the two there are versions, when one is installed over the other under a process.
  it("raises where the core is of another version, and so does library.lua", function()
    local machine = require "support.machine"
    local loaded = [[
      local text = io.open("lua/sharearray/%s.lua"):read "*a":gsub("%s", "%s")
      %s
      package.preload["sharearray.%s"] = loadstring(text)
      print(pcall(require, "sharearray.%s"))
    ]]
    local late = { "check%(%d%)", "check(77)", 'assert(require "sharearray")' }
    local modules = { library = { "ABI = %d", "ABI = 77", "" } }
    local late_modules = { "cdefs", "template", "failures", "instance", "convert", "memo", "methods" }
    for _, name in ipairs(late_modules) do modules[name] = late end
    for name, change in pairs(modules) do
      local said = machine.shell(("%s - <<'END'\n%s\nEND"):format(machine.luajit,
        loaded:format(name, change[1], change[2], change[3], name, name)))
      assert.truthy(said:find "^false\tsharearray: %S+ is of another version than the Lua modules: restart", said)
    end
    for _, name in ipairs(late_modules) do
      local source = io.open("lua/sharearray/" .. name .. ".lua"):read "*a"
      assert.equal(require("sharearray.cdefs").C.SHAREARRAY_ABI, tonumber(source:match "check%((%d+)%)"))
    end
  end)

  it("finds every declared function in the library", function()
    local cdefs = require "sharearray.cdefs"
    local count = 0
    for name in cdefs.declarations:gmatch("(sharearray_[%w_]+)%(") do
      assert.truthy(cdefs.C[name], name)
      count = count + 1
    end
    assert.is_true(count > 25)
  end)

  it("exports nothing else", function()
    local machine = require "support.machine"
    local names = machine.shell("nm -D --defined-only build/lib/sharearray/core.so")
    for name in names:gmatch(" [TDBRWV] (%S+)") do assert.equal("sharearray_", name:sub(1, 11)) end
    assert.truthy(names:find(" T sharearray_attach"))
  end)
end)
