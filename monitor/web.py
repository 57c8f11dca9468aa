"""Serves metrics and health over HTTP."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitor.program import ConfigurationError

Health = Callable[[], str | None]
"""What is wrong; None while all is well."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def serve(host: str, port: int, registry: CollectorRegistry, health: Health) -> tuple[str, int]:
    """Serve `/metrics` and `/healthz` from a thread of its own; gives the address.

    Raises:
        ConfigurationError: the address cannot be bound.
    """

    class Handler(_Handler):
        pages: ClassVar = {"/metrics": _metrics(registry), "/healthz": _healthz(health)}

    try:
        server = _Server((host, port), Handler)
    except (OSError, OverflowError, TypeError) as error:  # TypeError: a name that is none
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"metrics.host = {host!r}, metrics.port = {port}: cannot be bound ({reason}); "
            "allowed is an address of this machine with a port that is free"
        ) from None
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()
    bound = server.server_address
    return str(bound[0]), int(bound[1])


Page = Callable[[str], tuple[HTTPStatus, str, bytes]]
"""From the request's Accept header to status, content type and body."""


def _metrics(registry: CollectorRegistry) -> Page:
    def page(accept: str) -> tuple[HTTPStatus, str, bytes]:
        encode, content_type = choose_encoder(accept)
        return HTTPStatus.OK, content_type, encode(registry)

    return page


def _healthz(health: Health) -> Page:
    def page(_accept: str) -> tuple[HTTPStatus, str, bytes]:
        trouble = health()
        status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "text/plain; charset=utf-8", f"{trouble or 'ok'}\n".encode()

    return page


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, Page]] = {}
    protocol_version = "HTTP/1.1"
    server_version = "ecg-monitor"
    sys_version = ""
    timeout = 10

    def do_GET(self) -> None:
        """Answer with a page."""
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            there = ", ".join(self.pages)
            answer = HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"there are {there}\n"
            status, content_type, body = answer[0], answer[1], answer[2].encode()
        else:
            status, content_type, body = page(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: a scrape every few seconds is no news."""
