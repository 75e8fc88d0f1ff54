"""What numpy does, for comparison: reads commands, answers each with the seconds it took.

    hit DIRECTORY IDS COUNT    open_memmap of the ids in rotation, per call
    array MEGABYTES            makes the array that the next two use
    save PATH                  numpy.save, then removes the file
    sum COUNT                  numpy.sum of that many elements, per call
    dot COUNT                  numpy.dot of two such
    npz PATH                   numpy.load of an .npz file, and all of its members
"""

import os
import sys
import time

import numpy
from numpy.lib.format import open_memmap

state = {}


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def hit(directory, ids, count):
    paths = [f"{directory}/sharearray_hit{i}.npy" for i in range(int(ids))]

    def run():
        for i in range(int(count)):
            open_memmap(paths[i % len(paths)], mode="r")

    return timed(run) / int(count)


def array(megabytes):
    state["array"] = (numpy.arange(int(megabytes) << 18) & 255).astype("float32")
    return 0


def save(path):
    seconds = timed(lambda: numpy.save(path, state["array"]))
    os.unlink(path)
    return seconds


def repeated(count, function):
    """Per call, of calls that together take a while."""
    times = max(1, 10_000_000 // int(count))
    return timed(lambda: [function() for _ in range(times)]) / times


def sum_(count):
    part = state["array"][: int(count)]
    return repeated(count, part.sum)


def dot(count):
    part = state["array"][: int(count)]
    return repeated(count, lambda: numpy.dot(part, part))


def npz(path):
    def run():
        with numpy.load(path) as members:
            for name in members.files:
                members[name]

    return timed(run)


commands = {"hit": hit, "array": array, "save": save, "sum": sum_, "dot": dot, "npz": npz}

for line in sys.stdin:
    word, *arguments = line.split()
    print(commands[word](*arguments), flush=True)
