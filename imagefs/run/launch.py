"""Running a container, from outside: the namespaces, the signals and the end.

    the caller --fork--> pid 1 of a namespace, which serves the image --fork--> crun --> the command

Owns the outer process. All the others live in a pid namespace of their own, with the mounts in a
mount namespace that only they have: when its pid 1 ends, for whatever reason, the kernel ends
them and takes the mounts away, and it ends with the outer process. So nothing is left behind, also
after SIGKILL, and there is nothing to clean up. To be called from the main thread, there being no
other.
"""

import errno
import os
import shutil
import signal
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

from imagefs.errors import HostError, RunError
from imagefs.filesystem import FileSystem
from imagefs.host import libc
from imagefs.run import idmap, inside
from imagefs.run.container import Container
from imagefs.run.idmap import IdMap

_PASSED_ON = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCONT),
}
_ENGINE = "crun"


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run a container.

    `source` is what the image is called, `cover` a directory that nobody else needs: in the new
    mount namespace all our own lies on top of it. What is written goes to the two parts of the
    directory `written`, to memory where that is None. `ids` None is for root, who needs no user
    namespace.
    """

    container: Container
    source: str
    cover: Path
    written: Path | None = None
    ids: IdMap | None = None


def engine() -> str:
    """Return the path of the OCI runtime; HostError if there is none."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/bin:/sbin:/bin"
    found = shutil.which(_ENGINE, path=path)
    if found is None:
        raise HostError(f"{_ENGINE} is missing, which runs the command: apt install {_ENGINE}")
    return found


def launch(fs: FileSystem, plan: Plan) -> int:
    """Run a container on the file system of its image; return the command's exit status.

    Raises RunError where the command did not come to run.
    """
    runtime = engine()
    told, tell = os.pipe2(os.O_CLOEXEC)
    ordered, order = os.pipe2(os.O_CLOEXEC)
    _enter(plan.ids)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    terminal = _terminal()
    try:
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(told)
            os.close(order)
            inside.serve(fs, plan.container, inside.Place(
                plan.source, plan.cover, plan.written, runtime, plan.ids is not None
            ), inside.Pipes(ordered, tell))  # fmt: skip
        os.close(tell)
        os.close(ordered)
        code = _watch(child, order)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, terminal)
    with open(told, "rb") as answers:
        complaint = answers.read().decode("utf-8", "replace")
    if complaint:
        raise RunError(complaint, max(code, inside.NOT_STARTED))
    if code < 0:
        raise RunError(f"what serves the image was ended: {signal.strsignal(-code)}")
    return code


def _enter(ids: IdMap | None) -> None:
    """Give the process and its children to come their namespaces."""
    if ids is not None:
        idmap.enter(ids)
    failure = libc.call("unshare", libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWCGROUP)
    if failure and ids is not None:
        raise idmap.closed(failure)
    if failure == errno.EPERM:
        raise HostError("namespaces are not permitted here; a container needs --cap-add SYS_ADMIN")
    if failure:
        raise HostError(f"namespaces cannot be had: {os.strerror(failure)}")


def _terminal() -> "list[int | list[bytes | int]] | None":
    """Return how standard input's terminal is set, if it is one: to be set so in the end."""
    try:
        return termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):
        return None


def _watch(child: int, order: int) -> int:
    """Pass signals on until a child has ended; return its status, negative if a signal ended it."""
    while True:
        found = signal.sigwaitinfo(_PASSED_ON | {signal.SIGCHLD})
        if found.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        elif found.si_code <= 0:
            # What the kernel sends, as for Ctrl-C, crun has had too: it is of our process group.
            os.write(order, bytes([found.si_signo]))
