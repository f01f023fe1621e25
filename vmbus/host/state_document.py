"""The file in which a host's state is kept: a JSON document, its version, and how documents of older hosts are read.

Three things have a version of their own, so that each can change by itself: the document, the control plane's part of
it (``vmbus.control.server_saved``), and each device's state (``Device.state_format``).  The rules by which they change
are in ``vmbus.state_format``; docs/state-format.md is the specification.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

from vmbus.control.server_saved import FORMAT_VERSION as CONTROL_VERSION
from vmbus.errors import VmbusError
from vmbus.ring.packet import OutgoingPacket
from vmbus.state_format import State, StateFormat, UnreadableState

FORMAT = "vmbus host state"


class BadHostState(VmbusError):
    """The state of an earlier host cannot be taken up."""


def _with_versions_and_changes(document: State) -> State:
    """2 to 3: each device's state has a version, and what was added and removed at run time is remembered."""
    for device in document["devices"]:
        device["version"] = 1
    document["changes"] = {"added": [], "removed": []}
    return document


DOCUMENT = StateFormat(3, {2: _with_versions_and_changes})
CONTROL = StateFormat(CONTROL_VERSION)


def read_document(path: Path) -> State | None:
    """The document at ``path``, brought up to this version; None if there is none.

    Raises ``BadHostState`` for everything else.
    """
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            raise BadHostState(f"{path} is not the state of a host, but {document['format']!r}")
        document = DOCUMENT.brought_up(f"the state {path}", document["version"], document)
        document["version"] = DOCUMENT.version
        UUID(document["guest_id"])
        control = document["control"]
        control = CONTROL.brought_up(f"the control plane in {path}", control["format_version"], control)
        document["control"] = {**control, "format_version": CONTROL.version}
    except FileNotFoundError:
        return None
    except UnreadableState as error:
        advice = "take a program that reads it, or remove the state and start the guest anew"
        raise BadHostState(f"{error} ({advice})") from None
    except OSError as error:
        raise BadHostState(f"cannot read the state {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadHostState(f"cannot read the state {path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadHostState(f"{path} is not the state of a host: {error}") from None
    return dict(document)


def check_writable(path: Path) -> None:
    """Try whether a document can be written, as it will be, without touching one that is there.

    Raises ``BadHostState``.
    """
    fresh = _fresh(path)
    try:
        fresh.write_text("")
        fresh.unlink()
    except OSError as error:
        raise BadHostState(f"cannot write the state {path}: {error.strerror}") from None


def write_document(path: Path, document: State) -> None:
    """Replace the file as a whole.  Raises ``BadHostState``."""
    fresh = _fresh(path)
    try:
        fresh.write_text(json.dumps({"format": FORMAT, "version": DOCUMENT.version, **document}))
        os.replace(fresh, path)
    except OSError as error:
        raise BadHostState(f"cannot write the state {path}: {error.strerror}") from None


def _fresh(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def upgraded_device(saved: dict[str, Any], state_format: StateFormat) -> State:
    """A device's own state, as the device writes it now.  Raises ``UnreadableState``."""
    return state_format.brought_up(f"the state of {saved['instance']}", saved["version"], saved["state"])


def packet_to_json(packet: OutgoingPacket) -> list[Any]:
    """A packet that waits for its ring."""
    packet_type, flags, transaction_id, extension, payload = packet
    return [packet_type, flags, transaction_id, bytes(extension).hex(), bytes(payload).hex()]


def packet_from_json(value: list[Any]) -> OutgoingPacket:
    """What :func:`packet_to_json` gave."""
    packet_type, flags, transaction_id, extension, payload = value
    return (packet_type, flags, transaction_id, bytes.fromhex(extension), bytes.fromhex(payload))
