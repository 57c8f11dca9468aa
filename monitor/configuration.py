"""Load the settings: options override the environment, which overrides the TOML file.

An invalid setting is explained in one line: the setting, its value, and what is allowed.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from monitor.errors import ConfigurationError
from monitor.settings import Settings

_PREFIX, _DELIMITER = "ECG_MONITOR_", "__"

_LOGIN = re.compile(r"^(.\w+://|.).*@")
"""A login within an address, quoted as `repr` does."""


class _Sources(Settings, BaseSettings):
    """The settings, from all sources."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return options, environment and file, in descending order of priority."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(file: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Return the settings.

    Args:
        file: a TOML file.
        flags: tables of settings given on the command line.

    Raises:
        ConfigurationError: names the setting, the value and what is allowed.
    """
    if file is not None and not file.is_file():
        raise ConfigurationError(f"--config {file}: no such file")

    class FromFile(_Sources, toml_file=file):
        pass

    try:
        return FromFile(**(flags or {}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error.errors()[0])) from None
    except SettingsError as error:
        raise ConfigurationError(_explain_json(error)) from None
    # Invalid TOML, or an unreadable file.
    except (ValueError, OSError, RecursionError) as error:
        where = f"--config {file}: " if file else ""
        raise ConfigurationError(f"{where}{error}") from None


def flags(
    broker: list[str] | None = None,
    model: Path | None = None,
    rate: float | None = None,
    lead: str | None = None,
    standby: bool = False,
) -> dict[str, Any]:
    """Return the options of the command line as tables of settings."""
    given: dict[str, dict[str, Any]] = {
        "mqtt": {"broker": broker or None, "standby": standby or None},
        "model": {"path": model},
        "segment": {"rate": rate, "lead": lead},
    }
    tables = {
        table: {key: value for key, value in keys.items() if value is not None}
        for table, keys in given.items()
    }
    return {table: keys for table, keys in tables.items() if keys}


def _explain(error: ErrorDetails) -> str:
    setting = ".".join(str(part) for part in error["loc"])
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{setting}: no such setting; --print-config lists all settings"
    if error["type"] == "value_error" and setting.count(".") == 0:
        return text  # it already names the settings
    reason = f"{text[0].lower()}{text[1:]}"
    if setting.count(".") == 0:
        return f"{setting}: must be a table of settings ({reason})"  # it may hold a secret
    if isinstance(error["input"], dict) or error["type"] == "model_type":
        return f"{setting}: {reason}"  # a table within a table, which may hold one, too
    value = repr(error["input"])
    if setting.endswith(("password", "token", "url")):
        value = "'***'"
    elif setting.startswith("mqtt.broker"):
        setting = "mqtt.broker"  # whichever of the list it is
        value = _LOGIN.sub(r"\1***@", value)
    return f"{setting} = {value}: {reason}"


def _explain_json(error: SettingsError) -> str:
    cause = error.__cause__
    if not isinstance(cause, json.JSONDecodeError):
        return str(error)
    names = (name.upper() for name, text in os.environ.items() if text == cause.doc)
    name = next((name for name in names if name.startswith(_PREFIX)), _PREFIX)
    setting = name.removeprefix(_PREFIX).lower().replace(_DELIMITER, ".")
    known = "." in setting and not setting.startswith("notify.")  # others may hold a secret
    value = f" = {cause.doc!r}" if known else ""
    return f'{setting}{value}: must be a table as JSON, {{"KEY": VALUE, …}} ({cause})'
