"""The page's server: loopback only, one token, no other host name, nothing from anywhere else.

The token stands in the fragment of the address, which browsers send to nobody. The page exchanges it, once, for the
session's secret, and sends that in a header with every request; a page of another origin can set no such header without
being asked first (CORS), and is never allowed. The Host header must be ours (DNS rebinding).
"""

import contextlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.deid.boxes import EVERY_FRAME, MOST_BOXES, shape_of
from client.deid.quarantine import Decision, Held
from client.review.about import about
from client.review.decisions import DecidedError, Desk
from shared.errors import DataError, FedwardError, PolicyError, RecordError, UsageError
from shared.page import look, visible

LOOPBACK = "127.0.0.1"
TOKEN, SECRET = "X-Fedward-Token", "X-Fedward-Session"  # names of headers
_MOST_BODY = 16384
_PATIENCE = 10.0
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSETS = {
    "/": ("review.html", "text/html; charset=utf-8"),
    "/review.css": ("review.css", "text/css; charset=utf-8"),
    "/review.js": ("review.js", "text/javascript; charset=utf-8"),
}
_STATUS: Mapping[type[FedwardError], HTTPStatus] = {
    DecidedError: HTTPStatus.CONFLICT,
    PolicyError: HTTPStatus.FORBIDDEN,
    DataError: HTTPStatus.NOT_FOUND,
    UsageError: HTTPStatus.BAD_REQUEST,
    RecordError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


_Edge = Annotated[int, Field(ge=0, le=65535)]  # Rows and Columns are US


class _Asked(BaseModel):
    """A decision as the page sends it; strict, so that neither 1.0 nor true is a number of pixels."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(max_length=64)]
    decision: Decision
    boxes: Annotated[
        tuple[tuple[Annotated[int, Field(ge=EVERY_FRAME, lt=1 << 31)], _Edge, _Edge, _Edge, _Edge], ...],
        Field(max_length=MOST_BOXES),
    ] = ()


class ReviewServer(HTTPServer):
    """Serves one desk on a free port of the loopback interface until it is shut down.

    Attributes:
        address: What the reviewer opens; holds the token, which is good for one exchange.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.desk = desk
        self.token: str | None = secrets.token_urlsafe(32)
        self.secret = secrets.token_urlsafe(32)
        self.origin = f"http://{LOOPBACK}:{self.server_address[1]}"
        self.address = f"{self.origin}/#{self.token}"

    def exchange(self, token: str) -> str | None:
        """The session's secret for the token, once; None for anything else."""
        if self.token is None or not _equal(token, self.token):
            return None
        self.token = None
        return self.secret

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a traceback may hold paths, and a browser that has gone away is no error."""


class _Handler(BaseHTTPRequestHandler):
    """One request at a time: a decision is recorded and done before the next one is looked at."""

    server: ReviewServer
    timeout = _PATIENCE
    server_version, sys_version = "fedward", ""

    def do_GET(self) -> None:  # the library's name
        """The page, the list of held files, and pictures."""
        if not self._ours():
            return
        path = urlsplit(self.path).path
        if path in _ASSETS:
            name, kind = _ASSETS[path]
            body = (files("client.review") / "templates" / name).read_bytes()
            self._send(HTTPStatus.OK, look().encode() + b"\n" + body if name.endswith(".css") else body, kind)
        elif self._known():
            self._answer(lambda: self._read(path))

    def do_POST(self) -> None:
        """The exchange of the token, and decisions."""
        if not self._ours():
            return
        if self.headers.get("Origin") != self.server.origin:
            self._refuse(HTTPStatus.FORBIDDEN, "requests come from the page itself")
            return
        path = urlsplit(self.path).path
        if path == "/api/session":
            secret = self.server.exchange(self.headers.get(TOKEN, ""))
            if secret is None:
                self._refuse(HTTPStatus.FORBIDDEN, "the address was used already, or is not whole")
            else:
                self._json({"session": secret, "reviewer": self.server.desk.reviewer})
        elif self._known():
            self._answer(lambda: self._decide(path))

    def _read(self, path: str) -> None:
        desk = self.server.desk
        if path == "/api/held":
            self._json([_shown(held, desk.shown.get(held.id, ())) for held in desk.quarantine.all()])
            return
        parts = path.removeprefix("/api/picture/").split("/")
        if not path.startswith("/api/picture/") or len(parts) != 3 or not parts[1].isdecimal():
            raise DataError("there is no such page", hint="go back to the list")
        self._send(HTTPStatus.OK, desk.picture(parts[0], int(parts[1][:9]), parts[2]), "image/png")

    def _decide(self, path: str) -> None:
        size = self.headers.get("Content-Length", "")
        # A length of thousands of digits is none: int() would take its time over it, or refuse.
        if path != "/api/decide" or not size.isdecimal() or len(size) > 9 or int(size) > _MOST_BODY:
            raise UsageError("that is no decision", hint="use the page's buttons")
        try:
            asked = _Asked.model_validate_json(self.rfile.read(int(size)))
        except ValidationError as error:
            raise UsageError("that is no decision", hint="use the page's buttons") from error
        if asked.decision is Decision.PENDING:
            raise UsageError("that is no decision", hint="clear the file or refuse it")
        desk = self.server.desk
        decided = desk.decide(asked.id, asked.decision, asked.boxes)
        self._json(_shown(decided, desk.shown.get(decided.id, ())))

    def _ours(self) -> bool:
        """Whether the request names this server: a foreign name that was made to resolve to it is turned away."""
        if self.headers.get("Host") == urlsplit(self.server.origin).netloc:
            return True
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "unknown host")
        return False

    def _known(self) -> bool:
        if _equal(self.headers.get(SECRET, ""), self.server.secret):
            return True
        self._refuse(HTTPStatus.UNAUTHORIZED, "open the address that the command printed")
        return False

    def _answer(self, act: Any) -> None:
        try:
            act()
        except FedwardError as error:
            status = next((one for kind, one in _STATUS.items() if isinstance(error, kind)), HTTPStatus.BAD_REQUEST)
            self._refuse(status, f"{error.message}; {error.hint}")
        except Exception:  # noqa: BLE001  # whatever a file holds, the page hears that it did not work
            with contextlib.suppress(OSError):  # nobody listens any more
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "that did not work; refuse the file, or try again")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True
        self._send(status, json.dumps({"error": message}).encode(), "application/json")

    def _json(self, value: object) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", _POLICY),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: paths of requests belong in no terminal."""


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _shown(held: Held, seen: Iterable[int]) -> dict[str, object]:
    """What the page gets to know of a held file; names come from outside, and are shown as :func:`visible` has them."""
    shape, told = shape_of(held.path), about(held.path)
    name = told if held.kept and told else held.input  # the shelf's own name says nothing to a person
    return {
        "id": held.id,
        "input": visible(name),
        "about": visible(f"Record {held.id}" if name == told else told),
        "reason": visible(held.reason),
        "liftable": held.liftable,
        "decision": held.decision.value,
        "reviewer": held.reviewer,
        "decided": held.decided,
        "boxes": held.boxes,
        "blanked": held.blanked,
        "seen": sorted(seen),
        "looked": held.looked,
        "count": shape.frames if shape else 0,
        "rows": shape.rows if shape else 0,
        "columns": shape.columns if shape else 0,
    }
