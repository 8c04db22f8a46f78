"""What the log holds of other libraries."""

import io
import logging

import pytest

from aiorelay.observability.logs import configure, log


@pytest.fixture
def stream(monkeypatch):
    """The log of a command, for as long as the test lasts."""
    loggers = [log, logging.getLogger("opentelemetry")]
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)
    level, asyncio_level = log.level, logging.getLogger("asyncio").level
    stream = io.StringIO()
    configure("text", "info", stream)
    yield stream
    log.setLevel(level)
    logging.getLogger("asyncio").setLevel(asyncio_level)


def test_asyncio_does_not_warn_of_writes_to_a_broken_connection(stream, caplog):
    logging.getLogger("asyncio").warning("socket.send() raised exception.")
    assert (stream.getvalue(), caplog.messages) == ("", [])


@pytest.mark.usefixtures("stream")
def test_errors_of_asyncio_are_told(caplog):
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert caplog.messages == ["Task exception was never retrieved"]
