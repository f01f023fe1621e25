"""The tables of docs/control-plane.md, made from the table of messages and the tables of transitions.

``python -m vmbus.control.describe docs/control-plane.md`` writes them between their markers anew; a test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path

from vmbus.control.guest_states import GUEST_CHANNEL, GUEST_CONNECTION, GUEST_GPADL
from vmbus.control.host_states import HOST_CHANNEL, HOST_CONNECTION, HOST_GPADL
from vmbus.control.messages import MESSAGES, Message, Variant
from vmbus.control.transitions import State, Table
from vmbus.wire.control import MessageHeader
from vmbus.wire.control_values import ALL_FEATURES, ALL_VERSIONS, FeatureFlags, Version


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _flags(flags: FeatureFlags) -> str:
    return " or ".join(flag.name or "" for flag in FeatureFlags if flag & flags)


def _condition(variant: Variant) -> str:
    """When a variant is the one that is used, in words."""
    parts = []
    if variant.asks_for is not None:
        parts.append(f"asks for {variant.asks_for.number} or newer")
    if variant.since is not None:
        parts.append(f"from {variant.since.number}")
    if variant.features:
        parts.append(f"with {_flags(variant.features)}")
    if variant.by_size:
        parts.append("if long enough")
    return ", ".join(parts) or "always"


def message_table() -> str:
    """All messages, with the forms that each has."""
    rows = []
    for row in MESSAGES.values():
        for index, variant in enumerate(row.variants):
            first = index == 0
            rows.append(
                [
                    str(int(row.message_type)) if first else "",
                    row.message_type.name if first else "",
                    row.sender.value if first else "",
                    row.purpose if first else "",
                    f"`{variant.body.__name__}`",
                    str(MessageHeader.SIZE + variant.body.SIZE) + ("" if variant.body.IS_FIXED else "+"),
                    _condition(variant),
                ]
            )
    return _markdown(["no.", "message", "sent by", "says", "form", "bytes", "used"], rows)


def version_table() -> str:
    """What each version and each feature brings."""
    rows = []
    for version in ALL_VERSIONS:
        new = [row for row in MESSAGES.values() if _begins(row) == version and not _needs(row)]
        forms = [
            f"`{variant.body.__name__}`"
            for row in MESSAGES.values()
            for variant in row.variants
            if _begins(row) != version and version in (variant.since, variant.asks_for) and not variant.features
        ]
        rows.append([version.number, f"`{version:#010x}`", _names(new), ", ".join(forms)])
    for flag in FeatureFlags:
        new = [row for row in MESSAGES.values() if flag & _needs(row)]
        forms = [
            f"`{variant.body.__name__}`"
            for row in MESSAGES.values()
            for variant in row.variants
            if flag & variant.features and not _needs(row)
        ]
        rows.append([f"6.0 with {flag.name}", f"`{flag.value:#x}`", _names(new), ", ".join(forms)])
    return _markdown(["version", "on the wire", "new messages", "new forms of messages"], rows)


def _begins(row: Message) -> Version:
    """The first version in which a message is used; those that need no connection are as old as VMBus."""
    return min(variant.since or ALL_VERSIONS[0] for variant in row.variants)


def _needs(row: Message) -> FeatureFlags:
    """The features without which there is no such message."""
    return min((variant.features for variant in row.variants), default=ALL_FEATURES)


def _names(rows: Iterable[Message]) -> str:
    return ", ".join(f"{row.message_type.name} ({int(row.message_type)})" for row in rows)


def state_table(table: Table[State]) -> str:
    """One state machine: in which state what may happen, and what follows."""
    rows = []
    for state, steps in table.items():
        moves = [f"{step.name} → {_state(after)}" for step, after in steps.items()]
        rows.append([_state(state), str(state.value), ", ".join(moves) or "nothing"])
    return _markdown(["state", "meaning", "what may happen, and what follows"], rows)


def _state(state: Enum) -> str:
    return f"`{state.name}`"


BLOCKS: dict[str, Callable[[], str]] = {
    "messages": message_table,
    "versions": version_table,
    "host connection": lambda: state_table(HOST_CONNECTION),
    "host channel": lambda: state_table(HOST_CHANNEL),
    "host gpadl": lambda: state_table(HOST_GPADL),
    "guest connection": lambda: state_table(GUEST_CONNECTION),
    "guest channel": lambda: state_table(GUEST_CHANNEL),
    "guest gpadl": lambda: state_table(GUEST_GPADL),
}

_MARKED = re.compile(r"(<!-- table: ([a-z ]+) -->\n).*?(\n<!-- end of table -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """A document with every marked table made anew."""
    return _MARKED.sub(lambda match: match[1] + BLOCKS[match[2]]() + match[3], text)


def main(path: str) -> None:
    """Write a document's tables anew."""
    document = Path(path)
    document.write_text(with_tables(document.read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
