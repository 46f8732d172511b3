"""Mount container images as read-only directory trees, without extracting them."""

# The typing module takes longer to load than all else that starts.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from imagefs.scanning.scan import scan as scan
    from imagefs.tree.opening import open_image as open_image

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    # Imported when asked for: a command that starts needs none of it.
    if name == "open_image":
        from imagefs.tree.opening import open_image  # noqa: PLC0415

        return open_image
    if name == "scan":
        from imagefs.scanning.scan import scan  # noqa: PLC0415

        return scan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
