"""What is to be run, as docker run would have it, and the OCI runtime configuration that says so.

Pure. Any thread may call it.
"""

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagefs.errors import UsageError
from imagefs.image.runtime import RuntimeConfig
from imagefs.run.users import User

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a package manager needs of root, and no more.
_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
]
# What tells of the machine, or changes it, beyond what a namespace holds apart.
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
TTY_GROUP = 5
HOST_FILES = ("resolv.conf", "hosts")
"""Files of the host's /etc that are shown in the container's, as copies."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A file or directory of the host, shown at an absolute path of the container."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user said of how to run, in place of what the image says.

    `terminal` is the size of the one that the command is to have, None for none.
    """

    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()
    working_dir: str | None = None
    read_only: bool = False
    network: bool = True
    interactive: bool = False
    terminal: os.terminal_size | None = None
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """A command, who runs it and in which surroundings; `tty_group` tells
    whether the group of terminals exists."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: User
    hostname: str
    asked: Asked
    tty_group: bool = True


def volume(text: str) -> Volume:
    """Return what `HOST:PATH[:ro]` means; UsageError if that is nothing or does not exist."""
    host, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not host or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise UsageError(f"{text!r} is no volume; write HOST:/PATH or HOST:/PATH:ro")
    target = _inside(target)
    if target == "/":
        raise UsageError(f"{text!r}: a volume cannot take the place of the whole root")
    source = Path(host).absolute()
    if not source.exists():
        raise UsageError(f"{host}: there is no such file or directory to show as a volume")
    return Volume(source, target, mode == "ro")


def container(
    config: RuntimeConfig,
    asked: Asked,
    user: User,
    source: str,
    environment: Mapping[str, str],
    *,
    tty_group: bool = True,
) -> Container:
    """Combine what the image and the user say, as docker run does.

    `source` gives the host its name, `environment` is the caller's. UsageError if there is nothing
    to run.
    """
    if asked.entrypoint is not None:
        args = ((asked.entrypoint,) if asked.entrypoint else ()) + asked.command
    else:
        args = config.entrypoint + (asked.command or config.cmd)
    if not args or not args[0]:
        raise UsageError("the image names no command: say what to run behind its name")
    hostname = _hostname(source)
    env = {"PATH": _PATH, "HOSTNAME": hostname, "HOME": user.home}
    if asked.terminal:
        env["TERM"] = environment.get("TERM", "xterm")
    env |= dict(_pairs(config.env, {})) | dict(_pairs(asked.env, environment))
    cwd = asked.working_dir if asked.working_dir is not None else config.working_dir
    words = tuple(f"{name}={value}" for name, value in env.items())
    return Container(args, words, _inside(cwd), user, hostname, asked, tty_group)


def _pairs(words: Sequence[str], environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names with values; a name alone has the environment's value, if that has one."""
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if name and equals:
            found.append((name, value))
        elif name in environment:
            found.append((name, environment[name]))
    return found


def _inside(path: str) -> str:
    """Return a path of the container's, which `..` does not lead out of."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _hostname(source: str) -> str:
    """Return a host's name made of a source's: its last part, without tag and ending."""
    last = posixpath.basename(source.rstrip("/"))
    name = re.split(r"[:@]", last)[0].removesuffix(".gz").removesuffix(".tar").lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:63].strip("-") or "imagefs"


def mount_points(box: Container) -> dict[str, bool]:
    """Return the paths that something is mounted on, or begun in, and whether it is a directory."""
    found = {"/proc": True, "/sys": True, "/dev": True, box.cwd: True}
    found |= {f"/etc/{name}": False for name in HOST_FILES}
    return found | {one.target: one.source.is_dir() for one in box.asked.volumes}


def spec(box: Container, root: str, host_files: Path) -> dict[str, Any]:
    """Return the configuration for an OCI runtime (runtime-spec, config.md).

    `root` is where the root file system is mounted, `host_files` the directory with the copies
    that are to be shown in /etc.
    """
    namespaces = ["pid", "mount", "ipc", "uts", *([] if box.asked.network else ["network"])]
    held = _CAPABILITIES if box.user.uid == 0 else []
    return {
        "ociVersion": "1.0.2",
        "process": {
            **_terminal(box.asked.terminal),
            "user": {
                "uid": box.user.uid,
                "gid": box.user.gid,
                "additionalGids": list(box.user.groups),
                "umask": 0o022,
            },
            "args": list(box.args),
            "env": list(box.env),
            "cwd": box.cwd,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held),
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": box.asked.read_only},
        "hostname": box.hostname,
        "mounts": [*_mounts(box), *_bound(box, host_files)],
        "linux": {
            "namespaces": [{"type": name} for name in namespaces],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _terminal(size: os.terminal_size | None) -> dict[str, Any]:
    if size is None:
        return {"terminal": False}
    return {"terminal": True, "consoleSize": {"height": size.lines, "width": size.columns}}


def _mounts(box: Container) -> list[dict[str, Any]]:
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    pts += [f"gid={TTY_GROUP}"] if box.tty_group else []
    safe = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", safe),
        _mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", pts),
        _mount("/dev/shm", "tmpfs", [*safe, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", safe),
        # A new one would show a network that is not ours; with what hangs in it, as read-only.
        _mount("/sys", "none", ["rbind", *safe, "rro"], "/sys")
        if box.asked.network
        else _mount("/sys", "sysfs", [*safe, "ro"]),
    ]


def _bound(box: Container, host_files: Path) -> list[dict[str, Any]]:
    files = [
        _mount(f"/etc/{name}", "none", ["bind"], os.fspath(host_files / name))
        for name in HOST_FILES
    ]
    return files + [_volume(one) for one in box.asked.volumes]


def _volume(one: Volume) -> dict[str, Any]:
    # With all that is mounted below it, which a file cannot have.
    options = ["rbind", "rprivate"] if one.source.is_dir() else ["bind"]
    if one.read_only:
        options.append("rro" if one.source.is_dir() else "ro")
    return _mount(one.target, "none", options, os.fspath(one.source))


def _mount(target: str, kind: str, options: list[str], source: str | None = None) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": options}
