"""`mount -t fuse.imagefs SOURCE MOUNTPOINT -o OPTIONS`, and lines in /etc/fstab.

mount(8) knows nothing of imagefs: it runs mount.fuse3 (which runs `imagefs SOURCE MOUNTPOINT -o
OPTIONS`) or a program called /sbin/mount.fuse.imagefs, with the words `SOURCE MOUNTPOINT [-sfnv]
[-N namespace] [-o options] [-t type]`. This module turns those words into `imagefs mount`'s.
"""

import sys
from collections.abc import Collection, Sequence
from typing import NoReturn

from imagefs.errors import UsageError
from imagefs.fuse.kernel_flags import KERNEL_FLAGS

WITH_VALUE = (
    *("view", "driver", "host", "platform", "image", "log_level", "max_layer_bytes", "tls_ca"),
    *("uid", "gid", "writable"),
)
FLAGS = (
    *("allow_other", "trust_archive", "keep_going", "verify", "quiet", "all"),
    *("plain_http", "insecure", "writable"),
)
# Options that undo others; the last word counts.
_OPPOSITES = {
    "exec": "noexec",
    "async": "sync",
    "symfollow": "nosymfollow",
    "atime": "noatime",
    "diratime": "nodiratime",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
    "nolazytime": "lazytime",
}
# What is so anyway. mount(8) says `rw` and mount.fuse3 `dev,suid` where nobody asked for anything,
# so that these cannot be told from a wish: a mount of imagefs is read-only, nosuid and nodev.
_ANYWAY = {
    *("ro", "rw", "nosuid", "suid", "nodev", "dev"),
    *("silent", "loud", "nomand", "noiversion"),
}
# What mount(8), systemd and others heed before or after; what it implies, as `user` does noexec,
# mount(8) says too.
_OF_OTHERS = {
    *("defaults", "auto", "noauto", "user", "nouser", "users", "group", "owner"),
    *("nofail", "_netdev", "comment"),
}


def main() -> NoReturn:
    """Run as mount(8) runs its helpers."""
    from imagefs.cli.main import main as run  # noqa: PLC0415

    run(sys.argv[1:], words)


def is_call(args: Sequence[str], commands: Collection[str]) -> bool:
    """Tell whether these are a mount helper's words rather than one of our commands.

    `imagefs export SOURCE -o FILE` looks the same, but for what mount(8) says each time.
    """
    if len(args) < 4 or args[0].startswith("-") or args[2] != "-o":
        return False
    return args[0] not in commands or not {"rw", "ro"}.isdisjoint(args[3].split(","))


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
    """Return the words for mount(8)'s options; UsageError names one that cannot be honoured."""
    found = ["--quiet"]
    flags: dict[str, None] = {}
    for option in filter(None, options):
        name, equals, value = option.partition("=")
        long = "--" + name.replace("_", "-")
        if equals and name in WITH_VALUE:
            found.append(f"{long}={value}")
        elif not equals and name in FLAGS:
            found.append(long)
        elif not equals and name in KERNEL_FLAGS:
            flags[name] = None
        elif not equals and name in _OPPOSITES:
            flags.pop(_OPPOSITES[name], None)
        elif not _is_of_others(name, equals=bool(equals)):
            raise UsageError(f"imagefs does not take the mount option {option!r}")
    return [*found, *(f"--option={flag}" for flag in flags)]


def _is_of_others(name: str, *, equals: bool) -> bool:
    if name.startswith(("x-", "X-")) or name in ("comment", "user"):
        return True
    return not equals and name in _ANYWAY | _OF_OTHERS
