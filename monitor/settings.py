"""The settings: tables of the TOML file, each setting with its default, bounds and description.

`monitor.configuration` loads them, `monitor.settings_toml` writes them.
"""

import json
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from monitor.alarms.decisions import Policy
from monitor.alarms.messages import Kind, Priority
from monitor.alarms.operator_requests import TOPICS
from monitor.ecg.codec import Payload
from monitor.ecg.rhythm import RhythmSettings
from monitor.secret_files import ReadableFile, SecretFile, reveal
from monitor.times import LONGEST_HELD
from monitor.topics import DEVICE, check_filter, fits, overlap, subscription, topic_of

Protocol = Literal["5", "3.1.1"]

MIN_TOKEN_LENGTH = 16
"""Characters: 64 bits if they are hexadecimal digits, more than anybody can try over HTTP."""

LONGEST_TEXT = 65_000
"""Bytes of the longest topic, client ID or user name: MQTT has 65,535, and a device ID and the last
levels of a topic need some of them."""

_POLICY, _RHYTHM = Policy(), RhythmSettings()

_STRICT = ConfigDict(
    extra="forbid",  # a key that is not known
    frozen=True,
    hide_input_in_errors=True,  # which may be a secret
    allow_inf_nan=False,
    use_attribute_docstrings=True,  # as descriptions, which --print-config prints
)


def _listed(value: Any) -> Any:
    """Return a list, also of one string alone, and of JSON as the environment gives it."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [value]


def _number(value: Any) -> Any:
    """Return what the environment gives as digits as a number."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _check_text(text: str) -> str:
    # With a control character in it (MQTT 5, section 1.5.4) brokers hang up.
    if not text.isprintable() or len(text.encode()) > LONGEST_TEXT:
        raise ValueError(f"must be printable text of at most {LONGEST_TEXT:,} bytes")
    return text


def _check_filters(topics: list[str]) -> list[str]:
    for topic in topics:
        check_filter(_check_text(topic))
    return topics


def _check_hosts(hosts: list[str]) -> list[str]:
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", host):
            raise ValueError(f"{host}: must be a host name, without scheme and port")
    return hosts


def _check_broker(broker: str) -> str:
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


Text = Annotated[str, AfterValidator(_check_text)]

QoS = Annotated[Literal[0, 1], BeforeValidator(_number)]

# NoDecode: the environment's text comes to _listed as it is.
Filters = Annotated[
    list[str],
    NoDecode,
    BeforeValidator(_listed),
    AfterValidator(_check_filters),
    Field(min_length=1),
]

Brokers = Annotated[
    list[Annotated[str, AfterValidator(_check_broker)]],
    NoDecode,
    BeforeValidator(_listed),
    Field(min_length=1),
]

Latching = Annotated[list[Priority | Kind], NoDecode, BeforeValidator(_listed)]

HostNames = Annotated[list[str], NoDecode, BeforeValidator(_listed), AfterValidator(_check_hosts)]


def host_and_port(address: tuple[str, int]) -> str:
    """Return an address as it is named in messages."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Table(BaseModel):
    """A table of the TOML file."""

    model_config = _STRICT

    @field_validator("*")
    @classmethod
    def _check_paths(cls, value: Any) -> Any:
        for path in value.values() if isinstance(value, dict) else [value]:
            if isinstance(path, Path) and "\0" in str(path):
                raise ValueError("must be a path, which cannot contain NUL")
        return value


class MqttSettings(Table):
    """The broker and the session there."""

    broker: Brokers = ["mqtt://localhost:1883"]
    """Address of the broker: mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS. A list of them: the
    nodes of one cluster, tried in turn."""

    standby: bool = False
    """Whether to wait, connected, until the monitor of the same client ID is gone, and then to take
    its place."""

    protocol: Protocol = "5"
    """Version of MQTT, "5" or "3.1.1". "5" falls back to 3.1.1 if the broker refuses it."""

    client_id: Text = Field(
        default_factory=lambda: f"ecg-monitor-{socket.gethostname()}",
        min_length=1,
        pattern=r"^[^/+#\x00]+$",
    )
    """Client ID of the session. Keep it unique and the same across restarts: the broker queues
    beats for it."""

    username: Text | None = None
    """User name to log in with, if the broker requires one."""

    password: SecretStr | None = None
    """Password to log in with. Prefer password_file."""

    password_file: SecretFile | None = None
    """File that holds the password. Read anew at every connection."""

    ca_file: ReadableFile | None = None
    """PEM file of the CA certificates to trust with mqtts. Default: the system's."""

    cert_file: ReadableFile | None = None
    """PEM file of the client certificate, if the broker requires one."""

    key_file: ReadableFile | None = None
    """PEM file of the client certificate's private key."""

    receive_maximum: int = Field(1000, ge=1, le=65535)
    """Maximum number of messages received and not yet acknowledged, 1 to 65535."""

    session_expiry: int = Field(86400, ge=0, le=0xFFFFFFFF)
    """Seconds for which the broker keeps the session, and the beats that it queues, after a
    disconnect."""

    @model_validator(mode="after")
    def _check_pairs(self) -> "MqttSettings":
        if len({urlsplit(each).scheme for each in self.broker}) > 1:
            raise ValueError(
                f"mqtt.broker = {self.broker}: must be mqtt:// or mqtts:// for all nodes alike"
            )
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
        return urlsplit(self.broker[0]).scheme == "mqtts"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of the broker, or of each of its nodes."""
        urls = map(urlsplit, self.broker)
        return [(url.hostname or "", url.port or (8883 if self.tls else 1883)) for url in urls]

    @property
    def where(self) -> str:
        """The broker as it is named in messages."""
        return ", ".join(map(host_and_port, self.addresses))

    @property
    def longest_held(self) -> float:
        """The longest time, in seconds, that a message may have waited at the broker or before.

        A session that never expires is trusted with a year: no clock is less than that behind that
        has never been set.
        """
        return max(LONGEST_HELD, min(self.session_expiry, 366 * 86400.0))

    @property
    def secret(self) -> str | None:
        """The password, from wherever it was given; a file is read anew each time.

        Raises:
            ConfigurationError: the file cannot be used any more.
        """
        return reveal(self.password, "mqtt.password_file", self.password_file)


class InputSettings(Table):
    """The beats that are monitored."""

    topic: Filters = ["ecg/{device}/beats"]
    """Topic filter of the beats, or a list of them. {device} marks the level that names the
    device; $share/GROUP/FILTER works."""

    qos: QoS = 1
    """Quality of service, 0 or 1. 1: the broker queues beats while the monitor is away. 0:
    faster, but beats may be lost."""

    payload: Payload = "auto"
    """Encoding of the beats: "json", "float32" (little-endian), or "auto" to recognize it."""


class ModelSettings(Table):
    """The detector that scores beats."""

    path: Path | None = None
    """Model file (ONNX). Default: the one that the monitor ships with."""

    false_alarm_rate: float | None = Field(None, gt=0, lt=1)
    """Fraction of normal beats, between 0 and 1, to score as anomalous. Sets the threshold of
    every model file."""

    threshold: float | None = None
    """Score above which a beat is anomalous, in units of the score of model.path. Default: the
    one in the model file."""

    devices: dict[str, Path] = Field(default_factory=dict)
    """Model files of single devices: "bed-7" = "bed-7.onnx". * and ? are wildcards, other
    characters are themselves; the first match wins."""

    folder: Path | None = None
    """Folder of patients' models: <device>.onnx in it is that device's. `ecg-train learn` writes
    there. A file of model.devices comes first."""

    @model_validator(mode="after")
    def _check_one_threshold(self) -> "ModelSettings":
        if self.false_alarm_rate is not None and self.threshold is not None:
            raise ValueError("model.threshold and model.false_alarm_rate exclude each other")
        return self


class AlarmSettings(Table):
    """When an alarm is raised and cleared."""

    window: int = Field(_POLICY.window, ge=1, le=1000)
    """Length of the window that decides, in beats, 1 to 1000."""

    raise_at: int = Field(_POLICY.raise_at, ge=1)
    """Number of anomalous beats in the window at which an alarm is raised. Where the model tells
    ventricular beats, 3 of the last 10 beats are enough of those, and half as many again are needed
    of all."""

    clear_at: int = Field(_POLICY.clear_at, ge=0)
    """Number of anomalous beats in the window at which, or below, it is cleared."""

    silent_after: float = Field(_POLICY.silent_after, ge=0)
    """Seconds without a beat after which a device is reported as silent. 0: never."""

    latch: Latching = []
    """Priorities and kinds of alarm that stay until somebody has acknowledged them, also once their
    condition is over: ["high"], ["asystole", "ventricular-fibrillation"]. Default: none."""

    silent_together: float = Field(60, ge=0, le=600)
    """Seconds, 0 to 600, for which devices that fall silent together are reported as one lost
    connection before each is reported by itself. 0: each by itself at once."""

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
    """What is published about devices."""

    topic: Text = "ecg/{device}"
    """Topic below which /alerts, /alarm and /scores are published. {device} stands for the
    device."""

    scores: bool = False
    """Whether to publish the score of every beat, at QoS 0."""

    home_assistant: bool = False
    """Whether to announce devices to Home Assistant (MQTT discovery)."""

    home_assistant_prefix: Text = Field("homeassistant", pattern=r"^[^+#/\x00]+(/[^+#/\x00]+)*$")
    """Topic below which Home Assistant listens for announcements."""

    @field_validator("topic")
    @classmethod
    def _check_topic(cls, topic: str) -> str:
        if topic.split("/").count(DEVICE) != 1 or set("+#") & set(topic) or topic.count("{") != 1:
            raise ValueError(
                f"one level must be {DEVICE}, as in ecg/{DEVICE}; + and # are not allowed"
            )
        return topic


class SegmentSettings(Table):
    """How `ecg-monitor segment` cuts beats from raw samples."""

    topic: Filters = ["ecg/{device}/samples"]
    """Topic filter of the samples, or a list of them. {device} marks the level that names the
    device."""

    qos: QoS = 1
    """Quality of service, 0 or 1. 1: the broker queues samples while the program is away. 0:
    faster, but samples may be lost."""

    rate: float | None = Field(None, gt=0)
    """Sampling rate in Hz of chunks that do not carry one."""

    lead: str | None = None
    """Lead that beats are cut from. Default: the first one of each device."""

    per_millivolt: float = Field(1, gt=0)
    """What a millivolt is in the samples, for strips and recordings: 1000 for microvolts."""

    record: Path | None = None
    """Folder for whole recordings: a WFDB record for each device and hour, with its beats. Default:
    nothing is recorded."""

    record_days: float = Field(7, gt=0, le=36500)
    """Days for which a recording is kept."""

    record_megabytes: int = Field(10_000, ge=1)
    """Maximum size of all recordings in MB. The oldest are deleted first. A day of a lead at 250 Hz
    has 43 MB."""

    journal: Path | None = None
    """SQLite file for the last seconds of every signal. Default:
    ~/.local/state/ecg-monitor/<mqtt.client_id>-segment.db."""

    port: int = Field(9465, ge=0, le=65535)
    """TCP port of /metrics and /healthz, at metrics.host. 0: any free port."""


class LearnSettings(Table):
    """How `ecg-train learn` fits a model for every patient that is admitted."""

    minutes: float = Field(5, ge=1, le=60)
    """Minutes of good beats, at 75 a minute, that a model is fitted to."""

    automatic: bool = False
    """Whether every device without a model of its own is admitted when it is first heard."""

    trial: float = Field(60, ge=0, le=7 * 24 * 60)
    """Minutes for which a new model is scored beside the one in use, until it takes over. 0: at
    once."""

    journal: Path | None = None
    """SQLite file for the beats that are collected. Default:
    ~/.local/state/ecg-monitor/<mqtt.client_id>-learn.db."""

    port: int = Field(9466, ge=0, le=65535)
    """TCP port of /metrics and /healthz, at metrics.host. 0: any free port."""


class RhythmLimits(Table):
    """What counts as an arrhythmia."""

    asystole_after: float = Field(_RHYTHM.asystole_after, gt=0, le=60)
    """Seconds without a QRS complex, the lead being on, after which the heart stands still."""

    fibrillation_after: float = Field(_RHYTHM.fibrillation_after, gt=0, le=60)
    """Seconds of fibrillation or flutter waves."""

    run_beats: int = Field(_RHYTHM.run_beats, ge=3, le=40)
    """Ventricular beats in a row that are a ventricular tachycardia."""

    run_rate: float = Field(_RHYTHM.run_rate, gt=0, le=300)
    """Beats a minute that such a run must exceed."""

    bradycardia: float = Field(_RHYTHM.bradycardia, gt=0, le=300)
    """Beats a minute below which the heart is too slow."""

    bradycardia_beats: int = Field(_RHYTHM.bradycardia_beats, ge=2, le=40)
    """Beats over which that is measured."""

    tachycardia: float = Field(_RHYTHM.tachycardia, gt=0, le=400)
    """Beats a minute above which the heart is too fast."""

    tachycardia_beats: int = Field(_RHYTHM.tachycardia_beats, ge=2, le=40)
    """Beats over which that is measured."""

    extreme_tachycardia: float = Field(_RHYTHM.extreme_tachycardia, gt=0, le=400)
    """Beats a minute from which the priority is high instead of medium."""

    @model_validator(mode="after")
    def _check_order(self) -> "RhythmLimits":
        if self.bradycardia >= self.tachycardia:
            raise ValueError(
                f"rhythm.bradycardia = {self.bradycardia:g}: must be below "
                f"rhythm.tachycardia = {self.tachycardia:g}"
            )
        if self.extreme_tachycardia < self.tachycardia:
            raise ValueError(
                f"rhythm.extreme_tachycardia = {self.extreme_tachycardia:g}: must be at least "
                f"rhythm.tachycardia = {self.tachycardia:g}"
            )
        return self

    @property
    def limits(self) -> RhythmSettings:
        """The same for the decisions."""
        own = RhythmSettings.__dataclass_fields__
        return RhythmSettings(**{name: getattr(self, name) for name in own})


class RhythmTable(RhythmLimits):
    """What counts as an arrhythmia, as the PhysioNet/CinC 2015 challenge defines them."""

    devices: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Limits of single devices: [rhythm.devices."bed-7"] with any of the keys above. * and ?
    are wildcards, other characters are themselves; the first match wins, and what it does not set
    is as above."""

    @model_validator(mode="after")
    def _check_devices(self) -> "RhythmTable":
        for pattern in self.devices:
            self._own(pattern)
        return self

    def for_device(self, name: str) -> RhythmSettings:
        """Return the limits of a device."""
        pattern = next((each for each in self.devices if fits(name, each)), None)
        return self.limits if pattern is None else self._own(pattern).limits

    def _own(self, pattern: str) -> RhythmLimits:
        shared = self.model_dump(exclude={"devices"})
        try:
            return RhythmLimits.model_validate(shared | self.devices[pattern])
        except ValidationError as error:
            first, table = error.errors()[0], f'rhythm.devices."{pattern}"'
            text = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:  # of two limits, which the text names
                raise ValueError(f"{table}: {text}") from None
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                allowed = ", ".join(RhythmLimits.model_fields)
                raise ValueError(f"{table}.{key}: no such setting; allowed are {allowed}") from None
            value = self.devices[pattern][key]
            raise ValueError(f"{table}.{key} = {value:g}: {text[0].lower()}{text[1:]}") from None


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

_TIME = r"([01]\d|2[0-3]):[0-5]\d"

ALERTMANAGER = re.compile(r"alertmanager\+https?://[^\s#?]+")
"""What `url` is for Alertmanager: its address behind a prefix of ours."""


class CalledPerson(Table):
    """One way to call a person, or Alertmanager."""

    url: SecretStr | None = None
    """Where to: an Apprise URL, or alertmanager+http://HOST:9093. Prefer url_file."""

    url_file: SecretFile | None = None
    """File that holds the URL. Read anew at every call."""

    priority: Priority = "medium"
    """Lowest priority to be called for."""

    kinds: Annotated[list[Kind], NoDecode, BeforeValidator(_listed)] = []
    """Kinds of alarm to be called for. None: all."""

    devices: Annotated[list[str], NoDecode, BeforeValidator(_listed)] = ["*"]
    """Patterns of the devices to be called for."""

    hours: str = "00:00-24:00"
    """Hours of duty, such as 20:00-08:00."""

    days: Annotated[list[Day], NoDecode, BeforeValidator(_listed)] = []
    """Days on which the duty begins. None: all."""

    after: float = Field(0, ge=0, le=86400)
    """Seconds without an acknowledgement after which the call is made."""

    @field_validator("hours")
    @classmethod
    def _check_hours(cls, hours: str) -> str:
        if not re.fullmatch(rf"{_TIME}-({_TIME}|24:00)", hours):
            raise ValueError("must be HH:MM-HH:MM, such as 20:00-08:00")
        return hours

    @model_validator(mode="after")
    def _check_url(self) -> "CalledPerson":
        if (self.url is None) == (self.url_file is None):
            raise ValueError("needs url or url_file, and not both")
        return self

    def address(self, name: str) -> str:
        """Return where to call, from wherever it was given; a file is read anew each time.

        Raises:
            ConfigurationError: the file cannot be used any more.
        """
        return reveal(self.url, f"notify.people.{name}.url_file", self.url_file) or ""


class NotifySettings(Table):
    """Who is called when there is an alarm."""

    page: str = ""
    """Address of the live page, to which calls link."""

    timezone: str = ""
    """Time zone of hours and of times in calls, such as Europe/Berlin. Default: this machine's."""

    journal: Path | None = None
    """SQLite file of who was called. Default:
    ~/.local/state/ecg-monitor/<mqtt.client_id>-notify.db."""

    people: dict[str, CalledPerson] = Field(default_factory=dict)
    """Who is called: [notify.people."NAME"] with url or url_file (an Apprise URL, or
    alertmanager+http://HOST:9093), priority = "medium" (the lowest), kinds = [] (all), devices =
    ["*"], hours = "00:00-24:00", days = [] (all, else "mon" to "sun"), after = 0 (seconds without
    an acknowledgement)."""

    @field_validator("page")
    @classmethod
    def _check_page(cls, page: str) -> str:
        if not re.fullmatch(r"(https?://[^\s#]+)?", page):
            raise ValueError("must be http://HOST:PORT or https://HOST, without #")
        return page

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, timezone: str) -> str:
        try:
            if timezone:
                ZoneInfo(timezone)
        except (OSError, ValueError, KeyError):  # not found, a directory, or no name at all
            raise ValueError("must be a time zone such as Europe/Berlin") from None
        return timezone

    @field_validator("people")
    @classmethod
    def _check_names(cls, people: dict[str, CalledPerson]) -> dict[str, CalledPerson]:
        for name in people:
            if not name or not name.isprintable():
                raise ValueError("a name must be printable text")
        return people

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone; None for this machine's."""
        return ZoneInfo(self.timezone) if self.timezone else None


class HistorySettings(Table):
    """The history of alarms and of what people did about them."""

    file: Path | None = None
    """SQLite file of the history. Default: ~/.local/state/ecg-monitor/<mqtt.client_id>.db."""

    days: float = Field(90, ge=0, le=36500)
    """Days for which the history is kept. 0: no history."""

    # A petabyte: SQLite cannot count much more of anything.
    megabytes: int = Field(256, ge=1, le=1_000_000_000)
    """Maximum size of the file in MB. The oldest entries are deleted first."""


class MetricsSettings(Table):
    """The HTTP server for metrics, health and the live page."""

    host: str = "127.0.0.1"
    """IP address or host name to listen on. 0.0.0.0: all IPv4 addresses; "::": all
    addresses, IPv6 and IPv4."""

    port: int = Field(9464, ge=0, le=65535)
    """TCP port. 0: any free port."""

    allowed_hosts: HostNames = []
    """Further host names under which the live page is served. IP addresses, localhost and this
    machine's name always work."""

    token: SecretStr | None = None
    """Token with which alarms and patients are seen to over HTTP. Default: nobody may. Prefer
    token_file."""

    token_file: SecretFile | None = None
    """File that holds the token."""

    @model_validator(mode="after")
    def _check_token(self) -> "MetricsSettings":
        if self.token and self.token_file:
            raise ValueError("metrics.token and metrics.token_file exclude each other")
        token = self.secret
        # An HTTP header is ASCII: a token of other letters could not be sent.
        if token is not None and (len(token) < MIN_TOKEN_LENGTH or not token.isascii()):
            raise ValueError(f"metrics.token: must be {MIN_TOKEN_LENGTH} ASCII characters or more")
        return self

    @property
    def secret(self) -> str | None:
        """The token, from wherever it was given.

        Raises:
            ConfigurationError: the file cannot be used any more.
        """
        return reveal(self.token, "metrics.token_file", self.token_file)


class Settings(BaseModel):
    """All settings, a table each."""

    model_config = _STRICT

    mqtt: MqttSettings = MqttSettings()
    input: InputSettings = InputSettings()
    model: ModelSettings = ModelSettings()
    alarm: AlarmSettings = AlarmSettings()
    output: OutputSettings = OutputSettings()
    rhythm: RhythmTable = RhythmTable()
    segment: SegmentSettings = SegmentSettings()
    learn: LearnSettings = LearnSettings()
    notify: NotifySettings = NotifySettings()
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

    @property
    def learn_journal(self) -> Path:
        """Where the beats are kept that models are to be fitted to."""
        return self.learn.journal or self._state(f"{self.mqtt.client_id}-learn.db")

    @property
    def notify_journal(self) -> Path:
        """Where it is kept who was called."""
        return self.notify.journal or self._state(f"{self.mqtt.client_id}-notify.db")

    def _state(self, name: str) -> Path:
        folder = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(folder, "ecg-monitor", name)

    @model_validator(mode="after")
    def _check_no_loop(self) -> "Settings":
        """Refuse to read what is published here: one message would cause the next without end."""
        ours = ("alerts", "alarm", "scores", "strip", "patient", "learning", *TOPICS)
        for setting, filters, taken in (
            ("input.topic", self.input.topic, "beats"),
            ("segment.topic", self.segment.topic, "samples"),
        ):
            for topic in filters:
                for end in ours:
                    published = topic_of(self.output.topic, "+", end)
                    if overlap(subscription(topic, bare=True), published):
                        raise ValueError(
                            f"{setting} = {topic}: would take our own {end} for {taken}"
                        )
        for topic in self.segment.topic:
            for beats in self.input.topic:
                if overlap(subscription(topic, bare=True), subscription(beats, bare=True)):
                    raise ValueError(
                        f"segment.topic = {topic}: would take beats (input.topic = {beats}) "
                        "for samples"
                    )
        return self
