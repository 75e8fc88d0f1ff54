-- sharearray.resty on a real nginx: workers that build once, wait without blocking, and recover.
local ffi = require "ffi"
local machine = require "support.machine"
local nginx = require "support.nginx"
local sharearray = require "sharearray"

local location = nginx.location

-- Answers at once: whether the event loop of its worker is free.
local PING = location("/ping", [[ngx.print("pong")]])

describe("sharearray.resty", function()
  local directory, server, store
  local there, why = nginx.is_there()
  if not there then
    pending(why)
    return
  end

  before_each(function()
    directory = machine.directory()
    store = sharearray.new { shm_path = directory }
  end)

  after_each(function()
    if server then server:stop() end
    server = nil
    machine.remove(directory)
  end)

  -- All of nginx's Lua uses the specs' own directory.
  local function start(options)
    options.main = ("env SHAREARRAY_SHM_PATH=%s;\n%s"):format(directory, options.main or "")
    options.env = { SHAREARRAY_SHM_PATH = directory }
    server = nginx.start(options)
  end

  local function bodies(answers)
    local seen = {}
    for _, answer in ipairs(answers) do
      local body = answer.status == 200 and answer.body or answer.status .. ": " .. answer.body
      seen[body] = (seen[body] or 0) + 1
    end
    return seen
  end

  it("200 requests on 4 workers, cold: fn once, no error, and the workers go on answering", function()
    start { workers = 4, server = PING .. location("/x", [[
      local x, err, code = sharearray.cache("x", function(alloc)
        count "builds"
        ngx.sleep(1)
        local x = alloc("float32", 1000)
        x:fill(7)
        return x
      end)
      ngx.print(x and x(999) .. " " .. x.size or code .. ": " .. err)
    ]]) .. location("/builds", [[ngx.print(counts:get "builds")]]) }
    local pinger = server:client("ping", "16", "/ping")
    pinger:expect("answered")
    local answers = server:send("200", "/x")
    local report = server.report(pinger)
    assert.same({ ["7 1000"] = 200 }, bodies(answers))
    assert.equal("1", (server:get("/builds")))
    assert.same({}, report.failed)
    assert.is_true(report.median < 0.020, ("the median answer took %.1f ms"):format(report.median * 1000))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("two requests of one worker: one builds, one waits, yielding", function()
    start { workers = 1, server = PING .. location("/x", [[
      local x = assert(sharearray.cache("x", function()
        count "builds"
        while not counts:get "go" do ngx.sleep(0.01) end
        return sharearray.array({count "value"})
      end))
      ngx.print(x(0))
    ]]) .. location("/go", [[counts:set("go", true)]]) .. location("/builds", [[ngx.print(counts:get "builds" or 0)]]) }
    local client = server:client("send", "5", "/x")
    client:expect("sent")
    nginx.eventually(function() return server:get("/builds") == "1" end, "the build")
    assert.equal("pong", (server:get("/ping")))
    server:get("/go")
    assert.same({ ["1"] = 5 }, bodies(server.answers(client)))
    assert.equal("1", (server:get("/builds")))
  end)

  it("a function that asks for its own id is told so, and others wait for it", function()
    start { workers = 1, server = location("/x", [[
      local x, err, code = sharearray.cache("x", function()
        ngx.sleep(0.05)
        local inner, _, inner_code = sharearray.cache("x", function() return sharearray.array({1}) end)
        return sharearray.array({inner_code == "recursive" and 2 or 3})
      end)
      ngx.print(x and x(0) or err)
    ]]) }
    assert.same({ ["2"] = 3 }, bodies(server:send("3", "/x")))
  end)

  -- Its client goes away in the middle of a build that never ends by itself.
  local function abort_a_build()
    local client = server:client("abort", "/stuck")
    client:expect("sent")
    server:expect_log("it builds")
    client:tell()
    client:expect("closed")
    client:finish()
  end

  local STUCK = location("/stuck", [[
    sharearray.cache("x", function(alloc)
      local x = alloc("float32", 1000)
      ngx.log(ngx.NOTICE, "it builds")
      ngx.sleep(3600)
      return x
    end)
  ]])

  it("an aborted request gives its build up in a worker that nobody asks for anything", function()
    start { workers = 1, server = STUCK }
    abort_a_build()
    local x = assert(store:cache("x", function() return sharearray.array({5}) end, { timeout = 30 }))
    assert.equal(5, x(0))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("an aborted request's coroutine, used again by the next request, is not taken for the builder", function()
    start { workers = 1, server = STUCK .. location("/x", [[
      local x, err, code = sharearray.cache("x", function() return sharearray.array({6}) end, {timeout = 30})
      ngx.print(x and x(0) or code .. ": " .. err)
    ]]) }
    abort_a_build()
    assert.equal("6", (server:get("/x")))
  end)

  it("a worker killed while it builds is replaced", function()
    start { workers = 2, server = location("/x", [[
      local x = assert(sharearray.cache("x", function(alloc)
        local x = alloc("float32", 1000)
        if count "builds" == 1 then
          ngx.log(ngx.NOTICE, "it builds: ", ngx.worker.pid())
          ngx.sleep(3600)
        end
        x:fill(4)
        return x
      end))
      ngx.print(x(999))
    ]]) }
    local client = server:client("send", "20", "/x")
    server:expect_log("it builds: %d+")
    ffi.C.kill(tonumber(server:log():match("it builds: (%d+)")), machine.SIGKILL)
    local answers = bodies(server.answers(client))
    -- The connections of the killed worker are gone with it, those of the other one are served.
    assert.is_true((answers["4"] or 0) > 0, require("cjson").encode(answers))
    assert.equal("4", (server:get("/x")))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("a reload in the middle of a build: the old worker builds on, the new ones wait", function()
    start { workers = 2, server = location("/x", [[
      local x = assert(sharearray.cache("x", function(alloc)
        count "builds"
        ngx.log(ngx.NOTICE, "it builds")
        while not counts:get "go" do ngx.sleep(0.01) end
        return sharearray.array({count "value"})
      end))
      ngx.print(x(0))
    ]]) .. location("/go", [[counts:set("go", true)]]) .. location("/builds", [[ngx.print(counts:get "builds")]]) }
    local before = server:client("send", "4", "/x")
    server:expect_log("it builds")
    server:reload()
    server:expect_log("start worker process %d+", 4)
    local after = server:client("send", "4", "/x")
    after:expect("sent")
    server:get("/go")
    assert.same({ ["1"] = 4 }, bodies(server.answers(before)))
    assert.same({ ["1"] = 4 }, bodies(server.answers(after)))
    assert.equal("1", (server:get("/builds")))
    assert.same({ "sharearray_x.npy" }, machine.names(directory))
  end)

  it("with lua_code_cache off, each request with a Lua state of its own, fn runs once", function()
    start { workers = 1, http = "lua_code_cache off;", server = location("/x", [[
      local x, err, code = sharearray.cache("x", function()
        ngx.sleep(0.2)
        return sharearray.array({count "builds"})
      end)
      ngx.print(x and x(0) or code .. ": " .. err)
    ]]) .. STUCK:gsub('"x"', '"y"') .. location("/y", [[
      ngx.print(assert(sharearray.cache("y", function() return sharearray.array({8}) end))(0))
    ]]) }
    assert.same({ ["1"] = 10 }, bodies(server:send("10", "/x")))
    assert.same({ ["1"] = 3 }, bodies(server:send("3", "/x")))
    abort_a_build()
    assert.equal("8", (server:get("/y")))
    assert.same({ "sharearray_x.npy", "sharearray_y.npy" }, machine.names(directory))
  end)
end)
