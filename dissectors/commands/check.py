"""``vmbus check``: what a capture shows to have gone wrong; exit status 1 when there are errors, for use in CI."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from dissectors.commands.options import DecodeAs, Jobs, ShowProgress, channels, tell_damage, tell_unknown
from dissectors.engine import Session
from dissectors.engine.source import decode_capture, decode_file
from dissectors.jobs import job_count
from dissectors.progress import ProgressBar
from dissectors.rules import RULES, Checker, Finding, Severity
from dissectors.rules.checker import MAX_REPEATS
from dissectors.rules.shared_out import SharedCheck
from vmbus.capture.store import CaptureStore, is_file
from vmbus.wire.protocols import Protocol

_TELL_EVERY = 4096


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A capture, a FIFO, - for standard input, or unix:PATH.", show_default=False
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    list_rules: Annotated[bool, typer.Option("--rules", help="List the rules and leave.")] = False,
    decode_as: DecodeAs = None,
    jobs: Jobs = 0,
    progress: ShowProgress = True,
) -> None:
    """Apply the expert rules to a capture."""
    if list_rules:
        for found in sorted(RULES.values(), key=lambda rule: rule.id):
            print(f"{found.id}  {found.severity.name.lower():7}  {found.title}")
        return
    if not source:
        raise typer.BadParameter("a capture is wanted")
    bar = ProgressBar(os.stat(source).st_size if is_file(source) else 0, wanted=progress and is_file(source))
    check = _Check(source, channels(decode_as), min(job_count(jobs, source), len(RULES)), bar)
    worst = Severity.NOTE
    told = 0
    try:
        for finding in check.findings():
            worst, told = max(worst, finding.severity), told + 1
            with bar.hidden():
                _tell(finding, as_json)
    finally:
        bar.close()
    tell_unknown(source, check.unknown, check.count)
    if not as_json:
        for (rule, channel), times in sorted(check.repeats.items()):
            if times > MAX_REPEATS:
                print(f"{rule} {channel or 'control plane'}: {times - MAX_REPEATS} more like these")
        said = f"{told} finding{'s' * (told != 1)}" if told else "nothing found"
        print(f"{check.count} records, {said}")
    if worst is Severity.ERROR:
        raise typer.Exit(1)


class _Check:
    """All rules over one capture, in this process or several."""

    def __init__(self, source: str, decode_as: dict[int, Protocol], jobs: int, bar: ProgressBar) -> None:
        self.repeats: Counter[tuple[str, str]] = Counter()
        self.count = self.unknown = 0
        self._source = source
        self._decode_as = decode_as
        self._jobs = jobs
        self._bar = bar

    def findings(self) -> Iterator[Finding]:
        """In order; the counts are complete afterwards."""
        if self._jobs > 1:
            shared = SharedCheck(self._source, self._decode_as, self._jobs)
            yield from shared.findings(self._bar.advance, tell_damage)
            self.repeats, self.count, self.unknown = shared.repeats, shared.count, shared.unknown
            return
        session = Session(self._decode_as, keeps_past_lives=False)
        checker = Checker(session)
        if is_file(self._source):
            store = CaptureStore.open(self._source, windowed=True)
            items = decode_file(store, session, tell_damage)
        else:
            store, items = None, decode_capture(self._source, session=session, on_damage=tell_damage)
        for item in items:
            yield from checker.feed(item)
            if store is not None and not item.number % _TELL_EVERY:
                self._bar.advance(store.size, item.number)
        yield from checker.finish()
        self.repeats, self.count, self.unknown = checker.repeats, session.count, session.unknown


def _tell(finding: Finding, as_json: bool) -> None:
    if as_json:
        print(json.dumps(finding.as_dict()))
        return
    print(f"{finding.severity.name.lower()} {finding.rule}, record {finding.number}: {finding.happened}")
    print(f"    {finding.look_at}")
