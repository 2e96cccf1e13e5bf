"""MLaaS4HEP's own inputs (files.txt, labels.txt, params.json and its options) as a config of ours.

Source: https://github.com/vkuznet/MLaaS4HEP, ``workflow.py``, ``models.py``, ``generator.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas_spark import storage
from mlaas_spark.config import IDENTIFIERS
from mlaas_spark.errors import ConfigError, hint
from mlaas_spark.filesets import read_list
from mlaas_spark.formats import Format

MODEL_SUFFIXES = (".keras", ".h5", ".pb")

_NO_EFFECT = {
    "hist": "histograms and plots are in report.html of the run folder",
    "split": "MLaaS4HEP splits 0.64/0.16/0.20 whatever it says, as is the default here: see --set chunks.split",
    "nan": "missing values and padding are 0 with mask 0, as in MLaaS4HEP's training: see --set features.nan",
}
_UNDERSTOOD = (
    "nevts",
    "shuffle",
    "chunk_size",
    "epochs",
    "batch_size",
    "identifier",
    "branch",
    "selected_branches",
    "exclude_branches",
    "redirector",
    "verbose",
)


@dataclass(frozen=True, slots=True)
class Options:
    """MLaaS4HEP's command line: ``workflow --files --labels --model --params --preproc --specs --dtype --fout``."""

    files: str
    labels: str = ""
    model: str | None = None
    params: str | None = None
    preproc: str | None = None
    specs: str | None = None
    dtype: str | None = None
    fout: str | None = None


@dataclass(frozen=True, slots=True)
class Translation:
    """What the options mean here.

    Attributes:
        content: A config as a mapping, see ``config.resolve``.
        save_as: File under which the model is also written, None for none.
        notes: What has no effect here and why, a line each.
    """

    content: dict[str, Any]
    save_as: str | None
    notes: tuple[str, ...]


def translate(options: Options) -> Translation:
    """The config that does what MLaaS4HEP's options ask for.

    Raises:
        ConfigError: params.json is no JSON object or has a value of a wrong kind; labels and files differ in number;
            a data type that is not supported.
        FilesetError: A list cannot be read.
    """
    params = read_params(options.params) if options.params else {}
    files = _entries(options.files)
    inputs: dict[str, Any] = {
        "tree": params.get("branch", "Events"),
        "branches": _names(params.get("selected_branches")),
        "exclude": _names(params.get("exclude_branches")),
        "identifiers": _names(params["identifier"]) if "identifier" in params else list(IDENTIFIERS),
        "events": _events(params.get("nevts", -1)),
        "preproc": options.preproc,
        "redirector": params.get("redirector") or None,
        "format": _format(options.dtype),
    }
    label, labels, class_names = _labels(options.labels, files)
    if labels:
        inputs["groups"] = [
            {"name": f"label {value:g}", "files": [path], "label": value}
            for path, value in zip(files, labels, strict=True)
        ]
    else:
        inputs["files"] = files
        inputs["label"] = label
    train = {
        "model": options.model,
        "mode": "chunks",
        "epochs": params.get("epochs", 10),
        "batch_size": params.get("batch_size", 50),
        "shuffle": params.get("shuffle", True),
        "verbose": min(int(params.get("verbose", 0)), 2),
    }
    where, save_as = place(options.fout)
    content = {
        **where,
        "input": inputs,
        "features": {"specs": options.specs},
        "chunks": {"size": params.get("chunk_size", 1000)},
        "train": train,
        "export": {"labels": class_names},
    }
    notes = [f"params.json: {key} has no effect: {why}" for key, why in _NO_EFFECT.items() if key in params]
    known = [*_UNDERSTOOD, *_NO_EFFECT]
    notes += [f"params.json: unknown key {key!r} has no effect{hint(key, known)}" for key in params if key not in known]
    if class_names:
        notes.append("labels: " + ", ".join(f"{name} is class {index}" for index, name in enumerate(class_names)))
    return Translation(content, save_as, tuple(notes))


def read_params(path: str) -> dict[str, Any]:
    """The object in a params.json.

    Raises:
        ConfigError: The file is missing, no JSON, or no object.
    """
    try:
        params = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise ConfigError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise ConfigError(msg) from error
    if not isinstance(params, dict):
        msg = f"{path} holds a {type(params).__name__}, not a JSON object of parameters"
        raise ConfigError(msg)
    return params


def _entries(text: str) -> list[str]:
    """Lines of a file, or a comma list."""
    if Path(text).is_file() and not text.lower().endswith((".root", ".json", ".csv", ".parquet", ".gz")):
        return read_list(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _labels(text: str, files: list[str]) -> tuple[str | None, list[float], list[str]]:
    """(label branch, None) or a label for each file, and the classes' names where labels are words."""
    if not text:
        msg = "no labels: --labels takes a file with a label for each input file, a comma list, or the name of a column"
        raise ConfigError(msg)
    if not Path(text).is_file() and "," not in text and not _is_number(text):
        return text, [], []
    words = _entries(text)
    if len(words) != len(files):
        msg = f"{len(words)} labels for {len(files)} files: {text} must have one label for each file"
        raise ConfigError(msg)
    if all(_is_number(word) for word in words):
        return None, [float(word) for word in words], []
    names = sorted(set(words))
    return None, [float(names.index(word)) for word in words], names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _names(value: Any) -> list[str]:
    """Branch names as MLaaS4HEP takes them: a list, a comma list, a file of names, or "" for none."""
    if not value:
        return []
    if isinstance(value, str):
        return _entries(value)
    if isinstance(value, list):
        return [str(name) for name in value]
    msg = f"params.json: branches are a list, a comma list or a file, not {value!r}"
    raise ConfigError(msg)


def _events(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"params.json: nevts is a whole number, -1 for all, not {value!r}"
        raise ConfigError(msg)
    return value if value > 0 else None


def _format(dtype: str | None) -> str | None:
    if not dtype:
        return None
    if dtype not in set(Format):
        msg = f"--dtype {dtype} is not supported{hint(dtype, list(Format))}"
        raise ConfigError(msg)
    return dtype


def place(fout: str | None) -> tuple[dict[str, str], str | None]:
    """Where the run folder goes, and the file that ``--fout`` names, if it names one."""
    if not fout:
        return {}, None
    path = Path(fout)
    if path.suffix in MODEL_SUFFIXES:
        name = "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in path.stem)
        runs = fout.rpartition("/")[0] if "://" in fout else str(path.parent)
        return {"runs": runs, "name": name}, storage.absolute(fout)
    return {"runs": fout}, None
