"""What an expert rule is: an id, a severity, a small function that notices, and a sentence that says where to look.

::

    @rule("EX-25", Severity.ERROR, "Look at the host: id 0 is only for what the guest did not ask for.")
    def completion_without_a_request(item: Decoded, watch: Watch, memory: Memory) -> Iterator[str]:
        '''A completion with transaction id 0.'''
        if ...:
            yield "the host completed transaction 0, which is never a request"

A rule sees every record once, in order, after the session has taken it up; what it wants to remember it keeps in
``memory``.  ``@NAME.at_end`` adds a function for the end of the capture.  A new rule is one function in a file here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from dissectors.engine import Decoded
from dissectors.rules.watch import Watch

Memory = dict[Any, Any]
Check = Callable[[Decoded, Watch, Memory], Iterator[str]]
Ending = Callable[[Watch, Memory], Iterator[tuple[Decoded, str]]]


class Severity(IntEnum):
    """How bad it is."""

    NOTE = 0
    """Unusual, and legal in practice."""
    WARNING = 1
    """Something waits, repeats or is lost."""
    ERROR = 2
    """One end broke the protocol."""


@dataclass
class Rule:
    """One expert rule."""

    id: str
    severity: Severity
    look_at: str
    """One sentence: what to look at."""
    check: Check
    ending: Ending | None = None

    @property
    def title(self) -> str:
        """What it notices, in a few words."""
        return (self.check.__doc__ or "").strip().splitlines()[0]

    def at_end(self, ending: Ending) -> Ending:
        """Add what is to be noticed when the capture is over."""
        self.ending = ending
        return ending


RULES: dict[str, Rule] = {}
"""Every rule by id."""


def rule(id: str, severity: Severity, look_at: str) -> Callable[[Check], Rule]:
    """Make a function a rule and register it."""

    def register(check: Check) -> Rule:
        if id in RULES:
            raise TypeError(f"there is a rule {id} already")
        RULES[id] = Rule(id, severity, look_at, check)
        return RULES[id]

    return register
