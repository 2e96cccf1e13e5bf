"""cli.progress: how far a stage is, in words; a line every so often where there is no terminal."""

from __future__ import annotations

import time

import pytest

from mlaas_spark.cli import progress
from mlaas_spark.runs import Journal, Stage


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.25, 1 / 40, 40_000, 8_000_000), "  convert: 25 %, 10,000 of 40,000 events, 1 kHz, 0.2 MB/s, 30 s left"),
        ((0.5, 1 / 1200, None, None), "  convert: 50 %, 10 min left"),
        ((0.5, 1 / 40_000, 4_000, None), "  convert: 50 %, 2,000 of 4,000 events, 0.0001 kHz, 5.6 h left"),
        ((0.5, None, None, None), "  convert: 50 %"),
        ((0.0, None, 600, 10), "  convert: 0 %, 0 of 600 events"),
        ((1.0, 1 / 60, 600, None), "  convert: 100 %, 600 of 600 events, 0.01 kHz"),
    ],
)
def test_progress_tells_events_speed_and_the_time_left(
    given: tuple[float, float | None, int | None, int | None], told: str
) -> None:
    assert progress.far("convert", *given) == told


def test_pace_is_that_of_the_last_minute_and_not_of_what_was_before_the_first_event() -> None:
    pace = progress.Pace(60.0)
    assert [pace.at(float(second), None) for second in range(30)] == [None] * 30  # a library compiles
    assert pace.at(30.0, 0.1) is None
    assert pace.at(31.0, 0.11) is None  # too early to tell
    assert pace.at(40.0, 0.2) == pytest.approx(0.01)
    for second in range(41, 141):
        last = pace.at(float(second), 0.2 + 0.001 * (second - 40))
    assert last == pytest.approx(0.001)  # it has become slower, a minute ago
    assert pace.at(150.0, None) is None
    assert pace.at(160.0, 0.3) is None


def test_pace_of_rare_looks_is_that_between_the_last_two() -> None:
    pace = progress.Pace(60.0)
    assert [pace.at(at, share) for at, share in ((0.0, 0.0), (100.0, 0.1), (200.0, 0.4))] == [
        None,
        pytest.approx(0.001),
        pytest.approx(0.003),
    ]


def test_stage_that_cannot_tell_how_far_it_is_tells_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.01)
    with Journal(ticking=progress.ticking).stage("evaluate"):
        until = time.monotonic() + 10
        while "so far" not in (seen := capsys.readouterr().err) and time.monotonic() < until:
            time.sleep(0.01)
    assert "  evaluate: 0 s so far\n" in seen
    assert progress.since("evaluate", 90.4) == "  evaluate: 90 s so far"


def test_line_comes_again_and_again_until_the_stage_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.01)
    shares = iter([None, 0.25, 0.75])
    journal = Journal(ticking=progress.ticking)
    with journal.stage("convert") as stage:
        stage.measure = lambda: next(shares, None)
        until = time.monotonic() + 10
        while "75 %" not in (seen := capsys.readouterr().err) and time.monotonic() < until:
            time.sleep(0.01)
    assert "convert: 75 %" in seen
    assert "\x1b" not in seen  # no terminal: nothing is renewed, nothing coloured


def test_error_of_a_stage_goes_through() -> None:
    def fail(_: Stage) -> None:
        msg = "no"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="no"), progress.ticking(Stage("x")):
        fail(Stage("x"))
