"""paho clients set up as the settings say: login, TLS, protocol."""

import contextlib
import random
import secrets
import ssl
import threading
import time
from typing import TypeVar

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from monitor.errors import ConfigurationError, Failure
from monitor.mqtt.dial import CONNECT_TIMEOUT
from monitor.settings import MqttSettings, Protocol, host_and_port

AnyClient = TypeVar("AnyClient", bound=Client)

LOGIN_REFUSED = {
    "Bad user name or password",
    "Not authorized",
    "Bad authentication method",
    "Banned",
}
UNKNOWN_VERSION = "Unsupported protocol version"

NO_REASON = "unspecified error"
"""What the refusal of a subscription says in MQTT 3.1.1."""

SUBSCRIPTIONS = 3
"""Times that a broker is asked before a refusal without a reason counts: while its nodes elect a
leader, NATS refuses 5 s after it was asked."""

CONNACK_TIMEOUT = 5.0
"""Seconds that a broker may take to answer."""

RETRY_DELAY = 1.0
"""Seconds between two rounds of a broker's addresses, when a connection was lost."""


def in_turn(mqtt: MqttSettings) -> list[tuple[str, int]]:
    """Return the addresses of the broker in the order in which they are tried.

    It is random, so that the clients of a node that dies do not all go to the same other one.
    """
    return random.sample(mqtt.addresses, len(mqtt.addresses))


def qos_of_states(client: Client) -> int:
    """Return at which QoS states and requests are asked for.

    NATS, which speaks 3.1.1 alone, makes a consumer for each filter at QoS 1. After one of its
    nodes has died that takes up to 5 s each, in which it hears nothing else over the connection.
    """
    return 1 if client.protocol == MQTTProtocolVersion.MQTTv5 else 0


def make(
    kind: type[AnyClient], mqtt: MqttSettings, client_id: str, protocol: Protocol, keep: bool
) -> AnyClient:
    """A client that has not connected yet.

    Args:
        kind: paho's class or one of its children.
        mqtt: the broker, and how it is talked to.
        client_id: under which the broker knows us.
        protocol: the version of MQTT.
        keep: whether the broker shall keep our session (with MQTT 5, `connect` says so too).

    Raises:
        ConfigurationError: the file of the password cannot be used.
    """
    version = CallbackAPIVersion.VERSION2
    if protocol == "5":
        client = kind(version, client_id, protocol=MQTTProtocolVersion.MQTTv5)
    else:
        client = kind(
            version,
            client_id,
            clean_session=not keep,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
    if mqtt.username is not None:
        client.username_pw_set(mqtt.username, mqtt.secret)
    return client


def tls_context(mqtt: MqttSettings) -> ssl.SSLContext | None:
    """Return how connections are encrypted; None where they are not.

    Raises:
        ConfigurationError: a certificate or a key cannot be used.
    """
    if not mqtt.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=mqtt.ca_file)
    except OSError as error:
        raise ConfigurationError(
            f"mqtt.ca_file = '{mqtt.ca_file}': must hold certificates ({_reason(error)})"
        ) from None
    if mqtt.cert_file:
        try:
            # An empty password, for OpenSSL would else ask the terminal for that of the key.
            context.load_cert_chain(mqtt.cert_file, mqtt.key_file, password="")
        except OSError as error:
            raise ConfigurationError(
                f"mqtt.cert_file = '{mqtt.cert_file}': must hold a certificate, and "
                f"mqtt.key_file its key, without a password ({_reason(error)})"
            ) from None
    return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def refused_login(mqtt: MqttSettings, where: str, reason: str) -> ConfigurationError:
    """What to say of a login that the broker does not know."""
    return ConfigurationError(
        f"mqtt.username = {mqtt.username!r}: {where} refused the login ({reason.lower()}); "
        "allowed is what the broker knows"
    )


def unverified(
    mqtt: MqttSettings, where: str, error: ssl.SSLCertVerificationError
) -> ConfigurationError:
    """What to say of a broker whose certificate is not to be trusted."""
    return ConfigurationError(
        f"mqtt.ca_file = '{mqtt.ca_file or ''}': the certificate of {where} cannot be "
        f"verified ({error.verify_message}); allowed is a file with the CA that signed it"
    )


def refused_certificate(
    mqtt: MqttSettings, where: str, error: OSError | None
) -> ConfigurationError | None:
    """What to say of a client certificate that the broker does not take, if that is the error."""
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if "ALERT" not in reason or not ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return None
    said = reason.partition("ALERT_")[2].replace("_", " ").lower()
    return ConfigurationError(
        f"mqtt.cert_file = '{mqtt.cert_file or ''}': {where} refused us ({said}); allowed is "
        "a certificate signed by a CA that the broker trusts"
    )


def unique_id(mqtt: MqttSettings, role: str) -> str:
    """Return a client ID that nobody else has, of a program that keeps no session."""
    return f"{mqtt.client_id}-{role}-{secrets.token_hex(4)}"


def join(mqtt: MqttSettings, role: str, client_id: str | None = None) -> Client:
    """Return a client without a session, connected and with its network thread running.

    Args:
        mqtt: the broker, and how it is talked to.
        role: what the client is for.
        client_id: under which the broker knows it; None for `unique_id(mqtt, role)`.

    Raises:
        ConfigurationError: the broker refuses the login, or its certificate is not to be trusted.
        Failure: none of its nodes can be reached.
    """
    name = client_id or unique_id(mqtt, role)
    problem = Failure("")
    for address in in_turn(mqtt):
        where = host_and_port(address)
        try:
            outcome = _attempt(mqtt, address, name, mqtt.protocol)
            # Some brokers hang up on MQTT 5 without a word.
            if outcome in (UNKNOWN_VERSION, "") and mqtt.protocol == "5":
                outcome = _attempt(mqtt, address, name, "3.1.1")
        except ConfigurationError:
            raise
        except Failure as failure:
            problem = failure
            continue
        if isinstance(outcome, Client):
            return outcome
        if outcome in LOGIN_REFUSED:
            raise refused_login(mqtt, where, outcome)
        problem = Failure(f"{where}: the broker refuses us ({outcome.lower() or 'it hangs up'})")
    raise problem


def join_again(mqtt: MqttSettings, role: str, patience: float) -> Client:
    """Return what `join` does after a connection was lost, tried for `patience` seconds.

    Raises:
        ConfigurationError: the broker refuses the login, or its certificate is not to be trusted.
        Failure: none of its nodes could be reached for so long.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return join(mqtt, role)
        except ConfigurationError:
            raise
        except Failure:
            if time.monotonic() > deadline:
                raise
        time.sleep(RETRY_DELAY)


def _attempt(
    mqtt: MqttSettings, address: tuple[str, int], client_id: str, protocol: Protocol
) -> Client | str:
    """A connected client, or the broker's reason against it; empty if it hung up without one."""
    client = make(Client, mqtt, client_id, protocol, False)
    client.connect_timeout = CONNECT_TIMEOUT
    context, where = tls_context(mqtt), host_and_port(address)
    if context is not None:
        client.tls_set_context(context)
    answered = threading.Event()
    answer = ""

    def on_connect(
        _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _: object
    ) -> None:
        nonlocal answer
        answer = str(reason)
        answered.set()

    def on_disconnect(
        _client: Client, _data: object, _flags: DisconnectFlags, _reason: ReasonCode, _: object
    ) -> None:
        answered.set()

    client.on_connect, client.on_disconnect = on_connect, on_disconnect
    try:
        client.connect(*address)
    except ssl.SSLCertVerificationError as error:
        raise unverified(mqtt, where, error) from None
    except (OSError, ValueError) as error:  # ValueError: no host can have that name
        reason = getattr(error, "strerror", None) or error
        raise Failure(f"cannot reach the broker at {where}: {reason}") from None
    client.loop_start()
    in_time = answered.wait(CONNACK_TIMEOUT)
    if answer == "Success":
        client.on_connect = client.on_disconnect = None
        return client
    leave(client)
    if not in_time:
        raise Failure(f"the broker at {where} does not answer")
    return answer


def leave(client: Client) -> None:
    """Disconnect a client that `join` gave, and wait for the end of its network thread."""
    client.disconnect()
    # The thread may end by itself between paho's two looks at it.
    with contextlib.suppress(AttributeError):
        client.loop_stop()
