"""Who we are to a real registry, and whether it is the one: files, helpers, tokens, TLS."""

import base64
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import HostError, RegistryError
from imagefs.store.store import Store
from tests.support import samples
from tests.support.mounted import imagefs
from tests.support.opening import opened
from tests.support.registries import (
    PASSWORD,
    USER,
    Authority,
    RunningRegistry,
    TokenIssuer,
    auth_file,
    authority,
    by_password,
    registry,
)
from tests.support.samples import IMAGE, digest

ID = digest(IMAGE.config)
WRONG = "wr0ng-passw0rd"


def fill(target: RunningRegistry, name: str, folder: Path, *options: str) -> str:
    """Push the image as who may; return its reference."""
    path = samples.write(folder / "start.tar", samples.docker_20(IMAGE))
    return target.copy(f"docker-archive:{path}", name, f"--dest-creds={USER}:{PASSWORD}", *options)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry that wants a password, and has the image as team/app:v1."""
    folder = tmp_path_factory.mktemp("closed")
    with registry(auth=by_password(folder)) as running:
        fill(running, "team/app:v1", folder)
        yield running


def packed(username: str = USER, password: str = PASSWORD) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def helper(
    folder: Path, name: str, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Install a credential helper that knows some registries, and notes what it is asked."""
    folder.mkdir()
    path = folder / f"docker-credential-{name}"
    (folder / "answers").mkdir()
    for place, answer in answers.items():
        (folder / "answers" / place).write_text(json.dumps(answer))
    path.write_text(
        f'#!/bin/sh\nread -r place\necho "$@ $place" >>{folder}/asked\n'
        f'cat "{folder}/answers/$place" 2>/dev/null && exit\n'
        'echo "credentials not found in native keychain"; exit 1\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "asked"


PLACES = {
    "REGISTRY_AUTH_FILE": ("elsewhere.json", {"REGISTRY_AUTH_FILE": "elsewhere.json"}),
    "the runtime directory": ("run/containers/auth.json", {"XDG_RUNTIME_DIR": "run"}),
    "the configuration's home": ("home/.config/containers/auth.json", {}),
    "XDG_CONFIG_HOME": ("config/containers/auth.json", {"XDG_CONFIG_HOME": "config"}),
    "DOCKER_CONFIG": ("docker/config.json", {"DOCKER_CONFIG": "docker"}),
    "docker's home": ("home/.docker/config.json", {}),
}


@pytest.mark.parametrize("place", PLACES)
def test_where_credentials_lie(
    place: str,
    closed: RunningRegistry,
    tmp_path: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each file that the ecosystem has for them is found."""
    path, variables = PLACES[place]
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    auth_file(tmp_path / path, closed.place)
    assert opened(f"docker://{closed.place}/team/app:v1", store).id == ID


SHAPES: dict[str, Any] = {
    "by host": lambda place: {"auths": {place: packed()}},
    "by path, the longest first": lambda place: {
        "auths": {
            place: packed(password=WRONG),
            f"{place}/team": packed(),
            f"{place}/team/apple": packed(password=WRONG),
        }
    },
    "by the whole path": lambda place: {
        "auths": {f"{place}/team": packed(password=WRONG), f"{place}/team/app": packed()}
    },
    "by an address, as docker once wrote": lambda place: {
        "auths": {f"https://{place}/v2/": packed()}
    },
    "as two words": lambda place: {"auths": {place: {"username": USER, "password": PASSWORD}}},
    "by a helper of that host": lambda place: {
        "auths": {place: packed(password=WRONG)},
        "credHelpers": {place: "tests"},
    },
    "by the helper of all": lambda place: {"auths": {place: {}}, "credsStore": "tests"},
    "beside a helper that has none": lambda place: {
        "auths": {place: packed()},
        "credHelpers": {"elsewhere:1": "tests"},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_how_credentials_are_kept(
    shape: str,
    closed: RunningRegistry,
    tmp_path: Path,
    home: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All shapes of the files are read; helpers are asked with the registry's name alone."""
    answer = {"ServerURL": closed.place, "Username": USER, "Secret": PASSWORD}
    asked = helper(tmp_path / "bin", "tests", {closed.place: answer}, monkeypatch)
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(json.dumps(SHAPES[shape](closed.place)))
    assert opened(f"docker://{closed.place}/team/app:v1", store).id == ID
    helped = shape.startswith("by") and "helper" in shape
    assert (asked.read_text() if asked.exists() else "") == f"get {closed.place}\n" * helped


REFUSED: dict[str, tuple[Any, str]] = {
    "none": ({}, "for everybody; `podman login {0}` or `docker login {0}`"),
    "those of another": ({"auths": {"localhost:1": packed()}}, "for everybody; `podman login {0}`"),
    "wrong ones": (
        {"auths": {"{0}": packed(password=WRONG)}},
        r"to the credentials of .*config\.json",
    ),
    "an identity token": ({"auths": {"{0}": {"identitytoken": WRONG}}}, "to the credentials of"),
    "what is no JSON": ("{" + WRONG, "config.json: is not a JSON object"),
    "what is no base64": ({"auths": {"{0}": {"auth": "\x7f"}}}, "for everybody"),
    "a helper that is not there": (
        {"credsStore": "nowhere"},
        "credential-nowhere is not installed",
    ),
    "a helper by a path": ({"credsStore": "../tests"}, "is not run"),
    "a helper with nonsense": ({"credsStore": "odd"}, "does not answer with credentials"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(
    case: str,
    closed: RunningRegistry,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error says who keeps what was refused, or how to log in; no secret is in it."""
    kept, words = REFUSED[case]
    helper(tmp_path / "bin", "odd", {closed.place: [WRONG]}, monkeypatch)
    (home / ".docker").mkdir()
    text = kept if isinstance(kept, str) else json.dumps(kept)
    (home / ".docker/config.json").write_text(text.replace("{0}", closed.place))
    done = imagefs("--debug", "fetch", f"docker://{closed.place}/team/app:v1")
    assert done.returncode == 1
    assert re.search(words.replace("{0}", closed.place), done.stderr), done.stderr
    assert f"{closed.place} " in done.stderr.splitlines()[-1]
    assert WRONG not in done.stderr
    assert packed(password=WRONG)["auth"] not in done.stderr


def test_tokens(tmp_path: Path, home: Path, store: Store) -> None:
    """A registry that sends us to an issuer: for everybody, by password, by identity token."""
    with TokenIssuer(tmp_path / "issuer") as issuer, registry(auth=issuer.config()) as running:
        public = fill(running, "library/app:v1", tmp_path)
        private = fill(running, "team/app:v1", tmp_path)
        issuer.asked.clear()
        assert opened(public, store).id == ID
        assert [login for _, _, login in issuer.asked] == [""]
        with pytest.raises(RegistryError, match="for everybody; `podman login"):
            opened(private, store)

        kept = auth_file(home / ".docker/config.json", running.place)
        issuer.asked.clear()
        assert opened(private, store).id == ID
        ((method, said, login),) = issuer.asked
        assert (method, said["scope"], said["account"]) == ("GET", "repository:team/app:pull", USER)
        assert login == f"Basic {packed()['auth']}"

        auth_file(home / ".docker/config.json", running.place, password=WRONG)
        done = imagefs("--debug", "fetch", private)
        assert done.returncode == 1
        assert "refuses team/app to the credentials of" in done.stderr
        assert packed(password=WRONG)["auth"] not in done.stderr

        entry = {**packed(password=""), "identitytoken": issuer.identity}
        kept.write_text(json.dumps({"auths": {running.place: entry}}))
        issuer.asked.clear()
        assert opened(private, Store(tmp_path / "another")).id == ID
        ((method, said, login),) = issuer.asked
        assert (method, said["grant_type"], login) == ("POST", "refresh_token", "")


def test_a_token_that_is_refused(tmp_path: Path, store: Store) -> None:
    """One that is refused while it is fresh is not asked for again and again."""
    with TokenIssuer(tmp_path / "issuer") as issuer, registry(auth=issuer.config()) as running:
        source = fill(running, "library/app:v1", tmp_path)
        # The registry allows for clocks that differ by a minute.
        issuer.lifetime = -61
        with pytest.raises(RegistryError, match="for everybody"):
            opened(source, store)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ca") / "own")


@pytest.fixture(scope="module")
def secure(
    ca: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningRegistry, str]]:
    """A registry with a certificate of an authority of ours, with the image."""
    certificate, key = ca.issue("registry", "DNS:localhost", "IP:127.0.0.1")
    with registry(tls={"certificate": str(certificate), "key": str(key)}) as running:
        yield running, fill(running, "team/app:v1", tmp_path_factory.mktemp("secure"))


def test_tls_by_a_file(secure: tuple[RunningRegistry, str], ca: Authority, store: Store) -> None:
    """A registry is believed by the authority that is named, and by no other."""
    running, source = secure
    with pytest.raises(RegistryError, match=r"cannot be trusted: .*certificate.*--tls-ca FILE"):
        opened(source, store)
    assert opened(source, store, tls_ca=ca.certificate).id == ID
    with pytest.raises(HostError, match=r"no\.pem: No such file"):
        opened(source, store, tls_ca=ca.folder / "no.pem")
    with pytest.raises(HostError, match=r"ca\.key: is no certificate"):
        opened(source, store, tls_ca=ca.folder / "ca.key")
    with pytest.raises(RegistryError, match="answered 400"):
        opened(f"docker://{running.place}/team/app:v2", store, plain_http=True)


def test_tls_by_certs_d(
    secure: tuple[RunningRegistry, str], ca: Authority, home: Path, store: Store
) -> None:
    """The directory of a host's certificates is read as podman reads it."""
    running, source = secure
    folder = home / ".config/containers/certs.d" / running.place
    folder.mkdir(parents=True)
    (folder / "ours.crt").write_bytes(ca.certificate.read_bytes())
    assert opened(source, store).id == ID
    (folder / "client.cert").write_bytes(ca.certificate.read_bytes())
    with pytest.raises(HostError, match=r"client\.cert with client\.key: No such file"):
        opened(source.replace(":v1", ":v2"), store)


def test_without_verifying(secure: tuple[RunningRegistry, str]) -> None:
    """--insecure says so, each time."""
    _, source = secure
    for _ in range(2):
        done = imagefs("fetch", "--quiet", "--insecure", source)
        assert done.returncode == 0, done.stderr
        assert "is not verified (--insecure)" in done.stderr


def test_a_certificate_of_our_own(ca: Authority, home: Path, tmp_path: Path, store: Store) -> None:
    """A registry that wants one gets what is kept for its host; others get none."""
    certificate, key = ca.issue("registry2", "DNS:localhost")
    asks = {"certificate": str(certificate), "key": str(key), "clientcas": [str(ca.certificate)]}
    with registry(tls=asks) as running:
        own, own_key = ca.issue("us")
        folder = home / ".config/containers/certs.d" / running.place
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(ca.certificate.read_bytes())
        with pytest.raises(RegistryError, match="certificate"):
            opened(f"docker://{running.place}/team/app:v1", store)
        (folder / "us.cert").write_bytes(own.read_bytes())
        (folder / "us.key").write_bytes(own_key.read_bytes())
        source = fill(running, "team/app:v1", tmp_path, f"--dest-cert-dir={folder}")
        assert opened(source, store).id == ID
