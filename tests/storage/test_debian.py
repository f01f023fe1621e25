"""A Debian system whose root is our disk: it boots, root logs in and works, it powers off and leaves all in order."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from vmbus.devices.catalog import make_devices
from vmbus.inet.pattern import pattern
from vmbus.linux.launch import ExitStatus
from vmbus.testing.debian import Shell, get_file, put_files
from vmbus.testing.hosts import RunningHost
from vmbus.testing.linux import StartGuest

pytestmark = pytest.mark.linux

SCRIPT = """\
set -e
grep -q '^/dev/root / ext4 rw' /proc/mounts
grep -q Msft /sys/block/sda/device/vendor
systemctl is-system-running --wait
mkdir /srv/made
for i in 1 2 3 4 5 6 7 8; do
    python3 -c "import os; open('/srv/made/$i', 'wb').write(os.urandom($i * 300000))"
done
cd /srv/made
sha256sum ? > sums
sync
echo 3 > /proc/sys/vm/drop_caches
sha256sum --quiet -c sums
sha256sum /srv/brought | cut -d ' ' -f 1
"""


def test_debian_boots_from_our_disk_and_root_logs_in(
    linux_guest: StartGuest, debian_image: Path, tmp_path: Path
) -> None:
    brought = pattern(1, 5 << 20)
    put_files(debian_image, {"/srv/brought": brought, "/usr/local/bin/script": SCRIPT.encode()})
    with RunningHost(tmp_path / "host", make_devices(disks=[str(debian_image)])) as host:
        shell = Shell(linux_guest(host.address, root="/dev/sda", append=["quiet"]))
        shell.log_in()
        finished = shell.run("sh /usr/local/bin/script")
        assert finished == (0, ["running", hashlib.sha256(brought).hexdigest()])
        assert shell.power_off() == ExitStatus.DONE
    checked = subprocess.run(["e2fsck", "-fn", str(debian_image)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    sums = dict(reversed(line.split()) for line in get_file(debian_image, "/srv/made/sums").decode().splitlines())
    assert sums == {
        name: hashlib.sha256(get_file(debian_image, f"/srv/made/{name}")).hexdigest() for name in "12345678"
    }
