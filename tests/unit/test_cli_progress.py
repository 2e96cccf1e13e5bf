"""cli.progress: how far a stage is, in words; a line every so often where there is no terminal."""

from __future__ import annotations

import time

import pytest

from mlaas_spark.cli import progress
from mlaas_spark.runs import Journal, Stage


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.25, 10.0, 40_000, 8_000_000), "  convert: 25 %, 10,000 of 40,000 events, 1.0 kHz, 0.2 MB/s, 30 s left"),
        ((0.5, 600.0, None, None), "  convert: 50 %, 10 min left"),
        ((0.5, 1.0, None, None), "  convert: 50 %"),
        ((0.0, 60.0, None, None), "  convert: 0 %"),
        ((1.0, 60.0, 600, None), "  convert: 100 %, 600 of 600 events, 0.0 kHz"),
    ],
)
def test_progress_tells_events_speed_and_the_time_left(
    given: tuple[float, float, int | None, int | None], told: str
) -> None:
    assert progress.far("convert", *given) == told


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
