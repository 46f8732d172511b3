"""`mount -t fuse.imagefs SOURCE MOUNTPOINT -o OPTIONS`, and lines in /etc/fstab.

mount(8) knows nothing of imagefs: it runs mount.fuse3 (which runs `imagefs SOURCE MOUNTPOINT -o
OPTIONS`) or a program called /sbin/mount.fuse.imagefs, with the words `SOURCE MOUNTPOINT [-sfnv]
[-N namespace] [-o options] [-t type]`. This module turns those words into `imagefs mount`'s.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from imagefs.errors import UsageError

_WITH_VALUE = ("view", "driver", "host", "platform", "image", "log_level", "max_layer_bytes")
_FLAGS = ("allow_other", "keep_going", "verify", "quiet", "all")
# What mount(8) and fstab(5) pass on though it is not for the file system: a mount of imagefs is
# always read-only, nosuid and nodev.
_IGNORED = {
    *("ro", "rw", "defaults", "auto", "noauto", "user", "nouser", "users", "group", "owner"),
    *("nofail", "_netdev", "dev", "nodev", "suid", "nosuid", "exec", "noexec", "silent", "loud"),
    *("atime", "noatime", "relatime", "norelatime", "strictatime", "diratime", "nodiratime"),
    *("async", "sync"),
}


def main() -> NoReturn:
    """Run as mount(8) runs its helpers."""
    from imagefs.cli.main import run  # noqa: PLC0415

    sys.exit(run(["--mount-helper", *sys.argv[1:]]))


def is_call(args: Sequence[str]) -> bool:
    """Tell whether these are a mount helper's words rather than a command of ours."""
    return len(args) >= 4 and not args[0].startswith("-") and args[2] == "-o"


def words(args: Sequence[str]) -> list[str]:
    """Return the words of `imagefs mount` that a mount helper's words mean."""
    places: list[str] = []
    options: list[str] = []
    fake = False
    rest = iter(args)
    for word in rest:
        if word == "-o":
            options += next(rest, "").split(",")
        elif word in ("-t", "-N"):
            next(rest, None)
        elif word.startswith("-") and len(word) > 1:
            fake = fake or "f" in word
        else:
            places.append(word)
    if len(places) != 2:
        raise UsageError("a mount helper takes SOURCE and MOUNTPOINT")
    if fake:
        return ["--version"]
    return ["mount", *_translated(options), "--", *places]


def _translated(options: Sequence[str]) -> list[str]:
    found = ["--quiet"]
    for option in filter(None, options):
        name, equals, value = option.partition("=")
        long = "--" + name.replace("_", "-")
        if equals and name in _WITH_VALUE:
            found.append(f"{long}={value}")
        elif not equals and name in _FLAGS:
            found.append(long)
        elif name not in _IGNORED and not name.startswith(("x-", "X-", "comment")):
            raise UsageError(f"mount option {option!r} is unknown to imagefs")
    return found
