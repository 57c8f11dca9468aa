"""The settings as a TOML file, with every default and a line on each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import (
    SecretStr,
)

from monitor.settings import Settings, Table


def to_toml(settings: Settings) -> str:
    """The settings as a TOML file, with a line on each; secrets are left out."""
    return "\n".join(_lines(settings)) + "\n"


def _lines(settings: Settings) -> Iterator[str]:
    for table in type(settings).model_fields:
        section: Table = getattr(settings, table)
        yield f"\n# {(type(section).__doc__ or '').strip()}\n[{table}]"
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            yield f"# {field.description}"
            if isinstance(value, dict):
                mark = "" if value else "# "
                yield f"{mark}[{table}.{key}]"
                yield from (f"{_toml(name)} = {_toml(str(path))}" for name, path in value.items())
            elif value is None or isinstance(value, SecretStr):
                yield f"# {key} ="
            else:
                # What is this machine's alone is not to be copied to another one.
                mark = "# " if field.default_factory and key not in section.model_fields_set else ""
                yield f"{mark}{key} = {_toml(str(value) if isinstance(value, Path) else value)}"


def _toml(value: Any) -> str:
    """A value as TOML: JSON, but for the half characters and the DEL that TOML does not take."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
