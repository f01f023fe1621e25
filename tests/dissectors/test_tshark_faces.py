"""tshark, with the generated dissector, shows every declared format as our trees do."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from dissectors.testing import Script
from dissectors.wireshark.compare import differences, probe_differences
from vmbus.testing.formats import all_formats, values_of
from vmbus.wire.rndis_oid_formats import OidFriendlyName
from vmbus.wire.schema import Format

pytestmark = [pytest.mark.tshark, pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")]

HEALTH = list(HealthCheck)


def sound_bytes(fmt: type[Format], number: int) -> list[bytes]:
    """Random values of a format, built."""
    found: list[bytes] = []

    @seed(1)
    @settings(max_examples=number, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=HEALTH)
    @given(values_of(fmt))
    def collect(value: Format) -> None:
        found.append(value.build())

    collect()
    return found


def test_every_format_reads_the_same_from_sound_bytes(tmp_path: Path) -> None:
    probes = [(fmt, wire) for fmt in all_formats() for wire in sound_bytes(fmt, 4)]
    assert list(probe_differences(probes, tmp_path)) == []


def test_every_format_reads_the_same_from_any_bytes(tmp_path: Path) -> None:
    chance = random.Random(1)
    probes = [(fmt, chance.randbytes(chance.randrange(fmt.SIZE + 60))) for fmt in all_formats() for _ in range(4)]
    assert list(probe_differences(probes, tmp_path)) == []


def test_text_may_hold_what_is_no_character(tmp_path: Path) -> None:
    names = (b"\xff\xff\xff\xff\0\0", b"\xfe\xffa\0", b"\1\0b\0", b"\0\xd8c\0")
    assert list(probe_differences([(OidFriendlyName, name) for name in names], tmp_path)) == []


@pytest.mark.parametrize("conversation", ["disk", "card", "dump"])
def test_a_conversation_reads_the_same_field_by_field(
    conversation: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    script: Script = request.getfixturevalue(conversation)
    assert list(differences(script.write(tmp_path / "capture.pcapng"))) == []
