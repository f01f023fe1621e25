"""Where a kernel's source comes from: a Debian source package, a tarball, or somebody's own tree.

Debian's ``linux-source-X.Y`` holds ``/usr/src/linux-source-X.Y.tar.xz``. Where it is not installed it is downloaded
with ``apt-get download``, which needs no root, and unpacked with ``dpkg-deb``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vmbus.linux.cache import cache_directory
from vmbus.linux.errors import SourceNotFound

DEFAULT_VERSION = "6.12"
PACKAGED_VERSIONS = ("6.12", "6.1")


@dataclass(frozen=True)
class KernelSource:
    """``path`` is a tarball or the root of somebody's tree; ``name`` is short and fit for a file name."""

    name: str
    path: Path

    @property
    def is_tree(self) -> bool:
        return self.path.is_dir()


def find_source(spec: str) -> KernelSource:
    """The source that ``spec`` names: a version that Debian packages (``6.12``), or the path of a tarball or tree.

    Raises ``SourceNotFound`` with one line that says what to do.
    """
    if re.fullmatch(r"\d+\.\d+", spec) and not Path(spec).exists():
        return KernelSource(spec, _packaged_tarball(spec))
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "Kconfig").is_file() or not (path / "arch/um").is_dir():
            raise SourceNotFound(f"{spec} is not a Linux source tree (it has no Kconfig or no arch/um)")
        return KernelSource(path.resolve().name, path.resolve())
    if path.is_file():
        if not re.search(r"\.(tar|tgz)(\.\w+)?$", path.name):
            raise SourceNotFound(f"{spec} is not a tarball: its name should end in .tar.xz, .tar.gz or the like")
        return KernelSource(re.sub(r"\.(tar|tgz)(\.\w+)?$", "", path.name), path.resolve())
    raise SourceNotFound(
        f"no kernel source at {spec}: give a version ({', '.join(PACKAGED_VERSIONS)}), tree or tarball"
    )


def _packaged_tarball(version: str) -> Path:
    package = f"linux-source-{version}"
    tarball = Path("/usr/src") / f"{package}.tar.xz"
    if tarball.is_file():
        return tarball
    downloads = cache_directory("downloads", package)
    tarball = downloads / tarball.relative_to("/")
    if tarball.is_file():
        return tarball
    advice = f"install the Debian package {package}, or name a kernel tree or tarball with --kernel PATH"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SourceNotFound(f"no source of Linux {version} here: {advice}")
    fetched = subprocess.run(
        ["apt-get", "download", package], cwd=downloads, capture_output=True, text=True, check=False
    )
    packages = sorted(downloads.glob(f"{package}_*.deb"))
    if fetched.returncode or not packages:
        raise SourceNotFound(f"no source of Linux {version} here, and apt-get could not download it: {advice}")
    subprocess.run(["dpkg-deb", "-x", packages[-1], downloads], check=True)
    for archive in packages:
        archive.unlink()
    return tarball
