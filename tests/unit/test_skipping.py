"""How what was skipped is told: what belongs together once, few lines, counted by hand."""

from __future__ import annotations

from mlaas_spark.skipping import Skipped, joined, summary, told


def ranges(path: str, *bounds: int, reason: str = "damaged") -> list[Skipped]:
    pairs = zip(bounds[::2], bounds[1::2], strict=True)
    return [Skipped(path, reason, "Events", f"uuid of {path}:Events", start, stop) for start, stop in pairs]


def test_ranges_that_touch_are_told_as_one() -> None:
    basket = ranges("a.root", 200, 240, 0, 40, 40, 80, 80, 120)
    assert [(item.start, item.stop) for item in joined(basket)] == [(0, 120), (200, 240)]
    assert told(basket) == (
        "a.root, tree Events, entries [0, 120): damaged; a.root, tree Events, entries [200, 240): damaged"
    )
    assert summary(basket) == "skipped: 160 entries in 2 ranges of 1 file"


def test_ranges_of_other_files_and_other_reasons_are_told_apart() -> None:
    items = [*ranges("a.root", 0, 40), *ranges("b.root", 40, 80), *ranges("a.root", 40, 80, reason="a list too long")]
    assert len(joined(items)) == 3


def test_files_that_could_not_be_opened_stay_each_on_its_own() -> None:
    items = [Skipped("a.root", "no ROOT file"), Skipped("b.root", "no ROOT file"), *ranges("c.root", 0, 1)]
    assert len(joined(items)) == 3
    assert summary(items) == (
        "skipped: 1 entries in 1 range of 1 file and 2 files that could not be opened, whose entries nobody has counted"
    )
