"""Watching a ring without sleeping."""

from __future__ import annotations

import threading
import time

from vmbus.ring import IN_BAND


def test_a_packet_that_is_there_ends_the_watching_at_once(ends):
    ends.outgoing.write(IN_BAND, 0, 0)
    ends.outgoing.commit()
    assert ends.incoming.spin(0)
    assert ends.incoming.spin(1_000_000_000)


def test_an_empty_ring_is_watched_for_the_given_time(ends):
    before = time.monotonic_ns()
    assert not ends.incoming.spin(2_000_000)
    assert time.monotonic_ns() - before >= 2_000_000


def test_a_packet_that_comes_meanwhile_is_seen(ends):
    def send() -> None:
        ends.outgoing.write(IN_BAND, 0, 0)
        ends.outgoing.commit()

    threading.Timer(0.02, send).start()
    assert any(ends.incoming.spin(1_000_000_000) for _ in range(60))
    assert len(ends.incoming.read_batch()) == 1


def test_packets_that_were_read_are_not_waited_for_again(ends):
    ends.outgoing.write(IN_BAND, 0, 0)
    ends.outgoing.commit()
    ends.incoming.read()
    assert not ends.incoming.spin(1000)
