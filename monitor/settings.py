"""The settings: flags win over the environment, the environment over the TOML file."""

import json
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from monitor.alarms.decisions import Policy
from monitor.alarms.operator_requests import ENDS
from monitor.ecg.codec import Payload
from monitor.errors import ConfigurationError
from monitor.topics import DEVICE, subscription, topic_of

Protocol = Literal["5", "3.1.1"]

SHORTEST_TOKEN = 16
"""Characters of a token: one that can be guessed is none."""

DEFAULT = Policy()


class Table(BaseModel):
    """A table of the TOML file; a key that it does not know is refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )


def readable(path: Path | None) -> Path | None:
    """The same path. Raises ValueError if it is no file that can be read."""
    if path is not None:
        _content(path)
    return path


def holding_secret(path: Path | None) -> Path | None:
    """The same path. Raises ValueError if it is no file with a secret in it."""
    if path is not None:
        _secret_in(path)
    return path


def secret(given: SecretStr | None, setting: str, file: Path | None) -> str | None:
    """A secret as it was given, or from a file, which is read anew each time.

    Raises:
        ConfigurationError: the file cannot be used any more.
    """
    if file is None:
        return given.get_secret_value() if given else None
    try:
        return _secret_in(file)
    except ValueError as error:
        raise ConfigurationError(f"{setting} = '{file}': {error}") from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"must be a file that can be read ({error.strerror})") from None


def _secret_in(path: Path) -> str:
    try:
        text = _content(path).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise ValueError("must be a file that holds a secret as text")
    return text


def _client_id() -> str:
    return f"ecg-monitor-{socket.gethostname()}"


class MqttSettings(Table):
    """The broker, and how it is talked to."""

    broker: str = Field(
        "mqtt://localhost:1883", description="mqtt://HOST:PORT or mqtts://HOST:PORT"
    )
    protocol: Protocol = Field("5", description="5 falls back to 3.1.1 where the broker refuses it")
    client_id: str = Field(
        default_factory=_client_id,
        min_length=1,
        pattern=r"^[^/+#\x00]+$",
        description="stable, and no other client's: the broker keeps what comes meanwhile",
    )
    username: str | None = Field(None, description="login, where the broker wants one")
    password: SecretStr | None = Field(None, description="better given as password_file")
    password_file: Path | None = Field(None, description="file that holds the password")
    ca_file: Path | None = Field(
        None, description="CA certificates for mqtts; the system's if unset"
    )
    cert_file: Path | None = Field(None, description="client certificate for mqtts")
    key_file: Path | None = Field(None, description="key of the client certificate")
    receive_maximum: int = Field(
        1000, ge=1, le=65535, description="messages in hand that are not acknowledged yet"
    )
    session_expiry: int = Field(
        86400, ge=0, le=0xFFFFFFFF, description="seconds that the broker keeps our session"
    )

    @field_validator("broker")
    @classmethod
    def _check_broker(cls, broker: str) -> str:
        try:
            url = urlsplit(broker)
            port = url.port
        except ValueError:
            url, port = urlsplit(""), 0
        plain = url.hostname and port != 0 and not set("@?#") & set(broker)
        plain = plain and not url.path.strip("/") and broker.isprintable()
        if url.scheme not in ("mqtt", "mqtts") or not plain:
            raise ValueError("must be mqtt://HOST:PORT or mqtts://HOST:PORT")
        return broker

    @field_validator("password_file")
    @classmethod
    def _check_password(cls, path: Path | None) -> Path | None:
        return holding_secret(path)

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _check_file(cls, path: Path | None) -> Path | None:
        return readable(path)

    @model_validator(mode="after")
    def _check_pairs(self) -> "MqttSettings":
        if self.key_file and not self.cert_file:
            raise ValueError("mqtt.key_file needs mqtt.cert_file")
        for key in ("ca_file", "cert_file", "key_file"):
            if getattr(self, key) and not self.tls:
                raise ValueError(
                    f"mqtt.{key} = '{getattr(self, key)}': needs mqtt.broker = mqtts://HOST:PORT"
                )
        if self.password and self.password_file:
            raise ValueError("mqtt.password and mqtt.password_file exclude each other")
        if (self.password or self.password_file) and not self.username:
            raise ValueError("mqtt.password needs mqtt.username")
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.broker).scheme == "mqtts"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the broker."""
        url = urlsplit(self.broker)
        return url.hostname or "", url.port or (8883 if self.tls else 1883)

    @property
    def where(self) -> str:
        """The broker as it is named in messages."""
        return "{}:{}".format(*self.address)

    @property
    def secret(self) -> str | None:
        """The password, from wherever it was given; a file is read anew each time.

        Raises:
            ConfigurationError: the file cannot be used any more.
        """
        return secret(self.password, "mqtt.password_file", self.password_file)


def number(qos: Any) -> Any:
    """Return a quality of service from the environment as a number."""
    return int(qos) if isinstance(qos, str) and qos.isdecimal() else qos


def one_is_several(topic: Any) -> Any:
    """Return a list of topics, of one if only one is given."""
    if not isinstance(topic, str):
        return topic
    return json.loads(topic) if topic.startswith("[") else [topic]


def filters_with_device(topics: list[str]) -> list[str]:
    """Return the same topics. Raises ValueError if one is no filter with a device's level."""
    for topic in topics:
        levels = topic.split("/")
        if levels.count(DEVICE) != 1 or topic.count("{") != 1 or topic.count("}") != 1:
            raise ValueError(f"{topic}: one level must be {DEVICE}, as in ecg/{DEVICE}/beats")
        if levels[0] == "$share" and (len(levels) < 3 or not levels[1]):
            raise ValueError(f"{topic}: a shared subscription is $share/GROUP/FILTER")
        if "#" in levels[:-1] or any(len(x) > 1 and set("+#") & set(x) for x in levels):
            raise ValueError(f"{topic}: + and # stand for whole levels, # for the last ones")
    return topics


class InputSettings(Table):
    """Where beats come from."""

    topic: Annotated[list[str], NoDecode] = Field(
        ["ecg/{device}/beats"],
        min_length=1,
        description="filters, the device's level marked {device}; $share/GROUP/… works",
    )
    qos: Literal[0, 1] = Field(
        1, description="1: no beat is lost, also while we are away; 0: faster"
    )
    payload: Payload = Field("auto", description="json, float32, or auto: whatever it is")

    _number = field_validator("qos", mode="before")(number)
    _one_is_several = field_validator("topic", mode="before")(one_is_several)
    _check_topic = field_validator("topic")(filters_with_device)


class ModelSettings(Table):
    """The detector."""

    path: Path | None = Field(None, description="a model file; the one that comes along if unset")
    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of normal beats above it; sets the threshold of every model file",
    )
    threshold: float | None = Field(
        None, description="a score of model.path above it is anomalous; the file's if unset"
    )
    devices: dict[str, Path] = Field(
        default_factory=dict,
        description='their own: "bed-7" = "bed-7.onnx"; * and ? may stand in a name, the first '
        "that fits wins",
    )

    @model_validator(mode="after")
    def _check_one_threshold(self) -> "ModelSettings":
        if self.false_alarm_rate is not None and self.threshold is not None:
            raise ValueError("model.threshold and model.false_alarm_rate exclude each other")
        return self


class AlarmSettings(Table):
    """When an alarm is raised and cleared."""

    window: int = Field(DEFAULT.window, ge=1, le=1000, description="last beats that are looked at")
    raise_at: int = Field(
        DEFAULT.raise_at, ge=1, description="raised when so many of them are anomalous"
    )
    clear_at: int = Field(DEFAULT.clear_at, ge=0, description="cleared when so many or fewer are")
    silent_after: float = Field(
        DEFAULT.silent_after, ge=0, description="seconds without a beat; 0: never said to be silent"
    )

    @model_validator(mode="after")
    def _check_order(self) -> "AlarmSettings":
        if self.raise_at > self.window:
            raise ValueError(
                f"alarm.raise_at = {self.raise_at}: must be at most alarm.window = {self.window}"
            )
        if self.clear_at >= self.raise_at:
            raise ValueError(
                f"alarm.clear_at = {self.clear_at}: must be below alarm.raise_at = {self.raise_at}"
            )
        return self

    @property
    def policy(self) -> Policy:
        """The same for the decisions."""
        return Policy(self.window, self.raise_at, self.clear_at, self.silent_after)


class OutputSettings(Table):
    """Where alerts go."""

    topic: str = Field(
        "ecg/{device}", description="alerts, alarm and scores are published one level below"
    )
    scores: bool = Field(False, description="publish every score, at QoS 0")
    home_assistant: bool = Field(False, description="announce each device to Home Assistant")

    @field_validator("topic")
    @classmethod
    def _check_topic(cls, topic: str) -> str:
        if topic.split("/").count(DEVICE) != 1 or set("+#") & set(topic) or topic.count("{") != 1:
            raise ValueError(
                f"one level must be {DEVICE}, as in ecg/{DEVICE}; + and # are not allowed"
            )
        return topic


class SegmentSettings(Table):
    """Raw samples, and how beats are cut from them (`ecg-monitor segment`)."""

    topic: Annotated[list[str], NoDecode] = Field(
        ["ecg/{device}/samples"],
        min_length=1,
        description="filters of the samples, the device's level marked {device}",
    )
    qos: Literal[0, 1] = Field(1, description="1: no sample is lost, also while we are away")
    rate: float | None = Field(
        None, gt=0, description="sampling rate in Hz of chunks that do not carry one"
    )
    lead: str | None = Field(
        None, description="the lead that beats are cut from; a device's first one if unset"
    )
    journal: Path | None = Field(
        None,
        description="the last seconds of every signal; "
        "~/.local/state/ecg-monitor/<client id>-segment.db if unset",
    )
    port: int = Field(
        9465, ge=0, le=65535, description="/metrics and /healthz, at metrics.host; 0: any free port"
    )

    _number = field_validator("qos", mode="before")(number)
    _one_is_several = field_validator("topic", mode="before")(one_is_several)
    _check_topic = field_validator("topic")(filters_with_device)


class HistorySettings(Table):
    """What is kept of alarms, and of what people did about them."""

    file: Path | None = Field(
        None, description="in SQLite; ~/.local/state/ecg-monitor/<client id>.db if unset"
    )
    days: float = Field(90, ge=0, le=36500, description="days that it is kept; 0: nothing is")
    megabytes: int = Field(256, ge=1, description="its size, beyond which the oldest goes")


class MetricsSettings(Table):
    """Where metrics, health and the live page are served."""

    host: str = Field("127.0.0.1", description="address to bind; 0.0.0.0 to be seen from outside")
    port: int = Field(9464, ge=0, le=65535, description="/metrics and /healthz; 0: any free port")
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        [],
        description="further names that the live page may be asked for by; IP addresses, localhost "
        "and this machine's name always may",
    )
    token: SecretStr | None = Field(
        None, description="who has it may acknowledge and shelve over HTTP; nobody may if unset"
    )
    token_file: Path | None = Field(None, description="file that holds the token")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _one_is_several(cls, hosts: Any) -> Any:
        if not isinstance(hosts, str):
            return hosts
        return json.loads(hosts) if hosts.startswith("[") else [hosts]

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
                raise ValueError(f"{host}: must be a host name, without scheme and port")
        return hosts

    @field_validator("token_file")
    @classmethod
    def _check_file(cls, path: Path | None) -> Path | None:
        return holding_secret(path)

    @model_validator(mode="after")
    def _check_token(self) -> "MetricsSettings":
        if self.token and self.token_file:
            raise ValueError("metrics.token and metrics.token_file exclude each other")
        token = self.secret
        # A header holds nothing but ASCII: a token of other letters would fit nobody's.
        if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
            raise ValueError(f"metrics.token: must be {SHORTEST_TOKEN} ASCII characters or more")
        return self

    @property
    def secret(self) -> str | None:
        """The token, from wherever it was given."""
        return secret(self.token, "metrics.token_file", self.token_file)


class Settings(BaseSettings):
    """All settings of the daemon."""

    model_config = SettingsConfigDict(
        env_prefix="ECG_MONITOR_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    mqtt: MqttSettings = MqttSettings()
    input: InputSettings = InputSettings()
    model: ModelSettings = ModelSettings()
    alarm: AlarmSettings = AlarmSettings()
    output: OutputSettings = OutputSettings()
    segment: SegmentSettings = SegmentSettings()
    history: HistorySettings = HistorySettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def history_file(self) -> Path:
        """Where the history is kept."""
        return self.history.file or self._state(f"{self.mqtt.client_id}.db")

    @property
    def segment_journal(self) -> Path:
        """Where the last seconds of every signal are kept."""
        return self.segment.journal or self._state(f"{self.mqtt.client_id}-segment.db")

    def _state(self, name: str) -> Path:
        folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(folder, "ecg-monitor", name)

    @model_validator(mode="after")
    def _check_no_loop(self) -> "Settings":
        from paho.mqtt.client import topic_matches_sub

        for topic in self.input.topic:
            for end in ("alerts", "alarm", "scores", *(f"alarm/{end}" for end in ENDS)):
                if topic_matches_sub(
                    subscription(topic, bare=True), topic_of(self.output.topic, "x", end)
                ):
                    raise ValueError(f"input.topic = {topic}: would take our own {end} for beats")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def flags(
    broker: str | None = None,
    model: Path | None = None,
    rate: float | None = None,
    lead: str | None = None,
) -> dict[str, Any]:
    """Return what was given on the command line, as tables of settings."""
    given: dict[str, dict[str, Any]] = {
        "mqtt": {"broker": broker},
        "model": {"path": model},
        "segment": {"rate": rate, "lead": lead},
    }
    tables = {
        table: {key: value for key, value in keys.items() if value is not None}
        for table, keys in given.items()
    }
    return {table: keys for table, keys in tables.items() if keys}


def load(file: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Read the settings.

    Args:
        file: a TOML file.
        flags: tables of settings given on the command line.

    Raises:
        ConfigurationError: names the setting, the value and what is allowed.
    """
    if file is not None and not file.is_file():
        raise ConfigurationError(f"--config {file}: there is no such file")

    class FromFile(Settings, toml_file=file):
        pass

    try:
        return FromFile(**(flags or {}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error.errors()[0])) from None
    # TOML that is none; JSON in an environment variable that is none; a file that cannot be read.
    except (ValueError, OSError, RecursionError) as error:
        where = f"--config {file}: " if file else ""
        raise ConfigurationError(f"{where}{error}") from None


def _explain(error: ErrorDetails) -> str:
    setting = ".".join(str(part) for part in error["loc"])
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{setting}: there is no such setting; --print-config lists those there are"
    if error["type"] == "value_error" and setting.count(".") == 0:
        return text  # it names its settings itself
    said = f"{text[0].lower()}{text[1:]}"
    if setting.count(".") == 0:
        return f"{setting}: must be a table of settings ({said})"  # who knows what is in it
    value = repr(error["input"])
    if setting.endswith(("password", "token")):
        value = "'***'"
    elif setting == "mqtt.broker":
        value = _LOGIN.sub(r"\1***@", value)
    return f"{setting} = {value}: {said}"


_LOGIN = re.compile(r"^(.\w+://|.).*@")
"""A login within an address."""
