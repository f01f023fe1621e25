"""``vmbus stats``: channels, operations, latencies, queue depth and throughput of a capture."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dissectors.commands.options import (
    DecodeAs,
    Jobs,
    ShowProgress,
    Source,
    Wanted,
    channels,
    compiled,
    tell_damage,
    tell_unknown,
)
from dissectors.reading import Reading
from dissectors.statistics import take_statistics


def command(
    source: Source,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.000001, max=1e9, metavar="SECONDS", help="Steps of the throughput.")
    ] = 1.0,
    display_filter: Wanted = "",
    decode_as: DecodeAs = None,
    jobs: Jobs = 0,
    progress: ShowProgress = True,
) -> None:
    """Print statistics of a capture."""
    wanted, protocols = compiled(display_filter), channels(decode_as)
    reading = Reading(source, protocols, wanted=wanted, jobs=jobs, progress=progress, on_damage=tell_damage)
    report = take_statistics(reading, interval)
    found = report.as_dict()
    tell_unknown(source, found["unknown"], found["records"])
    print(json.dumps(found) if as_json else "\n".join(report.lines()))
