"""Small disks of their own: ext4 in a file, mounted through a loop device, that can lose power.

A power cut is the ioctl ``EXT4_IOC_SHUTDOWN`` without a flush of the journal: from that moment
nothing more reaches the disk, and what only the page cache knew is gone once it is mounted anew.
Processes that write must be stopped (SIGSTOP, and seen to be) before: a cut that races with a
writer can lose what the writer had just been told is safe.

The process that mounts moves into a mount namespace of its own first. Nobody else then holds a copy
of the mount, which would keep the dead file system alive; and whatever becomes of the process, with
its last child the kernel takes the mounts away and frees the loop devices.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import Final

_SHUTDOWN: Final = 0x8004587D  # _IOR('X', 125, u32)
_NO_LOG_FLUSH: Final = Struct("<I").pack(2)
_PROGRAMS: Final = ("mkfs.ext4", "mount", "umount")
_UNMOUNT_SECONDS_MAX: Final = 20.0
_CLONE_NEWNS: Final = 0x00020000
_PRIVATE: Final = (1 << 14) | (1 << 18)  # MS_REC, MS_PRIVATE


class DiskError(Exception):
    """A disk could not be made, mounted or unmounted."""


def why_no_disks() -> str | None:
    """What is missing for disks of our own here; None if nothing is."""
    if os.geteuid():
        return "mounting needs root"
    for program in _PROGRAMS:
        if _program(program) is None:
            return f"{program} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    return None


def _program(name: str) -> str | None:
    # A user's path may lack the administrator's directories.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")


def _run(name: str, *arguments: str) -> None:
    program = _program(name)
    if program is None:
        raise DiskError(f"{name} is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiskError(f"{name} {' '.join(arguments)}: {done.stderr.strip()}")


class _Namespace:
    """Which processes are in a mount namespace of their own already."""

    pid = 0


def _enter_own_namespace() -> None:
    if os.getpid() == _Namespace.pid:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        raise DiskError(f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}")
    _Namespace.pid = os.getpid()


class Disk:
    """One file as a disk. It is mounted at ``path`` unless it is between a cut and a mount."""

    def __init__(self, image: Path, path: Path, size_mib: int) -> None:
        """Make the file ``image`` a disk of this size. Raises DiskError."""
        self.path: Final = path
        self._image = image
        self._mounted = False
        with image.open("wb") as file:
            file.truncate(size_mib * 1024 * 1024)
        # No reserved blocks and no lazy initialisation: the size is what it says, at once.
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-E", lazy, str(image))
        path.mkdir(parents=True, exist_ok=True)

    def mount(self) -> None:
        """Have its files at ``path``; after a cut this replays the journal."""
        _run("mount", "-o", "loop", "-t", "ext4", str(self._image), str(self.path))
        self._mounted = True

    def cut_power(self) -> None:
        """From now on nothing reaches it, and every call there fails; ``revive`` is what is left.

        Whoever writes there must stand still.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def revive(self) -> None:
        """Mount it anew after a cut; nobody may have files open there."""
        self.unmount()
        self.mount()

    def unmount(self) -> None:
        """Take it away, which frees the loop device; nobody may have files open there. Idempotent.

        A process that was killed lets go of its files a moment later: that is waited for.
        """
        if not self._mounted:
            return
        limit = time.monotonic() + _UNMOUNT_SECONDS_MAX
        while True:
            try:
                _run("umount", str(self.path))
                break
            except DiskError as error:
                if "busy" not in str(error) or time.monotonic() >= limit:
                    # Lazily: gone from the tree now, the device is freed by whoever closes last.
                    _run("umount", "-l", str(self.path))
                    self._mounted = False
                    raise
                time.sleep(0.005)
        self._mounted = False


@contextmanager
def mounted_disks(directory: Path, count: int, size_mib: int) -> Generator[tuple[Disk, ...]]:
    """So many disks, mounted below ``directory`` and taken away again whatever happens.

    This process and its children see them, nobody else does.
    """
    _enter_own_namespace()
    disks = tuple(
        Disk(directory / f"disk-{number}.img", directory / f"disk-{number}", size_mib)
        for number in range(1, count + 1)
    )
    try:
        for disk in disks:
            disk.mount()
        yield disks
    finally:
        _take_away(disks)


def _take_away(disks: tuple[Disk, ...]) -> None:
    failure: DiskError | None = None
    for disk in disks:
        try:
            disk.unmount()
        except DiskError as error:
            failure = error
    if failure is not None:
        raise failure
