"""Archives that are broken: what the error says, and what --keep-going makes of them."""

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagefs.cli.progress_bars import reporter
from imagefs.errors import CorruptArchive, HostError, ImagefsError
from imagefs.image.options import SourceOptions
from imagefs.index import cache as index_cache
from imagefs.progress import Silent
from imagefs.source.opening import SourceRequest, inspect, open_image
from imagefs.store.store import Store
from imagefs.vfs.image_fs import image_fs
from tests.support import samples, tars
from tests.support.opening import layer_text, opened, trees, trees_of
from tests.support.samples import IMAGE, MIDDLE, TOP, Layout, hexdigest
from tests.support.tars import File, layer

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def leaves_nothing(store: Store) -> bool:
    """Nothing half-made is in the store."""
    return not any(store.work_dir.iterdir())


def edited(layout: Layout, name: str, edit: Callable[[Any], Any]) -> Layout:
    """Return a layout in which the JSON of a file is changed."""
    content = layout[name]
    assert isinstance(content, bytes)
    return {**layout, name: json.dumps(edit(json.loads(content))).encode()}


def manifest(edit: Edit) -> Layout:
    """Return a docker-archive whose manifest.json entry is changed in place."""

    def change(entries: Any) -> Any:
        edit(entries[0])
        return entries

    return edited(samples.docker_20(IMAGE), "manifest.json", change)


def config(content: bytes) -> Layout:
    """Return a docker-archive with something else for a configuration."""
    return {**samples.docker_20(IMAGE), f"{hexdigest(IMAGE.config)}.json": content}


def without(layout: Layout, *names: str) -> Layout:
    return {name: content for name, content in layout.items() if name not in names}


SAVED = samples.tar_of(samples.docker_20(IMAGE))
UNTAGGED = samples.tar_of(samples.docker_1_9(IMAGE, tagged=False))
STRAY = samples.tar_of({**samples.docker_1_9(IMAGE), f"{'0' * 64}.json": b"{}"})
DEEP = b"[" * 100_000
LONG = replace(IMAGE, algorithm="sha512")
LONG_BLOB = f"blobs/sha512/{hexdigest(samples.gz(MIDDLE), 'sha512')}"
BLOB = f"blobs/sha256/{hexdigest(samples.gz(MIDDLE))}"
ABSENT = "0" * 64 + "/layer.tar"

BROKEN: Mapping[str, tuple[bytes | Layout, str]] = {
    "an empty file": (b"", "is an empty file"),
    "text": (b"hello, world\n" * 100, "is not a tar archive"),
    "a script": (b"#!/bin/sh\nexit 1\n", "is not a tar archive"),
    "zeros": (bytes(10240), "an empty tar archive"),
    "cut in a header": (SAVED[:700], "is not a tar archive|truncated tar"),
    "cut in a layer": (SAVED[: len(SAVED) // 2], "truncated tar: .*; --keep-going mounts"),
    "cut before the manifest": (
        without(samples.docker_20(IMAGE), "manifest.json", "repositories"),
        "without manifest.json or index.json; was it cut off",
    ),
    "a flat root, cut between members": (
        layer({"etc/": "", "etc/motd": "hello"})[:1536],
        "ends without an end-of-archive marker",
    ),
    "layers of old, cut between members": (
        UNTAGGED[: samples.end_of_members(UNTAGGED)],
        "cut off",
    ),
    "layers of old beside a configuration, without names": (
        without({**samples.docker_1_9(IMAGE), f"{'0' * 64}.json": b"{}"}, "repositories"),
        "was it cut off",
    ),
    "layers of old beside a configuration, cut between members": (
        STRAY[: samples.end_of_members(STRAY)],
        "was it cut off",
    ),
    "half a gzip": (samples.gz(SAVED)[:5000], "gzip stream is cut short; --keep-going mounts"),
    "half a gzip of a root": (
        samples.gz(layer({"etc/": "", "etc/motd": File(os.urandom(99_999))}))[:70_000],
        "gzip stream is cut short; --keep-going mounts",
    ),
    "gzip of an error": (samples.gz(b"no such image\n"), "/broken: is not a tar archive"),
    "manifest.json is no JSON": (
        {**samples.docker_20(IMAGE), "manifest.json": b"{"},
        "manifest.json is not JSON",
    ),
    "manifest.json is deep": (
        {**samples.docker_20(IMAGE), "manifest.json": DEEP},
        "manifest.json is not JSON",
    ),
    "manifest.json is huge": (
        {**samples.docker_20(IMAGE), "manifest.json": b" " * (17 << 20)},
        "manifest.json has 17825792 bytes; JSON of more than 16777216 is not read",
    ),
    "manifest.json is a number": (
        {**samples.docker_20(IMAGE), "manifest.json": b"1"},
        "manifest.json is neither a list nor an object",
    ),
    "manifest.json is empty": (
        {**samples.docker_20(IMAGE), "manifest.json": b"[]"},
        "manifest.json lists no image",
    ),
    "an entry is no object": (
        {**samples.docker_20(IMAGE), "manifest.json": b'["x"]'},
        "image 0 of manifest.json is not an object",
    ),
    "no configuration is named": (manifest(lambda entry: entry.pop("Config")), "names no Config"),
    "the configuration is missing": (
        manifest(lambda entry: entry.update(Config="absent.json")),
        "absent.json is missing",
    ),
    "the configuration is a directory": (
        manifest(lambda entry: entry.update(Config=entry["Layers"][0].partition("/")[0])),
        "is missing",
    ),
    "the configuration is no JSON": (config(b"\xff\xfe"), "not JSON"),
    "the configuration is a list": (config(b"[]"), "not a JSON object"),
    "diff ids are numbers": (
        config(b'{"rootfs":{"diff_ids":[1,2,3]}}'),
        r"a diff id of the image configuration is not a digest: 1; --keep-going",
    ),
    "diff ids are no list": (config(b'{"rootfs":{"diff_ids":"a"}}'), "not a list of digests"),
    "diff ids are by an unknown algorithm": (
        config(b'{"rootfs":{"diff_ids":["blake3:0a","sha256:0","a"]}}'),
        "is a digest by blake3, which cannot be checked; pack the image with sha256 or sha512;",
    ),
    "diff ids are paths": (
        config(b'{"rootfs":{"diff_ids":["sha256:../../../../x","a","b"]}}'),
        "is not a digest: 'sha256:../../../../x'; --keep-going",
    ),
    "layers are numbers": (
        manifest(lambda entry: entry.update(Layers=[1])),
        "Layers is not a list of strings",
    ),
    "tags are numbers": (
        manifest(lambda entry: entry.update(RepoTags=[1])),
        "RepoTags is not a list of strings",
    ),
    "fewer layers than diff ids": (
        manifest(lambda entry: entry["Layers"].pop()),
        "has 2 layers, but its configuration .* has 3 diff ids",
    ),
    "a layer is missing": (
        manifest(lambda entry: entry["Layers"].__setitem__(1, ABSENT)),
        rf"layer 1 \({ABSENT}, digest {samples.digest(MIDDLE)}\) is missing from the archive",
    ),
    "a layer lies outside": (
        manifest(lambda entry: entry["Layers"].__setitem__(1, "../../../etc/passwd")),
        r"layer 1 \(../../../etc/passwd, .*\) is missing from the archive",
    ),
    "a layer is a link in a circle": (
        {**manifest(lambda entry: entry["Layers"].__setitem__(1, "a")), "a": "b", "b": "a"},
        "is a symbolic link that goes in a circle",
    ),
    "parents in a circle": (
        edited(
            samples.docker_1_9(IMAGE),
            f"{samples.v1_ids(IMAGE)[0]}/json",
            lambda said: {**said, "parent": samples.v1_ids(IMAGE)[2]},
        ),
        "go in a circle",
    ),
    "a parent that is a path": (
        edited(
            samples.docker_1_9(IMAGE),
            f"{samples.v1_ids(IMAGE)[0]}/json",
            lambda said: {**said, "parent": "../../etc"},
        ),
        "names a parent that is no layer id",
    ),
    "a parent that is missing": (
        without(samples.docker_1_9(IMAGE), f"{samples.v1_ids(IMAGE)[0]}/json"),
        "json is missing",
    ),
    "a compressed layer is another": (
        {**samples.oci_layout(IMAGE), BLOB: samples.gz(TOP)},
        rf"layer 1 \({BLOB}, digest {samples.digest(MIDDLE)}\) is damaged: its bytes have the"
        rf" digest {samples.digest(TOP)}; --keep-going",
    ),
    "a compressed layer is cut": (
        {**samples.oci_layout(IMAGE), BLOB: samples.gz(MIDDLE)[:-20]},
        rf"layer 1 \({BLOB}, digest {samples.digest(MIDDLE)}\) is damaged: its gzip stream is cut",
    ),
    "a blob is missing": (
        without(samples.oci_layout(IMAGE), BLOB),
        rf"layer 1 \({BLOB}, digest .*\) is missing from the archive",
    ),
    "an index that lists itself": (
        {
            **samples.oci_layout(IMAGE),
            "index.json": json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64}]}).encode(),
        },
        "manifest sha256:0{64} is missing",
    ),
    "index.json is a list": ({**samples.oci_layout(IMAGE), "index.json": b"[]"}, "JSON object"),
    "index.json lists nothing": (
        {**samples.oci_layout(IMAGE), "index.json": b"{}"},
        "its index lists no image",
    ),
    "a descriptor without digest": (
        {**samples.oci_layout(IMAGE), "index.json": b'{"manifests":[{}]}'},
        "refers to something without a digest",
    ),
    "a descriptor that is a path": (
        {
            **samples.oci_layout(IMAGE),
            "index.json": b'{"manifests":[{"digest":"sha256:../../etc/passwd"}]}',
        },
        "what index.json refers to is not a digest: 'sha256:../../etc/passwd'$",
    ),
    "a descriptor by an unknown algorithm": (
        {
            **samples.oci_layout(IMAGE),
            "index.json": b'{"manifests":[{"digest":"sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCL"}]}',
        },
        r"what index.json refers to is a digest by sha256\+b64u, which cannot be checked",
    ),
    "a manifest is another, by SHA-512": (
        {
            **samples.oci_layout(LONG),
            f"blobs/sha512/{hexdigest(samples.oci_manifest(LONG), 'sha512')}": b"{}",
        },
        "is damaged: its digest should be sha512:.*, and is sha512:",
    ),
    "a configuration is another, by SHA-512": (
        {
            **samples.oci_layout(LONG),
            f"blobs/sha512/{hexdigest(LONG.config, 'sha512')}": IMAGE.config,
        },
        "is damaged: its digest should be sha512:.*, and is sha512:",
    ),
    "a compressed layer is another, by SHA-512": (
        {**samples.oci_layout(LONG), LONG_BLOB: samples.gz(TOP)},
        rf"digest {samples.digest(MIDDLE, 'sha512')}\) is damaged: its bytes have the digest"
        f" {samples.digest(TOP, 'sha512')}; --keep-going",
    ),
    "a manifest is another": (
        {
            **samples.oci_layout(IMAGE),
            f"blobs/sha256/{hexdigest(samples.oci_manifest(IMAGE))}": b"{}",
        },
        "is damaged: its digest should be sha256:.*, and is sha256:",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_archive_is_one_clear_error(
    name: str, tmp_path: Path, store: Store, count: Callable[[str, int], None]
) -> None:
    """The message is one line, says what is wrong and names the archive; nothing is left over."""
    content, message = BROKEN[name]
    path = samples.write(tmp_path / "broken", content)
    with pytest.raises(ImagefsError) as caught:
        opened(path, store)
    assert re.search(message, str(caught.value))
    assert isinstance(caught.value, CorruptArchive)
    assert "\n" not in str(caught.value)
    assert leaves_nothing(store)
    count("hostile archives: contents", 1)


def test_paths_that_are_no_archives(tmp_path: Path, store: Store) -> None:
    """A directory of something else, a device, and nothing at all are told apart."""
    for path, message in (
        (tmp_path, "neither manifest.json nor index.json"),
        (Path("/dev/null"), "neither a file nor a directory"),
        (tmp_path / "absent", "No such file"),
    ):
        with pytest.raises((CorruptArchive, HostError), match=message):
            opened(path, store)


def test_an_archive_cut_anywhere_is_an_error_or_whole(tmp_path: Path, store: Store) -> None:
    """Of a truncated archive, either all that counts is there, or an error comes."""
    small = samples.SampleImage((TOP,))
    for layout in (samples.docker_20(small), samples.podman(small), samples.oci_layout(small)):
        data = samples.tar_of(layout)
        for end in [*range(0, len(data), 512), *range(100, len(data), 512)]:
            path = samples.write(tmp_path / "cut", data[:end])
            try:
                made = opened(path, store)
                index_cache.ensure(made.layers, store.index_dir)
            except CorruptArchive:
                continue
            assert made.config == small.config
            assert tars.read(image_fs(made, store.index_dir, None), "rootfs/etc/conf") == b"a = 2\n"


CONFIG = f"{hexdigest(IMAGE.config)}.json"
CONFIG_BLOB = f"blobs/sha256/{hexdigest(IMAGE.config)}"
MANIFEST_BLOB = f"blobs/sha256/{hexdigest(samples.oci_manifest(IMAGE))}"
FEWER = samples.dumped({**json.loads(IMAGE.config), "rootfs": {"diff_ids": IMAGE.diff_ids[:2]}})
MORE = samples.dumped({**json.loads(IMAGE.config), "rootfs": {"diff_ids": IMAGE.diff_ids * 2}})
OTHERS = IMAGE.config.replace(b"/bin/sh", b"/bin/zz")
REWRITTEN = samples.oci_manifest(IMAGE) + b" "
PARENT = f"{samples.v1_ids(IMAGE)[0]}/json"

MADE_DO: Mapping[str, tuple[Layout, str]] = {
    "a configuration is missing": (without(samples.docker_20(IMAGE), CONFIG), "is missing"),
    "a configuration is no JSON": (config(b"{"), "not JSON"),
    "a configuration has fewer diff ids": (config(FEWER), "has 3 layers, .* has 2 diff ids"),
    "a configuration has more diff ids": (config(MORE), "has 3 layers, .* has 6 diff ids"),
    "a configuration has numbers for diff ids": (
        config(b'{"rootfs":{"diff_ids":[1,2,3]}}'),
        "not a digest: 1",
    ),
    "a configuration blob is missing": (
        without(samples.oci_layout(IMAGE), CONFIG_BLOB),
        "configuration sha256:.* is missing",
    ),
    "a configuration blob is no JSON": (
        {**samples.oci_layout(IMAGE), CONFIG_BLOB: b"{"},
        "(is damaged: its digest should be|not JSON)",
    ),
    "a configuration blob has fewer diff ids": (
        {**samples.oci_layout(IMAGE), CONFIG_BLOB: FEWER},
        "(is damaged: its digest should be|has 3 layers, .* has 2 diff ids)",
    ),
    "a configuration blob is another": (
        {**samples.oci_layout(IMAGE), CONFIG_BLOB: OTHERS},
        "is damaged: its digest should be",
    ),
    "a manifest blob is another": (
        {**samples.oci_layout(IMAGE), MANIFEST_BLOB: REWRITTEN},
        "is damaged: its digest should be",
    ),
    "an inner index is another": (
        {
            name: content + b" "
            if isinstance(content, bytes) and b'"manifests"' in content
            else content
            for name, content in samples.containerd(IMAGE, docker_manifest=False).items()
        },
        "is damaged: its digest should be",
    ),
    "a layer of old is not described": (without(samples.docker_1_9(IMAGE), PARENT), "is missing"),
}


@pytest.mark.parametrize("form", ["file", "packed file", "directory"])
@pytest.mark.parametrize("name", MADE_DO)
def test_layers_without_what_describes_them(
    name: str, form: str, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with its JSON, the layers that an image lists are shown, with a warning."""
    layout, damage = MADE_DO[name]
    path = tmp_path / "x"
    if form == "directory":
        samples.unpack(path, layout)
    else:
        data = samples.tar_of(layout)
        samples.write(path, samples.gz(data) if form == "packed file" else data)
    with pytest.raises(CorruptArchive, match=rf"{damage}.*; --keep-going mounts what is left"):
        opened(path, store)
    request = SourceRequest(str(path), SourceOptions(keep_going=True))
    with reporter(quiet=True) as progress:
        image = open_image(request, store, progress)
    assert re.search(f"imagefs: warning: .*{damage}", capsys.readouterr().err)
    assert re.search(damage, inspect(request, store, Silent()).images[0].problem)
    expected = trees_of(IMAGE.layers, tmp_path / "expected")
    assert trees(image, store)["rootfs"].keys() == expected["rootfs"].keys()
    fs = image_fs(image, store.index_dir, None)
    assert tars.read(fs, "rootfs/etc/conf") == b"a = 2\n"
    assert leaves_nothing(store)


def test_what_another_platform_describes_comes_first(tmp_path: Path, store: Store) -> None:
    """Layers are not shown bare where the archive has an image that is whole."""
    layout = samples.containerd(IMAGE)
    wrong = json.loads(layout["manifest.json"] or b"")
    wrong[0]["Config"] = "absent"
    path = samples.write(tmp_path / "x", {**layout, "manifest.json": samples.dumped(wrong)})
    assert opened(path, store, keep_going=True).config == IMAGE.config


@pytest.mark.parametrize("pack", [samples.plain, samples.gz])
def test_where_a_layer_is_damaged(pack: samples.Pack, tmp_path: Path, store: Store) -> None:
    """A byte is the layer's, whether it is read in place or in the store; where it lies is said."""
    broken = bytearray(TOP)
    broken[1024:1032] = b"\1" * 8  # what would be the header behind the file and its content
    image = replace(IMAGE, layers=(*IMAGE.layers[:2], bytes(broken)))
    path = samples.write(tmp_path / "x", pack(samples.tar_of(samples.docker_20(image))))
    with pytest.raises(CorruptArchive, match="is damaged: no tar header at byte 1024") as caught:
        image_fs(opened(path, store), store.index_dir, None)
    begins = re.search(r"; the layer begins at byte (\d+) of (.*)$", str(caught.value))
    assert begins
    assert Path(begins[2]).read_bytes()[int(begins[1]) :].startswith(broken)
    assert (begins[2] == str(path)) == (pack is samples.plain)
    made = opened(path, store, keep_going=True)
    assert "no tar header at byte 1024" in layer_text(made, store)
    assert (
        tars.read(
            image_fs(made, store.index_dir, None),
            "layers/02-" + made.layers[2].short_id + "/etc/conf",
        )
        == b"a = 2\n"
    )


def test_links_out_of_a_directory_are_refused(tmp_path: Path, store: Store) -> None:
    """A symbolic link in an OCI layout reads nothing outside of it."""
    layout = samples.oci_layout(IMAGE)
    secret = tmp_path / "secret"
    secret.write_bytes(samples.gz(MIDDLE))
    for number, target in enumerate((str(secret), "../../../secret")):
        path = samples.unpack(tmp_path / f"{number}", {**layout, BLOB: target})
        with pytest.raises(CorruptArchive, match="leads out of the directory"):
            opened(path, store)
    inside = samples.unpack(tmp_path / "inside", {**without(layout, BLOB), "moved": b""})
    (inside / "moved").write_bytes(samples.gz(MIDDLE))
    (inside / BLOB).symlink_to("../../moved")
    assert opened(inside, store).layers[1].diff_id == samples.digest(MIDDLE)


def test_a_fifo_in_a_directory_is_no_file(tmp_path: Path, store: Store) -> None:
    """Nothing in a directory is waited for."""
    path = samples.unpack(tmp_path / "layout", without(samples.oci_layout(IMAGE), BLOB))
    os.mkfifo(path / BLOB)
    with pytest.raises(CorruptArchive, match="is missing from the archive"):
        opened(path, store)


FLIPPED = bytes([MIDDLE[0] ^ 1]) + MIDDLE[1:]
PLACE = f"{samples.v1_ids(IMAGE)[1]}/layer.tar"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_verify_checks_what_is_read_in_place(algorithm: str, tmp_path: Path, store: Store) -> None:
    """A layer whose tar is sound but another than its diff id says is found with --verify."""
    image = replace(IMAGE, algorithm=algorithm)
    place = f"{samples.v1_ids(image)[1]}/layer.tar"
    path = samples.write(tmp_path / "x", {**samples.docker_20(image), place: TOP})
    opened(path, store)
    expected = rf"layer 1 \({place}, digest {samples.digest(MIDDLE, algorithm)}\) is damaged: .*"
    with pytest.raises(CorruptArchive, match=expected + samples.digest(TOP, algorithm)):
        opened(path, store, verify=True)
    whole = samples.write(tmp_path / "whole", samples.docker_20(image))
    assert opened(whole, store, verify=True) == opened(whole, store)


DAMAGED: Mapping[str, tuple[Layout, str]] = {
    "missing": (without(samples.docker_20(IMAGE), PLACE), "is missing from the archive"),
    "bad header": ({**samples.docker_20(IMAGE), PLACE: FLIPPED}, "no tar header at byte"),
    "cut": ({**samples.docker_20(IMAGE), PLACE: MIDDLE[:3000]}, "truncated tar"),
    "gzip, missing": (without(samples.oci_layout(IMAGE), BLOB), "is missing from the archive"),
    "gzip, cut": (
        {**samples.oci_layout(IMAGE), BLOB: samples.gz(MIDDLE)[:-300]},
        "its gzip stream is cut short",
    ),
    "gzip of another": ({**samples.oci_layout(IMAGE), BLOB: samples.gz(TOP)}, "have the digest"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_broken_stays_usable(name: str, packed: bool, tmp_path: Path, store: Store) -> None:
    """With --keep-going the other layers work, and layers.txt says what is lost; never without."""
    layout, message = DAMAGED[name]
    data = samples.tar_of(layout)
    path = samples.write(tmp_path / "damaged", samples.gz(data) if packed else data)
    for _ in range(2):
        made = opened(path, store, keep_going=True)
        fs = image_fs(made, store.index_dir, None)
        lines = layer_text(made, store).splitlines()
        directory = made.layer_names()[1]
        assert [line for line in lines if line.startswith(f"# {directory}: ")], lines
        assert re.search(message, "\n".join(lines))
        whole = trees_of(IMAGE.layers[:1], tmp_path / "expected")["rootfs"]
        assert tars.paths(fs, f"snapshots/{made.layer_names()[0]}").keys() == whole.keys()
        assert tars.read(fs, "rootfs/etc/conf") == b"a = 2\n"
        with pytest.raises(CorruptArchive, match=r"damaged|missing"):
            index_cache.ensure(opened(path, store).layers, store.index_dir)


def test_a_layer_that_the_store_has_is_not_missing(tmp_path: Path, store: Store) -> None:
    """What an archive leaves out may have come with another."""
    opened(samples.write(tmp_path / "whole", samples.oci_layout(IMAGE)), store)
    made = opened(samples.write(tmp_path / "x", without(samples.oci_layout(IMAGE), BLOB)), store)
    assert made.layers[1].stored
    assert not made.layers[1].damage


def test_lost_content_is_an_input_error(tmp_path: Path, store: Store) -> None:
    """A file whose content the archive no longer holds has its name, and EIO for content."""
    path = samples.write(tmp_path / "x", {**samples.docker_20(IMAGE), PLACE: MIDDLE[:20_000]})
    fs = image_fs(opened(path, store, keep_going=True), store.index_dir, None)
    assert tars.shown(fs)["big"] == f"!{errno.EIO}"
    assert tars.shown(fs)["etc/old/y"] == "y"


def test_a_truncated_archive_with_its_manifest_in_front(tmp_path: Path, store: Store) -> None:
    """What is left of an archive mounts, if what describes it is left."""
    data = samples.tar_of(samples.rules_oci(IMAGE))
    path = samples.write(tmp_path / "cut", data[: -(10240 + 500)])
    with pytest.raises(CorruptArchive, match="truncated tar"):
        opened(path, store)
    made = opened(path, store, keep_going=True)
    fs = image_fs(made, store.index_dir, None)
    assert tars.read(fs, f"snapshots/{made.layer_names()[1]}/etc/old/y") == b"y"


def test_a_flat_root_that_is_cut(tmp_path: Path, store: Store) -> None:
    """What is left of an export mounts, packed or not; what is cut off is lost."""
    root = layer({"etc/": "", "etc/motd": "hello", "etc/big": "x" * 100_000})[:60_000]
    for number, data in enumerate((root, samples.gz(root)[:-20])):
        path = samples.write(tmp_path / f"{number}", data)
        made = opened(path, store, keep_going=True)
        shown = tars.shown(image_fs(made, store.index_dir, None))
        assert shown == {"etc/": "", "etc/motd": "hello", "etc/big": f"!{errno.EIO}"}
        with pytest.raises(CorruptArchive, match=r"damaged|truncated|cut short"):
            index_cache.ensure(opened(path, store).layers, store.index_dir)


ORDERS: dict[str, Callable[[list[str]], list[str]]] = {
    "reversed": lambda names: names[::-1],
    "by name": sorted,
    "by name, backwards": lambda names: sorted(names, reverse=True),
    "by digest": lambda names: sorted(names, key=lambda name: hexdigest(name.encode())),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_members_says_nothing(
    name: str, packed: bool, tmp_path: Path, store: Store
) -> None:
    """Members of an archive may come in any order, or twice, where the last one counts."""
    for made in (samples.docker_20, samples.docker_25, samples.podman, samples.oci_layout):
        layout = made(IMAGE)
        order = ORDERS[name](list(layout))
        data = samples.tar_of({member: layout[member] for member in order})
        decoys = {member: b"[" for member in order if isinstance(layout[member], bytes)}
        first = samples.tar_of(decoys)[: samples.end_of_members(samples.tar_of(decoys))]
        for content in (data, first + data):
            path = samples.write(tmp_path / "x", samples.gz(content) if packed else content)
            image = opened(path, store)
            assert image.config == IMAGE.config
            assert [layer.diff_id for layer in image.layers] == list(
                map(samples.digest, IMAGE.layers)
            )


def test_keys_that_come_twice(tmp_path: Path, store: Store) -> None:
    """Of two keys of one name the last counts, as it does for Docker."""
    layout = samples.docker_20(IMAGE)
    said = layout["manifest.json"]
    assert isinstance(said, bytes)
    for before in (b'[{"Config":"absent.json",', b'[{"Layers":["../x"],"RepoTags":[1],'):
        twice = {**layout, "manifest.json": said.replace(b"[{", before, 1)}
        assert opened(samples.write(tmp_path / "x", twice), store).config == IMAGE.config


def test_numbers_of_very_many_digits_that_nobody_reads(tmp_path: Path, store: Store) -> None:
    """They are passed over in a manifest and in a configuration, as Docker does."""
    more = b', "x": -%b}' % (b"9" * 5000)
    odd = IMAGE.config[:-1] + more
    layout = {**samples.docker_20(IMAGE), f"{hexdigest(IMAGE.config)}.json": odd}
    said = layout["manifest.json"]
    assert isinstance(said, bytes)
    layout["manifest.json"] = said.rstrip()[:-2] + more + b"]"
    assert opened(samples.write(tmp_path / "x", layout), store).config == odd
