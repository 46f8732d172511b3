"""Pulling from a real registry: what is asked for, what is kept, and what is not asked again."""

import io
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagefs.cli.progress_bars import reporter
from imagefs.errors import CorruptArchive, HostError, ImageNotFound, RegistryError, UsageError
from imagefs.image.model import Image
from imagefs.image.options import SourceOptions
from imagefs.progress import Silent
from imagefs.source.opening import SourceRequest, inspect, open_image
from imagefs.store import inventory
from imagefs.store.store import Store
from tests.support import producers, samples
from tests.support.mounted import COMMAND, imagefs, mounted
from tests.support.needs import need_fuse
from tests.support.opening import opened, trees, trees_of
from tests.support.producers import bench_with
from tests.support.registries import RunningRegistry, registry
from tests.support.samples import IMAGE, OTHER, SampleImage, digest, gz
from tests.support.tars import File, layer


def told(source: str, store: Store, **options: Any) -> tuple[Image, str]:
    """Return an image, and what was said on the way to it."""
    stream = io.StringIO()
    with reporter(stream=stream) as progress:
        image = open_image(SourceRequest(source, SourceOptions(**options)), store, progress)
    return image, stream.getvalue()


def packed(image: SampleImage) -> list[str]:
    """Return the digests of an image's layers as they are pushed here."""
    return [digest(gz(content)) for content in image.layers]


def test_only_what_is_missing_is_pulled(open_registry: RunningRegistry, store: Store) -> None:
    """Layers that another image has brought are not asked for again, whatever they are called."""
    one = open_registry.put("missing/one:v1", samples.oci_layout(IMAGE))
    other = open_registry.put("missing/other:v1", samples.oci_layout(OTHER))
    opened(one, store)
    assert set(packed(IMAGE)) <= set(open_registry.asked())
    before = len(open_registry.asked())
    image = opened(other, store)
    assert open_registry.asked()[before:] == [digest(OTHER.config)]
    assert [layer.diff_id for layer in image.layers] == OTHER.diff_ids


def test_layers_of_archives_are_known(
    open_registry: RunningRegistry, store: Store, tmp_path: Path
) -> None:
    """Layers that came with an archive are known by their diff ids."""
    archived = opened(samples.write(tmp_path / "image.tar", samples.kaniko(IMAGE)), store)
    source = open_registry.put("archives/app:v1", samples.oci_layout(IMAGE))
    before = len(open_registry.asked())
    pulled = opened(source, store)
    assert open_registry.asked()[before:] == [digest(IMAGE.config)]
    assert [layer.blob for layer in pulled.layers] == [layer.blob for layer in archived.layers]
    assert pulled.manifest == samples.oci_manifest(IMAGE)


def test_the_tag_is_asked_for_at_each_mount(open_registry: RunningRegistry, store: Store) -> None:
    """A tag that stays costs one question without an answer's body; one that moves is followed."""
    source = open_registry.put("moving/app:v1", samples.oci_layout(IMAGE))
    opened(source, store)
    before = [len(open_registry.asked(kind)) for kind in ("manifests", "blobs")]
    assert opened(source, store).id == digest(IMAGE.config)
    assert [len(open_registry.asked(kind)) for kind in ("manifests", "blobs")] == before
    open_registry.put("moving/app:v1", samples.oci_layout(OTHER))
    assert opened(source, store).id == digest(OTHER.config)
    open_registry.put("moving/app:v1", samples.oci_layout(IMAGE))
    assert opened(source, store).id == digest(IMAGE.config)


def test_a_digest_is_asked_for_once(open_registry: RunningRegistry, store: Store) -> None:
    """What is pinned by digest needs no registry any more, and has that digest or none."""
    open_registry.put("pinned/app:v1", samples.oci_layout(IMAGE))
    manifest = samples.oci_manifest(IMAGE)
    source = f"docker://{open_registry.place}/pinned/app:other@{digest(manifest)}"
    assert opened(source, store).id == digest(IMAGE.config)
    before = open_registry.log.read_text()
    assert opened(source, store).manifest == manifest
    assert open_registry.log.read_text() == before
    with pytest.raises(ImageNotFound, match="there is no such image"):
        opened(f"docker://{open_registry.place}/pinned/app@sha256:{'1' * 64}", store)


ARM = replace(OTHER, architecture="arm64")


def test_platforms(open_registry: RunningRegistry, store: Store) -> None:
    """Of an index, the platform's image is taken, and nothing is asked of the others."""
    intel = replace(IMAGE, architecture="amd64")
    layout = samples.containerd(intel, ARM, docker_manifest=False)
    source = open_registry.put("several/app:v1", layout)
    for platform, image in (("linux/amd64", intel), ("arm64", ARM)):
        assert opened(source, store, platform=platform).id == digest(image.config)
    assert digest(ARM.config) in open_registry.asked()
    with pytest.raises(UsageError, match=r"no image for linux/s390x; .*: linux/amd64, linux/arm64"):
        opened(source, store, platform="s390x")
    request = SourceRequest(source, SourceOptions(platform="amd64"))
    found = inspect(request, store, Silent())
    (shown,) = found.images
    assert (shown.id, shown.platform) == (digest(intel.config), "linux/amd64")
    kinds = [one.artifact or one.platform for one in found.others]
    assert kinds == ["attestation-manifest", "linux/arm64", "attestation-manifest"]


def test_platforms_that_the_index_does_not_say(
    open_registry: RunningRegistry, store: Store
) -> None:
    """They are asked of the images, through indexes in indexes."""
    layout = dict(samples.containerd(IMAGE, ARM, docker_manifest=False))
    top = json.loads(layout["index.json"] or b"")["manifests"][0]
    nested = samples.follow(layout, top)
    for one in nested["manifests"]:
        one.pop("platform", None)
    samples.put(layout, top, nested)
    outer = {
        "schemaVersion": 2,
        "manifests": [{k: top[k] for k in ("digest", "size", "mediaType")}],
    }
    samples.put(layout, top, {**outer, "mediaType": f"{samples.OCI}.index.v1+json"})
    layout["index.json"] = samples.dumped({"schemaVersion": 2, "manifests": [top]})
    source = open_registry.put("unsaid/app:v1", layout)
    assert opened(source, store, platform="arm64").id == digest(ARM.config)


def test_a_single_image_for_elsewhere_is_taken(
    open_registry: RunningRegistry, store: Store
) -> None:
    """Who has only this image wants to see it, wherever it would run."""
    odd = replace(IMAGE, architecture="s390x")
    layout = samples.containerd(odd, docker_manifest=False)
    assert opened(open_registry.put("odd/app:v1", layout), store).id == digest(odd.config)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (samples.artifact, "is no image, but an artifact: .*empty"),
        (samples.cosign_signature, "is no image, but an artifact: .*cosign"),
        (lambda: samples.attestation(b""), "is no image, but an artifact: .*in-toto"),
    ],
)
def test_artifacts_are_named(
    made: Any, words: str, open_registry: RunningRegistry, store: Store
) -> None:
    """What is no image is told as what it is."""
    described, blobs = made()
    layout = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in blobs}
    layout["index.json"] = samples.dumped({"manifests": [described]})
    source = open_registry.put("artifacts/app:v1", layout)
    with pytest.raises(CorruptArchive, match=words):
        opened(source, store)


def test_without_a_registry(tmp_path: Path, store: Store) -> None:
    """An image is used as it was last pulled, with a warning; one that was not, is an error."""
    with registry() as running:
        source = running.put("team/app:v1", samples.oci_layout(IMAGE))
        opened(source, store)
    image, words = told(source, store)
    assert image.id == digest(IMAGE.config)
    assert f"warning: no registry answers at {running.place}" in words
    assert "as it was when last pulled" in words
    assert trees(image, store) == trees_of(IMAGE.layers, tmp_path / "layers")
    with pytest.raises(RegistryError, match="no registry answers"):
        opened(source.replace("v1", "v2"), store)


def test_no_such_image(open_registry: RunningRegistry) -> None:
    """One line says so, and who said it."""
    source = f"docker://{open_registry.place}/no/such:v1"
    done = imagefs("fetch", source)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{source}: there is no such image" in done.stderr


def test_names_in_the_cache(open_registry: RunningRegistry, store: Store) -> None:
    """An image is listed by the tag that means it, and by no tag that has moved on."""
    source = open_registry.put("names/app:v1", samples.oci_layout(IMAGE))
    first = opened(source, store)
    open_registry.put("names/app:v1", samples.oci_layout(OTHER))
    second = opened(source, store)
    name = source.removeprefix("docker://")
    names = {image.id: image.names for image in inventory.contents(store).images}
    assert (names[first.id], names[second.id]) == ((), (name,))
    assert first.names == second.names == (name,)


def test_no_proxy_for_this_machine(
    open_registry: RunningRegistry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on this machine is asked without the environment's proxy."""
    source = open_registry.put("proxy/app:v1", samples.oci_layout(IMAGE))
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert opened(source, store).id == digest(IMAGE.config)


def test_a_layer_that_is_too_large(open_registry: RunningRegistry, store: Store) -> None:
    """The user's bound holds for what a layer decompresses to, and nothing of it is kept."""
    source = open_registry.put("large/app:v1", samples.oci_layout(IMAGE))
    with pytest.raises(HostError, match=r"layer 1 .*more than 100000 bytes; --max-layer-bytes"):
        opened(source, store, max_layer_bytes=100_000)
    assert digest(IMAGE.layers[1]) not in store.layer_ids()


def test_podman_pushes(open_registry: RunningRegistry, tmp_path: Path, store: Store) -> None:
    """What podman pushes mounts as the image."""
    target = f"{open_registry.place}/podman/app:v1"
    with bench_with(producers.IMAGE) as bench:
        bench.podman("load", "--quiet", f"--input={bench.start}")
        bench.podman("push", "--quiet", "--tls-verify=false", producers.NAME, target)
    image = opened(f"docker://{target}", store)
    assert trees(image, store) == trees_of(producers.IMAGE.layers, tmp_path / "layers")


def test_the_commands(open_registry: RunningRegistry, tmp_path: Path) -> None:
    """`inspect` and `layers` pull no layer and say what is not known; `mount` shows all of it."""
    need_fuse()
    source = open_registry.put("commands/app:v1", samples.oci_layout(IMAGE))
    before = len(open_registry.asked())
    found = json.loads(imagefs("inspect", "--json", source).stdout)
    assert [one["digest"] for one in found["images"][0]["layers"]] == packed(IMAGE)
    foreseen = json.loads(imagefs("layers", "--json", source).stdout)
    assert [one["diff_id"] for one in foreseen] == IMAGE.diff_ids
    assert {one["files"] for one in foreseen} == {None}
    assert "once `imagefs fetch` has pulled it" in imagefs("layers", source).stdout
    assert set(open_registry.asked()[before:]) == {digest(IMAGE.config)}
    done = imagefs("fetch", source)
    assert done.returncode == 0
    assert "layer 1 " in done.stderr
    with mounted(source, tmp_path / "mnt") as mountpoint:
        assert (mountpoint / "rootfs/etc/conf").read_bytes() == b"a = 2\n"
        assert (mountpoint / "manifest.json").read_bytes() == samples.oci_manifest(IMAGE)
    known = json.loads(imagefs("layers", "--json", source).stdout)
    assert [one["directory"] for one in known] == [one["directory"] for one in foreseen]
    assert all(one["files"] for one in known)


def test_two_processes_pull_once(open_registry: RunningRegistry, tmp_path: Path) -> None:
    """Whoever comes second waits, and asks for no layer."""
    layers = [layer({f"f{n}": File(os.urandom(8 << 20))}) for n in range(3)]
    image = SampleImage(tuple(layers))
    source = open_registry.put("twice/app:v1", samples.oci_layout(image))
    before = len(open_registry.asked())
    both = [subprocess.Popen([*COMMAND, "fetch", source], stderr=subprocess.PIPE) for _ in range(2)]
    ended = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    asked = open_registry.asked()[before:]
    assert sorted(name for name in asked if name != digest(image.config)) == sorted(packed(image))
