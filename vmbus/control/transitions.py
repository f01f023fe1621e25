"""The vocabulary of both state machines: what can happen to a channel, a GPADL or a connection, seen from either end.

A state machine is a table ``state -> step -> next state``.  What is not in the table is not allowed: from the peer
it is a violation, from our own side a misuse.  Guest and host have different tables, because a channel has states
at each end that the other one never sees; the steps are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from vmbus.control.errors import ControlError


class Step(Enum):
    """Something that happens to a channel, a GPADL or a connection."""

    OFFER = "the host offers it"
    RESCIND = "the host takes the offer back"
    OPEN = "the guest asks to open it"
    OPEN_RESERVED = "the guest asks to open it outside the connection"
    OPENED = "it is open"
    OPEN_FAILED = "it could not be opened"
    CLOSE = "the guest closes it"
    CLOSE_RESERVED = "the guest closes it outside the connection"
    CLOSED = "the host has stopped using it"
    RELEASE = "the guest lets go of it"
    DISCONNECT = "the connection ends"
    RESET = "the virtual machine is reset"

    COMPLETE = "the guest has described all of it"
    CREATED = "the host accepts the memory"
    REFUSED = "the host does not want the memory"
    TEARDOWN = "the guest wants its memory back"
    TORN_DOWN = "the host has let go of the memory"

    CONTACT = "the guest asks for a version"
    ACCEPTED = "the version is agreed"
    DECLINED = "the version is not spoken"
    DELIVERED = "all offers are there"
    UNLOAD = "the guest ends the connection"
    DRAINED = "nothing of the old connection is in use any more"


State = TypeVar("State", bound=Enum)
Table = Mapping[State, Mapping[Step, State]]


def advance(table: Table[State], state: State, step: Step, broken: type[ControlError], what: str) -> State:
    """The state after ``step``; raises ``broken`` about ``what`` if the table does not allow it."""
    after = table[state].get(step)
    if after is None:
        raise broken(f"{what} is {state.name.lower().replace('_', ' ')}: {step.value} is not possible now")
    return after
