"""Running a container, from outside: the namespaces, the signals and the end.

    the caller -> one between -> pid 1 of a namespace, which serves the image -> crun -> the command

Owns the outer process and the one between. All the others live in a pid namespace of their own,
with the mounts in a mount namespace that only they have: when its pid 1 ends, for whatever reason,
the kernel ends them and takes the mounts away, and it ends with the outer process. So nothing is
left behind, also after SIGKILL, and nothing is to be cleaned up. To be called from the main thread.
"""

import contextlib
import errno
import os
import shutil
import signal
import sys
import termios
from typing import NoReturn, TypeAlias

from imagefs.errors import HostError, RunError
from imagefs.filesystem import FileSystem
from imagefs.host import libc
from imagefs.host.processes import end_with
from imagefs.run import idmap, inside
from imagefs.run.idmap import IdMap
from imagefs.run.inside import Plan

_PASSED_ON = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCONT),
}
_ENGINE = "crun"
_Signals: TypeAlias = set[signal.Signals | int]


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
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    terminal = _terminal()
    try:
        outer = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(told)
            os.close(order)
            _stand_between(fs, plan, runtime, inside.Pipes(ordered, tell), outer, mask)
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
        raise RunError("what runs the command was ended")
    return code


def _stand_between(
    fs: FileSystem, plan: Plan, runtime: str, pipes: inside.Pipes, outer: int, mask: _Signals
) -> NoReturn:
    """Enter the namespaces, start their first process, and end as it ends.

    Only a process of one thread may enter a user namespace, and the outer one may have had others.
    """
    try:
        _enter(plan.ids)
        end_with(outer)
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            inside.serve(fs, plan, runtime, pipes)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            raise RunError("what serves the image was ended, and with it the command")
        os._exit(code)
    except BaseException as error:
        inside.end(pipes, error)


def _enter(ids: IdMap) -> None:
    """Give the process and its children to come their namespaces."""
    mapped = os.geteuid() != 0
    if mapped:
        idmap.enter(ids)
    failure = libc.call("unshare", libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWCGROUP)
    if failure and mapped:
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
            with contextlib.suppress(BrokenPipeError):
                os.write(order, bytes([found.si_signo]))
