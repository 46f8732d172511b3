"""What an image's configuration says of it and its layers (OCI image-spec, config.md).

Pure: bytes in, values out. Any thread may call it.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from imagefs.errors import CorruptArchive
from imagefs.image import platform as image_platform
from imagefs.image import safe_json

DIGESTS = {"sha256": 64, "sha512": 128}
"""The algorithms that OCI registers (image-spec, descriptor.md), and how many hex digits they give;
BLAKE3, which came later, is in no standard library."""

MAX_LAYERS = 1000
"""Most layers of one image: engines make 127, overlayfs takes 500, and each snapshot holds all."""
# Diff ids become names of directories, so nothing else may pass for one.
_DIGEST = re.compile("|".join(f"{name}:[0-9a-f]{{{digits}}}" for name, digits in DIGESTS.items()))
_FOREIGN_DIGEST = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):[A-Za-z0-9=_-]+")
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of a configuration that decide the tree, layers bottom to top.

    `created_by` holds, for each layer, the command of the history step that made it, or "" where
    the history is absent or too short. `platform` is `os/architecture[/variant]`.
    """

    diff_ids: tuple[str, ...]
    created_by: tuple[str, ...]
    platform: str


def parse(content: bytes) -> ImageConfig:
    """Return what the configuration says, or raise CorruptArchive if it is none."""
    config = _json_object(content)
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if diff_ids is None:
        diff_ids = []
    if not isinstance(diff_ids, list):
        raise CorruptArchive("the image configuration's rootfs.diff_ids is not a list of digests")
    if len(diff_ids) > MAX_LAYERS:
        raise CorruptArchive(f"an image of {len(diff_ids)} layers; at most {MAX_LAYERS} are read")
    for item in diff_ids:
        check_digest(item, "a diff id of the image configuration")
    return ImageConfig(
        tuple(diff_ids),
        _created_by(config.get("history"), len(diff_ids)),
        _platform(config),
    )


def created(content: bytes) -> int:
    """Return when the image was made, in nanoseconds since the epoch; 0 where that is not said.

    Builds that can be repeated say the year 1, which is 0 as well. What comes after the
    microseconds is left out.
    """
    try:
        when = datetime.fromisoformat(_json_object(content)["created"])
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0, (when - _EPOCH) // timedelta(microseconds=1) * 1000)
    except (CorruptArchive, KeyError, OverflowError, TypeError, ValueError):
        return 0


def check_digest(digest: Any, what: str) -> None:
    """Raise CorruptArchive unless `digest`, which is said to be `what`, can be checked."""
    if isinstance(digest, str) and _DIGEST.fullmatch(digest):
        return
    foreign = _FOREIGN_DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if foreign and foreign[1] not in DIGESTS and len(foreign[1]) < 32:
        raise CorruptArchive(
            f"{what} is a digest by {foreign[1]}, which cannot be checked;"
            f" pack the image with {' or '.join(DIGESTS)}"
        )
    raise CorruptArchive(f"{what} is not a digest: {ascii(digest)[:100]}")


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        config = safe_json.loads(content)
    except safe_json.BadJsonError as error:
        raise CorruptArchive(f"the image configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CorruptArchive("the image configuration is not a JSON object")
    return config


def _created_by(history: Any, count: int) -> tuple[str, ...]:
    """Match the layers to the history steps that are not marked empty, in order."""
    steps = [
        str(step.get("created_by") or "")
        for step in (history if isinstance(history, list) else [])
        if isinstance(step, dict) and not step.get("empty_layer")
    ]
    return tuple(steps[:count] + [""] * (count - len(steps)))


def _platform(config: dict[str, Any]) -> str:
    return image_platform.joined(*(config.get(key) for key in ("os", "architecture", "variant")))
