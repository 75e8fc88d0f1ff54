--- LMDB through FFI: one reading transaction, kept open, as its fastest users have it.

local ffi = require "ffi"

ffi.cdef [[
typedef struct { size_t mv_size; void *mv_data; } MDB_val;
int mdb_env_create(void **env);
int mdb_env_set_mapsize(void *env, size_t size);
int mdb_env_open(void *env, const char *path, unsigned flags, unsigned mode);
void mdb_env_close(void *env);
int mdb_txn_begin(void *env, void *parent, unsigned flags, void **txn);
int mdb_txn_commit(void *txn);
void mdb_txn_abort(void *txn);
int mdb_dbi_open(void *txn, const char *name, unsigned flags, unsigned *dbi);
int mdb_put(void *txn, unsigned dbi, MDB_val *key, MDB_val *data, unsigned flags);
int mdb_get(void *txn, unsigned dbi, MDB_val *key, MDB_val *data);
]]

local M = {}

local NOSUBDIR, NOSYNC, RDONLY, CREATE = 0x4000, 0x10000, 0x20000, 0x40000

local function check(code) if code ~= 0 then error("LMDB: " .. code) end end

--- A database with `values` (key to string): get(key) returns bytes and their number; and its end.
-- nil where the library is not installed.
function M.open(path, values)
  local found, lib = pcall(ffi.load, "liblmdb.so.0")
  if not found then return nil end
  local out, dbi = ffi.new "void *[1]", ffi.new "unsigned[1]"
  check(lib.mdb_env_create(out))
  local env = out[0]
  check(lib.mdb_env_set_mapsize(env, 64 * 2 ^ 20))
  check(lib.mdb_env_open(env, path, NOSUBDIR + NOSYNC, 384)) -- 0600
  check(lib.mdb_txn_begin(env, nil, 0, out))
  check(lib.mdb_dbi_open(out[0], nil, CREATE, dbi))
  local key, data = ffi.new "MDB_val", ffi.new "MDB_val"
  for name, value in pairs(values) do
    key.mv_size, key.mv_data = #name, ffi.cast("char *", name)
    data.mv_size, data.mv_data = #value, ffi.cast("char *", value)
    check(lib.mdb_put(out[0], dbi[0], key, data, 0))
  end
  check(lib.mdb_txn_commit(out[0]))
  check(lib.mdb_txn_begin(env, nil, RDONLY, out))
  local txn, number = out[0], dbi[0]
  local function get(name)
    key.mv_size, key.mv_data = #name, ffi.cast("char *", name)
    if lib.mdb_get(txn, number, key, data) ~= 0 then return nil end
    return data.mv_data, data.mv_size
  end
  return get, function()
    lib.mdb_txn_abort(txn)
    lib.mdb_env_close(env)
  end
end

return M
