"""Runs the rules over decoded records and collects what they found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dissectors.engine import Decoded, Session
from dissectors.rules.rule import RULES, Memory, Rule, Severity
from dissectors.rules.watch import Watch

MAX_REPEATS = 10
"""Findings of one rule on one channel that are told one by one; the others are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a rule noticed."""

    rule: str
    severity: Severity
    number: int
    """Of the record at which it was noticed."""
    time_ns: int
    channel: str
    """Id and name, or empty for the control plane."""
    happened: str
    look_at: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.happened}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON shows it."""
        return {
            "rule": self.rule,
            "severity": self.severity.name.lower(),
            "record": self.number,
            "time_ns": self.time_ns,
            "channel": self.channel or None,
            "happened": self.happened,
            "look_at": self.look_at,
        }


class Checker:
    """Applies rules to the records of one session, in order."""

    def __init__(self, session: Session, rules: Iterable[Rule] | None = None) -> None:
        self.watch = Watch(session)
        self.repeats: Counter[tuple[str, str]] = Counter()
        """How often each rule struck on each channel."""
        self._rules: list[tuple[Rule, Memory]] = [(found, {}) for found in (RULES.values() if rules is None else rules)]
        self._last: Decoded | None = None

    def feed(self, item: Decoded) -> list[Finding]:
        """What the rules have to say about the next record."""
        self._last = item
        self.watch.take(item)
        found: list[Finding] = []
        for rule, memory in self._rules:
            for happened in rule.check(item, self.watch, memory):
                self._add(found, rule, item, happened)
        return found

    def finish(self) -> list[Finding]:
        """What is wrong now that the capture is over."""
        found: list[Finding] = []
        for rule, memory in self._rules:
            if rule.ending is not None:
                for item, happened in rule.ending(self.watch, memory):
                    self._add(found, rule, item, happened)
        return found

    def _add(self, found: list[Finding], rule: Rule, item: Decoded, happened: str) -> None:
        key = (rule.id, item.channel_name)
        self.repeats[key] += 1
        if self.repeats[key] <= MAX_REPEATS:
            found.append(
                Finding(rule.id, rule.severity, item.number, item.time_ns, item.channel_name, happened, rule.look_at)
            )


def check_all(session: Session, items: Iterable[Decoded]) -> list[Finding]:
    """All findings of a capture; ``items`` come from the session one by one: rules look at its state in between."""
    checker = Checker(session)
    found: list[Finding] = []
    for item in items:
        found += checker.feed(item)
    return found + checker.finish()
