--- The functions of the module: each is the method of a default store.
-- @module sharearray

local dtype = require "sharearray.dtype"
local lazy = require "sharearray.lazy"
local store = require "sharearray.store"

local array = lazy "sharearray.array"
local bundle = lazy "sharearray.bundle"
local file = lazy "sharearray.file"

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

  store.on_hit_path(default, M.cache, M.get)

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
  function M.array(value, descr) return array.array(value, descr) end

  --- A source that is an `.npy` or `.npz` file: `cache("train", sharearray.file "train.npy")`.
  function M.file(path, opts) return file.new(path, opts) end

  --- Marks a table as a list, which matters in a bundle while it is empty: `{}` is an empty object.
  function M.as_list(t) return bundle.as_list(t) end

  --- A dtype object from NumPy's name or type code; nil and a message for anything else.
  M.dtype = dtype.of

  --- `null` is JSON's null, for bundles. It is lua-cjson's, which is loaded for it.
  return setmetatable(M, { __index = function(_, key) return key == "null" and bundle.null or nil end })
end

return facade
