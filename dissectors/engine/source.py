"""Records of a capture, decoded: a file, standard input or a live stream, through a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from uuid import UUID

from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from vmbus.capture.reader import CaptureReader
from vmbus.capture.walk import Damage
from vmbus.errors import VmbusError
from vmbus.wire.guids import INTERFACES


class UnknownInterface(VmbusError):
    """A name after ``--decode-as`` that no interface has."""


def decode_capture(
    source: str,
    *,
    decode_as: Mapping[int, UUID] | None = None,
    on_damage: Callable[[Damage], None] | None = None,
    session: Session | None = None,
) -> Iterator[Decoded]:
    """The decoded records of ``source``: a path, ``-`` for standard input, ``unix:PATH`` for a live stream."""
    session = session or Session(decode_as)
    for record in CaptureReader(source, on_damage=on_damage):
        yield session.feed(record)


def decode_as_option(values: list[str]) -> dict[int, UUID]:
    """``["3=scsi", "4=f8615163-..."]`` as channel ids and interface ids."""
    names = {interface.name: interface_id for interface_id, interface in INTERFACES.items()}
    found: dict[int, UUID] = {}
    for value in values:
        channel, _, name = value.partition("=")
        try:
            found[int(channel, 0)] = names[name] if name in names else UUID(name)
        except ValueError:
            raise UnknownInterface(
                f"{value!r} is not CHANNEL=INTERFACE; known interfaces are {', '.join(sorted(names))}"
            ) from None
    return found
