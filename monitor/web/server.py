"""The HTTP server, and its rules for browsers.

waitress reads the requests of all connections in one thread, and hands a request to a worker only
when it is complete, so a slow client does not delay others.
"""

import hmac
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Collection, Iterable
from email.message import Message
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from monitor.errors import ConfigurationError

TEXT = "text/plain; charset=utf-8"

MAX_BODY = 10_000
"""Largest request body, in bytes: an operator's request has a few hundred."""

MAX_HEADER = 65_536
"""Most bytes of request line and headers: the limit of `http.client` and of most browsers."""

THREADS = 8
"""Requests answered at the same time: enough for browsers, Prometheus and a health check while an
operator's request waits for the loop."""

CONNECTIONS = 500
"""Most open connections; further ones wait to be accepted. This is below the usual limit of 1,024
open files, a few of which are needed for the broker and the history."""

IDLE_TIMEOUT = 30
"""Seconds after which a silent connection is closed; a scrape comes every 15 s by default."""

OPEN = ("/metrics", "/healthz", "/livez")
"""Answered for any Host: programs use service names, and these paths contain no beats."""

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
        "require-trusted-types-for 'script'",
        "trusted-types clock",  # the address of the worker in clock.js, and nothing else
    )
)
"""The content security policy: the page may run its own scripts and send requests to its own
daemon, and nothing else."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every answer."""


class Request(NamedTuple):
    """A request."""

    query: dict[str, str]
    headers: Message
    body: bytes = b""


class Answer(NamedTuple):
    """An answer."""

    status: HTTPStatus
    content_type: str
    body: bytes


Route = Callable[[Request], Answer]


class Site(NamedTuple):
    """What is served.

    Attributes:
        routes: for reading, by path.
        actions: for changes, by path; they require the token.
        token: None if nothing may be changed.
        hosts: further host names of the site (`metrics.allowed_hosts`).
    """

    routes: dict[str, Route]
    actions: dict[str, Route]
    token: str | None
    hosts: Collection[str] = ()


def serve(host: str, port: int, site: Site) -> tuple[str, int]:
    """Serve a site from daemon threads. Return the bound address.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    from waitress import create_server

    try:
        listener = _listen(host, port)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:  # the last: invalid name
        reason = str(getattr(error, "strerror", None) or error)
        reason = reason.partition(" (while ")[0]  # the address again
        raise ConfigurationError(
            f"metrics.host = {host!r}, metrics.port = {port}: cannot be bound ({reason}); "
            "allowed is an address of this machine with a free port"
        ) from None
    # Clients that disconnect are not worth a warning.
    logging.getLogger("waitress").setLevel(logging.ERROR)
    names = {"localhost", socket.gethostname().lower(), host.lower()}
    names.update(name.lower() for name in site.hosts)
    server = create_server(
        _application(site, names),
        sockets=[listener],
        threads=THREADS,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_TIMEOUT,
        cleanup_interval=IDLE_TIMEOUT // 3,
        max_request_header_size=MAX_HEADER,
        max_request_body_size=MAX_BODY + 1,  # waitress refuses this size and above
        asyncore_use_poll=True,  # select() is limited to file descriptors below 1,024
        log_socket_errors=False,
        ident="ecg-monitor",
    )
    threading.Thread(target=server.run, name="web", daemon=True).start()
    bound = listener.getsockname()
    return str(bound[0]), int(bound[1])


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; `::` accepts IPv4 as well, and alone where the kernel has no IPv6."""
    host = host.removeprefix("[").removesuffix("]")
    if host == "::" and not _has_ipv6():
        host = "0.0.0.0"  # noqa: S104 - the settings ask for all addresses
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, address = found[0][0], found[0][4]
    both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (str(address[0]), int(address[1])), family=family, dualstack_ipv6=both
    )


def _has_ipv6() -> bool:
    """Return whether the kernel has IPv6: that of a container or of a small device may not."""
    try:
        with socket.socket(socket.AF_INET6):
            return True
    except OSError:
        return False


def _application(site: Site, names: Collection[str]) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application (PEP 3333) of a site with these host names."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        answer = _answer(site, names, environ)
        headers = [
            *HEADERS.items(),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
        ]
        if answer.status == HTTPStatus.UNAUTHORIZED:
            headers.append(("WWW-Authenticate", "Bearer"))
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    return application


def _answer(site: Site, names: Collection[str], environ: dict[str, Any]) -> Answer:
    path, headers = environ["PATH_INFO"], _headers(environ)
    match environ["REQUEST_METHOD"]:
        case "GET" | "HEAD":
            route = site.routes.get(path)
            if route is None:
                return Answer(HTTPStatus.NOT_FOUND, TEXT, b"try /, /metrics or /healthz\n")
            request = Request(_parse(environ["QUERY_STRING"]), headers)
            return _refuse(path, headers, names) or route(request)
        case "POST":
            action = site.actions.get(path)
            if action is None:
                return Answer(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"POST is not allowed here\n")
            refusal = (
                _refuse(path, headers, names)
                or _refuse_stranger(site.token, headers)
                or _refuse_form(headers)
            )
            return refusal or action(Request({}, headers, environ["wsgi.input"].read()))
        case _:
            return Answer(HTTPStatus.NOT_IMPLEMENTED, TEXT, b"use GET, HEAD or POST\n")


def _headers(environ: dict[str, Any]) -> Message:
    """Return the headers of a request."""
    headers = Message()
    for name, value in environ.items():
        if name.startswith("HTTP_") or name == "CONTENT_TYPE":
            headers[name.removeprefix("HTTP_").replace("_", "-")] = value
    return headers


def _refuse(path: str, headers: Message, names: Collection[str]) -> Answer | None:
    """Return the refusal of a request that may come from another site; None if it may pass."""
    if path in OPEN:
        return None
    if not _is_known(headers.get("Host", ""), names):
        # DNS rebinding: a site may point its own name at this machine, and read the answers.
        text = b"this host name is not in metrics.allowed_hosts; use localhost or an IP address\n"
        return Answer(HTTPStatus.MISDIRECTED_REQUEST, TEXT, text)
    site = headers.get("Sec-Fetch-Site", "none")
    if path.startswith("/api/") and site not in ("same-origin", "none"):
        return Answer(HTTPStatus.FORBIDDEN, TEXT, b"requests from other sites are refused\n")
    return None


def _refuse_stranger(token: str | None, headers: Message) -> Answer | None:
    """Return the refusal of a client without the token; None if it has it."""
    if token is None:
        text = b"nothing can be changed here: metrics.token_file is not set\n"
        return Answer(HTTPStatus.FORBIDDEN, TEXT, text)
    given = headers.get("Authorization", "").encode(errors="replace")
    if not hmac.compare_digest(given, f"Bearer {token}".encode()):
        text = b"the header Authorization: Bearer TOKEN is missing or wrong\n"
        return Answer(HTTPStatus.UNAUTHORIZED, TEXT, text)
    return None


def _refuse_form(headers: Message) -> Answer | None:
    """Return the refusal of a body that is not JSON: other sites' pages cannot send JSON here."""
    if headers.get_content_type() != "application/json":
        text = b"the content type must be application/json\n"
        return Answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, TEXT, text)
    return None


def _parse(query: str) -> dict[str, str]:
    """Return the first value of each parameter of a query string."""
    try:
        return {name: values[0] for name, values in parse_qs(query, max_num_fields=20).items()}
    except ValueError:
        return {}


def _is_known(host: str, names: Collection[str]) -> bool:
    """Return whether a Host header is one of the names or an IP address, which is not rebound."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
