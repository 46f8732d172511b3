"""What `mount -t fuse.imagefs` and fstab(5) mean in words of `imagefs mount`."""

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
    "app:v1 /mnt -N 17 -o log_level=info -o driver=native,,": "--log-level=info --driver=native",
}


@pytest.mark.parametrize("words", MEANINGS)
def test_options_are_translated(words: str) -> None:
    """Options of imagefs become its own, in either order; those that are mount(8)'s are dropped."""
    meant = ["mount", "--quiet", *MEANINGS[words].split(), "--", "app:v1", "/mnt"]
    assert mount_helper.words(words.split()) == meant


@pytest.mark.parametrize(
    "words", ["/mnt -o ro", "a b c -o ro", "a b -o colour=red", "a b -o view", "a b -o verify=1"]
)
def test_what_makes_no_sense_is_refused(words: str) -> None:
    """Unknown options are never silently dropped, nor values of options that take none."""
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
    ],
)
def test_our_own_commands_are_told_from_a_helpers_call(words: str, is_call: bool) -> None:
    """mount.fuse3 runs `imagefs SOURCE MOUNTPOINT -o OPTIONS`, with no command's name in front."""
    assert mount_helper.is_call(words.split()) == is_call
