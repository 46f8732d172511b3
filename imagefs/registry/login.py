"""Proving to a registry who we are: passwords and tokens, met as it challenges us.

Owns the Authorization header of one repository, from none through the first challenge to a new
token where the old one has run out (distribution's "Token Authentication" and "OAuth2"). No secret
leaves it but in that header and in the question for a token. Any thread may use a Login.
"""

import base64
import re
import time
from collections.abc import Callable, Mapping
from threading import Lock
from urllib.parse import urlencode

import requests

from imagefs.errors import RegistryError
from imagefs.image import safe_json
from imagefs.registry import challenge, credentials
from imagefs.registry.answers import shown, small
from imagefs.registry.challenge import Challenge
from imagefs.registry.credentials import Credentials
from imagefs.registry.transport import Transport

_MAX_TOKEN = 1 << 20
_FRESH = 5.0
"""Seconds in which a token cannot have run out: who refuses it then, refuses us."""
_TOKEN = re.compile("[!-~]+")


class Login:
    """Who we are to one repository."""

    def __init__(
        self,
        transport: Transport,
        domain: str,
        repository: str,
        environ: Mapping[str, str],
        warn: Callable[[str], None],
    ) -> None:
        self._transport = transport
        self._domain = domain
        self._repository = repository
        self._environ = environ
        self._warn = warn
        self._lock = Lock()
        self._searched = False
        self._credentials: Credentials | None = None
        self._header: str | None = None
        self._since = 0.0

    def header(self) -> str | None:
        """Return the value of Authorization, as far as we know by now that one is wanted."""
        return self._header

    def meet(self, response: requests.Response, sent: str | None) -> None:
        """Prepare to ask again what was answered with 401; RegistryError where that is in vain.

        `sent` is the header that it was asked with.
        """
        said = response.headers.get("WWW-Authenticate", "")
        with self._lock:
            if self._header != sent:
                return  # another thread has met it meanwhile
            wanted = challenge.chosen(said)
            if wanted is None:
                raise RegistryError(f"{self._domain} wants a kind of login that is not known here")
            if sent is not None and time.monotonic() - self._since < _FRESH:
                raise self.refused()
            if wanted.scheme == "basic":
                if sent is not None:
                    raise self.refused()
                self._header = self._basic()
                if self._header is None:
                    raise self.refused()
            else:
                self._header = f"Bearer {self._token(wanted)}"
            self._since = time.monotonic()

    def refused(self) -> RegistryError:
        """Return the error for being refused, which says who keeps what we were refused with."""
        found = self._found()
        if found is not None:
            return RegistryError(
                f"{self._domain} refuses {self._repository} to the credentials of {found.source}"
            )
        return RegistryError(
            f"{self._domain} has no {self._repository} for everybody;"
            f" `podman login {self._domain}` or `docker login {self._domain}` tells who you are"
        )

    def _found(self) -> Credentials | None:
        if not self._searched:
            self._searched = True
            self._credentials = credentials.find(
                self._domain, self._repository, self._environ, self._warn
            )
            if self._credentials is not None:
                self._transport.keep_secret(self._credentials.password)
                self._transport.keep_secret(self._credentials.identity_token)
        return self._credentials

    def _basic(self) -> str | None:
        found = self._found()
        if found is None or found.identity_token:
            return None
        pair = base64.b64encode(f"{found.username}:{found.password}".encode()).decode()
        self._transport.keep_secret(pair)
        return f"Basic {pair}"

    def _token(self, wanted: Challenge) -> str:
        """Ask the issuer that the registry names for a token."""
        said = wanted.parameters
        realm = said.get("realm", "")
        if not realm:
            raise RegistryError(f"{self._domain} wants a token, and does not say from whom")
        self._transport.check(realm)
        found = self._found()
        query = {"scope": said.get("scope") or f"repository:{self._repository}:pull"}
        if said.get("service"):
            query["service"] = said["service"]
        if found is not None and found.identity_token:
            query |= {
                "grant_type": "refresh_token",
                "refresh_token": found.identity_token,
                "client_id": "imagefs",
            }
            response = self._transport.ask(realm, {}, method="POST", form=query)
        else:
            if found is not None:
                query["account"] = found.username
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
            response = self._transport.ask(url, {}, self._basic())
        with response:
            return self._answered(response, f"a token of {shown(realm)}")

    def _answered(self, response: requests.Response, what: str) -> str:
        if response.status_code in (400, 401, 403):
            raise self.refused()
        if response.status_code != 200:
            raise RegistryError(self._transport.refusal(response, what))
        try:
            said = safe_json.loads(small(response, _MAX_TOKEN, what))
        except safe_json.BadJsonError as error:
            raise RegistryError(f"{what} did not come: the answer is not JSON") from error
        found = (said.get("token") or said.get("access_token")) if isinstance(said, dict) else None
        if not isinstance(found, str) or not _TOKEN.fullmatch(found):
            raise RegistryError(f"{what} did not come: the answer holds none")
        self._transport.keep_secret(found)
        return found
