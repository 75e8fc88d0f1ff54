--- A helper for busted that records every case as a line of the file $TALLY_CASES, for `.ci/tally`:
-- `ok CASE`, `not ok CASE: why`, `skip CASE: why`, and `end` at the end. Standard output will not do:
-- what the specs' worker programs print goes there too.
local busted = require "busted"

local cases = assert(io.open(assert(os.getenv "TALLY_CASES"), "a"))
local full_name = require "busted.outputHandlers.base"().getFullName
local why = {} -- of the cases that run: element -> message

local function record(word, name, message)
  local line = word .. " " .. name .. (message and ": " .. tostring(message) or "")
  cases:write(line:gsub("%s+", " "):sub(1, 240), "\n")
  cases:flush() -- a spec that forks must not inherit the line
end

local function is_case(element) return element.descriptor == "it" or element.descriptor == "pending" end

local function note(element, _, message)
  if is_case(element) then
    why[element] = message or "no message"
  else -- a file that does not load, a setup that fails
    record("not ok", full_name(element) .. " (" .. element.descriptor .. ")", message)
  end
  return nil, true
end

busted.subscribe({ "failure" }, note)
busted.subscribe({ "error" }, note)
busted.subscribe({ "pending" }, note)

busted.subscribe({ "test", "end" }, function(element, _, status)
  local word = status == "success" and "ok" or status == "pending" and "skip" or "not ok"
  record(word, full_name(element), word ~= "ok" and why[element] or nil)
  why[element] = nil
  return nil, true
end)

busted.subscribe({ "exit" }, function()
  cases:write "end\n"
  cases:close()
  return nil, true
end)
