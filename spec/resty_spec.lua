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

  -- A time limit that is missed on a busy machine is tried again before it is believed.
  local ATTEMPTS = 3

  it("says outside nginx what to load there", function()
    local said = machine.shell(machine.luajit .. ' -e \'print(pcall(require, "sharearray.resty"))\'')
    assert.matches('false\t.*is for nginx.*require "sharearray"', said)
  end)

  it("200 requests on 4 workers, cold: fn once, no error, and the workers go on answering", function()
    start { workers = 4, server = PING .. location("/x", [[
      local id = ngx.var.arg_id
      local x, err, code = sharearray.cache(id, function(alloc)
        count(id)
        ngx.sleep(1)
        local x = alloc("float32", 1000)
        x:fill(7)
        return x
      end)
      ngx.print(x and x(999) .. " " .. x.size or code .. ": " .. err)
    ]]) .. location("/builds", [[ngx.print(counts:get(ngx.var.arg_id))]]) }
    local median
    for attempt = 1, ATTEMPTS do
      local id = "x" .. attempt
      local pinger = server:client("ping", "16", "/ping")
      pinger:expect("answered")
      local answers = server:send("200", "/x?id=" .. id)
      local report = server.report(pinger)
      assert.same({ ["7 1000"] = 200 }, bodies(answers))
      assert.equal("1", (server:get("/builds?id=" .. id)))
      assert.same({}, report.failed)
      assert.equal(attempt, #machine.names(directory))
      median = report.median
      if median < 0.020 then break end
    end
    assert.is_true(median < 0.020, ("the median answer took %.1f ms"):format(median * 1000))
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
  local function abort_a_build(meanwhile)
    local client = server:client("abort", "/stuck")
    client:expect("sent")
    server:expect_log("it builds")
    if meanwhile then meanwhile() end
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

  -- Whether the id can be had: 5.
  local function take()
    local x, problem = store:cache("x", function() return sharearray.array({ 5 }) end, { timeout = 10 })
    assert.is_truthy(x, problem)
    return x(0)
  end

  it("an aborted request gives its build up at once, however much the collector has to walk through", function()
    start { workers = 1, server = STUCK .. location("/heap", [[
      heap = {}
      for i = 1, 1200000 do heap[i] = {i} end
      package.loaded.heap = heap
      collectgarbage()
    ]]) }
    server:get "/heap"
    abort_a_build()
    assert.equal(5, take())
  end)

  -- Before: the build begins before the reload; else after it.
  local function abort_in_old_worker(before)
    start { workers = 1, server = STUCK .. location("/long", [[
      ngx.log(ngx.NOTICE, "it lasts")
      while not counts:get "go" do ngx.sleep(0.01) end
      ngx.print("done")
    ]]) .. location("/late", [[
      ngx.log(ngx.NOTICE, "it waits")
      while not ngx.worker.exiting() do ngx.sleep(0.01) end
      ngx.exec "/stuck"
    ]]) .. location("/go", [[counts:set("go", true)]]) }
    local long = server:client("send", "1", "/long")
    server:expect_log "it lasts"
    local client = server:client("abort", before and "/stuck" or "/late")
    server:expect_log(before and "it builds" or "it waits")
    server:reload()
    server:expect_log "gracefully shutting down"
    server:expect_log "it builds"
    client:expect "sent"
    client:tell()
    client:expect "closed"
    client:finish()
    assert.equal(5, take())
    server:get "/go"
    assert.same({ done = 1 }, bodies(server.answers(long)))
    server:expect_log "exited with code 0" -- nothing keeps it
  end

  it("an aborted request gives its build up in an old worker that has another request to finish", function()
    abort_in_old_worker(true)
  end)

  it("the same where the old worker began the build after the reload", function() abort_in_old_worker(false) end)

  it("an aborted request gives its build up although nginx dropped the timer that was to see to it", function()
    start { workers = 1, http = "lua_max_running_timers 1;", server = STUCK .. location("/busy", [[
      ngx.timer.at(0, function()
        ngx.log(ngx.NOTICE, "a timer runs")
        while not counts:get "go" do ngx.sleep(0.01) end
      end)
    ]]) .. location("/go", [[counts:set("go", true)]]) }
    server:get "/busy"
    server:expect_log "a timer runs"
    abort_a_build(function() server:expect_log "1 lua_max_running_timers are not enough" end)
    server:get "/go"
    assert.equal(5, take())
  end)

  it("an error of ours in the midst of publishing ends the build, once", function()
    start { workers = 1, server = location("/x", [[
      local bundle = require "sharearray.bundle"
      local flatten, calls = bundle.flatten, 0
      function bundle.flatten(...)
        calls = calls + 1
        if calls == 2 then error "broken" end
        return flatten(...)
      end
      ngx.say(pcall(sharearray.cache, "x", function() return { a = sharearray.array({1}) } end))
      bundle.flatten = flatten
      require "sharearray.builders".give_up_ended()
      ngx.say(assert(sharearray.cache("x", function() return { a = sharearray.array({2}) } end)).a(0))
    ]]) }
    local said = server:get "/x"
    assert.truthy(said:find "^false.-broken\n2\n$", said)
  end)

  it("a worker killed while it builds is replaced", function()
    start { workers = 2, server = location("/x", [[
      ngx.log(ngx.NOTICE, "asked: ", ngx.worker.pid())
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
    local clients = {}
    nginx.eventually(function()
      clients[#clients + 1] = server:client("send", "20", "/x")
      clients[#clients]:expect "sent"
      local asked = {}
      for pid in server:log():gmatch "asked: (%d+)" do asked[pid] = true end
      return next(asked, (next(asked)))
    end, "both workers to be asked")
    local builder = server:log():match "it builds: (%d+)"
    ffi.C.kill(tonumber(builder), machine.SIGKILL)
    -- The connections of the killed worker are gone with it, those of the other one are served.
    local served = 0
    for _, client in ipairs(clients) do served = served + (bodies(server.answers(client))["4"] or 0) end
    assert.is_true(served > 0)
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
    ]]) .. location("/timers", "ngx.print(ngx.timer.pending_count())") }
    assert.same({ ["1"] = 10 }, bodies(server:send("10", "/x")))
    assert.same({ ["1"] = 3 }, bodies(server:send("3", "/x")))
    abort_a_build()
    assert.equal("8", (server:get("/y")))
    -- One timer for the worker, not one for each Lua state.
    nginx.eventually(function() return server:get "/timers" == "1" end, "the timers to end")
    assert.same({ "sharearray_x.npy", "sharearray_y.npy" }, machine.names(directory))
  end)

  it("large reservations, copies and imports yield between their pieces", function()
    start { workers = 1, server = location("/x", [[
      local ffi = require "ffi"
      local BYTES = 128 * 2 ^ 20
      local turns = 0 -- of the event loop
      ngx.thread.spawn(function()
        while true do
          turns = turns + 1
          ngx.sleep(0.001)
        end
      end)
      local function turns_of(id, source)
        local before = turns
        assert(sharearray.refresh(id, source))
        ngx.say(id, " ", turns - before)
      end
      turns_of("reserved", function(alloc) return alloc("uint8", BYTES) end)
      turns_of("reserved_bundle", function(alloc) return alloc{ a = {"uint8", BYTES} } end)
      turns_of("copied", ffi.new("char[?]", BYTES))
      turns_of("copied_bundle", { a = ffi.new("char[?]", BYTES) })
      local reserved = sharearray.get "reserved"
      turns_of("view", reserved)
      turns_of("imported", sharearray.file(assert(sharearray.stat "reserved").path))
      ngx.exit(200)
    ]]) }
    local count = 0
    for id, turns in server:get "/x":gmatch "(%S+) (%d+)" do
      count = count + 1
      -- A piece is 4 MiB.
      assert.is_true(tonumber(turns) >= 16, ("%s: %s turns of the event loop"):format(id, turns))
    end
    assert.equal(6, count)
  end)

  -- Phases --------------------------------------------------------------------------------------------

  it("phases that cannot wait have what is there, build what nobody builds, and else say so", function()
    local ask = [[
      local x, err, code = require "sharearray.resty".cache("%s", function()
        return require "sharearray.resty".array({9})
      end)
      ngx.log(ngx.NOTICE, ngx.get_phase(), " of %s: ", x and x(0) or code .. ": " .. err)
    ]]
    local function in_phases(id)
      local code = ask:format(id, id)
      return ("header_filter_by_lua_block { %s }\nbody_filter_by_lua_block { %s }\nlog_by_lua_block { %s }\n"):format(
        code, code, code)
    end
    local function quick(id)
      return ("location /%s {\n set_by_lua_block $y { %s return 1 }\n"):format(id, ask:format(id, id))
        .. ("content_by_lua_block { ngx.print('content') }\n%s }\n"):format(in_phases(id))
    end
    start { workers = 1, http = ("exit_worker_by_lua_block { %s }"):format(ask:format("late", "late")),
      server = quick "free" .. quick "busy" .. location("/build", [[
      sharearray.cache("busy", function()
        ngx.log(ngx.NOTICE, "it builds")
        while not counts:get "go" do ngx.sleep(0.01) end
        return sharearray.array({8})
      end)
    ]]) .. location("/go", [[counts:set("go", true)]]) }
    assert.equal("content", (server:get "/free"))
    for _, phase in ipairs { "set", "header_filter", "body_filter", "log" } do
      server:expect_log(phase .. " of free: 9")
    end
    -- Another worker's build, that is, another process's, and then one of this very worker's.
    local builder = machine.worker([[
      sharearray.cache("busy", function()
        say "building"
        hear()
        return sharearray.array({8})
      end)
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    builder:expect "building"
    assert.equal("content", (server:get "/busy"))
    for _, phase in ipairs { "set", "header_filter", "body_filter", "log" } do
      server:expect_log(phase .. " of busy: timeout: sharearray: 'busy': process %d+ .- nobody can wait for it here: "
        .. "the phase " .. phase .. " cannot wait; ask in rewrite")
    end
    builder:tell()
    builder:finish()
    assert(store:free "busy")
    local client = server:client("send", "1", "/build")
    server:expect_log "it builds"
    assert.equal("content", (server:get "/busy"))
    for _, phase in ipairs { "set", "header_filter", "body_filter", "log" } do
      server:expect_log(phase .. " of busy: recursive: .- no other coroutine can wait for it here")
    end
    server:get "/go"
    server.answers(client)
    assert.equal("content", (server:get "/busy"))
    server:expect_log "log of busy: 8"
    server:quit()
    server:expect_log "exit_worker of late: 9"
  end)

  it("is loaded in full by the master: the workers' user may not be able to read it", function()
    start { server = location("/missing", [[
      for name in ngx.var.arg_names:gmatch "[^,]+" do
        if not package.loaded["sharearray." .. name] then ngx.print(name, " ") end
      end
    ]]) }
    local names = {}
    for name in machine.shell("ls lua/sharearray"):gmatch("(%w+)%.lua\n") do names[#names + 1] = name end
    assert.is_true(#names > 30)
    assert.equal("init ", (server:get("/missing?names=" .. table.concat(names, ","))))
  end)

  it("init_worker waits, since nothing else can run in that worker yet", function()
    local builder = machine.worker([[
      sharearray.cache("x", function()
        say "building"
        hear()
        return sharearray.array({3})
      end)
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    builder:expect "building"
    start { workers = 2, http = [[
      init_worker_by_lua_block {
        ngx.log(ngx.NOTICE, "asking")
        x = assert(require "sharearray.resty".cache("x", error))
      }
    ]], server = location("/x", "ngx.print(x(0))") }
    server:expect_log("asking", 2)
    local client = server:client("send", "4", "/x")
    client:expect "sent"
    builder:tell()
    builder:finish()
    assert.same({ ["3"] = 4 }, bodies(server.answers(client)))
  end)

  it("waiting sleeps for 1 ms at first, and for 20 ms at most", function()
    local builder = machine.worker([[
      sharearray.cache("x", function()
        say "building"
        hear()
        return sharearray.array({3})
      end)
    ]], {}, { SHAREARRAY_SHM_PATH = directory })
    builder:expect "building"
    start { workers = 1, server = location("/x", [[
      local sleep, slept = ngx.sleep, {}
      function ngx.sleep(seconds)
        slept[count "sleeps"] = seconds
        return sleep(seconds)
      end
      assert(sharearray.cache("x", error))
      ngx.sleep = sleep
      ngx.print(slept[1], " ", math.max(unpack(slept)))
    ]]) .. location("/sleeps", [[ngx.print(counts:get "sleeps" or 0)]]) }
    local client = server:client("send", "1", "/x")
    nginx.eventually(function() return tonumber((server:get "/sleeps")) > 20 end, "20 sleeps")
    builder:tell()
    builder:finish()
    assert.same({ ["0.001 0.02"] = 1 }, bodies(server.answers(client)))
  end)

  it("a call that cannot yield, in a phase that could, says so", function()
    start { workers = 1, server = location("/x", [[
      local said
      table.sort({1, 2}, function(a, b)
        local x, err, code = sharearray.cache("x", error)
        said = code .. ": " .. err
        return a < b
      end)
      ngx.print(said)
    ]]) }
    local builder = machine.worker([[sharearray.cache("x", function() say "building" hear() end)]], {},
      { SHAREARRAY_SHM_PATH = directory })
    builder:expect "building"
    local said = server:get "/x"
    assert.truthy(said:find("^timeout: .-nobody can wait for it here: .-call it from the request's own code"), said)
    builder:tell()
    builder:wait()
  end)

  -- Refresh -------------------------------------------------------------------------------------------

  local BYTES = 200 * 2 ^ 20

  -- Memory of all workers together, shared pages counted once, and what is in use under the directory: bytes.
  -- Each worker first reads every page of the current version, so that two measurements compare.
  local function memory(version)
    local read = {}
    nginx.eventually(function()
      for _, answer in ipairs(server:send("16", "/read")) do
        local pid, seen = answer.body:match "(%d+) (%d+)"
        if seen == tostring(version) then read[pid] = true end
      end
      for _, pid in ipairs(server:workers()) do
        if not read[tostring(pid)] then return false end
      end
      return true
    end, "all workers to read version " .. version)
    local sum = 0
    for _, pid in ipairs(server:workers()) do
      local rollup = assert(io.open("/proc/" .. pid .. "/smaps_rollup")):read "*a"
      sum = sum + tonumber(rollup:match "\nPss:%s+(%d+)") * 1024
    end
    return sum, tonumber((machine.shell("du -sb " .. directory):match "%d+"))
  end

  it("10 refreshes of a bundle of 200 MB under load: no failure, no mixed version, and the memory goes back", function()
    start { workers = 4, http = [[
      init_worker_by_lua_block {
        if ngx.worker.id() == 0 then
          local sharearray = require "sharearray.resty"
          local counts = ngx.shared.counts
          function make(version)
            return function(alloc)
              local model = alloc{ a = {"float32", 25 * 2 ^ 20}, b = {"float32", 25 * 2 ^ 20} }
              for i = 0, model.a.size - 1, 2 ^ 18 do
                for j = i, i + 2 ^ 18 - 1 do model.a.data[j], model.b.data[j] = version, version end
                ngx.sleep(0)
              end
              model.version = version
              return model
            end
          end
          local function refresh()
            local wanted = counts:get "wanted" or 0
            if wanted > (counts:get "made" or 0) then
              assert(sharearray.refresh("model", make(wanted)))
              counts:set("made", wanted)
            end
            ngx.timer.at(0.01, refresh)
          end
          ngx.timer.at(0, refresh)
        end
      }
    ]], server = PING .. location("/predict", [[
      local model = assert(sharearray.get "model")
      local first = model.version
      local place = math.random(0, model.a.size - 1)
      local a, b = model.a(place), model.b(model.b.size - 1 - place)
      ngx.sleep(0.005) -- in flight while it may be replaced
      if a ~= first or b ~= first or model.a(place) ~= first then
        ngx.status = 500
        ngx.print("mixed: ", first, " ", a, " ", b, " ", model.a(place))
      else
        ngx.print(first)
      end
    ]]) .. location("/read", [[
      local model = assert(sharearray.get "model")
      local sum = 0
      for _, name in ipairs{"a", "b"} do
        for i = 0, model[name].size - 1, 1024 do sum = sum + model[name](i) end
      end
      ngx.print(ngx.worker.pid(), " ", sum / model.a.size * 512)
    ]]) .. location("/wanted", [[counts:set("wanted", tonumber(ngx.var.arg_n))]])
      .. location("/made", [[ngx.print(counts:get "made")]]) }
    local function refresh(n)
      server:get("/wanted?n=" .. n)
      nginx.eventually(function() return server:get "/made" == tostring(n) end, "version " .. n)
    end
    refresh(1)
    local start_pss, start_shm = memory(1)
    local pinger = server:client("ping", "32", "/predict")
    pinger:expect "answered"
    for version = 2, 11 do refresh(version) end
    local report = server.report(pinger)
    assert.same({}, report.failed)
    assert.is_true((report.bodies["11"] or 0) + (report.bodies["10"] or 0) > 0)
    -- Nobody asks any more: what goes now goes by the workers' timers.
    local pss, shm
    local ok = pcall(nginx.eventually, function()
      pss, shm = memory(11)
      return pss < 1.1 * start_pss
    end, "the memory")
    assert.is_true(ok, ("%.0f MB at the start, %.0f MB at the end"):format(start_pss / 1e6, pss / 1e6))
    assert.is_true(shm < 1.1 * start_shm and shm > BYTES)
    assert.same({ "sharearray_model.npy" }, machine.names(directory))
    for _, pid in ipairs(server:workers()) do
      local maps = assert(io.open("/proc/" .. pid .. "/maps")):read "*a"
      assert.is_nil(maps:match "[^\n]*sharearray_model[^\n]*deleted")
    end
  end)

  -- Whether a worker still has a mapping of a file that has lost its name.
  local function holds_old_version()
    for _, pid in ipairs(server:workers()) do
      local maps = assert(io.open("/proc/" .. pid .. "/maps")):read "*a"
      if maps:find "sharearray_x[^\n]*%(deleted%)" then return true end
    end
    return false
  end

  it("workers let go of an old version although nobody asks them for anything", function()
    assert(store:cache("x", sharearray.array { 1 }))
    start { workers = 2, http = [[
      init_by_lua_block { x = nil; assert(require "sharearray.resty".cache("x", error)) }
      init_worker_by_lua_block { require "sharearray.resty".watch() }
    ]], server = location("/x", [[ngx.print(assert(sharearray.get "x")(0))]]) }
    assert(store:refresh("x", sharearray.array { 2 }))
    assert.is_true(holds_old_version())
    nginx.eventually(function() return not holds_old_version() end, "the workers to let go")
    assert.equal("2", (server:get "/x"))
    -- A removal that touches no counter, either.
    assert(os.remove(directory .. "/sharearray_x.npy"))
    assert.is_true(holds_old_version())
    nginx.eventually(function() return not holds_old_version() end, "the workers to let go")
  end)

  it("workers let go of an old bundle too, whose members the collector must find before their memory", function()
    local one = { m = sharearray.array { { 1, 2 }, { 3, 4 } } }
    assert(store:cache("x", one))
    start { workers = 1, server = location("/x", [[
      local x = assert(sharearray.get "x")
      local objects = {}
      for i = 1, 100000 do objects[i] = {} end
      collectgarbage()
      local seen = setmetatable({ {} }, { __mode = "v" })
      repeat collectgarbage "step" until not seen[1] -- in the midst of a cycle: all else is marked
      ngx.print(x.m(1, 1))
    ]]) }
    assert.equal("4", (server:get "/x"))
    assert(store:refresh("x", one))
    assert.is_true(holds_old_version())
    nginx.eventually(function() return not holds_old_version() end, "the workers to let go")
    assert.equal("4", (server:get "/x"))
  end)

  it("past max_age one request of all workers rebuilds, yielding, and the others have the old one at once", function()
    start { workers = 4, server = location("/x", [[
      local x = assert(sharearray.cache("x", function()
        local version = count "builds"
        if version > 1 then
          ngx.log(ngx.NOTICE, "it rebuilds")
          while not counts:get "go" do ngx.sleep(0.01) end
        end
        return sharearray.array({version})
      end, {max_age = 0.5}))
      ngx.print(x(0))
    ]]) .. location("/go", [[counts:set("go", true)]]) .. location("/builds", [[ngx.print(counts:get "builds")]]) }
    assert.equal("1", (server:get "/x"))
    repeat until assert(store:stat "x").age > 0.52
    local client = server:client("send", "100", "/x")
    server:expect_log "it rebuilds"
    assert.same({ ["1"] = 50 }, bodies(server:send("50", "/x")))
    server:get "/go"
    local answers = bodies(server.answers(client))
    assert.is_true(answers["2"] >= 1 and answers["1"] + answers["2"] == 100, require("cjson").encode(answers))
    assert.equal("2", (server:get "/builds"))
  end)

  it("a rebuild that fails is logged as an error, once in a while, and the old one serves", function()
    start { workers = 2, server = location("/x", [[
      local x = assert(sharearray.cache("x", function()
        if count "builds" > 1 then error "the database is away" end
        return sharearray.array({1})
      end, {max_age = 0.1}))
      ngx.print(x(0))
    ]]) .. location("/builds", [[ngx.print(counts:get "builds")]]) }
    assert.equal("1", (server:get "/x"))
    repeat until assert(store:stat "x").age > 0.12
    local from = machine.now()
    for _ = 1, 10 do assert.same({ ["1"] = 40 }, bodies(server:send("40", "/x"))) end
    local tries = tonumber((server:get "/builds")) - 1
    assert.is_true(tries >= 1 and tries <= 1 + (machine.now() - from), tries .. " tries")
    server:expect_log "%[error%].-sharearray: 'x': not rebuilt: .-the database is away; the one of %d+ s ago serves on"
    assert.truthy(store:stat("x").failed)
  end)

  -- Before the fork -----------------------------------------------------------------------------------

  local as_root = machine.is_root and it or pending
  local USER = "www-data"
  local uid = tonumber((machine.shell("id -u " .. USER):match "%d+"))

  local LOAD = [[
    init_by_lua_block {
      sharearray = require "sharearray.resty"
      assert(sharearray.cache("x", function() return sharearray.array({1, 2, 3}) end, %s))
    }
  ]]
  local REFRESH = location("/refresh", [[
    local x, err, code = sharearray.refresh("x", function() return sharearray.array({4, 5, 6}) end%s)
    ngx.print(x and x(0) or code .. ": " .. err)
  ]])

  as_root("loaded by root before the fork: the workers' user reads it, and may not replace it", function()
    machine.shell("chmod 1777 " .. directory)
    start { workers = 2, user = USER, http = LOAD:format "nil", server = REFRESH:format ""
      .. location("/x", [[ngx.print(assert(sharearray.get "x")(2))]]) }
    assert.same({ ["3"] = 10 }, bodies(server:send("10", "/x")))
    local said = server:get "/refresh"
    assert.truthy(said:find "^denied: sharearray: 'x': cannot", said)
    assert.equal(0, store:stat("x").owner)
    -- They are told of changes by their own user's page, no longer by root's.
    assert.truthy(machine.shell("ls -A " .. directory):find(".changes." .. uid, 1, true))
  end)

  as_root("with the option owner it is the workers' own: they refresh it, and see it", function()
    machine.shell("chmod 1777 " .. directory)
    local options = ("{ owner = %d }"):format(uid)
    start { workers = 2, user = USER, http = LOAD:format(options), server = REFRESH:format(", " .. options)
      .. location("/x", ([[ngx.print(assert(sharearray.get("x", %s))(0))]]):format(options)) }
    assert.same({ ["1"] = 10 }, bodies(server:send("10", "/x")))
    assert.equal("4", (server:get "/refresh"))
    assert.same({ ["4"] = 10 }, bodies(server:send("10", "/x")))
    assert.equal(uid, store:stat("x").owner)
  end)

  as_root("a directory of the workers' user, mode 0700, is a home for all of it", function()
    machine.shell(("chown %s %s && chmod 0700 %s"):format(USER, directory, directory))
    local options = ("{ owner = %d }"):format(uid)
    start { workers = 2, user = USER, http = LOAD:format(options), server = REFRESH:format(", " .. options)
      .. location("/x", ([[ngx.print(assert(sharearray.get("x", %s))(0))]]):format(options)) }
    assert.equal("1", (server:get "/x"))
    assert.equal("4", (server:get "/refresh"))
    assert.same({ ["4"] = 10 }, bodies(server:send("10", "/x")))
  end)

  -- What a hit costs ----------------------------------------------------------------------------------

  it("a hit costs hardly more than lua-resty-lrucache's, and nothing beside ngx.shared.DICT's of 4 MB", function()
    start { workers = 1, http = "lua_shared_dict big 64m;", server = location("/cost", [[
      local lru = assert(require "resty.lrucache".new(100))
      local big = ngx.shared.big
      local names = {}
      for i = 1, 64 do
        names[i] = "id" .. i
        assert(sharearray.cache(names[i], sharearray.array({i})))
        lru:set(names[i], {i})
      end
      local bytes = 4 * 2 ^ 20
      assert(big:set("four", ("x"):rep(bytes)))
      assert(sharearray.cache("four", function(alloc) return alloc("uint8", bytes) end))

      -- Seconds of one call, the best of several runs.
      local function cost(times, call)
        local best = math.huge
        for run = 1, 9 do
          ngx.update_time()
          local from = ngx.now()
          local clock = os.clock()
          call(times)
          best = math.min(best, os.clock() - clock)
        end
        return best / times
      end
      local ours = cost(2000000, function(times)
        local sum = 0
        for i = 1, times do
          if not sharearray.cache(names[i % 64 + 1], error) then sum = sum + 1 end
        end
        assert(sum == 0)
      end)
      local theirs = cost(2000000, function(times)
        local sum = 0
        for i = 1, times do
          if not lru:get(names[i % 64 + 1]) then sum = sum + 1 end
        end
        assert(sum == 0)
      end)
      local our_big = cost(200000, function(times)
        for i = 1, times do assert(sharearray.cache("four", error)) end
      end)
      local dict = cost(20, function(times)
        for i = 1, times do assert(#big:get "four" == bytes) end
      end)
      ngx.print(ours / theirs, " ", our_big / dict, " ", ours * 1e9, " ", theirs * 1e9, " ", dict * 1e6)
    ]]) }
    local said, to_lrucache, to_dict
    for _ = 1, ATTEMPTS do
      said = server:get "/cost"
      to_lrucache, to_dict = said:match "^(%S+) (%S+)"
      if tonumber(to_lrucache) < 1.5 and tonumber(to_dict) < 1 / 1000 then break end
    end
    assert.is_true(tonumber(to_lrucache) < 1.5, said)
    assert.is_true(tonumber(to_dict) < 1 / 1000, said)
  end)
end)
