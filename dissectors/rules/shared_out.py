"""The rules shared out among several processes, each of which reads the whole capture and applies some of them.

A rule remembers what it has seen, so a capture cannot be checked in parts; but rules know nothing of one another. What
is found comes out as one process would tell it: by record, and of one record in the order of the rules.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

from dissectors.engine import Session
from dissectors.engine.source import decode_file
from dissectors.jobs import WorkerDied, start_process
from dissectors.rules.checker import Checker, Finding
from dissectors.rules.rule import RULES, Rule
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import Damage
from vmbus.wire.protocols import Protocol

Progress = Callable[[int, int], None]
"""Told how many bytes and records have been read."""
_TELL_EVERY = 4096
_AT_END = 1 << 62


class _Found(NamedTuple):
    """Sorts as the findings are told."""

    number: int
    """Of the record at which it was found, or beyond all at the end."""
    rank: int
    """The place of its rule."""
    order: int
    finding: Finding


class SharedCheck:
    """One check of a file. ``repeats`` and ``count`` are complete when all findings have been taken."""

    def __init__(self, source: str, decode_as: Mapping[int, Protocol], jobs: int) -> None:
        self.repeats: Counter[tuple[str, str]] = Counter()
        self.count = 0
        """Records that were read."""
        self.unknown = 0
        """Those of them that are none of VMBus."""
        self._source = source
        self._decode_as = decode_as
        self._jobs = jobs

    def findings(self, progress: Progress, on_damage: Callable[[Damage], None]) -> Iterator[Finding]:
        """What the rules have to say, in order. Raises :class:`WorkerDied`."""
        rules = list(RULES.values())
        workers = []
        try:
            for worker in range(self._jobs):
                ours, theirs = Pipe(duplex=False)
                told = on_damage if worker == 0 else None
                workers.append((start_process(self._work, theirs, rules[worker :: self._jobs], told), ours))
                theirs.close()
            streams = [self._found(ours, progress) for _, ours in workers]
            for found in heapq.merge(*streams):
                yield found.finding
        finally:
            for process, ours in workers:
                process.terminate()
                process.join()
                ours.close()

    def _found(self, connection: Connection, progress: Progress) -> Iterator[_Found]:
        try:
            while True:
                match connection.recv():
                    case _Found() as found:
                        yield found
                    case int() as done, int() as records:
                        progress(done, records)
                    case Counter() as repeats, int() as count, int() as unknown:
                        self.repeats += repeats
                        self.count, self.unknown = count, unknown
                        return
                    case Exception() as error:
                        raise error
        except EOFError:
            raise WorkerDied("a process that checked the capture died; --jobs 1 does without") from None

    def _work(self, connection: Connection, rules: list[Rule], on_damage: Callable[[Damage], None] | None) -> None:
        rank = {name: place for place, name in enumerate(RULES)}
        order = 0

        def tell(number: int, found: list[Finding]) -> None:
            nonlocal order
            for finding in found:
                order += 1
                connection.send(_Found(number, rank[finding.rule], order, finding))

        try:
            session = Session(self._decode_as, keeps_past_lives=False)
            checker = Checker(session, rules)
            store = CaptureStore.open(self._source, windowed=True)
            for item in decode_file(store, session, on_damage):
                tell(item.number, checker.feed(item))
                if not item.number % _TELL_EVERY:
                    connection.send((store.size, item.number))
            tell(_AT_END, checker.finish())
            done: Any = (checker.repeats, session.count, session.unknown)
            connection.send(done)
        except Exception as error:  # told in one line by the parent
            connection.send(error)
