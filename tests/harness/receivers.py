"""Those who are called: a mail server, a webhook that answers as it is told, an Alertmanager."""

import gc
import json
import subprocess
import threading
import urllib.request
import warnings
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.harness.brokers import end, program, wait_for
from tests.harness.ports import free_port
from tests.harness.waiting import WITHIN, wait_until


class MailServer:
    """A mail server that keeps what it is given, within a `with` statement.

    Attributes:
        url: for Apprise.
        mails: in the order in which they came.
    """

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        port = free_port()
        self.url = f"mailto://127.0.0.1:{port}?from=monitor@ward.example&to=nurse@ward.example"
        self._controller = Controller(self, hostname="127.0.0.1", port=port, ready_timeout=WITHIN)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep a mail."""
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        # It leaves the connections open that it has when it is stopped.
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            self._controller.stop()
            del self._controller
            gc.collect()


class Webhook:
    """A web server that keeps what it is sent, within a `with` statement.

    Attributes:
        port: its port on the loopback address.
        url: for Apprise.
        status: what it answers.
        hanging: while set, it reads what it is sent, and does not answer.
        received: the bodies of all requests, also of those that were refused.
    """

    def __init__(self, status: int = 200, hanging: bool = False) -> None:
        self.status = status
        self.hanging = threading.Event()
        if hanging:
            self.hanging.set()
        self.received: list[Any] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.received.append(json.loads(body))
                if webhook.hanging.is_set():
                    # A byte now and then: no read of the client's ever takes too long.
                    self.send_response(200)
                    self.end_headers()
                    while webhook.hanging.wait(0) and not webhook.closed.wait(0.2):
                        self.wfile.write(b".")
                        self.wfile.flush()
                    return
                self.send_response(webhook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing of clients that have gone."""

        self.closed = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"json://127.0.0.1:{self.port}/s3cret-path"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WITHIN)


class Alertmanager:
    """A real Alertmanager that notifies nobody, within a `with` statement.

    Attributes:
        url: for `notify.people`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "alertmanager"
        self._folder.mkdir()
        self._port = free_port()
        self.url = f"alertmanager+http://127.0.0.1:{self._port}"
        self._log = self._folder / "log"

    def __enter__(self) -> Self:
        configuration = self._folder / "alertmanager.yml"
        configuration.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
        command = [
            program("prometheus-alertmanager"),
            f"--config.file={configuration}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--cluster.listen-address=",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(self._port, self._process, self._log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def active(self) -> list[dict[str, Any]]:
        """Return the alerts that it holds to be firing."""
        url = f"http://127.0.0.1:{self._port}/api/v2/alerts?active=true"
        with urllib.request.urlopen(url, timeout=WITHIN) as page:
            found: list[dict[str, Any]] = json.load(page)
        return found

    def wait_for(self, *labels: tuple[str, str, str]) -> None:
        """Wait until exactly these alerts are firing, each a device, a kind and a priority."""
        wait_until(lambda: sorted(self.labels()) == sorted(labels), said=self.active)

    def labels(self) -> list[tuple[str, str, str]]:
        """Return device, kind and priority of the alerts that are firing."""
        return [
            (each["labels"]["device"], each["labels"]["kind"], each["labels"]["priority"])
            for each in self.active()
        ]
