"""Lines of the log, as the journal takes them."""

import json
import logging
import os

import pytest

from servicekit.logging import JsonFormatter


@pytest.fixture
def error():
    return logging.LogRecord("x", logging.ERROR, __file__, 1, "It is broken", None, None)


def test_the_journal_is_told_the_priority_of_a_line(error, monkeypatch):
    output = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{output.st_dev}:{output.st_ino}")
    priority, line = JsonFormatter("api", "app1:8201").format(error).split("{", 1)
    assert priority == "<3>"
    assert json.loads("{" + line)["level"] == "error"


def test_anybody_else_gets_json_alone(error, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert json.loads(JsonFormatter("api", "app1:8201").format(error))["message"] == "It is broken"
