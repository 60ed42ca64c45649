"""The bench's judgement: when a run fails, and what is kept of it."""

import json

import pytest
from bench import picture
from bench.judge import REMEMBERED, ROWS, Result, Row, Run, judge, read, remember

ROW = Row("x", "x ÷ y", must=0.5, aim=0.8)


def result(ratio, history=()):
    return Result(ROW, [ratio], list(history))


def a_run(ratio, name="login"):
    return Run("2026-01-01T00:00+00:00", "abc", {name: ratio}, {name: [ratio, ratio]}, {})


@pytest.mark.parametrize(
    ("ratio", "verdict", "failed"),
    [(0.49, "MISSED", True), (0.5, "ok", False), (0.79, "ok", False), (0.8, "aim reached", False)],
)
def test_a_ratio_is_held_against_what_it_must_reach_and_what_is_aimed_at(ratio, verdict, failed):
    assert (result(ratio).verdict, result(ratio).failed) == (verdict, failed)


def test_the_median_of_the_repeats_is_judged_and_not_their_mean():
    assert Result(ROW, [0.1, 0.6, 0.62]).ratio == 0.6


@pytest.mark.parametrize(("ratio", "failed"), [(0.86 * 0.9, False), (0.84 * 0.9, True)])
def test_more_than_15_percent_below_the_history_fails_though_it_reaches_what_it_must(ratio, failed):
    found = result(ratio, [0.9, 0.9, 0.9])
    assert found.failed is failed
    assert found.verdict.startswith("REGRESSED") is failed


def test_one_unusual_run_in_the_history_changes_nothing():
    assert not result(0.8, [0.8, 0.81, 5.0]).regressed


def test_a_regression_is_seen_against_the_last_runs_alone():
    assert not result(0.6, [0.9] * 50 + [0.6] * REMEMBERED).regressed


def test_without_a_history_nothing_has_regressed():
    assert not result(0.5).regressed


def test_what_misses_is_said_to_miss_even_where_it_has_regressed_too():
    assert result(0.4, [0.9]).verdict == "MISSED"


def test_a_kept_run_is_read_again_and_judged_by(tmp_path):
    path = tmp_path / "history.jsonl"
    for ratio in (0.98, 0.97):
        remember(a_run(ratio), path)
    assert len(path.read_text().splitlines()) == 2
    assert read(path) == [a_run(0.98), a_run(0.97)]
    (judged,) = judge({"login": [0.96]}, read(path))
    assert judged.history == [0.98, 0.97]


def test_no_history_is_an_empty_one(tmp_path):
    assert read(tmp_path / "none") == []


def test_a_row_that_is_new_to_the_history_is_judged_without_it():
    (judged,) = judge({"api": [0.1]}, [a_run(0.98)])
    assert judged.usual is None


def test_the_committed_history_has_only_rows_of_the_table():
    names = {row.name for row in ROWS}
    assert all(set(run.ratios) <= names and set(run.ratios) == set(run.spread) for run in read())


def test_table_and_picture_show_every_row_and_keep_the_rest_of_the_page(tmp_path):
    (tmp_path / "bench.md").write_text(f"before\n{picture.BEGIN}\nold\n{picture.END}\nafter\n")
    results = judge({"login": [0.97, 0.96, 0.98], "api": [0.01]}, [])
    run = Run("2026-01-01", "abc", {"login": 0.97, "api": 0.01}, {"login": [0.96, 0.98], "api": [0.01, 0.01]}, {})
    picture.publish(results, ["A note."], [run], tmp_path)
    page = (tmp_path / "bench.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "0.970 | 0.960 to 0.980 | 0.95 | 0.99 | - | ok" in page and "MISSED" in page and "A note." in page
    drawn = (tmp_path / "bench.svg").read_text()
    assert "logins/s ÷ raw" in drawn and drawn.count("<polyline") == 2


def test_a_history_line_is_one_json_object(tmp_path):
    remember(a_run(0.98), tmp_path / "history.jsonl")
    assert json.loads((tmp_path / "history.jsonl").read_text())["ratios"] == {"login": 0.98}
