--- How far a load is, on standard error: a bar on a terminal, a line for each quarter elsewhere.
-- @module sharearray.cli.progress

local system = require "sharearray.cli.system"
local text = require "sharearray.cli.text"

local M = {}

local WIDTH = 40

local function bar()
  return function(done, total)
    local part = total > 0 and done / total or 1
    local filled = math.floor(part * WIDTH)
    io.stderr:write(("\r[%s%s] %3d%% of %s"):format(("#"):rep(filled), (" "):rep(WIDTH - filled), part * 100,
      text.size(total)))
  end, function() io.stderr:write("\n") end
end

local function lines(id)
  local said = 0
  return function(done, total)
    local quarters = total > 0 and math.floor(done / total * 4) or 4
    if quarters == said then return end
    said = quarters
    io.stderr:write(("sharearray: '%s': %d%% of %s\n"):format(id, quarters * 25, text.size(total)))
  end, function() end
end

--- @treturn function to be called with the bytes done and the bytes in all
-- @treturn function that ends what is shown, before anything else is said
function M.new(id)
  local show, close = (system.is_terminal(io.stderr) and bar or lines)(id)
  local shown = false
  return function(done, total)
    shown = true
    show(done, total)
  end, function()
    if shown then close() end
    shown = false
  end
end

return M
