"""The descriptors of this process: how many are open, and a table of them that is full."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


def open_descriptors() -> set[int]:
    """The numbers of all that are open."""
    with os.scandir("/proc/self/fd") as entries:
        numbers = [int(entry.name) for entry in entries]
    return {number for number in numbers if _is_open(number)}  # the listing's own is closed by now


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def full_table(spare: int = 0) -> Iterator[None]:
    """So many more descriptors can be opened in this process meanwhile, and no more (EMFILE)."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(2) for _ in range(spare + 1)]
    for number in taken:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
