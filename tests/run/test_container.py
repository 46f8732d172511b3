"""What is run: how the words of the image and of the user combine, as docker run has it."""

import json
import os
from pathlib import Path

import pytest

from imagefs.errors import CorruptArchive, UsageError
from imagefs.image import runtime
from imagefs.image.runtime import RuntimeConfig
from imagefs.run.container import Asked, Volume, container, mount_points, spec, volume
from imagefs.run.users import User

ROOT = User(0, 0, (), "/root")
IMAGE = RuntimeConfig(("entry", "-x"), ("cmd", "-y"))

ARGS = {
    "the image's own": (IMAGE, Asked(), ("entry", "-x", "cmd", "-y")),
    "a command": (IMAGE, Asked(command=("ls", "-l")), ("entry", "-x", "ls", "-l")),
    "an entry point drops the image's command": (IMAGE, Asked(entrypoint="sh"), ("sh",)),
    "both": (IMAGE, Asked(command=("-c", "x"), entrypoint="sh"), ("sh", "-c", "x")),
    "no entry point": (IMAGE, Asked(command=("ls",), entrypoint=""), ("ls",)),
    "only a command": (RuntimeConfig(cmd=("a", "b")), Asked(), ("a", "b")),
    "only an entry point": (RuntimeConfig(("a",)), Asked(), ("a",)),
}
NOTHING = {
    "nothing": (RuntimeConfig(), Asked()),
    "the entry point taken away": (IMAGE, Asked(entrypoint="")),
    "an empty word": (RuntimeConfig(cmd=("",)), Asked()),
}
DIRECTORIES = {
    "": "/",
    "/srv": "/srv",
    "srv": "/srv",
    "../../etc": "/etc",
    "/a//b/../c/": "/a/c",
    "//a": "/a",
}
NAMES = {
    "/images/My_App.v2.tar.gz": "my-app-v2",
    "registry.example:5000/team/app:v1": "app",
    "app@sha256:0123": "app",
    "-": "imagefs",
    "a" * 80: "a" * 63,
    "…": "imagefs",
}


@pytest.mark.parametrize("case", ARGS)
def test_command(case: str) -> None:
    """Entry point and command are joined, and what the user says comes first."""
    config, asked, args = ARGS[case]
    assert container(config, asked, ROOT, "app", {}).args == args


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_run(case: str) -> None:
    """An image without a command asks for one."""
    with pytest.raises(UsageError, match="say what to run"):
        container(*NOTHING[case], ROOT, "app", {})


def test_environment() -> None:
    """The image's variables come over what every command has, the user's over the image's."""
    config = RuntimeConfig(cmd=("x",), env=("A=1", "B=2", "HOME=/h", "odd", "=odd", "E=a=b"))
    asked = Asked(env=("B=3", "FROM", "UNSET", "C="), terminal=os.terminal_size((80, 24)))
    box = container(config, asked, ROOT, "app:v1", {"FROM": "host", "TERM": "vt100", "SECRET": "s"})
    assert dict(word.split("=", 1) for word in box.env) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": "app",
        "TERM": "vt100",
        "HOME": "/h",
        "A": "1",
        "B": "3",
        "E": "a=b",
        "FROM": "host",
        "C": "",
    }


@pytest.mark.parametrize("path", DIRECTORIES)
def test_working_directory(path: str) -> None:
    """Wherever a path tries to lead, it stays in the root; the user's comes first."""
    config = RuntimeConfig(cmd=("x",), working_dir=path)
    assert container(config, Asked(), ROOT, "app", {}).cwd == DIRECTORIES[path]
    assert container(config, Asked(working_dir="/w"), ROOT, "app", {}).cwd == "/w"


@pytest.mark.parametrize("source", NAMES)
def test_hostname(source: str) -> None:
    """The host is called like the image, as far as a host may be."""
    assert container(IMAGE, Asked(), ROOT, source, {}).hostname == NAMES[source]


def test_volumes(tmp_path: Path) -> None:
    """A path of the host, and where it shows; the last word may forbid writing."""
    assert volume(f"{tmp_path}:/data") == Volume(tmp_path, "/data")
    assert volume(f"{tmp_path}:/data/../x/:ro") == Volume(tmp_path, "/x", read_only=True)
    assert volume(f"{tmp_path}:/data:rw") == Volume(tmp_path, "/data")


@pytest.mark.parametrize(
    "text", ["", "/tmp", ":/x", "/tmp:x", "/tmp:/x:no", "/tmp:/", "/no/such:/x"]
)
def test_no_volume(text: str) -> None:
    """What is no volume is refused before anything is done."""
    with pytest.raises(UsageError):
        volume(text)


def test_only_root_has_capabilities() -> None:
    """Root has what a package manager needs, nobody has more, and none can be had later."""
    for user, some in ((ROOT, True), (User(5, 5, (), "/"), False)):
        process = spec(container(IMAGE, Asked(), user, "app", {}), "/r", Path("/f"))["process"]
        assert process["noNewPrivileges"] is True
        held = {name for kind in process["capabilities"].values() for name in kind}
        assert bool(held) == some
        assert not held & {"CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_NET_ADMIN"}


def test_places(tmp_path: Path) -> None:
    """Everything that is mounted on has its place beforehand, so that nothing makes one."""
    (tmp_path / "file").touch()
    shown = (Volume(tmp_path, "/v/d"), Volume(tmp_path / "file", "/v/f"))
    box = container(IMAGE, Asked(volumes=shown, working_dir="/w"), ROOT, "app", {})
    places = mount_points(box)
    assert places["/v/d"]
    assert not places["/v/f"]
    targets = {one["destination"] for one in spec(box, "/r", Path("/f"))["mounts"]}
    within_dev = {target for target in targets if target.startswith("/dev/")}
    assert targets - within_dev == set(places) - {"/w"}


SAID = {
    "Entrypoint": ("sh", 5, {"a": "b"}, [1], ["a\0b"]),
    "Cmd": ("sh", False, [None]),
    "Env": ("A=b", {"A": "b"}, [["A=b"]], ["A=\0"]),
    "User": (0, [], "a\0"),
    "WorkingDir": (["/"], {}, "/\0"),
}


@pytest.mark.parametrize("key", SAID)
def test_absurd_configurations(key: str) -> None:
    """What is of another shape is damage, with the name of what it is in."""
    for value in SAID[key]:
        with pytest.raises(CorruptArchive, match=key):
            runtime.parse(json.dumps({"config": {key: value}}).encode())


@pytest.mark.parametrize("content", [b"{}", b'{"config": null}', b'{"config": []}', b"[]"])
def test_an_image_that_says_nothing(content: bytes) -> None:
    """A configuration need not say how to run; then nothing is said."""
    assert runtime.parse(content) == RuntimeConfig()
