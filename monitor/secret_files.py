"""Files named by the settings: certificates, and files that contain a secret."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from monitor.errors import ConfigurationError


def _check_readable(path: Path) -> Path:
    _content(path)
    return path


def _check_secret(path: Path) -> Path:
    _secret_in(path)
    return path


ReadableFile = Annotated[Path, AfterValidator(_check_readable)]
"""A file that must be readable when the settings are loaded."""

SecretFile = Annotated[Path, AfterValidator(_check_secret)]
"""A file that must contain a secret when the settings are loaded."""


def reveal(given: SecretStr | None, setting: str, file: Path | None) -> str | None:
    """Return a secret as given, or from a file, which is read each time.

    Args:
        given: the secret itself; only one of `given` and `file` is set.
        setting: the setting that names the file, for the error.
        file: contains the secret; trailing newlines are ignored.

    Raises:
        ConfigurationError: the file can no longer be used.
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
        raise ValueError(f"must be a readable file ({error.strerror})") from None


def _secret_in(path: Path) -> str:
    try:
        text = _content(path).decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise ValueError("must be a file that contains a secret as text")
    return text
