"""docs/capture-format.md says what the declarations say."""

from __future__ import annotations

from pathlib import Path

from vmbus.capture.specification import with_tables
from vmbus.wire.capture import RECORD_FORMATS

SPECIFICATION = Path(__file__).parents[2] / "docs" / "capture-format.md"


def test_the_tables_are_those_of_the_declarations() -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    assert text == with_tables(text), "run: python -m vmbus.capture.specification docs/capture-format.md"


def test_every_kind_of_record_has_a_table() -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    assert all(f"### {form.__name__}\n" in text for form in RECORD_FORMATS.values())
