"""How a call is made: by Apprise to a person, over HTTP to Alertmanager. May take long, or hang."""

import http.client
import logging
import re
import threading
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from monitor.errors import ConfigurationError, Failure
from monitor.notify.line import TIME_LIMIT, Call
from monitor.notify.message import (
    Message,
    Sender,
    alert_to_test,
    for_alertmanager,
    message,
    message_to_test,
)
from monitor.settings import ALERTMANAGER, CalledPerson

if TYPE_CHECKING:
    import apprise

PATH: Final = "/api/v2/alerts"
"""Of Alertmanager's API, below its address."""

SHORTEST_SECRET: Final = 3
"""Characters of the parts of a URL that are taken out of what is said of it."""


class Channel(Protocol):
    """Makes the calls to one person. Its methods block."""

    keeps: bool
    """Whether the other side keeps alarms until it is told that they are over."""

    def make(self, call: Call, moment: float) -> None:
        """Make a call, at `moment` in seconds since 1970; return once the other side has it.

        Raises:
            Failure: it does not; the reason contains no secret.
        """

    def test(self, moment: float) -> None:
        """Make a call that says that it is a test, as `make` does."""


def channel(name: str, person: CalledPerson, sender: Sender) -> Channel:
    """Return the channel to a person.

    Raises:
        ConfigurationError: Apprise is not installed, or does not know such a URL.
    """
    if person.address(name).startswith("alertmanager+"):
        return AlertmanagerChannel(name, person, sender)
    return AppriseChannel(name, person, sender)


class AppriseChannel:
    """Calls a person by mail, chat, push or webhook."""

    keeps = False

    def __init__(self, name: str, person: CalledPerson, sender: Sender) -> None:
        """Check the URL.

        Raises:
            ConfigurationError: Apprise is not installed, or does not know such a URL.
        """
        try:
            import apprise
        except ImportError:
            raise ConfigurationError(
                f"notify.people.{name}: needs Apprise: pip install 'ecg-monitor[notify]'"
            ) from None
        self._apprise = apprise
        # Without a time limit of its own, for which all calls would share some threads: one that
        # hangs could keep others waiting. `Line` has one.
        self._asset = apprise.AppriseAsset(
            app_id="ecg-monitor",
            app_desc="ECG monitor",
            app_url=sender.page,
            async_mode=False,
            service_timeout=0,
        )
        self._name, self._person, self._sender = name, person, sender
        _keep_apprise_quiet()
        if self._line(person.address(name)) is None:
            raise ConfigurationError(
                f"notify.people.{name}.url = '***': must be one URL that Apprise knows, or "
                "alertmanager+http://HOST:9093"
            )

    def make(self, call: Call, moment: float) -> None:  # noqa: ARG002
        """Tell a person of alarms."""
        self._send(message(call.alarms, self._sender), self._apprise.NotifyType.FAILURE)

    def test(self, moment: float) -> None:
        """Tell a person that this is a test."""
        self._send(message_to_test(self._sender, moment), self._apprise.NotifyType.INFO)

    def _send(self, text: Message, kind: Any) -> None:
        try:
            url = self._person.address(self._name)
        except ConfigurationError as error:
            raise Failure(str(error)) from None
        with _Reasons() as reasons:
            line = self._line(url)
            sent = line is not None and line.notify(
                text.body,
                text.title,
                notify_type=kind,
                body_format=self._apprise.NotifyFormat.TEXT,  # escaped where it becomes HTML
            )
        if not sent:
            raise Failure(without_secrets(reasons.last or "not delivered", url))

    def _line(self, url: str) -> "apprise.Apprise | None":
        """Return what calls by a URL; None if Apprise does not know it, or it is several.

        What is longer than a service takes is cut: the most serious alarm comes first.
        """
        line = self._apprise.Apprise(asset=self._asset)
        if not line.add(url) or len(line) != 1:
            return None
        for service in line:
            if service.overflow_mode == self._apprise.OverflowMode.UPSTREAM:
                service.overflow_mode = self._apprise.OverflowMode.TRUNCATE
        return line


class AlertmanagerChannel:
    """Tells Alertmanager which alarms want somebody, and which do not any more."""

    keeps = True

    def __init__(self, name: str, person: CalledPerson, sender: Sender) -> None:
        """Check the address.

        Raises:
            ConfigurationError: it has no host, or no valid port.
        """
        self._name, self._person, self._sender = name, person, sender
        if _split(person.address(name)) is None:
            raise ConfigurationError(
                f"notify.people.{name}.url = '***': must be alertmanager+http://HOST:PORT"
            )

    def make(self, call: Call, moment: float) -> None:
        """Send alarms and those that are over."""
        self._post(for_alertmanager(call.alarms, call.over, self._sender, moment))

    def test(self, moment: float) -> None:
        """Send an alarm with the label `test`, which is over at once."""
        self._post(alert_to_test(self._sender, moment))

    def _post(self, alerts: list[dict[str, Any]]) -> None:
        try:
            address = self._person.address(self._name)
        except ConfigurationError as error:
            raise Failure(str(error)) from None
        url = _split(address)
        if url is None:
            raise Failure("not an address of Alertmanager")
        secure = url.scheme.endswith("https")
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=TIME_LIMIT / 2)
        headers = {"Content-Type": "application/json"}
        if url.username is not None:
            login = f"{unquote(url.username)}:{unquote(url.password or '')}"
            headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        try:
            path = url.path.rstrip("/") + PATH
            connection.request("POST", path, msgspec.json.encode(alerts), headers)
            answer = connection.getresponse()
            said = answer.read(500).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Failure(without_secrets(str(error) or type(error).__name__, address)) from None
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise Failure(without_secrets(f"{answer.status} {answer.reason}: {said}", address))


def _split(address: str) -> SplitResult | None:
    """Return the parts of an address of Alertmanager; None if it is not one."""
    if not ALERTMANAGER.fullmatch(address):
        return None
    try:
        url = urlsplit(address)
        return url if url.hostname and url.port != 0 else None
    except ValueError:
        return None


def without_secrets(text: str, url: str) -> str:
    """Return a text without any part of a URL, as some of them are a password or a token.

    >>> without_secrets("ntfy.sh refuses s3cret", "ntfy://s3cret@ntfy.sh/ward")
    '*** refuses ***'
    """
    parts = {url, *re.split(r"[:/@?&=#,]+", url.partition("://")[2])}
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SHORTEST_SECRET:
            text = text.replace(part, "***")
    return text


def _keep_apprise_quiet() -> None:
    """Keep Apprise from writing to our log, which holds no secrets."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


class _Reasons(logging.Handler):
    """Hears why Apprise failed, which only its log says, in the thread of a `with` statement.

    Attributes:
        last: the last reason; empty if there was none.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self._thread = threading.get_ident()

    def __enter__(self) -> "_Reasons":
        logging.getLogger("apprise").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a reason."""
        if record.thread == self._thread:
            self.last = record.getMessage()
