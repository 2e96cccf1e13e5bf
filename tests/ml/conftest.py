"""Small chunk data sets, written with pyarrow alone, with what was put in kept beside them."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlaas_spark.layout import FeatureLayout
from mlaas_spark.manifest import FEATURES, LABEL, MASK, WEIGHT, DataFile, Input, Manifest
from mlaas_spark.ml.stream import ChunkStream
from mlaas_spark.schema import ENTRY, FILE, Branch, EventSchema
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

TRANSFORM = FeatureTransform(
    layout=FeatureLayout.of(["MET", "nJet"], {"Jet_pt": 3}),
    jagged=(False, False, True),
    center=(10.0, 0.0, 5.0),
    scale=(0.1, 0.5, 0.2),
)
W = 5
SCHEMA = EventSchema.of(
    [
        Branch("MET", "MET", "float32", jagged=False),
        Branch("nJet", "nJet", "uint32", jagged=False),
        Branch("Jet_pt", "Jet_pt", "float32", jagged=True),
    ]
)

Event = dict[str, Any]


def events_of(n: int, seed: int, classes: int = 2) -> list[Event]:
    """Events whose MET and number of jets depend on the label; some values are NaN or infinite."""
    rng = np.random.default_rng(seed)
    events = []
    for entry in range(n):
        label = entry % classes
        jets = [float(np.float32(pt)) for pt in rng.exponential(5 + 5 * label, int(rng.poisson(1 + 2 * label)))]
        met = float(np.float32(rng.normal(10 + 8 * label, 5)))
        if entry % 29 == 3:
            met = math.nan
        if entry % 31 == 4 and jets:
            jets[0] = math.inf
        events.append(
            {"MET": met, "nJet": len(jets), "Jet_pt": jets, "label": float(label), "weight": 1.0, "entry": entry}
        )
    return events


def row_of(event: Event) -> tuple[list[float], list[int]]:
    """Matrix and mask row of an event for TRANSFORM, by plain Python: the oracle."""
    dims = {"MET": 1, "nJet": 1, "Jet_pt": 3}
    row, mask = [], []
    for index, (name, dim) in enumerate(dims.items()):
        values = event[name] if name == "Jet_pt" else [event[name]]
        for place in range(dim):
            real = place < len(values) and math.isfinite(values[place])
            row.append((values[place] - TRANSFORM.center[index]) * TRANSFORM.scale[index] if real else 0.0)
            mask.append(int(real))
    return row, mask


def compact_table(events: list[Event]) -> pa.Table:
    return pa.table(
        {
            "MET": pa.array([event["MET"] for event in events], pa.float32(), from_pandas=False),
            "nJet": pa.array([event["nJet"] for event in events], pa.uint32()),
            "Jet_pt": pa.array([event["Jet_pt"] for event in events], pa.list_(pa.float32())),
            **_beside(events),
        }
    )


def dense_table(events: list[Event]) -> pa.Table:
    """Dense chunks made from the same transform, packed by the words of manifest.py."""
    (batch,) = compact_table(events).combine_chunks().to_batches()
    features = TRANSFORM.matrix(batch)
    rows = [row.astype("<f4").tobytes() for row in features.matrix]
    masks = [np.packbits(row).tobytes() for row in features.mask]
    return pa.table(
        {
            FEATURES: pa.array(rows, pa.binary(4 * W)),
            MASK: pa.array(masks, pa.binary(math.ceil(W / 8))),
            **_beside(events),
        }
    )


def _beside(events: list[Event]) -> dict[str, pa.Array]:
    return {
        LABEL: pa.array([event["label"] for event in events], pa.float32()),
        **(
            {f"{LABEL}_1": pa.array([event["second"] for event in events], pa.float32())}
            if "second" in events[0]
            else {}
        ),
        WEIGHT: pa.array([event["weight"] for event in events], pa.float32()),
        FILE: pa.array([0] * len(events), pa.int32()),
        ENTRY: pa.array([event["entry"] for event in events], pa.int64()),
    }


@dataclass(frozen=True)
class Chunks:
    """A chunk data set on disk and the events of each (chunk, split), in the manifest's order."""

    folder: Path
    events: dict[tuple[int, str], list[Event]]
    manifest: Manifest

    def stream(self, batch_size: int = 16, threads: int = 2) -> ChunkStream:
        return ChunkStream.open(str(self.folder), TRANSFORM, batch_size, threads)

    transform: FeatureTransform = TRANSFORM

    def of(self, split: str) -> list[Event]:
        return [event for (_, name), events in sorted(self.events.items()) if name == split for event in events]

    def expected(self, split: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """Matrix and mask of a split by plain Python."""
        rows = [row_of(event) for event in self.of(split)]
        return np.array([row for row, _ in rows]), np.array([mask for _, mask in rows], np.uint8)

    def publish(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        (self.folder / "manifest.json").write_text(json.dumps(manifest.to_json()))

    def relist(self, name: str) -> None:
        """Let the manifest agree with the size of a file that a test has changed."""
        size = (self.folder / name).stat().st_size
        files = tuple(
            dataclasses.replace(file, bytes=size) if file.path == name else file for file in self.manifest.files
        )
        self.publish(dataclasses.replace(self.manifest, files=files))


MakeChunks = Callable[..., Chunks]


def write_chunks(
    folder: Path,
    events: dict[tuple[int, str], list[Event]],
    *,
    layout: str = "compact",
    row_group: int = 32,
    weight: float = 1.0,
    targets: int = 0,
) -> Chunks:
    """Write one file for each (chunk, split), and the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for (chunk, split), of_file in sorted(events.items()):
        path = folder / f"{split}-{chunk:03d}.parquet"
        table = compact_table(of_file) if layout == "compact" else dense_table(of_file)
        pq.write_table(table, path, row_group_size=row_group, compression="lz4", use_dictionary=False)
        labels = [f"{event['label']:g}" for event in of_file]
        counts = {} if targets else {label: labels.count(label) for label in sorted(set(labels))}
        files.append(
            DataFile(path.name, len(of_file), path.stat().st_size, ((0, 0, 1),), "0" * 64, chunk, split, counts)
        )
    total = sum(len(of_file) for of_file in events.values())
    manifest = Manifest(
        layout=layout,
        request="0" * 64,
        schema=SCHEMA,
        inputs=(Input("events.root", "uuid", "Events", total, total, None, weight),),
        files=tuple(files),
        transform=TRANSFORM.to_json() if layout == "dense" else None,
        targets=("3 * nJet - 1", "-nJet")[:targets],
    )
    chunks = Chunks(folder, events, manifest)
    chunks.publish(manifest)
    return chunks


def three_chunks(classes: int = 2) -> dict[tuple[int, str], list[Event]]:
    """Three chunks whose sizes fit no batch size."""
    sizes = {"train": (150, 131, 70), "validation": (40, 37, 20), "test": (50, 49, 20)}
    return {
        (chunk, split): events_of(sizes[split][chunk], seed=10 * chunk + len(split), classes=classes)
        for split in sizes
        for chunk in range(3)
    }


@pytest.fixture(scope="session")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """Compact chunks that no test changes."""
    return write_chunks(tmp_path_factory.mktemp("chunks") / "compact", three_chunks())


@pytest.fixture(scope="session")
def dense_chunks(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """The same events as dense chunks."""
    return write_chunks(tmp_path_factory.mktemp("chunks") / "dense", three_chunks(), layout="dense")


@pytest.fixture
def make_chunks(tmp_path: Path) -> MakeChunks:
    """``make_chunks(events, layout=..., row_group=...)`` writes chunks of a test's own; without events, three."""

    def make(events: dict[tuple[int, str], list[Event]] | None = None, **settings: Any) -> Chunks:
        return write_chunks(tmp_path / "chunks", three_chunks() if events is None else events, **settings)

    return make


@pytest.fixture(scope="session")
def make_events() -> Callable[..., list[Event]]:
    """``make_events(n, seed, classes=2)``."""
    return events_of


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a user's model file."""

    def write(text: str) -> Path:
        path = tmp_path / "mymodel.py"
        path.write_text(textwrap.dedent(text))
        return path

    return write


PLAIN_MODEL = """
from keras.models import Sequential
from keras.layers import Dense, Activation


def model(idim):
    net = Sequential([Dense(8, input_shape=(idim,)), Activation("relu"), Dense(1), Activation("sigmoid")])
    net.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return net
"""


@pytest.fixture
def plain_model(model_file: Callable[[str], Path]) -> Path:
    """A model as MLaaS4HEP's users write it: one output, sigmoid."""
    return model_file(PLAIN_MODEL)
