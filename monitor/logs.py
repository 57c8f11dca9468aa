"""How the daemon logs: coloured lines on a terminal, JSON lines elsewhere."""

import logging
import sys

import msgspec
import structlog


def _to_json(event: structlog.types.EventDict, **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


def set_up() -> None:
    """Log to standard error from here on."""
    steps: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    if sys.stderr.isatty():
        steps.append(structlog.dev.ConsoleRenderer())
        factory: structlog.types.WrappedLogger = structlog.PrintLoggerFactory(sys.stderr)
    else:  # an alarm flood must not wait for its log
        steps.append(structlog.processors.JSONRenderer(_to_json))
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
