"""The filter language selects records, and says where a filter is wrong."""

from __future__ import annotations

import pytest

from dissectors.filters import Filter, FilterError, completions
from dissectors.testing import Script


def numbers(script: Script, text: str) -> list[int]:
    wanted = Filter(text)
    return [item.number for item in script.decode() if wanted(item)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("vstor.cdb.opcode == READ_10", [10, 12]),
        ('vstor.cdb.opcode == READ_10 && latency > 1us && channel ~ "scsi"', [10, 12]),
        ("opcode == READ_10 || opcode == INQUIRY", [10, 12, 13, 15]),
        ("scsi.transfer10.lba in {1, 2000..2100} and not request", [10]),
        ("vstor.cdb.opcode != READ_10", [13, 15, 16, 17]),
        ("scsi_status == CHECK_CONDITION", [17]),
        ("latency > 1us && kind == packet && request", [12, 15]),
        ("latency >= 2us && request", [12, 15]),
        ('channel ~ "scsi" and kind == message', [3, 4, 5, 6, 7]),
        ("control.version == V5_3", [1]),
        ("offer.interface_id == ba6163d9-04a1-4d29-b605-72e2ffb1dc7f", [3]),
        ('vendor contains "Msft"', [14]),
        ("sense contains 70:00:05", [17]),
        ("inquiry", [13]),
        ("standard_inquiry", [14]),
        ("!(kind == message) && direction == to_host", [8, 10, 13, 16]),
        ("number < 3 or number == 17", [1, 2, 17]),
        ("pfns == 5 && !request", [10, 13, 16]),
        ("message_type == OFFER_CHANNEL", [3]),
        ("volume >= 4KiB", [11]),
        ("channel.id == 3 && transaction == 0x2", [10, 11, 12]),
        ("flags == COMPLETION_REQUESTED", [8, 10, 13, 16]),
        ("ring.flags contains COMPLETION_REQUESTED", [8, 10, 13, 16]),
    ],
)
def test_a_filter_selects_records(disk: Script, text: str, found: list[int]) -> None:
    assert numbers(disk, text) == found


def test_fields_of_network_protocols_are_found_by_their_protocol(card: Script) -> None:
    assert len(numbers(card, "rndis.message_type == PACKET")) == 2
    assert len(numbers(card, "rndis.frame contains ff:ff:ff:ff:ff:ff")) == 2
    assert len(numbers(card, "nvsp && transfer_page_set_id == 0xcafe && !request")) == 2


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("vstor.cdb.opcod == 1", 1, "did you mean"),
        ("opcode == READ_11", 11, "did you mean READ_1"),
        ("latency > 5", 11, "write 5us or 5ms"),
        ("number > 5ms", 10, "not a duration"),
        ("number ~ \"x\"", 1, "only text is matched"),
        ("channel == 3", 12, "channel.id"),
        ("number == ", 11, "ends too early"),
        ("number == == 3", 11, "wanted here"),
        ("(number == 3", 13, "ends too early"),
        ('summary ~ "("', 11, "regular expression"),
        ("interface_id == 3", 17, "is a GUID"),
        ("number === 3", 10, "wanted here"),
        ("$", 1, "wanted here"),
        ('summary < "x"', 11, "text is compared"),
        ("body == 3", 1, "group of fields"),
    ],
)  # fmt: skip
def test_a_wrong_filter_points_at_the_place(text: str, column: int, part: str) -> None:
    with pytest.raises(FilterError) as caught:
        Filter(text)
    assert part in str(caught.value)
    assert caught.value.column == column
    assert caught.value.pointer().splitlines()[1] == " " * (column - 1) + "^"


def test_names_are_completed_from_their_start_and_from_within() -> None:
    assert "scsi.transfer10.lba" in completions("scsi.transfer10.l")
    assert "latency" in completions("lat")
    assert "control.initiate_contact.version" in completions("initiate_contact.v")
