--- Spans of hits, each between two calls of gettid, for strace to look at.

local ffi = require "ffi"
local sharearray = require "sharearray"

ffi.cdef "int gettid(void);"

local IDS, PASSES, SPANS = 64, 100, 20
local names = {}
local function never() error "it should be there" end
local sink

local function hits()
  for _ = 1, PASSES do
    for i = 0, IDS - 1 do sink = sharearray.cache(names[i], never) end
  end
end

for i = 0, IDS - 1 do names[i] = "hit" .. i end
for _ = 1, 20 do hits() end -- compiled from here on
for _ = 1, SPANS do
  for i = 0, IDS - 1 do
    sink = sharearray.get(names[i])
  end
  ffi.C.gettid()
  hits()
  ffi.C.gettid()
end
assert(sink ~= nil)
