--- Builds an array of that many floats in place: `peak.lua COUNT` says by how many bytes that raised the
-- most memory the process ever had at once.

local sharearray = require "sharearray"

local function peak()
  for line in io.lines "/proc/self/status" do
    local kilobytes = line:match "^VmHWM:%s+(%d+) kB"
    if kilobytes then return tonumber(kilobytes) * 1024 end
  end
end

local count = tonumber(arg[1])
assert(sharearray.cache("peak", sharearray.array { 1, 2, 3 }))
local before = peak()
assert(sharearray.refresh("peak", function(alloc)
  local x = alloc("float32", { count })
  local data = x.data
  for i = 0, count - 1 do data[i] = i % 256 end
  return x
end))
print(("%.0f"):format(peak() - before))
sharearray.free "peak"
