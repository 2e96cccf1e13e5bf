"""The verb predict: events scored by a trained model, on executors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase as fnmatch
from typing import TYPE_CHECKING, Any

from mlaas_spark import manifest as manifests
from mlaas_spark import storage
from mlaas_spark.branch_specs import SpecsFile
from mlaas_spark.errors import (
    BranchNotFoundError,
    ConfigError,
    ModelContractError,
    ServingError,
    SpecsError,
    SpecsMismatchError,
)
from mlaas_spark.filesets import fileset
from mlaas_spark.formats import Format
from mlaas_spark.pipeline import choosing, opening, preparing, telling
from mlaas_spark.schema import column_name
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from mlaas_spark.config import Config
    from mlaas_spark.drift import Ranges
    from mlaas_spark.manifest import Manifest
    from mlaas_spark.ml.bundle import Contents
    from mlaas_spark.runs import Journal
    from mlaas_spark.spark.ingest import Events
    from mlaas_spark.spark.predict import PredictRequest

_KERAS = ".keras"


@dataclass(frozen=True)
class _Scoring:
    """What prediction takes of a run or a bundle.

    Attributes:
        bundle: The model with its transform.
        ranges: Values of the branches in training; {} of a bundle from before they were kept in it.
        config: What the run was told; None of a bundle or a Keras model.
        own: Whether this user has written the run: else no file that it names is run.
    """

    bundle: Contents
    ranges: Ranges
    config: Config | None = None
    own: bool = True


def predict(config: Config, model: str, folder: str, journal: Journal, *, retry_skipped: bool = False) -> Manifest:
    """Score the events of the config's input and write a data set of scores, on executors: a row for each entry.

    Columns: identifier branches, those of ``predict.keep``, ``__source`` (uuid of the input, with its tree),
    ``__entry``, ``__selected`` and ``score``, or of a model of several outputs ``score_<label>`` for each; an event
    that fails the selection has none. With ``predict.beside`` all branches that ``convert`` would write are kept. With
    ``predict.format: root`` the columns are those of a friend tree for each input: ``selected`` for ``__selected``, no
    ``__source`` and ``__entry``. Of the config count ``input``, ``predict`` and ``spark``; branches are the run's, and
    so are derived ones, categories and identifiers that the config does not have. What was not as in training is in
    ``Manifest.drift``.

    Args:
        config: The resolved config.
        model: A run folder, a bundle (its folder or its tar.gz) or a model saved by Keras (``.keras``): a path or URL.
            A ``.keras`` file takes the features that ``features`` of the config and its specs give, those beside it
            as specs.json if the config names none; ``train.model`` is the file with its own classes, if it has any,
            ``train.inputs`` what it takes.
        folder: Of the data set: a new one, an empty one, or that of an earlier prediction, which is brought up to date.
        journal: Told of each stage.
        retry_skipped: Read only what an earlier prediction has skipped.

    Raises:
        SpecsMismatchError: The input lacks branches of the model, or has them as another kind; specs of another W.
        SpecsError: No specs for a ``.keras`` file.
        ModelContractError: A ``.keras`` file that cannot be loaded.
        ServingError: There is no such model, or it does not run.
        MlaasSparkError: One of its kinds for whatever else a user can mend.
    """
    from mlaas_spark.spark import convert as converting
    from mlaas_spark.spark import predict as predicting

    with journal.stage("open model"):
        trained = _keras_model(config, model) if model.endswith(_KERAS) else _trained(model)
    bundle = trained.bundle
    config = _as_trained(config, trained, journal)
    target = storage.absolute(folder)
    only = opening.skipped_before(target, journal) if retry_skipped else None
    try:
        events = opening.open_files(config, journal, text=True, only=only)
    except BranchNotFoundError as error:
        lacking = [name for name in bundle.transform.layout.branches if name not in error.available]
        if error.branch not in lacking:
            raise
        raise predicting.lacks(lacking, error.available, error.where) from error
    request = _predict_request(config, events, trained)
    with journal.stage("predict") as stage:
        opening.measure(stage, events)
        before = manifests.present(target)
        manifest = predicting.predict(events, request, target, retry=retry_skipped)
        stage.events = manifest.ledger["entries"]
        stage.remark = str(converting.Changes.between(before.inputs if before else (), manifest.inputs))
    telling.say_bottleneck(journal)
    telling.tell_skipped(config, manifest.skipped, target, journal)
    if not manifest.ledger["events"]:
        journal.say(f"selection {config.input.selection!r} keeps none of the events: none has a score")
    if not trained.ranges:
        journal.say(f"{model} does not know the ranges of training: only cuts and NaN are counted")
    return manifest


def _trained(model: str) -> _Scoring:
    """A run folder or a bundle, by what is there."""
    from mlaas_spark.config import read, resolve
    from mlaas_spark.ml.bundle import read_bundle

    place = storage.absolute(model)
    if not storage.exists(place):
        msg = f"no such model: {model}; name a run folder, see mlaas-spark train, or a bundle"
        raise ServingError(msg)
    if not storage.is_folder(place) or "run.json" not in storage.children(place):
        with storage.local_copy(place) as copy:
            bundle = read_bundle(copy)
        return _Scoring(bundle, bundle.sending.ranges)
    with storage.local_copy(place) as run:
        told = json.loads((run / "run.json").read_text(encoding="utf-8"))
        # the features of this process have all digits of the file, what a raw bundle takes is float32
        name = told.get("bundles", {}).get("features", told["bundle"])
        bundle = read_bundle(run / "bundle" / name)
        config = resolve(read(run / "config.yaml"), str(run / "config.yaml"))
        specs = SpecsFile.loads((run / "specs.json").read_bytes(), str(run / "specs.json")).specs
    if FeatureTransform.of(specs, config.features) != bundle.transform:
        msg = f"{model}: its specs.json and config.yaml are not those that its bundle was made with"
        raise SpecsMismatchError(msg)
    return _Scoring(bundle, specs.ranges, config, storage.is_own(storage.join(place, "config.yaml")))


def _keras_model(config: Config, model: str) -> _Scoring:
    """A model saved by Keras, with the transform that the config and specs.json give."""
    place = storage.absolute(model)
    if not storage.exists(place):
        msg = f"no such model: {model}; name a .keras file that Keras saved"
        raise ServingError(msg)
    beside = storage.join(place.rpartition("/")[0], "specs.json")
    source = config.features.specs or beside
    if not config.features.specs and not storage.exists(beside):
        msg = (
            f"{model} does not say how its features are made: name the specs of its training with --specs specs.json, "
            f"or put them beside it ({beside} is not there)"
        )
        raise SpecsError(msg)
    made = preparing.read_specs(source)
    transform = FeatureTransform.of(made.specs, config.features)
    from mlaas_spark.ml.bundle import contents_of
    from mlaas_spark.ml.inputs import InputLayout
    from mlaas_spark.ml.model import load_saved_model, output_width

    inputs = InputLayout.of(transform, config.train.inputs)
    with storage.local_copy(place) as file:
        try:
            loaded = load_saved_model(file, config.train.model)
            output_width(loaded, inputs)
        except ModelContractError as error:
            classes = "" if config.train.model else "; if it has classes of your own, --set train.model=FILE names them"
            msg = f"{model} with {source} of W = {transform.width}: {error}{classes}"
            raise ModelContractError(msg) from error
    stem = re.sub(r"[^a-zA-Z0-9_]", "_", place.rpartition("/")[2].removesuffix(_KERAS))
    bundle = contents_of(loaded, transform, inputs, stem, config.export.labels, made.specs.ranges)
    return _Scoring(bundle, made.specs.ranges)


def _as_trained(config: Config, trained: _Scoring, journal: Journal) -> Config:
    """The config with what the model needs read, made as it was in training."""
    given, run = config.input, trained.config.input if trained.config else None
    taken: dict[str, Any] = {"exclude": (), "label": None, "targets": (), "weight": None}
    if run is not None:
        for key in ("derive", "categories"):
            own = getattr(given, key)
            # an empty one that was asked for takes none of the run's: the input has them already
            taken[key] = own if not own and key in given.model_fields_set else {**getattr(run, key), **own}
        if "identifiers" not in given.model_fields_set:
            taken["identifiers"] = run.identifiers
        if run.preproc and not given.preproc and fileset(given)[0].format in {Format.JSON, Format.CSV}:
            if not trained.own:
                msg = (
                    f"the run is of another user: {run.preproc}, by which its records were preprocessed, is not run; "
                    "if you trust it, name it by --preproc"
                )
                raise ConfigError(msg)
            taken["preproc"] = run.preproc
        if run.selection and not given.selection:
            journal.say(f"the model was trained on events that pass {run.selection!r}; here all are scored")
    derived = taken.get("derive", given.derive)
    branches = (*trained.bundle.transform.layout.branches, *config.predict.keep)
    taken["branches"] = tuple(name for name in branches if name not in derived)
    if config.predict.beside:
        if lost := [(b, p) for p in given.exclude for b in trained.bundle.transform.layout.branches if fnmatch(b, p)]:
            msg = f"input.exclude has {lost[0][1]!r}, and the model needs {lost[0][0]}: it is written beside the scores"
            raise ConfigError(msg)
        taken["exclude"] = given.exclude
        taken["branches"] = (*given.branches, *taken["branches"]) if given.branches else ()
    return config.model_copy(update={"input": given.model_copy(update=taken)})


def _predict_request(config: Config, events: Events, trained: _Scoring) -> PredictRequest:
    from mlaas_spark.ml.predict import SavedModel
    from mlaas_spark.spark.predict import PredictRequest

    bundle, schema = trained.bundle, events.plan.schema
    labels, asked = bundle.labels, config.predict
    kept = schema.names if asked.beside else schema.select(asked.keep).names if asked.keep else ()
    return PredictRequest(
        model=bundle.name,
        transform=bundle.takes,
        ranges=trained.ranges,
        scorer=SavedModel.of(bundle),
        outputs=("score",) if len(labels) == 1 else tuple(f"score_{column_name(label)}" for label in labels),
        keys=choosing.keys(config, events.plan.schema),
        keep=kept,
        batch_size=asked.batch_size,
        format=Format(asked.format),
    )
