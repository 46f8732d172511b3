"""SOURCE, as people type it."""

import os
from pathlib import Path

import pytest

from imagefs.errors import UsageError
from imagefs.image.reference import (
    ArchiveReference,
    EngineReference,
    Reference,
    RegistryReference,
    StdinReference,
    familiar,
    full_id,
    id_prefix,
    parse,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-", StdinReference()),
        ("app", EngineReference("app")),
        ("app:v1", EngineReference("app:v1")),
        ("host.example:5000/team/app:v1", EngineReference("host.example:5000/team/app:v1")),
        ("localhost/app", EngineReference("localhost/app")),
        ("[::1]:5000/app", EngineReference("[::1]:5000/app")),
        (f"app@sha256:{HEX}", EngineReference(f"app@sha256:{HEX}")),
        (f"app:v1@sha256:{HEX}", EngineReference(f"app:v1@sha256:{HEX}")),
        (HEX[:12], EngineReference(HEX[:12])),
        (f"sha256:{HEX}", EngineReference(f"sha256:{HEX}")),
        ("docker-daemon:app:v1", EngineReference("app:v1")),
        ("docker-archive:a.tar", ArchiveReference(Path("a.tar"))),
        ("docker-archive:a.tar:app:v1", ArchiveReference(Path("a.tar"), "app:v1")),
        ("oci-archive:a.tar:v1", ArchiveReference(Path("a.tar"), "v1")),
        ("oci:folder:v1", ArchiveReference(Path("folder"), "v1")),
        ("dir:folder", ArchiveReference(Path("folder"))),
        ("./missing", ArchiveReference(Path("missing"))),
        ("/missing", ArchiveReference(Path("/missing"))),
        (".", ArchiveReference(Path())),
    ],
)
def test_what_a_source_refers_to(
    text: str, expected: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport decides, then the shape of a path, then the grammar of image names."""
    monkeypatch.chdir(tmp_path)
    assert parse(text) == expected


DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "domain", "repository", "tag", "by_digest"),
    [
        ("app", "docker.io", "library/app", "latest", ""),
        ("team/app:v1", "docker.io", "team/app", "v1", ""),
        ("docker.io/app", "docker.io", "library/app", "latest", ""),
        ("index.docker.io/app", "docker.io", "library/app", "latest", ""),
        ("host.example/app", "host.example", "app", "latest", ""),
        ("host.example:5000/team/app:v1", "host.example:5000", "team/app", "v1", ""),
        ("localhost/app", "localhost", "app", "latest", ""),
        ("localhost:5000/app", "localhost:5000", "app", "latest", ""),
        ("[::1]:5000/app", "[::1]:5000", "app", "latest", ""),
        ("Team/app", "Team", "app", "latest", ""),
        (f"app@{DIGEST}", "docker.io", "library/app", "latest", DIGEST),
        (f"host.example/app:v1@{DIGEST}", "host.example", "app", "v1", DIGEST),
        (f"app@sha512:{HEX}{HEX}", "docker.io", "library/app", "latest", f"sha512:{HEX}{HEX}"),
    ],
)
def test_what_is_in_a_registry(
    text: str, domain: str, repository: str, tag: str, by_digest: str
) -> None:
    """What a name leaves out is completed as the docker command completes it."""
    found = parse(f"docker://{text}")
    assert found == RegistryReference(domain, repository, tag, by_digest)
    assert parse(str(found)) == (found if not by_digest else parse(f"docker://{found.name}"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no image"),
        ("/app", "names no image"),
        ("app:", "names no image"),
        ("App", "names no image"),
        ("host.example/", "names no image"),
        ("app@sha256:12", "names no image"),
        ("app\n", "names no image"),
        ("host.example/../app", "names no image"),
        (f"app@sha256:{HEX.upper()}", "a digest is sha256"),
        (f"app@md5:{HEX}", "a digest is sha256"),
        ("a/" * 127 + "app", "more than 255 letters"),
        ("user:s3cret@host.example/app", "no user and no password"),
        ("user:s3cret@host", "no user and no password"),
    ],
)
def test_what_is_in_no_registry(text: str, words: str) -> None:
    """Names by the grammar alone get into a URL, and a password into no message."""
    with pytest.raises(UsageError, match=words) as error:
        parse(f"docker://{text}")
    assert "s3cret" not in str(error.value)


def test_a_word_is_a_path_if_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file wins over an image of that name, and so does a link that leads nowhere."""
    monkeypatch.chdir(tmp_path)
    os.symlink("nowhere", "app:v1")
    Path("docker-archive:x").touch()
    assert parse("app:v1") == ArchiveReference(Path("app:v1"))
    assert parse("docker-daemon:app:v1") == EngineReference("app:v1")
    Path("a:b.tar").touch()
    assert parse("docker-archive:a:b.tar") == ArchiveReference(Path("a:b.tar"))


@pytest.mark.parametrize(
    "text",
    ["", "App:v1", "app:", "../app:v1/..//x y", "app v1", "a//b", "app@sha256:12", "-app", "app\n"],
)
def test_what_is_neither_path_nor_name(text: str, tmp_path: Path) -> None:
    """Nothing but names by the grammar gets as far as an engine's URL, whatever it is."""
    if text.startswith("../"):
        assert parse(text) == ArchiveReference(Path(text))
        return
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize("text", ["docker-archive:", "oci::v1", "docker-daemon:"])
def test_a_transport_needs_something_to_carry(text: str) -> None:
    """A transport alone is a usage error."""
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app", "app:latest"),
        ("app:v1", "app:v1"),
        ("docker.io/library/app", "app:latest"),
        ("docker.io/team/app:v1", "team/app:v1"),
        ("host.example:5000/app", "host.example:5000/app:latest"),
        ("host.example:5000/app:v1", "host.example:5000/app:v1"),
        (f"app@sha256:{HEX}", f"app@sha256:{HEX}"),
    ],
)
def test_one_image_has_one_familiar_name(name: str, expected: str) -> None:
    """A bare repository means `latest`, a registry's port is no tag, a digest stays as it is."""
    assert familiar(name) == expected


def test_ids_are_told_from_names() -> None:
    """Only 64 hex digits are a whole id; fewer may be the beginning of one, or a name."""
    assert full_id(HEX) == full_id(f"sha256:{HEX}") == f"sha256:{HEX}"
    assert full_id(HEX[:63]) is None
    assert id_prefix(HEX[:12]) == HEX[:12]
    assert id_prefix("app") is None
