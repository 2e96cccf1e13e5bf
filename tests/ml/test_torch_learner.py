"""Torch modules: they learn what a plain loop learns, go on exactly, and become Keras models of the same scores."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlaas_spark.errors import ExportError, ModelContractError
from mlaas_spark.ml import rebuilt
from mlaas_spark.ml.fit import fit
from tests.ml.conftest import three_chunks, write_chunks
from tests.ml.trainings import Killed, config, loaded, trained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.ml.conftest import Chunks, MakeChunks

    ModelFile = Callable[[str], Path]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what an old torch says of a newer setuptools while it is imported
    torch: Any = pytest.importorskip("torch", reason="torch is not installed: see tests/cluster/test_torch.py")

pytestmark = pytest.mark.tensorflow

FILE = """
import torch
from mlaas_spark.ml.jagged_linear import JaggedArrayLinear
from torch import nn

class Wide(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(idim, 6), nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False)
        self.last = nn.Linear(12, 1)

    def forward(self, x):
        x = torch.relu(self.one(x))
        y = self.norm(x + self.two(x).tanh())
        return self.last(nn.functional.dropout(torch.cat([x, y], dim=1), training=self.training))

class Memory(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.cells = nn.LSTM(idim, 3, batch_first=True)

    def forward(self, x):
        return self.cells(x[:, None, :])[0][:, 0, :1]

class Turned(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.one = nn.Linear(idim, 1)

    def forward(self, x):
        return torch.fft.fft(self.one(x)).real

class Masked(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.first, self.last = JaggedArrayLinear(idim, 5), nn.Linear(5, 1)

    def forward(self, inputs):
        return self.last(torch.relu(self.first(inputs)))

class Groups(nn.Module):
    def __init__(self, layout):
        super().__init__()
        self.jets, self.flat = nn.Linear(1, 4), nn.Linear(2, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, inputs):
        jets = (torch.relu(self.jets(inputs["Jet"])) * inputs["Jet_mask"][..., None]).sum(dim=1)
        return self.last(jets + self.flat(inputs["flat"]))

{more}

def model({arguments}):
    return {module}
"""

MLP = "nn.Sequential(nn.Linear(idim, 8), nn.ReLU(), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, {outputs}))"
BINARY = MLP.format(outputs=1)
JAGGED = "nn.Sequential(JaggedArrayLinear(idim, 5), nn.ReLU(), nn.Linear(5, 1))"  # as MLaaS4HEP's example
LOGITS = {"loss": "BCEWithLogitsLoss", "optimizer": {"Adam": {"lr": 0.01}}}


def text(module: str, more: str = "", arguments: str = "idim") -> str:
    return FILE.format(module=module, more=more, arguments=arguments)


def equal(one: Any, other: Any) -> bool:
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """Chunks of three classes."""
    return write_chunks(tmp_path_factory.mktemp("three"), three_chunks(classes=3))


@pytest.fixture(scope="module")
def of_two_targets(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    events = three_chunks()
    for event in [event for of_file in events.values() for event in of_file]:
        event |= {"label": 3.0 * event["nJet"] - 1, "second": -1.0 * event["nJet"]}
    return write_chunks(tmp_path_factory.mktemp("targets"), events, targets=2)


# --- learning


def test_it_learns_what_a_plain_loop_learns(chunks: Chunks, model_file: ModelFile) -> None:
    path, settings = model_file(text(BINARY)), config(**LOGITS)
    model, plain = loaded(path, chunks, settings), loaded(path, chunks, settings).module
    history = fit(model, chunks.stream(threads=1), settings)
    torch.manual_seed(settings.seed)
    optimizer, loss = torch.optim.Adam(plain.parameters(), lr=0.01), torch.nn.BCEWithLogitsLoss(reduction="none")
    for epoch in range(3):
        told, right, events = 0.0, 0, 0
        plain.train()
        for batch in chunks.stream(threads=1).batches("train", seed=1, epoch=epoch):
            x, y = torch.tensor(batch.matrix), torch.tensor(batch.label)[:, None]
            optimizer.zero_grad()
            outputs = plain(x)
            found = loss(outputs, y)[:, 0].mean()
            found.backward()
            optimizer.step()
            told += found.item() * len(batch)
            right += int(((outputs > 0) == (y > 0)).sum())
            events += len(batch)
        assert history.rows[epoch]["loss"] == pytest.approx(told / events, rel=1e-6)
        assert history.rows[epoch]["accuracy"] == right / events
    for one, other in zip(model.module.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)
    plain.eval()
    batches = list(chunks.stream().batches("validation"))
    x, y = (torch.cat([torch.tensor(getattr(b, name)) for b in batches]) for name in ("matrix", "label"))
    assert history.rows[-1]["val_loss"] == pytest.approx(loss(plain(x), y[:, None]).mean().item(), rel=1e-5)


def test_weights_count_as_in_keras(make_chunks: MakeChunks, model_file: ModelFile) -> None:
    chunks = make_chunks()
    settings = config(loss="BCEWithLogitsLoss", optimizer={"SGD": {"lr": 0.1}}, class_weight={0: 1.0, 1: 3.0}, epochs=1)
    path = model_file(text("nn.Sequential(nn.Linear(idim, 1))"))
    model, plain = loaded(path, chunks, settings), loaded(path, chunks, settings).module
    history = fit(model, chunks.stream(threads=1), settings)
    told, events = 0.0, 0
    for batch in chunks.stream(threads=1).batches("train", seed=1, epoch=0):
        y = torch.tensor(batch.label)[:, None]
        outputs = plain(torch.tensor(batch.matrix))
        losses = torch.nn.functional.softplus(torch.where(y > 0, -outputs, outputs)) * torch.where(y > 0, 3.0, 1.0)
        plain.zero_grad()
        losses.mean().backward()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.sub_(0.1 * parameter.grad)
        told += float(losses.detach().sum())
        events += len(batch)
    assert history.rows[0]["loss"] == pytest.approx(told / events, rel=1e-5)
    for one, other in zip(model.module.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


OWN = "def optimizer(parameters):\n    return torch.optim.Adam(parameters, lr=0.01)\n\n"


@pytest.mark.parametrize(
    "loss",
    [
        "loss = nn.BCEWithLogitsLoss()",
        "loss = nn.BCEWithLogitsLoss",
        "loss = nn.functional.binary_cross_entropy_with_logits",
        "def loss(scores, targets):\n    return nn.functional.binary_cross_entropy_with_logits(scores, targets)",
        "def loss(scores, targets):\n    s = (2 * targets - 1) * scores\n    return nn.functional.softplus(-s)[:, 0]",
    ],
)
def test_loss_and_optimizer_may_stand_in_the_file(chunks: Chunks, model_file: ModelFile, loss: str) -> None:
    of_config = loaded(model_file(text(BINARY)), chunks, config(**LOGITS))
    first = fit(of_config, chunks.stream(threads=1), config(**LOGITS))
    of_file = loaded(model_file(text(BINARY, OWN + loss)), chunks, config())
    second = fit(of_file, chunks.stream(threads=1), config())
    assert [row["loss"] for row in second.rows] == pytest.approx([row["loss"] for row in first.rows], rel=1e-4)


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", {"CrossEntropyLoss": {"weight": [1, 1, 1]}}])
def test_classes_are_learned(of_three: Chunks, model_file: ModelFile, loss: Any) -> None:
    settings = config(epochs=12, loss=loss, optimizer={"Adam": {"lr": 0.02}})
    model = loaded(model_file(text(MLP.format(outputs=3))), of_three, settings)
    history = fit(model, of_three.stream(), settings)
    assert history.rows[-1]["val_loss"] < history.rows[0]["val_loss"]
    made = rebuilt.keras_model(model, of_three.stream(), settings)
    events = of_three.stream().arrays("test", 0)
    with torch.no_grad():
        expected = torch.softmax(model.module(torch.tensor(events.matrix)), dim=1).numpy()
    assert np.asarray(made(events.matrix)) == pytest.approx(expected, abs=1e-5)
    assert made.loss == "sparse_categorical_crossentropy"


def test_targets_are_learned(of_two_targets: Chunks, model_file: ModelFile) -> None:
    settings = config(
        epochs=8, loss={"HuberLoss": {"delta": 2.0}}, optimizer={"Adam": {"lr": 0.05, "betas": [0.9, 0.99]}}
    )
    model = loaded(model_file(text("nn.Sequential(nn.Linear(idim, 2))")), of_two_targets, settings)
    history = fit(model, of_two_targets.stream(), settings)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"] / 2
    assert "accuracy" not in history.rows[0]
    made = rebuilt.keras_model(model, of_two_targets.stream(), settings)
    assert (made.output_shape, made.loss) == ((None, 2), "mean_squared_error")


def test_a_learning_rate_of_the_config_comes_first(chunks: Chunks, model_file: ModelFile) -> None:
    model = loaded(model_file(text(BINARY)), chunks, config(**LOGITS, learning_rate=0.5))
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.5]
    schedule = {"CosineDecay": {"initial_learning_rate": 0.01, "decay_steps": 10}}
    with pytest.raises(ModelContractError, match="CosineDecay is a schedule of Keras"):
        loaded(model_file(text(BINARY)), chunks, config(**LOGITS, learning_rate=schedule))


# --- going on


@pytest.mark.parametrize("mode", ["epochs", "chunks", "all"])
@pytest.mark.parametrize("die_at", [1, 22, 23, 40])
def test_a_training_that_died_goes_on_to_the_same_numbers(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path, mode: str, die_at: int
) -> None:
    every = {"steps": die_at, "seconds": None}
    path, settings = model_file(text(BINARY)), config(**LOGITS, mode=mode, epochs=2, checkpoint=every)
    whole, history = trained(chunks, path, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(chunks, path, settings, tmp_path / "parts", die_at)
    torch.manual_seed(99)  # another process has another state
    rest, same = trained(chunks, path, settings, tmp_path / "parts", resume=True)
    assert equal(whole, rest)
    assert same.rows == history.rows


@pytest.mark.parametrize(
    "optimizer",
    [
        {"SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True}},
        {"AdamW": {"amsgrad": True}},
        {"RMSprop": {"momentum": 0.5, "centered": True}},
        {"Rprop": {}},
        {"LBFGS": {"max_iter": 3, "history_size": 4}},
    ],
)
def test_so_it_does_with_every_optimizer(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    settings = config(loss="BCEWithLogitsLoss", optimizer=optimizer, checkpoint={"steps": 30, "seconds": None})
    path = model_file(text(JAGGED))
    whole, _ = trained(chunks, path, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(chunks, path, settings, tmp_path / "parts", 30)
    rest, _ = trained(chunks, path, settings, tmp_path / "parts", resume=True)
    assert equal(whole, rest)


def test_a_checkpoint_holds_numbers_and_text_alone_and_of_this_module(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path
) -> None:
    settings = config(**LOGITS, checkpoint={"steps": 1, "seconds": None})
    with pytest.raises(Killed):
        trained(chunks, model_file(text(BINARY)), settings, tmp_path, 3)
    with np.load(tmp_path / "step-0000000003" / "state.npz", allow_pickle=False) as state:
        assert {state[name].dtype.kind for name in state.files} <= set("iufbU")
        assert {"model/0.weight", "model/3.running_mean"} <= set(state.files)
    other = model_file(text(BINARY.replace("8", "9")))
    with pytest.raises(ModelContractError, match=r"of another model: model/0\.weight is of shape \(8, 5\)"):
        trained(chunks, other, settings, tmp_path, resume=True)


# --- in Keras


@pytest.mark.parametrize(
    "module",
    [
        BINARY,
        JAGGED,
        "Wide(idim)",
        "nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(idim, 4, bias=False), nn.LeakyReLU()), nn.Linear(4, 1))",
        "nn.Sequential(nn.Linear(idim, 4), nn.Tanh(), nn.BatchNorm1d(4, eps=0.01), nn.SiLU(), nn.Linear(4, 1))",
        "nn.Sequential(nn.Linear(idim, 4), nn.ELU(0.5), nn.Linear(4, 3), nn.Softmax(dim=1), nn.Linear(3, 1))",
    ],
)
def test_a_module_becomes_a_keras_model_of_its_scores(chunks: Chunks, model_file: ModelFile, module: str) -> None:
    settings = config(**LOGITS)
    model = loaded(model_file(text(module)), chunks, settings)
    fit(model, chunks.stream(), settings)
    made = rebuilt.keras_model(model, chunks.stream(), settings)
    events = chunks.stream().arrays("test", 0)
    model.module.eval()
    with torch.no_grad():
        expected = torch.sigmoid(model.module(torch.tensor(events.matrix))).numpy()
    assert np.abs(np.asarray(made(events.matrix, training=False)) - expected).max() < 1e-5
    assert made.loss == "binary_crossentropy"


def test_scores_of_a_module_that_ends_in_sigmoid_are_its_own(chunks: Chunks, model_file: ModelFile) -> None:
    settings = config(loss="BCELoss", optimizer="Adam")
    model = loaded(model_file(text("nn.Sequential(nn.Linear(idim, 1), nn.Sigmoid())")), chunks, settings)
    history = fit(model, chunks.stream(), settings)
    assert 0 < history.rows[-1]["accuracy"] <= 1
    made = rebuilt.keras_model(model, chunks.stream(), settings)
    events = chunks.stream().arrays("test", 0)
    with torch.no_grad():
        expected = model.module(torch.tensor(events.matrix)).numpy()
    assert np.abs(np.asarray(made(events.matrix)) - expected).max() < 1e-5


def test_the_mask_is_an_input_where_it_is_asked_for(chunks: Chunks, model_file: ModelFile) -> None:
    settings = config(**LOGITS, inputs="matrix+mask")
    path = model_file(text("Masked(layout.width)", arguments="layout, config"))
    model = loaded(path, chunks, settings)
    fit(model, chunks.stream(), settings)
    made = rebuilt.keras_model(model, chunks.stream(), settings)
    events = chunks.stream().arrays("test", 0)
    inputs = events.matrix, events.mask.astype(np.float32)
    with torch.no_grad():
        expected = torch.sigmoid(model.module(tuple(map(torch.tensor, inputs)))).numpy()
    assert np.abs(np.asarray(made(inputs)) - expected).max() < 1e-5


def test_groups_are_learned_from_and_what_cannot_be_rebuilt_is_named(
    chunks: Chunks, model_file: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(**LOGITS, inputs="groups", epochs=6)
    model = loaded(model_file(text("Groups(layout)", arguments="layout, config")), chunks, settings)
    history = fit(model, chunks.stream(), settings)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    assert "cannot be rebuilt in Keras" in caplog.text
    with pytest.raises(ExportError, match="cannot be rebuilt in Keras: its forward has"):
        rebuilt.keras_model(model, chunks.stream(), settings)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("Memory(idim)", r"cannot be rebuilt in Keras: .*(cells|getitem)"),
        ("Turned(idim)", "its forward has .*fft"),
        (
            "nn.Sequential(nn.Linear(idim, 4), nn.GLU(), nn.Linear(2, 1))",
            "layer 1 is a GLU; layers that can be: Linear",
        ),
        (
            "nn.Sequential(nn.Linear(idim, 4), nn.Softplus(beta=2), nn.Linear(4, 1))",
            "layer 1 is a Softplus with beta=2",
        ),
        ("nn.Sequential(nn.Linear(idim, 4), nn.Softmax(dim=0), nn.Linear(4, 1))", "layer 1 is a Softmax with dim=0"),
    ],
)
def test_a_layer_without_counterpart_is_named_and_what_was_learned_is_kept(
    chunks: Chunks, model_file: ModelFile, module: str, message: str
) -> None:
    settings = config(**LOGITS)
    model = loaded(model_file(text(module)), chunks, settings)
    fit(model, chunks.stream(), settings)
    with pytest.raises(ExportError, match=message):
        rebuilt.keras_model(model, chunks.stream(), settings)
    with np.load(io.BytesIO(rebuilt.to_npz(model)), allow_pickle=False) as kept:
        again = loaded(model_file(text(module)), chunks, config(**LOGITS, seed=7))
        assert not equal(again, model)
        again.module.load_state_dict({name: torch.from_numpy(kept[name]) for name in kept.files})
    assert equal(again, model)


# --- callbacks


def test_it_stops_early_with_the_best_weights_and_goes_on_exactly_after_a_death(
    chunks: Chunks, model_file: ModelFile, tmp_path: Path
) -> None:
    settings = config(
        **{**LOGITS, "optimizer": {"Adam": {"lr": 0.3}}},
        epochs=30,
        checkpoint={"steps": 1, "seconds": None},
        callbacks=[
            {"EarlyStopping": {"patience": 4, "restore_best_weights": True}},
            {"ReduceLROnPlateau": {"factor": 0.5, "patience": 1}},
            {"ModelCheckpoint": {"filepath": "best.npz", "save_best_only": True}},
        ],
    )
    path = model_file(text(BINARY))
    whole, history = trained(chunks, path, settings, tmp_path / "whole")
    losses = [row["val_loss"] for row in history.rows]
    assert len(losses) < 30
    assert losses.index(min(losses)) == len(losses) - 5
    assert history.rows[-1]["learning_rate"] < 0.3
    batches = list(chunks.stream().batches("validation"))
    x, y = (torch.cat([torch.tensor(getattr(b, name)) for b in batches]) for name in ("matrix", "label"))
    with torch.no_grad():
        loss = torch.nn.functional.binary_cross_entropy_with_logits(whole.module(x)[:, 0], y)
    assert loss.item() == pytest.approx(min(losses), rel=1e-5)
    with np.load(tmp_path / "whole" / "best.npz", allow_pickle=False) as best:
        assert all(np.array_equal(best[name], value.numpy()) for name, value in whole.module.state_dict().items())
    with pytest.raises(Killed):
        trained(chunks, path, settings, tmp_path / "parts", die_at=22 * (len(losses) - 2) + 5)
    rest, same = trained(chunks, path, settings, tmp_path / "parts", resume=True)
    assert same.rows == history.rows
    assert equal(rest, whole)


# --- JaggedArrayLinear


def test_a_jagged_linear_layer_leaves_out_what_is_masked() -> None:
    from mlaas_spark.ml.jagged_linear import JaggedArrayLinear

    torch.manual_seed(0)
    layer = JaggedArrayLinear(4, 3)
    values = torch.tensor([[1.0, float("nan"), 3.0, 5.0], [2.0, 2.0, 2.0, 2.0]])
    mask = torch.tensor([[1.0, 0.0, 1.0, float("nan")], [1.0, 1.0, 1.0, 1.0]])
    weights, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = np.array([[1.0, 0.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]]) @ weights.T + bias
    found = layer((values, mask))
    assert found.detach().numpy() == pytest.approx(expected, rel=1e-6)
    found.sum().backward()
    assert torch.isfinite(layer.weight.grad).all()
    plain = layer(torch.tensor([[1.0, 0.0, 3.0, 0.0]])).detach().numpy()
    assert plain == pytest.approx(expected[:1], rel=1e-6)


# --- what cannot be


@pytest.mark.parametrize(
    ("module", "more", "settings", "message"),
    [
        (BINARY, "", {}, r"there is no loss: write train\.loss: BCEWithLogitsLoss .*or loss\(scores, targets\) in the"),
        (BINARY, "", {"loss": "BCEWithLogitsLoss"}, r"there is no optimizer: write train\.optimizer: \{Adam: "),
        (
            BINARY,
            "",
            {**LOGITS, "loss": "BCEWithLogitLoss"},
            "train.loss: BCEWithLogitLoss .*nearest: BCEWithLogitsLoss",
        ),
        (BINARY, "", {**LOGITS, "loss": {"HuberLoss": {"detla": 1}}}, "HuberLoss of torch does not take .*detla"),
        (BINARY, "", {**LOGITS, "optimizer": "Adm"}, "torch.optim has no Adm; nearest: Adam"),
        (BINARY, "", {**LOGITS, "optimizer": {"Adam": {"rate": 1}}}, "train.optimizer: Adam of torch with .*rate"),
        (BINARY, "loss = 3", {}, "loss of .* is a int"),
        (BINARY, "loss = nn.MSELoss()\noptimizer = list", {}, "its optimizer gives a list"),
        ("nn.Sequential(nn.ReLU())", "", LOGITS, "has no weights to train"),
        ("nn.Sequential(nn.Linear(3, 1))", "", LOGITS, "does not take events of W = 5 columns: RuntimeError"),
        ("nn.Sequential(nn.Linear(idim, 1), nn.Flatten(0))", "", LOGITS, r"gives \(2,\) for 2 events, it must give"),
    ],
)
def test_what_cannot_be_trained_is_refused_before(
    chunks: Chunks, model_file: ModelFile, module: str, more: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelContractError, match=message):
        loaded(model_file(text(module, more)), chunks, config(**settings))


def test_one_number_for_all_events_cannot_be_weighed(chunks: Chunks, model_file: ModelFile) -> None:
    more = OWN + "def loss(scores, targets):\n    return ((scores - targets) ** 2).mean()"
    settings = config(class_weight="balanced")
    model = loaded(model_file(text(BINARY, more)), chunks, settings)
    with pytest.raises(ModelContractError, match=r"one number for all events, and they have weights.*reduction"):
        fit(model, chunks.stream(), settings)


def test_a_loss_that_is_no_number_ends_the_training(chunks: Chunks, model_file: ModelFile) -> None:
    settings = config(loss="MSELoss", optimizer={"SGD": {"lr": 1e20}})
    model = loaded(model_file(text(JAGGED)), chunks, settings)
    with pytest.raises(
        ModelContractError, match=r"the loss is not a number in epoch 0, batch \d+ .*largest feature values"
    ):
        fit(model, chunks.stream(), settings)


def test_labels_beyond_the_classes_are_refused(of_three: Chunks, model_file: ModelFile) -> None:
    for module, settings in ((BINARY, LOGITS), (MLP.format(outputs=2), {**LOGITS, "loss": "CrossEntropyLoss"})):
        model = loaded(model_file(text(module)), of_three, config(**settings))
        with pytest.raises(ModelContractError, match="the labels are 0, 1, 2, a model of"):
            fit(model, of_three.stream(), config(**settings))


def test_a_model_that_fails_is_named_by_its_batch(chunks: Chunks, model_file: ModelFile) -> None:
    more = OWN + "def loss(scores, targets):\n    raise KeyError('Jet_pt')"
    model = loaded(model_file(text(BINARY, more)), chunks, config())
    with pytest.raises(ModelContractError, match="the model failed in epoch 0, batch 0: KeyError: 'Jet_pt'"):
        fit(model, chunks.stream(), config())
