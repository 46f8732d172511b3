"""Which tool most likely wrote an archive: for people who ask; nothing is decided by it.

The docker-archive has many writers, whose choice of file names gives them away. Takes an
archive's files, returns a name. Any thread may call it.
"""

import re
from typing import Any

from imagefs.archive.members import Files
from imagefs.image import safe_json

FLAT = "root file system (docker export)"
LEGACY = "docker save (Docker before 1.10)"
OCI = "OCI image layout"
DIR = "dir: (skopeo, podman save --format docker-dir)"

_LAYER_DIRECTORY = re.compile(r"[0-9a-f]+/layer\.tar")
_PODMAN_LAYER = re.compile(r"[0-9a-f]{64}\.tar")
_BLOB_WITH_EXTENSION = re.compile(r"blobs/sha256/[0-9a-f]{64}\..*")


def of_docker_archive(files: Files, manifest: bytes) -> str:
    """Return the name of the tool that writes a docker-archive in this way."""
    entry = safe_json.loads(manifest)[0]
    config: str = entry["Config"]
    layers: list[str] = entry.get("Layers") or []
    names = frozenset(files.names())
    if any(map(_BLOB_WITH_EXTENSION.fullmatch, layers)):
        return "docker-archive (rules_oci)"
    if config.startswith("blobs/"):
        by_docker = "LayerSources" in entry or "repositories" in names
        return "docker save (Docker 25 and later)" if by_docker else "containerd image store"
    for found, name in (
        (config.startswith("sha256:"), "docker-archive (Kaniko, crane, ko)"),
        (config == "config.json", "docker-archive (Jib)"),
        (_all(_PODMAN_LAYER, layers), "docker-archive (podman save, skopeo)"),
    ):
        if found:
            return name
    if _all(_LAYER_DIRECTORY, layers):
        return _with_layer_directories(entry, names)
    return "docker-archive"


def _all(pattern: re.Pattern[str], layers: list[str]) -> bool:
    return bool(layers) and all(map(pattern.fullmatch, layers))


def _with_layer_directories(entry: dict[str, Any], names: frozenset[str]) -> str:
    directories = {layer.partition("/")[0] for layer in entry["Layers"]}
    if all(f"{directory}/VERSION" in names for directory in directories):
        return "docker save (Docker 1.10 to 24)"
    if "repositories" not in names:
        return "docker-archive (Nix dockerTools)"
    return "docker-archive (rules_docker)"
