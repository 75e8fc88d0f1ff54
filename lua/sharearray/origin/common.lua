--- What the origins of this library share: their options' checks, and random tokens.
-- @module sharearray.origin.common

require "sharearray" -- who loads an origin first has what is joined at once then, see sharearray.bytecode

local M = {}

--- The options in `opts` laid over `defaults`, each checked: `checks[name](value)` gives whether it is right
-- and what was expected. Raises at the level of the caller's caller.
function M.options(opts, defaults, checks)
  if opts ~= nil and type(opts) ~= "table" then error("options must be a table, not a " .. type(opts), 3) end
  local values = {}
  for name, value in pairs(defaults) do values[name] = value end
  for name, value in pairs(opts or {}) do
    local check = checks[name]
    if not check then
      local names = {}
      for known in pairs(checks) do names[#names + 1] = known end
      table.sort(names)
      error(("unknown option '%s' (there are %s)"):format(tostring(name), table.concat(names, ", ")), 3)
    end
    local right, expected = check(value)
    if not right then error(("option '%s' must be %s"):format(name, expected), 3) end
    values[name] = value
  end
  return values
end

function M.seconds(value)
  return type(value) == "number" and value > 0 and value < 1e9, "a number of seconds more than 0"
end

function M.text(value) return type(value) == "string" and value ~= "", "a string that is not empty" end

function M.boolean(value) return type(value) == "boolean", "a boolean" end

--- A natural number up to `most`.
function M.natural(most)
  return function(value)
    return type(value) == "number" and value >= 1 and value <= most and value % 1 == 0,
      ("a whole number from 1 to %.0f"):format(most)
  end
end

--- 32 random hexadecimal digits: a holder of a lease, unlike all others.
function M.token()
  local file = assert(io.open("/dev/urandom", "rb"))
  local bytes = file:read(16)
  file:close()
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

return M
