"""What an image's configuration says of its layers (OCI image-spec, config.md).

Pure: bytes in, values out. Any thread may call it.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from imagefs.errors import CorruptArchive

MAX_LAYERS = 1000
"""Most layers of one image: engines make 127, overlayfs takes 500, and each snapshot holds all."""
# Diff ids become names of directories, so nothing else may pass for one.
_DIGEST = re.compile(r"[a-z0-9]{1,32}:[0-9a-f]{32,128}")


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
    if not isinstance(diff_ids, list) or not all(
        isinstance(item, str) and _DIGEST.fullmatch(item) for item in diff_ids
    ):
        raise CorruptArchive("the image configuration's rootfs.diff_ids is not a list of digests")
    if len(diff_ids) > MAX_LAYERS:
        raise CorruptArchive(f"an image of {len(diff_ids)} layers; at most {MAX_LAYERS} are read")
    return ImageConfig(
        tuple(diff_ids),
        _created_by(config.get("history"), len(diff_ids)),
        _platform(config),
    )


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
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
    parts = (config.get("os"), config.get("architecture"), config.get("variant"))
    return "/".join(part for part in parts if isinstance(part, str) and part)
