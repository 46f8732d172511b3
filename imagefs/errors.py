"""What can go wrong, told apart by who is at fault: caller, engine, registry, archive, host.

Every message is one line that names the thing at fault and, where there is one, the remedy.
`ImagefsError` is never raised itself. The command line turns a `UsageError` into exit status 2
and every other one into 1; outside errors (OSError, requests, json) are translated where they
enter, with `from`; what may fail anywhere, because the machine has no more of it, by `shortage`.
"""

import errno

_REMEDIES = {
    errno.EMFILE: "`ulimit -n` says how many files a program may have open",
    errno.ENFILE: "the whole system has no more",
    errno.EAGAIN: "`ulimit -u` says how many processes and threads you may have",
    errno.ENOMEM: "`ulimit -v` says how much a program may have",
    errno.EFBIG: "`ulimit -f` says how large a file may become",
}


class ImagefsError(Exception):
    """Base of all errors that imagefs raises on purpose."""


class UsageError(ImagefsError):
    """The caller asked for something that makes no sense: an option, a reference, a view."""


class EngineError(ImagefsError):
    """The engine answered with an error, answered nonsense, or stopped in the middle."""


class EngineUnreachable(EngineError):
    """Nobody answers at the engine's address."""


class ImageNotFound(EngineError):
    """The engine, or the archive, has no image of that name."""


class RegistryError(ImagefsError):
    """The registry refused, answered nonsense, or stopped in the middle."""


class RegistryUnreachable(RegistryError):
    """Nobody answers at the registry's address, or it has no time for us."""


class CorruptArchive(ImagefsError):
    """The archive's bytes are not what its format, or their digest, says."""


class HostError(ImagefsError):
    """This machine lacks something: a program, a device, a permission, room on the disk."""


class MountError(HostError):
    """The mount point cannot be used, or the kernel refused the mount."""


def lacking(who: str, package: str, extra: str) -> HostError:
    """Return the error of who needs a package that comes with an extra of imagefs's."""
    return HostError(
        f"{who} needs {package}: install imagefs with its extra, as in"
        f" `pipx install --force 'imagefs[{extra}]'`"
    )


def in_words(error: BaseException) -> str:
    """Return the line for an error of any kind."""
    if isinstance(error, ImagefsError):
        return str(error)
    return shortage(error) or f"unexpected {type(error).__name__}: {error}"


def shortage(error: BaseException) -> str | None:
    """Return the line for an error that says what the machine refused or lacks; None for others."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        remedy = _REMEDIES.get(error.errno or 0)
        place = error.filename
        named = place.decode(errors="backslashreplace") if isinstance(place, bytes) else place
        return (f"{named}: " if named is not None else "") + "; ".join(
            filter(None, (reason, remedy))
        )
    # The interpreter says the second where it has no room to make the first.
    if isinstance(error, MemoryError) or "without exception set" in str(error):
        return "there is not enough memory"
    if isinstance(error, RecursionError):
        return "something is nested too deeply to be read"
    if isinstance(error, ImportError):
        return f"a part of imagefs cannot be loaded: {error}"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return f"no more threads can be started; {_REMEDIES[errno.EAGAIN]}"
    return None


class PathError(ImagefsError):
    """A path is not in the image, is not of the kind that is asked for, or cannot be read."""


class RunError(HostError):
    """A command of an image could not be run; `status` is what docker run would exit with."""

    def __init__(self, message: str, status: int = 125) -> None:
        super().__init__(message)
        self.status = status
