"""What names have meant: small records that outlive the engine which knew the names.

Owns the directory `refs/` of the store. A key is whatever its writer can ask by again: an
engine's address and a name, an engine's id. Any thread may call it.

    <hash of the key>.json   the key, the id of the image, and what a person calls it
"""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from imagefs.host.files import write_atomic


class Refs:
    """The records in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, key: str) -> str | None:
        """Return the id that `key` last meant."""
        record = _read(self._path(key))
        return record["image"] if record and record.get("key") == key else None

    def put(self, key: str, image_id: str, name: str | None, temporary: Path) -> None:
        """Note what `key` means, in a file that is made as `temporary`."""
        content = json.dumps({"key": key, "image": image_id, "name": name}).encode()
        write_atomic(self._path(key), content, temporary)

    def named(self, name: str) -> list[str]:
        """Return the ids that are remembered by a name, by whatever key."""
        return sorted({one["image"] for one in self._all().values() if one.get("name") == name})

    def names(self) -> dict[str, tuple[str, ...]]:
        """Return the names by which images are remembered, sorted, by the images' ids."""
        found: dict[str, set[str]] = {}
        for one in self._all().values():
            if one.get("name"):
                found.setdefault(one["image"], set()).add(one["name"])
        return {image_id: tuple(sorted(names)) for image_id, names in found.items()}

    def keep(self, ids: set[str]) -> None:
        """Forget what does not mean one of these, and what cannot be read."""
        for path in self.directory.iterdir():
            record = _read(path)
            if record is None or record["image"] not in ids:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        # A key may hold a path, and a path bytes that are no text.
        digits = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self.directory / f"{digits}.json"

    def _all(self) -> dict[Path, dict[str, Any]]:
        found = {path: _read(path) for path in self.directory.iterdir()}
        return {path: record for path, record in found.items() if record is not None}


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        record = json.loads(path.read_bytes())
        if isinstance(record, dict) and isinstance(record.get("image"), str):
            return record
    return None
