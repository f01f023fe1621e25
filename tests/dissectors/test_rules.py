"""Each expert rule is struck by its fault, and sound conversations strike none."""

from __future__ import annotations

import pytest

from dissectors.engine import Session
from dissectors.rules import RULES, Checker, Finding, check_all
from dissectors.rules.faults import FAULTS, disk_on
from dissectors.testing import GUEST, HOST, RING_SIZE, Script
from vmbus.wire import control as c
from vmbus.wire.control_values import MessageType, Version


def findings(script: Script) -> list[Finding]:
    session = Session()
    return check_all(session, (session.feed_bytes(data, time_ns) for time_ns, data in script.records))


@pytest.mark.parametrize("rule", sorted(FAULTS))
def test_a_fault_strikes_its_rule_and_says_what_happened(rule: str, script: Script) -> None:
    FAULTS[rule](script)
    struck = [finding for finding in findings(script) if finding.rule == rule]
    assert struck
    assert struck[0].happened and struck[0].look_at.endswith(".")
    assert struck[0].severity == RULES[rule].severity


@pytest.mark.parametrize("rule", sorted(FAULTS))
def test_a_fault_strikes_few_other_rules(rule: str, script: Script) -> None:
    FAULTS[rule](script)
    others = {finding.rule for finding in findings(script)} - {rule}
    allowed = {"EX-25": {"EX-24"}, "EX-14": set(), "EX-26": set()}
    assert len(others - allowed.get(rule, set())) <= 1


def test_every_rule_has_a_fault() -> None:
    assert set(FAULTS) == set(RULES)
    assert len(RULES) >= 28


def test_sound_conversations_strike_nothing(disk: Script, card: Script) -> None:
    assert disk is card  # both fixtures go on with the same connection
    card.close(4)
    assert findings(card) == []


def test_a_capture_that_starts_in_the_middle_strikes_nothing(disk: Script) -> None:
    disk.records = disk.records[12:]
    assert findings(disk) == []


def test_a_capture_that_starts_with_a_snapshot_is_judged_by_what_it_shows() -> None:
    script = Script()
    contact = c.InitiateContact5(version=Version.V5_3)
    script.message(GUEST, MessageType.INITIATE_CONTACT, contact, snapshot=True)
    disk_on(script)
    script.completion(HOST, 3, bytes(64), transaction=5)
    script.message(GUEST, MessageType.GPADL_TEARDOWN, c.GpadlTeardown(channel_id=3, gpadl_id=77))
    script.message(HOST, MessageType.GPADL_TORNDOWN, c.GpadlTorndown(gpadl_id=77))
    assert findings(script) == []
    assert script.decode()[0].is_snapshot


def test_what_may_have_been_in_lost_records_is_held_against_nobody(script: Script) -> None:
    disk_on(script)
    script.packet(GUEST, 3, bytes(64), transaction=5, wants_completion=True)
    script.completion(HOST, 3, bytes(64), transaction=6)
    script.rewind(HOST, 3, 800)
    script.completion(HOST, 3, bytes(64), transaction=7)
    script.wait(10)
    script.note("later")
    session = Session()
    items = []
    for time_ns, data in script.records:
        item = session.feed_bytes(data, time_ns)
        item.lost = int(item.transaction_id in (6, 7))
        items.append(item)
    assert {finding.rule for finding in check_all(session, items)} <= {"EX-04"}


def test_many_findings_of_one_kind_are_counted_and_not_all_told(script: Script) -> None:
    disk_on(script)
    for transaction in range(100, 150):
        script.completion(HOST, 3, bytes(64), transaction=transaction)
    assert len(findings(script)) == 10


def test_requests_without_end_are_not_all_kept(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dissectors.rules.rings.MAX_PENDING", 50)
    disk_on(script)
    for transaction in range(1000):
        script.packet(GUEST, 3, bytes(64), transaction=transaction, wants_completion=True)
    script.wait(6)
    script.note("later")
    session = Session()
    checker = Checker(session, [RULES["EX-04"]])
    for time_ns, data in script.records:
        checker.feed(session.feed_bytes(data, time_ns))
    assert len(checker.finish()) == 10 and checker.repeats["EX-04", "3 scsi"] == 50


def test_rings_of_the_script_wrap_like_real_ones(script: Script) -> None:
    disk_on(script)
    for _ in range(RING_SIZE // 88 + 3):
        script.packet(GUEST, 3, bytes(64))
    assert findings(script) == []
