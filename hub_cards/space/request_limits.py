"""What of a request reaches the app: only what its page and its clients send, as JSON of bounded size.

Gradio by itself reads bodies of any size and depth, keeps uploads, fetches and serves files, and opens the path in
every object that looks like a file of its own; and anybody can send requests to a Space.
"""

import inspect
import json
import logging
from typing import Any

import anyio
from starlette.responses import JSONResponse

from processing_unimp.bounds import MAX_DATA_URI, short_repr

MAX_BODY = MAX_DATA_URI + 4_000_000  # bytes; the largest picture, and words
MAX_BODY_OF_PAGE = 100_000  # bytes of what the page itself sends: the shopper's history lies on the server
MAX_ENVELOPE = 10_000  # bytes of all but the values of a call: which function, for which session
MAX_BYTES_IN_MEMORY = 8 * MAX_BODY  # of all bodies at a time
MAX_RECEIVE_SECONDS = 60  # in which a body has to arrive
MAX_PARTS = 250_000  # commas and opening brackets of a body: no more values become objects of Python
MAX_ADDRESS = 250  # bytes; no name of a file is longer
MAX_DEPTH = 16  # lists and objects inside one another; the deepest item takes ten, with all that is around it

API = "/gradio_api/"
OPEN = {"/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"}
OPEN |= {API + name for name in ("info", "openapi.json", "startup-events", "cancel", "reset")}
OPEN |= {API + name for name in ("queue/join", "queue/data", "queue/status", "mcp", "mcp/http", "mcp/schema")}
OPEN_FOLDERS = ("/assets/", "/static/", "/pwa_icon", API + "heartbeat/", API + "call/")
# What a call carries beside its values. Gradio would accept more, such as a token.
ENVELOPE = {"session_hash": str, "event_id": str, "fn_index": int, "trigger_id": int, "event_data": object}

FAULT = "The Space failed, by a fault of its own that is now in its log."

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that does not reach the app.

    Args:
        status (`int`): of HTTP.
        message (`str`): for the sender.
    """

    call: Any = None  # the id of a call of MCP that this answers

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestLimits:
    """ASGI middleware before the app of a page.

    Args:
        app: the app.
        page (`gr.Blocks`): whose functions may be called.
    """

    def __init__(self, app: Any, page: Any) -> None:
        self.app = app
        self.page = page
        self._bytes_in_memory = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        body, has_begun = bytearray(), False

        async def begin(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            if len(path.encode()) > MAX_ADDRESS or path not in OPEN and not path.startswith(OPEN_FOLDERS):
                raise Refused(404, "There is nothing at this address. The Space takes no files and gives none out.")
            if scope["method"] == "POST":
                if not await self._receive(scope, receive, body):
                    return
                # In a thread, so that others are served meanwhile.
                checked = await anyio.to_thread.run_sync(self._checked, path, body)
                scope, receive = _with_body(scope, receive, checked)
            await self.app(scope, receive, begin)
        except Refused as refused:
            await _answer(path, refused)(scope, receive, send)
        except Exception:
            logger.exception("a request failed")
            if has_begun:  # such as a stream of unknown events: Gradio has sent its message by then
                await send({"type": "http.response.body"})
            else:
                await _answer(path, Refused(500, FAULT))(scope, receive, send)
        finally:
            self._bytes_in_memory -= len(body)

    async def _receive(self, scope: Any, receive: Any, body: bytearray) -> bool:
        """Fill `body` as it arrives, up to the limits; `False` if the sender has disconnected."""
        headers = dict(scope["headers"])
        if not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
            raise Refused(415, "Expected the header 'Content-Type: application/json'.")
        declared = headers.get(b"content-length", b"")
        size, more = int(declared) if declared.isdigit() else 0, True
        with anyio.move_on_after(MAX_RECEIVE_SECONDS) as arriving:
            while more and size <= MAX_BODY:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                part = message.get("body", b"")
                body += part
                self._bytes_in_memory += len(part)
                if self._bytes_in_memory > MAX_BYTES_IN_MEMORY:
                    raise Refused(503, "Too many large requests at once. Try again in a minute.")
                size, more = max(size, len(body)), message.get("more_body", False)
        if arriving.cancelled_caught:
            raise Refused(408, f"The request did not arrive within {MAX_RECEIVE_SECONDS} seconds.")
        if size > MAX_BODY:
            raise Refused(413, f"The request has more than {MAX_BODY} bytes: shrink its pictures, or leave some out.")
        return True

    def _checked(self, path: str, body: bytearray) -> bytes:
        """The JSON of a body, serialised again, so that the app parses exactly what was checked."""
        if sum(map(body.count, (b",", b"[", b"{"))) > MAX_PARTS:
            raise Refused(422, f"The request has more than {MAX_PARTS} values: leave some out.")
        try:
            read = json.loads(body)
        except RecursionError:
            raise Refused(422, f"The request has lists or objects more than {MAX_DEPTH} deep: make it flat.") from None
        except ValueError:
            raise Refused(422, "The body of the request is no JSON.") from None
        if path.startswith(API + "mcp"):
            return _checked_message(read)
        if not isinstance(read, dict):
            raise Refused(422, f"The request is {short_repr(read)}: expected an object, such as {{'data': [...]}}.")
        _check_values(read)
        if path.startswith(API + "call/v2/"):
            self._check_named(self._endpoint(path), read)
            return json.dumps(read).encode()
        kept = {name: read[name] for name in ENVELOPE if read.get(name) is not None}
        for name, value in kept.items():
            if not isinstance(value, ENVELOPE[name]):
                expected = "text" if ENVELOPE[name] is str else "a whole number"
                raise Refused(422, f"{name} is {short_repr(value)}: expected {expected}.")
        _check_envelope(kept)
        if path not in (API + "cancel", API + "reset"):
            function = self._endpoint(path) if path.startswith(API + "call/") else self._function(kept)
            if function.api_visibility != "public" and len(body) > MAX_BODY_OF_PAGE:
                raise Refused(413, f"The request has more than {MAX_BODY_OF_PAGE} bytes, which no page sends.")
            kept["data"] = _values(function, read.get("data"))
        return json.dumps(kept).encode()

    def _endpoint(self, path: str) -> Any:
        """The public function that is called by its name."""
        name = path.removeprefix(API + "call/").removeprefix("v2/")
        public = {each.api_name: each for each in self.page.fns.values() if each.api_visibility == "public"}
        if name not in public:
            raise Refused(404, f"There is no endpoint {short_repr(name)}: expected one of {', '.join(public)}.")
        return public[name]

    def _function(self, envelope: dict[str, Any]) -> Any:
        """The function that a page or a client calls by its number."""
        function = self.page.fns.get(envelope.get("fn_index"))
        if function is None or function.fn is None:
            raise Refused(404, f"There is no function {short_repr(envelope.get('fn_index'))}: load the page again.")
        return function

    def _check_named(self, function: Any, values: dict[str, Any]) -> None:
        parameters = inspect.signature(function.fn).parameters
        needed = [name for name, each in parameters.items() if each.default is each.empty]
        if not set(needed) <= set(values) <= set(parameters):
            raise Refused(422, f"The values {short_repr(list(values))}: expected {_signature(function)}.")


def _values(function: Any, data: Any) -> list[Any]:
    """The values a function is called with; the last ones may be left out where they have defaults."""
    left_out = []
    if isinstance(data, list) and function.api_visibility == "public":
        left_out = [each.default for each in [*inspect.signature(function.fn).parameters.values()][len(data) :]]
    if (
        not isinstance(data, list)
        or len(data + left_out) != len(function.inputs)
        or inspect.Parameter.empty in left_out
    ):
        raise Refused(422, f"The data is {short_repr(data)}: expected the list {_signature(function)}.")
    return data + left_out


def _check_values(value: Any) -> None:
    """Refuse what is nested too deep, and what Gradio and its client would take for a file of theirs."""
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if not isinstance(part, dict | list):
            continue
        if depth == MAX_DEPTH:
            raise Refused(422, f"The request has lists or objects more than {MAX_DEPTH} deep: make it flat.")
        if isinstance(part, dict) and {"path", "meta"} <= set(part):
            raise Refused(
                422,
                f"The request names a file, {short_repr(part['path'])}: no file is ever opened. Send a picture as "
                "a data URI, 'data:image/png;base64,...'.",
            )
        waiting += [(inner, depth + 1) for inner in (part.values() if isinstance(part, dict) else part)]


def _checked_message(message: Any) -> bytes:
    """A message of MCP, checked; all but the arguments of a tool must be short."""
    if not isinstance(message, dict) or not isinstance(message.get("method"), str):
        raise Refused(
            422, f"The message is {short_repr(message)}: expected an object with a method, such as tools/call."
        )
    try:
        _check_values(message)
        parameters = message.get("params")
        _check_envelope(
            message | {"params": parameters | {"arguments": None} if isinstance(parameters, dict) else None}
        )
    except Refused as refused:
        if isinstance(message.get("id"), int):
            refused.call = message["id"]
        raise
    return json.dumps(message).encode()


def _check_envelope(envelope: Any) -> None:
    if len(json.dumps(envelope)) > MAX_ENVELOPE:
        raise Refused(413, f"Beside its values a request may have at most {MAX_ENVELOPE} bytes.")


def _signature(function: Any) -> str:
    """`[history, top_k]`."""
    return f"[{', '.join(inspect.signature(function.fn).parameters)}]"


def _with_body(scope: Any, receive: Any, body: bytes) -> tuple[Any, Any]:
    """The same request with another body."""
    kept = [each for each in scope["headers"] if each[0] not in (b"content-length", b"transfer-encoding")]
    scope = scope | {"headers": [*kept, (b"content-length", str(len(body)).encode())]}
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return messages.pop() if messages else await receive()

    return scope, again


def _answer(path: str, refused: Refused) -> JSONResponse:
    message, status = str(refused), refused.status
    detail: Any = message
    if status == 422:
        # The form of Gradio's own validation: its clients then raise this message.
        detail = [{"__type__": "validate", "is_valid": False, "parameter_name": "request", "message": message}]
    content: dict[str, Any] = {"detail": detail}
    if path.startswith(API + "mcp"):
        content = {"jsonrpc": "2.0", "id": refused.call, "error": {"code": -32600, "message": message}}
        status = status if refused.call is None else 200  # clients of MCP read the message only then
    return JSONResponse(content, status_code=status)
