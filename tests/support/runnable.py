"""Archives of images that can be run: busybox, with what their configuration says of running."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import BUSYBOX
from tests.support.samples import SampleImage, docker_20, dumped, tar_of
from tests.support.tars import Dir, File, Sym, layer

APPLETS = (
    *(
        "cat",
        "chmod",
        "chown",
        "echo",
        "env",
        "false",
        "grep",
        "hostname",
        "id",
        "kill",
        "ln",
        "ls",
    ),
    *("mkdir", "mount", "ps", "pwd", "readlink", "rm", "rmdir", "sh", "sleep", "stat", "stty"),
    *("touch", "tr", "true", "tty", "umask", "wc"),
)


@dataclass(frozen=True)
class RunnableImage(SampleImage):
    """A sample with another `config` part of its configuration."""

    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> bytes:
        return dumped({**json.loads(super().config), "config": self.said})


def root_files() -> dict[str, Any]:
    """Return the files of a small root in which busybox's shell runs, of several owners."""
    found = next((path for path in BUSYBOX if os.path.exists(path)), None)
    if found is None:
        pytest.skip("busybox is missing (apt install busybox-static)")
    return {
        "bin/": Dir(),
        "bin/busybox": File(Path(found).read_bytes(), 0o755),
        **{f"bin/{name}": Sym("busybox") for name in APPLETS},
        "etc/": Dir(),
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:100:101::/home/app:/bin/sh\n",
        "etc/group": "root:x:0:\napp:x:101:\nextra:x:102:app\n",
        "home/": Dir(),
        "home/app/": Dir(0o700, uid=100, gid=101),
        "home/app/own": File("own", 0o600, uid=100, gid=101),
        "tmp/": Dir(0o1777),
    }


def busybox(files: Mapping[str, Any] | None = None, **said: Any) -> bytes:
    """Return the archive of an image of busybox and `files`, whose configuration says `said`."""
    content = {**root_files(), **(files or {})}
    said = {"Cmd": ["sh"], "Env": ["PATH=/bin"], **said}
    members = {name: value for name, value in content.items() if value is not None}
    return tar_of(docker_20(RunnableImage((layer(members),), said=said)))


def python() -> bytes:
    """Return the archive of an image of Python: its interpreter, and what that loads to start."""
    script = "import os, sys; print(*{m.__file__ for m in [*sys.modules.values(), os] if getattr("
    script += "m, '__file__', None)}, sep='\\n')"
    base = Path(sys.base_prefix)
    interpreter = Path(os.path.realpath(sys.executable))
    words = [str(interpreter), "-I", "-S", "-c", script]
    loaded = subprocess.run(words, capture_output=True, check=True).stdout.decode().splitlines()
    linked = subprocess.run(["ldd", interpreter], capture_output=True, check=True).stdout.decode()
    libraries = re.findall(r"(/\S+) \(0x", linked)
    wanted = {*loaded, *libraries, str(interpreter)}
    wanted |= {str(path) for path in base.glob("lib/python3*/encodings/*.py")}
    files = {path.lstrip("/"): File(Path(path).read_bytes(), 0o755) for path in sorted(wanted)}
    said = {"Entrypoint": [str(interpreter), "-S", "-c"], "Env": [f"PYTHONHOME={base}"]}
    return tar_of(docker_20(RunnableImage((layer(files),), said=said)))
