--- A store, and the calls that are made over and over: cache, get, valid_id. The others are in
-- sharearray.entries: refresh, decorator, free, list, stat.
--
-- Every call is here once; `sharearray.cache(...)` is the default store's `store:cache(...)`.
-- Errors: a wrong argument raises at the caller's level; what can happen at run time returns
-- `nil, message, code`.
-- @module sharearray.store

local lazy = require "sharearray.lazy"
local library = require "sharearray.library"
local loop = require "sharearray.loop"
local obtain = require "sharearray.obtain"
local place_ = require "sharearray.place"
local view = require "sharearray.view"

local build = lazy "sharearray.build"
local options = lazy "sharearray.options"
local warmup = lazy "sharearray.warmup"

local type, valid_id, GET = type, library.C.sharearray_valid_id, library.GET

local M = {}

local Store = {}
Store.__index = Store
setmetatable(Store, { __index = lazy "sharearray.entries" })
Store.__tostring = function(self)
  return ("sharearray store %s/%s*"):format(self.settings.shm_path, self.settings.prefix)
end

--- What holds where nothing is said.
function M.defaults()
  local path = os.getenv("SHAREARRAY_SHM_PATH")
  return {
    shm_path = path and path ~= "" and path or "/dev/shm",
    prefix = "sharearray_",
    timeout = -1,
    verbose = false,
  }
end

-- Stands in until the directory is opened, so that the hit path has nothing to check.
local UNOPENED = { fresh = {} }

local function new(settings)
  return setmetatable({ settings = settings, place = UNOPENED }, Store)
end

--- A store with its own defaults.
-- @tparam[opt] table opts see the README's list of options
-- @tparam[opt] table base what holds where `opts` says nothing: an adapter's own defaults
-- @treturn table a store; it opens its directory at the first call
function M.new(opts, base)
  base = base or M.defaults()
  return new(opts and options.overlay(opts, base, 2) or base)
end

local paths = {} -- those that hits of users take, see sharearray.warmup
local WARM_UP = 500 -- calls that are no hits between two warm-ups; LuaJIT gives up after some 100,000
local calls = 0

-- Where so many of them take less than AT_ONCE, attaches are what the program does, and goes on with for a while. By
-- loop.now: when the last WARM_UP were over, and until when attaches count as coming in bulk.
local AT_ONCE, A_WHILE = 20, 100 -- milliseconds
local since, bulk_until = 0, 0

--- `cache` and `get` are functions of an id that call the store's methods.
function M.on_hit_path(store, cache, get) paths[#paths + 1] = { store, cache, get } end

--- The store's place; nil, message, code where it cannot be opened.
function M.open(self, level)
  loop.looked()
  if self.place.handle then -- else it is unopened, or shut
    calls = calls + 1
    if calls % WARM_UP == 0 then
      local now = loop.now()
      if now - since < AT_ONCE then bulk_until = now + A_WHILE end
      since = now
      warmup.run(self, paths)
    end
    return self.place
  end
  local place, text, code = place_.open(self.settings, level + 1)
  if not place then return nil, text, code end
  self.place = place
  return place
end

local function check_self(self, level)
  if getmetatable(self) == Store then return end
  error("the calls of a store are its methods: they want a colon, as in store:cache(id, fn)", level + 1)
end

--- The store with the options of one call.
function M.with(self, opts, level)
  check_self(self, level + 1)
  if opts == nil then return self end
  return new(options.overlay(opts, self.settings, level + 1))
end

--- Whether `id` matches `^[A-Za-z0-9=+._-]+$` and, with the prefix, fits a file name.
function Store:valid_id(id)
  check_self(self, 2)
  return type(id) == "string" and valid_id(self.settings.prefix, id, #id) == 1
end

--- Raises where an id cannot be used.
function M.check_id(self, id, level)
  if type(id) == "string" and valid_id(self.settings.prefix, id, #id) == 1 then return end
  local given = type(id) == "string" and ("'%s'"):format(id:sub(1, 80)) or "of type " .. type(id)
  error(("invalid id %s: it must be a string that matches ^[A-Za-z0-9=+._-]+$, of at most %d characters"):format(given,
    246 - #self.settings.prefix), level + 1)
end

--- Raises for what can be no source.
function M.check_source(source, level)
  if type(source) == "function" then return end
  local right, given = build.check(source)
  if right then return end
  error(("a source must be a function, %s; got %s"):format(build.EXPECTED, given), level + 1)
end

local open, with, check_id, check_source = M.open, M.with, M.check_id, M.check_source

-- What is no hit. Called in tail position: level 2 is the user's line.
local function cache_anew(self, id, source, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  check_source(source, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  local known = place:lookup(id)
  if known then return obtain.renewed(self, id, source, known) end
  return obtain.obtain(self, id, source, 0)
end

local function get_anew(self, id, opts)
  self = with(self, opts, 2)
  check_id(self, id, 2)
  local place, text, code = open(self, 2)
  if not place then return nil, text, code end
  local known = place:lookup(id)
  if known then return known end
  return obtain.obtain(self, id, nil, GET)
end

-- A user's loop that is compiled in the moment of a look at the file system would have that look in its
-- trace, and the hit, four times slower, beside it. So it is not compiled as a part of others, but by itself; unless
-- attaches come in bulk: there the loop is one of looks, and its interpretation a tenth of what it takes.
local function cache_slowly(self, id, source, opts) return cache_anew(self, id, source, opts) end
local function get_slowly(self, id, opts) return get_anew(self, id, opts) end
jit.off(cache_slowly)
jit.off(get_slowly)

-- A function that LuaJIT does not compile: it ends a trace, and the rest is interpreted. Without it each
-- call with options would be a failed attempt to compile `cache`, and after some thousands of them LuaJIT
-- would never again compile a hit, not even one without options.
local end_trace = coroutine.running

--- The view of `id`. If nobody has it, `source` is run, or copied, first: once for the whole machine.
-- @tparam string id
-- @param source a function `fn(alloc, alive)`, or array-like data
-- @tparam[opt] table opts options of this call, over the store's
-- @return[1] a read-only view, shared with all who ask for the id in this Lua state
-- @return[2] nil, message, code
function Store:cache(id, source, opts)
  if opts == nil then
    local place = self.place
    local value = place and place.fresh[id] -- no place: called with a dot
    if value and place.changes[0] == place.seen and place.closings == view.closings
      and loop.now() < place.until_ then
      return value
    end
  else
    end_trace()
  end
  if loop.now() < bulk_until then return cache_anew(self, id, source, opts) end
  return cache_slowly(self, id, source, opts)
end

--- The view of `id`, or `nil, message, "absent"`. Never builds, and waits for no builder.
function Store:get(id, opts)
  if opts == nil then
    local place = self.place
    local value = place and place.fresh[id] -- no place: called with a dot
    if value and place.changes[0] == place.seen and place.closings == view.closings
      and loop.now() < place.until_ then
      return value
    end
  else
    end_trace()
  end
  if loop.now() < bulk_until then return get_anew(self, id, opts) end
  return get_slowly(self, id, opts)
end

return M
