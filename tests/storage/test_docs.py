"""The example in docs/storage.md is a backend that works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vmbus.devices.storage.disk import ScsiDisk
from vmbus.devices.storage.identity import Identity
from vmbus.testing.scsi import Initiator
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.opcodes import Opcode

DOCUMENT = Path(__file__).parents[2] / "docs" / "storage.md"


def test_the_backend_in_the_documentation_keeps_what_is_written() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(source, scope)
    tester = Initiator(ScsiDisk(scope["open_params"]("1048576", False), Identity.of("own"), sector=4096))
    data = bytes(range(256)) * 32
    tester.run(Transfer10(opcode=Opcode.WRITE_10, lba=3, length=2), data=data)
    assert tester.run(Transfer10(opcode=Opcode.READ_10, lba=3, length=2), length=8192).data == data
    assert tester.run(Transfer10(opcode=Opcode.READ_10, lba=9, length=1), length=4096).data == bytes(4096)
