"""A connection to the broker that is made again whenever it is lost.

A daemon has two, `BeatConsumer` for what it reads and `AlertSender` for what it publishes: the
acknowledgements of alerts must not queue behind a backlog of beats, and must still be read while
no beats are.

Each attempt gets a new paho client, so nothing that belongs to an old connection reaches a new one.
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
"""Seconds of silence after which the connection is probed (MQTT's keep alive)."""

MAXIMUM_PACKET = 16 * 1024 * 1024
"""Bytes of the largest packet that the broker may send (MQTT 5): 30,000 beats in one message."""

RECONNECT_DELAYS = (0.1, 1.0)
"""Seconds before the first attempt to reconnect, and the most before a later one.

The delay doubles between the two: a broker that restarts is found again within a second.
"""

MAX_FLAPPING_DELAY = 30.0
"""Seconds between attempts, at most, where connections are lost as soon as they are accepted."""

STABLE_AFTER = 2.0
"""Seconds after which a connection that is lost does not count as flapping."""

HANG_UP_EVENTS = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
"""What `poll` reports of a socket whose peer has closed."""

CONNACK_TIMEOUT = 5.0
"""Seconds within which the broker must answer a CONNECT."""


class Connection:
    """One of a daemon's connections; the subclasses give it its purpose.

    Attributes:
        trouble: what is wrong with it, in words; None while all is well.
        since: when it was accepted, or lost, on the monotonic clock.
    """

    def __init__(self, mqtt: MqttSettings, client_id: str, keep_session: bool) -> None:
        self.trouble: str | None = "not connected yet"
        self.since = time.monotonic()
        self._mqtt, self._client_id, self._keep_session = mqtt, client_id, keep_session
        self._protocol = mqtt.protocol
        self._client: Client | None = None
        self._accepted = False  # whether the broker has accepted this connection
        self._was_accepted = False  # … or any before it
        self._logged_trouble: str | None = None  # the trouble last written to the log
        self._retry_at = 0.0
        self._failures = self._flaps = 0
        self._next_housekeeping = 0.0
        self._fatal: ConfigurationError | None = None
        self._closing = False
        self._held = False  # whether `read` came to a PUBLISH that was not wanted

    # -- what subclasses fill in

    def _prepare(self, client: Client) -> None:
        """Set up a client before it connects."""

    def _on_accepted(
        self, client: PahoClient, flags: ConnectFlags, properties: Properties | None
    ) -> None:
        """The broker has accepted the connection."""

    def _on_lost(self) -> None:
        """The connection is lost."""

    def _wants_publish(self) -> bool:
        """Return whether PUBLISH packets are to be taken in now; the next one waits if not."""
        return True

    def _receive(self, header: int, body: bytes, arrived: float) -> None:
        """Take in a PUBLISH packet, read at `arrived` on the monotonic clock.

        Raises:
            ValueError: it is malformed.
        """

    @property
    def _blocked(self) -> bool:
        """Whether nothing is read, for the next packet is a PUBLISH that is not wanted yet."""
        return self._held and not self._wants_publish()

    # -- called once a turn

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection, and it is not lost."""
        return self._accepted

    def maintain(self) -> None:
        """Connect if it is time to, and twice a second do the housekeeping.

        Raises:
            ConfigurationError: the broker refuses the connection, and never accepted one.
        """
        now = time.monotonic()
        if self._client is None and now >= self._retry_at:
            self._connect()
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + 0.5
            self._housekeeping(now)
        if self._fatal:
            raise self._fatal

    def read(self, limit: int = READ_SIZE) -> None:
        """Take in what has arrived, about `limit` bytes at most, without waiting."""
        client = self._client
        if client is None or client.packets is None or self._blocked:
            return
        packets = client.packets
        if not self._held:
            packets.fill(limit)
        self._held = False
        arrived = time.monotonic()
        while self._client is client:
            packet = packets.next_packet(self._wants_publish())
            if packet is True:
                if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
            elif packet is False:
                break
            elif packet is None:
                self._held = True
                break
            else:
                try:
                    self._receive(*packet, arrived)
                except ValueError as error:
                    self._drop(str(error))

    def write(self) -> None:
        """Write as much of what is queued as the network takes."""
        client = self._client
        if client is None or client.packets is None:
            return
        if client.want_write():
            client.loop_write()
        if self._client is client:
            client.packets.flush()

    def disconnect(self) -> None:
        """Disconnect in order, so that the broker does not publish the last will."""
        self._closing = True
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_write()

    # -- connecting

    def _connect(self) -> None:
        try:
            client = self._make_client()
        except ConfigurationError as error:
            if not self._was_accepted:
                raise
            self._drop(str(error))  # certificates may be in the middle of being replaced
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
            if not self._was_accepted:
                self._fatal = unverified(self._mqtt, error)
            self._drop(f"its certificate cannot be verified: {error.verify_message}")
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._fatal = self._refused_certificate(error)
            self._drop(str(error) or type(error).__name__)

    def _make_client(self) -> Client:
        made = make(Client, self._mqtt, self._client_id, self._protocol, self._keep_session)
        made.on_connect = self._on_connect
        made.on_disconnect = self._on_disconnected
        made.on_socket_register_write = _defer_write
        self._prepare(made)
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
        self._accepted = self._was_accepted = True
        self.since = time.monotonic()
        self._failures = 0
        if self._flaps < 2:
            log.info("connected", client_id=self._client_id, protocol=self._protocol)
        self._on_accepted(client, flags, properties)

    def _on_refusal(self, reason: str) -> None:
        if reason == UNKNOWN_VERSION and self._protocol == "5":
            self._protocol = other(self._protocol)
            self._failures = 0
            log.info("trying another protocol", broker=self._mqtt.where, protocol=self._protocol)
        elif not self._was_accepted and reason in LOGIN_REFUSED:
            self._fatal = refused_login(self._mqtt, reason)
        elif not self._was_accepted and reason == "Client identifier not valid":
            self._fatal = ConfigurationError(
                f"mqtt.client_id = {self._mqtt.client_id!r}: {self._mqtt.where} refused it"
            )
        self._drop(f"the broker refused us: {reason.lower()}")

    # -- losing the connection

    def _on_disconnected(
        self,
        client: PahoClient,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if client is not self._client:  # paho may call it twice
            return
        failure = client.packets.failure if client.packets is not None else None
        self._fatal = self._fatal or self._refused_certificate(failure)
        # Whether a broker that hangs up resets or closes is chance: the log has one line for both.
        said = failure if isinstance(failure, ssl.SSLError) else reason
        self._on_no_answer(str(said).lower())

    def _refused_certificate(self, error: OSError | None) -> ConfigurationError | None:
        # With TLS 1.3 the broker checks our certificate only after our handshake is complete.
        return None if self._was_accepted else refused_certificate(self._mqtt, error)

    def _on_no_answer(self, problem: str) -> None:
        if not self._was_accepted and self._mqtt.protocol == "5":
            # Some brokers close the connection on a version that they do not know, or do not
            # answer; so does a proxy whose broker is not up yet. Hence the versions alternate.
            self._protocol = other(self._protocol)
        self._drop(problem)

    def _drop(self, problem: str) -> None:
        """Close the connection, and set the time of the next attempt."""
        now = time.monotonic()
        if self._accepted:
            if now - self.since < STABLE_AFTER:
                self._flaps += 1
            else:
                self._flaps, self._logged_trouble = 0, None
            self._failures = 0
        if self._client is not None and self._client.packets is not None:
            self._client.packets.close()
        self._client, self._accepted, self.since = None, False, now
        self._held = False
        self._on_lost()
        first, longest = RECONNECT_DELAYS
        pause = min(first * 2**self._failures, longest)
        if self._flaps:
            pause = min(max(pause, 2.0 ** (self._flaps - 1)), MAX_FLAPPING_DELAY)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = now + pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if "taken over" in problem or self._flaps > 1:
            problem += f"; perhaps another client uses mqtt.client_id {self._client_id!r}"
        self.trouble = f"no connection to {self._mqtt.where}: {problem}"
        if self.trouble != self._logged_trouble and not self._fatal and not self._closing:
            log.warning("disconnected", broker=self._mqtt.where, reason=problem, retrying=True)
            self._logged_trouble = self.trouble

    # -- twice a second

    def _housekeeping(self, now: float) -> None:
        client = self._client
        if client is None:
            return
        client.loop_misc()
        if self._client is client and not self._accepted and now - self.since > CONNACK_TIMEOUT:
            self._on_no_answer("it does not answer")

    def _events(self) -> tuple[int, int] | None:
        """Return the file descriptor and the events to poll for; None without a socket."""
        client = self._client
        if client is None or client.packets is None or client.packets.fileno() < 0:
            return None
        reading = HANG_UP_EVENTS if self._blocked else select.POLLIN
        writing = select.POLLOUT if client.want_write() or client.packets.unsent else 0
        return client.packets.fileno(), reading | writing

    def _on_hang_up(self) -> None:
        """Drop the connection if nothing is read now; else `read` finds the end of the stream."""
        if self._blocked:
            self._drop("the broker hung up")

    def _next_deadline(self) -> float:
        """Return when `maintain` has something to do, on the monotonic clock."""
        if self._held and not self._blocked:
            return 0.0
        return self._retry_at if self._client is None else self._next_housekeeping


def wait(connections: Sequence[Connection], timeout: float) -> list[Connection]:
    """Wait until sockets are ready, at most `timeout` seconds, and return their connections."""
    poll = select.poll()
    polled: dict[int, Connection] = {}
    for connection in connections:
        events = connection._events()
        if events is not None:
            poll.register(*events)
            polled[events[0]] = connection
    deadline = min(connection._next_deadline() for connection in connections) - time.monotonic()
    events_by_socket = poll.poll(1000 * min(timeout, max(deadline, 0.001)))
    for socket, event in events_by_socket:
        if event & HANG_UP_EVENTS:
            polled[socket]._on_hang_up()
    return [polled[socket] for socket, _ in events_by_socket]


def _defer_write(_client: PahoClient, _userdata: object, _socket: object) -> None:
    """Keep paho from writing at once, which it does unless this callback is set; `write` does."""
