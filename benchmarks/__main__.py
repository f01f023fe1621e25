"""``python -m benchmarks NAME... [--json]``; without a name, or with ``all``, all of them. Unknown: status 2."""

from __future__ import annotations

import sys

from benchmarks.harness import names, run
from vmbus.errors import VmbusError


def main(arguments: list[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(f"{__doc__}\n\nBenchmarks: {', '.join(names())}.")
        return 0
    as_json = "--json" in arguments
    wanted = [argument for argument in arguments if argument != "--json"]
    if not wanted or wanted == ["all"]:
        wanted = names()
    unknown = [name for name in wanted if name not in names()]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    for name in wanted:
        try:
            run(name, as_json=as_json)
        except VmbusError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


sys.exit(main(sys.argv[1:]))
