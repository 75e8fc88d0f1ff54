-- examples/cluster: it judges by itself, and fails where a promise is not kept.
local machine = require "support.machine"
local redis = require "support.redis"

describe("examples/cluster/run", function()
  local there, why = redis.is_there()
  if not there then
    pending(why)
    return
  end

  for _, argument in ipairs { "", " --cluster" } do
    it("keeps its promises" .. argument, function()
      local example = machine.start({ "sh", "-c", "examples/cluster/run" .. argument }, { LUAJIT = machine.luajit })
      local status, said = example:wait(120)
      assert.equal(0, status, said)
      for _, line in ipairs { "builds in the whole cluster: 1", "processes that have the new one: 7",
        "builds after it: 1", "builds after it: 0" } do
        assert.truthy(said:find(line, 1, true), said)
      end
    end)
  end
end)
