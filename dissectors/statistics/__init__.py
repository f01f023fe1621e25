"""Statistics over the columns of a capture's index: a million records in two seconds, none of them decoded.

With a filter, those records are decoded that the columns leave in doubt, by several processes if the reading has some.
"""

from __future__ import annotations

from collections import deque
from typing import BinaryIO

import numpy as np

from dissectors.engine.parts import Part
from dissectors.reading import Reading
from dissectors.statistics.measure import Measure
from dissectors.statistics.report import Report
from dissectors.statistics.tally import Tally

__all__ = ["Report", "take_statistics"]


def take_statistics(reading: Reading, interval: float = 1.0) -> Report:
    """Go through a capture; throughput is counted in steps of ``interval`` seconds."""
    tally = Tally(int(interval * 1e9))
    if reading.wanted is None:
        for part in reading.parts():
            tally.add(Measure(part))
    else:
        measures: deque[Measure] = deque()

        def work(part: Part, output: BinaryIO) -> None:
            output.write(np.packbits(reading.passing(part)).tobytes())

        for output in reading.run(work, lambda part: measures.append(Measure(part))):
            measure = measures.popleft()
            bits = np.frombuffer(output.read(), np.uint8)
            tally.add(measure, np.unpackbits(bits, count=len(measure.part)).astype(np.bool_))
    tally.finish()
    return Report(tally, interval)
