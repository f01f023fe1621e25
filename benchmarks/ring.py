"""The ring against Linux's user-space ring (``tools/hv/vmbus_bufring.c``, -O2): packets per second, signals per packet.

A packet is sent and received. "one process" is both ends in one thread on one ring of 128 KiB, interrupts masked as
while a device is busy, in seconds of the processor; "two processes" has all sleeping, waking and signalling through
eventfds, by the same rules at both sides (``ring_peer.c`` adds them to Linux's ring). "extension" and "Python" are our
two implementations; both hand over typed packets, copied and checked, where the peer copies into one buffer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.harness import Row, compare, quick, row
from benchmarks.linux_ring import build
from benchmarks.ring_worker import Link
from vmbus import native
from vmbus.memory import GuestMemory
from vmbus.ring import IN_BAND, MAX_BATCH, IncomingRing, OutgoingRing, RingMemory

SIZES = (16, 64, 256, 4096, 16384)
RING = 131072
WORKER = [sys.executable, "-m", "benchmarks.ring_worker"]


def rows() -> Iterator[Row]:
    """All measurements: one process in batches and one by one, then two processes one way and there and back."""
    program = str(build())
    implementations = [("extension", False)] if native.extension else []
    implementations.append(("Python", True))
    for mode, words in (("batch", "batches of 64"), ("single", "one by one")):
        for size in SIZES:
            for name, pure in implementations:
                yield compare(
                    f"one process, {words}, {size} B, {name}",
                    "M packets/s",
                    lambda mode=mode, size=size, pure=pure: _one_process(mode, size, pure),  # type: ignore[misc]
                    lambda mode=mode, size=size: _peer_in_one_process(program, mode, size),  # type: ignore[misc]
                )
    for modes, words in ((("send", "receive"), "one way"), (("ping", "pong"), "there and back")):
        for size in SIZES:
            for name, pure in implementations:
                yield from _two_processes(f"two processes, {words}, {size} B, {name}", program, modes, size, pure)


def _count(size: int, rate: float) -> int:
    """How many packets take about a third of a second at ``rate`` million a second for small ones."""
    count = rate * 1e6 / 3 / (1 + size / 2000)
    return int(count / 20 if quick() else count) // MAX_BATCH * MAX_BATCH + MAX_BATCH


def _one_process(mode: str, size: int, pure: bool) -> float:
    memory = GuestMemory.create(1 << 20)
    mapping = memory.map_pages(range(1 + RING // 4096), mirrored_from=1)
    ring = RingMemory.from_view(mapping.view, mirrored=True)
    outgoing, incoming = OutgoingRing(ring, pure=pure), IncomingRing(ring, pure=pure)
    payload = b"x" * size
    packets = [(IN_BAND, 0, number, b"", payload) for number in range(MAX_BATCH if mode == "batch" else 1)]
    count, received = _count(size, {"batch": 0.8, "single": 0.3}[mode] * (1 if pure else 12)), 0
    start = time.process_time()
    while received < count:
        outgoing.write_batch(packets)
        outgoing.commit()
        received += len(incoming.read_batch())
        incoming.commit()
    seconds = time.process_time() - start
    outgoing._port.release()  # both ends share one memory: neither may release it before the other's port
    incoming.release()
    mapping.close()
    memory.close()
    return received / seconds / 1e6


def _peer_in_one_process(program: str, mode: str, size: int) -> float:
    command = [program, mode, str(size), str(_count(size, 25)), str(RING)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(output[0]) / float(output[1]) / 1e6


def _two_processes(name: str, program: str, modes: tuple[str, str], size: int, pure: bool) -> Iterator[Row]:
    ours: list[tuple[float, float]] = []
    peer: list[tuple[float, float]] = []
    rate = (0.5 if pure else 3.0) if modes[0] == "send" else 0.05
    for _ in range(1 if quick() else 5):
        ours.append(_pair(WORKER, modes, size, _count(size, rate), pure=pure))
        peer.append(_pair([program], modes, size, _count(size, 5 if modes[0] == "send" else 0.1)))
    yield row(name, "M packets/s", [rate for rate, _ in ours], [rate for rate, _ in peer])
    signals = [each for _, each in ours], [each for _, each in peer]
    yield row(f"{name}: signals", "per packet", *signals, higher_is_better=False)


def _pair(
    program: list[str], modes: tuple[str, str], size: int, count: int, *, pure: bool = False
) -> tuple[float, float]:
    """Run one program at both ends; return M packets/s one way (or round trips) and signals per packet.

    Each end has a processor of its own where there are two: whether the system puts both on one decides how long a
    wake-up takes, and differs from run to run.
    """
    link = Link(RING)
    second = link.start(program, *link.arguments(modes[1], size, count, first=False), pure=pure)
    with link.start(program, *link.arguments(modes[0], size, count, first=True), pure=pure) as first, second:
        for process, processor in zip((first, second), sorted(os.sched_getaffinity(0)), strict=False):
            os.sched_setaffinity(process.pid, {processor})
        outputs = [process.communicate(timeout=120)[0].split() for process in (first, second)]
    assert not first.returncode and not second.returncode
    link.close()
    packets = count if modes[0] == "send" else 2 * count
    return count / float(outputs[0][1]) / 1e6, sum(int(output[2]) for output in outputs) / packets
