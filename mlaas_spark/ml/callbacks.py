"""Keras callbacks and learning rates that a config names by Keras' own names, and those of the user's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_spark.errors import ConfigError, ModelContractError, hint, reason
from mlaas_spark.ml.called import WRITTEN
from mlaas_spark.ml.model import is_keras
from mlaas_spark.ml.sklearn_learner import SklearnModel
from mlaas_spark.usercode import UserModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlaas_spark.config import TrainConfig
    from mlaas_spark.usercode import UserFile

_FUNCTION = "callbacks"
OF_ALL = ("EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau")
"""Those that act on models of torch and scikit-learn too."""
_ACCURACY = "accuracy"
_METRICS = ("loss", _ACCURACY, "val_loss", f"val_{_ACCURACY}")  # of such models
_NPZ = ".npz"
_OURS = ("BackupAndRestore", "History", "ProgbarLogger", "RemoteMonitor", "CallbackList", "Callback")


def of_training(
    model: Any, named: Sequence[Mapping[str, Mapping[str, Any]]], folder: Path, file: UserFile | UserModule
) -> list[Any]:
    """The callbacks of a training of ``model``: those of the config, then those of its file.

    Raises:
        ConfigError: As :func:`of_config`.
        ModelContractError: As :func:`of_file`; the file of a model of another library has some.
    """
    made = of_config(named, folder, model)
    own = of_file(file)
    if own and not is_keras(model):
        msg = (
            f"{_FUNCTION} of {model.name} are Keras' own, its model is one of {model.library}: name "
            f"{', '.join(OF_ALL)} in train.callbacks"
        )
        raise ModelContractError(msg)
    return [*made, *own]


def of_config(named: Sequence[Mapping[str, Mapping[str, Any]]], folder: Path, model: Any = None) -> list[Any]:
    """The callbacks that ``train.callbacks`` names; what they write (``filepath``, ``filename``) lies in ``folder``.

    Args:
        named: Names with settings.
        folder: Of what they write.
        model: Whose; None for one of Keras.

    Raises:
        ConfigError: Keras has none of that name, it does not take the settings, or it does not fit the model.
        ModelContractError: The model has no learning rate for ReduceLROnPlateau.
    """
    import keras

    kinds = {
        name: kind
        for name, kind in vars(keras.callbacks).items()
        if isinstance(kind, type) and issubclass(kind, keras.callbacks.Callback) and name not in _OURS
    }
    made = []
    for item in named:
        ((name, settings),) = item.items()
        if name not in kinds:
            msg = f"train.callbacks: Keras has no callback {name!r} to be used here{hint(name, kinds)}"
            raise ConfigError(msg)
        placed = {**settings, **_placed(name, settings, folder)}
        if model is not None and not is_keras(model):
            placed = _of_other(name, placed, model)
        made.append(_made(kinds[name], placed, f"train.callbacks: {name}"))
    return made


def _of_other(name: str, settings: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The settings of a callback for a model of another library."""
    where = f"train.callbacks: {name}"
    if name not in OF_ALL:
        msg = f"{where} is for Keras models, that of {model.name} is one of {model.library}: it has {', '.join(OF_ALL)}"
        raise ConfigError(msg)
    if name == "ReduceLROnPlateau" and isinstance(model, SklearnModel):
        _ = model.eta0  # raises where there is none
    changed = dict(settings)
    monitor = settings.get("monitor", "val_loss")
    if monitor not in _METRICS:
        msg = f"{where}: a model of {model.library} has no metric {monitor!r}, it has {', '.join(_METRICS)}"
        raise ConfigError(msg)
    if settings.get("mode", "auto") == "auto":
        changed["mode"] = "max" if monitor.endswith(_ACCURACY) else "min"  # Keras asks a Keras model
    if name != "ModelCheckpoint":
        return changed
    file = str(settings.get("filepath", ""))
    if not file.endswith(_NPZ) or settings.get("save_freq", "epoch") != "epoch":
        msg = (
            f"{where}: of a model of {model.library} it writes what was learned, after a pass: give a filepath that "
            f"ends in {_NPZ}, and no save_freq; not {Path(file).name!r}"
        )
        raise ConfigError(msg)
    return {**changed, "filepath": f"{file}{WRITTEN}", "save_weights_only": True}


def _placed(name: str, settings: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Files that a callback writes, in the run's folder."""
    placed = {}
    for key in ("filepath", "filename", "log_dir"):
        if (value := settings.get(key)) is not None:
            if Path(str(value)).name != str(value):
                msg = f"train.callbacks: {name}.{key} is a name for a file in the run folder, not {value!r}"
                raise ConfigError(msg)
            placed[key] = str(folder / str(value))
    return placed


def of_file(path: Path | UserFile | UserModule) -> list[Any]:
    """The callbacks of the user's model file: its ``callbacks``, a list or a function that gives one.

    Raises:
        ModelContractError: It has such a name, which is neither.
    """
    import keras

    module = UserModule.of(path, ModelContractError)
    file, found = module.file, module.value(_FUNCTION)
    if callable(found):
        try:
            with file.neighbours():
                found = found()
        except Exception as error:  # whatever the user's function raises
            msg = f"{_FUNCTION}() failed: {file.explain(error)}"
            raise ModelContractError(msg) from error
    if found is None:
        return []
    if not isinstance(found, list | tuple) or not all(isinstance(item, keras.callbacks.Callback) for item in found):
        msg = f"{_FUNCTION} of {file.path} is no list of Keras callbacks, nor a function that gives one"
        raise ModelContractError(msg)
    return list(found)


def set_learning_rate(model: Any, config: TrainConfig) -> None:
    """Give the model's optimizer the learning rate of the config: a number, or a schedule by Keras' name.

    Raises:
        ConfigError: Keras has no such schedule, or it does not take the settings.
    """
    import keras

    rate = config.learning_rate
    if rate is None or not is_keras(model):  # torch's have it since they were loaded
        return
    if isinstance(rate, dict):
        schedules = keras.optimizers.schedules
        kinds = {
            name: kind
            for name, kind in vars(schedules).items()
            if isinstance(kind, type) and issubclass(kind, schedules.LearningRateSchedule)
        }
        ((name, settings),) = rate.items()
        if name not in kinds or kinds[name] is schedules.LearningRateSchedule:
            msg = f"train.learning_rate: Keras has no schedule {name!r}{hint(name, kinds)}"
            raise ConfigError(msg)
        rate = _made(kinds[name], settings, f"train.learning_rate: {name}")
    try:
        model.optimizer.learning_rate = rate
    except TypeError as error:
        msg = "train.learning_rate: the optimizer of the model has a schedule, for which Keras takes no number later"
        raise ConfigError(msg) from error


def _made(kind: Any, settings: Mapping[str, Any], where: str) -> Any:
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        msg = f"{where} does not take {dict(settings)}: {reason(error)}"
        raise ConfigError(msg) from error
