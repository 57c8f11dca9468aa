"""Write the settings as a TOML file, with every default and a comment on each."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from monitor.settings import Settings, Table

WIDTH = 100
"""Longest line of a comment, as in the code."""


def to_toml(settings: Settings) -> str:
    """Return the settings as a TOML file, with a comment on each; secrets are left out."""
    return "\n".join(_lines(settings)) + "\n"


def _lines(settings: Settings) -> Iterator[str]:
    for table in type(settings).model_fields:
        section: Table = getattr(settings, table)
        fields = type(section).model_fields
        yield f"\n# {(type(section).__doc__ or '').strip()}\n[{table}]"
        # What follows a table within a table belongs to that one: they come last.
        for key in sorted(fields, key=lambda key: isinstance(getattr(section, key), dict)):
            field, value = fields[key], getattr(section, key)
            yield from _comment(field.description or "")
            if isinstance(value, dict):
                mark = "" if value else "# "
                yield f"{mark}[{table}.{key}]"
                for name, own in value.items():
                    if isinstance(own, Table):
                        yield f"[{table}.{key}.{_toml(name)}]"
                        yield from _settings(own)
                    elif isinstance(own, dict):
                        yield f"[{table}.{key}.{_toml(name)}]"
                        yield from (f"{each} = {_toml(figure)}" for each, figure in own.items())
                    else:
                        yield f"{_toml(name)} = {_toml(str(own))}"
            else:
                # A default that depends on the machine, such as its name, must not be copied.
                mark = "# " if field.default_factory and key not in section.model_fields_set else ""
                line = _setting(key, value)
                yield line if line.startswith("# ") else mark + line


def _settings(table: Table) -> Iterator[str]:
    """Yield the settings of a table within a table, which is explained where it begins."""
    for key in type(table).model_fields:
        yield _setting(key, getattr(table, key))


def _setting(key: str, value: Any) -> str:
    if value is None or isinstance(value, SecretStr):
        return f"# {key} ="
    return f"{key} = {_toml(str(value) if isinstance(value, Path) else value)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _toml(value: Any) -> str:
    """Return a value as TOML: JSON without surrogate pairs, and DEL escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
