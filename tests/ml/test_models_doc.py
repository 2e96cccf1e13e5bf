"""The model files of docs/models.md are trained as they stand there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlaas_spark.config import TrainConfig
from mlaas_spark.ml import rebuilt
from mlaas_spark.ml.fit import fit
from mlaas_spark.ml.inputs import InputLayout
from mlaas_spark.ml.model import load_user_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ml.conftest import Chunks

pytestmark = pytest.mark.tensorflow

TEXT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
FILES = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "def model(" in block]


def test_all_kinds_are_shown() -> None:
    assert len(FILES) == 6


@pytest.mark.parametrize(
    "number", range(len(FILES)), ids=["torch" if "torch" in text else str(number) for number, text in enumerate(FILES)]
)
def test_a_model_file_of_the_documents_is_trained(
    chunks: Chunks, model_file: Callable[[str], Path], number: int
) -> None:
    text = FILES[number]
    if "torch" in text:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("torch", reason="torch is not installed: see tests/cluster/test_torch.py")
    else:
        text = f"import keras\nfrom keras import layers, ops\n{text}"
    inputs = "groups" if "Jet_mask" in text else "matrix+mask" if '"mask"' in text else "matrix"
    config = TrainConfig.model_validate({"inputs": inputs, "epochs": 4, "batch_size": 16, "threads": 1})
    stream = chunks.stream()
    model = load_user_model(model_file(text), InputLayout.of(stream.transform, config.inputs), config, seed=1)
    history = fit(model, stream, config)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    assert rebuilt.keras_model(model, stream, config).output_shape == (None, 1)
