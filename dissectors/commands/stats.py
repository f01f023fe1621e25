"""``vmbus stats``: channels, operations, latencies, queue depth and throughput of a capture."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dissectors.commands.options import channels, compiled, tell_damage
from dissectors.engine import Session
from dissectors.engine.source import decode_capture
from dissectors.engine.summary import Summary
from dissectors.statistics.report import Report
from vmbus.capture.store import CaptureStore


def command(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A capture, or - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.000001, metavar="SECONDS", help="Steps of the throughput.")
    ] = 1.0,
    display_filter: Annotated[
        str, typer.Option("-Y", "--filter", metavar="FILTER", help="Only records that fit; channels only.")
    ] = "",
    decode_as: Annotated[
        list[str] | None,
        typer.Option("-d", "--decode-as", metavar="CHANNEL=PROTOCOL", help="What a channel speaks, e.g. 3=scsi."),
    ] = None,
) -> None:
    """Print statistics of a capture."""
    wanted = compiled(display_filter)
    session = Session(channels(decode_as))
    found: Summary | Report
    if wanted is not None:
        items = decode_capture(source, session=session, on_damage=tell_damage)
        found = Summary().add_all(item for item in items if wanted(item))
    else:
        store = CaptureStore.open(source)
        store.update(final=True)
        for damage in store.damage:
            tell_damage(damage)
        found = Report(store, session, interval)
    print(json.dumps(found.as_dict()) if as_json else "\n".join(found.lines()))
