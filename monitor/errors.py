"""The exceptions of the programs, and their exit codes."""

from typing import Literal, get_args

USAGE = 64
"""Exit code for an invalid command line (`EX_USAGE` in sysexits.h)."""

CONFIGURATION = 78
"""Exit code for an invalid setting (`EX_CONFIG` in sysexits.h)."""


class Failure(Exception):
    """The work cannot be done. The text is printed to the user in one line. Exit code 1."""

    code = 1


class UsageError(Failure):
    """The command line names something that does not exist, or contradicts itself."""

    code = USAGE


class ConfigurationError(Failure):
    """A setting is invalid. The text names the setting, its value and what is allowed."""

    code = CONFIGURATION


Reason = Literal[
    "empty",
    "length",
    "json",
    "shape",
    "not_finite",
    "time",
    "topic",
    "retained",
    "unsubscribed",
]
"""Why a message was rejected."""

REASONS: tuple[Reason, ...] = get_args(Reason)


class Rejected(ValueError):
    """A message cannot be decoded; sending it again would not help."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
