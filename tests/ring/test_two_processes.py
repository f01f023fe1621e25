"""Our ring against another process: Linux's own user-space ring, and ourselves. Every byte is checked, every sleep
bounded.

``VMBUS_SOAK=1`` exchanges ten million packets each way with Linux's ring; small runs do the same with fewer.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are not installed, and have the peers

from benchmarks import linux_ring, ring_worker

SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")
WORKER = [sys.executable, "-m", "benchmarks.ring_worker"]


@pytest.fixture(scope="session")
def linux_peer():
    try:
        return [str(linux_ring.build())]
    except linux_ring.LinuxRingUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def exchange_with(program, count, ring_size, *, pure, first=True):
    """Exchange packets with a program at the other end; both check what they get."""
    link = ring_worker.Link(ring_size)
    end = link.endpoint(first=first, pure=pure)
    with link.start(program, *link.arguments("exchange", 0, count, first=not first), pure=pure) as other:
        ring_worker.exchange(end, count)
        output, _ = other.communicate(timeout=120)
    assert other.returncode == 0
    assert end.incoming.packets == end.outgoing.packets == int(output.split()[0]) == count
    full = end.outgoing.full
    end.close()
    link.close()
    return full


@pytest.mark.soak
@pytest.mark.parametrize("ring_size", [16384, 131072])
def test_packets_exchanged_with_linuxs_own_ring_arrive_unchanged(linux_peer, pure, ring_size):
    count = (10_000_000 if not pure else 500_000) if SOAK else (300_000 if not pure else 40_000)
    exchange_with(linux_peer, count, ring_size, pure=pure)


def test_either_end_may_be_linuxs(linux_peer, pure):
    exchange_with(linux_peer, 10_000, 16384, pure=pure, first=False)


@pytest.mark.soak
def test_a_small_ring_between_two_of_our_processes_loses_no_wake_up(pure):
    # The largest packets leave room for one or two others: both ends sleep and wake all the time.
    count = 2_000_000 if SOAK else 50_000
    assert exchange_with(WORKER, count, 16384, pure=pure) > 0


def test_two_threads_that_sleep_and_wake_each_other_lose_nothing(pure):
    link = ring_worker.Link(16384)
    ends = [link.endpoint(first=first, pure=pure) for first in (True, False)]
    threads = [threading.Thread(target=ring_worker.exchange, args=(end, 5000)) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [end.incoming.packets for end in ends] == [5000, 5000]
    for end in ends:
        end.close()
    link.close()


def test_a_ping_and_its_answer_need_a_signal_each_at_most(pure):
    link = ring_worker.Link(16384)
    end = link.endpoint(first=True, pure=pure)
    with link.start(WORKER, *link.arguments("pong", 64, 500, first=False), pure=pure) as other:
        ring_worker.run(end, "ping", 64, 500)
        assert other.wait(timeout=120) == 0
    assert end.outgoing.packets == 500 and end.signals <= 500
    end.close()
    link.close()
