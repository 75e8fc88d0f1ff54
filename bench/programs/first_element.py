"""The same in Python: first_element.py PATH."""

import sys

from numpy.lib.format import open_memmap

assert open_memmap(sys.argv[1], mode="r")[0] == 0
