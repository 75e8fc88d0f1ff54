-- The demo: four processes train on one copy of Fashion-MNIST; the second time nobody builds. It starts them
-- with the interpreter that it runs in: under valgrind that is natively, only it itself is looked into.
local machine = require "support.machine"

local DATA = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"
local ROW = "^ *(%d+) +([%d.]+) +(%a[%a ]-%a) +([%d.]+) s +([%d.]+) ms +([%d.]+)%% +([%d.]+) +([%d.]+)$"

-- It keeps both cores busy for half a minute: once is enough.
if machine.luajit:find("other-luajit", 1, true) then return end

describe("examples/fashion_mnist.lua", function()
  local directory

  before_each(function() directory = machine.directory() end)
  after_each(function() machine.remove(directory) end)

  -- Runs it: how each process came to the training set, as "built" -> how many, and all it said.
  local function demo()
    local said = machine.start({ machine.luajit, "examples/fashion_mnist.lua" }, { SHAREARRAY_SHM_PATH = directory })
      :finish(300)
    local ways, rows, rates = {}, 0, {}
    for line in said:gmatch("[^\r\n]+") do
      local pid, rate, way, _, _, accuracy, private, shared = line:match(ROW)
      if pid then
        rows, rates[rate], ways[way] = rows + 1, true, (ways[way] or 0) + 1
        assert.is_true(tonumber(accuracy) >= 80, line)
        assert.is_true(tonumber(private) < 20, line)
        assert.is_true(tonumber(shared) > 60000 * 784 * 4 / 1e6, line)
      end
    end
    assert.equal(4, rows, said)
    for _, rate in ipairs { "0.001", "0.002", "0.004", "0.008" } do assert.is_true(rates[rate], said) end
    assert.truthy(said:find("one shared copy: 219.6 MB; 4 private copies would have taken 878.4 MB", 1, true), said)
    return ways, said
  end

  it("has one process build, three wait, all learn; and then none build", function()
    local file = io.open(DATA)
    if not file then pending("needs Debian's package dataset-fashion-mnist, which make demo installs") return end
    file:close()
    local ways, said = demo()
    assert.equal(1, ways.built, said)
    assert.is_true(ways.waited >= 1, said) -- three, but one that a busy machine starts late finds it there
    assert.truthy(said:find("building train-images-idx3-ubyte.gz: 100%", 1, true), said)
    ways, said = demo()
    assert.same({ ["was there"] = 4 }, ways)
    assert.is_nil(said:find("building", 1, true))
  end)
end)
