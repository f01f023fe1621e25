"""What a host says of a state or journal that is none, or not sound: one line; and it serves the next guest."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vmbus.cli import main
from vmbus.devices.catalog import stand_in
from vmbus.drivers.disk import Disk
from vmbus.drivers.storage import FIRST_UNIT
from vmbus.guest import Guest
from vmbus.host import Host
from vmbus.host.journal import HEADER_SIZE
from vmbus.host.servicing import Servicing
from vmbus.host.state_document import BadHostState
from vmbus.loop import LoopThread
from vmbus.state_format import UnreadableState
from vmbus.testing.servicing import FourChannels, Restarts
from vmbus.transport.client import HostConnection, HostRefused

SOAK = os.environ.get("VMBUS_SOAK", "0") not in ("", "0")


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that cannot work says: one line."""
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("{", "is not the state of a host"),
        ("[]", "is not the state of a host"),
        ('{"format": "a shopping list", "version": 1}', "is not the state of a host, but 'a shopping list'"),
        ('{"format": "vmbus host state", "version": 1}', "is of version 1, and this program reads none before 2"),
        ('{"format": "vmbus host state", "version": 99}', "is of version 99, and this program reads up to 3"),
        ('{"format": "vmbus host state", "version": true}', "has no version"),
        ('{"format": "vmbus host state", "version": 3}', "is not the state of a host: 'guest_id'"),
        (b"\xff\xfe", "cannot read the state"),
    ],
)
def test_a_file_that_is_no_state_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str | bytes, complaint: str
) -> None:
    state = tmp_path / "state"
    state.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert complaint in refusal(["host", f"unix:{tmp_path}/bus", "--state", str(state)], capsys)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "cannot read the journal"),
        (lambda path: path.write_bytes(b""), "is not a host's journal"),
        (
            lambda path: path.write_bytes(b"VMBJ\1\0\0\0" + bytes(8192)),
            "is a journal of version 1, and this host reads",
        ),
        (
            lambda path: path.write_bytes(b"VMBJ\4\0\0\0" + bytes(8192)),
            "is a journal of version 4, and this host reads",
        ),
    ],
    ids=["missing", "empty", "of version 1", "of version 4"],
)
def test_a_state_without_its_journal_is_refused_in_one_line(
    restarts: Callable[..., Restarts],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    complaint: str,
) -> None:
    bus = restarts()
    bus.end(kill=True)
    damage(bus.state.with_name("state.journal"))
    said = refusal(["host", f"unix:{bus.state}.bus", "--state", str(bus.state)], capsys)
    assert complaint in said


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def damaged(document: Any, chance: random.Random) -> Any:
    copy = json.loads(json.dumps(document))
    *way, last = chance.choice([path for path in leaves(copy) if path[0] not in ("format", "version", "guest_id")])
    place = copy
    for key in way:
        place = place[key]
    if chance.random() < 0.2:
        del place[last]
    else:
        place[last] = chance.choice([None, -1, 0, 1 << 70, "x", "", [], {}, [[]], True, 3.5])
    return copy


REFUSED, NO_START = "the host refused this guest: unknown guest", "the host does not start"


def answer_to(bus: Restarts) -> str:
    """What a host with this state says to the guest that it is of; afterwards it serves another guest."""
    try:
        host = Host(bus.make(), servicing=Servicing(bus.state, stand_in))
    except (BadHostState, UnreadableState):
        return NO_START
    thread = LoopThread(host.loop, "vmbus-host")
    thread.start()
    problems: list[object] = []
    host.loop.on_error = problems.append
    ours, theirs = socket.socketpair()
    thread.call(lambda: host.accept(theirs))
    connection = HostConnection(ours)
    try:
        connection.hello(bus.guest.memory, bus.guest._interrupts, bus.guest._guest_id)
        answer = "goes on"
    except HostRefused as error:
        answer = str(error)
    connection.close()
    ours, theirs = socket.socketpair()
    thread.call(lambda: host.accept(theirs))
    with_new = Guest(ours, drivers=[FourChannels], vp_count=2)
    try:
        with_new.boot(60)
        link = with_new.bus.wait(with_new.driver(FourChannels).ready, 60)
        assert Disk(link, with_new.pages, with_new.bus.wait, FIRST_UNIT).open().read(0, 1) == bytes(512)
    finally:
        with_new.close()
        thread.stop()
        host.close()
    assert problems == []
    return answer


@pytest.mark.soak
@pytest.mark.parametrize("what", ["document", "journal"])
def test_a_guest_of_a_damaged_state_is_refused_and_the_next_one_served(
    restarts: Callable[..., Restarts], what: str
) -> None:
    bus = restarts()
    bus.disk().read(0, 8)
    bus.card()
    bus.end(kill=True)
    journal = bus.state.with_name("state.journal")
    document, entries = json.loads(bus.state.read_text()), journal.read_bytes()
    word = 16 + 8 * entries[8]
    start = HEADER_SIZE + entries[8] * (len(entries) - HEADER_SIZE) // 2
    in_force = [*range(8, 16), *range(word, word + 8)]
    in_force += range(start, start + int.from_bytes(entries[word : word + 4], "little"))
    chance = random.Random(4)
    answers = set()
    for _ in range(150 if SOAK else 12):
        data = bytearray(entries)
        if what == "journal":
            for place in chance.sample(in_force, 3):
                data[place] ^= chance.randrange(1, 256)
        bus.state.write_text(json.dumps(damaged(document, chance) if what == "document" else document))
        journal.write_bytes(data)
        answers.add(answer_to(bus))
    expected = {REFUSED} if what == "journal" else {REFUSED, NO_START, "goes on"}
    assert REFUSED in answers and answers <= expected
    bus.state.write_text(json.dumps(document))
    journal.write_bytes(entries)
    bus.start()
