"""The server of a study: one process, no login, nothing from anywhere else.

What a request has to pass stands in :mod:`mixbench.elicit.guard`. Trials and pictures have random
names, and none of them is a path.
"""

import functools
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

from mixbench.elicit.answers import RefusedError
from mixbench.elicit.consent import BOXES
from mixbench.elicit.enlarge import enlarged
from mixbench.elicit.guard import Guard, body_of
from mixbench.elicit.instructions import instructions_of
from mixbench.elicit.page import study_page
from mixbench.elicit.study import Study, session_name
from mixbench.errors import UserError

_PICTURE = re.compile(r"[0-9a-f]{32}")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}


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
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    guard = Guard(study.secret, study.name, hosts)
    page = study_page(study.settings, study.class_names)
    enlarge = functools.lru_cache(maxsize=512)(enlarged)

    async def show(request: Request) -> Response:
        token = guard.page_token(request)
        return guard.with_cookie(HTMLResponse(page.html(guard.csrf(token))), token)

    async def state(request: Request) -> Response:
        session = session_name(guard.check_token(request))
        return JSONResponse(await run_in_threadpool(study.state, session))

    async def act(request: Request) -> Response:
        session = session_name(guard.check_token(request))
        given, action = await body_of(request), _ACTIONS[request.url.path]
        told = await run_in_threadpool(action, study, session, given)
        return JSONResponse(await run_in_threadpool(study.state, session) | told)

    async def leave(request: Request) -> Response:
        guard.check_token(request)
        await body_of(request)
        return guard.with_cookie(JSONResponse({"reload": True}), guard.new_token(request))

    async def picture(request: Request) -> Response:
        token, name = guard.check_token(request, picture=True), request.path_params["name"]
        known = _PICTURE.fullmatch(name)
        png = await run_in_threadpool(study.picture, session_name(token), name) if known else None
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

    gets = {"/": show, "/state": state, "/picture/{name}": picture, "/favicon.ico": nothing}
    posts = dict.fromkeys(_ACTIONS, act) | {"/leave": leave}
    wrapped = functools.partial(_guarded, guard=guard, policy=page.policy)
    routes = [Route(path, wrapped(action), methods=["GET"]) for path, action in gets.items()]
    routes += [Route(path, wrapped(action), methods=["POST"]) for path, action in posts.items()]
    return Starlette(routes=[*routes, Route("/{rest:path}", wrapped(unknown), methods=["GET"])])


def _guarded(action: Callable[[Any], Any], guard: Guard, policy: str) -> Callable[[Any], Any]:
    """The action with all that every answer bears, and words for what is refused."""
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response

    async def answer(request: Request) -> Response:
        try:
            guard.check_source(request)
            response = await action(request)
        except RefusedError as error:
            response = JSONResponse({"message": error.message}, error.status)
            if error.status == 413:
                response.headers["Connection"] = "close"
            if error.status == 429:
                response.headers["Retry-After"] = "1"
        except (TimeoutError, ClientDisconnect):
            response = JSONResponse({"message": "The request was not complete in time."}, 408)
            response.headers["Connection"] = "close"
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["Content-Security-Policy"] = policy
        return response

    return answer


def _consent(study: Study, session: str, given: Mapping[str, Any]) -> dict[str, Any]:
    boxes = given.get("boxes")
    ticked = isinstance(boxes, list) and len(boxes) == BOXES and all(b is True for b in boxes)
    if given.keys() != {"boxes"} or not ticked:
        raise RefusedError(400, "Please tick all boxes.")
    study.begin(session)
    return {}


def _understood(study: Study, session: str, given: Mapping[str, Any]) -> dict[str, Any]:
    right = [question.right for question in instructions_of(study.settings).questions]
    answers = given.get("answers")
    if given.keys() != {"answers"} or not isinstance(answers, list) or len(answers) != len(right):
        raise RefusedError(400, "These are not the answers to all questions.")
    pairs = enumerate(zip(answers, right, strict=True))
    wrong = [place for place, (own, other) in pairs if type(own) is not int or own != other]
    study.understood(session, not wrong)
    return {"wrong": wrong}


def _answer(study: Study, session: str, given: Mapping[str, Any]) -> dict[str, Any]:
    study.answer(session, given)
    return {}


def _comments(study: Study, session: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if given.keys() != {"text"}:
        raise RefusedError(400, "This is not a comment.")
    study.finish(session, given["text"])
    return {}


_ACTIONS: dict[str, Callable[[Study, str, Mapping[str, Any]], dict[str, Any]]] = {
    "/consent": _consent,
    "/understood": _understood,
    "/answer": _answer,
    "/comments": _comments,
}
