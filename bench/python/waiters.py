"""Processes that wait by the protocol of the Python package sharearray: waiters.py COUNT PATH

They look for the lock once a second. Says `waiting` when all do; the time from the publication to the last
view when told to publish, seconds.
"""

import mmap
import os
import struct
import sys
import time

import numpy
from numpy.lib.format import open_memmap

count, path = int(sys.argv[1]), sys.argv[2]
board = mmap.mmap(-1, 8 * count)
lock = path + ".lock"
descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)


home, send_home = os.pipe()


def wait(slot):
    board[8 * slot : 8 * slot + 8] = struct.pack("d", -1)
    while True:
        try:
            mine = os.open(lock, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            time.sleep(1)
            continue
        assert open_memmap(path, mode="r")[0] == 0
        board[8 * slot : 8 * slot + 8] = struct.pack("d", time.monotonic())
        os.close(mine)
        os.unlink(lock)
        os.read(home, 1)  # until all have theirs: its end must not hold others up
        os._exit(0)


def last():
    return max(struct.unpack(f"{count}d", board[: 8 * count]))


children = []
for slot in range(count):
    child = os.fork()
    if child == 0:
        wait(slot)
    children.append(child)
while last() > -1:  # 0: it has not begun
    time.sleep(0.01)
print("waiting", flush=True)
sys.stdin.readline()
numpy.save(path, numpy.zeros(1024, "float32"))
os.close(descriptor)
os.unlink(lock)
start = time.monotonic()
while min(struct.unpack(f"{count}d", board[: 8 * count])) < 0:
    time.sleep(0.01)
seconds = last() - start
os.write(send_home, bytes(count))
for child in children:
    os.waitpid(child, 0)
print(seconds, flush=True)
os.unlink(path)
