"""Watching the rings of busy channels for a moment before the loop sleeps.

To wake a process that sleeps takes longer than to answer a request: 5 us, and 50 to 100 us where the processor itself
has gone to sleep.  So a channel whose ring has become empty keeps the peer's interrupts masked and is watched for a
moment; a peer that sends meanwhile makes no signal, and nobody wakes anybody.  Then the channel unmasks, looks once
more, and waits for a signal as always.

It is done only where it pays: when the packets before came in quick succession, and when the peer has a processor of
its own.  When time jumps while rings are watched, the machine has given our processor to somebody else, who needs it
more: then nothing is watched for a while.  An idle host does not spin, descriptors and timers are looked at in every
round of the loop, and every watched channel is looked at in every round, however busy another one is.

Models: qemu ``util/aio-posix.c`` (``adjust_polling_time``), Linux ``drivers/cpuidle/governors/haltpoll.c``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Protocol

from vmbus.loop import Loop

SPIN_MICROSECONDS = 200
"""How long a channel is watched after its last packet, and how quickly packets must come for that."""

_SLICE = 10_000
"""Nanoseconds after which calls from other threads, and the other channels, are looked at."""

_JUMP = 1_000_000
"""Nanoseconds that a slice never takes, unless somebody else has had the processor."""

_REFRAIN = 100_000_000
"""Nanoseconds for which nothing is watched then."""

_RETRY = 10_000_000
"""Nanoseconds after which a channel that was watched in vain is given the benefit of the doubt again."""


class SpinningChannel(Protocol):
    """What is watched: a channel whose ring is empty, with the peer's interrupts masked."""

    busy_at: int
    """When packets were last handled, by ``time.monotonic_ns``."""

    def has_packets(self, nanoseconds: int) -> bool:
        """Whether a packet is there, or comes within so long; also when the ring is broken, which service says."""

    def service(self) -> None: ...

    def rest(self) -> None:
        """Unmask interrupts and wait for a signal."""


class Spinner:
    """Watches the channels of one loop."""

    def __init__(self, loop: Loop, microseconds: float = SPIN_MICROSECONDS) -> None:
        self._loop = loop
        self._longest = round(microseconds * 1000)
        self._watched: dict[SpinningChannel, None] = {}
        self._refrains_until = 0
        self._failed_at = -_RETRY
        loop.lookout = self

    def takes(self, channel: SpinningChannel, gap: int) -> bool:
        """Whether a channel is watched from now on; ``gap`` is how long it waited for its last packets, in ns."""
        now = time.monotonic_ns()
        # A packet that came with a signal has taken longer than one that is watched for: two processors had to wake up.
        quick = self._longest if now - self._failed_at < _RETRY else 2 * self._longest
        if gap > quick or now < self._refrains_until:
            return False
        self._watched[channel] = None
        return True

    def drop(self, channel: SpinningChannel) -> None:
        """Watch a channel no longer; harmless if it is not watched."""
        self._watched.pop(channel, None)

    def look(self, *, may_wait: bool) -> None:
        nanoseconds = 0
        while self._watched:
            before = time.monotonic_ns()
            for channel in self._each():
                if channel.has_packets(nanoseconds):
                    self.drop(channel)
                    self._loop.call_soon(channel.service)
                elif before - channel.busy_at >= self._longest:
                    self.drop(channel)
                    self._failed_at = before
                    channel.rest()
            if not may_wait or self._loop.has_calls:
                return
            if nanoseconds and time.monotonic_ns() - before > _JUMP:
                self.refrain()
                return
            nanoseconds = _SLICE // max(len(self._watched), 1)

    def refrain(self) -> None:
        """Let all channels wait for signals, because others need the processor."""
        self._refrains_until = time.monotonic_ns() + _REFRAIN
        for channel in self._each():
            self.drop(channel)
            channel.rest()

    def _each(self) -> Iterator[SpinningChannel]:
        """What is watched; a channel that comes to rest may turn out to be broken, and others be closed with it."""
        return (channel for channel in list(self._watched) if channel in self._watched)


def spinner_for(loop: Loop, microseconds: float = SPIN_MICROSECONDS) -> Spinner | None:
    """A spinner; none for 0 microseconds, or where this process shares its only processor with the guest."""
    return Spinner(loop, microseconds) if microseconds and len(os.sched_getaffinity(0)) > 1 else None
