"""How a saved state outlives the program that wrote it: a version, and a step from each version to the next.

    CARD = StateFormat(3, {1: with_offloads, 2: with_table})     # reads 1, 2 and 3; writes 3
    state = CARD.brought_up("net", state["version"], state["state"])

The rules, which docs/state-format.md states for those who read or write such states themselves:

- what a reader may leave out without harm is a new *optional* field: the version stays, readers ignore what they do not
  know, and take a default for what is not there;
- everything else raises the version, and comes with a step: a small function from the state of one version to that of
  the next.  Steps are only added, never changed, so that every older version stays readable;
- a newer version than the program's is refused in one line, before anything is changed.

Source of the shape: openvmm ``vmcore/save_restore`` (fields that are only added) and QEMU's ``migration/vmstate``
(``version_id``, ``minimum_version_id``), where a step is a function ``post_load`` that looks at the version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vmbus.errors import VmbusError

State = dict[str, Any]
"""What ``json`` can write."""
Step = Callable[[State], State]
"""From the state of one version to that of the next; it may change and return what it is given."""


class UnreadableState(VmbusError):
    """A saved state of a version that this program does not read."""


class StateFormat:
    """A format of saved states: the version that is written, and how older ones become it."""

    def __init__(self, version: int = 1, steps: Mapping[int, Step] | None = None) -> None:
        """``steps`` are by the version that they start from; the lowest is the oldest that is read."""
        self.version = version
        self.steps = dict(steps or {})
        self.oldest = min(self.steps, default=version)
        if sorted(self.steps) != list(range(self.oldest, version)):
            raise ValueError(f"version {version} needs a step from each version since {self.oldest}")

    def check(self, what: str, version: object) -> int:
        """The version, if it can be read; ``what`` is called by that name otherwise.  Raises ``UnreadableState``."""
        if type(version) is not int:
            raise UnreadableState(f"{what} has no version")
        if version > self.version:
            raise UnreadableState(
                f"{what} is of version {version}, and this program reads up to {self.version}: a newer one wrote it"
            )
        if version < self.oldest:
            raise UnreadableState(f"{what} is of version {version}, and this program reads none before {self.oldest}")
        return version

    def brought_up(self, what: str, version: object, state: State) -> State:
        """The state as this version writes it.  Raises ``UnreadableState``."""
        for number in range(self.check(what, version), self.version):
            state = self.steps[number](state)
        return state
