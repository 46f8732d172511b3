"""An overlay on top of a mounted image, whose writes go into a directory of two parts.

Owns overlayfs's options and the layout of that directory: `upper`, where what was written lies,
and `work`, which is overlayfs's own. Stateless, for any thread.
"""

import os
from pathlib import Path

from imagefs.errors import MountError
from imagefs.host import libc

UPPER, WORK = "upper", "work"
TRUSTED, USER = "trusted", "user"
"""In which extended attributes overlayfs keeps what it knows: user's, in a user namespace."""
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
    image: Path, directory: Path, target: str, kind: str, *, below: Path | None = None
) -> None:
    """Mount an overlay of `directory` on `image`, which itself lies on `below`.

    The paths may hold no comma or colon: relative ones will do. MountError if that fails.
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
        libc.MS_NODEV,
        os.fsencode(",".join([*words, *_OPTIONS[kind]])),
    )
    if failure:
        raise MountError(f"{target}: an overlay cannot be mounted: {os.strerror(failure)}")


def _look_like(upper: Path, image: Path) -> None:
    """Give the upper directory the attributes of the image's root: it is what will show."""
    status = image.stat()
    os.chown(upper, status.st_uid, status.st_gid)
    upper.chmod(status.st_mode & 0o7777)
    os.utime(upper, ns=(status.st_mtime_ns, status.st_mtime_ns))
