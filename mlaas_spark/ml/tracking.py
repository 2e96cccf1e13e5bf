"""A finished run told to MLflow (extra ``[mlflow]``), in a local folder or on a tracking server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas_spark.errors import ConfigError, reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_LONGEST = 500  # characters that MLflow takes for a parameter in every version


def client(store: str) -> Any:
    """MLflow's client for a tracking store.

    Args:
        store: A folder, or the URL of a server.

    Raises:
        ConfigError: MLflow is not installed.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        msg = f"train.mlflow needs MLflow ({reason(error)}): pip install 'mlaas-spark[mlflow]'"
        raise ConfigError(msg) from error
    return MlflowClient(tracking_uri=store if "://" in store else Path(store).absolute().as_uri())


def log_run(
    client: Any,
    experiment: str,
    name: str,
    parameters: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    metrics: Mapping[str, Any],
    files: Iterable[Path] = (),
) -> str:
    """Write a run with its parameters, the metrics of each pass, the metrics of the test, files, folders; the run's id.

    Raises:
        ConfigError: The store does not take it.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        run: str = client.create_run(number, run_name=name).info.run_id
        for key, value in flat(parameters).items():
            client.log_param(run, key, str(value)[:_LONGEST])
        for step, row in enumerate(history):
            for key, number_ in row.items():
                client.log_metric(run, key, float(number_), step=step)
        for key, value in metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                client.log_metric(run, f"test_{key}", float(value))
        for path in files:
            if path.is_dir():
                client.log_artifacts(run, str(path), artifact_path=path.name)
            else:
                client.log_artifact(run, str(path))
        client.set_terminated(run)
    except (MlflowException, OSError) as error:
        msg = f"MLflow does not take the run {name}: {reason(error)}"
        raise ConfigError(msg) from error
    return run


def flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters with dotted names; what is empty or not given is left out."""
    found: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif value not in (None, "", (), []):
            found[f"{prefix}{key}"] = value
    return found
