"""Random arrays of every dtype that NumPy writes, for spec/numpy_spec.lua.

    round_trip.py write DIRECTORY SEED COUNT    saves the arrays case.1, case.2, ...
    round_trip.py check DIRECTORY COUNT         compares what Lua wrote, back.1, ..., with them
"""

import os
import random
import sys
import warnings

import numpy

PLAIN = "?,i1,i2,i4,i8,u1,u2,u4,u8,f2,f4,f8,c8,c16".split(",")
UNITS = "Y,M,W,D,h,m,s,ms,us,ns,ps,fs,as,25s,10ms".split(",")
NAMES = ["price", "volume", "my field", "end", "int", "map", "_map", "x'y", 'x"y', "back\\slash", "1st", "größe", "名前", "\U0001f600", "tab\t", "*/", "shape"]
LETTERS = "abcXYZ äß中\U0001f600'\"\\\n"


def random_dtype(rng, depth=0):
    kind = rng.choice(["plain"] * 4 + ["S", "U", "V", "M", "m"] + ["struct"] * (4 if depth < 3 else 0))
    if kind == "plain":
        return numpy.dtype(rng.choice(PLAIN))
    if kind in "SUV":
        return numpy.dtype(f"{kind}{rng.randint(1, 9)}")
    if kind in "Mm":
        return numpy.dtype(kind + "8" + rng.choice(["", f"[{rng.choice(UNITS)}]"]))
    fields = []
    for name in rng.sample(NAMES, rng.randint(1, 5)):
        of = random_dtype(rng, depth + 1)
        titled = (f"title of {name}", name) if rng.random() < 0.2 else name
        shape = tuple(rng.randint(0 if rng.random() < 0.1 else 1, 3) for _ in range(rng.choice([0, 0, 0, 1, 2])))
        fields.append((titled, of, shape) if shape else (titled, of))
    return numpy.dtype(fields, align=rng.random() < 0.4)


def fill(rng, array):
    """Random elements; the bytes of gaps stay 0, and so do numbers that no other type would keep."""
    dtype = array.dtype
    if dtype.names is not None:
        for name in dtype.names:
            fill(rng, array[name])
        return
    values = numpy.empty(array.size, dtype)
    for i in range(array.size):
        if dtype.kind == "U":
            values[i] = "".join(rng.choice(LETTERS) for _ in range(rng.randint(0, dtype.itemsize // 4)))
        elif dtype.kind in "SV":
            values[i] = rng.randbytes(dtype.itemsize if dtype.kind == "V" else rng.randint(0, dtype.itemsize))
        elif dtype.kind == "b":
            values[i] = rng.random() < 0.5
        elif dtype.kind in "fc":
            values[i] = rng.choice([0.0, -0.0, float("inf"), rng.uniform(-1000, 1000)])
            if dtype.kind == "c":
                values[i] += 1j * rng.uniform(-1000, 1000)
        else:
            values[i] = numpy.frombuffer(rng.randbytes(dtype.itemsize), dtype)[0]
    array[...] = values.reshape(array.shape)


def random_array(rng, number):
    dtype = random_dtype(rng) if number > len(PLAIN) else numpy.dtype(PLAIN[number - 1])
    rank = number % 9
    while True:
        shape = tuple(rng.choice([0, 1, 1, 2, 3] if rng.random() < 0.1 else [1, 1, 2, 3]) for _ in range(rank))
        size = int(numpy.prod(shape))
        if size <= 100:
            break
    array = numpy.ndarray(shape, dtype, bytearray(max(size * dtype.itemsize, 1)), order=rng.choice("CF"))
    fill(rng, array)
    return array


def raw(array):
    """The bytes in C order, those of gaps included."""
    array = numpy.asarray(array)
    if array.dtype.itemsize == 0 or array.size == 0:
        return b""
    return array.view(numpy.dtype((numpy.void, array.dtype.itemsize))).tobytes()


def path(directory, stem, number):
    return os.path.join(directory, f"sharearray_{stem}.{number}.npy")


def write(directory, seed, count):
    rng = random.Random(seed)
    for number in range(1, count + 1):
        numpy.save(path(directory, "case", number), random_array(rng, number))


def check(directory, count):
    for number in range(1, count + 1):
        expected = numpy.load(path(directory, "case", number))
        back = path(directory, "back", number)
        loaded = [numpy.load(back)]
        if expected.dtype.itemsize:  # NumPy cannot map elements of 0 bytes
            loaded.append(numpy.load(back, mmap_mode="r"))
        for array in loaded:
            assert array.dtype == expected.dtype, (number, array.dtype, expected.dtype)
            assert array.shape == expected.shape, (number, array.shape, expected.shape)
            assert raw(array) == raw(expected), (number, expected.dtype, expected, array)
    print("equal", count)


def main():
    warnings.simplefilter("ignore")  # of names that only version 3.0 can hold
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        check(sys.argv[2], int(sys.argv[3]))


main()
