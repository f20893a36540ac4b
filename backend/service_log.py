"""How the server and the worker log: one line an event, for people (text) or machines (json).

Every logger of the standard library ends here, uvicorn's and gunicorn's as well. A line tells what
is bound to its context (request, project, task, job) and what was given as `extra`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from structlog.contextvars import merge_contextvars
from structlog.processors import (
    EventRenamer,
    JSONRenderer,
    LogfmtRenderer,
    TimeStamper,
    format_exc_info,
)
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, Processor

from backend.plain_text import visible
from backend.redaction import Redactor
from backend.settings import Settings

# They log each request or table; nobody reads that unless something is wrong.
_TALKATIVE = ("httpx", "httpcore", "alembic")

_HEAD = ("time", "level", "logger", "message")
_IDS = ("request", "job", "project", "task")

_logfmt = LogfmtRenderer()


def log_as_service(settings: Settings) -> None:
    """Log from LOG_LEVEL on, in the form of LOG_FORMAT, to stderr.

    Does nothing where logging is set up already.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(make_handler(settings, sys.stderr))
        root.setLevel(settings.log_level)
    if settings.log_level != "DEBUG":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        # A form that cannot be read is the caller's fault; the response says so.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)


def make_handler(settings: Settings, stream: TextIO) -> logging.Handler:
    """What writes log lines to a stream, in the form of LOG_FORMAT and without secrets."""
    redactor = Redactor(_secrets(settings))

    def redacted(_logger: Any, _method: str, event: EventDict) -> EventDict:
        return {name: redactor.field(name, value) for name, value in event.items()}

    renderer: Processor = JSONRenderer() if settings.log_format == "json" else _as_text
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[merge_contextvars, ExtraAdder()],
            processors=[
                _head,
                ProcessorFormatter.remove_processors_meta,
                format_exc_info,
                redacted,
                TimeStamper(fmt="iso", utc=True, key="time"),
                EventRenamer("message"),
                _in_order,
                renderer,
            ],
        )
    )
    return handler


def _head(_logger: Any, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event.pop("color_message", None)  # uvicorn's message once more
    return {**event, "level": record.levelname, "logger": record.name}


def _in_order(_logger: Any, _method: str, event: EventDict) -> EventDict:
    first = {name: event[name] for name in (*_HEAD, *_IDS) if name in event}
    return {**first, **event}


def _as_text(_logger: Any, _method: str, event: EventDict) -> str:
    """`time LEVEL logger: message key=value`; a traceback follows, indented.

    Neither a message nor a value can begin a line, and so none can pass for an event.
    """
    head = "{} {} {}: {}".format(*(event.pop(name) for name in _HEAD))
    trace = event.pop("exception", "")
    line = " ".join(filter(None, (visible(head), visible(_logfmt(None, "", event)))))
    return "\n    ".join([line, *str(trace).splitlines()])


def _secrets(settings: Settings) -> list[str]:
    """The values of the secret settings, and the passwords in addresses among them."""
    values = [getattr(settings, name) for name in type(settings).model_fields]
    secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    for address in (settings.database_url, settings.redis_url):
        try:
            secrets.append(make_url(address.get_secret_value()).password or "")
        except ArgumentError:
            continue
    return secrets
