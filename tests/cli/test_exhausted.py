"""Every command where the machine refuses something: one line that says what, and status 1."""

import contextlib
import gzip
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import users
from tests.support.needs import need_fuse, need_tool
from tests.support.saved import docker_save
from tests.support.tars import layer
from tests.support.users import Answer, User

ARCHIVE = docker_save(layer({"etc/": "", "etc/motd": "hello\n"}), layer({"srv/": "", "srv/a": "b"}))
NOBODY_KNOWN = 54321
"""A uid that has neither a name nor a home."""

COMMANDS = {
    "mount": "mount -q app.tar mnt",
    "mount packed": "mount -q app.tar.gz mnt",
    "mount by libfuse": "mount -q --driver libfuse app.tar mnt",
    "mount from input": "mount -q - mnt",
    "mount from an engine": "mount -q app:v1 mnt",
    "serve": "serve mnt",
    "unmount": "unmount mnt",
    "unmount all": "unmount --all",
    "mounts": "mounts",
    "inspect": "inspect -q app.tar",
    "inspect packed": "inspect -q --json app.tar.gz",
    "layers": "layers -q app.tar",
    "fetch": "fetch -q app:v1",
    "list": "ls -q -lR app.tar",
    "copy": "cp -q app.tar /srv -",
    "export": "export -q -o x.tar app.tar",
    "export as EROFS": "export -q --format erofs -o x.erofs app.tar",
    "mount from a registry": "mount -q --plain-http docker://127.0.0.1:9/app:v1 mnt",
    "cache list": "cache list",
    "cache verify": "cache verify -q",
    "cache prune": "cache prune --keep-bytes 0",
    "help": "mount --help",
}

# What stands before a command; or what a shell does around it, with the command as "$@".
SHORTAGES = {
    **{f"{n} files": f'prlimit --nofile={n} "$@"' for n in (8, 14, 24)},
    **{f"{n} MiB": f'prlimit --as={n << 20} "$@"' for n in (50, 100)},
    "no processes": 'prlimit --nproc=1 "$@"',
    "no bytes of a file": 'prlimit --fsize=0 "$@"',
    "few bytes of a file": 'prlimit --fsize=100 "$@"',
    "closed input": '"$@" <&-',
    "closed output": '"$@" >&-',
    "closed errors": '"$@" 2>&-',
    "all closed": '"$@" <&- >&- 2>&-',
    "full output": '"$@" >/dev/full',
    "full errors": '"$@" 2>/dev/full',
    "no place for temporary files": 'TMPDIR=/nonexistent "$@"',
    "a closed cache": 'IMAGEFS_CACHE=/root/cache "$@"',
    "a cache of somebody else's": 'IMAGEFS_CACHE=/etc "$@"',
    "a cache that is a file": 'IMAGEFS_CACHE=app.tar "$@"',
    "a cache on a full disk": 'IMAGEFS_CACHE=full/cache "$@"',
    "no home": 'env -u HOME "$@"',
    "2,000 open files": 'exec 3<app.tar; i=4; while [ $i -lt 2000 ]; do eval "exec $i<&3";'
    ' i=$((i+1)); done; "$@"',
}


@pytest.fixture(scope="module")
def somebody() -> Iterator[User]:
    """An ordinary user with an image, in a world in which one disk is full."""
    need_fuse("libfuse")
    need_tool("prlimit", "util-linux")
    with prepared(users.NOBODY) as user:
        yield user


@pytest.fixture(scope="module")
def nobody_known() -> Iterator[User]:
    """Who has no entry in passwd(5)."""
    with prepared(NOBODY_KNOWN) as user:
        yield user


@contextlib.contextmanager
def prepared(uid: int) -> Iterator[User]:
    with users.others(0, uid) as (root, user):
        user.file("app.tar", ARCHIVE)
        user.file("app.tar.gz", gzip.compress(ARCHIVE))
        user.directory()
        full = user.directory("full")
        make = 'mount -t tmpfs -o size=16k,mode=777 tmpfs "$0"; head -c 64k /dev/zero >"$0/x"; :'
        assert root.run("sh", "-c", make, full).status == 0
        yield user


def attempt(user: User, command: str, shortage: str) -> Answer:
    """Run a command in a shortage; unmount what it may have mounted."""
    words = user.command(*command.split())
    try:
        return user.run(
            *("bash", "-c", shortage, "bash", *words),
            stdin=ARCHIVE,
            DOCKER_HOST="unix:///no/such.sock",
            XDG_STATE_HOME=str(user.home / "state"),
        )
    finally:
        user.run("fusermount3", "-u", "-z", user.home / "mnt")


def check(answer: Answer, shortage: str) -> None:
    """Hold an answer to what every command promises."""
    said = answer.out + answer.err
    for words in ("Traceback", "unexpected", "Exception ignored"):
        assert words not in said, said
    if "MiB" in shortage and answer.status == -signal.SIGABRT:
        # The C library's own end, where a thread that ends finds no room to load what it needs.
        assert "libgcc_s.so.1 must be installed" in said, said
        return
    assert answer.status in (0, 1), said
    heard = shortage not in ("closed errors", "all closed", "full errors")
    if answer.status == 1 and heard:
        assert answer.err.startswith("imagefs: "), said
        assert answer.err.count("\n") == 1, said


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_every_shortage_is_one_line(somebody: User, shortage: str) -> None:
    """No command ends with a traceback or with an error that nobody expected."""
    for command in COMMANDS.values():
        check(attempt(somebody, command, SHORTAGES[shortage]), shortage)


def test_who_has_no_home_gets_on(nobody_known: User) -> None:
    """No command trips over it; what needs no home, such as to look into an archive, succeeds."""
    shortage = SHORTAGES["no home"]
    for command in COMMANDS.values():
        check(attempt(nobody_known, command, shortage), "no home")
    for name in ("inspect", "inspect packed", "mounts", "unmount all"):
        assert attempt(nobody_known, COMMANDS[name], shortage).status == 0, name
    for name in ("mount", "layers", "cache list"):
        answer = attempt(nobody_known, COMMANDS[name], shortage)
        assert "IMAGEFS_CACHE" in answer.err, name
    with_cache = f"IMAGEFS_CACHE=kept {shortage}"
    assert attempt(nobody_known, COMMANDS["layers"], with_cache).status == 0


def test_root_without_a_home_mounts_where_there_is_a_cache(tmp_path: Path) -> None:
    """A daemon that finds no place for its log serves all the same."""
    need_fuse(user=True)
    with users.others(0) as (root,):
        archive, place = root.file("app.tar", ARCHIVE), root.directory()
        become = ("setpriv", "--inh-caps=-all", "env", "-u", "HOME", f"IMAGEFS_CACHE={root.home}/c")
        answer = root.run(*become, *root.command("mount", archive, place))
        assert answer.status == 0, answer.err
        assert root.reads(place / "rootfs/etc/motd") == "hello\n"


@pytest.mark.parametrize("command", ["mounts", "inspect", "help"])
def test_output_that_goes_nowhere_is_a_failure(somebody: User, command: str) -> None:
    """A script is told that it has not got what it asked for."""
    for name in ("closed output", "full output"):
        answer = attempt(somebody, COMMANDS[command], SHORTAGES[name])
        assert answer.status == 1, (name, answer)
