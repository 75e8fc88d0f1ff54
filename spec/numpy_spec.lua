-- Round trips with NumPy: random arrays of every dtype, both ways, byte for byte.

local machine = require "support.machine"
local sharearray = require "sharearray"

local COUNT = 300 -- a seed

describe("NumPy's arrays of every dtype", function()
  for seed = 1, 2 do
    it("come in, are rebuilt from their values, and go back equal, seed " .. seed, function()
      local directory = machine.directory()
      local store = sharearray.new { shm_path = directory }
      machine.python("round_trip.py", { "write", directory, tostring(seed), tostring(COUNT) }):finish()
      for i = 1, COUNT do
        local x = assert(store:get("case." .. i))
        local ok, problem = pcall(function()
          local known = store:stat("case." .. i).dtype -- of a long one the beginning, as the file spells it
          if not known:find("%.%.%.$") then assert.equal(tostring(x.dtype), known) end
          assert.equal(x.dtype, sharearray.dtype(x.dtype))
          assert.matches("^array%(", tostring(x))
          -- A list of no lists does not tell its other sizes, and a string is a list of bytes.
          local rebuilt = x
          if x.size > 0 and x.ndim > 0 then
            rebuilt = sharearray.array(x:totable(), x.dtype)
            assert.same(x.shape, rebuilt.shape)
            assert.is_true(rebuilt:string() == x:string())
          end
          assert(store:cache("back." .. i, i % 2 == 0 and x or function(alloc)
            local y = alloc(x.dtype, x.shape)
            if x.ndim == 0 then y:set(x()) else
              local flat, from = y:reshape { -1 }, rebuilt:reshape { -1 }
              for k = 0, x.size - 1 do flat[k] = from[k] end
            end
            return y
          end))
        end)
        if not ok then error(("case %d, %s: %s"):format(i, tostring(x.dtype), tostring(problem))) end
      end
      assert.equal("equal " .. COUNT .. "\n",
        machine.python("round_trip.py", { "check", directory, tostring(COUNT) }):finish())
      machine.remove(directory)
    end)
  end
end)
