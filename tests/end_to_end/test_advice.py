"""specs --advise: what it prints, pasted into a config, runs and gives the W that it told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import uproot
import yaml

from mlaas_spark.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def test_pasted_advice_runs(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del spark
    random, n = np.random.default_rng(5), 3_000
    x = random.normal(size=n)
    with uproot.recreate(tmp_path / "a.root") as file:
        branches = {"x": x, "copy": x, "one": np.ones(n), "HT": np.exp(random.normal(scale=3, size=n))}
        file.mktree("T", dict.fromkeys(branches, np.float64)).extend(branches)
    files = [str(tmp_path / "a.root"), "--out", str(tmp_path / "specs.json")]
    assert main(["specs", *files, "--advise"]) == 0
    advised = yaml.safe_load(capsys.readouterr().out.partition("# to paste")[2].partition("\n")[2])
    assert advised == {"input": {"exclude": ["HT", "one", "x"], "derive": {"log_HT": "log(HT + 1)"}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(advised))
    assert main(["specs", *files, "--config", str(tmp_path / "c.yaml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["width"] == 2
    assert told["branches"]["log_HT"]["max"] == pytest.approx(np.log1p(branches["HT"].max()))
