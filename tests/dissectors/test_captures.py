"""Every capture in captures/ decodes as its reference says, to the last field, and as tshark decodes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dissectors.engine import Session
from dissectors.engine.source import decode_capture
from dissectors.golden import reference_lines
from dissectors.rules import RULES, check_all
from dissectors.wireshark.compare import differences

CASES = sorted(path.parent for path in (Path(__file__).parents[2] / "captures").glob("*/capture.pcapng"))
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
real = pytest.mark.parametrize(
    "case", [c for c in CASES if not c.name.startswith("fault-")], ids=lambda case: case.name
)


@every_case
def test_a_capture_decodes_as_its_reference_says(case: Path) -> None:
    reference = (case / "reference.txt").read_text().splitlines()
    has_fields = len(reference) > 1 and reference[1].strip()[0].isalpha()
    assert list(reference_lines(case / "capture.pcapng", fields=has_fields)) == reference
    assert (case / "README.md").read_text().strip()


@pytest.mark.tshark
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@every_case
def test_tshark_shows_the_same_fields_with_the_same_values(case: Path) -> None:
    assert list(differences(case / "capture.pcapng")) == []


@real
def test_real_traffic_has_no_problem_and_breaks_no_rule(case: Path) -> None:
    session = Session()
    assert check_all(session, decode_capture(str(case / "capture.pcapng"), session=session)) == []
    assert not [item.problems for item in decode_capture(str(case / "capture.pcapng")) if item.problems]


def test_every_rule_has_a_capture_that_strikes_it() -> None:
    for rule in RULES:
        (case,) = [case for case in CASES if case.name.startswith(f"fault-{rule.lower()}-")]
        session = Session()
        found = check_all(session, decode_capture(str(case / "capture.pcapng"), session=session))
        assert rule in {finding.rule for finding in found}
