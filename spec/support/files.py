"""Writes random .npy and .npz files with NumPy, waits for a line, and compares what was made of them.

    files.py DIRECTORY SEED COUNT

Of file DIRECTORY/<i>.npy or <i>.npz the entry is DIRECTORY/sharearray_<i>.npy.
"""

import io
import sys
import warnings
import zipfile

import numpy

directory, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random = numpy.random.default_rng(seed)
DTYPES = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 S3 U5 M8[ns] m8[25s] V7".split()
INNER = [("in", "S3"), (">i4", ">u2"), ("z", "<c8", (2, 1))]
RECORD = numpy.dtype([("price", "<f4"), ("größe", "<i8", (2,)), ("価格\'", INNER, (2,))], align=True)
warnings.simplefilter("ignore")  # format versions 2.0 and 3.0 need a newer NumPy, says NumPy


def random_array(i):
    ndim = i % 9
    most = [40000, 40000, 200, 35, 14, 8, 6, 5, 4][ndim]
    shape = [int(n) for n in random.integers(1, most + 1, ndim)]
    if ndim and random.random() < 0.1:
        shape[random.integers(ndim)] = 0
    dtype = numpy.dtype(random.choice(list("<>")) + DTYPES[int(random.integers(len(DTYPES)))])
    size = int(numpy.prod(shape))
    order = random.choice(list("CF"))
    if random.random() < 0.05:
        records = numpy.zeros(size, random.choice([RECORD, RECORD.newbyteorder()]))
        records["price"], records["größe"] = random.random(size), random.integers(1000, size=(size, 2))
        records["価格'"]["in"] = b"abc"
        records["価格'"][">i4"] = random.integers(1000, size=(size, 2))
        records["価格'"]["z"] = 1 + 2j
        return records.reshape(shape, order=order)
    raw = random.bytes(size * dtype.itemsize)
    if dtype.kind == "U":
        raw = numpy.frombuffer(raw, "u4") % 0xD000
        raw = raw.astype(dtype.byteorder + "u4").tobytes()
    if dtype.kind == "b":
        raw = bytes(byte & 1 for byte in raw)
    return numpy.frombuffer(raw, dtype).reshape(shape, order=order)


def npy_bytes(array):
    file = io.BytesIO()
    version = 3 if array.dtype.names else int(random.integers(1, 4))
    numpy.lib.format.write_array(file, array, version=(version, 0))
    return file.getvalue()


def write(i):
    """Writes case i, and returns its array, or its arrays by name."""
    if i % 4:
        array = random_array(i)
        with open(f"{directory}/{i}.npy", "wb") as file:
            file.write(npy_bytes(array))
        return array
    arrays = {name: random_array(int(random.integers(9))) for name in ["a", "b/ä", "c"][: int(random.integers(1, 4))]}
    path = f"{directory}/{i}.npz"
    way = int(random.integers(3))
    if way == 0:
        numpy.savez(path, **arrays)
    elif way == 1:
        numpy.savez_compressed(path, **arrays)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = b"PK\5\6 is no end record"
            for name, array in arrays.items():
                archive.writestr("note of " + name, "text")
                method = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
                info = zipfile.ZipInfo(name + ".npy")
                info.compress_type = int(method)
                with archive.open(info, "w", force_zip64=True) as member:
                    member.write(npy_bytes(array))
    return arrays


def check(array, expected, what):
    assert array.shape == expected.shape, (what, array.shape, expected.shape)
    assert array.dtype == expected.dtype.newbyteorder("<"), (what, array.dtype, expected.dtype)
    assert array.flags.c_contiguous, what
    if expected.dtype.names:  # NumPy itself writes padding that was never set
        assert numpy.array_equal(array, expected), what
        return
    # Not astype: it may make another NaN of one.
    if expected.dtype.byteorder == ">":
        expected = expected.byteswap()
    assert array.tobytes() == expected.tobytes(), (what, expected.dtype)


cases = [write(i) for i in range(count)]
print("ready", flush=True)
sys.stdin.readline()
for i, case in enumerate(cases):
    entry = f"{directory}/sharearray_{i}.npy"
    loaded = numpy.load(entry)
    if isinstance(case, dict):
        assert sorted(loaded.files) == sorted(case), (i, loaded.files)
        for name in case:
            check(loaded[name], case[name], (i, name))
        assert zipfile.ZipFile(entry).testzip() is None
    else:
        check(loaded, case, i)
        check(numpy.load(entry, mmap_mode="r"), case, i)
print("checked", count)
