--- An embedding table with its vocabulary, as one bundle: built once, looked up by any process.
--
--     luajit examples/embedding.lua king         the words nearest to "king"
--     luajit examples/embedding.lua free         remove the table from shared memory
--
-- The table is made of a small text here (each word's row counts its neighbours); a real one would come
-- from a file. The vocabulary is a plain Lua table inside the bundle.

local sharearray = require "sharearray"

local ID = "embedding_example"
local TEXT = [[
the king rules the land and the queen rules the land with the king
the queen and the king walk to the castle on the hill
a cat and a dog walk to the river and a dog swims in the river
a cat sits on the wall of the castle and looks at the river
]]

--- The words of the text in order, and each word's row.
local function vocabulary()
  local words, row_of = {}, {}
  for word in TEXT:gmatch("%a+") do
    if not row_of[word] then
      words[#words + 1] = word
      row_of[word] = #words - 1
    end
  end
  return words, row_of
end

local function build(alloc)
  io.stderr:write("building the table\n")
  local words, row_of = vocabulary()
  local bundle = alloc { vectors = { "float32", { #words, #words } } }
  for line in TEXT:gmatch("[^\n]+") do
    local rows = {}
    for word in line:gmatch("%a+") do rows[#rows + 1] = row_of[word] end
    for i, row in ipairs(rows) do
      for j = math.max(1, i - 2), math.min(#rows, i + 2) do
        if i ~= j then bundle.vectors:set(row, rows[j], bundle.vectors(row, rows[j]) + 1) end
      end
    end
  end
  bundle.words, bundle.row_of = words, row_of
  return bundle
end

local function dot(vectors, a, b)
  local sum = 0
  for i = 0, vectors.shape[2] - 1 do sum = sum + vectors(a, i) * vectors(b, i) end
  return sum
end

local function nearest(embedding, word, count)
  local row = embedding.row_of[word]
  if not row then error(("'%s' is not in the vocabulary"):format(word), 0) end
  local vectors, found = embedding.vectors, {}
  for i, other in ipairs(embedding.words) do
    local length = math.sqrt(dot(vectors, i - 1, i - 1) * dot(vectors, row, row))
    if i - 1 ~= row then found[#found + 1] = { word = other, cosine = dot(vectors, i - 1, row) / length } end
  end
  table.sort(found, function(a, b) return a.cosine > b.cosine end)
  for i = 1, count do print(("%-8s %.3f"):format(found[i].word, found[i].cosine)) end
end

local word = arg[1] or "king"
if word == "free" then
  print(sharearray.free(ID) and "removed" or "was not there")
else
  nearest(assert(sharearray.cache(ID, build)), word, 5)
end
