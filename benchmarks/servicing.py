"""What keeping the guest's state costs: the same Linux guest on the same host, with ``--state`` ("ours") and without.

Every packet is journalled then, before it is acted on and before it is answered.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row, quick
from benchmarks.two_hosts import Measurement, compare_hosts

DISK_MEBIBYTES = 256


def rows() -> Iterator[Row]:
    """All measurements, from pairs of runs."""
    seconds = 1 if quick() else 2
    kinds = {f"{kind}{depth}": (word, depth) for kind, word in (("r", "reads"), ("w", "writes")) for depth in (1, 32)}
    measurements = {
        label: Measurement(f"random {word} of 4 KiB, {depth} outstanding", "requests/s", "us/request")
        for label, (word, depth) in kinds.items()
    }
    script = [
        f"throughput /dev/sda w {DISK_MEBIBYTES} 1M",
        *(f"@{label} iops /dev/sda {seconds} {depth} 4096 {word[0]}" for label, (word, depth) in kinds.items()),
    ]
    yield from compare_hosts(
        measurements, script, [], lambda directory: ["--state", str(directory / "state")], disk_mebibytes=DISK_MEBIBYTES
    )
