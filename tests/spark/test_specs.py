from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.errors import BranchNotFoundError, FilesetError, SpecsMismatchError
from mlaas_spark.spark import session
from mlaas_spark.spark.specs import compute

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlaas_spark.spark.ingest import Events
    from tests.spark.conftest import Event, Sample

FLAT = ["MET_pt", "MET_sum", "const", "flag", "nEle_pt", "nJet"]
JAGGED = ["Ele_pt", "Jet_eta", "Jet_id", "Jet_pt"]
FEATURES = sorted([*FLAT, *JAGGED])


def plain_stats(of_events: list[Any]) -> dict[str, Any]:
    """Statistics of a branch by exact arithmetic on plain Python values."""
    jagged = isinstance(of_events[0], list)
    values = [float(x) for event in of_events for x in (event if jagged else [event])]
    finite = [Fraction(x) for x in values if math.isfinite(x)]
    lengths = Counter(len(event) for event in of_events) if jagged else Counter()
    mean = sum(finite) / len(finite)
    variance = sum((x - mean) ** 2 for x in finite) / len(finite)
    return {
        "jagged": jagged,
        "count": len(values),
        "nan": sum(math.isnan(x) for x in values),
        "inf": sum(math.isinf(x) for x in values),
        "zero": values.count(0.0),
        "min": float(min(finite)),
        "max": float(max(finite)),
        "mean": float(mean),
        "std": math.sqrt(variance),
        "lengths": [lengths[length] for length in range(max(lengths) + 1)] if jagged else [],
        "dim": max(lengths) if jagged else 1,
    }


def check(found: dict[str, Any], of_events: list[Any]) -> None:
    expected = plain_stats(of_events)
    assert found["std"] == pytest.approx(expected.pop("std"), rel=1e-13, abs=1e-300)
    assert {key: found[key] for key in expected} == expected


def test_specs_are_those_of_plain_arithmetic(opened: Callable[..., Events], sample: Sample) -> None:
    specs, _ = compute(opened(sample.paths()), FEATURES)
    content = specs.to_json()
    ours = content["mlaas_spark"]
    assert sorted(ours["branches"]) == FEATURES
    for name in FEATURES:
        check(ours["branches"][name], sample.columns(name))
        for index, events in enumerate(sample.files):
            check(ours["files"][f"{index + 1:032x}:Events"]["branches"][name], [event[name] for event in events])
    # the sample has what this is about
    assert ours["branches"]["MET_pt"]["nan"] == 26
    assert ours["branches"]["MET_sum"]["inf"] == 30
    assert ours["branches"]["Jet_pt"]["nan"] > 10
    assert ours["branches"]["Jet_eta"]["inf"] > 10
    assert ours["branches"]["Jet_pt"]["lengths"][0] > 120


def test_keys_of_mlaas4hep_lie_on_top(opened: Callable[..., Events], sample: Sample) -> None:
    content = compute(opened(sample.paths()), FEATURES)[0].to_json()
    assert content["fkeys"] == FLAT
    assert content["jkeys"] == JAGGED
    assert content["jdim"] == {name: max(map(len, sample.columns(name))) for name in JAGGED}
    finite = {
        name: [x for event in sample.columns(name) for x in (event if name in JAGGED else [event]) if math.isfinite(x)]
        for name in FEATURES
    }
    assert content["minv"] == {name: float(min(values)) for name, values in finite.items()}
    assert content["maxv"] == {name: float(max(values)) for name, values in finite.items()}
    assert content["events"] == {**dict(zip(sample.paths(), (700, 450, 130), strict=True)), "total": 1280}


@pytest.fixture(scope="module")
def fine(
    write: Callable[..., str], make_events: Callable[..., list[Event]], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """One file of 640 events in clusters of 10."""
    return write(tmp_path_factory.mktemp("fine") / "fine.root", make_events(640, 1, 5), cluster=10)


def test_text_of_specs_does_not_depend_on_partitions(
    opened: Callable[..., Events], fine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {}
    # the last: many ranges of a file in one task
    for key, parts, events_per_task in ((1, 1, 640), (2, 2, 320), (7, 7, 100), (64, 64, 10), (0, 2, 10)):
        monkeypatch.setattr(session, "_PARTITIONS_PER_CORE", 32 if key else 1)
        events = opened([fine], events_per_task)
        assert events.dataframe().rdd.getNumPartitions() == parts
        texts[key] = compute(events, FEATURES, quantiles=["MET_sum", "Jet_pt"])[0].dumps()
    assert texts[1] == texts[2] == texts[7] == texts[64] == texts[0]
    bins = SpecsFile.loads(texts[1]).specs["MET_sum"].bins
    assert sum(bins.values()) == 640 - 14  # all but the infinite ones


def test_text_of_specs_does_not_depend_on_how_several_files_are_cut(
    opened: Callable[..., Events], sample: Sample
) -> None:
    texts = {compute(opened(sample.paths(), size), FEATURES)[0].dumps() for size in (1, 150, 10_000)}
    assert len(texts) == 1


def test_specs_of_a_selection_count_the_selected_events_of_each_range(
    opened: Callable[..., Events], sample: Sample
) -> None:
    specs, counted = compute(opened(sample.paths(), selection="flag"), ["Jet_pt"])
    kept = [[event["Jet_pt"] for event in events if event["flag"]] for events in sample.files]
    check(specs.to_json()["mlaas_spark"]["branches"]["Jet_pt"], [jets for of_file in kept for jets in of_file])
    assert counted.plan.events_by_file() == [len(of_file) for of_file in kept]
    assert counted.plan.counted


def test_selection_that_keeps_nothing_is_an_error(opened: Callable[..., Events], sample: Sample) -> None:
    with pytest.raises(FilesetError, match="keeps none of 1280"):
        compute(opened(sample.paths(), selection="nJet > 1000"), ["MET_pt"])


def marked(known: SpecsFile) -> SpecsFile:
    """The same specs with a number of zeros that no file has: who reads them again loses it."""
    by_file = {
        uuid: dataclasses.replace(
            part, branches={name: dataclasses.replace(stats, zero=10**6) for name, stats in part.branches.items()}
        )
        for uuid, part in known.by_file.items()
    }
    return dataclasses.replace(known, by_file=by_file)


def zeros(specs: SpecsFile, name: str) -> list[int]:
    return [specs.by_file[uuid][name].zero for uuid in sorted(specs.by_file)]


def test_a_branch_that_is_not_there_is_named_with_those_near(opened: Callable[..., Events], sample: Sample) -> None:
    with pytest.raises(BranchNotFoundError, match=r"MTE.*MET_pt"):
        compute(opened(sample.paths()), ["MTE_pt"])


def test_a_file_that_is_known_is_not_read_again_and_a_new_one_is_added(
    opened: Callable[..., Events], sample: Sample
) -> None:
    two = opened(sample.paths()[:2])
    known, _ = compute(two, ["MET_pt", "nJet"])
    whole, counted = compute(opened(sample.paths()), ["MET_pt", "nJet"], known=marked(known))
    fresh = sum(event["nJet"] == 0 for event in sample.files[2])
    assert zeros(whole, "nJet") == [10**6, 10**6, fresh]
    assert whole.specs["nJet"].zero == 2 * 10**6 + fresh
    assert counted.plan.events_by_file() == [700, 450, 130]
    unmarked, _ = compute(opened(sample.paths()), ["MET_pt", "nJet"], known=known)
    assert unmarked.dumps() == compute(opened(sample.paths()), ["MET_pt", "nJet"])[0].dumps()


def test_a_file_that_is_left_out_leaves_the_specs(opened: Callable[..., Events], sample: Sample) -> None:
    known, _ = compute(opened(sample.paths()), ["nJet"])
    two, _ = compute(opened(sample.paths()[:2]), ["nJet"], known=marked(known))
    assert zeros(two, "nJet") == [10**6, 10**6]
    assert two.specs.events == 1150


@pytest.mark.parametrize(
    ("branches", "quantiles", "settings"),
    [
        (["MET_pt", "nJet"], [], {}),
        (["nJet"], ["nJet"], {}),
        (["nJet"], [], {"selection": "flag"}),
        (["nJet"], [], {"events": 500}),
    ],
)
def test_specs_of_another_request_are_not_reused(
    opened: Callable[..., Events], sample: Sample, branches: list[str], quantiles: list[str], settings: dict[str, Any]
) -> None:
    known, _ = compute(opened(sample.paths()), ["nJet"])
    again, _ = compute(opened(sample.paths(), **settings), branches, quantiles, known=marked(known))
    assert max(zeros(again, "nJet")) < 10**6


def test_known_specs_of_a_selection_are_reused_and_the_ranges_counted(
    opened: Callable[..., Events], sample: Sample
) -> None:
    known, _ = compute(opened(sample.paths()[:2], selection="nJet > 1"), ["MET_pt"])
    whole, counted = compute(opened(sample.paths(), selection="nJet > 1"), ["MET_pt"], known=marked(known))
    assert zeros(whole, "MET_pt")[:2] == [10**6, 10**6]
    expected = [sum(event["nJet"] > 1 for event in events) for events in sample.files]
    assert counted.plan.events_by_file() == expected
    assert whole.specs.events == sum(expected)


def test_known_specs_that_count_other_events_are_refused(opened: Callable[..., Events], sample: Sample) -> None:
    known, _ = compute(opened(sample.paths()[:1]), ["nJet"])
    (uuid,) = known.by_file
    wrong = dataclasses.replace(known, by_file={uuid: dataclasses.replace(known.by_file[uuid], events=699)})
    with pytest.raises(SpecsMismatchError, match="699 events, the plan 700"):
        compute(opened(sample.paths()[:1]), ["nJet"], known=wrong)


def test_branch_without_one_finite_value_has_no_range(
    opened: Callable[..., Events], write: Callable[..., str], make_events: Callable[..., list[Event]], tmp_path: Path
) -> None:
    events = [{**event, "MET_pt": math.nan, "MET_sum": math.inf, "Ele_pt": []} for event in make_events(60, 1, 1)]
    path = write(tmp_path / "none.root", events, cluster=20, types={"MET_pt": "float32", "Ele_pt": "float64"})
    found = compute(opened([path], 20), ["MET_pt", "Ele_pt"])[0].to_json()["mlaas_spark"]["branches"]
    assert {key: found["MET_pt"][key] for key in ("count", "nan", "min", "max", "mean", "total")} == {
        "count": 60,
        "nan": 60,
        "min": None,
        "max": None,
        "mean": None,
        "total": "0x0",
    }
    assert (found["Ele_pt"]["count"], found["Ele_pt"]["dim"], found["Ele_pt"]["lengths"]) == (0, 0, [60])


def test_sum_is_exact_where_floats_lose_it(
    opened: Callable[..., Events], write: Callable[..., str], make_events: Callable[..., list[Event]], tmp_path: Path
) -> None:
    large = np.tile([1e200, 1.0, -1e200, 1e-200], 15)
    events = [{**event, "MET_sum": float(x)} for event, x in zip(make_events(60, 1, 1), large, strict=True)]
    path = write(tmp_path / "large.root", events, cluster=7, types={"MET_sum": "float64"})
    stats = compute(opened([path], 7), ["MET_sum"])[0].specs["MET_sum"]
    assert Fraction(stats.total, 2**1127) == 15 + 15 * Fraction(1e-200)
    assert stats.mean == 0.25
