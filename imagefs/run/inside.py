"""Running a container, from inside its outer pid namespace: the image's daemon and the runtime.

Owns what is mounted, in a mount namespace that ends with these processes: on top of a directory
that nobody else needs, a tmpfs with the image, the overlay and all that the OCI runtime wants to
have. `serve` is the first process of the namespace; its main thread answers the kernel, another
one waits for the runtime, whose end is the end of all.
"""

import contextlib
import json
import os
import re
import select
import signal
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from imagefs.errors import HostError, ImagefsError, RunError, shortage
from imagefs.filesystem import FileSystem
from imagefs.fuse import server
from imagefs.fuse.mount import MountOptions
from imagefs.host import libc
from imagefs.host.mount_point import hold
from imagefs.host.processes import end_with
from imagefs.overlay import stack
from imagefs.run import idmap
from imagefs.run.container import HOST_FILES, Container, mount_points, spec
from imagefs.run.idmap import IdMap

NOT_STARTED, NOT_RUNNABLE, NOT_FOUND = 125, 126, 127
"""Exit statuses where there is none of the command's own, as docker run has them."""
_FAILURE, _LOG, _LOG_MOST = "failure", "log", 64 << 10
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_CGROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a container.

    `source` is what the image is called, `cover` a directory that nobody else needs: in the new
    mount namespace all our own lies on top of it. What is written goes to the two parts of the
    directory `written`, to memory where that is None, in one of the overlay's ways. `ids` are
    those that there will be; an ordinary user gets a user namespace for them.
    """

    container: Container
    source: str
    cover: Path
    ids: IdMap
    way: str
    written: Path | None = None


@dataclass(frozen=True, slots=True)
class Pipes:
    """Ends of pipes to the outer process: signals to pass on come, a complaint goes."""

    ordered: int
    tell: int


def serve(fs: FileSystem, plan: Plan, runtime: str, pipes: Pipes) -> NoReturn:
    """Serve the image until the command has ended, and end with its status.

    RunError, with the status of `docker run`, is told on the pipe.
    """
    try:
        end_with(0)
        os.umask(0o022)
        _prepare(plan)
        ready, go = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            os.close(go)
            _become(runtime, plan, ready)
        os.close(ready)
        # The terminal's signals are for the runtime alone.
        os.setsid()
        waiter = threading.Thread(target=_wait, args=(child, pipes, plan.cover), daemon=True)
        waiter.start()
        options = MountOptions(plan.source, allow_other=True)
        server.serve(fs, hold(plan.cover / "image"), options, lambda: _go(go))
        raise RunError("the image's mount was taken away")
    except BaseException as error:
        end(pipes, error)


def _go(pipe: int) -> None:
    os.write(pipe, b"+")
    os.close(pipe)


def end(pipes: Pipes, error: BaseException) -> NoReturn:
    """End this process, for a reason that the outer one gets to know."""
    words = str(error) if isinstance(error, ImagefsError) else shortage(error) or repr(error)
    status = error.status if isinstance(error, RunError) else NOT_STARTED
    with contextlib.suppress(OSError):
        os.write(pipes.tell, words.encode("utf-8", "replace"))
    os._exit(status)


def _prepare(plan: Plan) -> None:
    """Lay out what will be mounted and bound."""
    failure = libc.call("mount", b"none", b"/", None, libc.MS_REC | libc.MS_PRIVATE, None)
    if failure:
        raise idmap.closed(failure)
    _mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV)
    # The runtime reads it, and where it finds cgroups of both kinds, refuses to run.
    with contextlib.suppress(HostError):
        _mount("cgroup2", _CGROUPS, "cgroup2", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_RDONLY)
    kept = None if plan.written is None else os.open(plan.written, os.O_PATH | os.O_CLOEXEC)
    cover = os.fspath(plan.cover)
    _mount("imagefs", cover, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "mode=700")
    os.chdir(cover)
    for name in ("image", "root", "skeleton", "files", "state", "written", "bundle"):
        os.mkdir(name)
    if kept is not None:
        _mount(f"/proc/self/fd/{kept}", "written", None, libc.MS_BIND)
        os.close(kept)
    else:
        stack.make(Path("written"))
    _make_skeleton(plan.container, Path("skeleton"))
    for name in HOST_FILES:
        with contextlib.suppress(OSError):
            Path("files", name).write_bytes(Path("/etc", name).read_bytes())
        Path("files", name).touch()
    with Path("files/hosts").open("a") as hosts:
        hosts.write(f"127.0.1.1\t{plan.container.hostname}\n")


def _make_skeleton(box: Container, below: Path) -> None:
    """Make the places to mount on; where the image has its own, these show."""
    for path, is_directory in mount_points(box).items():
        made = below / path.lstrip("/")
        made.parent.mkdir(parents=True, exist_ok=True)
        if is_directory:
            made.mkdir(exist_ok=True)
        else:
            made.touch()


def _become(runtime: str, plan: Plan, ready: int) -> NoReturn:
    """Wait for the image, lay the overlay on it, and turn into the runtime."""
    for number in (signal.SIGINT, *_IGNORED_BY_PYTHON):
        signal.signal(number, signal.SIG_DFL)
    try:
        if not os.read(ready, 1):
            os._exit(NOT_STARTED)  # whoever serves the image says why
        stack.mount(Path("image"), Path("written"), Path("root"), plan.way, below=Path("skeleton"))
        _check_places(Path("root"))
        root = os.fspath(plan.cover / "root")
        configuration = spec(plan.container, root, plan.cover / "files")
        Path("bundle/config.json").write_text(json.dumps(configuration))
        if not plan.container.asked.interactive:
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
        words = ["--cgroup-manager=disabled", f"--log={plan.cover / _LOG}", "--root=state"]
        words += ["run", "--bundle=bundle", f"imagefs-{os.getpid()}"]
        os.execve(runtime, [runtime, *words], {"PATH": os.environ.get("PATH", "")})
    except BaseException as error:
        reason = str(error) if isinstance(error, ImagefsError) else shortage(error) or repr(error)
        with contextlib.suppress(OSError):
            Path(_FAILURE).write_text(reason)
        os._exit(NOT_STARTED)


def _check_places(root: Path) -> None:
    """Refuse an image in which something else is where the kernel's file systems belong."""
    for name in ("proc", "sys", "dev"):
        if not stat.S_ISDIR((root / name).lstat().st_mode):
            raise RunError(f"the image's /{name} is no directory: nothing can be run in it")


def _wait(runtime: int, pipes: Pipes, cover: Path) -> None:
    """Pass on the signals that come in, until the runtime has ended; then end all."""
    ended = os.pidfd_open(runtime)
    both = select.poll()
    both.register(ended, select.POLLIN)
    both.register(pipes.ordered, select.POLLIN)
    while True:
        events = [fd for fd, _ in both.poll()]
        if pipes.ordered in events:
            numbers = os.read(pipes.ordered, 64)
            if not numbers:
                os._exit(NOT_STARTED)  # the outer process is no more
            for number in numbers:
                os.kill(runtime, number)
        if ended in events:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(runtime, 0)[1])
    if code < 0:
        code = 128 - code
    failure = cover / _FAILURE
    if failure.exists():
        end(pipes, RunError(failure.read_text(errors="replace")))
    # What the runtime writes there, it has said itself.
    complaint = _last_line(cover / _LOG) if code else ""
    os._exit(_status_of(complaint) if complaint else code)


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            lines = file.read(_LOG_MOST).decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _status_of(complaint: str) -> int:
    if re.match("executable file .* not found|open executable: No such file", complaint):
        return NOT_FOUND
    if re.match("open executable|exec container process|executable ", complaint):
        return NOT_RUNNABLE
    return NOT_STARTED


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    failure = libc.call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        flags,
        os.fsencode(data),
    )
    if failure:
        what = f"a {kind}" if kind else source
        raise HostError(f"{what} cannot be mounted at {target}: {os.strerror(failure)}")
