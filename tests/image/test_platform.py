"""Platforms: how people write them, what fits what, and what fits best."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from imagefs.errors import UsageError
from imagefs.image import platform as image_platform
from imagefs.store.store import Store
from tests.support import samples
from tests.support.needs import need_tool
from tests.support.opening import opened
from tests.support.samples import IMAGE

HOST = image_platform.of_host()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("arm64/v8", "arm64/v8"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm64/8", "linux/arm64/v8"),
        ("linux/arm/7", "linux/arm/v7"),
        ("Linux/AMD64", "linux/amd64"),
        ("x86_64", "linux/amd64"),
        ("linux/x86_64/v3", "linux/amd64/v3"),
        ("aarch64", "linux/arm64"),
        ("armhf", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("windows/amd64", "windows/amd64"),
        ("linux/mips64le/hardfloat", "linux/mips64le/hardfloat"),
        ("linux", f"linux/{str(HOST).partition('/')[2]}"),
        ("windows", f"windows/{str(HOST).partition('/')[2]}"),
        ("", None),
        ("/", None),
        ("linux/", None),
        ("/amd64", None),
        ("linux/arm/v7/x", None),
        ("linux/a b", None),
        ("linux/\x1b[2J", None),
    ],
)
def test_how_people_write_them(text: str, said: str | None) -> None:
    """Either part may be left out, names of other tools are known, and the rest is a mistake."""
    if said is None:
        with pytest.raises(UsageError, match="is no platform"):
            image_platform.parse(text)
    else:
        assert str(image_platform.parse(text)) == said


BEST_FIRST = [
    ("linux/arm", "arm arm/v7 arm/v6 arm/v5 arm/v8"),
    ("linux/arm/v7", "arm/v7 arm arm/v6 arm/v5"),
    ("linux/arm/v6", "arm/v6 arm/v5 arm"),
    ("linux/arm/v5", "arm/v5 arm"),
    ("linux/arm/v8", "arm/v8 arm/v7 arm arm/v6 arm/v5"),
    ("linux/arm64", "arm64 arm64/v8 arm64/v8.2 arm64/v8.4 arm64/v8.9 arm64/v9"),
    ("linux/arm64/v8", "arm64/v8 arm64"),
    ("linux/arm64/v8.4", "arm64/v8.4 arm64/v8.2 arm64/v8 arm64"),
    ("linux/arm64/v9", "arm64/v9 arm64/v8.9 arm64/v8.4 arm64/v8.2 arm64/v8 arm64"),
    ("linux/amd64", "amd64 amd64/v1 amd64/v2 amd64/v3 amd64/v4"),
    ("linux/amd64/v1", "amd64/v1 amd64"),
    ("linux/amd64/v3", "amd64/v3 amd64/v2 amd64 amd64/v1"),
    ("linux/amd64/v4", "amd64/v4 amd64/v3 amd64/v2 amd64 amd64/v1"),
    ("linux/mips64le", "mips64le mips64le/hardfloat"),
    ("linux/mips64le/hardfloat", "mips64le/hardfloat mips64le"),
    ("linux/riscv64", "riscv64 riscv64/v2"),
    ("linux/386", "386"),
    ("linux/s390x", "s390x"),
]
ALL = sorted({word for _, words in BEST_FIRST for word in words.split()})


@pytest.mark.parametrize(("wanted", "best_first"), BEST_FIRST)
def test_what_fits_and_what_fits_best(wanted: str, best_first: str) -> None:
    """A processor runs what is older than itself; what is not said counts as what is usual."""
    asked = image_platform.parse(wanted)
    ranks = {one: asked.rank(f"linux/{one}") for one in ALL}
    fitting = {one: rank for one, rank in ranks.items() if rank is not None}
    assert set(fitting) == set(best_first.split())
    in_order = [fitting[one] for one in best_first.split()]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize(
    ("wanted", "image"),
    [
        ("windows/amd64", "linux/amd64"),
        ("linux/amd64", "windows/amd64"),
        ("linux/arm", "linux/arm64"),
        ("linux/arm64", "linux/arm/v8"),
        ("linux/amd64", "linux/386"),
        ("linux/mips/v2", "linux/mips/v3"),
        ("linux/amd64", ""),
        ("linux/amd64", "linux"),
        ("linux/amd64", "unknown/unknown"),
    ],
)
def test_what_fits_not(wanted: str, image: str) -> None:
    """Neither another system, nor another architecture, nor something that is no platform."""
    assert image_platform.parse(wanted).rank(image) is None


def test_parts_that_are_no_text_are_not_said() -> None:
    """JSON may hold anything where a platform belongs."""
    assert image_platform.joined("linux", None, "v7") == "linux/v7"
    assert image_platform.joined("linux", "arm", 7, ["v7"], "") == "linux/arm"


@pytest.mark.parametrize(
    ("wanted", "listed"),
    [
        ("arm", "v5 v6 v7"),
        ("arm", "v5 v6"),
        ("arm", "v5 -"),
        ("arm/v6", "v7 v5 v6"),
        ("arm/v6", "v7 v5"),
        ("arm/v6", "- v5"),
        ("arm/v6", "v7 -"),
        ("arm/v5", "v7 v6"),
        ("arm64", "v8 -"),
        ("arm64", "v9 v8"),
        ("arm64/v8", "-"),
        ("amd64", "v2 -"),
    ],
)
def test_skopeo_takes_the_same(wanted: str, listed: str, tmp_path: Path) -> None:
    """Of an index with these variants, `-` being one without, skopeo copies what we mount."""
    skopeo = need_tool("skopeo", "skopeo")
    architecture, _, variant = wanted.partition("/")
    said = ["" if one == "-" else one for one in listed.split()]
    images = [replace(IMAGE, architecture=architecture, variant=one) for one in said]
    source = samples.unpack(tmp_path / "layout", samples.nested_index(*images))
    words = [skopeo, "--override-os=linux", f"--override-arch={architecture}"]
    words += [f"--override-variant={variant}"] if variant else []
    words += ["copy", "--quiet", f"oci:{source}", f"dir:{tmp_path}/copied"]
    done = subprocess.run(words, capture_output=True, check=False)
    store = Store(tmp_path / "cache")
    if done.returncode:
        assert b"no image found in image index" in done.stderr
        with pytest.raises(UsageError, match="holds no image for"):
            opened(source, store, platform=f"linux/{wanted}")
    else:
        copied = json.loads((tmp_path / "copied/manifest.json").read_bytes())
        image = opened(source, store, platform=f"linux/{wanted}")
        assert samples.digest(image.config) == copied["config"]["digest"]
