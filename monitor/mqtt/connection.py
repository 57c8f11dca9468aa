"""A connection to the broker that is made again whenever it is lost.

The daemon has two, `BeatConsumer` for beats and `AlertSender` for what it publishes: the broker's
answers to our alerts must not stand in line behind a mountain of beats, and they must still be
heard where we stop reading beats.

One paho client for each attempt; nothing of an old one can reach a new one.
"""

import random
import select
import ssl
import time
from collections.abc import Sequence

import structlog
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from monitor.errors import ConfigurationError
from monitor.mqtt.client import (
    LOGIN_REFUSED,
    UNKNOWN_VERSION,
    make,
    other,
    refused_certificate,
    refused_login,
    unverified,
)
from monitor.mqtt.packets import READ_SIZE, Client
from monitor.settings import MqttSettings

log = structlog.get_logger()

KEEPALIVE = 30
"""Seconds after which a silent connection is probed."""

MAXIMUM_PACKET = 16 * 1024 * 1024
"""Bytes of the largest message that the broker may send us (MQTT 5)."""

PAUSES = (0.1, 1.0)
"""Seconds before the first and before a later attempt to connect."""

LONGEST_PAUSE = 30.0
"""Seconds between attempts where connections are lost as soon as they stand."""

STEADY = 2.0
"""Seconds after which a connection that is lost did stand."""

HUNG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
"""What a poll says of a socket whose other side has gone."""

ANSWER_WITHIN = 5.0
"""Seconds that a broker may take for its CONNACK."""


class Connection:
    """One of the daemon's connections; its children say what it is for.

    Attributes:
        trouble: why it is of no use at the moment, in words; None while all is well.
        since: of the connection, or of its loss, on the monotonic clock.
    """

    def __init__(self, mqtt: MqttSettings, client_id: str, keep_session: bool) -> None:
        self.trouble: str | None = "not connected yet"
        self.since = time.monotonic()
        self._mqtt, self._client_id, self._keep_session = mqtt, client_id, keep_session
        self._protocol = mqtt.protocol
        self._client: Client | None = None
        self._accepted = False  # the broker said yes to this connection
        self._ever = False  # … to any
        self._said: str | None = None  # the trouble that the log knows of
        self._retry_at = 0.0
        self._failures = self._flaps = 0
        self._next_housekeeping = 0.0
        self._fatal: ConfigurationError | None = None
        self._closing = False

    # -- what its children fill in

    def _set_up(self, client: Client) -> None:
        """Prepare a client that has not connected yet."""

    def _begin(
        self, client: PahoClient, flags: ConnectFlags, properties: Properties | None
    ) -> None:
        """The broker accepted us."""

    def _end(self) -> None:
        """The connection is lost."""

    def _listening(self) -> bool:
        """Whether what comes in is to be read now."""
        return True

    def _take(self, header: int, body: bytes, arrived: float) -> None:
        """Take a PUBLISH packet. Raises ValueError if it is malformed."""

    # -- its turn

    @property
    def connected(self) -> bool:
        """Whether the broker accepted us and has not gone since."""
        return self._accepted

    def keep_up(self) -> None:
        """Connect if it is time to; twice a second, see that all is well.

        Raises:
            ConfigurationError: the broker will not have us, and has never had us.
        """
        now = time.monotonic()
        if self._client is None and now >= self._retry_at:
            self._connect()
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + 0.5
            self._housekeeping(now)
        if self._fatal:
            raise self._fatal

    def read(self, most: int = READ_SIZE) -> None:
        """Take in what has come, about so many bytes at most; gives at once if nothing has."""
        client = self._client
        if client is None or client.packets is None or not self._listening():
            return
        packets = client.packets
        packets.fill(most)
        arrived = time.monotonic()
        while self._client is client:
            packet = packets.next_packet()
            if packet is True:
                if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
            elif packet is False:
                break
            else:
                try:
                    self._take(*packet, arrived)
                except ValueError as error:
                    self._lost(str(error))

    def write(self) -> None:
        """Hand what is to be written to the network, as much as it takes."""
        client = self._client
        if client is None or client.packets is None:
            return
        if client.want_write():
            client.loop_write()
        if self._client is client:
            client.packets.flush()

    def hang_up(self) -> None:
        """Disconnect in order, so that the last will is not sent."""
        self._closing = True
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_write()

    # -- connecting

    def _connect(self) -> None:
        try:
            client = self._make_client()
        except ConfigurationError as error:
            if not self._ever:
                raise
            self._lost(str(error))  # files that are just being exchanged mend themselves
            return
        host, port = self._mqtt.address
        self._client, self._accepted, self.since = client, False, time.monotonic()
        try:
            if self._protocol == "5":
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                if self._keep_session:
                    properties.SessionExpiryInterval = self._mqtt.session_expiry
                properties.ReceiveMaximum = self._mqtt.receive_maximum
                properties.MaximumPacketSize = MAXIMUM_PACKET
                client.connect(
                    host, port, KEEPALIVE, clean_start=not self._keep_session, properties=properties
                )
            else:
                client.connect(host, port, KEEPALIVE)
        except ssl.SSLCertVerificationError as error:
            if not self._ever:
                self._fatal = unverified(self._mqtt, error)
            self._lost(f"its certificate cannot be verified: {error.verify_message}")
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._fatal = self._refused_certificate(error)
            self._lost(str(error) or type(error).__name__)

    def _make_client(self) -> Client:
        made = make(Client, self._mqtt, self._client_id, self._protocol, self._keep_session)
        made.on_connect = self._on_connect
        made.on_disconnect = self._on_disconnect
        made.on_socket_register_write = _only_queue
        self._set_up(made)
        return made

    def _on_connect(
        self,
        client: PahoClient,
        _userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._on_refusal(str(reason))
            return
        self._accepted = self._ever = True
        self.since = time.monotonic()
        self._failures = 0
        if self._flaps < 2:
            log.info("connected", client_id=self._client_id, protocol=self._protocol)
        self._begin(client, flags, properties)

    def _on_refusal(self, reason: str) -> None:
        if reason == UNKNOWN_VERSION and self._protocol == "5":
            self._protocol = other(self._protocol)
            self._failures = 0
            log.info("trying another protocol", broker=self._mqtt.where, protocol=self._protocol)
        elif not self._ever and reason in LOGIN_REFUSED:
            self._fatal = refused_login(self._mqtt, reason)
        elif not self._ever and reason == "Client identifier not valid":
            self._fatal = ConfigurationError(
                f"mqtt.client_id = {self._mqtt.client_id!r}: {self._mqtt.where} refused it"
            )
        self._lost(f"the broker refused us: {reason.lower()}")

    # -- losing the connection

    def _on_disconnect(
        self,
        client: PahoClient,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if client is not self._client:  # it may come twice
            return
        failure = client.packets.failure if client.packets is not None else None
        self._fatal = self._fatal or self._refused_certificate(failure)
        # A reset and an orderly end take turns where a broker hangs up: that is one thing to say.
        said = failure if isinstance(failure, ssl.SSLError) else reason
        self._no_answer(str(said).lower())

    def _refused_certificate(self, error: OSError | None) -> ConfigurationError | None:
        # With TLS 1.3 the broker looks at our certificate when we think that we are connected.
        return None if self._ever else refused_certificate(self._mqtt, error)

    def _no_answer(self, problem: str) -> None:
        if not self._ever and self._mqtt.protocol == "5":
            # Some brokers hang up on a version that they do not know, or fall silent; and so does
            # what stands in front of a broker that is not there yet: take turns.
            self._protocol = other(self._protocol)
        self._lost(problem)

    def _lost(self, problem: str) -> None:
        """Keep the messages in hand, forget that they could be acknowledged, and plan to return."""
        now = time.monotonic()
        if self._accepted:
            if now - self.since < STEADY:
                self._flaps += 1
            else:
                self._flaps, self._said = 0, None
            self._failures = 0
        if self._client is not None and self._client.packets is not None:
            self._client.packets.close()
        self._client, self._accepted, self.since = None, False, now
        self._end()
        first, longest = PAUSES
        pause = min(first * 2**self._failures, longest)
        if self._flaps:
            pause = min(max(pause, 2.0 ** (self._flaps - 1)), LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = now + pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if "taken over" in problem or self._flaps > 1:
            problem += f"; perhaps another client uses mqtt.client_id {self._client_id!r}"
        self.trouble = f"no connection to {self._mqtt.where}: {problem}"
        if self.trouble != self._said and not self._fatal and not self._closing:
            log.warning("disconnected", broker=self._mqtt.where, reason=problem, retrying=True)
            self._said = self.trouble

    # -- twice a second

    def _housekeeping(self, now: float) -> None:
        client = self._client
        if client is None:
            return
        client.loop_misc()
        if self._client is client and not self._accepted and now - self.since > ANSWER_WITHIN:
            self._no_answer("it does not answer")

    def _events(self) -> tuple[int, int] | None:
        """The socket and what to wait for on it; None where there is none."""
        client = self._client
        if client is None or client.packets is None or client.packets.fileno() < 0:
            return None
        reading = select.POLLIN if self._listening() else HUNG_UP
        writing = select.POLLOUT if client.want_write() or client.packets.unsent else 0
        return client.packets.fileno(), reading | writing

    def _on_hang_up(self) -> None:
        """The broker has gone; whoever reads finds it at the end of what is still to be read."""
        if not self._listening():
            self._lost("the broker hung up")

    def _due(self) -> float:
        """When something is to be done even if nothing comes."""
        return self._retry_at if self._client is None else self._next_housekeeping


def wait(connections: Sequence[Connection], patience: float) -> list[Connection]:
    """Wait until some of the connections have something to do, at most `patience` seconds."""
    poll = select.poll()
    polled: dict[int, Connection] = {}
    for connection in connections:
        events = connection._events()
        if events is not None:
            poll.register(*events)
            polled[events[0]] = connection
    until = min(connection._due() for connection in connections) - time.monotonic()
    happened = poll.poll(1000 * min(patience, max(until, 0.001)))
    for socket, event in happened:
        if event & HUNG_UP:
            polled[socket]._on_hang_up()
    return [polled[socket] for socket, _ in happened]


def _only_queue(_client: PahoClient, _userdata: object, _socket: object) -> None:
    """Stands where paho looks whether it should write at once; `write` does."""
