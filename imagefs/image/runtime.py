"""What an image's configuration says of how to run it (OCI image-spec, config.md).

Pure: bytes in, values out. Any thread may call it.
"""

from dataclasses import dataclass
from typing import Any

from imagefs.errors import CorruptArchive
from imagefs.image import safe_json
from imagefs.image.json_shape import string, strings


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """The command of an image and its surroundings; what is not said is empty.

    `env` are `NAME=value`, `user` is `user[:group]`, by names or numbers, `working_dir` a path.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""


def parse(content: bytes) -> RuntimeConfig:
    """Return what a configuration says; CorruptArchive where it cannot be understood."""
    try:
        document = safe_json.loads(content)
    except safe_json.BadJsonError as error:
        raise CorruptArchive(f"the image configuration is not JSON: {error}") from error
    said = document.get("config") if isinstance(document, dict) else None
    if not isinstance(said, dict):
        return RuntimeConfig()
    return RuntimeConfig(
        _read(said, "Entrypoint", strings),
        _read(said, "Cmd", strings),
        _read(said, "Env", strings),
        _read(said, "User", _text),
        _read(said, "WorkingDir", _text),
    )


def _read(said: dict[str, Any], key: str, of: Any) -> Any:
    try:
        found = of(said.get(key))
    except TypeError as error:
        raise CorruptArchive(f"the image configuration's {key} holds {error}") from error
    if "\0" in "".join(found):
        raise CorruptArchive(f"the image configuration's {key} holds a NUL, which no string may")
    return found


def _text(value: Any) -> str:
    return string(value if value is not None else "")
