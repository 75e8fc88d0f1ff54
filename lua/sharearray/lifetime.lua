--- Lifetimes: memory stays mapped as long as there is a view of it.
--
-- A view either owns a reference of its mapping, which its finalizer gives back; or it is a row, and lives on
-- the reference of the view that it was taken from, its owner, which is kept alive for it by `owners`. For a
-- finalizer is what LuaJIT is slowest at, 120 ns, and a loop over rows makes a row at each turn.
--
-- A row could lose its memory in two ways. Its owner is closed: then the rows get another owner. Or the Lua
-- state ends, and LuaJIT finalizes all cdata, whoever refers to it, before the user's last finalizers run: the
-- rows are closed together with their owner.
-- @module sharearray.lifetime

local ffi = require "ffi"
local C = require("sharearray.library").C

local M = {}

--- row -> its owner. Weak keys alone: an owner lives as long as a row of its own does.
local owners = setmetatable({}, { __mode = "k" })
M.owners = owners

--- Where the struct of every view has its member `lent`, in units of 8 bytes.
M.LENT = 2

local lent_p = ffi.typeof("uint64_t *")

--- Makes the view `row`, which has no reference of its own, live on that of `owner`.
function M.lend(owner, row)
  ffi.cast(lent_p, owner)[M.LENT] = 1
  owners[row] = owner
end

local function close_row(row) ffi.fill(row, ffi.sizeof(row)) end

local function close_rows(owner)
  for row, its_owner in pairs(owners) do
    if rawequal(its_owner, owner) then close_row(row) end
  end
end

-- `heir` makes another owner.
local function hand_over(owner, heir)
  local new
  for row, its_owner in pairs(owners) do
    if rawequal(its_owner, owner) then
      new = new or heir(owner)
      owners[row] = new
    end
  end
end

--- The finalizer of owners whose struct has `size` bytes. As long as the collector calls it, there are no rows.
function M.finalizer(size)
  return function(self)
    if self.lent ~= 0 then close_rows(self) end
    C.sharearray_release(self, size)
  end
end

--- Makes the view all zeros: whoever still has it finds it closed. Other views are not affected.
-- @tparam function heir makes an owner of the same memory, for the rows of this one
function M.close(self, heir)
  if owners[self] then
    owners[self] = nil
    close_row(self)
  else
    if self.lent ~= 0 then hand_over(self, heir) end
    C.sharearray_release(self, ffi.sizeof(self))
  end
end

return M
