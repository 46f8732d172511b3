"""HTTP to a registry, and to wherever it sends us: addresses, TLS, redirects, waits.

Owns two promises. What proves who we are goes to the origin that it was given for and to no other:
a redirect that leaves it goes on without. And nothing goes over plain HTTP unless the registry
itself is spoken to so. Knows nothing of images and tokens. Any thread may use a Transport.
"""

import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from threading import Event, Lock
from urllib.parse import urljoin, urlsplit
from weakref import WeakSet

import requests
import urllib3

from imagefs import __version__
from imagefs.errors import RegistryError, RegistryUnreachable
from imagefs.image.json_shape import innermost
from imagefs.image.options import SourceOptions
from imagefs.image.reference import DEFAULT_DOMAIN
from imagefs.registry import answers, tls
from imagefs.registry.answers import retry_after, shown
from imagefs.registry.tls import Adapter, is_loopback

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 30.0
"""Seconds without a byte until a connection counts as broken."""
MAX_REDIRECTS = 5
MAX_WAIT = 120.0
"""Seconds that a registry may ask us to wait (Retry-After); who asks for more is asked later."""
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt."""
_PROBE_TIMEOUT = 3.0
_WORTH_A_WORD = 5.0
_API_HOSTS = {DEFAULT_DOMAIN: f"registry-1.{DEFAULT_DOMAIN}"}
_REDIRECTS = {301, 302, 303, 307, 308}
_IDEMPOTENT = {"GET", "HEAD"}
_BUSY = {429, 500, 502, 503, 504}
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER")

# It would log whole addresses, and those that storage is redirected to are keys to it.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


class Transport:
    """The way to one registry; `tell` is told of long waits."""

    def __init__(
        self,
        domain: str,
        options: SourceOptions,
        environ: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self.place = _API_HOSTS.get(domain, domain)
        self._options = options
        self._environ = environ
        self._tell = tell
        self._cancelled = Event()
        self._lock = Lock()
        self._sessions: dict[str, requests.Session] = {}
        self._open: WeakSet[requests.Response] = WeakSet()
        self._secrets: list[str] = []
        self._base = ""
        self._reached = False

    def base(self) -> str:
        """Return the address that the registry's own begin with, `SCHEME://HOST[:PORT]`."""
        with self._lock:
            if not self._base:
                self._base = f"{self._scheme()}://{self.place}"
            return self._base

    def _scheme(self) -> str:
        if self._options.plain_http:
            return "http"
        parts = urlsplit(f"https://{self.place}")
        host = parts.hostname or ""
        if not is_loopback(host):
            return "https"
        return "https" if self._speaks_tls(host, parts.port or 443) else "http"

    def _speaks_tls(self, host: str, port: int) -> bool:
        """Tell whether somebody on this machine speaks TLS; a certificate is not looked at."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with (
                socket.create_connection((host, port), _PROBE_TIMEOUT) as plain,
                context.wrap_socket(plain, server_hostname=host),
            ):
                return True
        except ssl.SSLError as error:
            return not any(reason in str(error) for reason in _NO_TLS)
        except OSError:
            return False

    def keep_secret(self, secret: str) -> None:
        """Never show these letters, should a registry say them."""
        if secret:
            self._secrets.append(secret)

    def cancel(self) -> None:
        """End what is under way in other threads, soon."""
        self._cancelled.set()
        for response in list(self._open):
            try:
                response.raw.shutdown()
            except (OSError, RuntimeError, ValueError, AttributeError):
                response.close()

    def close(self) -> None:
        """Close all connections, also of answers that nobody has read to their end."""
        for response in list(self._open):
            response.close()
        for session in self._sessions.values():
            session.close()

    def check(self, url: str) -> str:
        """Return the origin of an address that a registry names. RegistryError if we may not go."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise self._no_address() from error
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
            raise RegistryError(f"{self.place} names an address that is not for HTTP: {shown(url)}")
        if parts.scheme == "http" and not (
            self.base().startswith("http:") and (self._options.plain_http or is_loopback(host))
        ):
            raise RegistryError(
                f"{self.place} leads to plain HTTP, which is not safe: {shown(url)}"
            )
        return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}"

    def _no_address(self) -> RegistryError:
        return RegistryError(f"{self.place} names an address that is none")

    def ask(
        self,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None = None,
        method: str = "GET",
        form: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return an answer, for whose body nobody has asked yet; the caller closes it.

        Whoever is busy is asked again after a while; who closed a connection before a byte of the
        answer, as is done with idle ones, at once, but only the first time. Raises
        RegistryUnreachable, or RegistryError where it makes no sense to ask again.
        """
        waits = Waits(self)
        may_be_idle = method in _IDEMPOTENT
        while True:
            try:
                response = self._ask_once(url, headers, authorization, method, form)
            except RegistryUnreachable as error:
                if not self._reached:
                    raise
                if not (may_be_idle and isinstance(error, _ConnectionLost)):
                    waits.before_again(error)
                may_be_idle = False
                continue
            self._reached = True
            if response.status_code not in _BUSY:
                return response
            with response:
                busy = RegistryUnreachable(self.refusal(response, shown(url)))
            waits.before_again(busy, retry_after(response))

    def _ask_once(
        self,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        method: str,
        form: Mapping[str, str] | None,
    ) -> requests.Response:
        first = origin = self.check(url)
        asked = shown(url)
        for _ in range(MAX_REDIRECTS + 1):
            sent = dict(headers)
            if authorization is not None and origin == first:
                sent["Authorization"] = authorization
            response = self._send(method, url, sent, form)
            if response.status_code not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            if form is not None or not location:
                raise RegistryError(f"{asked} is redirected, and should not be")
            try:
                url = urljoin(url, location)
            except ValueError as error:
                raise self._no_address() from error
            if (origin := self.check(url)) != first:
                # Not even when the way leads back.
                authorization = None
        raise RegistryError(f"{asked} is redirected more than {MAX_REDIRECTS} times")

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> requests.Response:
        if self._cancelled.is_set():
            raise RegistryError("the pull was ended")
        host = urlsplit(url).netloc
        try:
            response = self._session(self.check(url), host).request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **headers},
                data=form,
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_TIMEOUT, ANSWER_TIMEOUT),
                proxies=_proxies(url),
            )
        except requests.exceptions.SSLError as error:
            raise RegistryError(_tls_failure(host, innermost(error))) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as error:
            raise RegistryError(f"{self.place}: {shown(url)} cannot be asked for") from error
        except (OSError, urllib3.exceptions.HTTPError) as error:
            kind = _ConnectionLost if _is_lost(error) else RegistryUnreachable
            raise kind(f"no registry answers at {host}: {innermost(error)}") from error
        except ValueError as error:
            # requests looks at where a redirect leads, though it is not to follow it.
            raise self._no_address() from error
        self._open.add(response)
        if self._cancelled.is_set():
            # Whoever ended all may not have seen this one.
            response.close()
            raise RegistryError("the pull was ended")
        return response

    def _session(self, origin: str, place: str) -> requests.Session:
        with self._lock:
            if origin not in self._sessions:
                session = requests.Session()
                # ~/.netrc has no say in who we are, and cookies none at all.
                session.trust_env = False
                session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
                session.headers["User-Agent"] = f"imagefs/{__version__}"
                if self._options.insecure:
                    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
                    session.verify = False
                scheme = origin.partition(":")[0]
                context = None
                if scheme == "https":  # to read all authorities takes a while
                    context = tls.context_for(place, self._options, self._environ)
                session.mount(f"{scheme}://", Adapter(context))
                self._sessions[origin] = session
            return self._sessions[origin]

    def refusal(self, response: requests.Response, what: str) -> str:
        """Return a line for an answer that is none, with what it says for itself."""
        reason = answers.reason(response, what)
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        host, status = answers.host(response), response.status_code
        return f"{host} answered {status} when asked for {what}: {reason}"

    def wait(self, seconds: float) -> None:
        """Wait; RegistryError if all ends meanwhile."""
        if seconds >= _WORTH_A_WORD:
            self._tell(f"{self.place} has no time for us; waiting {seconds:.0f} s")
        if self._cancelled.wait(seconds):
            raise RegistryError("the pull was ended")


class _ConnectionLost(RegistryUnreachable):
    """A connection that stood was closed before a byte of the answer."""


def _is_lost(error: Exception) -> bool:
    """Tell whether an error of requests is that; urllib3 has it behind the words for it."""
    inner = error.args[0] if error.args else None
    return isinstance(inner, urllib3.exceptions.ProtocolError) and isinstance(
        inner.args[-1], ConnectionError
    )


class Waits:
    """The waits of one piece of work: a few, each longer than the one before."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._left = list(WAITS)

    def begin_anew(self) -> None:
        """Have all waits again, since the work went on in between."""
        self._left = list(WAITS)

    def before_again(self, error: RegistryError, at_least: float = 0.0) -> None:
        """Wait before the next attempt, or raise the error of the last one."""
        if not self._left or at_least > MAX_WAIT:
            if at_least > MAX_WAIT:
                raise type(error)(f"{error}; it asks to be asked again in {at_least:.0f} s")
            raise error
        self._transport.wait(max(self._left.pop(0), at_least))


def _proxies(url: str) -> dict[str, str]:
    """Return the environment's proxies; what is on this machine is reached without."""
    if is_loopback(urlsplit(url).hostname or ""):
        return {}
    return requests.utils.get_environ_proxies(url)


def _tls_failure(host: str, reason: str) -> str:
    if "WRONG_VERSION_NUMBER" in reason:
        return f"{host} does not speak TLS; --plain-http is for those that cannot"
    return f"{host} cannot be trusted: {reason}; --tls-ca FILE names an authority that knows it"
