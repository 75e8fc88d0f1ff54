--- A tmpfs with huge pages by advice, where this user may mount one.
--
-- What uses it is measured in rounds of its own. After a gibibyte of plain pages a huge one takes ten times as long on
-- some virtual machines: the host took the large pieces of free memory back, and has to find others. Plain pages come
-- after plain ones as well.

local machine = require "support.machine"
local measure = require "harness.measure"

local M = {}

-- What ran before leaves the free memory in pieces, and the kernel would look for whole ones while it is measured.
local function compact() machine.shell "sync && echo 1 > /proc/sys/vm/compact_memory" end

--- A directory on one, and a function that takes it away; nil and why not.
-- @tparam string size of the tmpfs, "3g"
function M.mount(size)
  if not machine.is_root then return nil, "only root can mount a tmpfs with huge=advise" end
  local path = measure.build .. "/huge"
  local said, done = machine.shell(("mkdir -p %s && mount -t tmpfs -o huge=advise,size=%s sharearray %s"):format(path,
    size, path))
  if not done then return nil, "no tmpfs with huge=advise can be mounted: " .. said:gsub("%s+$", "") end
  compact()
  return path, function() machine.shell("umount --lazy " .. path) end -- views may be left to the collector
end

return M
