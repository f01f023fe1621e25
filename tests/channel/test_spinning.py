"""A busy channel is watched for a moment instead of waiting for a signal, and nothing else waits because of that."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from vmbus.channel import Channel, ChannelHandler
from vmbus.channel.spinning import Spinner, spinner_for
from vmbus.loop import Loop
from vmbus.ring import RingPacket
from vmbus.ring.memory import INTERRUPT_MASK, WRITE_INDEX
from vmbus.testing.channels import ChannelPair

LONG = 1e9  # microseconds: longer than any test waits
MILLISECOND = 1_000_000  # nanoseconds


class Counting(ChannelHandler):
    def __init__(self) -> None:
        self.count = 0

    def on_packets(self, packets: Sequence[RingPacket]) -> None:
        self.count += len(packets)


class Clock:
    """A clock that goes a little further whenever it is read, and jumps only where a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def read(self) -> int:
        self.now += 10_000
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic_ns", clock.read)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    return clock


def busy_pair(microseconds: float) -> ChannelPair:
    """A pair whose host end has just had packets in quick succession."""
    pair = ChannelPair(spin_microseconds=microseconds)
    pair.host.handler = Counting()
    for _ in range(2):
        pair.guest.send_in_band(b"more")
        pair.pump()
    return pair


@pytest.fixture
def watched() -> Iterator[ChannelPair]:
    with busy_pair(LONG) as pair:
        yield pair


def is_masked(pair: ChannelPair) -> bool:
    return bool(pair.host.incoming.memory.words[INTERRUPT_MASK])


def test_a_packet_to_a_watched_channel_needs_no_signal(watched: ChannelPair) -> None:
    signals = watched.guest.counters.signals_out
    watched.guest.send_in_band(b"and more")
    watched.guest.flush()
    watched.pump()
    assert watched.host.handler.count == 3
    assert watched.guest.counters.signals_out == signals


def test_a_channel_whose_packets_come_slowly_waits_for_signals(clock: Clock) -> None:
    with ChannelPair(spin_microseconds=1000) as pair:
        for _ in range(3):
            pair.guest.send_in_band(b"now and then")
            pair.pump()
            assert not is_masked(pair)
            clock.now += 2 * MILLISECOND


def test_a_watched_channel_asks_for_signals_again_when_its_time_is_over() -> None:
    with busy_pair(20_000) as pair:
        assert is_masked(pair)
        pair.loop.run_once(0.001)
        assert not is_masked(pair)
        pair.guest.send_in_band(b"late")
        pair.pump()
        assert pair.host.handler.count == 3


def test_a_packet_that_comes_just_before_the_signals_are_asked_for_is_found() -> None:
    with busy_pair(20_000) as pair:
        pair.guest.outgoing.write(6, 0, 0, b"", b"unsignalled")
        assert not pair.guest.outgoing.commit()
        pair.loop.lookout = None  # no second look finds it
        pair.host.rest()
        assert pair.loop.run(lambda: pair.host.handler.count == 3, timeout=60)


def test_an_idle_loop_takes_no_processor_time(clock: Clock) -> None:
    with busy_pair(100) as pair:
        pair.loop.run(timeout=0.02)
        before = time.thread_time()
        for _ in range(10):
            clock.now += 30 * MILLISECOND
            pair.guest.send_in_band(b"now and then")
            pair.loop.run(timeout=0.03)
        assert time.thread_time() - before < 0.1


def test_descriptors_and_timers_are_served_while_a_channel_is_busy(watched: ChannelPair) -> None:
    read, write = os.pipe()
    seen: list[str] = []
    end = time.monotonic() + 60

    class Endless(ChannelHandler):
        def on_packets(self, packets: Sequence[RingPacket]) -> None:
            watched.guest.outgoing.write(6, 0, 0)
            watched.guest.outgoing.commit()

    watched.host.handler = Endless()
    watched.guest.send_in_band(b"")
    watched.loop.watch(read, lambda: seen.append(os.read(read, 1).decode()))
    watched.loop.call_later(0.001, lambda: seen.append("timer"))
    os.write(write, b"d")
    assert watched.loop.run(until=lambda: len(seen) == 2 or time.monotonic() > end)
    assert sorted(seen) == ["d", "timer"]
    os.close(read), os.close(write)


def test_a_call_from_another_thread_ends_the_watching(watched: ChannelPair) -> None:
    called = threading.Event()
    threading.Timer(0.02, lambda: watched.loop.call_soon_threadsafe(called.set)).start()
    assert watched.loop.run(until=called.is_set, timeout=60)


@pytest.mark.parametrize("end", [Channel.close, Channel.pause])
def test_a_channel_that_is_closed_or_paused_is_watched_no_longer(
    watched: ChannelPair, end: Callable[[Channel], None]
) -> None:
    looks: list[int] = []
    watched.host.has_packets = lambda nanoseconds: bool(looks.append(nanoseconds))  # type: ignore[method-assign]
    spinner = watched.loop.lookout
    assert spinner is not None
    spinner.look(may_wait=False)
    assert len(looks) == 1
    end(watched.host)
    spinner.look(may_wait=False)
    assert len(looks) == 1


def test_a_write_index_that_makes_no_sense_ends_a_watched_channel(watched: ChannelPair) -> None:
    watched.host.incoming.memory.words[WRITE_INDEX] = 3
    watched.pump()
    assert not watched.host.is_open
    assert len(watched.failures) == 1


def test_every_watched_channel_is_looked_at_however_busy_another_is() -> None:
    class Fake:
        busy_at = 0

        def __init__(self, *packets_at: int) -> None:
            self.looks = 0
            self.served = 0
            self.packets_at = packets_at

        def has_packets(self, nanoseconds: int) -> bool:
            self.looks += 1
            return not self.packets_at or self.looks in self.packets_at

        def service(self) -> None:
            self.served += 1
            self.busy_at = time.monotonic_ns()
            spinner.takes(self, 0)

        def rest(self) -> None:
            raise AssertionError("its time is not over")

    loop = Loop()
    spinner = Spinner(loop, LONG)
    busy, quiet = Fake(), Fake(50)
    busy.service(), quiet.service()
    for _ in range(60):
        loop.run_once(-1.0)
    assert busy.served > 50 and quiet.served == 2
    loop.close()


def test_nothing_is_watched_for_a_while_when_others_need_the_processor(clock: Clock) -> None:
    class Fake:
        busy_at = 0
        rests = False

        def has_packets(self, nanoseconds: int) -> bool:
            clock.now += nanoseconds * 200  # we were not running in between
            return False

        def service(self) -> None:
            raise AssertionError("it has no packets")

        def rest(self) -> None:
            self.rests = True

    loop, channel = Loop(), Fake()
    spinner = Spinner(loop, 1e9)
    channel.busy_at = time.monotonic_ns()
    assert spinner.takes(channel, 0)
    loop.run_once(0.001)
    assert channel.rests
    assert not spinner.takes(channel, 0)
    clock.now += 100 * MILLISECOND
    assert spinner.takes(channel, 0)
    spinner.drop(channel)
    loop.close()


def test_nobody_spins_on_a_single_processor_or_when_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    assert spinner_for(loop, 0) is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert spinner_for(loop) is None
    loop.close()


@pytest.mark.parametrize("refrains", [False, True])
def test_a_channel_that_another_one_closed_is_not_looked_at_any_more(refrains: bool) -> None:
    class Fake:
        busy_at = 0

        def __init__(self) -> None:
            self.seen: list[str] = []

        def has_packets(self, nanoseconds: int) -> bool:
            self.seen.append("looked at")
            return False

        def service(self) -> None:
            raise AssertionError("it has no packets")

        def rest(self) -> None:  # its ring is broken, and its device closes the other one with it
            self.seen.append("rests")
            spinner.drop(second)

    loop, first, second = Loop(), Fake(), Fake()
    spinner = Spinner(loop, 1)
    assert spinner.takes(first, 0) and spinner.takes(second, 0)
    if refrains:
        spinner.refrain()
    else:
        spinner.look(may_wait=False)
    assert first.seen[-1] == "rests" and second.seen == []
    loop.close()


def test_a_channel_is_watched_again_soon_after_it_was_watched_in_vain_only_if_packets_come_twice_as_quickly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fake:
        busy_at = 0

        def has_packets(self, nanoseconds: int) -> bool:
            return False

        def service(self) -> None:
            raise AssertionError("it has no packets")

        def rest(self) -> None: ...

    now, loop, channel = 1_000_000_000, Loop(), Fake()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    spinner = Spinner(loop, 1000)

    def takes(gap: int) -> bool:
        taken = spinner.takes(channel, gap)
        spinner.drop(channel)
        return taken

    assert takes(2_000_000) and not takes(2_000_001)
    spinner.takes(channel, 0)
    spinner.look(may_wait=False)  # in vain
    assert takes(1_000_000) and not takes(1_000_001)
    now += 10_000_000
    assert takes(2_000_000) and not takes(2_000_001)
    loop.close()


def test_an_error_while_looking_is_one_of_the_loop_like_any_other() -> None:
    class Broken:
        def look(self, *, may_wait: bool) -> None:
            raise ValueError("a bug of ours")

    loop, errors = Loop(), []
    loop.lookout, loop.on_error = Broken(), errors.append
    loop.run_once()
    assert [str(error) for error in errors] == ["a bug of ours"]
    loop.close()
