"""plots: an image of each thing there is, whatever names and numbers are in it."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mlaas_spark.evaluation.events import Scored
from mlaas_spark.evaluation.summary import Settings, Task, summarise
from mlaas_spark.plots import DPI, Plot, draw, files

HISTORY = {
    "fits": [1, 2, 3],
    "series": {
        "loss": [0.7, 0.5, 0.4],
        "val_loss": [0.7, 0.6, None],
        "accuracy": [0.5, 0.6, 0.7],
        "learning_rate": [1, 1, 1],
    },
    "best": {"fit": 2, "metric": "val_loss", "value": 0.6},
}


def importance(*branches: str) -> dict[str, Any]:
    rows = [{"branch": name, "auc_drop": {"mean": 0.1 / (k + 1), "std": 0.01}} for k, name in enumerate(branches)]
    return {"events": 500, "repeats": 3, "measures": ["auc_drop"], "branches": rows}


def metrics(task: Task = "binary", classes: int = 2, n: int = 400, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def sample() -> Scored:
        weights = rng.exponential(1, n).astype(np.float32)
        if task == "regression":
            true = rng.exponential(9, (n, 2)).astype(np.float32)
            return Scored((true * rng.normal(1, 0.1, (n, 2))).astype(np.float32), true, weights)
        labels = rng.integers(0, classes, n)
        p = rng.exponential(1, (n, classes)) + 2 * np.eye(classes)[labels]
        return Scored((p / p.sum(axis=1, keepdims=True)).astype(np.float32), labels.astype(np.float32), weights)

    found = summarise(task, {"test": sample(), "train": sample()}, Settings(replicas=10))
    return {**found, "learning_curves": HISTORY, "importance": importance("MET_pt", "Jet_pt"), **more}


def pixels(plot: Plot) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(plot.png)) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((DPI, DPI), abs=1)
        return np.asarray(image.convert("RGB"))


CLASSIFICATION = ["roc", "scores", "confusion", "calibration", "significance", "importance", "learning_curves"]


@pytest.mark.parametrize(
    ("task", "classes", "names"),
    [
        ("binary", 2, CLASSIFICATION),
        ("multiclass", 3, CLASSIFICATION),
        ("regression", 0, ["residuals_0", "residuals_1", "importance", "learning_curves"]),
    ],
)
def test_each_thing_has_an_image_with_a_title_and_words(task: Task, classes: int, names: list[str]) -> None:
    drawn = draw(metrics(task, classes))
    assert [plot.name for plot in drawn] == names
    for plot in drawn:
        image = pixels(plot)
        assert image.shape[1] > 3 * DPI
        assert 0.005 < (image.min(axis=2) < 250).mean() < 0.9  # something is drawn on white
        assert len(plot.title) > 10
        assert len(plot.alt) > 20
    assert list(files(drawn)) == [f"plots/{name}.png" for name in names]


def test_words_of_an_image_tell_its_numbers() -> None:
    found = metrics()
    words = {plot.name: plot.alt for plot in draw(found)}
    assert f"AUC {found['auc']:.4f}" in words["roc"]
    assert f"p {found['overtraining']['1']['p']:.2g}" in words["scores"]
    assert "MET_pt 0.1" in words["importance"]
    assert "loss 0.4" in words["learning_curves"]


def only(found: dict[str, Any], *names: str) -> dict[str, Any]:
    """Metrics of some plots, which take their time."""
    drawn = {*CLASSIFICATION, "residuals"} - {*names}
    return {key: None if key in drawn else value for key, value in found.items()}


def test_equal_metrics_give_equal_images_and_others_do_not() -> None:
    found = only(metrics(), "scores", "importance")
    other = {**found, "importance": importance("MET_pt")}
    first, again, changed = draw(found), draw(found), draw(other)
    assert first == again
    assert first[-1].png != changed[-1].png


@pytest.mark.parametrize("name", ["$x", r"$\frac$", "_hidden", "a\nb", "電子", "x" * 500, r"\alpha_{", ""])
def test_any_name_of_a_branch_or_class_is_drawn_and_not_read_as_a_formula(name: str) -> None:
    found = metrics(importance=importance(name, f"{name}2"), class_names={"0": name, "1": "signal"})
    assert len(draw(only(found, "confusion", "importance"))) == 2


def test_a_users_own_style_changes_nothing() -> None:
    import matplotlib as mpl

    found = only(metrics(), "scores", "confusion")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "text.usetex": True}):
        styled = draw(found)
        assert mpl.rcParams["font.size"] == 30
    assert [plot.png for plot in styled] == [plot.png for plot in draw(found)]


def test_negative_and_empty_bins_are_drawn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40).astype(np.float32)
    of = Scored(rng.random((40, 1)).astype(np.float32), labels, rng.normal(0.5, 1, 40).astype(np.float32))
    found = summarise("binary", {"test": of, "train": of}, Settings(replicas=0))
    assert {plot.name for plot in draw(found)} >= {"scores", "confusion", "calibration"}


def test_a_regression_that_is_always_right_is_drawn() -> None:
    true = np.full(20, 3.0, np.float32)
    found = summarise("regression", {"test": Scored(true[:, None], true, np.ones(20, np.float32))}, Settings())
    (plot,) = draw(found)
    assert (plot.name, "bias 0" in plot.alt, "R2 not defined" in plot.alt) == ("residuals", True, True)


def test_very_many_classes_are_drawn() -> None:
    found = only(metrics("multiclass", 14), "roc", "confusion", "significance")
    assert [plot.name for plot in draw(found)] == ["roc", "confusion", "significance"]


def test_metrics_of_nothing_have_no_image() -> None:
    assert draw({"auc": None, "notes": [], "split": "test"}) == []


def test_each_plot_is_also_an_svg_that_follows_the_theme_and_holds_no_text_of_the_users() -> None:
    told = metrics(class_names={"0": "</svg><script>alert(1)</script>", "1": "#0072b2 --> x"})
    for plot in draw(told):
        text = plot.svg.decode()
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - ours
        assert "alert" not in text
        assert "<!--" not in text
        assert "@media screen and (prefers-color-scheme: dark)" in text
        used = set(re.findall(r"var\((--c\d+)\)", text))
        assert "--c0" in used
        assert used <= set(re.findall(r"(--c\d+):#[0-9a-f]{6}", text))
        # beside the colours of the theme only those of heat maps, and of what is written on them
        assert plot.name == "confusion" or not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", text)) - {"#ffffff"}


def test_panels_of_an_svg_lie_below_each_other() -> None:
    (roc,) = (plot for plot in draw(metrics()) if plot.name == "roc")
    _, _, width, height = map(float, str(ET.fromstring(roc.svg).get("viewBox")).split())  # noqa: S314 - ours
    assert height == pytest.approx(1.5 * width)
    assert pixels(roc).shape[1] > 2 * pixels(roc).shape[0]
