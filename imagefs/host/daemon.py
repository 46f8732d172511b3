"""Leaving a daemon behind: fork, detach, tell the parent, log.

Owns what a process must do to serve a mount with nobody watching. Knows nothing of mounts. To be
called from the main thread, before any other thread has been started: a fork takes only its
caller along.
"""

import contextlib
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from imagefs.errors import HostError, ImagefsError, shortage
from imagefs.host.files import locked, user_path
from imagefs.text import printable

_READY = b"+"
_SYSLOG = Path("/dev/log")
_MAX_LOG = 1 << 20

Work = Callable[[Callable[[], None]], None]
"""Runs until its end; calls what it is given once it is ready to be used."""

_log = logging.getLogger(__name__)


def detach(work: Work, level: int) -> int:
    """Run `work` in a daemon; return its pid once it is ready.

    What goes wrong before it is ready is raised here as HostError.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _be_daemon(work, tell, level)
    os.close(tell)
    with open(told, "rb") as answers:
        try:
            answer = answers.read(1)
        except KeyboardInterrupt:
            # The daemon's session is not the terminal's, and has not been interrupted.
            os.kill(pid, signal.SIGTERM)
            raise
        if answer == _READY:
            return pid
        answer += answers.read()
    os.waitpid(pid, 0)
    reason = answer.decode("utf-8", "replace").strip()
    raise HostError(reason or "the daemon ended before it was ready")


def _be_daemon(work: Work, tell: int, level: int) -> NoReturn:
    """Detach from terminal, directory and parent, work, and end without the parent's clean-up."""
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o077)
        _forget_terminal()
        log_to_system(level)

        def ready() -> None:
            # It stays open, unheard from now on: its number must not come to stand for a file
            # that what goes wrong later would be written to.
            os.write(tell, _READY)
            notify("READY=1")

        work(ready)
        status = 0
    except ImagefsError as error:
        _log.error("%s", error)
        _say(tell, str(error))
    except BaseException as error:
        _log.exception("the daemon failed")
        _say(tell, f"the daemon failed: {shortage(error) or repr(error)}")
    finally:
        logging.shutdown()
        os._exit(status)


def _say(tell: int, words: str) -> None:
    try:
        os.write(tell, words.encode("utf-8", "replace"))
    except OSError:
        _log.debug("nobody waits for the daemon any more")


def _forget_terminal() -> None:
    """Let go of all descriptors that our caller has handed down: locks, pipes, the terminal."""
    for fd in map(int, os.listdir("/dev/fd")):
        # What we have opened ourselves is closed on exec(2); what survived exec(2) is not.
        with contextlib.suppress(OSError):
            if fd > 2 and os.get_inheritable(fd):
                os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


class _Printable(logging.Formatter):
    """Formats what is logged so that neither a terminal nor a log's encoding trips over names."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


class SharedLog(logging.Handler):
    """A file that several processes write to, which is put aside as `.1` when it has grown large.

    Each line is written under a lock, to whatever file has the name then: one who kept the file
    that another has put aside would write into it unseen, and put the new one aside too early.
    """

    def __init__(self, path: Path, most: int = _MAX_LOG) -> None:
        super().__init__()
        self._path = path
        self._most = most
        self._write("")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; what fails is no reason not to serve."""
        try:
            self._write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def _write(self, text: str) -> None:
        line = text.encode("utf-8", "backslashreplace")
        with locked(self._path.with_suffix(".lock")):
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_size + len(line) > self._most:
                    self._path.replace(self._path.with_suffix(self._path.suffix + ".1"))
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line)
            finally:
                os.close(fd)


def log_to_terminal(level: int) -> None:
    """Send what is logged to standard error, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("imagefs: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_to_system(level: int) -> None:
    """Send what is logged to the journal or syslog; to `log_file()` where there is neither.

    Where that cannot be written, nothing is logged: it is no reason not to serve.
    """
    from logging.handlers import SysLogHandler  # noqa: PLC0415

    handler: logging.Handler
    try:
        if not stat.S_ISSOCK(_SYSLOG.stat().st_mode):
            raise FileNotFoundError
        handler = SysLogHandler(address=str(_SYSLOG), facility=SysLogHandler.LOG_DAEMON)
        handler.ident = f"imagefs[{os.getpid()}]: "
        form = "%(message)s"
    except OSError:
        form = "%(asctime)s imagefs[%(process)d] %(levelname)s %(message)s"
        try:
            path = log_file()
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handler = SharedLog(path)
        except (OSError, HostError):
            handler = logging.NullHandler()
    handler.setFormatter(_Printable(form))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_file() -> Path:
    """Return where daemons log without a journal: under XDG_STATE_HOME, or ~/.local/state.

    Raises NoHomeError where there is neither.
    """
    return user_path("state") / "imagefs.log"


def notify(state: str) -> None:
    """Tell systemd a daemon's state, if it asked for it; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.sendto(state.encode(), address)
    except OSError as error:
        _log.warning("systemd at %s cannot be told: %s", address, error.strerror)
