rockspec_format = "3.0"
package = "sharearray"
version = "scm-1"
source = { url = "git+file://." } -- `luarocks make` and `luarocks pack` work from the checkout
description = {
  summary = "Numeric arrays that the processes of one machine build once and share.",
  detailed = [[
    sharearray.cache(id, fn) runs fn once, in one process, keeps the array in shared memory under a
    machine-global id, and gives every process a typed, read-only, zero-copy view of the same pages.
    LuaJIT 2.1 on Linux; shares its entries with the Python package of the same name.]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = {
  "lua == 5.1", -- as which LuaJIT counts; the binding needs its FFI
  "lua-cjson >= 2.1.0",
  "argparse >= 0.7.1", -- of the command only
}
build = {
  type = "builtin",
  -- spec/rockspec_spec.lua compares both lists with what core/ and lua/ hold.
  modules = {
    ["sharearray.core"] = {
      sources = {
        "core/build.c",
        "core/changes.c",
        "core/convert.c",
        "core/directory.c",
        "core/draft.c",
        "core/entry.c",
        "core/error.c",
        "core/file.c",
        "core/huge.c",
        "core/import.c",
        "core/list.c",
        "core/lock.c",
        "core/map.c",
        "core/name.c",
        "core/npy.c",
        "core/npz.c",
        "core/process.c",
        "core/python.c",
        "core/reduce.c",
        "core/source.c",
        "core/store.c",
        "core/sys.c",
        "core/torch.c",
        "core/view.c",
      },
      libraries = { "pthread", "z" },
    },
    ["sharearray.array"] = "lua/sharearray/array.lua",
    ["sharearray.build"] = "lua/sharearray/build.lua",
    ["sharearray.builders"] = "lua/sharearray/builders.lua",
    ["sharearray.bundle"] = "lua/sharearray/bundle.lua",
    ["sharearray.cdefs"] = "lua/sharearray/cdefs.lua",
    ["sharearray.cli.commands"] = "lua/sharearray/cli/commands.lua",
    ["sharearray.cli.console"] = "lua/sharearray/cli/console.lua",
    ["sharearray.cli.doctor"] = "lua/sharearray/cli/doctor.lua",
    ["sharearray.cli.main"] = "lua/sharearray/cli/main.lua",
    ["sharearray.cli.progress"] = "lua/sharearray/cli/progress.lua",
    ["sharearray.cli.system"] = "lua/sharearray/cli/system.lua",
    ["sharearray.cli.text"] = "lua/sharearray/cli/text.lua",
    ["sharearray.convert"] = "lua/sharearray/convert.lua",
    ["sharearray.copy"] = "lua/sharearray/copy.lua",
    ["sharearray.ctypes"] = "lua/sharearray/ctypes.lua",
    ["sharearray.descr"] = "lua/sharearray/descr.lua",
    ["sharearray.draft"] = "lua/sharearray/draft.lua",
    ["sharearray.dtype"] = "lua/sharearray/dtype.lua",
    ["sharearray.element"] = "lua/sharearray/element.lua",
    ["sharearray.entries"] = "lua/sharearray/entries.lua",
    ["sharearray.facade"] = "lua/sharearray/facade.lua",
    ["sharearray.failures"] = "lua/sharearray/failures.lua",
    ["sharearray.file"] = "lua/sharearray/file.lua",
    ["sharearray.format"] = "lua/sharearray/format.lua",
    ["sharearray"] = "lua/sharearray/init.lua",
    ["sharearray.layout"] = "lua/sharearray/layout.lua",
    ["sharearray.lazy"] = "lua/sharearray/lazy.lua",
    ["sharearray.library"] = "lua/sharearray/library.lua",
    ["sharearray.lifetime"] = "lua/sharearray/lifetime.lua",
    ["sharearray.loop"] = "lua/sharearray/loop.lua",
    ["sharearray.memo"] = "lua/sharearray/memo.lua",
    ["sharearray.methods"] = "lua/sharearray/methods.lua",
    ["sharearray.names"] = "lua/sharearray/names.lua",
    ["sharearray.obtain"] = "lua/sharearray/obtain.lua",
    ["sharearray.options"] = "lua/sharearray/options.lua",
    ["sharearray.origin"] = "lua/sharearray/origin.lua",
    ["sharearray.origin.common"] = "lua/sharearray/origin/common.lua",
    ["sharearray.origin.directory"] = "lua/sharearray/origin/directory.lua",
    ["sharearray.origin.redis"] = "lua/sharearray/origin/redis.lua",
    ["sharearray.origin.redis_client"] = "lua/sharearray/origin/redis_client.lua",
    ["sharearray.origin.redis_news"] = "lua/sharearray/origin/redis_news.lua",
    ["sharearray.place"] = "lua/sharearray/place.lua",
    ["sharearray.readers"] = "lua/sharearray/readers.lua",
    ["sharearray.reduce"] = "lua/sharearray/reduce.lua",
    ["sharearray.renewal"] = "lua/sharearray/renewal.lua",
    ["sharearray.resty"] = "lua/sharearray/resty.lua",
    ["sharearray.shape"] = "lua/sharearray/shape.lua",
    ["sharearray.store"] = "lua/sharearray/store.lua",
    ["sharearray.struct"] = "lua/sharearray/struct.lua",
    ["sharearray.text"] = "lua/sharearray/text.lua",
    ["sharearray.tidy"] = "lua/sharearray/tidy.lua",
    ["sharearray.torch"] = "lua/sharearray/torch.lua",
    ["sharearray.view"] = "lua/sharearray/view.lua",
    ["sharearray.wait"] = "lua/sharearray/wait.lua",
  },
  install = { bin = { "bin/sharearray" } },
}
test = { type = "busted" }
