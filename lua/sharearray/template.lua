--- The Lua source of the accessors that sharearray.element makes of a class, and how it is put together.
--
-- Everything that is known of a class is in its text: the checks are unrolled over the axes, there is no loop, no
-- vararg, no closure, so that LuaJIT compiles `v(i, j)` in a loop to a comparison per index and a load.
--
-- The layouts are C order, where the offset (in elements) comes from the shape alone, and strided
-- (strides and offset in bytes: a field of records need not lie at a multiple of its size).
-- @module sharearray.template

-- This file may be read long after those were that use it.
require("sharearray.library").check(7)

local template = {}

-- "f(0), f(1), ... f(n - 1)"
local function list(n, format, separator)
  local items = {}
  for axis = 0, n - 1 do items[#items + 1] = (format:gsub("@", axis)) end
  return table.concat(items, separator or ", ")
end

-- The same with a comma after each.
local function leading(n, format)
  return n > 0 and list(n, format) .. ", " or ""
end

-- Not `math.floor(i) == i` alone: it takes numeric strings, as tobit does.
local IS_NUMBER = 'type(i@) == "number" and '

-- Whether the number i@ is an index of the axis. NaN is none: it equals nothing, and fails the comparison with 0.
--
-- b@ is n@ as uint64_t, with which LuaJIT compares as C does, unsigned: a negative index is larger than any size, and
-- one comparison does for both ends. For an integer in compiled code tobit is nothing; any other number that it leaves
-- as it is lies in the range of int32, where nothing is lost on the way to uint64_t. Random reads of memory take four
-- fifths of the time that they take with two comparisons; interpreted ones, where each b@ is made an object of 24
-- bytes, a quarter more. So vectors and matrices have them, if not wide: those of more axes are seldom read one by one,
-- and every member of a struct is one of the 65,536 C types that LuaJIT can have.
--
-- The collector may run at that, and somebody's finalizer close the view. So all that tells where an element is is
-- taken out of the struct before the checks, which then fail; or, if it was at the last of them, the element is read
-- all the same, from memory that another view may still have.
local WITHIN = "i@ >= 0 and i@ < self.n@ and floor(i@) == i@"
local WITHIN_BOUNDS = "tobit(i@) == i@ and tobit(i@) < self.b@"

-- An index that was checked, of the type that the comparison has: an int32 that was loaded is extended to 64 bits once
-- then, and not for the address again. In a loop that waits for memory each instruction less lets the processor look
-- further ahead.
local function indexed(spec, name)
  return spec.bounds and spec.contiguous and ("cast(uint64, tobit(%s))"):format(name) or name
end

-- Where an element is: `at`, of its row (in elements) if the layout is C order, else of itself (in bytes); and k, where
-- it is from there. The row does not change in a loop over the last axis, which LuaJIT sees: a load is left.
local function place(spec)
  local n = spec.ndim
  if not spec.contiguous then return (n > 0 and list(n, "i@ * s@", " + ") or "0") .. ", 0" end
  if n == 0 then return "0, 0" end
  local last = indexed(spec, "i" .. n - 1)
  if n == 1 then return "0, " .. last end
  local row = "i0"
  for axis = 1, n - 2 do row = ("(%s) * n%d + i%d"):format(row, axis, axis) end
  return ("(%s) * n%d, %s"):format(row, n - 1, last)
end

-- $VALUE is in brackets, as a call may be: a tail call would take the view, and with it perhaps the memory, away from
-- what reads it.
local TEMPLATE = [[
local type, tonumber, floor, rol, tobit, cast, nan, read, write, fail, ct, mutable, constant, map_p, bits_p, bytes_p,
  int64, uint32, uint64, ref, inner, owners, adopt, lend_to, gc, finalizer, pin = ...

local function make(map, sealed, elements$MAKE)
  ref(cast(map_p, map))
  return gc(ct(map, sealed, 0, elements, $BITS$BOUNDS$SIZE$MAKE), finalizer)
end

local function lend(owner, sealed, elements$MAKE)
  local row = ct(owner.map, sealed, 0, elements, $BITS$BOUNDS$SIZE$MAKE)
  lend_to(owner, row)
  return row
end

local function get(self, $INDICES extra)
  $TAKEN
  if $CHECKS and extra == nil then
    local at, k = $PLACE
    $ELEMENT
    $GUARD
    return ($VALUE)
  end
  return fail.index(self, $INDICES extra)
end

local function number(self, $INDICES extra)
  $TAKEN
  local at, k
  if $CHECKS and extra == nil then
    at, k = $PLACE
  elseif $FIRST == nil and self.count == 1 then
    at, k = 0, 0
  else
    return fail.index(self, $INDICES extra)
  end
  $ELEMENT
  $NUMBERGUARD
  return $NUMBER
end

$SETTING
$INDEXING
return {
  make = make, lend = lend, get = get, number = number, set = set, index = index, newindex = newindex, step = step,
}
]]

-- x:set(i, ..., value), of memory that may be written, and of such that never could be.
local SETTING = [[
local function set(self, $INDICES value, extra)
  $TAKEN
  local sealed = self.sealed
  if $CHECKS and extra == nil and sealed[0] == 0 then
    local at, k = $PLACE
    local x, message = write(value)
    if message == nil then
      $TARGET = x
      return
    end
  end
  return fail.set(self, $INDICES value, extra)
end
]]

local NO_SETTING = [[
local function set(self, ...)
  return fail.set(self, ...)
end
]]

-- The step of `for i, x in v:iter()`.
local STEP = [[
local function step(self, key)
  key = key + 1
  if key < self.n0 then
    return key, self[key]
  end
  return fail.over(self)
end
]]

-- v[i], x[i] = value and the step, which differ by ndim.
local INDEXING_0 = [[
local function index(self, key)
  return fail.property(self, key)
end

local function newindex(self, key, value)
  return fail.newindex(self, key, value)
end

local step
]]

local INDEXING_1 = [[
local function index(self, key)
  if type(key) ~= "number" then return fail.property(self, key) end
  $TAKEN
  if $WITHIN then
    local at, k = $KEY
    $ELEMENT
    $GUARD
    return ($VALUE)
  end
  return fail.index(self, key)
end

local function newindex(self, key, value)
  if type(key) ~= "number" then return fail.newindex(self, key, value) end
  return set(self, key, value)
end

$STEP]]

local INDEXING_N = [[
local function index(self, key)
  if type(key) ~= "number" then return fail.property(self, key) end
  $ROWTAKEN
  if $WITHIN and key < self.n0 then -- the view is not closed: adopt needs its map
    return inner(owners[self] or adopt(self), sealed, $ROW, $LENGTHS)
  end
  return fail.row(self, key)
end

local function newindex(self, key, value)
  return fail.newindex(self, key, value)
end

$STEP]]

-- Before the bits of memory are looked at that may be written. For LuaJIT's compiler a float that is stored changes no
-- integer, and it would take the bits from a look before. An integer that is stored might be these: one, anywhere, and
-- another each time, or the store would be left out.
local BARRIER = "pin[0] = 1 - pin[0]; "

-- "n1", "n2", ..., a letter and the axes from `first` on, added to the names.
local function add(names, letter, first, ndim)
  for axis = first, ndim - 1 do names[#names + 1] = letter .. axis end
  return names
end

-- Locals for what is taken out of the struct before the checks.
local function locals(names)
  return ("local %s = self.%s"):format(table.concat(names, ", "), table.concat(names, ", self."))
end

-- What an element needs: pointers, and what `place` does.
local function for_element(spec, moved)
  local reader, names = spec.dtype.reader, { "elements" }
  if reader.bits and not moved then names[2] = "bits" end
  for _, name in ipairs(reader.takes or {}) do names[#names + 1] = name end
  if spec.contiguous then return add(names, "n", 1, spec.ndim) end
  return add(names, "s", 0, spec.ndim)
end

-- What a row needs.
local function for_row(spec)
  local names = add({ "elements", "sealed" }, "n", 1, spec.ndim)
  return spec.contiguous and names or add(names, "s", 0, spec.ndim)
end

-- The pointers that k counts from, where they are not those of the view: `where` is the expression.
local function moved_to(spec, where)
  local elements = spec.contiguous and where or ("cast(constant, %s)"):format(where)
  return ("local elements = %s; "):format(elements)
    .. (spec.dtype.reader.bits and "local bits = cast(bits_p, elements)" or "")
end

-- Adds the text to the parts, with its $NAMEs replaced: by pieces of text that have such themselves, or by what fills
-- the holes. gsub would do, but it looks at every letter, and a process may make a class or two at its start.
local function render_into(parts, text, pieces, holes)
  local at, hole = 1, text:find("$", 1, true)
  while hole do
    local name = text:match("^%u+", hole + 1)
    parts[#parts + 1] = text:sub(at, hole - 1)
    if pieces[name] then
      render_into(parts, pieces[name], pieces, holes)
    else
      parts[#parts + 1] = holes[name]
    end
    at = hole + 1 + #name
    hole = text:find("$", at, true)
  end
  parts[#parts + 1] = text:sub(at)
end

--- The functions of a class, from what `element.compile` hands in.
-- @tparam table spec as for `element.compile`
function template.class(spec)
  local n, reader = spec.ndim, spec.dtype.reader
  local strided = not spec.contiguous
  local within = spec.bounds and WITHIN_BOUNDS or WITHIN
  local where = strided and "cast(bytes_p, elements) + at" or n > 1 and "elements + at" or "elements"
  local moved = where ~= "elements"
  local barrier = reader.bits and spec.writable and BARRIER or ""
  local sizes = add({}, "n", 1, n)
  local lengths = strided and add(add({}, "n", 1, n), "s", 1, n) or sizes
  local holes = {
    MAKE = (n > 0 and ", " .. list(n, "n@") or "") .. (strided and n > 0 and ", " .. list(n, "s@") or ""),
    BITS = reader.bits and "cast(bits_p, elements), " or "",
    BOUNDS = spec.bounds and leading(n, "n@") or "",
    SIZE = n > 0 and list(n, "n@", " * ") or "1",
    INDICES = leading(n, "i@"),
    FIRST = n > 0 and "i0" or "extra",
    CHECKS = n > 0 and list(n, IS_NUMBER .. within, " and ") or "self.count == 1",
    WITHIN = within:gsub("i@", "key"):gsub("@", "0"),
    PLACE = place(spec),
    KEY = strided and "key * s0, 0" or "0, " .. indexed(spec, "key"),
    TAKEN = locals(for_element(spec, moved)), ROWTAKEN = locals(for_row(spec)),
    ELEMENT = barrier .. (moved and moved_to(spec, where) or ""),
    TARGET = ("cast(mutable, %s)[k]"):format(where),
    ROW = strided and "cast(constant, cast(bytes_p, elements) + key * s0)"
      or "elements + key * (" .. table.concat(sizes, " * ") .. ")",
    LENGTHS = table.concat(lengths, ", "),
    GUARD = reader.guard,
    VALUE = reader.value,
    NUMBERGUARD = reader.number and reader.guard or "", NUMBER = reader.number or "fail.number(self)",
  }
  local pieces = { SETTING = spec.writable and SETTING or NO_SETTING, STEP = STEP,
    INDEXING = n == 0 and INDEXING_0 or n == 1 and INDEXING_1 or INDEXING_N }
  local parts = {}
  render_into(parts, TEMPLATE, pieces, holes)
  return table.concat(parts)
end

local LOAD = [[
local tonumber, rol, cast, nan, read, constant, bits_p, int64, uint32, pin = ...
return function(pointer)
  $BARRIER
  local k, elements = 0, cast(constant, pointer)
  $BITS
  $GUARD
  return $VALUE
end
]]

--- A function that reads one element, from what `element.load` hands in.
-- @tparam table reader see sharearray.readers
function template.load(reader)
  return (LOAD:gsub("%$(%u+)", {
    BARRIER = reader.bits and BARRIER or "", BITS = reader.bits and "local bits = cast(bits_p, pointer)" or "",
    GUARD = reader.guard, VALUE = reader.value,
  }))
end

return template
