"""paho clients set up as the settings say: login, TLS, protocol."""

import contextlib
import ssl
import threading
import uuid
from typing import TypeVar

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from monitor.errors import ConfigurationError, Failure
from monitor.settings import MqttSettings, Protocol

AnyClient = TypeVar("AnyClient", bound=Client)

LOGIN_REFUSED = {
    "Bad user name or password",
    "Not authorized",
    "Bad authentication method",
    "Banned",
}
UNKNOWN_VERSION = "Unsupported protocol version"

CONNACK_TIMEOUT = 5.0
"""Seconds that a broker may take to answer."""


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
        ConfigurationError: a certificate, a key or the file of the password cannot be used.
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
    client.connect_timeout = 1.5  # twice that, and we can still stop in time
    if mqtt.username is not None:
        client.username_pw_set(mqtt.username, mqtt.secret)
    if mqtt.tls:
        client.tls_set_context(_tls_context(mqtt))
    return client


def _tls_context(mqtt: MqttSettings) -> ssl.SSLContext:
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


def other(protocol: Protocol) -> Protocol:
    """The version to try when one is refused."""
    return "3.1.1" if protocol == "5" else "5"


def refused_login(mqtt: MqttSettings, reason: str) -> ConfigurationError:
    """What to say of a login that the broker does not know."""
    return ConfigurationError(
        f"mqtt.username = {mqtt.username!r}: {mqtt.where} refused the login ({reason.lower()}); "
        "allowed is what the broker knows"
    )


def unverified(mqtt: MqttSettings, error: ssl.SSLCertVerificationError) -> ConfigurationError:
    """What to say of a broker whose certificate is not to be trusted."""
    return ConfigurationError(
        f"mqtt.ca_file = '{mqtt.ca_file or ''}': the certificate of {mqtt.where} cannot be "
        f"verified ({error.verify_message}); allowed is a file with the CA that signed it"
    )


def refused_certificate(mqtt: MqttSettings, error: OSError | None) -> ConfigurationError | None:
    """What to say of a client certificate that the broker does not take, if that is the error."""
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if "ALERT" not in reason or not ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return None
    said = reason.partition("ALERT_")[2].replace("_", " ").lower()
    return ConfigurationError(
        f"mqtt.cert_file = '{mqtt.cert_file or ''}': {mqtt.where} refused us ({said}); allowed is "
        "a certificate signed by a CA that the broker trusts"
    )


def join(mqtt: MqttSettings, role: str, client_id: str | None = None) -> Client:
    """A client without a session, connected and with its network thread running.

    Args:
        mqtt: the broker, and how it is talked to.
        role: what the client is for, a part of its client id.
        client_id: under which the broker knows it; None for one at random.

    Raises:
        ConfigurationError: the broker refuses the login, or its certificate is not to be trusted.
        Failure: it cannot be reached.
    """
    name = client_id or f"ecg-monitor-{role}-{uuid.uuid4().hex[:8]}"
    outcome = _attempt(mqtt, name, mqtt.protocol)
    if outcome in (UNKNOWN_VERSION, "") and mqtt.protocol == "5":
        outcome = _attempt(mqtt, name, other(mqtt.protocol))
    if isinstance(outcome, Client):
        return outcome
    if outcome in LOGIN_REFUSED:
        raise refused_login(mqtt, outcome)
    raise Failure(f"{mqtt.where}: the broker refuses us ({outcome.lower() or 'it hangs up'})")


def _attempt(mqtt: MqttSettings, client_id: str, protocol: Protocol) -> Client | str:
    """A connected client, or the broker's reason against it; empty if it hung up without one."""
    client = make(Client, mqtt, client_id, protocol, False)
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
        client.connect(*mqtt.address)
    except ssl.SSLCertVerificationError as error:
        raise unverified(mqtt, error) from None
    except (OSError, ValueError) as error:  # ValueError: no host can have that name
        raise Failure(f"cannot reach the broker at {mqtt.where}: {error}") from None
    client.loop_start()
    in_time = answered.wait(CONNACK_TIMEOUT)
    if answer == "Success":
        client.on_connect = client.on_disconnect = None
        return client
    leave(client)
    if not in_time:
        raise Failure(f"the broker at {mqtt.where} does not answer")
    return answer


def leave(client: Client) -> None:
    """Disconnect a client that `join` gave, and wait for the end of its network thread."""
    client.disconnect()
    # The thread may end by itself between paho's two looks at it.
    with contextlib.suppress(AttributeError):
        client.loop_stop()
