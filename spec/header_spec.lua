-- cdefs.lua declares exactly what core/sharearray.h does.
local function normalised(text)
  text = text:gsub("/%*.-%*/", " "):gsub("SHAREARRAY_API ", ""):gsub("\n#[^\n]*", "\n")
  text = text:gsub('extern "C" {', ""):gsub("\n}%s*$", "\n")
  return (text:gsub("%s+", " "):gsub("^ ", ""):gsub(" $", ""))
end

describe("cdefs.lua", function()
  it("declares what the header does", function()
    local file = assert(io.open("core/sharearray.h"))
    local header = file:read("*a"):gsub("^.-\n#define SHAREARRAY_API[^\n]*\n", "\n")
    file:close()
    header = header:gsub("\n#ifdef __cplusplus\n}\n#endif.*$", "\n")
    assert.equal(normalised(header), normalised(require("sharearray.cdefs").declarations))
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
