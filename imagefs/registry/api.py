"""The OCI distribution API, as far as images are pulled by it; Docker's is the same (spec.md).

Owns the questions for manifests and blobs, and that what comes has the digest and the length that
it should have. Knows nothing of what is in a manifest and of the store. Any thread may use a
Registry; `cancel` ends what the others do with it.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import requests

from imagefs.archive.members import MAX_JSON
from imagefs.errors import CorruptArchive, ImageNotFound, RegistryError, RegistryUnreachable
from imagefs.image import config as image_config
from imagefs.image.options import SourceOptions
from imagefs.image.reference import RegistryReference
from imagefs.registry import answers
from imagefs.registry.answers import BrokenOff, Chunks, shown
from imagefs.registry.login import Login
from imagefs.registry.transport import Transport, Waits

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST_HEADER = "Docker-Content-Digest"
_CHUNK = 64 << 10
_PROGRESS = 1 << 20
"""Bytes after which a connection that breaks has all attempts before it again."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Content as a manifest refers to it; `where` is what messages call it."""

    digest: str
    size: int
    where: str


class Registry:
    """One repository of a registry."""

    def __init__(
        self,
        reference: RegistryReference,
        options: SourceOptions,
        tell: Callable[[str], None],
        warn: Callable[[str], None],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.reference = reference
        self._transport = Transport(reference.domain, options, environ, tell)
        self._login = Login(self._transport, reference.domain, reference.repository, environ, warn)

    def cancel(self) -> None:
        """End what is under way in other threads, soon."""
        self._transport.cancel()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def tag_digest(self) -> str:
        """Return the digest of what the tag means now, "" where the registry does not say."""
        try:
            with self._manifest(self.reference.tag, "HEAD") as response:
                said = response.headers.get(_DIGEST_HEADER, "")
            image_config.check_digest(said, "")
        except RegistryUnreachable:
            raise
        except (RegistryError, ImageNotFound, CorruptArchive):
            # Some registries answer only whoever asks for all of it.
            return ""
        return said

    def manifest(self, digest: str = "") -> tuple[str, bytes]:
        """Return a manifest's digest and its bytes: of that digest, or what the tag means now.

        Raises CorruptArchive where it is not what it should be.
        """
        wanted = digest or self.reference.digest or self.reference.tag
        what = f"manifest {wanted}"
        waits = Waits(self._transport)
        while True:
            try:
                with self._manifest(wanted, "GET") as response:
                    content = answers.small(response, MAX_JSON, what)
                    said = response.headers.get(_DIGEST_HEADER, "")
                break
            except BrokenOff as error:
                waits.before_again(error)
        promised = wanted if ":" in wanted else said
        try:
            image_config.check_digest(promised, "")
        except CorruptArchive:
            promised = "sha256:"
        algorithm = promised.partition(":")[0]
        found = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        if promised not in (found, "sha256:"):
            raise CorruptArchive(
                f"{self.reference}: {what} should have the digest {promised}, and has {found}"
            )
        return found, content

    def _manifest(self, wanted: str, method: str) -> requests.Response:
        accept = {"Accept": ", ".join(MANIFEST_TYPES)}
        return self._ask(f"manifests/{wanted}", accept, method)

    def small_blob(self, blob: Blob) -> bytes:
        """Return a small blob, such as a configuration. Raises CorruptArchive for a large one."""
        if blob.size > MAX_JSON:
            raise CorruptArchive(
                f"{self.reference}: {blob.where} has {blob.size} bytes; {MAX_JSON} are read"
            )
        digest = hashlib.new(blob.digest.partition(":")[0])
        content = bytearray()
        for chunk in self.blob(blob):
            digest.update(chunk)
            content += chunk
        self.compare(blob, digest.hexdigest())
        return bytes(content)

    def compare(self, blob: Blob, found: str) -> None:
        """Raise CorruptArchive unless a blob's hex digest is what was found."""
        algorithm, _, wanted = blob.digest.partition(":")
        if found != wanted:
            raise CorruptArchive(
                f"{self.reference}: {blob.where} should have the digest {blob.digest},"
                f" and has {algorithm}:{found}"
            )

    def blob(self, blob: Blob) -> Iterator[bytes]:
        """Yield a blob's bytes, as many as it should have; the caller looks at their digest.

        A connection that breaks goes on where it was, a few times.
        """
        at = since = 0
        waits = Waits(self._transport)
        while True:
            try:
                for chunk in self._from(blob, at):
                    at += len(chunk)
                    yield chunk
                if at == blob.size:
                    return
                broken = BrokenOff(f"{self.reference}: {blob.where} ends after {at} bytes")
            except BrokenOff as error:
                broken = BrokenOff(f"{self.reference}: {blob.where}: {error}")
            if at - since >= _PROGRESS:
                waits.begin_anew()
            since = at
            waits.before_again(broken)

    def _from(self, blob: Blob, start: int) -> Iterator[bytes]:
        """Yield what comes of a blob from some byte on, until the connection ends."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._ask(f"blobs/{blob.digest}", headers) as response:
            at = start if _is_range_from(response, start, blob.size) else 0
            promised = answers.length(response)
            if promised is not None and promised != blob.size - at:
                raise RegistryError(
                    f"{self.reference}: {blob.where} should have {blob.size} bytes,"
                    f" and {answers.host(response)} has {promised + at}"
                )
            read = Chunks(response)
            while chunk := read(_CHUNK):
                # A registry that knows no ranges sends again what we have.
                again = min(max(0, start - at), len(chunk))
                at += len(chunk)
                if at > blob.size:
                    raise RegistryError(
                        f"{self.reference}: {blob.where} goes on beyond its {blob.size} bytes"
                    )
                if again < len(chunk):
                    yield chunk[again:] if again else chunk

    def _ask(self, path: str, headers: Mapping[str, str], method: str = "GET") -> requests.Response:
        """Return a good answer to a question, having said who we are if we had to."""
        url = f"{self._transport.base()}/v2/{self.reference.repository}/{path}"
        for _ in range(3):
            sent = self._login.header()
            response = self._transport.ask(url, headers, sent, method)
            if response.status_code in (200, 206):
                return response
            with response:
                at_home = self._transport.check(response.url or "") == self._transport.check(url)
                if response.status_code == 401 and at_home:
                    self._login.meet(response, sent)
                    continue
                raise self._refusal(response, path)
        raise self._login.refused()

    def _refusal(self, response: requests.Response, path: str) -> Exception:
        what = path.replace("/", " ", 1).replace("manifests", "manifest").replace("blobs", "blob")
        said = self._transport.refusal(response, what)
        if response.status_code == 404 and path.startswith("manifests/"):
            return ImageNotFound(f"{self.reference}: there is no such image: {said}")
        if response.status_code == 403:
            return RegistryError(f"{self._login.refused()}: {said}")
        return RegistryError(f"{self.reference}: {said}")


def _is_range_from(response: requests.Response, start: int, size: int) -> bool:
    """Tell whether an answer begins at that byte, rather than with the whole from its first."""
    if not start or response.status_code != 206:
        return False
    said = response.headers.get("Content-Range", "")
    if not said.startswith(f"bytes {start}-") or not said.endswith((f"/{size}", "/*")):
        raise RegistryError(f"{shown(response.url or '')} answers with another part than asked for")
    return True
