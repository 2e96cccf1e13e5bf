"""The demo's sample: physics-like events as real ROOT TTrees, signal and background, made from a seed.

Signal resembles a heavy resonance with two muons, jets and missing momentum on top of a softer background. The classes
overlap, as they do in nature: no model can tell them apart with certainty.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
import uproot
import yaml

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32 = npt.NDArray[np.float32]

_CLUSTER = 10_000
TREE = "Events"


@dataclass(frozen=True, slots=True)
class Process:
    """Parameters of one physics process; momenta and energies in GeV."""

    name: str
    met: float
    muons: float
    muon_pt: float
    jets: float
    jet_pt: float
    tagged: float


SIGNAL = Process("signal", met=58.0, muons=1.8, muon_pt=38.0, jets=4.6, jet_pt=58.0, tagged=0.45)
BACKGROUND = Process("background", met=34.0, muons=1.2, muon_pt=27.0, jets=3.2, jet_pt=44.0, tagged=0.22)


def generate(folder: Path, events: int, files: int, seed: int) -> list[Path]:
    """Write ``files`` ROOT files, half signal and half background, ``events`` events in all; equal seeds, equal events.

    Args:
        folder: Where; made if needed. Files of equal name are replaced.
        events: Events in all files.
        files: Number of files, even.
        seed: Seed of numpy's generator.

    Returns:
        The files, signal first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, share in enumerate(np.array_split(np.arange(events), files)):
        process = SIGNAL if index < files // 2 else BACKGROUND
        path = folder / f"{process.name}_{index % (files // 2)}.root"
        random = np.random.default_rng([seed, index])
        _write(path, process, random, first_event=int(share[0]), count=len(share), run=index + 1)
        paths.append(path)
    return paths


def write_config(folder: Path) -> Path:
    """Write what trains on a sample into its folder: ``model.py``, and ``train.yaml``, which names both.

    They are conf/demo.yaml and conf/demo_model.py, which an installed package has too.

    Returns:
        The config.
    """
    shipped, folder = files("mlaas_spark") / "conf", folder.absolute()
    content = yaml.safe_load((shipped / "demo.yaml").read_text(encoding="utf-8"))
    for group in content["input"]["groups"]:
        group["files"] = str(folder / Path(group["files"]).name)
    content["train"]["model"] = str(folder / "model.py")
    (folder / "model.py").write_text((shipped / "demo_model.py").read_text(encoding="utf-8"), encoding="utf-8")
    path = folder / "train.yaml"
    path.write_text(f"# Made by mlaas-spark demo.\n{yaml.safe_dump(content, sort_keys=False)}", encoding="utf-8")
    return path


def _write(
    path: Path, process: Process, random: np.random.Generator, *, first_event: int, count: int, run: int
) -> None:
    # the file's uuid comes from the seed too: chunks of a sample made again have the same digest
    identity = uuid.UUID(bytes=random.bytes(16), version=4)
    with uproot.recreate(path, compression=uproot.ZLIB(1), uuid_function=lambda: identity) as file:
        tree: Any = None
        for start in range(0, count, _CLUSTER):
            branches = _events(process, random, first_event + start, min(_CLUSTER, count - start), run)
            if tree is None:
                tree = file.mktree(TREE, {name: _type(values) for name, values in branches.items()})
            tree.extend(branches)


def _type(values: Any) -> Any:
    return values.type.content if isinstance(values, ak.Array) else values.dtype


def _events(process: Process, random: np.random.Generator, first: int, n: int, run: int) -> dict[str, Any]:
    muons = random.poisson(process.muons, n)
    jets = random.poisson(process.jets, n)
    return {
        "run": np.full(n, run, np.uint32),
        "luminosityBlock": np.arange(first, first + n, dtype=np.uint32) // 500 + 1,
        "event": np.arange(first, first + n, dtype=np.uint64),
        "MET_pt": random.gamma(2.0, process.met / 2.0, n).astype(np.float32),
        "MET_phi": _phi(random, n),
        "PV_npvs": random.poisson(24.0, n).astype(np.int32),
        "Muon": _record(
            muons,
            pt=_pt(random, process.muon_pt, muons.sum()),
            eta=_eta(random, 1.3, muons.sum()),
            phi=_phi(random, muons.sum()),
            charge=random.choice(np.array([-1, 1], np.int32), muons.sum()),
        ),
        "Jet": _record(
            jets,
            pt=_pt(random, process.jet_pt, jets.sum()),
            eta=_eta(random, 1.9, jets.sum()),
            phi=_phi(random, jets.sum()),
            mass=random.gamma(3.0, 4.0, jets.sum()).astype(np.float32),
            btag=_btag(random, process.tagged, jets.sum()),
        ),
    }


def _record(counts: npt.NDArray[np.int64], **fields: npt.NDArray[Any]) -> ak.Array:
    return ak.zip({name: ak.unflatten(values, counts) for name, values in fields.items()})


def _pt(random: np.random.Generator, mean: float, n: int) -> Float32:
    return (10.0 + random.exponential(mean - 10.0, n)).astype(np.float32)


def _eta(random: np.random.Generator, width: float, n: int) -> Float32:
    return np.clip(random.normal(0.0, width, n), -4.7, 4.7).astype(np.float32)


def _phi(random: np.random.Generator, n: int) -> Float32:
    return random.uniform(-np.pi, np.pi, n).astype(np.float32)


def _btag(random: np.random.Generator, tagged: float, n: int) -> Float32:
    """A discriminant in [0, 1] that is high for the share of jets that are tagged, low for the others."""
    is_tagged = random.uniform(size=n) < tagged
    return np.where(is_tagged, random.beta(4.0, 2.0, n), random.beta(2.0, 4.0, n)).astype(np.float32)
