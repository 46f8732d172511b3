"""An overlay on top of a mounted image, whose writes go into a directory of two parts.

Owns overlayfs's options and the layout of that directory: `upper`, where what was written lies,
`work`, which is overlayfs's own, and `image`, where a mount has the image meanwhile. Stateless,
for any thread.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from imagefs.errors import HostError, MountError
from imagefs.host import libc

UPPER, WORK, IMAGE = "upper", "work", "image"
TRUSTED, USER, FUSE = "trusted", "user", "fuse-overlayfs"
"""Ways: by which extended attributes overlayfs keeps what it knows, the user's in a user namespace;
or by fuse-overlayfs, which keeps it in its own."""
FSTYPES = ("overlay", "fuse.fuse-overlayfs")
_OPTIONS = {
    # What redirects or shares within the upper directory would not be understood as a layer.
    TRUSTED: ("redirect_dir=nofollow", "index=off", "metacopy=off"),
    USER: ("userxattr",),
}


def make(directory: Path) -> None:
    """Make both parts, where they do not exist."""
    for name in (UPPER, WORK):
        (directory / name).mkdir(mode=0o755, exist_ok=True)


def mount(
    image: Path,
    directory: Path,
    target: Path,
    way: str,
    *,
    below: Path | None = None,
    flags: int = 0,
) -> None:
    """Mount an overlay of `directory` on `image`, which itself lies on `below`.

    The paths of these may hold no comma or colon: relative ones will do. MountError if that fails.
    """
    upper = directory / UPPER
    if not any(upper.iterdir()):
        _look_like(upper, image)
    lower = ":".join(map(os.fspath, (image, *([below] if below else []))))
    words = [f"lowerdir={lower}", f"upperdir={upper}", f"workdir={directory / WORK}"]
    failure = libc.call(
        "mount",
        b"imagefs",
        os.fsencode(target),
        b"overlay",
        libc.MS_NOSUID | libc.MS_NODEV | flags,
        os.fsencode(",".join([*words, *_OPTIONS[way]])),
    )
    if failure:
        reason = os.strerror(failure)
        if failure == errno.EINVAL:
            reason += "; what is written has to lie on a disk that is no overlay itself"
        raise MountError(f"an overlay cannot be mounted: {reason}")


def program() -> str:
    """Return the program that mounts overlays for ordinary users; HostError if it is missing."""
    import shutil  # noqa: PLC0415 - ordinary users alone need it

    found = shutil.which(FUSE, path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/bin")
    if found is None:
        raise HostError(f"{FUSE} is missing, for ordinary users to write: apt install {FUSE}")
    return found


def mount_by_program(image: Path, directory: Path, target: Path, options: Sequence[str]) -> None:
    """Mount such an overlay by fuse-overlayfs, which goes on serving it. MountError if that fails.

    The image's files all belong to the caller, who may not give any away.
    """
    import subprocess  # noqa: PLC0415

    upper, work = directory / UPPER, directory / WORK
    words = [f"lowerdir={image}", f"upperdir={upper}", f"workdir={work}", "noacl", *options]
    done = subprocess.run(
        [program(), "-o", ",".join(words), os.fspath(target)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = os.fsdecode(done.stderr).strip().splitlines() or [f"status {done.returncode}"]
        raise MountError(f"{target}: {FUSE} cannot mount: {said[-1]}")


def _look_like(upper: Path, image: Path) -> None:
    """Give the upper directory the attributes of the image's root: it is what will show."""
    status = image.stat()
    os.chown(upper, status.st_uid, status.st_gid)
    upper.chmod(status.st_mode & 0o7777)
    os.utime(upper, ns=(status.st_mtime_ns, status.st_mtime_ns))
