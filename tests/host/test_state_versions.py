"""How a saved state evolves: older versions are read step by step, newer ones refused, unknown fields passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from vmbus.devices.device import Device
from vmbus.devices.echo import Echo
from vmbus.host import state_document
from vmbus.host.state_document import BadHostState, read_document
from vmbus.state_format import State, StateFormat, UnreadableState
from vmbus.testing.servicing import Restarts


def appended(text: str) -> Callable[[State], State]:
    return lambda state: {**state, "steps": [*state.get("steps", []), text]}


def test_a_state_takes_one_step_for_each_version() -> None:
    form = StateFormat(4, {2: appended("to 3"), 3: appended("to 4")})
    assert form.brought_up("it", 2, {"kept": 1}) == {"kept": 1, "steps": ["to 3", "to 4"]}
    assert form.brought_up("it", 3, {}) == {"steps": ["to 4"]}
    assert form.brought_up("it", 4, {}) == {}


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        (5, "it is of version 5, and this program reads up to 4: a newer one wrote it"),
        (1, "it is of version 1, and this program reads none before 2"),
        (None, "it has no version"),
        ("4", "it has no version"),
    ],
)
def test_a_version_that_is_not_read_is_refused_in_one_line(version: object, complaint: str) -> None:
    with pytest.raises(UnreadableState, match=f"^{complaint}$"):
        StateFormat(4, {2: appended("x"), 3: appended("y")}).check("it", version)


def test_a_version_without_a_step_from_the_one_before_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="version 4 needs a step from each version since 1"):
        StateFormat(4, {1: appended("x"), 3: appended("y")})


class NewEcho(Echo):
    """An echo device of the future, which has a state of version 3."""

    state_format = StateFormat(3, {1: appended("to 2"), 2: appended("to 3")})

    def restore(self, state: State) -> None:
        self.restored = state


def test_each_device_has_a_version_of_its_own(restarts: Callable[..., Restarts]) -> None:
    bus = restarts(Echo())
    before = bus.make
    disk = bus.disk()
    bus.end(kill=True)
    new: list[NewEcho] = []

    def with_new_echo() -> list[Device]:
        new.append(NewEcho())
        return [*before()[:-1], new[-1]]

    bus.make = with_new_echo
    bus.start()
    assert new[-1].restored == {"steps": ["to 2", "to 3"]}
    assert disk.read(0, 1) == bytes(512)
    bus.end(kill=False)
    bus.make = before
    with pytest.raises(UnreadableState, match="the state of echo is of version 3, and this program reads up to 1"):
        bus.start()
    bus.make = with_new_echo
    bus.start()
    assert new[-1].restored == {} and disk.read(0, 1) == bytes(512)


def test_a_newer_program_reads_the_document_of_this_one_and_not_the_other_way_round(
    restarts: Callable[..., Restarts], monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = restarts()
    disk = bus.disk()
    bus.end(kill=True)
    present = state_document.DOCUMENT
    newer = StateFormat(present.version + 1, {**present.steps, present.version: appended("to the next")})
    monkeypatch.setattr(state_document, "DOCUMENT", newer)
    document = read_document(bus.state)
    assert document is not None and document["steps"] == ["to the next"]
    bus.start()
    assert disk.read(0, 1) == bytes(512)
    bus.end(kill=False)
    monkeypatch.setattr(state_document, "DOCUMENT", present)
    with pytest.raises(BadHostState, match=f"is of version {newer.version}, and this program reads up to"):
        bus.start()
    assert json.loads(bus.state.read_text())["version"] == newer.version
    monkeypatch.setattr(state_document, "DOCUMENT", newer)
    bus.start()
    assert disk.read(0, 1) == bytes(512)


def with_unknown_fields(value: Any) -> Any:
    """Every record in a document with a field more; dictionaries by number or address are no records."""
    if isinstance(value, list):
        return [with_unknown_fields(one) for one in value]
    if not isinstance(value, dict):
        return value
    is_record = value and all(key.isidentifier() for key in value)
    return {key: with_unknown_fields(one) for key, one in value.items()} | ({"of_later": [1]} if is_record else {})


def test_fields_that_nobody_knows_harm_nobody(restarts: Callable[..., Restarts]) -> None:
    bus = restarts()
    disk, card = bus.disk(), bus.card()
    bus.end(kill=True)
    document = with_unknown_fields(json.loads(bus.state.read_text()))
    assert str(document).count("of_later") > 20
    bus.state.write_text(json.dumps(document))
    bus.start()
    assert disk.read(0, 1) == bytes(512) and card.ping("10.7.0.1") < 30
