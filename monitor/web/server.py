"""An HTTP server for a few pages, and the rules by which it answers browsers."""

import hmac
import ipaddress
import sys
import threading
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qs, urlsplit

from monitor.errors import ConfigurationError

TEXT = "text/plain; charset=utf-8"

LONGEST = 10_000
"""Bytes of the largest request that is taken."""

CONNECTIONS = 40
"""Connections that are answered at once, a thread for each; on others we hang up."""

OPEN = ("/metrics", "/healthz")
"""For programs, which may call this machine what they like."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # which no script of ours needs
        "trusted-types 'none'",
    )
)
"""What the page may do: run its own scripts and ask its own daemon, and nothing else."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every answer."""


class Request(NamedTuple):
    """What is asked for."""

    query: dict[str, str]
    headers: Message
    body: bytes = b""


class Answer(NamedTuple):
    """What is answered."""

    status: HTTPStatus
    content_type: str
    body: bytes


Page = Callable[[Request], Answer]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type["_Handler"]) -> None:
        self._room = threading.Semaphore(CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, if there is room for one more."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make room again once it is answered."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of who hangs up; all else is a mistake of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Site(NamedTuple):
    """What is served.

    Attributes:
        pages: by their paths, for everybody.
        actions: by their paths, what changes something, for those who have the token.
        token: None where nothing may be changed.
    """

    pages: dict[str, Page]
    actions: dict[str, Page]
    token: str | None


def serve(host: str, port: int, site: Site) -> tuple[str, int]:
    """Serve a site from threads of its own; gives the address.

    Raises:
        ConfigurationError: the address cannot be bound.
    """

    class Handler(_Handler):
        served = site

    try:
        server = _Server((host, port), Handler)
    except (OSError, OverflowError, TypeError) as error:  # TypeError: a name that is none
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"metrics.host = {host!r}, metrics.port = {port}: cannot be bound ({reason}); "
            "allowed is an address of this machine with a port that is free"
        ) from None
    bound = server.server_address
    Handler.private = _is_loopback(str(bound[0]))
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()
    return str(bound[0]), int(bound[1])


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection.

    Attributes:
        served: what is served.
        private: whether the address is one that only this machine reaches.
    """

    served: ClassVar = Site({}, {}, None)
    private: ClassVar = True
    protocol_version = "HTTP/1.1"
    server_version = "ecg-monitor"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        """Answer with a page."""
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that is not read must not be a request of its own
        path, _, query = self.path.partition("?")
        page = self.served.pages.get(path)
        if page is None:
            said = b"there are /, /metrics and /healthz\n"
            self._send(Answer(HTTPStatus.NOT_FOUND, TEXT, said))
        else:
            self._send(self._refusal(path) or page(Request(_parse(query), self.headers)))

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """Do what is asked, by somebody who may ask for it."""
        path = self.path.partition("?")[0]
        action = self.served.actions.get(path)
        if action is None:
            self.close_connection = True
            self._send(Answer(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"nothing is changed here\n"))
            return
        refusal = self._refusal(path) or self._distrust() or self._misfit()
        if refusal is not None:
            self.close_connection = True  # its body was not read
            self._send(refusal)
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(action(Request({}, self.headers, body)))

    def _distrust(self) -> Answer | None:
        """Why whoever asks may not change anything."""
        token = self.served.token
        if token is None:
            said = b"nothing can be changed here: metrics.token_file is not set\n"
            return Answer(HTTPStatus.FORBIDDEN, TEXT, said)
        given = self.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            said = b"only with the header Authorization: Bearer TOKEN\n"
            return Answer(HTTPStatus.UNAUTHORIZED, TEXT, said)
        return None

    def _misfit(self) -> Answer | None:
        """Why a request is not read. Only our own page can send JSON to us from a browser."""
        if self.headers.get_content_type() != "application/json":
            return Answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, TEXT, b"only application/json\n")
        length = self.headers.get("Content-Length", "")
        in_chunks = "Transfer-Encoding" in self.headers  # which would tell another length
        if in_chunks or not length.isdecimal() or len(length) > 9 or int(length) > LONGEST:
            said = f"with a Content-Length of at most {LONGEST}\n".encode()
            return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TEXT, said)
        return None

    def _refusal(self, path: str) -> Answer | None:
        """Why a page is not shown: another site's page may be behind the question."""
        if path in OPEN:
            return None
        if self.private and not _is_here(self.headers.get("Host", "")):
            # A site may give its own name the address of this machine, and then read what we say.
            said = b"this address is to be asked for as localhost or 127.0.0.1\n"
            return Answer(HTTPStatus.MISDIRECTED_REQUEST, TEXT, said)
        site = self.headers.get("Sec-Fetch-Site", "none")
        if path.startswith("/api/") and site not in ("same-origin", "none"):
            return Answer(HTTPStatus.FORBIDDEN, TEXT, b"for the page of this address alone\n")
        return None

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: a scrape every few seconds is no news."""


def _parse(query: str) -> dict[str, str]:
    """The first value of each field of a query."""
    try:
        return {name: values[0] for name, values in parse_qs(query, max_num_fields=20).items()}
    except ValueError:
        return {}


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine from within."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
