-- Modules that are loaded at first use, where the program has changed meanwhile or cannot be read any more.
local machine = require "support.machine"

-- LUA_PATH and LUA_CPATH as someone types them who starts a program in a checkout; specs run in one.
local relative = { LUA_PATH = "./lua/?.lua;./lua/?/init.lua;./spec/?.lua;;", LUA_CPATH = "./build/lib/?.so;;" }

local declarations = [[
  ffi.cdef "int chdir(const char *path); int chroot(const char *path);"
]]

describe("a module that is loaded at first use", function()
  local directory

  before_each(function() directory = machine.directory() end)
  after_each(function() machine.remove(directory) end)

  local function run(code, env)
    local variables = { SHAREARRAY_SHM_PATH = directory }
    for name, value in pairs(env or {}) do variables[name] = value end
    return machine.worker(declarations .. code, {}, variables):finish()
  end

  it("is found from another directory, with a relative LUA_PATH", function()
    assert.equal("2 6 true\n", run([[
      ffi.C.chdir("/")
      local x = assert(sharearray.cache("x", sharearray.array { 1, 2, 3 }))
      say(x(1), x:sum(), sharearray.free("x"))
    ]], relative))
  end)

  it("is found after the program set its paths back, and leaves them so", function()
    assert.equal("2 a b\n", run([[
      package.path, package.cpath = "a", "b"
      say(assert(sharearray.cache("x", sharearray.array { 1, 2, 3 }))(1), package.path, package.cpath)
    ]]))
  end)

  it("can be loaded before there is no way to it, with all others", function()
    if not machine.is_root then pending("only root may change its root directory") return end
    local said = run([[
      require("sharearray.lazy").all()
      ffi.C.chroot(os.getenv "SHAREARRAY_SHM_PATH")
      ffi.C.chdir("/")
      local store = sharearray.new { shm_path = "/" }
      local x = assert(store:cache("x", { a = sharearray.array { 1, 2, 3 }, name = "n" }))
      say(x.a:sum(), x.a, pcall(x.a, 7))
      say(#store:list(), store:free("x"), sharearray.dtype "S5", select(2, pcall(x.a.torch, x.a)))
    ]])
    assert.truthy(said:find("^6 array%(%[1, 2, 3%], .* false .*index 7 is out of bounds.*\n1 true S5 "), said)
    assert.truthy(said:find("Torch7 cannot be loaded", 1, true), said)
  end)

  it("is lua-cjson, which an array is built without", function()
    local missing = "sharearray: bundles need the Lua module cjson (Debian's lua-cjson has it): no cjson"
    assert.equal("0 false " .. missing .. "\n1 2\n", run [[
      package.loaded.cjson, package.preload.cjson = nil, function() error("no cjson", 0) end
      local function model() return { w = sharearray.array { 1, 2 } } end
      local x = assert(sharearray.cache("x", function(alloc) return alloc("int8", 1) end))
      say(x(0), pcall(sharearray.cache, "m", model))
      package.loaded.cjson, package.preload.cjson = nil, nil
      local m = assert(sharearray.cache("m", model, { timeout = 0 }))
      say(m.w(0), m.w(1))
    ]])
  end)

  it("holds no lock and can be loaded later, if it failed in the first attempt", function()
    for _, name in ipairs { "builders", "build", "draft", "memo" } do
      assert.equal("false true too few stamps\n2 2 true\n", run(([[
        local name = "sharearray.%s"
        package.preload[name] = function() error("too few stamps", 0) end
        local ok, message = pcall(sharearray.cache, "x", function() return sharearray.array { 1, 2, 3 } end)
        say(ok, sharearray.stat("x") == nil, message)
        package.preload[name] = nil
        say(assert(sharearray.cache("x", sharearray.array { 1, 2, 3 }))(1), sharearray.get("x")(1),
          sharearray.free("x"))
      ]]):format(name)), name)
    end
  end)
end)
