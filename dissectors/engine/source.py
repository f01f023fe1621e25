"""Records of a capture, decoded: a file, standard input or a live stream, through a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from vmbus.capture.columns import UNUSUAL
from vmbus.capture.reader import CaptureReader
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import Damage
from vmbus.errors import VmbusError
from vmbus.wire.protocols import ABBREVIATIONS, Protocol

_WINDOW = 1 << 20


class UnknownProtocol(VmbusError):
    """A name after ``--decode-as`` that no protocol has."""


def decode_capture(
    source: str,
    *,
    decode_as: Mapping[int, Protocol] | None = None,
    on_damage: Callable[[Damage], None] | None = None,
    session: Session | None = None,
) -> Iterator[Decoded]:
    """The decoded records of ``source``: a path, ``-`` for standard input, ``unix:PATH`` for a live stream."""
    session = session or Session(decode_as, keeps_past_lives=False)
    # What is no capture at all ends in one error, not in a report on each piece of it: so damage waits for a record.
    waiting: list[Damage] = []
    for record in CaptureReader(source, on_damage=waiting.append):
        _tell(waiting, on_damage)
        yield session.feed(record)
    _tell(waiting, on_damage)


def decode_file(
    store: CaptureStore, session: Session, on_damage: Callable[[Damage], None] | None = None
) -> Iterator[Decoded]:
    """The decoded records of a windowed store, in order: as :func:`decode_capture`, and quicker by the index."""
    size = -1
    try:
        while size != store.size:
            size = store.size
            store.update(final=True, at_most=_WINDOW)
            _tell(store.damage, on_damage)
            times, unusual = store.columns.time.tolist(), (store.columns.flags & UNUSUAL).tolist()
            for index, time_ns in enumerate(times):
                if unusual[index]:
                    yield session.feed(store.record(index))
                else:
                    yield session.feed_bytes(store.data(index), time_ns, store.first + index + 1)
            store.forget()
    finally:
        store.close()


def _tell(waiting: list[Damage], on_damage: Callable[[Damage], None] | None) -> None:
    if on_damage is not None:
        for damage in waiting:
            on_damage(damage)
    waiting.clear()


def decode_as_option(values: list[str]) -> dict[int, Protocol]:
    """``["3=scsi", "4=net"]`` as channel ids and protocols."""
    found: dict[int, Protocol] = {}
    for value in values:
        channel, _, name = value.partition("=")
        try:
            found[int(channel, 0)] = ABBREVIATIONS[name]
        except (ValueError, KeyError):
            raise UnknownProtocol(
                f"{value!r} is not CHANNEL=PROTOCOL; the protocols are {', '.join(sorted(ABBREVIATIONS))}"
            ) from None
    return found
