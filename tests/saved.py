"""Archives as `docker save` of Docker 1.10 to 24 writes them, of layers made by `tests.tars`."""

import hashlib
import json
from collections.abc import Sequence

from tests.tars import Dir, File, Node, layer


def docker_save(
    *layers: bytes, tags: Sequence[str] = ("test:latest",), steps: Sequence[str] = ()
) -> bytes:
    """Return the archive of an image of these layers, bottom to top, made by these steps."""
    digests = [hashlib.sha256(content).hexdigest() for content in layers]
    # A layer's directory is called by an id of its own, not by its digest.
    places = [f"{hashlib.sha256(d.encode()).hexdigest()}/layer.tar" for d in digests]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]},
            "history": [{"created_by": step} for step in steps],
        }
    )
    name = hashlib.sha256(config.encode()).hexdigest() + ".json"
    members: dict[str, Node] = {}
    for place, content in sorted(zip(places, layers, strict=True)):
        directory = place.removesuffix("layer.tar")
        members |= {directory: Dir(), f"{directory}VERSION": File("1.0")}
        members |= {f"{directory}json": File("{}"), place: File(content)}
    members[name] = File(config)
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": places}]
    members["manifest.json"] = File(json.dumps(manifest))
    return layer(members)
