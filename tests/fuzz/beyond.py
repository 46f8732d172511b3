"""Inputs that go beyond the lowered bounds of `bounds.py`, each beyond another one."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.fuzz import bounds
from tests.support import samples
from tests.support.samples import TOP, Layout, SampleImage, digest, dumped, hexdigest
from tests.support.tars import layer

_SMALL = SampleImage((TOP,))
_TALL = SampleImage((TOP,) * (bounds.LAYERS + 1))


def archives() -> Iterator[bytes]:
    """Yield archives, those of a kind that may go on without end after others."""
    several = [
        SampleImage((TOP,), (f"app:{number}",), f"cpu{number}")
        for number in range(bounds.IMAGES + 1)
    ]
    apart = [SampleImage((layer({"f": image.names[0]}),), image.names) for image in several]
    long_named = SampleImage((TOP,), ("n" * (bounds.NAME + 1),))
    layouts = (
        *(samples.docker_20(_TALL), samples.docker_1_9(_TALL), samples.oci_layout(_TALL)),
        *(samples.docker_20(*several), samples.oci_layout(*several)),
        samples.docker_1_9(*apart),
        *(samples.docker_20(long_named), samples.oci_layout(long_named)),
        {**samples.docker_20(_SMALL), **{f"more{one}": b"" for one in range(bounds.MEMBERS)}},
        _chained(),
        _referring(1, 2 * bounds.JSON),
        _referring(bounds.IMAGES, bounds.JSON - 200),
        _referring(1, RepoTags=["app:v1"] * bounds.VALUES),
        _referring(1, more=_nested(bounds.DEPTH)),
        *(_wrapped(bounds.NESTED), _wrapped(bounds.NESTED + 3)),
        _crossing(),
        _linked(),
    )
    yield from map(samples.tar_of, layouts)
    yield samples.gz(samples.tar_of(_linked()))


def indexes() -> list[bytes]:
    """Return what a registry says, as `check_registry` takes it."""
    one, unsaid = samples.oci_manifest(_SMALL), [{"digest": digest(b"x")}]
    ours = [{"digest": digest(b"x"), "platform": {"os": "linux", "architecture": "amd64"}}]
    padding = "x" * (bounds.SAID // 2)
    return [
        b"m" + dumped({"manifests": unsaid}),
        b"m" + dumped({"manifests": ours}),
        b"m" + dumped({"manifests": unsaid * (2 * bounds.ASKED + 8)}) + b"\0" + one,
        b"m" + dumped({"manifests": ours * (bounds.LISTED + 1)}) + b"\0" + one,
        b"m" + dumped({"manifests": unsaid, "padding": padding}),
        b"m" + samples.oci_manifest(_TALL) + b"\0" + _TALL.config,
        b"m" + dumped({"manifests": unsaid, "more": _nested(bounds.DEPTH)}),
    ]


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else 0


def _referring(images: int, padding: int = 0, path: str = "layer.tar", **more: Any) -> Layout:
    """Return a docker-archive that refers to one configuration again and again."""
    config = {"rootfs": {"diff_ids": [digest(TOP)]}, "padding": "x" * padding}
    entry = {"Config": "config.json", "Layers": [path], **more}
    return {
        "manifest.json": dumped([entry] * images),
        "config.json": dumped(config),
        "layer.tar": TOP,
    }


def _linked() -> Layout:
    """Return a docker-archive whose layer lies behind links."""
    steps = [f"l{number}" for number in range(bounds.LINKS + 2)]
    return {**_referring(1, path=steps[0]), **dict(pairwise(steps)), steps[-1]: TOP}


def _chained() -> Layout:
    """Return an archive of before Docker 1.10 with a name for each layer of a chain."""
    image = SampleImage((TOP,) * 3)
    tags = dict(zip("abc", samples.v1_ids(image), strict=True))
    return {**samples.docker_1_9(image), "repositories": dumped({"app": tags})}


def _wrapped(depth: int) -> Layout:
    """Return an OCI layout with indexes in each other."""
    layout = dict(samples.oci_layout(_SMALL))
    for _ in range(depth):
        index = layout["index.json"]
        assert isinstance(index, bytes)
        layout[f"blobs/sha256/{hexdigest(index)}"] = index
        layout["index.json"] = dumped({"manifests": [{"digest": digest(index)}]})
    return layout


def _crossing() -> Layout:
    """Return a docker-archive whose images are all one entry of its index, of several platforms."""
    other = SampleImage((TOP,), architecture="")
    layout = {**samples.oci_layout(_SMALL, other), **samples.docker_20(_SMALL)}
    listed = [{"digest": digest(samples.oci_manifest(image))} for image in (_SMALL, other)]
    index = dumped({"manifests": listed})
    entries = layout["manifest.json"]
    assert isinstance(entries, bytes)
    return {
        **layout,
        f"blobs/sha256/{hexdigest(index)}": index,
        "index.json": dumped({"manifests": [{"digest": digest(index)}]}),
        "manifest.json": dumped(json.loads(entries) * (bounds.IMAGES - 1)),
    }
