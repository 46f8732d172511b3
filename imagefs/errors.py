"""What can go wrong, told apart by who is at fault: the caller, the engine, the archive, the host.

Every message is one line that names the thing at fault and, where there is one, the remedy.
`ImagefsError` is never raised itself. The command line turns a `UsageError` into exit status 2
and every other one into 1; outside errors (OSError, requests, json) are translated where they
enter, with `from`.
"""


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


class CorruptArchive(ImagefsError):
    """The archive's bytes are not what its format, or their digest, says."""


class HostError(ImagefsError):
    """This machine lacks something: a program, a device, a permission, room on the disk."""


class MountError(HostError):
    """The mount point cannot be used, or the kernel refused the mount."""
