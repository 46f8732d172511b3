"""What `mount -t fuse.imagefs` and fstab(5) mean in words of `imagefs mount`."""

import re

import pytest

from imagefs.cli import mount_helper
from imagefs.errors import UsageError

MEANINGS = {
    "app:v1 /mnt -o rw": "",
    "app:v1 /mnt -o ro,nosuid,nodev,noauto,nofail,_netdev,x-systemd.automount,user": "",
    "app:v1 /mnt -n -v -s -o view=layers,allow_other": "--view=layers --allow-other",
    "-o keep_going,image=a=b app:v1 /mnt": "--keep-going --image=a=b",
    "app:v1 /mnt -o host=tcp://localhost:2375 -t fuse.imagefs": "--host=tcp://localhost:2375",
    "app:v1 /mnt -o max_layer_bytes=9G": "--max-layer-bytes=9G",
    "app:v1 /mnt -o uid=1000,gid=mine": "--uid=1000 --gid=mine",
    "app:v1 /mnt -N 17 -o log_level=info -o driver=native,,": "--log-level=info --driver=native",
}

# Every option that mount(8) calls independent of the file system, and those of fstab(5) and of
# systemd: what becomes of it. None is dropped unless it is so anyway, or is heeded by others.
PASSED_ON = (
    *("noexec", "sync", "dirsync", "nosymfollow"),
    *("noatime", "nodiratime", "relatime", "strictatime", "lazytime"),
)
UNDOES = {
    "exec": "noexec",
    "async": "sync",
    "symfollow": "nosymfollow",
    "atime": "noatime",
    "diratime": "nodiratime",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
    "nolazytime": "lazytime",
}
SO_ANYWAY = ("ro", "nosuid", "nodev", "silent", "loud", "nomand", "noiversion")
SAID_UNASKED = {"rw": "by mount(8)", "suid": "by mount.fuse3", "dev": "by mount.fuse3"}
HEEDED_BY_OTHERS = (
    *("defaults", "auto", "noauto", "nofail", "_netdev"),
    *("user", "user=bob", "nouser", "users", "group", "owner"),
    *("x-systemd.requires=docker.service", "x-initrd.mount", "X-mount.mkdir=0755", "x-gvfs-hide"),
    *("comment=for the shop", "comment"),
)
REFUSED = (
    *("remount", "mand", "iversion", "bind", "rbind", "move", "loop", "offset=512"),
    *("context=system_u:object_r:tmp_t:s0", "fscontext=a", "defcontext=a", "rootcontext=a"),
    *("uid", "gid", "umask=022", "noexec=1", "exec=1", "nofail=1", "commentary", "colour=red"),
    *("view", "verify=1"),
)


@pytest.mark.parametrize("words", MEANINGS)
def test_options_are_translated(words: str) -> None:
    """Options of imagefs become its own, in either order."""
    meant = ["mount", "--quiet", *MEANINGS[words].split(), "--", "app:v1", "/mnt"]
    assert mount_helper.words(words.split()) == meant


def meaning(options: str) -> list[str]:
    """What options become, beside what all mounts have."""
    words = mount_helper.words(["app:v1", "/mnt", "-o", options])
    assert words[:2] == ["mount", "--quiet"]
    assert words[-3:] == ["--", "app:v1", "/mnt"]
    return words[2:-3]


@pytest.mark.parametrize("option", PASSED_ON)
def test_options_of_the_kernel_are_passed_on(option: str) -> None:
    """They reach `imagefs mount`, each once, whatever stands beside them."""
    assert meaning(option) == [f"--option={option}"]
    assert meaning(f"{option},rw,{option}") == [f"--option={option}"]


@pytest.mark.parametrize("option", UNDOES)
def test_the_last_word_counts(option: str) -> None:
    """What undoes an option does so where it comes later, and is else so anyway."""
    other = UNDOES[option]
    assert meaning(option) == []
    assert meaning(f"{other},{option}") == []
    assert meaning(f"{option},{other}") == [f"--option={other}"]


@pytest.mark.parametrize("option", [*SO_ANYWAY, *SAID_UNASKED, *HEEDED_BY_OTHERS])
def test_what_needs_nothing_done_is_taken(option: str) -> None:
    """A line of fstab(5) may say what holds anyway, and what is for mount(8) or systemd."""
    assert meaning(option) == []


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(option: str) -> None:
    """No option is dropped in silence, nor the value of one that takes none."""
    with pytest.raises(UsageError, match=re.escape(repr(option))):
        meaning(f"ro,{option}")


@pytest.mark.parametrize("words", ["/mnt -o ro", "a b c -o ro"])
def test_two_places_are_wanted(words: str) -> None:
    """SOURCE and MOUNTPOINT, no fewer and no more."""
    with pytest.raises(UsageError):
        mount_helper.words(words.split())


def test_a_source_is_no_option() -> None:
    """What begins with a dash behind the options' end is still a place; `-` is standard input."""
    assert mount_helper.words(["-", "/mnt", "-o", "ro"])[-2:] == ["-", "/mnt"]


@pytest.mark.parametrize(
    ("words", "is_call"),
    [
        ("app:v1 /mnt -o ro", True),
        ("mount app:v1 /mnt", False),
        ("mount -f app:v1 /mnt", False),
        ("--debug mount app:v1 /mnt", False),
        ("unmount /mnt -l", False),
        ("export app:v1 -o app.tar", False),
        ("export /mnt -o rw,noexec", True),
    ],
)
def test_our_own_commands_are_told_from_a_helpers_call(words: str, is_call: bool) -> None:
    """mount.fuse3 runs `imagefs SOURCE MOUNTPOINT -o OPTIONS`, with no command's name in front."""
    assert mount_helper.is_call(words.split(), {"mount", "unmount", "export"}) == is_call
