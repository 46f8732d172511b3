"""Several images, several platforms: which one is meant, and what is said if that is unclear."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import CorruptArchive, UsageError
from imagefs.image import platform as image_platform
from imagefs.image.model import Image, directory_names
from imagefs.image.options import SourceOptions
from imagefs.progress import Silent
from imagefs.source.opening import Inspection, SourceRequest, inspect, open_images
from imagefs.store.store import Store
from tests.support import samples, tars
from tests.support.mounted import imagefs, mounted
from tests.support.needs import need_fuse
from tests.support.opening import opened, trees, trees_of
from tests.support.samples import IMAGE, OTHER, SampleImage

SEVERAL = {"docker": samples.docker_20, "podman": samples.podman, "oci": samples.oci_layout}
OTHERS_ID = samples.hexdigest(OTHER.config)
HOST = str(image_platform.of_host()).partition("/")[2]


def variant(architecture: str) -> SampleImage:
    """Return the image for an architecture, with a file that says which."""
    said = tars.layer({"architecture": architecture})
    return replace(IMAGE, layers=(*IMAGE.layers, said), architecture=architecture)


HERE = variant(HOST)
THERE = variant("riscv64" if HOST != "riscv64" else "amd64")
ARM = variant("arm64") if HOST != "arm64" else variant("amd64")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def every(path: Path, store: Store, **options: Any) -> Sequence[Image]:
    return open_images(SourceRequest(str(path), SourceOptions(**options)), store, Silent())


def inspected(path: Path, store: Store) -> Inspection:
    return inspect(SourceRequest(str(path)), store, Silent())


@pytest.mark.parametrize("layout", SEVERAL)
@pytest.mark.parametrize(
    "word",
    ["sample/other:2", "sample/other", "other:2", "1", OTHERS_ID, OTHERS_ID[:8], "2"],
)
def test_an_image_is_chosen(layout: str, word: str, tmp_path: Path, store: Store) -> None:
    """By tag, a name that lacks its registry or default tag, position, id, and id prefix."""
    path = samples.write(tmp_path / "both", SEVERAL[layout](IMAGE, OTHER))
    if word == "2":
        word = "sample/other:latest"
    assert opened(path, store, image=word).config == OTHER.config
    assert opened(f"docker-archive:{path}:{word}", store).config == OTHER.config


@pytest.mark.parametrize("layout", SEVERAL)
def test_no_choice_is_an_error_that_lists_them(layout: str, tmp_path: Path, store: Store) -> None:
    """Every image is named with its position, names and id, and how to choose."""
    path = samples.write(tmp_path / "both", SEVERAL[layout](IMAGE, OTHER))
    for options in ({}, {"image": "absent"}):
        with pytest.raises(UsageError) as caught:
            opened(path, store, **options)
        for image in (IMAGE, OTHER):
            assert image.names[0] in str(caught.value)
            assert samples.hexdigest(image.config)[:12] in str(caught.value)


def test_all_images_are_mounted_side_by_side(tmp_path: Path) -> None:
    """`mount --all` shows each image whole, in a directory that its first tag names."""
    need_fuse()
    path = samples.write(tmp_path / "both", samples.docker_20(IMAGE, OTHER))
    cache = str(tmp_path / "cache")
    with mounted(path, tmp_path / "m", "--all", IMAGEFS_CACHE=cache) as mountpoint:
        names = [image.names[0].replace("/", "_") for image in (IMAGE, OTHER)]
        assert sorted(os.listdir(mountpoint)) == names
        for name, image in zip(names, (IMAGE, OTHER), strict=True):
            assert (mountpoint / name / "config.json").read_bytes() == image.config
            assert (mountpoint / name / "rootfs/etc/conf").read_bytes() == b"a = 2\n"
            assert len(os.listdir(mountpoint / name / "layers")) == len(image.layers)
    words = ("mount", "--all", "--view=rootfs", path, tmp_path / "m")
    refused = imagefs(*words, IMAGEFS_CACHE=cache)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--view is of one image" in refused.stderr


def alike(digits: int) -> tuple[SampleImage, SampleImage]:
    """Return two images whose ids begin with the same digits."""
    seen: dict[str, SampleImage] = {}
    for number in count():
        image = replace(OTHER, names=(f"sample/{number}:1",), made_by=(f"attempt {number}", "b"))
        other = seen.setdefault(samples.hexdigest(image.config)[:digits], image)
        if other is not image:
            return other, image
    raise AssertionError


@pytest.mark.parametrize("layout", SEVERAL)
def test_the_beginning_of_an_id_must_tell(layout: str, tmp_path: Path, store: Store) -> None:
    """Where several ids begin alike, the image is not guessed: they are listed, in full enough."""
    pair = alike(5)
    path = samples.write(tmp_path / "both", SEVERAL[layout](*pair))
    ids = [samples.hexdigest(image.config) for image in pair]
    for act in (opened, every):
        with pytest.raises(
            UsageError, match=r"2 images whose ids begin with .* write more"
        ) as said:
            act(path, store, image=ids[0][:5])
        assert all(one[:12] in str(said.value) for one in ids)
    for image, one in zip(pair, ids, strict=True):
        assert opened(path, store, image=one[:12]).config == image.config


def test_a_name_is_not_taken_for_another_images_id(tmp_path: Path, store: Store) -> None:
    """A whole id means that image, whatever names others in the archive have."""
    named = replace(OTHER, names=(f"{samples.hexdigest(IMAGE.config)}:latest",))
    path = samples.write(tmp_path / "both", samples.docker_20(named, IMAGE))
    assert opened(path, store, image=samples.hexdigest(IMAGE.config)).config == IMAGE.config


A, B = (Image(f"sha256:{'a' * 12}{end * 52}", (), b"", b"", ()) for end in "01")
LONG = "x" * 300 + ":1"


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ([A], ["a" * 12]),
        ([A, B], ["a" * 12 + "0", "a" * 12 + "1"]),
        ([replace(A, names=("r/a:1", "r/b:1"))], ["r_a:1"]),
        (
            [replace(A, names=("r/a:1",)), replace(B, names=("r_a:1",))],
            ["r_a:1", f"r_a:1-{'a' * 12}1"],
        ),
        ([replace(A, names=("a:1",))] * 3, ["a:1", f"a:1-{'a' * 12}", f"a:1-{'a' * 12}-2"]),
        (
            [
                replace(A, names=("a:1",)),
                replace(B, names=(f"a:1-{'a' * 12}1",)),
                replace(B, names=("a:1",)),
            ],
            ["a:1", f"a:1-{'a' * 12}1", f"a:1-{'a' * 12}1-2"],
        ),
        ([replace(A, names=("x" * 255,))], ["x" * 255]),
        ([replace(A, names=(LONG,))], ["x" * 242 + f"-{'a' * 12}"]),
        (
            [replace(A, names=(LONG,)), replace(B, names=(LONG,))],
            ["x" * 241 + f"-{'a' * 12}0", "x" * 241 + f"-{'a' * 12}1"],
        ),
        ([replace(A, names=("é" * 200,))], ["é" * 121 + f"-{'a' * 12}"]),
    ],
)
def test_directory_names(images: Sequence[Image], names: Sequence[str]) -> None:
    """No two images share a directory, and no name is longer than Linux takes."""
    assert [name.decode() for name in directory_names(images)] == names


def test_long_and_like_names_are_mounted(tmp_path: Path) -> None:
    """All of an archive's images are there, whatever they are called."""
    need_fuse()
    images = [replace(OTHER, names=("n" * 400 + f":{tag}",), made_by=(tag, "b")) for tag in "ab"]
    path = samples.write(tmp_path / "both", samples.docker_20(*images))
    cache = str(tmp_path / "cache")
    with mounted(path, tmp_path / "m", "--all", IMAGEFS_CACHE=cache) as mountpoint:
        found = [
            (mountpoint / name / "config.json").read_bytes() for name in os.listdir(mountpoint)
        ]
    assert sorted(found) == sorted(image.config for image in images)


@pytest.mark.parametrize("layout", SEVERAL)
def test_all_images_can_be_had(layout: str, tmp_path: Path, store: Store) -> None:
    """--all gives each image once, whatever the number of its tags."""
    path = samples.write(tmp_path / "both", SEVERAL[layout](IMAGE, OTHER))
    assert [image.config for image in every(path, store)] == [IMAGE.config, OTHER.config]
    assert len(every(path, store)[1].names) == 2
    assert [image.config for image in every(path, store, image="1")] == [OTHER.config]


def test_the_reference_and_the_option_must_agree(tmp_path: Path, store: Store) -> None:
    """Two different wishes at once are a mistake."""
    path = samples.write(tmp_path / "both", samples.docker_20(IMAGE, OTHER))
    with pytest.raises(UsageError, match="asks for image '0', and --image for '1'"):
        opened(f"docker-archive:{path}:0", store, image="1")


def platform_layouts() -> dict[str, samples.Layout]:
    """Every way in which several platforms lie in one archive."""
    images = (THERE, HERE, ARM)
    return {
        "nested index": samples.containerd(*images, docker_manifest=False),
        "side by side, one name": samples.oci_layout(*images),
        "side by side, no name": samples.oci_layout(*(replace(one, names=()) for one in images)),
        "dir: of an index": samples.docker_dir_index(*images),
    }


@pytest.mark.parametrize("layout", platform_layouts())
def test_the_hosts_platform_is_the_default(layout: str, tmp_path: Path, store: Store) -> None:
    """Of several platforms, the host's is taken, or the one that is asked for."""
    path = samples.write(tmp_path / "x", platform_layouts()[layout])
    assert opened(path, store).config == HERE.config
    for image in (HERE, THERE, ARM):
        for word in (f"linux/{image.architecture}", image.architecture):
            assert opened(path, store, platform=word).config == image.config
    assert len(every(path, store)) == 1
    with pytest.raises(UsageError, match=r"no image for linux/s390x.*--platform") as caught:
        opened(path, store, platform="linux/s390x")
    for image in (HERE, THERE, ARM):
        assert f"linux/{image.architecture}" in str(caught.value)


def test_platforms_that_were_left_out(tmp_path: Path, store: Store) -> None:
    """An index may list platforms that its archive lacks: what is there can be had."""
    layout = samples.containerd(HERE, THERE, ARM, held=[THERE], docker_manifest=False)
    path = samples.write(tmp_path / "x", layout)
    assert opened(path, store, platform=THERE.architecture).config == THERE.config
    with pytest.raises(CorruptArchive, match=r"manifest sha256:.* is missing"):
        opened(path, store, platform=ARM.architecture)
    assert [bool(image.problem) for image in inspected(path, store).images] == [True, False, True]


def test_an_unheld_platform_is_named_with_those_that_are_held(tmp_path: Path, store: Store) -> None:
    """The host's platform may be listed only: the error says so, and what can be had instead."""
    layout = samples.containerd(HERE, THERE, ARM, held=[THERE, ARM], docker_manifest=False)
    path = samples.write(tmp_path / "x", layout)
    held = f"linux/{THERE.architecture}, linux/{ARM.architecture}"
    with pytest.raises(CorruptArchive, match=f"is missing .*linux/{HOST}.*--platform: {held}$"):
        opened(path, store)
    with pytest.raises(UsageError, match=f"no image for linux/s390x.*--platform: {held}$"):
        opened(path, store, platform="linux/s390x")
    only = samples.containerd(HERE, THERE, ARM, held=[THERE], docker_manifest=False)
    assert opened(samples.write(tmp_path / "y", only), store).config == THERE.config


def test_manifest_json_knows_one_platform_and_the_index_all(tmp_path: Path, store: Store) -> None:
    """What containerd exports can be had for each platform, though manifest.json lists but one."""
    path = samples.write(tmp_path / "x", samples.containerd(HERE, THERE, ARM))
    for image in (HERE, THERE, ARM):
        assert opened(path, store, platform=image.architecture).config == image.config
    assert opened(path, store).config == HERE.config
    assert len(every(path, store)) == 1
    assert len({image.names for image in inspected(path, store).images}) == 1
    broken = {**samples.containerd(HERE, THERE), "index.json": b"{"}
    assert opened(samples.write(tmp_path / "y", broken), store).config == HERE.config


@pytest.mark.parametrize("lacks", ["configuration", "layers"])
def test_manifest_json_may_name_what_is_absent(lacks: str, tmp_path: Path, store: Store) -> None:
    """Where it lists a platform whose blobs were left out, one that index.json has is taken."""
    here = replace(HERE, layers=HERE.layers[-1:])
    layout = dict(samples.containerd(here, THERE))
    for content in [here.config] if lacks == "configuration" else map(samples.gz, here.layers):
        del layout[f"blobs/sha256/{samples.hexdigest(content)}"]
    path = samples.write(tmp_path / "x", layout)
    assert opened(path, store).config == THERE.config


def test_the_only_platform_needs_no_asking(tmp_path: Path, store: Store) -> None:
    """An image for another machine can be looked at all the same, unless one asked otherwise."""
    for layout in (samples.docker_20(THERE), samples.containerd(THERE, docker_manifest=False)):
        path = samples.write(tmp_path / "x", layout)
        assert opened(path, store).config == THERE.config
        with pytest.raises(UsageError, match=f"no image for linux/{HOST}"):
            opened(path, store, platform=f"linux/{HOST}")


@pytest.mark.parametrize(
    ("wanted", "listed", "taken"),
    [
        ("linux/arm", ["v5", "v6", "v7", "v8"], "v7"),
        ("linux/arm", ["v5", "v6"], "v6"),
        ("arm", ["v5", "v7"], "v7"),
        ("linux/arm/v6", ["v7", "v5", "v6"], "v6"),
        ("linux/arm/v6", ["v7", "v5"], "v5"),
        ("linux/arm/v5", ["v7", "v6"], None),
        ("armhf", ["v5", "v6", "v7"], "v7"),
        ("linux/amd64", ["v3", "v2", ""], ""),
        ("linux/amd64", ["v3", "v2"], "v2"),
        ("linux/amd64/v3", ["", "v2", "v4", "v3"], "v3"),
        ("linux/amd64/v3", ["", "v2", "v4"], "v2"),
        ("linux/arm64", ["v9", "v8"], "v8"),
        ("aarch64", ["v9.2", ""], ""),
    ],
)
def test_the_best_variant_is_taken(
    wanted: str, listed: list[str], taken: str | None, tmp_path: Path, store: Store
) -> None:
    """Whatever the order of an index, the newest variant that the wanted one runs comes first."""
    architecture = str(image_platform.parse(wanted)).split("/")[1]
    images = {name: replace(variant(architecture), variant=name) for name in listed}
    path = samples.write(tmp_path / "x", samples.oci_layout(*images.values()))
    if taken is None:
        with pytest.raises(UsageError, match=r"no image for linux/arm/v5; choose .*arm/v7"):
            opened(path, store, platform=wanted)
    else:
        assert opened(path, store, platform=wanted).config == images[taken].config


CONFIG_TYPES = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json; charset=utf-8",
    "",
    None,
]


def typed(artifact_type: str | None, where: str) -> samples.Layout:
    """Return an OCI layout in which something of an image says what type it is of."""
    layout = dict(samples.containerd(IMAGE, docker_manifest=False))
    index = json.loads(layout["index.json"] or b"")
    nested = samples.follow(layout, index["manifests"][0])
    manifest = samples.follow(layout, nested["manifests"][0])
    if where == "config":
        manifest["config"]["mediaType"] = artifact_type
    if where == "manifest":
        manifest["artifactType"] = artifact_type
    samples.put(layout, nested["manifests"][0], manifest)
    if where == "descriptor":
        nested["manifests"][0]["artifactType"] = artifact_type
    samples.put(layout, index["manifests"][0], nested)
    if where == "descriptor of the index":
        index["manifests"][0]["artifactType"] = artifact_type
    layout["index.json"] = json.dumps(index).encode()
    return layout


PLACES = ["descriptor", "descriptor of the index", "manifest", "config"]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("artifact_type", CONFIG_TYPES)
def test_an_image_may_say_so(
    artifact_type: str | None, where: str, tmp_path: Path, store: Store
) -> None:
    """An image's artifactType is the type of its configuration, OCI's or Docker's."""
    path = samples.write(tmp_path / "x", typed(artifact_type, where))
    assert opened(path, store).config == IMAGE.config


@pytest.mark.parametrize("where", PLACES)
def test_an_artifact_is_named(where: str, tmp_path: Path, store: Store) -> None:
    """What an index lists in place of images is said, whichever part of it says what it is."""
    path = samples.write(tmp_path / "x", typed("application/vnd.cncf.helm.config.v1+json", where))
    with pytest.raises(CorruptArchive, match=r"lists no image, but artifacts: .*vnd\.cncf\.helm"):
        opened(path, store)


@pytest.mark.parametrize("artifact", [samples.artifact, samples.cosign_signature])
def test_artifacts_are_no_images(
    artifact: Callable[[], tuple[Any, list[bytes]]], tmp_path: Path, store: Store
) -> None:
    """Signatures and charts in an OCI layout are passed over; alone, they are no image."""
    layout = dict(samples.oci_layout(IMAGE))
    described, blobs = artifact()
    index = json.loads(layout["index.json"] or b"")
    index["manifests"].append(described)
    layout |= {f"blobs/sha256/{samples.hexdigest(blob)}": blob for blob in blobs}
    layout["index.json"] = json.dumps(index).encode()
    assert opened(samples.write(tmp_path / "x", layout), store).config == IMAGE.config
    layout["index.json"] = json.dumps({"manifests": [described]}).encode()
    with pytest.raises(CorruptArchive, match="lists no image"):
        opened(samples.write(tmp_path / "y", layout), store)


FORMATS: Mapping[str, Callable[[SampleImage], samples.Layout | bytes]] = {
    "docker save (Docker 1.10 to 24)": samples.docker_20,
    "docker save (Docker before 1.10)": samples.docker_1_9,
    "docker save (Docker 25 and later)": samples.docker_25,
    "containerd image store": samples.containerd,
    "OCI image layout": samples.oci_layout,
    "docker-archive (podman save, skopeo)": samples.podman,
    "docker-archive (Kaniko, crane, ko)": samples.kaniko,
    "docker-archive (Jib)": samples.jib,
    "docker-archive (rules_oci)": samples.rules_oci,
    "docker-archive (rules_docker)": samples.rules_docker,
    "docker-archive (Nix dockerTools)": samples.nix_stream,
    "dir: (skopeo, podman save --format docker-dir)": samples.docker_dir,
    "root file system (docker export)": lambda image: image.layers[0],
}


@pytest.mark.parametrize("name", FORMATS)
def test_inspect_tells_what_there_is(name: str, tmp_path: Path, store: Store) -> None:
    """The format's name, and of each image its names, platform, labels, layers and digests."""
    path = samples.write(tmp_path / "x", FORMATS[name](IMAGE))
    said = inspected(path, store)
    assert said.format == name
    (image,) = said.images
    if name.startswith("root"):
        return
    assert [layer.size for layer in image.layers if layer.size]
    assert image.platform == "linux/amd64"
    if "before" not in name:
        assert image.id == samples.digest(IMAGE.config)
        assert image.labels == {"maker": "samples"}
        assert [layer.diff_id for layer in image.layers] == IMAGE.diff_ids


@pytest.mark.parametrize("packed", [samples.plain, samples.gz, samples.zstd])
@pytest.mark.parametrize("name", FORMATS)
def test_archives_come_by_pipe(
    name: str, packed: samples.Pack, tmp_path: Path, store: Store
) -> None:
    """What is read from a pipe, packed or not, is the same as what is read from a file."""
    data = samples.packed(FORMATS[name](IMAGE))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = samples.write(tmp_path / "data", packed(data))
    with subprocess.Popen(["/bin/cp", path, fifo]) as copying:
        piped = opened(fifo, store)
    assert copying.returncode == 0
    if name.startswith("root"):
        expected = trees_of(IMAGE.layers[:1], tmp_path / "expected")
        assert trees(piped, store)["rootfs"].keys() == expected["rootfs"].keys()
    elif "before" not in name:
        assert trees(piped, store) == trees_of(IMAGE.layers, tmp_path / "expected")
    else:
        assert [layer.diff_id[:3] for layer in piped.layers] == ["v1:"] * 3


def test_standard_input_is_a_source(tmp_path: Path) -> None:
    """`-` is an archive on standard input, be that a pipe or a file."""
    data = samples.tar_of(samples.docker_20(IMAGE))
    program = (
        "import sys; from pathlib import Path; from imagefs.store.store import Store;"
        " from tests.support.opening import opened;"
        " print(opened('-', Store(Path(sys.argv[1]))).id)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "cache")]
    root = Path(__file__).parent.parent.parent
    piped = subprocess.run(words, input=data, capture_output=True, check=True, cwd=root)
    assert piped.stdout.decode().strip() == samples.digest(IMAGE.config)
    with samples.write(tmp_path / "x", data).open("rb") as file:
        read = subprocess.run(words, stdin=file, capture_output=True, check=True, cwd=root)
    assert read.stdout == piped.stdout
