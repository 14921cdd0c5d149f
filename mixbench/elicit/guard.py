"""Checks that every request passes before anything is done for it.

A browser keeps a random token in a cookie that scripts cannot read; the study knows only a hash of
it. A request that changes something has to bear a second token, which stands in the page, and to
come from the page's own origin. Names of sites are checked too, so that no foreign name that leads
here is served.
"""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from mixbench.elicit.answers import RefusedError
from mixbench.elicit.limits import RateLimit

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 16 << 10  # of a body
BODY_S = 10.0  # until a body has to be there
COOKIE_S = 30 * 24 * 3600
SESSION_RATE = (120.0, 20.0)  # requests of one session at once, and each second
PICTURE_RATE = (600.0, 100.0)  # pictures of one session, of which a trial can show 11
NEW_RATE = (400.0, 5.0)  # sessions from one address
_TOKEN = re.compile(r"([A-Za-z0-9_-]{43})\.([0-9a-f]{64})")
_WAIT = "Too many requests; please wait a moment."


class Guard:
    """Knows which requests are those of the page of a study.

    Args:
        secret: Of the study.
        name: Of the study, which tells its cookie from those of other studies on the same machine.
        hosts: Names beside those of this machine under which the page may be asked for.
    """

    def __init__(self, secret: bytes, name: str, hosts: tuple[str, ...]) -> None:
        self._tokens, self._cookie = _Tokens(secret), f"mixbench-{name}"
        self._hosts = frozenset(host.lower() for host in (*LOOPBACK, *hosts))
        self._sessions, self._pictures = RateLimit(*SESSION_RATE), RateLimit(*PICTURE_RATE)
        self._newcomers = RateLimit(*NEW_RATE)

    def check_source(self, request: "Request") -> None:
        """Refuse a request under a foreign name, or from a foreign page."""
        host = request.headers.get("host", "").lower()
        if _without_port(host) not in self._hosts:
            raise RefusedError(421, "The page is not served under this name.")
        if request.method != "POST":
            return
        origin = request.headers.get("origin", "").lower()
        if origin not in (f"http://{host}", f"https://{host}"):
            raise RefusedError(403, "The request comes from another page.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, "The request is not JSON.")

    def page_token(self, request: "Request") -> str:
        """Token of the session that loads the page, a new one if it has none."""
        token = self._own(request)
        if token is None:
            return self.new_token(request)
        if not self._sessions.take(token):
            raise RefusedError(429, _WAIT)
        return token

    def new_token(self, request: "Request") -> str:
        """Token of a session that begins."""
        if not self._newcomers.take(request.client.host if request.client else ""):
            raise RefusedError(429, "Too many people begin at once; please try again soon.")
        return secrets.token_urlsafe(32)

    def check_token(self, request: "Request", *, picture: bool = False) -> str:
        """Token of the session that asks; refuses a request that is not from its page."""
        token = self._own(request)
        if token is None:
            raise RefusedError(403, "Please reload the page; cookies have to be allowed.")
        if not (self._pictures if picture else self._sessions).take(token):
            raise RefusedError(429, _WAIT)
        given = request.headers.get("x-csrf-token", "")
        if request.method == "POST" and not self._tokens.is_csrf(token, given):
            raise RefusedError(403, "Please reload the page, and do it again.")
        return token

    def csrf(self, token: str) -> str:
        """Second token of a session, which stands in its page."""
        return self._tokens.csrf(token)

    def with_cookie(self, response: "Response", token: str) -> "Response":
        """The response, which gives the browser the token of its session."""
        value = self._tokens.signed(token)
        options: Any = {"max_age": COOKIE_S, "httponly": True, "samesite": "strict", "path": "/"}
        response.set_cookie(self._cookie, value, **options)
        return response

    def _own(self, request: "Request") -> str | None:
        return self._tokens.valid(request.cookies.get(self._cookie, ""))


async def body_of(request: "Request") -> dict[str, Any]:
    """The JSON object that a request brings.

    Args:
        request: The request.

    Returns:
        The object.

    Raises:
        RefusedError: If it is too large, or no object.
        TimeoutError: If it does not end.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BYTES:
        raise RefusedError(413, "The request is too large.")
    parts, size = [], 0
    async with asyncio.timeout(BODY_S):
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise RefusedError(413, "The request is too large.")
    try:
        found = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "The request is not JSON.") from error
    if not isinstance(found, dict):
        raise RefusedError(400, "The request is not a JSON object.")
    return found


class _Tokens:
    """Tokens of sessions, signed with the secret of a study."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _mac(self, purpose: str, token: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{token}".encode(), hashlib.sha256).hexdigest()

    def signed(self, token: str) -> str:
        return f"{token}.{self._mac('cookie', token)}"

    def valid(self, value: str) -> str | None:
        match = _TOKEN.fullmatch(value)
        if match is None or not hmac.compare_digest(match[2], self._mac("cookie", match[1])):
            return None
        return match[1]

    def csrf(self, token: str) -> str:
        return self._mac("csrf", token)

    def is_csrf(self, token: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.csrf(token).encode())


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
