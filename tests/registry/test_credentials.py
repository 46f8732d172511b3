"""Credentials and challenges by themselves: keys of Docker's own registry, and odd words."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from imagefs.registry import challenge, credentials
from imagefs.registry.answers import shown
from imagefs.registry.challenge import Challenge
from imagefs.registry.credentials import Credentials

PACKED = {"auth": base64.b64encode(b"me:a:b").decode()}


def found(folder: Path, config: Any, domain: str = "docker.io") -> tuple[Credentials | None, str]:
    """Return what a file has for library/app of a registry, and what was warned of."""
    path = folder / "auth.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    said: list[str] = []
    environ = {"REGISTRY_AUTH_FILE": str(path)}
    return credentials.find(domain, "library/app", environ, said.append), "; ".join(said)


@pytest.mark.parametrize(
    "key",
    [
        "docker.io",
        "docker.io/library",
        "docker.io/library/app",
        "https://index.docker.io/v1/",
        "index.docker.io",
        "https://registry-1.docker.io/v2/",
    ],
)
def test_keys_of_docker_s_own_registry(key: str, tmp_path: Path) -> None:
    """It has many names; a password may have colons."""
    one, said = found(tmp_path, {"auths": {key: PACKED}})
    assert one is not None
    assert (one.username, one.password, said) == ("me", "a:b", "")


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("docker.io/other", "docker.io"),
        ("docker.io/lib", "docker.io"),
        ("host.example", "docker.io"),
        ("host.example", "host.example:5000"),
        ("host.example:5000", "host.example"),
        ("evil.host.example", "host.example"),
        ("https://host.example/other", "host.example"),
    ],
)
def test_keys_of_others(key: str, domain: str, tmp_path: Path) -> None:
    """A name that is only alike gets nothing."""
    assert found(tmp_path, {"auths": {key: PACKED}}, domain) == (None, "")


@pytest.mark.parametrize(
    "config",
    [
        {"auths": 7},
        {"auths": {"docker.io": 7}},
        {"auths": {"docker.io": {"auth": 7}}},
        {"auths": {"docker.io": {"auth": "????"}}},
        {"auths": {"docker.io": {"username": 7, "password": []}}},
        {"credHelpers": {"docker.io": 7}},
        {"credsStore": 7},
        {},
        "",
    ],
)
def test_files_that_hold_nothing(config: Any, tmp_path: Path) -> None:
    """What makes no sense counts for nothing."""
    assert found(tmp_path, config) == (None, "")


@pytest.mark.parametrize("config", ["s3cret", "[]", '{"s3cret', "{" * 999, '{"a":"\udcff"}'])
def test_files_that_are_none(config: str, tmp_path: Path) -> None:
    """They are warned of, without a word of what is in them."""
    path = tmp_path / "auth.json"
    path.write_bytes(config.encode("utf-8", "surrogateescape"))
    said: list[str] = []
    environ = {"REGISTRY_AUTH_FILE": str(path)}
    assert credentials.find("docker.io", "library/app", environ, said.append) is None
    assert said == [f"{path}: is not a JSON object; asking without what it holds"]


def test_no_representation_shows_a_secret(tmp_path: Path) -> None:
    """Whatever logs or prints credentials prints who keeps them."""
    one, _ = found(tmp_path, {"auths": {"docker.io": {**PACKED, "identitytoken": "s3cret"}}})
    assert repr(one) == f"Credentials(source='{tmp_path}/auth.json (docker.io)')"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("Negotiate", None),
        ("Basic", Challenge("basic", {})),
        ('Basic realm="a, b"', Challenge("basic", {"realm": "a, b"})),
        (
            'Bearer realm="https://h/t?x=1",service="s",scope="repository:a:pull,push"',
            Challenge(
                "bearer",
                {"realm": "https://h/t?x=1", "service": "s", "scope": "repository:a:pull,push"},
            ),
        ),
        ('Basic realm="x", Bearer realm="y"', Challenge("bearer", {"realm": "y"})),
        ("BEARER Realm=y , SERVICE = z", Challenge("bearer", {"realm": "y", "service": "z"})),
        (r'Basic realm="a\"b\\"', Challenge("basic", {"realm": 'a"b\\'})),
        ('Negotiate abc==, Basic realm="x"', Challenge("basic", {"realm": "x"})),
        ('Bearer realm="no end', Challenge("bearer", {"realm": ""})),
        ("Bearer realm=a,realm=b", Challenge("bearer", {"realm": "a"})),
        ('="\x00,,,', None),
        ('Bearer realm="' + "\\" * 60_001, Challenge("bearer", {"realm": ""})),
    ],
)
def test_challenges(header: str, expected: Challenge | None) -> None:
    """Several in a header, in any case, quoted or not; a token's before a password's."""
    assert challenge.chosen(header) == expected


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://h/p?key=s3cret", "https://h/p"),
        ("https://u:s3cret@h/p#s3cret", "https://h/p"),
        ("https://h/a@b", "https://h/a@b"),
        ("https://h/\x1b[1m", "https://h/?[1m"),
        ("s3cret@h/x", "h/x"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, text: str) -> None:
    """Keys to storage are in the query."""
    assert shown(url) == text
