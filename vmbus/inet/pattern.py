"""Known bytes for streams and files, the same ones that the Linux guest's test program makes (``guest/pattern.c``).

A counter run through splitmix64's finalizer (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators",
2014): byte N depends on the seed and N alone, so that any part can be made or checked by itself.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def pattern(seed: int, length: int, offset: int = 0) -> bytes:
    """``length`` bytes of the stream of ``seed``, from byte ``offset`` on."""
    first = offset // 8
    count = (offset + length + 7) // 8 - first
    with np.errstate(over="ignore"):
        value = np.uint64(seed) + np.arange(first + 1, first + 1 + count, dtype=np.uint64) * _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * _FIRST
        value = (value ^ (value >> np.uint64(27))) * _SECOND
        value ^= value >> np.uint64(31)
    skipped = offset % 8
    return value.astype("<u8").tobytes()[skipped : skipped + length]
