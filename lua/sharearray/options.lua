--- The options of a store and of single calls, checked strictly: a typo must not pass in silence.
-- Names and meanings are those of the Python package where it has them.
-- @module sharearray.options

local bit = require "bit"

local M = {}

local PREFIX_MAX = 245 -- a file name has 255 at most, "<id>.npy.lock" 10 at least

local function is_callable(value)
  if type(value) == "function" then return true end
  local metatable = getmetatable(value)
  return type(metatable) == "table" and type(metatable.__call) == "function"
end

local function is_uid(value)
  return type(value) == "number" and value >= 0 and value < 2 ^ 32 - 1 and value % 1 == 0
end

--- Each option's check: returns the value to use, or nil and what was expected.
local checks = {}

function checks.shm_path(value)
  if type(value) == "string" and value ~= "" and not value:find("\0", 1, true) then return value end
  return nil, "the path of a directory"
end

function checks.prefix(value)
  if type(value) == "string" and #value <= PREFIX_MAX and value:match("^[A-Za-z0-9=+._-]*$") then return value end
  return nil, ("a string of the characters A-Z a-z 0-9 = + . _ -, at most %d of them"):format(PREFIX_MAX)
end

function checks.timeout(value)
  if type(value) == "number" and value == value then return value end
  return nil, "a number of seconds (negative: wait for ever)"
end

function checks.max_age(value)
  if type(value) == "number" and value > 0 then return value end
  return nil, "a number of seconds more than 0"
end

function checks.verbose(value)
  if type(value) == "boolean" then return value end
  return nil, "a boolean"
end

function checks.prefault(value)
  if type(value) == "boolean" then return value end
  return nil, "a boolean"
end

function checks.log_func(value)
  if is_callable(value) then return value end
  return nil, "a function that takes a string"
end

function checks.sleep(value)
  if is_callable(value) then return value end
  return nil, "a function that takes seconds and lets other coroutines run"
end

-- A string, because Lua has no octal literals: mode = 440 would be 0670.
function checks.mode(value)
  local mode = type(value) == "string" and value:match("^[0-7]+$") and tonumber(value, 8)
  -- 0400 and 0022
  if not mode or mode >= 512 or bit.band(mode, 256) == 0 or bit.band(mode, 18) ~= 0 then
    return nil, 'permission bits as a string of octal digits, of which the owner may read and nobody else write, '
      .. 'as in mode = "0440"'
  end
  return mode
end

function checks.owner(value)
  if is_uid(value) then return value end
  return nil, "a numeric user id"
end

function checks.trust(value)
  if is_uid(value) then value = { value } end
  local expected = "a list of numeric user ids"
  if type(value) ~= "table" then return nil, expected end
  local list = {}
  for key, uid in pairs(value) do
    if type(key) ~= "number" or not is_uid(uid) then return nil, expected end
    list[#list + 1] = uid
  end
  table.sort(list)
  return list
end

function checks.origin(value)
  local complete = type(value) == "table"
  for _, method in ipairs { "fetch", "publish", "lease", "remove" } do
    complete = complete and is_callable(value[method])
  end
  if complete then return value end
  return nil, "an origin: a table with the methods fetch, publish, lease and remove, such as "
    .. 'require("sharearray.origin.redis").new{host = "127.0.0.1"}'
end

local function names()
  local list = {}
  for name in pairs(checks) do list[#list + 1] = name end
  table.sort(list)
  return table.concat(list, ", ")
end

--- The options in `opts` laid over `base`, in a new table.
-- @tparam table opts what the user wrote
-- @tparam table base already checked; what `opts` does not name is taken from it
-- @tparam number level whom an error is blamed on, as in `error`, seen from the caller
function M.overlay(opts, base, level)
  if type(opts) ~= "table" then
    error("options must be a table, not a " .. type(opts), level + 1)
  end
  local settings = {}
  for name, value in pairs(base) do settings[name] = value end
  for name, value in pairs(opts) do
    local check = checks[name]
    if not check then
      error(("unknown option '%s' (there are %s)"):format(tostring(name), names()), level + 1)
    end
    local checked, expected = check(value)
    if checked == nil then
      error(("option '%s' must be %s"):format(name, expected), level + 1)
    end
    settings[name] = checked
  end
  return settings
end

return M
