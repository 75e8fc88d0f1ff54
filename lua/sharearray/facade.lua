--- The functions of the module: each is the method of a default store.
-- @module sharearray

local array = require "sharearray.array"
local bundle = require "sharearray.bundle"
local dtype = require "sharearray.dtype"
local file = require "sharearray.file"
local store = require "sharearray.store"

local facade = {}

--- A module whose stores have these defaults.
-- @tparam table defaults checked options
function facade.new(defaults)
  local M = { _VERSION = "scm" }
  local default = store.new(nil, defaults)

  -- Tail calls: an argument error is then blamed on the line that called `sharearray.cache`.

  --- The view of `id`, built first if nobody has it. See `sharearray.store`, as for all the calls here.
  function M.cache(id, source, opts) return default:cache(id, source, opts) end

  --- The view of `id`, or `nil, message, "absent"`.
  function M.get(id, opts) return default:get(id, opts) end

  --- Builds anew and replaces in one step.
  function M.refresh(id, source, opts) return default:refresh(id, source, opts) end

  --- Removes the entry; true if there was one.
  function M.free(id, opts) return default:free(id, opts) end

  --- A list of what is in the store.
  function M.list(opts) return default:list(opts) end

  --- What stands under one id.
  function M.stat(id, opts) return default:stat(id, opts) end

  --- `decorator(id, opts)(fn)`: a function that returns `cache(id, fn, opts)`.
  function M.decorator(id, opts) return default:decorator(id, opts) end

  --- Whether an id can be used.
  function M.valid_id(id) return default:valid_id(id) end

  --- A store with its own defaults; every call above is a method of it.
  function M.new(opts) return store.new(opts, defaults) end

  --- A private array from nested lists, a string, FFI cdata or a view.
  M.array = array.array

  --- A source that is an `.npy` or `.npz` file: `cache("train", sharearray.file "train.npy")`.
  M.file = file.new

  --- Marks a table as a list, which matters in a bundle while it is empty: `{}` is an empty object.
  M.as_list = bundle.as_list

  --- JSON's null, for bundles.
  M.null = bundle.null

  --- A dtype object from NumPy's name or type code; nil and a message for anything else.
  M.dtype = dtype.of

  return M
end

return facade
