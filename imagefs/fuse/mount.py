"""Putting a mount in place and taking it away: mount(2) as root, else fusermount3.

Owns the way to an open /dev/fuse that the kernel serves a mount point from, the options that the
kernel takes on the way, and the sentences that say what is missing. Knows nothing of the protocol
spoken over it. Any thread may call it; nothing is kept between calls.
"""

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagefs.errors import HostError, MountError
from imagefs.fuse.kernel_flags import KERNEL_FLAGS
from imagefs.host import libc, mountinfo
from imagefs.host.mount_point import MountPoint

# It serves ordinary users alone: imported where it is needed.
if TYPE_CHECKING:
    import subprocess

FSTYPE = "fuse.imagefs"
DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")

_CONNECTIONS = Path("/sys/fs/fuse/connections")

_LOOKS = 50
"""Looks at a mount before it is taken for one that is elsewhere, and tries to take that away."""
_ROOT_ALONE = {"nosymfollow", "nodiratime", "relatime", "strictatime", "lazytime"}
"""Those that fusermount3 and libfuse do not know."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount. Every mount is read-only, nosuid and nodev besides.

    `source` is what /proc/mounts shows as the mount's source. With `allow_other` all users may
    enter, and the kernel enforces the files' modes; without, only the mounting user may, and
    may read all. `flags` are among KERNEL_FLAGS.
    """

    source: str = "imagefs"
    allow_other: bool = False
    flags: tuple[str, ...] = ()


class MountBusyError(MountError):
    """Somebody still uses the mount; only a lazy unmount takes it away."""


def mount(point: MountPoint, options: MountOptions) -> tuple[int, mountinfo.Mount]:
    """Mount on a directory; return the open device to serve it from, and the mount."""
    check(options)
    before = {one.id for one in mountinfo.mounts()}
    as_root = os.geteuid() == 0
    device = _mount_as_root(point, options) if as_root else _mount_by_helper(point, options)
    try:
        return device, settled(point, device, before)
    except BaseException:
        os.close(device)
        raise


def settled(point: MountPoint, device: int, before: set[int]) -> mountinfo.Mount:
    """Return the mount that `device` serves, if it is on the directory, and there alone.

    fusermount3 walks the path anew, and may have been led elsewhere; and other programs mount
    without asking whether somebody else is about to. Then ours goes, and MountError is raised.
    `before` are the ids of the mounts that are older than ours.
    """
    # Of a path that is being changed, two looks may tell of two places.
    for _ in range(_LOOKS):
        found = point.mounted()
        if found is not None and _serves(device, found):
            return found
    for _ in range(_LOOKS):
        mounts = mountinfo.mounts()
        strays = [one for one in mounts if one.id not in before and _serves(device, one)]
        if not strays:
            break
        for stray in strays:
            unmount_for_good(stray)
    raise MountError(f"{point.path}: it was moved, or mounted on, while it was to be mounted on")


def _serves(device: int, mount: mountinfo.Mount) -> bool:
    """Tell whether a mount is the device's; where the kernel does not say, whether it may be."""
    if mount.fstype != FSTYPE or mount.owner != os.geteuid():
        return False
    with contextlib.suppress(OSError):
        # Linux 6.16 and later tell the minor number of the mount's own device.
        told = Path(f"/proc/self/fdinfo/{device}").read_text()
        if match := re.search(r"^fuse_connection:\s*(\d+)$", told, re.MULTILINE):
            return mount.device == f"0:{match[1]}"
    return True


def read_far_ahead(device: str, length: int) -> None:
    """Have the kernel read `length` bytes ahead, where we may say so: as root.

    `device` is the mount's `major:minor`. By itself it reads 128 KiB ahead, which takes four times
    as many requests for a large file.
    """
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(f"{length >> 10}\n")


def unmount(mount: mountinfo.Mount, lazy: bool = False, dead: bool = False) -> None:
    """Take a mount away; `lazy` does so at once, and for those still inside when they leave.

    Of a `dead` one all that is asked fails from now on. Nobody will answer it, and its daemon may
    be kept from ending by a page that it was to hand over, and that somebody waits for.

    Raises MountBusyError if it is in use, MountError if it cannot be unmounted for another reason.
    """
    place = mount.mountpoint
    if os.geteuid() != 0:
        if dead:
            with contextlib.suppress(OSError):
                minor = mount.device.partition(":")[2]
                (_CONNECTIONS / minor / "abort").write_text("1")
        _unmount_by_helper(place, lazy or dead)
        return
    flags = libc.MNT_FORCE | libc.MNT_DETACH if dead else libc.MNT_DETACH if lazy else 0
    failure = _unmount_as_root(mount, flags)
    if failure == errno.EBUSY:
        raise MountBusyError(f"{place}: somebody is still using the mount")
    if failure in (errno.EINVAL, errno.ENOENT):
        raise MountError(f"{place}: nothing is mounted here")
    if failure:
        raise MountError(f"{place}: cannot unmount: {os.strerror(failure)}")


def _unmount_as_root(mount: mountinfo.Mount, flags: int) -> int:
    """Take a mount away and no other, whatever its path leads to by now; return an errno, or 0."""
    head, name = os.path.split(mount.mountpoint)
    try:
        parent = os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EINVAL
    try:
        # A name that is mounted on cannot be renamed; a descriptor of it would keep it busy.
        if _mount_called(name, parent) != mount.id:
            return errno.ENOENT
        place = os.fsencode(mountinfo.anchor(parent) / name)
        return libc.call("umount2", place, libc.UMOUNT_NOFOLLOW | flags)
    finally:
        os.close(parent)


def _mount_called(name: str, parent: int) -> int | None:
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return None
    try:
        return mountinfo.mount_of(fd)
    finally:
        os.close(fd)


def check(options: MountOptions) -> None:
    """Raise HostError, with the remedy, for what would keep us from mounting anywhere."""
    check_device()
    if os.geteuid() != 0:
        check_helper(options)


def check_device() -> None:
    """Raise HostError, with the remedy, if this machine has no /dev/fuse."""
    try:
        mode = DEVICE.stat().st_mode
    except FileNotFoundError:
        raise HostError(
            f"{DEVICE} is missing: load the kernel's module with `modprobe fuse`, "
            "or give the container `--device /dev/fuse`"
        ) from None
    if not stat.S_ISCHR(mode):
        raise HostError(f"{DEVICE} is not a device")


def helper() -> str:
    """Return the program that mounts for ordinary users; HostError if it is missing."""
    import shutil  # noqa: PLC0415

    for name in ("fusermount3", "fusermount"):
        found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/bin")
        if found is not None:
            return found
    raise HostError("fusermount3 is missing, which mounts for ordinary users: apt install fuse3")


def check_helper(options: MountOptions) -> None:
    """Raise HostError, with the remedy, if an ordinary user cannot mount with these options."""
    helper()
    # fusermount3 is privileged, but opens the device as the user.
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise HostError(f"{DEVICE} is closed to ordinary users: as root, `chmod 666 {DEVICE}`")
    if options.allow_other and not _others_allowed():
        raise HostError("--allow-other needs a line `user_allow_other` in /etc/fuse.conf")
    check_flags(options, "fusermount3, which mounts for ordinary users,")


def check_flags(options: MountOptions, who: str) -> None:
    """Raise HostError for options that only mount(2) takes, where it is not `who` mounts."""
    if refused := _ROOT_ALONE.intersection(options.flags):
        raise HostError(f"{who} does not know the option {', '.join(sorted(refused))}")


def _others_allowed() -> bool:
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return "user_allow_other" in map(str.strip, lines)


def _mount_as_root(point: MountPoint, options: MountOptions) -> int:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{DEVICE} cannot be opened: {error.strerror}; is the kernel's module loaded "
            "(`modprobe fuse`), and does the container have `--device /dev/fuse`?"
        ) from error
    data = f"fd={device},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
    if options.allow_other:
        data += ",allow_other,default_permissions"
    failure = libc.call(
        "mount",
        os.fsencode(options.source),
        os.fsencode(point.anchor),
        FSTYPE.encode(),
        libc.MS_RDONLY
        | libc.MS_NOSUID
        | libc.MS_NODEV
        | sum(KERNEL_FLAGS[one] for one in set(options.flags)),
        data.encode(),
    )
    if failure:
        os.close(device)
        raise MountError(_mount_failure(point.path, failure))
    return device


def _mount_failure(mountpoint: Path, failure: int) -> str:
    reasons = {
        errno.ENODEV: "the kernel knows no FUSE: `modprobe fuse`",
        errno.EPERM: "mounting is not permitted here; a container needs `--cap-add SYS_ADMIN`",
    }
    return f"{mountpoint}: cannot mount: {reasons.get(failure, os.strerror(failure))}"


def _mount_by_helper(point: MountPoint, options: MountOptions) -> int:
    """Have fusermount3 mount; it hands the open device over through a socket."""
    import socket  # noqa: PLC0415

    mountpoint = point.path
    words = ["ro", "nosuid", "nodev", f"fsname={escaped(options.source)}", "subtype=imagefs"]
    words += options.flags
    if options.allow_other:
        words += ["allow_other", "default_permissions"]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        command = [helper(), "-o", ",".join(words), "--", os.fspath(mountpoint)]
        result = _run(command, theirs.fileno())
        theirs.close()
        message, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if message and descriptors:
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]
    raise MountError(f"{mountpoint}: cannot mount: {_complaint(result)}")


def _unmount_by_helper(place: str, lazy: bool) -> None:
    result = _run([helper(), "-u", *(["-z"] if lazy else []), "--", place])
    if result.returncode == 0:
        return
    complaint = _complaint(result)
    if "busy" in complaint:
        raise MountBusyError(f"{place}: somebody is still using the mount")
    if "not found in" in complaint or "not mounted" in complaint:
        raise MountError(f"{place}: nothing is mounted here")
    if "/etc/mtab" in complaint:
        complaint = "fusermount3 needs /etc/mtab: as root, `ln -s /proc/self/mounts /etc/mtab`"
    raise MountError(f"{place}: cannot unmount: {complaint}")


def _run(command: list[str], socket_fd: int | None = None) -> "subprocess.CompletedProcess[bytes]":
    import subprocess  # noqa: PLC0415

    environment = os.environ | {"LC_ALL": "C"}
    descriptors: tuple[int, ...] = ()
    if socket_fd is not None:
        environment["_FUSE_COMMFD"] = str(socket_fd)
        descriptors = (socket_fd,)
    return subprocess.run(
        command,
        env=environment,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def _complaint(result: "subprocess.CompletedProcess[bytes]") -> str:
    """Return the last line that a helper wrote to stderr, without its own name."""
    lines = os.fsdecode(result.stderr).strip().splitlines() or [f"exit status {result.returncode}"]
    return lines[-1].partition(": ")[2] or lines[-1]


def escaped(value: str) -> str:
    """Return the value as it has to stand in a comma-separated list of mount options."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def unmount_for_good(mount: mountinfo.Mount) -> None:
    """Unmount, lazily if somebody is inside, and say nothing if it is gone already."""
    with contextlib.suppress(MountError):
        try:
            unmount(mount)
        except MountBusyError:
            unmount(mount, lazy=True)


def unmount_own(identity: str) -> None:
    """Unmount for good the mount of an identity, wherever it is, and none that took its place."""
    identities = mountinfo.identities()
    for one in mountinfo.mounts():
        if identities.get(one.id) == identity:
            unmount_for_good(one)
            return
