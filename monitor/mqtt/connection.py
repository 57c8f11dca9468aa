"""A connection to the broker that is made again whenever it is lost.

A daemon has two, `BeatConsumer` for what it reads and `AlertSender` for what it publishes: the
acknowledgements of alerts must not queue behind a backlog of beats, and must still be read while
no beats are.

Each attempt gets a new paho client, so nothing that belongs to an old connection reaches a new one.
"""

import itertools
import random
import select
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import Future

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
    in_turn,
    make,
    refused_certificate,
    refused_login,
    tls_context,
    unverified,
)
from monitor.mqtt.dial import Socket, dial, give_up
from monitor.mqtt.packets import READ_SIZE, Client, Packet, Publish, parse_publish
from monitor.settings import MqttSettings, Protocol, host_and_port

log = structlog.get_logger()

KEEPALIVE = 30
"""Seconds of our silence after which the broker may think us gone (MQTT's keep alive), and half as
many again: far more than a turn takes, so that a machine under load keeps its connections."""

AT_ONCE = 1000
"""PUBLISH packets that are taken in at once, where nothing else limits them."""

HOUSEKEEPING_INTERVAL = 0.5
"""Seconds between two looks at what is due without a packet."""

PING_INTERVAL = 5.0
"""Seconds between two packets that the broker must answer."""

SILENCE_TIMEOUT = 12.0
"""Seconds without a packet from the broker after which another of its nodes is tried: two pings
without an answer. A node that loses its power does not close its connections. On a slow network
answers may stand behind a megabyte: at 1 Mbit/s for 8 s."""

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

DIAL_TIMEOUT = 5.0
"""Seconds that resolving a name, connecting to one of its addresses and TLS may take in all."""

SHORT_POLL = 0.01
"""Seconds between two looks at what no poll shows: whether a socket is made, or who is active. A
tenth of the shortest time to reconnect."""

CONNACK_TIMEOUT = 5.0
"""Seconds within which the broker must answer a CONNECT."""

HANG_UPS, HANG_UP_PATIENCE = 6, 5.0
"""Times, and seconds since the first, after which a broker that never answers a CONNECT is asked in
the other version of MQTT: some hang up on 5 without a word, and so does any that is starting. One
that keeps the connection and stays silent (amqtt) is asked so at once."""

LARGEST_PACKET = 5 + 268_435_455
"""Bytes of the largest packet that MQTT can express."""

PUBLISH_OVERHEAD = 5 + 2 + 2 + 1
"""Bytes of a PUBLISH beside topic and payload: its header, the topic's length, the packet
identifier, and no properties."""

LOGIN_RETRY_DELAY = 5.0
"""Seconds between two logins after a refusal: often enough for a broker that reads its passwords
late, and too seldom for one that bans who guesses."""

PINGREQ = b"\xc0\x00"

TAKEN_OVER = "Session taken over"
"""What MQTT 5 says to whom another client has taken the client ID from (0x8E)."""

HUNG_UP = "Unspecified error"
"""paho's reason where the broker gave none."""


class Connection:
    """One of a daemon's connections; the subclasses give it its purpose.

    Attributes:
        trouble: what is wrong with it, in words; None while all is well.
        asks: whether, once lost, it waits for `resume` before it connects again.
        protocol: the version of MQTT that it speaks.
        refused_5: whether the broker said that it does not know version 5.
        login_patience: seconds, from the start, for which a refused login is tried again.
        since: when it was accepted, or lost, on the monotonic clock.
    """

    def __init__(self, mqtt: MqttSettings, client_id: str, keep_session: bool) -> None:
        self.trouble: str | None = "not connected yet"
        self.since = time.monotonic()
        self.asks = False
        self.protocol: Protocol = mqtt.protocol
        self.login_patience = 0.0
        self.refused_5 = False
        self._mqtt, self._client_id, self._keep_session = mqtt, client_id, keep_session
        self._addresses = itertools.cycle(in_turn(mqtt))
        self._where = mqtt.where  # the node that is, or was last, connected
        self._largest = LARGEST_PACKET  # bytes of a packet that the broker takes
        self._begun = time.monotonic()
        self._dialled: Future[Socket] | None = None  # while a socket is being made
        self._client: Client | None = None
        self._worked = False  # whether it ever did what it is for
        self._accepted = False  # whether the broker has accepted this connection
        self._was_accepted = False  # … or any before it
        self._logged_trouble: str | None = None  # the trouble last written to the log
        self._retry_at = 0.0
        self._failures = self._flaps = 0
        self._next_housekeeping = self._next_ping = 0.0
        self._ping_interval = PING_INTERVAL
        self._silence = 0.0  # seconds of our turning without a packet from the broker
        self._fatal: ConfigurationError | None = None
        self._unanswered = False  # whether a CONNECT was sent that nothing has answered
        self._hang_ups, self._hung_up_since = 0, 0.0  # on such, without an answer between them
        self._closing = self._quiet = self._suspended = False
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

    def _room(self) -> int:
        """Return how many PUBLISH packets may be taken in now, at most; the next one waits."""
        return AT_ONCE

    def _receive(self, publishes: Sequence[Packet], arrived: float) -> None:
        """Take in PUBLISH packets, read at `arrived` on the monotonic clock.

        Raises:
            ValueError: one is malformed; those before it have been taken in.
        """
        for header, body in publishes:
            self._hear(parse_publish(header, body, self.protocol == "5"), arrived)

    def _hear(self, publish: Publish, arrived: float) -> None:
        """Take in one of them, where they do not go by the batch."""

    @property
    def _blocked(self) -> bool:
        """Whether nothing is read, for the next packet is a PUBLISH that is not wanted yet."""
        return self._held and not self._room()

    @property
    def settings(self) -> MqttSettings:
        """How the broker is talked to."""
        return self._mqtt

    @property
    def client_id(self) -> str:
        """Under which the broker knows this connection."""
        return self._client_id

    # -- called once a turn

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection, and it is not lost."""
        return self._accepted

    @property
    def suspended(self) -> bool:
        """Whether it is lost, and waits for `resume`."""
        return self._suspended

    def resume(self) -> None:
        """Connect again, when it is time."""
        self._suspended = False

    def speak(self, protocol: Protocol) -> None:
        """Speak this version of MQTT from now on."""
        if protocol != self.protocol:
            self.protocol = protocol
            if self._client is not None:
                self._drop(f"it is spoken to in {protocol}, as over the other connection")

    def abandon(self) -> None:
        """Close the connection, not in order, and do not connect again."""
        self._closing = self._suspended = True
        self._drop("it is another's")

    def maintain(self) -> None:
        """Connect if it is time to, and twice a second do the housekeeping.

        Raises:
            ConfigurationError: the broker refuses the connection, and never accepted one.
        """
        now = time.monotonic()
        if self._client is None and now >= self._retry_at and not self._suspended:
            self._dial(now)
        if self._dialled is not None:
            self._connect(self._dialled, now)
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + HOUSEKEEPING_INTERVAL
            self._housekeeping(now)
        if self._fatal:
            raise self._fatal

    def read(self, limit: int = READ_SIZE) -> None:
        """Take in what has arrived, about `limit` bytes at most, without waiting."""
        client = self._client
        if client is None or client.packets is None or self._blocked:
            return
        packets = client.packets
        if not self._held and packets.fill(limit):
            self._silence = 0.0
        self._held = False
        arrived = time.monotonic()
        while self._client is client:
            if publishes := packets.publishes(self._room()):
                try:
                    self._receive(publishes, arrived)
                except ValueError as error:
                    self._drop(str(error))
                continue
            pahos = packets.next_packet()
            self._held = pahos is None
            if not pahos or client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break

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
        self._give_up_dialling()
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_write()

    # -- connecting

    def _dial(self, now: float) -> None:
        """Begin to make a socket to the next address."""
        address = next(self._addresses)
        self._where = host_and_port(address)
        try:
            tls, self._client = tls_context(self._mqtt), self._make_client()
        except ConfigurationError as error:
            if not self._was_accepted:
                raise
            self._drop(str(error))  # certificates may be in the middle of being replaced
            return
        self._address, self._accepted, self.since = address, False, now
        self._dialled = dial(*address, tls)

    def _give_up_dialling(self) -> None:
        if self._dialled is not None:
            give_up(self._dialled)
            self._dialled = None

    def _connect(self, dialled: Future[Socket], now: float) -> None:
        """Send CONNECT over the socket, if it is made."""
        if not dialled.done():
            if now - self.since > DIAL_TIMEOUT:
                self._drop("its name is not resolved, or it does not answer")
            return
        client = self._client
        assert client is not None
        self._dialled = None
        try:
            client.dialled = dialled.result()
            if self.protocol == "5":
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                if self._keep_session:
                    properties.SessionExpiryInterval = self._mqtt.session_expiry
                properties.ReceiveMaximum = self._mqtt.receive_maximum
                properties.MaximumPacketSize = MAXIMUM_PACKET
                client.connect(
                    *self._address,
                    KEEPALIVE,
                    clean_start=not self._keep_session,
                    properties=properties,
                )
            else:
                client.connect(*self._address, KEEPALIVE)
            self.since, self._silence, self._unanswered = now, 0.0, True
        except ssl.SSLCertVerificationError as error:
            if not self._was_accepted:
                self._fatal = unverified(self._mqtt, self._where, error)
            self._drop(f"its certificate cannot be verified: {error.verify_message}")
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._fatal = self._refused_certificate(error)
            self._drop(str(error) or type(error).__name__)

    def _make_client(self) -> Client:
        made = make(Client, self._mqtt, self._client_id, self.protocol, self._keep_session)
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
        self._unanswered, self._hang_ups = False, 0
        if reason.is_failure:
            self._on_refusal(str(reason), _explained(reason, properties))
            return
        self._accepted = self._was_accepted = True
        self.since = time.monotonic()
        self._failures = 0
        keepalive = getattr(properties, "ServerKeepAlive", 0) or KEEPALIVE
        self._ping_interval = min(PING_INTERVAL, keepalive / 2)
        self._largest = getattr(properties, "MaximumPacketSize", LARGEST_PACKET)
        if self._flaps < 2 and not self._quiet:
            log.info(
                "connected",
                client_id=self._client_id,
                broker=self._where,
                protocol=self.protocol,
            )
        self._on_accepted(client, flags, properties)

    def _on_refusal(self, reason: str, explained: str) -> None:
        """The broker has refused the connection, for a reason that it may have explained."""
        if reason == UNKNOWN_VERSION and self.protocol == "5":
            self.refused_5 = True
            self._try("3.1.1")
        elif not self._was_accepted and reason in LOGIN_REFUSED:
            if time.monotonic() - self._begun >= self.login_patience:
                self._fatal = refused_login(self._mqtt, self._where, explained)
        elif not self._was_accepted and reason == "Client identifier not valid":
            self._fatal = ConfigurationError(
                f"mqtt.client_id = {self._mqtt.client_id!r}: {self._where} refused it"
            )
        quiet, self._quiet = self._quiet, self._quiet or reason == UNKNOWN_VERSION
        self._drop(f"the broker refused us: {explained}")
        self._quiet = quiet
        if reason in LOGIN_REFUSED and not self._was_accepted:
            self._retry_at = time.monotonic() + LOGIN_RETRY_DELAY

    def _try(self, protocol: Protocol) -> None:
        """Connect in another version of MQTT next time, and soon."""
        self.protocol, self._failures = protocol, 0
        if not self._quiet:
            log.info("trying another protocol", broker=self._where, protocol=protocol)

    def _count_hang_up(self, now: float) -> None:
        """Count a CONNECT that was not answered; another protocol is tried after some."""
        if not self._hang_ups:
            self._hung_up_since = now
        self._hang_ups += 1
        if self._hang_ups >= HANG_UPS and now - self._hung_up_since >= HANG_UP_PATIENCE:
            self._hang_ups = 0
            self._try("3.1.1" if self.protocol == "5" else "5")

    def _takes(self, topic: str, payload: bytes) -> bool:
        """Return whether a PUBLISH is not larger than the broker takes."""
        return PUBLISH_OVERHEAD + len(topic.encode()) + len(payload) <= self._largest

    def _refuse(self, text: str) -> None:
        """Drop a connection over which we cannot work; end the program if none was better."""
        if not self._worked:
            self._fatal = ConfigurationError(text)
        self._drop(text)

    # -- losing the connection

    def _on_disconnected(
        self,
        client: PahoClient,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if client is not self._client:  # paho may call it twice
            return
        failure = client.packets.failure if client.packets is not None else None
        self._fatal = self._fatal or self._refused_certificate(failure)
        # Whether a broker that hangs up resets or closes is chance: the log has one line for both.
        if isinstance(failure, ssl.SSLError):
            self._drop(str(failure).lower())
        elif str(reason) == HUNG_UP:
            self._drop("the broker hung up")
        else:
            said = _explained(reason, properties)
            if str(reason) == TAKEN_OVER:
                said += f": another client uses mqtt.client_id {self._client_id!r}"
            self._drop(f"the broker disconnected us: {said}")

    def _refused_certificate(self, error: OSError | None) -> ConfigurationError | None:
        # With TLS 1.3 the broker checks our certificate only after our handshake is complete.
        return None if self._was_accepted else refused_certificate(self._mqtt, self._where, error)

    def _drop(self, problem: str) -> None:
        """Close the connection, and set the time of the next attempt."""
        now = time.monotonic()
        if self._accepted:
            if now - self.since < STABLE_AFTER:
                self._flaps += 1
            else:
                self._flaps, self._logged_trouble = 0, None
            self._failures = 0
            self._suspended = self._suspended or self.asks
        if self._unanswered:
            self._unanswered = False
            if self._mqtt.protocol == "5" and not (self._was_accepted or self.refused_5):
                self._count_hang_up(now)
        self._give_up_dialling()
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
        if self._flaps > 1:
            problem += "; again and again, as soon as it is accepted"
        self.trouble = f"no connection to {self._where}: {problem}"
        unsaid = problem != self._logged_trouble and not self._quiet
        if unsaid and not self._fatal and not self._closing:
            log.warning(
                "disconnected",
                client_id=self._client_id,
                broker=self._where,
                reason=problem,
                retrying=True,
            )
            self._logged_trouble = problem

    # -- twice a second

    def _housekeeping(self, now: float) -> None:
        client = self._client
        if client is None or client.packets is None:
            return
        # Only while we turn: who stood still, or was busy, finds the answers when it reads.
        self._silence += 0.0 if self._blocked else HOUSEKEEPING_INTERVAL
        if not self._accepted:
            if now - self.since > CONNACK_TIMEOUT:
                self._hang_ups, self._hung_up_since = HANG_UPS, now - HANG_UP_PATIENCE
                self._drop("it does not answer")
        elif self._silence > SILENCE_TIMEOUT:
            self._drop(f"for {SILENCE_TIMEOUT:g} s it said nothing")
        elif now >= self._next_ping:
            # Not paho's own: it would miss an answer that stands behind a PUBLISH that is not read.
            client.packets.send(PINGREQ)
            self._next_ping = now + self._ping_interval

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
        if self._dialled is not None or self._suspended:
            return time.monotonic() + SHORT_POLL
        return self._retry_at if self._client is None else self._next_housekeeping


def _explained(reason: ReasonCode, properties: Properties | None) -> str:
    """Return a broker's reason, with its own words and the other server that it names, if any."""
    said = [str(reason).lower()]
    said += [repr(text) for text in [getattr(properties, "ReasonString", "")] if text]
    server = getattr(properties, "ServerReference", "")
    return ", ".join(said) + (f"; it names {server!r}" if server else "")


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
