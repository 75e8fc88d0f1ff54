"""Real NumPy, for the torture programs.

    numpy_peer.py sources DIRECTORY    writes the files that imports are tried with
    numpy_peer.py read                 for each path on standard input one line: "ok VALUE", "none", or "bad WHY"

A file is sound if each of its arrays has one value throughout, with and without mmap_mode, and all arrays
of a bundle have the same one.
"""

import os
import sys

import numpy


def write_sources(directory):
    items = numpy.full((30, 40), 7, "<i4")
    numpy.save(os.path.join(directory, "plain.npy"), items)
    numpy.save(os.path.join(directory, "fortran.npy"), numpy.asfortranarray(items.astype(">i4")))
    numpy.savez(os.path.join(directory, "stored.npz"), a=items, b=items[:3])
    numpy.savez_compressed(os.path.join(directory, "deflated.npz"), a=items, b=numpy.asfortranarray(items[:3]))


def value_of(array):
    assert array.size and array.dtype == "<i4", "an array of another kind"
    assert (array == array.flat[0]).all(), "a partial array"
    return int(array.flat[0])


def judge(path):
    loaded = numpy.load(path)
    if isinstance(loaded, numpy.lib.npyio.NpzFile):
        with loaded:
            values = {value_of(loaded[name]) for name in loaded.files if name != "sharearray.json"}
    else:
        values = {value_of(loaded)}
        value_of(numpy.load(path, mmap_mode="r"))
    assert len(values) == 1, "two versions in one file"
    return "ok %d" % values.pop()


def judge_patiently(path):
    """With mmap_mode, numpy.load opens a file twice, so a refresh may come between: a second try tells."""
    for attempt in range(3):
        try:
            return judge(path)
        except FileNotFoundError:
            return "none"
        except Exception as problem:
            bad = "bad %s %s" % (type(problem).__name__, str(problem).replace("\n", " ")[:100])
    return bad


def read():
    for line in sys.stdin:
        print(judge_patiently(line.rstrip("\n")), flush=True)


if sys.argv[1] == "sources":
    write_sources(sys.argv[2])
else:
    read()
