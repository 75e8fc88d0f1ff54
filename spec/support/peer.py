"""A Python process that shares ids with the specs, by the protocol of the Python package sharearray.

    peer.py cache DIRECTORY ID VALUE SIZE [STAGE]   builds SIZE float32 of VALUE, or takes what is there
    peer.py free DIRECTORY ID
    peer.py read DIRECTORY ID                       numpy.load, with and without mmap_mode

It says what it does in lines. At STAGE (locked, half, written, closed) it says so and then waits for
a line: to be killed there, or told to go on. The lock is polled 100 times a second, not once.
"""

import os
import sys
import time

import numpy

PREFIX = "sharearray_"


def say(*words):
    print(*words, flush=True)


def pause(here, stage):
    if here == stage:
        say(here)
        sys.stdin.readline()


def write(path, array, stage):
    """As numpy.save does, but able to stop half way."""
    with open(path, "wb") as file:
        numpy.lib.format.write_array_header_1_0(file, numpy.lib.format.header_data_from_array_1_0(array))
        data = array.tobytes()
        file.write(data[: len(data) // 2])
        file.flush()
        pause("half", stage)
        file.write(data[len(data) // 2 :])
    pause("written", stage)


def cache(path, value, size, stage):
    lock = path + ".lock"
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        say("waiting")
        while os.path.exists(lock):
            time.sleep(0.01)
    else:
        pause("locked", stage)
        if not os.path.exists(path):
            say("building")
            write(path, numpy.full(size, value, "<f4"), stage)
        os.close(descriptor)
        pause("closed", stage)
        try:
            os.unlink(lock)
        except FileNotFoundError:
            say("lock was gone")
    array = numpy.lib.format.open_memmap(path, mode="r")
    say("value", array.flat[0] if array.size else "none", array.min() == array.max(), array.shape)


def free(path):
    if os.path.exists(path + ".lock"):
        os.unlink(path + ".lock")
    if os.path.exists(path):
        os.unlink(path)
    say("freed")


def read(path):
    mapped, loaded = numpy.load(path, mmap_mode="r"), numpy.load(path)
    assert (mapped == loaded).all()
    say(loaded.dtype.name, loaded.shape, loaded.ravel()[:8].tolist())


def main():
    verb, directory, name = sys.argv[1:4]
    path = os.path.join(directory, PREFIX + name + ".npy")
    if verb == "cache":
        cache(path, float(sys.argv[4]), int(sys.argv[5]), sys.argv[6] if len(sys.argv) > 6 else "")
    elif verb == "free":
        free(path)
    else:
        read(path)


main()
