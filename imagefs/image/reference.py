"""What the user typed as SOURCE: an archive, standard input, an image of an engine or a registry.

Owns the syntax of references: the transports of containers-transports(5) and the names and ids
that engines use. It looks at the file system once, to tell a path from an image name, and never
opens anything. Any thread may call it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from imagefs.errors import UsageError

ENGINE_TRANSPORT = "docker-daemon"
REGISTRY_TRANSPORT = "docker://"
DEFAULT_DOMAIN = "docker.io"
"""The registry of names that say none, as the docker command has it."""
PATH_TRANSPORTS = ("docker-archive", "oci-archive", "oci", "dir")
"""Transports that name a path; what it holds is told by content all the same."""


@dataclass(frozen=True, slots=True)
class EngineReference:
    """An image of an engine, by name or id as typed."""

    name: str


@dataclass(frozen=True, slots=True)
class ArchiveReference:
    """An archive or directory of this host; `image` chooses one of several images in it."""

    path: Path
    image: str | None = None


@dataclass(frozen=True, slots=True)
class RegistryReference:
    """An image of a registry: `digest` of `repository` at `domain`, or what `tag` means there.

    `domain` is `HOST[:PORT]` as people write it.
    """

    domain: str
    repository: str
    tag: str
    digest: str = ""

    @property
    def name(self) -> str:
        """The whole name, with nothing left out."""
        mark = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.domain}/{self.repository}{mark}"

    def __str__(self) -> str:
        return REGISTRY_TRANSPORT + self.name


@dataclass(frozen=True, slots=True)
class StdinReference:
    """An archive on standard input."""


Reference = EngineReference | ArchiveReference | RegistryReference | StdinReference

_PATH_MAX = 4095
"""Bytes of a path that Linux takes (limits.h counts a NUL more)."""
_SHOWN = 60
_MAX_REPOSITORY = 255
"""Letters of a repository's whole name, by distribution/reference."""

# The grammar of distribution/reference: [domain[:port]/]component{/component}[:tag][@digest].
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_TAG = r"[\w][\w.-]{0,127}"
_NAME = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>{_TAG}))?(?:@(?P<digest>[A-Za-z0-9+._-]+:[0-9a-fA-F]{{32,}}))?",
    re.ASCII,
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_FULL_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_SHORT_ID = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


def parse(text: str) -> Reference:
    """Return what `text` refers to; a bare word is a path if it exists, else an engine's image.

    Raises UsageError for what can be neither.
    """
    if text == "-":
        return StdinReference()
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > _PATH_MAX:
        raise UsageError(
            f"{text[:_SHOWN]!r}... has {size} bytes; a path, or an image's name, has at most"
            f" {_PATH_MAX}"
        )
    if text.startswith(REGISTRY_TRANSPORT):
        return _registry(text)
    transport, colon, rest = text.partition(":")
    if colon and transport in PATH_TRANSPORTS:
        return _archive(rest, text)
    if colon and transport == ENGINE_TRANSPORT:
        return _engine(rest, text)
    if os.path.lexists(text) or text.startswith(("/", "./", "../")) or text in {".", ".."}:
        return ArchiveReference(Path(text))
    return _engine(text, text)


def _archive(rest: str, text: str) -> ArchiveReference:
    if not rest or rest.startswith(":"):
        raise UsageError(f"{text!r} names no path")
    if os.path.lexists(rest):
        return ArchiveReference(Path(rest))
    path, _, image = rest.partition(":")
    return ArchiveReference(Path(path), image or None)


def _engine(name: str, text: str) -> EngineReference:
    if not name:
        raise UsageError("an empty image name")
    if not (_NAME.fullmatch(name) or _SHORT_ID.fullmatch(name)):
        raise UsageError(f"{text!r} is neither a file nor an image name")
    return EngineReference(name)


def _registry(text: str) -> RegistryReference:
    said = text.removeprefix(REGISTRY_TRANSPORT)
    match = _NAME.fullmatch(said)
    by_digest = said.rpartition("@")[2].startswith(("sha256:", "sha512:"))
    if match is None and "@" in said.partition("/")[0] and not by_digest:
        # Not shown: it may be a password.
        raise UsageError(
            "docker:// takes no user and no password; `podman login` and `docker login` keep them"
        )
    if match is None:
        raise UsageError(f"{text!r} names no image: docker://[HOST[:PORT]/]NAME[:TAG|@DIGEST]")
    digest = match["digest"] or ""
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{text!r}: a digest is sha256: and 64, or sha512: and 128 hex digits")
    domain, slash, repository = match["name"].partition("/")
    if not slash or not _is_domain(domain):
        domain, repository = DEFAULT_DOMAIN, match["name"]
    if domain == f"index.{DEFAULT_DOMAIN}":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in repository:
        repository = f"library/{repository}"
    if len(f"{domain}/{repository}") > _MAX_REPOSITORY:
        raise UsageError(
            f"{text[:_SHOWN]!r}... names a repository by more than {_MAX_REPOSITORY} letters"
        )
    return RegistryReference(domain, repository, match["tag"] or "latest", digest)


def _is_domain(word: str) -> bool:
    """Tell a registry from the first part of a path, as the docker command does."""
    return word == "localhost" or any(letter in ".:" or letter.isupper() for letter in word)


def full_id(name: str) -> str | None:
    """Return `sha256:<hex>` if the name is a whole image id, with or without its algorithm."""
    match = _FULL_ID.fullmatch(name)
    return f"sha256:{match[1]}" if match else None


def id_prefix(name: str) -> str | None:
    """Return the hex digits if the name may be the beginning of an image id."""
    match = _SHORT_ID.fullmatch(name)
    return match[1] if match else None


def familiar(name: str) -> str:
    """Return a name as Docker lists it: no default registry, `:latest` where no tag is given."""
    for default in ("docker.io/library/", "docker.io/", "index.docker.io/library/"):
        if name.startswith(default):
            name = name[len(default) :]
            break
    if "@" in name or ":" in name.rpartition("/")[2]:
        return name
    return name + ":latest"
