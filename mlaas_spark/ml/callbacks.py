"""Keras callbacks and learning rates that a config names by Keras' own names, and those of the user's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_spark.errors import ConfigError, ModelContractError, hint, reason
from mlaas_spark.ml.model import is_keras
from mlaas_spark.usercode import UserFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlaas_spark.config import TrainConfig

_FUNCTION = "callbacks"
_OURS = ("BackupAndRestore", "History", "ProgbarLogger", "RemoteMonitor", "CallbackList", "Callback")


def of_config(named: Sequence[Mapping[str, Mapping[str, Any]]], folder: Path) -> list[Any]:
    """The callbacks that ``train.callbacks`` names; what they write (``filepath``, ``filename``) lies in ``folder``.

    Raises:
        ConfigError: Keras has none of that name, or it does not take the settings.
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
        made.append(_made(kinds[name], {**settings, **_placed(name, settings, folder)}, f"train.callbacks: {name}"))
    return made


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


def of_file(path: Path | UserFile) -> list[Any]:
    """The callbacks of the user's model file: its ``callbacks``, a list or a function that gives one.

    Raises:
        ModelContractError: It has such a name, which is neither.
    """
    import keras

    file = path if isinstance(path, UserFile) else UserFile.read(path, ModelContractError)
    found = file.value(_FUNCTION, ModelContractError)
    if callable(found):
        try:
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
