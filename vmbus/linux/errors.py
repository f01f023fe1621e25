"""What can go wrong with the Linux guest for a reason that a person can act on."""

from __future__ import annotations

from vmbus.errors import VmbusError


class LinuxGuestError(VmbusError):
    """The root of this floor's errors."""


class CacheUnusable(LinuxGuestError):
    """The directory in which kernels are kept cannot be made."""


class ToolsMissing(LinuxGuestError):
    """Programs that a build needs are not installed; names them and their Debian packages."""


class SourceNotFound(LinuxGuestError):
    """No kernel source at the place named, or none that we know how to get."""


class SourceUnusable(LinuxGuestError):
    """A kernel source without the places that the shim's edits go to."""


class BuildFailed(LinuxGuestError):
    """A compiler or make gave up; says the first error and where the whole log is."""


class ImageNotMade(LinuxGuestError):
    """A root image cannot be made on this machine, or its making failed."""


class GuestNotStarted(LinuxGuestError):
    """The guest's process could not be started with these options."""
