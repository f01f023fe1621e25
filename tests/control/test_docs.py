"""docs/control-plane.md says what the code says."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from vmbus.control import describe, errors
from vmbus.control.guest_states import GUEST_CHANNEL, GUEST_CONNECTION, GUEST_GPADL
from vmbus.control.host_states import HOST_CHANNEL, HOST_CONNECTION, HOST_GPADL
from vmbus.control.messages import MESSAGES
from vmbus.wire.control_values import ALL_VERSIONS, FeatureFlags

DOCUMENT = Path(__file__).parents[2] / "docs" / "control-plane.md"
TABLES = (HOST_CHANNEL, HOST_CONNECTION, HOST_GPADL, GUEST_CHANNEL, GUEST_CONNECTION, GUEST_GPADL)


def test_the_tables_are_current():
    text = DOCUMENT.read_text()
    assert describe.with_tables(text) == text, "run: python -m vmbus.control.describe docs/control-plane.md"
    assert set(re.findall(r"<!-- table: ([a-z ]+) -->", text)) == set(describe.BLOCKS)


def test_the_tables_are_written_into_a_document(tmp_path, monkeypatch):
    document = tmp_path / "some.md"
    document.write_text("a\n<!-- table: versions -->\nold\n<!-- end of table -->\nb\n")
    monkeypatch.setattr(sys, "argv", ["describe", str(document)])
    runpy.run_path(describe.__file__, run_name="__main__")
    text = document.read_text()
    assert "old" not in text and text.startswith("a\n") and text.endswith("\nb\n")
    assert all(f"| {version.number} |" in text for version in ALL_VERSIONS)


def test_every_message_and_every_feature_is_there():
    text = DOCUMENT.read_text()
    assert all(f"| {int(number)} | {number.name} |" in text for number in MESSAGES)
    assert all(f"| {flag.name} |" in text for flag in FeatureFlags)


def test_every_module_is_there():
    folder = Path(describe.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "describe", "saved_values"}
    assert modules <= set(re.findall(r"`(\w+)`", DOCUMENT.read_text()))


def test_every_test_that_the_document_names_is_there():
    tests = Path(__file__).parents[1]
    written = {name for path in tests.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert set(re.findall(r"`(test_\w+)`", DOCUMENT.read_text())) <= written


@pytest.mark.parametrize("table", TABLES)
def test_every_state_is_reached_and_every_step_leads_to_a_state_of_the_table(table):
    states = set(type(next(iter(table))))
    assert set(table) == states
    first = next(iter(table))
    reached, ahead = {first}, [first]
    while ahead:
        for after in table[ahead.pop()].values():
            if after not in reached:
                reached.add(after)
                ahead.append(after)
    assert reached == states


def test_every_violation_says_what_it_is_and_what_to_do():
    def below(kind):
        return {kind} | {deeper for child in kind.__subclasses__() for deeper in below(child)}

    for rule in below(errors.Violation):
        assert rule.__doc__ and rule.advice.endswith(".")
