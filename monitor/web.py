"""Serves the live page, metrics and health over HTTP."""

import ipaddress
import threading
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitor.live import Live
from monitor.program import ConfigurationError
from monitor.view import View

Health = Callable[[], str | None]
"""What is wrong; None while all is well."""

FILES = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
TEXT = "text/plain; charset=utf-8"

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


class Answer(NamedTuple):
    """What is answered."""

    status: HTTPStatus
    content_type: str
    body: bytes


Page = Callable[[Request], Answer]


class Seen(msgspec.Struct, frozen=True):
    """What `/api/live` answers: what is wrong, if anything is, and what was shown last."""

    trouble: str | None
    view: View | None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def serve(
    host: str, port: int, registry: CollectorRegistry, health: Health, live: Live
) -> tuple[str, int]:
    """Serve `/`, `/metrics` and `/healthz` from threads of their own; gives the address.

    Raises:
        ConfigurationError: the address cannot be bound.
    """

    class Handler(_Handler):
        pages: ClassVar = {
            **_files(),
            "/api/live": _live(health, live),
            "/metrics": _metrics(registry),
            "/healthz": _healthz(health),
        }

    try:
        server = _Server((host, port), Handler)
    except (OSError, OverflowError, TypeError) as error:  # TypeError: a name that is none
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"metrics.host = {host!r}, metrics.port = {port}: cannot be bound ({reason}); "
            "allowed is an address of this machine with a port that is free"
        ) from None
    bound = server.server_address
    Handler.here_alone = _is_loopback(str(bound[0]))
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()
    return str(bound[0]), int(bound[1])


def _files() -> dict[str, Page]:
    """The files of the page, the page itself as `/`; they are read once."""

    def page(file: Path) -> Page:
        answer = Answer(HTTPStatus.OK, f"{TYPES[file.suffix]}; charset=utf-8", file.read_bytes())
        return lambda _request: answer

    names = {file: file.name for file in FILES.iterdir() if file.suffix in TYPES}
    return {f"/{'' if name == 'index.html' else name}": page(file) for file, name in names.items()}


def _live(health: Health, live: Live) -> Page:
    def page(request: Request) -> Answer:
        view = live.look(request.query.get("device", ""))
        body = msgspec.json.encode(Seen(health(), view))
        return Answer(HTTPStatus.OK, "application/json", body)

    return page


def _metrics(registry: CollectorRegistry) -> Page:
    def page(request: Request) -> Answer:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Answer(HTTPStatus.OK, content_type, encode(registry))

    return page


def _healthz(health: Health) -> Page:
    def page(_request: Request) -> Answer:
        trouble = health()
        status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, TEXT, f"{trouble or 'ok'}\n".encode())

    return page


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, Page]] = {}
    here_alone: ClassVar = True
    protocol_version = "HTTP/1.1"
    server_version = "ecg-monitor"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        """Answer with a page."""
        path, _, query = self.path.partition("?")
        page = self.pages.get(path)
        if page is None:
            answer = Answer(HTTPStatus.NOT_FOUND, TEXT, b"there are /, /metrics and /healthz\n")
        else:
            answer = self._refusal(path) or page(Request(_parse(query), self.headers))
        self._send(answer)

    do_HEAD = do_GET  # noqa: N815

    def _refusal(self, path: str) -> Answer | None:
        """Why the page that is asked for is not shown: another site's page may be behind it."""
        if path in ("/metrics", "/healthz"):
            return None
        if self.here_alone and not _is_here(self.headers.get("Host", "")):
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
