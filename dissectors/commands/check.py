"""``vmbus check``: what a capture shows to have gone wrong; exit status 1 when there are errors, for use in CI."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dissectors.commands.options import channels, tell_damage
from dissectors.engine import Session
from dissectors.engine.source import decode_capture
from dissectors.rules import RULES, Checker, Finding, Severity
from dissectors.rules.checker import MAX_REPEATS


def command(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A capture, - for standard input, or unix:PATH.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    list_rules: Annotated[bool, typer.Option("--rules", help="List the rules and leave.")] = False,
    decode_as: Annotated[
        list[str] | None,
        typer.Option("-d", "--decode-as", metavar="CHANNEL=PROTOCOL", help="What a channel speaks, e.g. 3=scsi."),
    ] = None,
) -> None:
    """Apply the expert rules to a capture."""
    if list_rules:
        for found in sorted(RULES.values(), key=lambda rule: rule.id):
            print(f"{found.id}  {found.severity.name.lower():7}  {found.title}")
        return
    if not source:
        raise typer.BadParameter("a capture is wanted")
    session = Session(channels(decode_as))
    checker = Checker(session)
    worst = Severity.NOTE
    count = 0
    for item in decode_capture(source, session=session, on_damage=tell_damage):
        for finding in checker.feed(item):
            worst, count = max(worst, finding.severity), count + 1
            _tell(finding, as_json)
    for finding in checker.finish():
        worst, count = max(worst, finding.severity), count + 1
        _tell(finding, as_json)
    if not as_json:
        for (rule, channel), times in checker.repeats.items():
            if times > MAX_REPEATS:
                print(f"{rule} {channel or 'control plane'}: {times - MAX_REPEATS} more like these")
        print(f"{session.count} records, {count} findings" if count else f"{session.count} records, nothing found")
    if worst is Severity.ERROR:
        raise typer.Exit(1)


def _tell(finding: Finding, as_json: bool) -> None:
    if as_json:
        print(json.dumps(finding.as_dict()))
        return
    print(f"{finding.severity.name.lower()} {finding.rule}, record {finding.number}: {finding.happened}")
    print(f"    {finding.look_at}")
