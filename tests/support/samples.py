"""Sample archives: one small image as every tool would write it, to the letter of its layout.

    write(tmp_path / "x.tar", docker_20(IMAGE))

What tools that are Debian packages write is made by these tools themselves, in the tests; the
rest is built here, and `python -m tests.samples DIRECTORY` writes it all. A layout is a mapping
of member names to contents, in the order in which the tool writes them: bytes are a file, None is
a directory, a string is a symbolic link's target.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from tests.support.tars import Char, Dir, Fifo, File, Hard, Sym, layer

Layout: TypeAlias = Mapping[str, bytes | str | None]


def hexdigest(content: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, content).hexdigest()


def digest(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hexdigest(content, algorithm)}"


def dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True)
class SampleImage:
    """An image before any tool has written it: its layers' tars, bottom to top."""

    layers: tuple[bytes, ...]
    names: tuple[str, ...] = ("sample/app:1",)
    architecture: str = "amd64"
    variant: str = ""
    made_by: tuple[str, ...] = ()
    algorithm: str = "sha256"

    @property
    def config(self) -> bytes:
        return dumped(
            {
                "architecture": self.architecture,
                "config": {"Cmd": ["/bin/sh"], "Labels": {"maker": "samples"}},
                "created": "2024-05-01T12:50:00Z",
                "history": self.history,
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
                **({"variant": self.variant} if self.variant else {}),
            }
        )

    @property
    def diff_ids(self) -> list[str]:
        return [digest(content, self.algorithm) for content in self.layers]

    @property
    def history(self) -> list[dict[str, Any]]:
        words = self.made_by or [f"step {number}" for number in range(len(self.layers))]
        steps = [{"created_by": step} for step in words]
        return [*steps[:1], {"created_by": "CMD sh", "empty_layer": True}, *steps[1:]]


TIME = 1_700_000_000
BOTTOM = layer(
    {
        "bin/": Dir(0o755, mtime=TIME),
        "bin/tool": File(b"\x7fELF tool", 0o4755, mtime=TIME),
        "bin/alias": Hard("bin/tool", mode=0o4755, mtime=TIME),
        "etc/": Dir(0o750, uid=3, gid=4, mtime=TIME + 1),
        "etc/conf": File("a = 1\n", 0o640, uid=3, gid=4, mtime=TIME + 2),
        "etc/gone": "secret",
        "etc/old/": "",
        "etc/old/x": "x",
        "link": Sym("etc/conf"),
        "tty": Char(5, 1, 0o620),
        "pipe": Fifo(0o600),
        "capable": File("c", xattrs={"user.note": b"\x00\xff raw"}),
    }
)
MIDDLE = layer(
    {
        "etc/.wh.gone": "",
        "etc/old/": Dir(0o700),
        "etc/old/.wh..wh..opq": "",
        "etc/old/y": "y",
        "big": File(bytes(range(256)) * 4096, mtime=TIME + 3),
    }
)
TOP = layer({"etc/conf": File("a = 2\n", 0o600, mtime=TIME + 4), "top": ""})
IMAGE = SampleImage((BOTTOM, MIDDLE, TOP))
TWICE = SampleImage((BOTTOM, TOP, BOTTOM, TOP), ("sample/twice:1",))
OTHER = SampleImage((BOTTOM, TOP), ("sample/other:2", "sample/other:latest"))


def tar_of(layout: Layout, prefix: str = "", mode: int = 0o644) -> bytes:
    """Return the outer tar of a layout."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in layout.items():
            info = tarfile.TarInfo(prefix + name)
            info.mode = mode
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content, 0o777
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def packed(layout: Layout | bytes) -> bytes:
    """Return the bytes of an archive, given as such or as its layout."""
    return layout if isinstance(layout, bytes) else tar_of(layout)


def write(path: Path, layout: Layout | bytes) -> Path:
    """Write an archive, given as its bytes or its layout."""
    path.write_bytes(packed(layout))
    return path


def unpack(path: Path, layout: Layout) -> Path:
    """Write a layout as a directory."""
    path.mkdir()
    for name, content in layout.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            file.mkdir(exist_ok=True)
        elif isinstance(content, str):
            file.symlink_to(content)
        else:
            file.write_bytes(content)
    return path


def gz(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)


def zstd(content: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd as module  # noqa: PLC0415
    else:
        from backports import zstd as module  # noqa: PLC0415
    return module.compress(content)


Pack: TypeAlias = Callable[[bytes], bytes]


def plain(content: bytes) -> bytes:
    return content


def v1_ids(image: SampleImage) -> list[str]:
    """Ids as Docker before 25 makes them: they depend on the layers below."""
    ids: list[str] = []
    for content in image.layers:
        ids.append(hexdigest("".join([*ids[-1:], digest(content)]).encode()))
    return ids


def _v1_json(ids: Sequence[str], number: int) -> bytes:
    parent = {"parent": ids[number - 1]} if number else {}
    command = ["/bin/sh", "-c", f"step {number}"]
    return dumped(
        {
            "id": ids[number],
            **parent,
            "created": "1970-01-01T00:00:00Z",
            "container_config": {"Cmd": command},
            "os": "linux",
            "architecture": "amd64",
        }
    )


def _repositories(tags: Mapping[str, str]) -> bytes:
    found: dict[str, dict[str, str]] = {}
    for name, top in tags.items():
        repository, _, tag = name.rpartition(":")
        found.setdefault(repository, {})[tag] = top
    return dumped(found)


def docker_20(*images: SampleImage) -> Layout:
    """`docker save` of Docker 1.10 to 24: members in lexical order, doubles as symbolic links."""
    layout: dict[str, bytes | str | None] = {}
    entries = []
    first_of: dict[str, str] = {}
    for image in images:
        ids = v1_ids(image)
        for number, (v1_id, content) in enumerate(zip(ids, image.layers, strict=True)):
            layout |= {f"{v1_id}/": None, f"{v1_id}/VERSION": b"1.0"}
            layout[f"{v1_id}/json"] = _v1_json(ids, number)
            first = first_of.setdefault(digest(content), v1_id)
            layout[f"{v1_id}/layer.tar"] = content if first == v1_id else f"../{first}/layer.tar"
        layout[f"{hexdigest(image.config)}.json"] = image.config
        entries.append(
            {
                "Config": f"{hexdigest(image.config)}.json",
                "RepoTags": list(image.names) or None,
                "Layers": [f"{v1_id}/layer.tar" for v1_id in ids],
            }
        )
    layout = dict(sorted(layout.items()))
    layout["manifest.json"] = dumped(entries)
    tags = {name: v1_ids(image)[-1] for image in images for name in image.names}
    return {**layout, "repositories": _repositories(tags)} if tags else layout


def docker_1_9(*images: SampleImage, tagged: bool = True) -> Layout:
    """`docker save` before 1.10: no manifest.json, layers know their parents."""
    layout: dict[str, bytes | str | None] = {}
    for image in images:
        ids = v1_ids(image)
        for number, (v1_id, content) in enumerate(zip(ids, image.layers, strict=True)):
            layout |= {f"{v1_id}/": None, f"{v1_id}/VERSION": b"1.0"}
            layout |= {f"{v1_id}/json": _v1_json(ids, number), f"{v1_id}/layer.tar": content}
    tags = {name: v1_ids(image)[-1] for image in images for name in image.names}
    return {**layout, "repositories": _repositories(tags)} if tagged else layout


def _descriptor(
    content: bytes, media_type: str, algorithm: str = "sha256", **more: Any
) -> dict[str, Any]:
    named = digest(content, algorithm)
    return {"mediaType": media_type, "digest": named, "size": len(content), **more}


OCI = "application/vnd.oci.image"


def oci_manifest(image: SampleImage, pack: Pack = gz, kind: str = "tar+gzip") -> bytes:
    return dumped(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor(image.config, f"{OCI}.config.v1+json", image.algorithm),
            "layers": [
                _descriptor(pack(content), f"{OCI}.layer.v1.{kind}", image.algorithm)
                for content in image.layers
            ],
        }
    )


def _blobs(contents: Iterable[bytes], algorithm: str = "sha256") -> dict[str, bytes | str | None]:
    folder = f"blobs/{algorithm}/"
    made = {f"{folder}{hexdigest(content, algorithm)}": content for content in contents}
    return {"blobs/": None, folder: None, **dict(sorted(made.items()))}


def docker_25(image: SampleImage) -> Layout:
    """`docker save` of Docker 25 and later with graph drivers."""
    manifest = oci_manifest(image, plain, "tar")
    ids = v1_ids(image)
    legacy = [_v1_json(ids, number) for number in range(len(ids))]
    index = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.index.v1+json",
        "manifests": [
            _descriptor(
                manifest,
                f"{OCI}.manifest.v1+json",
                annotations={
                    "io.containerd.image.name": f"docker.io/{name}",
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            )
            for name in image.names
        ],
    }
    entry = {
        "Config": f"blobs/sha256/{hexdigest(image.config)}",
        "RepoTags": list(image.names),
        "Layers": [f"blobs/sha256/{hexdigest(content)}" for content in image.layers],
        "LayerSources": {
            digest(content): _descriptor(content, f"{OCI}.layer.v1.tar") for content in image.layers
        },
    }
    top = hexdigest(image.layers[-1])
    return {
        **_blobs([*image.layers, image.config, manifest, *legacy]),
        "index.json": dumped(index),
        "manifest.json": dumped([entry]),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "repositories": _repositories(dict.fromkeys(image.names, top)),
    }


def attestation(manifest: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """A BuildKit attestation of an image: its descriptor in the index, and its blobs."""
    statement = dumped({"_type": "in-toto"})
    config = dumped({"architecture": "unknown", "os": "unknown", "rootfs": {"diff_ids": []}})
    attested = dumped(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor(config, f"{OCI}.config.v1+json"),
            "layers": [_descriptor(statement, "application/vnd.in-toto+json")],
        }
    )
    described = _descriptor(
        attested,
        f"{OCI}.manifest.v1+json",
        annotations={
            "vnd.docker.reference.digest": digest(manifest),
            "vnd.docker.reference.type": "attestation-manifest",
        },
        platform={"architecture": "unknown", "os": "unknown"},
    )
    return described, [statement, config, attested]


def containerd(
    *platforms: SampleImage,
    held: Sequence[SampleImage] | None = None,
    docker_manifest: bool = True,
    pack: Pack = gz,
) -> Layout:
    """`docker save` with the containerd image store, `ctr export`, BuildKit's type=docker and oci.

    `held` are the platforms whose blobs are there; the index lists all, and an attestation each.
    """
    held = platforms if held is None else held
    described, blobs = [], []
    for image in platforms:
        manifest = oci_manifest(image, pack)
        described.append(
            _descriptor(
                manifest,
                f"{OCI}.manifest.v1+json",
                platform={"architecture": image.architecture, "os": "linux"},
            )
        )
        attesting, attested = attestation(manifest)
        described.append(attesting)
        if image in held:
            blobs += [manifest, image.config, *map(pack, image.layers), *attested]
    nested = dumped(
        {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": described}
    )
    name = platforms[0].names[0]
    top = _descriptor(
        nested,
        f"{OCI}.index.v1+json",
        annotations={
            "io.containerd.image.name": f"docker.io/{name}",
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        },
    )
    layout: dict[str, bytes | str | None] = {
        **_blobs([nested, *blobs]),
        "index.json": dumped({"schemaVersion": 2, "manifests": [top]}),
    }
    if docker_manifest:
        first = held[0]
        entry = {
            "Config": f"blobs/sha256/{hexdigest(first.config)}",
            "RepoTags": [name],
            "Layers": [f"blobs/sha256/{hexdigest(pack(content))}" for content in first.layers],
        }
        layout["manifest.json"] = dumped([entry])
    return {**layout, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}


def oci_layout(*images: SampleImage, pack: Pack = gz, kind: str = "tar+gzip") -> Layout:
    """An OCI layout as skopeo and umoci write it: no nested index, no mediaType on top."""
    blobs, described = [], []
    for image in images:
        manifest = oci_manifest(image, pack, kind)
        blobs += [manifest, image.config, *map(pack, image.layers)]
        annotations = [{"org.opencontainers.image.ref.name": name} for name in image.names]
        described += [
            _descriptor(manifest, f"{OCI}.manifest.v1+json", image.algorithm, annotations=said)
            for said in annotations or [{}]
        ]
    return {
        **_blobs(blobs, images[0].algorithm),
        "index.json": dumped({"schemaVersion": 2, "manifests": described}),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }


def _unique(pairs: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    return dict(pairs)


def kaniko(image: SampleImage, pack: Pack = gz, extension: str = ".tar.gz") -> Layout:
    """Kaniko's --tarPath, `crane pull`, ko: names are digests of what is compressed."""
    packed = [pack(content) for content in image.layers]
    entry = {
        "Config": digest(image.config),
        "RepoTags": list(image.names),
        "Layers": [f"{hexdigest(content)}{extension}" for content in packed],
    }
    return {
        digest(image.config): image.config,
        **_unique((f"{hexdigest(content)}{extension}", content) for content in packed),
        "manifest.json": dumped([entry]),
    }


def crane_legacy(image: SampleImage) -> Layout:
    """`crane pull --format=legacy`: Docker's old layout, but layer.tar is compressed."""
    layout = dict(docker_20(image))
    for name, content in layout.items():
        if name.endswith("/layer.tar") and isinstance(content, bytes):
            layout[name] = gz(content)
    return layout


def jib(image: SampleImage) -> bytes:
    """Jib's tarball: a repeated layer comes twice under one name."""
    packed = [gz(content) for content in image.layers]
    entry = {
        "Config": "config.json",
        "RepoTags": list(image.names),
        "Layers": [f"{hexdigest(content)}.tar.gz" for content in packed],
    }
    parts = [{f"{hexdigest(content)}.tar.gz": content} for content in packed]
    parts += [{"config.json": image.config}, {"manifest.json": dumped([entry])}]
    # Each part is a tar without its end, but for the last.
    bodies = [tar_of(part) for part in parts]
    ends = [end_of_members(body) for body in bodies]
    return b"".join(body[:end] for body, end in zip(bodies, ends, strict=True)) + bytes(10240)


def end_of_members(tar: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        last = opened.getmembers()[-1]
    return last.offset_data + -(-last.size // 512) * 512


def rules_oci(image: SampleImage) -> Layout:
    """bazel rules_oci: manifest.json first, extensions inside blobs/."""
    packed = [gz(content) for content in image.layers]
    names = [f"blobs/sha256/{hexdigest(content)}.tar.gz" for content in packed]
    config_name = f"blobs/sha256/{hexdigest(image.config)}"
    entry = {"Config": config_name, "RepoTags": list(image.names), "Layers": names}
    return {
        "manifest.json": dumped([entry]),
        config_name: image.config,
        **_unique(zip(names, packed, strict=True)),
    }


def rules_docker(image: SampleImage) -> Layout:
    """bazel rules_docker: `<id>/layer.tar` without directories, configuration first."""
    ids = v1_ids(image)
    names = [f"{v1_id}/layer.tar" for v1_id in ids]
    config_name = f"{hexdigest(image.config)}.json"
    entry = {"Config": config_name, "RepoTags": list(image.names), "Layers": names}
    return {
        config_name: image.config,
        **dict(zip(names, image.layers, strict=True)),
        "manifest.json": dumped([entry]),
        "repositories": _repositories(dict.fromkeys(image.names, ids[-1])),
    }


def nix_stream(image: SampleImage) -> Layout:
    """Nix `dockerTools.streamLayeredImage`: directories are diff ids."""
    names = [f"{hexdigest(content)}/layer.tar" for content in image.layers]
    config_name = f"{hexdigest(image.config)}.json"
    entry = {"Config": config_name, "RepoTags": list(image.names), "Layers": names}
    return {
        **_unique(zip(names, image.layers, strict=True)),
        config_name: image.config,
        "manifest.json": dumped([entry]),
    }


def nix_build(image: SampleImage) -> bytes:
    """Nix `dockerTools.buildImage`: `./` first, the whole compressed by pigz."""
    layout = dict(docker_20(image))
    return gz(tar_of({"./": None, **dict(sorted(layout.items()))}))


def podman(*images: SampleImage) -> Layout:
    """`podman save`, skopeo's docker-archive: layers on top, old names as links to them."""
    layout: dict[str, bytes | str | None] = {}
    entries = []
    for image in images:
        layout |= {f"{hexdigest(content)}.tar": content for content in image.layers}
    for image in images:
        ids = v1_ids(image)
        layout[f"{hexdigest(image.config)}.json"] = image.config
        for number, (v1_id, content) in enumerate(zip(ids, image.layers, strict=True)):
            layout[f"{v1_id}/layer.tar"] = f"../{hexdigest(content)}.tar"
            layout |= {f"{v1_id}/VERSION": b"1.0", f"{v1_id}/json": _v1_json(ids, number)}
        entries.append(
            {
                "Config": f"{hexdigest(image.config)}.json",
                "RepoTags": [f"localhost/{name}" for name in image.names],
                "Layers": [f"{hexdigest(content)}.tar" for content in image.layers],
            }
        )
    tags = {f"localhost/{n}": v1_ids(image)[-1] for image in images for n in image.names}
    return {**layout, "repositories": _repositories(tags), "manifest.json": dumped(entries)}


def docker_dir(image: SampleImage, pack: Pack = gz) -> Layout:
    """`skopeo copy ... dir:`, `podman save --format docker-dir`: flat files named by digest."""
    kind = "application/vnd.docker"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.distribution.manifest.v2+json",
        "config": _descriptor(image.config, f"{kind}.container.image.v1+json"),
        "layers": [
            _descriptor(pack(content), f"{kind}.image.rootfs.diff.tar.gzip")
            for content in image.layers
        ],
    }
    return {
        "version": b"Directory Transport Version: 1.1\n",
        hexdigest(image.config): image.config,
        **_unique((hexdigest(pack(content)), pack(content)) for content in image.layers),
        "manifest.json": dumped(manifest),
    }


def docker_dir_index(*images: SampleImage) -> Layout:
    """`skopeo copy --all ... dir:`: the index on top, each manifest beside it."""
    layout: dict[str, bytes | str | None] = {"version": b"Directory Transport Version: 1.1\n"}
    described = []
    for image in images:
        flat = dict(docker_dir(image))
        manifest = flat.pop("manifest.json")
        assert isinstance(manifest, bytes)
        layout |= {**flat, f"{hexdigest(manifest)}.manifest.json": manifest}
        platform = {"architecture": image.architecture, "os": "linux"}
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        described.append(_descriptor(manifest, kind, platform=platform))
    index = {"schemaVersion": 2, "manifests": described}
    return {**layout, "manifest.json": dumped(index)}


def follow(layout: Layout, descriptor: Mapping[str, Any]) -> Any:
    """Return the JSON that a descriptor of an OCI layout leads to."""
    return json.loads(layout[f"blobs/sha256/{descriptor['digest'][7:]}"] or b"")


def put(layout: dict[str, bytes | str | None], descriptor: dict[str, Any], said: Any) -> None:
    """Write JSON into an OCI layout, and have the descriptor lead to it."""
    content = dumped(said)
    descriptor |= {"digest": digest(content), "size": len(content)}
    layout[f"blobs/sha256/{hexdigest(content)}"] = content


def nested_index(*images: SampleImage) -> Layout:
    """An OCI layout of one image for several platforms, whose variants the index tells."""
    layout = dict(containerd(*images, docker_manifest=False))
    index = json.loads(layout["index.json"] or b"")
    top = index["manifests"][0]
    nested = follow(layout, top)
    listed = [one for one in nested["manifests"] if "annotations" not in one]
    for one, image in zip(listed, images, strict=True):
        one["platform"] |= {"variant": image.variant} if image.variant else {}
    put(layout, top, {**nested, "manifests": listed})
    del top["annotations"]
    layout["index.json"] = dumped(index)
    return layout


def artifact() -> tuple[dict[str, Any], list[bytes]]:
    """Something that is stored as an image but is none: its descriptor, and its blobs."""
    config, content = b"{}", b"a signature"
    manifest = dumped(
        {
            "schemaVersion": 2,
            "config": _descriptor(config, "application/vnd.oci.empty.v1+json"),
            "layers": [_descriptor(content, "application/vnd.dev.cosign.simplesigning.v1+json")],
        }
    )
    return _descriptor(manifest, f"{OCI}.manifest.v1+json"), [config, content, manifest]


def cosign_signature() -> tuple[dict[str, Any], list[bytes]]:
    """A signature as cosign stores it: with the configuration of an image, and a name."""
    content = b'{"critical":{}}'
    rootfs = {"type": "layers", "diff_ids": [digest(content)]}
    config = dumped({"architecture": "", "os": "", "rootfs": rootfs})
    kind = "application/vnd.dev.cosign.simplesigning.v1+json"
    manifest = dumped(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor(config, f"{OCI}.config.v1+json"),
            "layers": [_descriptor(content, kind)],
        }
    )
    names = {"org.opencontainers.image.ref.name": "sha256-abc.sig"}
    described = _descriptor(manifest, f"{OCI}.manifest.v1+json", annotations=names)
    return described, [config, content, manifest]


def with_absolute_names(content: bytes) -> bytes:
    """A layer as Nix writes it: every member's name begins with a slash."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in source:
            file = source.extractfile(member) if member.isfile() else None
            member.name = f"/{member.name}"
            tar.addfile(member, file)
    return out.getvalue()


def in_sha512(layout: Callable[[SampleImage], Layout]) -> Callable[[SampleImage], Layout]:
    """The same with every digest by the other algorithm that OCI registers."""
    return lambda image: layout(replace(image, algorithm="sha512"))


LAYOUTS: Mapping[str, Callable[[SampleImage], Layout | bytes]] = {
    "docker 1.10 to 24": docker_20,
    "docker 25": docker_25,
    "containerd image store": containerd,
    "buildkit type=docker": containerd,
    "buildkit type=oci": lambda image: containerd(image, docker_manifest=False),
    "containerd, zstd": lambda image: containerd(image, pack=zstd),
    "oci archive": oci_layout,
    "oci archive, plain": lambda image: oci_layout(image, pack=plain, kind="tar"),
    "podman": podman,
    "dir in a tar": docker_dir,
    "kaniko, crane, ko": kaniko,
    "kaniko, named .tar.gz and plain": lambda image: kaniko(image, plain),
    "crane, layers as .tar and gzip": lambda image: kaniko(image, gz, ".tar"),
    "ko, xz": lambda image: kaniko(image, lzma.compress, ".tar.xz"),
    "ko, bzip2": lambda image: kaniko(image, bz2.compress, ".tar.bz2"),
    "crane, legacy": crane_legacy,
    "jib": jib,
    "rules_oci": rules_oci,
    "rules_docker": rules_docker,
    "nix, streamed": nix_stream,
    "nix, built": nix_build,
}
"""Each layout in which an image keeps its diff ids, by who writes it."""


def main(folder: Path) -> None:
    """Write the sample image in each layout into a directory."""
    folder.mkdir(exist_ok=True)
    for name, layout in {**LAYOUTS, "docker 1.9": docker_1_9}.items():
        write(folder / f"{name}.tar", layout(IMAGE))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
