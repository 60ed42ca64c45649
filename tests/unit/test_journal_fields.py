"""What becomes of the journal's export format on its way to VictoriaLogs."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "roles/victorialogs/files/journal_fields.py"
spec = importlib.util.spec_from_file_location("journal_fields", SOURCE)
assert spec and spec.loader
journal_fields = importlib.util.module_from_spec(spec)
sys.modules["journal_fields"] = journal_fields
spec.loader.exec_module(journal_fields)

TIME = "1700000000000001"
SIMPLE = f"__REALTIME_TIMESTAMP={TIME}\n_HOSTNAME=app1\nMESSAGE=a=b\n\n".encode()
LONG = b"MESSAGE\n" + (9).to_bytes(8, "little") + b"one\n\ntwo\n" + b"\n_HOSTNAME=db1\n\n"


def entries(*pieces: bytes):
    parser = journal_fields.Parser()
    return [entry for piece in pieces for entry in parser.feed(piece)] + list(parser.end())


def row(message: str, **fields: str):
    return journal_fields.row({"__REALTIME_TIMESTAMP": TIME, "MESSAGE": message, **fields}, frozenset({"_BOOT_ID"}))


def test_entries_are_read_whole_wherever_they_are_cut():
    expected = [
        {"__REALTIME_TIMESTAMP": TIME, "_HOSTNAME": "app1", "MESSAGE": "a=b"},
        {"MESSAGE": "one\n\ntwo\n", "_HOSTNAME": "db1"},
    ]
    whole = SIMPLE + LONG
    for cut in range(len(whole)):
        assert entries(whole[:cut], whole[cut:]) == expected


def test_the_last_entry_needs_no_empty_line():
    assert entries(SIMPLE[:-1]) == entries(SIMPLE)


def test_a_wrong_length_is_refused():
    with pytest.raises(journal_fields.Malformed):
        entries(b"MESSAGE\n" + (2).to_bytes(8, "little") + b"three\n\n")


def test_the_keys_of_a_json_line_become_fields_and_the_line_stays():
    line = json.dumps({"event": "login_failed", "level": "warning", "trace_id": "5b8e", "status": 401})
    found = row(line, PRIORITY="6", _SYSTEMD_UNIT="auth@1.service")
    assert found == {
        "_msg": line,
        "_time": int(TIME) * 1000,
        "_SYSTEMD_UNIT": "auth@1.service",
        "PRIORITY": "6",
        "event": "login_failed",
        "level": "warning",
        "trace_id": "5b8e",
        "status": 401,
    }


def test_a_line_cannot_say_that_it_is_another_host_s_or_of_another_time():
    found = row(
        json.dumps({"_HOSTNAME": "db1", "_time": 0, "_msg": "", "PRIORITY": "0"}), _HOSTNAME="app1", PRIORITY="6"
    )
    assert (found["_HOSTNAME"], found["PRIORITY"], found["level"], found["_time"]) == (
        "app1",
        "6",
        "info",
        int(TIME) * 1000,
    )


@pytest.mark.parametrize("message", ["plain", "{not json", "[1, 2]", '"text"', ""])
def test_other_lines_are_taken_as_they_are(message):
    assert row(message, PRIORITY="3") == {"_msg": message, "_time": int(TIME) * 1000, "PRIORITY": "3", "level": "error"}


def test_fields_that_nobody_asks_for_are_left_out():
    assert "_BOOT_ID" not in row("", _BOOT_ID="1")
    assert "__REALTIME_TIMESTAMP" not in row("")
