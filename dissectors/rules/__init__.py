"""Expert rules: what a capture shows to have gone wrong, and what to look at.  docs/expert-rules.md lists them."""

from __future__ import annotations

from dissectors.rules import channels, gpadls, network, rings, services, storage
from dissectors.rules.checker import Checker, Finding, check_all
from dissectors.rules.rule import RULES, Rule, Severity

__all__ = [
    "RULES",
    "Checker",
    "Finding",
    "Rule",
    "Severity",
    "channels",
    "check_all",
    "gpadls",
    "network",
    "rings",
    "services",
    "storage",
]
