"""The server of a study: one process, no login, nothing from anywhere else.

A browser keeps a random token in a cookie that scripts cannot read; the study knows only a hash of
it. A request that changes something has to bear a second token, which stands in the page, and to
come from the page's own origin. Names of sites are checked too, so that no foreign name that leads
here is served. Trials and pictures have random names, and none of them is a path.
"""

import asyncio
import functools
import hashlib
import hmac
import json
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Any

from mixbench.elicit.answers import RefusedError
from mixbench.elicit.consent import BOXES
from mixbench.elicit.enlarge import enlarged
from mixbench.elicit.instructions import instructions_of
from mixbench.elicit.limits import RateLimit
from mixbench.elicit.page import study_page
from mixbench.elicit.study import Study, session_name
from mixbench.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 16 << 10  # of a body
BODY_S = 10.0  # until a body has to be there
COOKIE_S = 30 * 24 * 3600
SESSION_RATE = (120.0, 20.0)  # requests of one session at once, and each second
PICTURE_RATE = (600.0, 100.0)  # pictures of one session, of which a trial can show 11
NEW_RATE = (400.0, 5.0)  # sessions from one address
_PICTURE = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(r"([A-Za-z0-9_-]{43})\.([0-9a-f]{64})")


def check_server_installed() -> None:
    """Refuse to begin without the packages of the server.

    Raises:
        UserError: If they are not installed.
    """
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        todo = "pip install 'mixbench[elicit]', or EXTRAS=elicit in front of make"
        raise UserError(f"the page needs {error.name}", "elicit", todo) from error
    del starlette, uvicorn


def listen(port: int, public: bool) -> socket.socket:
    """A socket that listens.

    Args:
        port: Its port; 0 for any that is free.
        public: Whether other machines can reach it.

    Returns:
        The socket.

    Raises:
        UserError: If the port is taken or not allowed.
    """
    # Only where the protocol is named, asyncio sends small answers without a delay of 40 ms.
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("0.0.0.0" if public else "127.0.0.1", port))
        found.listen(1024)  # at once: another process could still bind the port otherwise
    except (OSError, OverflowError) as error:
        found.close()
        what = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"the port cannot be used: {what}", f"--port {port}", "choose another"
        ) from error
    return found


def serve(study: Study, listener: socket.socket, hosts: tuple[str, ...] = ()) -> None:
    """Serve a study until the process is interrupted.

    Args:
        study: The study.
        listener: A socket of :func:`listen`.
        hosts: Names beside those of this machine under which the page may be asked for.
    """
    server_of(study, hosts).run(sockets=[listener])


def server_of(study: Study, hosts: tuple[str, ...] = ()) -> Any:
    """The server, which has not started.

    Args:
        study: The study.
        hosts: As for :func:`serve`.

    Returns:
        An instance of ``uvicorn.Server``.
    """
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app_of(study, hosts),
            log_level="warning",
            access_log=False,  # addresses of people are kept nowhere
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=2000,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
    )


def app_of(study: Study, hosts: tuple[str, ...] = ()) -> Any:
    """The ASGI application of a study.

    Args:
        study: The study.
        hosts: As for :func:`serve`.

    Returns:
        An instance of ``starlette.applications.Starlette``.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    page = study_page(study.settings, study.class_names)
    tokens = _Tokens(study.secret)
    known = frozenset(host.lower() for host in (*LOOPBACK, *hosts))
    sessions, newcomers = RateLimit(*SESSION_RATE), RateLimit(*NEW_RATE)
    pictures = RateLimit(*PICTURE_RATE)
    cookie = f"mixbench-{study.name}"
    enlarge = functools.lru_cache(maxsize=512)(enlarged)

    def own_token(request: Request) -> str | None:
        return tokens.valid(request.cookies.get(cookie, ""))

    def new_token(request: Request) -> str:
        if not newcomers.take(request.client.host if request.client else ""):
            raise RefusedError(429, "Too many people begin at once; please try again soon.")
        return secrets.token_urlsafe(32)

    def check_source(request: Request) -> None:
        host = request.headers.get("host", "").lower()
        if _without_port(host) not in known:
            raise RefusedError(421, "The page is not served under this name.")
        if request.method == "POST":
            origin = request.headers.get("origin", "").lower()
            if origin not in (f"http://{host}", f"https://{host}"):
                raise RefusedError(403, "The request comes from another page.")
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise RefusedError(415, "The request is no JSON.")

    def check_token(request: Request, limit: RateLimit = sessions) -> str:
        token = own_token(request)
        if token is None:
            raise RefusedError(403, "Please reload the page; cookies have to be allowed.")
        if not limit.take(token):
            raise RefusedError(429, "Too many requests; please wait a moment.")
        given = request.headers.get("x-csrf-token", "")
        if request.method == "POST" and not tokens.is_csrf(token, given):
            raise RefusedError(403, "Please reload the page, and do it again.")
        return token

    async def body_of(request: Request) -> dict[str, Any]:
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
            raise RefusedError(400, "The request is no JSON.") from error
        if not isinstance(found, dict):
            raise RefusedError(400, "The request is no JSON object.")
        return found

    def with_cookie(response: Response, token: str) -> Response:
        value = tokens.signed(token)
        options: Any = {"max_age": COOKIE_S, "httponly": True, "samesite": "strict", "path": "/"}
        response.set_cookie(cookie, value, **options)
        return response

    def guarded(action: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """The action with all that every answer bears, and words for what is refused."""

        async def guard(request: Request) -> Response:
            try:
                check_source(request)
                response = await action(request)
            except RefusedError as error:
                response = JSONResponse({"message": error.message}, error.status)
                if error.status in (408, 413):
                    response.headers["Connection"] = "close"
                if error.status == 429:
                    response.headers["Retry-After"] = "1"
            except (TimeoutError, ClientDisconnect):
                response = JSONResponse({"message": "The request did not end."}, 408)
                response.headers["Connection"] = "close"
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
            response.headers["Content-Security-Policy"] = page.policy
            return response

        return guard

    async def show(request: Request) -> Response:
        token = own_token(request)
        if token is not None and not sessions.take(token):
            raise RefusedError(429, "Too many requests; please wait a moment.")
        token = token or new_token(request)
        return with_cookie(HTMLResponse(page.html(tokens.csrf(token))), token)

    async def state(request: Request) -> Response:
        token = check_token(request)
        return JSONResponse(await run_in_threadpool(study.state, session_name(token)))

    def posted(action: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> Any:
        async def take(request: Request) -> Response:
            token = check_token(request)
            given = await body_of(request)
            session = session_name(token)
            told = await run_in_threadpool(action, session, given)
            return JSONResponse(await run_in_threadpool(study.state, session) | told)

        return guarded(take)

    def consent(session: str, given: Mapping[str, Any]) -> dict[str, Any]:
        if given != {"boxes": [True] * BOXES}:
            raise RefusedError(400, "All boxes have to be ticked.")
        study.begin(session)
        return {}

    def understood(session: str, given: Mapping[str, Any]) -> dict[str, Any]:
        right = [question.right for question in instructions_of(study.settings).questions]
        answers = given.get("answers")
        if given.keys() != {"answers"} or not isinstance(answers, list):
            raise RefusedError(400, "These are no answers.")
        if len(answers) != len(right):
            raise RefusedError(400, "These are not all answers.")
        pairs = enumerate(zip(answers, right, strict=True))
        wrong = [place for place, (own, other) in pairs if own is True or own != other]
        study.understood(session, not wrong)
        return {"wrong": wrong}

    def answer(session: str, given: Mapping[str, Any]) -> dict[str, Any]:
        study.answer(session, given)
        return {}

    def comments(session: str, given: Mapping[str, Any]) -> dict[str, Any]:
        if given.keys() != {"text"}:
            raise RefusedError(400, "This is no comment.")
        study.finish(session, given["text"])
        return {}

    async def leave(request: Request) -> Response:
        check_token(request)
        await body_of(request)
        return with_cookie(JSONResponse({"reload": True}), new_token(request))

    async def picture(request: Request) -> Response:
        token, name = check_token(request, pictures), request.path_params["name"]
        if not _PICTURE.fullmatch(name):
            raise RefusedError(404, "There is no such picture.")
        png = await run_in_threadpool(study.picture, session_name(token), name)
        if png is None:
            raise RefusedError(404, "There is no such picture.")
        large = await run_in_threadpool(enlarge, png, study.settings.upscaling)
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(large, media_type="image/png", headers=headers)

    async def nothing(request: Request) -> Response:
        del request
        return Response(status_code=204)

    async def unknown(request: Request) -> Response:
        del request
        raise RefusedError(404, "There is no such page.")

    def route(path: str, action: Any, method: str = "GET") -> Route:
        return Route(path, action if method == "POST" else guarded(action), methods=[method])

    return Starlette(
        routes=[
            route("/", show),
            route("/state", state),
            route("/picture/{name}", picture),
            route("/favicon.ico", nothing),
            route("/consent", posted(consent), "POST"),
            route("/understood", posted(understood), "POST"),
            route("/answer", posted(answer), "POST"),
            route("/comments", posted(comments), "POST"),
            route("/leave", guarded(leave), "POST"),
            route("/{rest:path}", unknown),
        ]
    )


_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}


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
