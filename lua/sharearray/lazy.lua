--- Modules that are loaded when something of them is first used.
--
-- A process that only attaches an array needs a fifth of the library, and reading the rest would take longer
-- than all else at its start: LuaJIT compiles some 70 KB of source a millisecond.
-- @module sharearray.lazy

--- Stands for the module `name`: `local file = lazy "sharearray.file"`, then `file.new(path)` as ever.
return function(name)
  return setmetatable({}, {
    __index = function(stub, key)
      local module = require(name)
      for member, value in pairs(module) do rawset(stub, member, value) end
      setmetatable(stub, { __index = module })
      return module[key]
    end,
  })
end
