"""The Docker Engine API, as far as images need it; Podman's service speaks it too.

Owns the questions (which image is meant, which images there are) and the export stream, and turns
whatever an engine may answer into values or an EngineError of one line. Knows nothing of tar and
of the store. An Engine may be used from any thread: each question has a connection of its own.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from imagefs.engine.addresses import Endpoint
from imagefs.errors import EngineError, EngineUnreachable, ImageNotFound
from imagefs.image import safe_json
from imagefs.image.json_shape import error_message, innermost, list_of, string, strings
from imagefs.image.platform import joined, parse
from imagefs.text import one_line

if TYPE_CHECKING:
    import requests

_Answer = TypeVar("_Answer")

MAX_API_VERSION = (1, 49)
"""The newest version of the API that this module was written for."""
EXPORT_PLATFORM_SINCE = (1, 48)
INSPECT_PLATFORM_SINCE = (1, 49)
CHUNK = 1 << 20
_MAX_ANSWER = 32 << 20
ANSWER_TIMEOUT = 30.0
"""Seconds for each answer but exports, for which an engine may take a minute to begin."""
_CONNECT_TIMEOUT = 10.0
_END_OF_TIME = 1 << 33
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineImage:
    """What an engine says of an image: enough to know whether it is in the store."""

    id: str
    names: tuple[str, ...]
    diff_ids: tuple[str, ...]
    platform: str
    size: int


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image in an engine's list; `names` is empty where it has no tag.

    `created` is in nanoseconds since the epoch, and 0 where the engine does not say.
    """

    id: str
    names: tuple[str, ...]
    created: int = 0


class Engine:
    """The engine at an address; `timeout` bounds each answer but for exports."""

    def __init__(self, endpoint: Endpoint, timeout: float = ANSWER_TIMEOUT) -> None:
        self.endpoint = endpoint
        self._timeout = timeout
        self._version: tuple[int, int] | None = None
        self._odd_lists: set[int] = set()

    @property
    def host(self) -> str:
        """The engine's address, as the user would write it."""
        return self.endpoint.host

    def version(self) -> tuple[int, int]:
        """Return the version of the API that both sides know.

        Raises EngineError if there is none.
        """
        if self._version is None:
            headers, _ = self._ask("/_ping")
            offered = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", headers.get("Api-Version", ""))
            if offered is None:
                raise EngineError(f"what answers at {self.host} is not a container engine")
            self._version = min(MAX_API_VERSION, (int(offered[1]), int(offered[2])))
        return self._version

    def inspect(self, name: str, platform: str | None = None) -> EngineImage:
        """Return what a name or id means now. Raises ImageNotFound if it means nothing."""
        path = f"/images/{quote(name, safe='/:@')}/json"
        if platform is not None and self.version() >= INSPECT_PLATFORM_SINCE:
            path += _platform_query(platform)
        found = self._json(path, name)
        try:
            rootfs = found.get("RootFS") or {}
            parts = (string(found.get(key) or "") for key in ("Os", "Architecture", "Variant"))
            image = EngineImage(
                id=string(found["Id"]),
                names=strings(found.get("RepoTags")),
                diff_ids=strings(rootfs.get("Layers")),
                platform=joined(*parts),
                size=int(found.get("Size") or 0),
            )
        # A size beyond all floats is read as infinity, which no integer is.
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._nonsense(f"image {name}") from error
        if not _ID.fullmatch(image.id) or not _encodable(*image.names, image.platform):
            raise self._nonsense(f"image {name}")
        return image if platform is None else self._of_platform(image, platform)

    def _of_platform(self, image: EngineImage, platform: str) -> EngineImage:
        if parse(platform).rank(image.platform) is not None:
            return image
        if self.version() < EXPORT_PLATFORM_SINCE:
            raise EngineError(
                f"the image at {self.host} is for {image.platform}, not for {platform}, and an"
                f" engine of API {_dotted(self.version())} has one platform of each image"
            )
        # What was described is another platform's; the export will tell what this one has.
        return replace(image, diff_ids=(), size=0)

    def images(self) -> tuple[ListedImage, ...]:
        """Return the engine's images, without what only builds use, and without nonsense.

        An entry that cannot be used costs itself alone; the log says how many there are.
        """
        found = self._json("/images/json", "the list of images")
        try:
            listed = [_listed(item) for item in list_of(found)]
        except TypeError as error:
            raise self._nonsense("the list of images") from error
        odd = listed.count(None)
        # The list is asked for again and again, and the engine may well keep its odd entries.
        if odd and odd not in self._odd_lists:
            self._odd_lists.add(odd)
            _log.warning("%s lists images that make no sense, left out: %d", self.host, odd)
        return tuple(image for image in listed if image is not None)

    @contextmanager
    def export(self, image_id: str, platform: str | None = None) -> Iterator[Iterator[bytes]]:
        """Open the export of an image: a `docker save` archive in chunks of up to CHUNK bytes.

        An engine may be silent for a minute before the first byte, while it makes the archive;
        and may pause later; so nothing bounds a wait, as long as it answers other questions
        meanwhile. An iteration that ends says only that the engine had no more to send: whether
        the archive is whole is for its reader to find out.
        """
        path = f"/images/{quote(image_id, safe=':')}/get"
        if platform is not None and self.version() >= EXPORT_PLATFORM_SINCE:
            path += _platform_query(platform)
        with self._stream(path, f"image {image_id}") as chunks:
            yield chunks

    def _json(self, path: str, what: str) -> Any:
        _, body = self._ask(self._versioned(path), what)
        return self._parse(body, what)

    def _parse(self, body: bytes, what: str) -> Any:
        try:
            return json.loads(body, parse_int=safe_json.integer)
        except (ValueError, RecursionError) as error:
            raise self._nonsense(what) from error

    def _nonsense(self, what: str) -> EngineError:
        return EngineError(f"{self.host} answered nonsense when asked for {what}")

    def _versioned(self, path: str) -> str:
        return f"/v{_dotted(self.version())}{path}"

    def _ask(self, path: str, what: str = "its version") -> tuple[Mapping[str, str], bytes]:
        """Return headers and body of a small answer, or raise within the time allowed.

        The question is put by a thread of its own, since a socket's timeout starts anew with
        each byte that an engine lets drip.
        """
        answer = _begun(lambda: self._get(path, what))
        if not _has_come(answer, self._timeout + 1):
            raise self._silent(what)
        return answer.result()

    def _get(self, path: str, what: str) -> tuple[Mapping[str, str], bytes]:
        with self._request(path, what, self._timeout) as response:
            body = bytearray()
            for chunk in self._chunks(response, what, 65536):
                body += chunk
                if len(body) > _MAX_ANSWER:
                    raise self._nonsense(what)
            return response.headers, bytes(body)

    @contextmanager
    def _stream(self, path: str, what: str) -> Iterator[Iterator[bytes]]:
        with self._request(self._versioned(path), what, None) as response:
            yield self._guarded(response, what, CHUNK)

    def _guarded(self, response: "requests.Response", what: str, size: int) -> Iterator[bytes]:
        """Pass chunks on; each may take its time, unless the engine turns out to be stuck."""
        chunks = self._chunks(response, what, size)
        while True:
            try:
                chunk = self._awaited(_begun(lambda: next(chunks, None)))
            except BaseException:
                # Closing waits for the thread that reads, which must see an end first.
                with suppress(OSError, RuntimeError, ValueError):
                    response.raw.shutdown()
                raise
            if chunk is None:
                return
            yield chunk

    @contextmanager
    def _request(
        self, path: str, what: str, timeout: float | None
    ) -> Iterator["requests.Response"]:
        """Send a request and check the answer's status.

        Without `timeout`, wait for as long as the engine answers others.
        """
        import requests  # noqa: PLC0415
        import urllib3  # noqa: PLC0415

        with self.endpoint.session() as session:
            try:
                ask = partial(
                    session.get,
                    self.endpoint.base_url() + path,
                    headers={"Accept-Encoding": "identity"},
                    timeout=(_CONNECT_TIMEOUT, timeout),
                    stream=True,
                    allow_redirects=False,
                )
                response = ask() if timeout is not None else self._answer(ask)
            except requests.exceptions.ReadTimeout as error:
                raise self._silent(what) from error
            except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
                absence = f"no engine answers at {self.host}: {innermost(error)}"
                raise EngineUnreachable(self.endpoint.absence or absence) from error
            with response:
                if response.status_code != 200:
                    chunks = self._chunks if timeout is not None else self._guarded
                    raise self._refusal(response, what, chunks(response, what, 4096))
                yield response

    def _answer(self, ask: Callable[[], "requests.Response"]) -> "requests.Response":
        """Return what is answered; what comes when nobody waits for it any more is closed."""
        response = _begun(ask)
        try:
            return self._awaited(response)
        except BaseException:
            response.add_done_callback(_close)
            raise

    def _awaited(self, answer: "Future[_Answer]") -> _Answer:
        """Return an answer that may take its time, unless the engine turns out to be stuck."""
        while not _has_come(answer, self._timeout):
            self._ask("/_ping")
        return answer.result()

    def _silent(self, what: str) -> EngineUnreachable:
        return EngineUnreachable(
            f"the engine at {self.host} did not answer within {self._timeout:g} s"
            f" when asked for {what}"
        )

    def _refusal(
        self, response: "requests.Response", what: str, chunks: Iterator[bytes]
    ) -> EngineError:
        status = response.status_code
        body = b""
        for chunk in chunks:
            body += chunk
            if len(body) >= 65536:
                break
        said = error_message(body)
        # Go's TLS server says in plain text, without a type, that it wants TLS.
        if said is None and response.headers.get("Content-Type", "text/plain")[:10] == "text/plain":
            said = one_line(body.decode("utf-8", "replace")) or None
        if 300 <= status < 400:
            said = "a redirection; engines never redirect"
        elif said is None:
            reason = one_line(str(response.reason or "no reason given"))
            return EngineError(f"{self.host} answered {status} ({reason}) when asked for {what}")
        if status == 404:
            return ImageNotFound(f"{self.host}: {said}")
        return EngineError(f"{self.host} answered {status} when asked for {what}: {said}")

    def _chunks(self, response: "requests.Response", what: str, size: int) -> Iterator[bytes]:
        import urllib3  # noqa: PLC0415

        try:
            yield from response.raw.stream(size, decode_content=False)
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            raise EngineError(
                f"{self.host} stopped in the middle of {what}: {innermost(error)}"
            ) from error


def _listed(item: Any) -> ListedImage | None:
    """Return an entry of an engine's list, or None if it makes no sense."""
    try:
        names = tuple(name for name in strings(item.get("RepoTags")) if "<none>" not in name)
        image = ListedImage(string(item["Id"]), names, _nanoseconds(item.get("Created")))
    except (AttributeError, KeyError, TypeError):
        return None
    return image if _ID.fullmatch(image.id) and _encodable(*names) else None


def _encodable(*texts: str) -> bool:
    """Tell whether texts can be names: JSON may spell half a character, which no file can have."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _nanoseconds(seconds: Any) -> int:
    """Return a time of an engine's list; 0 for what is none, or before 1970."""
    return seconds * 10**9 if isinstance(seconds, int) and 0 < seconds < _END_OF_TIME else 0


def _platform_query(platform: str) -> str:
    """Return a wanted platform as the API takes it."""
    said = {key: part for key, part in asdict(parse(platform)).items() if part}
    return "?platform=" + quote(json.dumps(said))


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _begun(call: Callable[[], _Answer]) -> "Future[_Answer]":
    """Call something in a thread of its own, which nobody has to wait for."""
    outcome: Future[_Answer] = Future()

    def run() -> None:
        try:
            answer = call()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(answer)

    Thread(target=run, name="imagefs-ask", daemon=True).start()
    return outcome


def _has_come(outcome: "Future[Any]", within: float) -> bool:
    """Wait for what comes of a call, at most so many seconds; tell whether it has come."""
    return bool(wait([outcome], within).done)


def _close(answer: "Future[requests.Response]") -> None:
    if answer.exception() is None:
        answer.result().close()
