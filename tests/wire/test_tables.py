"""The format pages in docs/ say what the declarations say."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmbus.wire.ring import GpaRange, PacketDescriptor
from vmbus.wire.tables import pages, rows, table
from vmbus.wire.vpci_resources import SlotNumber

FORMATS = Path(__file__).parents[2] / "docs" / "formats"


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_committed_page_is_what_its_declarations_say(name: str) -> None:
    assert (FORMATS / name).read_text(encoding="utf-8") == pages()[name], (
        "run: python -m vmbus.wire.tables docs/formats"
    )


def test_no_page_stands_for_a_module_that_is_gone() -> None:
    assert {path.name for path in FORMATS.glob("*.md")} == set(pages())


def test_a_table_gives_offset_size_name_type_unit_and_meaning() -> None:
    assert list(rows(PacketDescriptor))[1] == (
        "2", "2", "data_offset8", "u16", "8 bytes", "from the descriptor's start to the payload",
    )  # fmt: skip
    assert "| 0 | 2 | packet_type | u16, PacketType |  |  |" in table(PacketDescriptor)


def test_tails_and_bits_are_placed_in_words() -> None:
    assert list(rows(GpaRange))[2][:4] == (
        "8",
        "(byte_offset + byte_count + 4095) // 4096 elements",
        "pfns",
        "list of u64",
    )
    assert list(rows(SlotNumber))[1][:3] == ("0, bit 5", "3 bits", "function")
