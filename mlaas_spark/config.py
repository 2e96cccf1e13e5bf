"""The YAML config: pydantic models, overrides from the command line, and a digest. Reads text, opens no data."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from mlaas_spark import confidential
from mlaas_spark.errors import ConfigError, hint
from mlaas_spark.formats import Format
from mlaas_spark.xrootd import PATIENCE, Patience, is_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IDENTIFIERS = ("run", "luminosityBlock", "event")
"""Branches that name an event in CMS' convention: kept as keys, never as features."""


SchemaPolicy = Literal["strict", "intersect", "fill"]
"""What to do where the files have not the same branches, see :func:`mlaas_spark.schema.common`."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        kinds = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and {int, float} & {kinds, *get_args(kinds)}:
            msg = "must be a number, not true or false"
            raise ValueError(msg)
        return value


_CREDENTIALS = re.compile(r"//[^/@\s]*@")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNITS)}|)", re.IGNORECASE)


def _split(value: object) -> object:
    """The parts of a comma list; what is no text as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class GroupConfig(_Section):
    """Files that share a label and a weight, such as one physics process."""

    name: str = ""
    files: tuple[str, ...]
    label: float | None = None
    weight: float = 1.0

    @field_validator("files", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("label", "weight")
    @classmethod
    def _is_finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            msg = "must be finite"
            raise ValueError(msg)
        return value


class InputConfig(_Section):
    """Which events: files, tree, branches, selection, label."""

    files: tuple[str, ...] = ()
    groups: tuple[GroupConfig, ...] = ()
    fileset: Path | None = None
    format: Format | None = None
    tree: str | None = None
    columns: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    selection: str | None = None
    derive: dict[str, str] = Field(default_factory=dict)
    categories: dict[str, dict[str, int | float]] = Field(default_factory=dict)
    schema_policy: SchemaPolicy = "strict"
    label: str | None = None
    targets: tuple[str, ...] = ()
    weight: str | None = None
    identifiers: tuple[str, ...] = IDENTIFIERS
    events: int | None = Field(default=None, ge=1)
    preproc: Path | None = None
    allow_copies: bool = False
    bad_files: Literal["fail", "skip"] = "fail"
    skip_limit: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    redirector: str | None = None
    timeout: int = Field(default=PATIENCE.timeout, ge=1, le=3600)
    retries: int = Field(default=PATIENCE.retries, ge=0, le=100)

    @property
    def patience(self) -> Patience:
        """With an XRootD server."""
        return Patience(self.timeout, self.retries)

    @field_validator("redirector")
    @classmethod
    def _is_a_server(cls, value: str | None) -> str | None:
        if value and not (is_url(value) and urlsplit(value).hostname):
            msg = "give root://host or root://host:port"
            raise ValueError(msg)
        return value or None

    @field_validator("files", "columns", "branches", "exclude", "identifiers", "targets", mode="before")
    @classmethod
    def _comma_list(cls, value: object) -> object:
        return _split(value)

    @field_validator("columns")
    @classmethod
    def _columns_have_names_of_their_own(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in value if not name or value.count(name) > 1]:
            msg = f"each column needs a name of its own, unlike {twice[0]!r}"
            raise ValueError(msg)
        return value

    @field_validator("derive", mode="before")
    @classmethod
    def _named_expressions(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        if odd := [text for text in value if "=" not in str(text)]:
            msg = f"give NAME=EXPRESSION, not {odd[0]!r}"
            raise ValueError(msg)
        return {name.strip(): text.strip() for name, _, text in (str(text).partition("=") for text in value)}

    @field_validator("categories", mode="before")
    @classmethod
    def _texts_and_numbers(cls, value: object) -> object:
        # YAML reads yes and no as truth values, 11 as a number
        if not isinstance(value, dict) or not all(isinstance(of_branch, dict) for of_branch in value.values()):
            return value
        for branch, numbers in value.items():
            if odd := [text for text, number in numbers.items() if isinstance(text, bool) or isinstance(number, bool)]:
                msg = f"{branch} has {odd[0]} for a category or for its number: text such as yes, no, on needs quotes"
                raise ValueError(msg)
        return {name: {str(text): number for text, number in numbers.items()} for name, numbers in value.items()}

    @field_validator("categories")
    @classmethod
    def _categories_are_finite(cls, value: dict[str, dict[str, int | float]]) -> dict[str, dict[str, int | float]]:
        for branch, numbers in value.items():
            if not numbers or not all(map(math.isfinite, numbers.values())):
                msg = f"{branch} needs a finite number for each category, at least one: {{ee: 0, mumu: 1}}"
                raise ValueError(msg)
        return value

    @field_validator("derive")
    @classmethod
    def _names_of_columns(cls, value: dict[str, str]) -> dict[str, str]:
        if odd := [name for name in value if not name.isidentifier() or name.startswith("__")]:
            msg = f"{odd[0]!r} is no name for a branch: letters, digits and _, not beginning with __"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _files_or_groups(self) -> Self:
        if sum(map(bool, (self.files, self.groups, self.fileset))) > 1:
            msg = "give one of 'files' or 'groups' or 'fileset', not several"
            raise ValueError(msg)
        if self.label and self.targets:
            msg = "give 'label' for classes or 'targets' for a regression, not both"
            raise ValueError(msg)
        return self


Normalisation = Literal["minmax", "standard", "robust", "none"]


class FeatureConfig(_Section):
    """How a branch becomes columns of the feature matrix."""

    normalise: Normalisation = "minmax"
    overrides: dict[str, Normalisation] = Field(default_factory=dict)
    caps: dict[str, int] = Field(default_factory=dict)
    nan: Literal["missing", "error"] = "missing"
    specs: str | None = None

    @field_validator("caps")
    @classmethod
    def _caps_are_positive(cls, value: dict[str, int]) -> dict[str, int]:
        if bad := {name: cap for name, cap in value.items() if cap < 1}:
            msg = f"a cap is at least 1, got {bad}"
            raise ValueError(msg)
        return value


class ConvertConfig(_Section):
    """How converted files are written."""

    compression: Literal["lz4", "zstd", "snappy", "gzip", "none"] = "lz4"
    sort_keys: tuple[str, ...] = ()
    target_size: int | None = Field(default=None, ge=1)

    @field_validator("sort_keys", mode="before")
    @classmethod
    def _comma_list(cls, value: object) -> object:
        return _split(value)

    @field_validator("target_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not (found := _SIZE.fullmatch(value.strip())):
            msg = f"give bytes, or a number with {', '.join(_UNITS)}: 128MB"
            raise ValueError(msg)
        return round(float(found[1]) * _UNITS.get(found[2].upper(), 1))


class SplitConfig(_Section):
    """Shares of the events for training, validation and test; they add up to 1.

    With ``folds`` the test events are fold number ``fold`` of so many, and training and validation share the others.
    """

    train: float = Field(default=0.64, gt=0, le=1)
    validation: float = Field(default=0.16, ge=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    folds: int | None = Field(default=None, ge=2, le=1000)
    fold: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = math.fsum((self.train, self.validation, self.test))
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            msg = f"train + validation + test must be 1, not {total:g}"
            raise ValueError(msg)
        if self.fold >= (self.folds or 1):
            msg = f"fold counts from 0 and is below folds ({self.folds or 'not given'}), not {self.fold}"
            raise ValueError(msg)
        return self


class ChunkConfig(_Section):
    """How events are mixed into chunks."""

    folder: str | None = None
    size: int | Literal["all"] = 10_000
    layout: Literal["compact", "dense"] = "compact"
    seed: int = Field(default=1, ge=0, lt=2**63)
    split: SplitConfig = Field(default_factory=SplitConfig)

    @field_validator("size")
    @classmethod
    def _size_is_positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            msg = "a chunk has at least one event, or is 'all'"
            raise ValueError(msg)
        return value


class CheckpointConfig(_Section):
    """When the state of a training is written, so that ``--resume`` can go on from it."""

    steps: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=60.0, gt=0)
    keep: int = Field(default=2, ge=2, le=100)


InputKind = Literal["matrix", "matrix+mask", "groups"]


class TrainConfig(_Section):
    """How the user's model is fitted."""

    model: Path | None = None
    inputs: InputKind = "matrix"
    mode: Literal["chunks", "epochs", "all"] = "epochs"
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=256, ge=1)
    shuffle: bool = True
    class_weight: Literal["balanced"] | dict[float, float] | None = None
    normalise_weights: bool = False
    learning_rate: float | dict[str, dict[str, Any]] | None = None
    callbacks: tuple[dict[str, dict[str, Any]], ...] = ()
    loss: dict[str, dict[str, Any]] | None = None
    optimizer: dict[str, dict[str, Any]] | None = None
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    mlflow: str | None = None
    seed: int = Field(default=1, ge=0, lt=2**31)
    threads: int = Field(default=2, ge=1, le=64)
    verbose: int = Field(default=0, ge=0, le=2)
    workers: int = Field(default=1, ge=1, le=1024)
    shards: int | None = Field(default=None, ge=1, le=1024)
    patience: float = Field(default=300.0, gt=0, allow_inf_nan=False)

    @property
    def dealt(self) -> int:
        """In how many shards the events of a pass are dealt."""
        return self.shards or self.workers

    @model_validator(mode="after")
    def _shards_for_all(self) -> Self:
        if self.dealt < self.workers:
            msg = f"{self.workers} workers need a shard each, shards is {self.shards}"
            raise ValueError(msg)
        if self.dealt > self.batch_size:
            msg = f"a batch of {self.batch_size} events cannot be dealt to {self.dealt} shards: raise batch_size"
            raise ValueError(msg)
        return self

    @field_validator("mlflow")
    @classmethod
    def _holds_no_password(cls, value: str | None) -> str | None:
        if value and confidential.without_credentials(value) != value:
            msg = "give MLflow's password by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the environment"
            raise ValueError(msg)
        return value

    @field_validator("callbacks", mode="before")
    @classmethod
    def _names_alone(cls, value: object) -> object:
        # a callback without settings may be its name alone
        if not isinstance(value, list | tuple):
            return value
        return tuple({item: {}} if isinstance(item, str) else item for item in value)

    @field_validator("callbacks")
    @classmethod
    def _one_name_each(cls, value: tuple[dict[str, dict[str, Any]], ...]) -> tuple[dict[str, dict[str, Any]], ...]:
        if odd := [item for item in value if len(item) != 1]:
            msg = f"each callback is one name with its settings, as {{EarlyStopping: {{patience: 3}}}}, not {odd[0]}"
            raise ValueError(msg)
        return value

    @field_validator("learning_rate")
    @classmethod
    def _a_rate_or_one_schedule(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) != 1:
            msg = "give a number, or one schedule as {CosineDecay: {initial_learning_rate: 0.01, decay_steps: 1000}}"
            raise ValueError(msg)
        if isinstance(value, float) and not (math.isfinite(value) and value > 0):
            msg = "must be finite and above 0"
            raise ValueError(msg)
        return value

    @field_validator("loss", "optimizer", mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {value: {}} if isinstance(value, str) else value

    @field_validator("loss", "optimizer")
    @classmethod
    def _one_name(cls, value: dict[str, dict[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
        if value is not None and len(value) != 1:
            msg = "give one name with its settings: {Adam: {lr: 0.01}}"
            raise ValueError(msg)
        return value

    @field_validator("class_weight")
    @classmethod
    def _finite_weights(cls, value: Any) -> Any:
        if isinstance(value, dict) and not all(math.isfinite(weight) and weight >= 0 for weight in value.values()):
            msg = "a class weight is finite and not negative"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _one_way_to_weigh(self) -> Self:
        if self.class_weight is not None and self.normalise_weights:
            msg = "give class_weight or normalise_weights, not both"
            raise ValueError(msg)
        return self


class EvaluateConfig(_Section):
    """Metrics of a trained model: how many events and replicas, and the yields of the significance."""

    bootstrap: int = Field(default=200, ge=0, le=10_000)
    train_events: int = Field(default=100_000, ge=0)
    importance_events: int = Field(default=5_000, ge=0)
    importance_repeats: int = Field(default=3, ge=1, le=100)
    signal_yield: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    background_yield: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seed: int = Field(default=1, ge=0, lt=2**31)


class RetrainConfig(_Section):
    """When new files are trained on, and when a new model comes into service."""

    drift: Literal["fail", "warn", "off"] = "fail"
    psi: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    ks: float = Field(default=0.1, gt=0, le=1)
    missing: float = Field(default=0.01, ge=0, le=1)
    margin: float = Field(default=0.005, ge=0, allow_inf_nan=False)


class ExportConfig(_Section):
    """The bundle for TFaaS; the served name is ``<name>_<digest>``."""

    name: str = Field(default="model", pattern=r"^[a-zA-Z0-9_]{1,64}$")
    labels: tuple[str, ...] = ()
    description: str = ""
    inputs: Literal["raw", "features", "both"] = "both"
    missing: float | None = Field(default=None, allow_inf_nan=False)
    onnx: bool = False


class PredictConfig(_Section):
    """How scores are written, what lies beside them, and how many events the model is given at a time."""

    format: Literal["parquet", "root"] = "parquet"
    beside: bool = False
    keep: tuple[str, ...] = ()
    batch_size: int = Field(default=4096, ge=1)

    @field_validator("keep", mode="before")
    @classmethod
    def _comma_list(cls, value: object) -> object:
        return _split(value)

    @model_validator(mode="after")
    def _a_friend_has_only_what_is_new(self) -> Self:
        if self.beside and self.format == "root":
            msg = "beside is for Parquet: a friend tree lies beside its input anyway; name single branches by keep"
            raise ValueError(msg)
        if self.beside and self.keep:
            msg = "beside keeps all branches: leave out keep"
            raise ValueError(msg)
        return self


class ServeConfig(_Section):
    """The TFaaS server, and how it is spoken to."""

    url: str | None = None
    alias: str | None = None
    timeout: float = Field(default=30.0, gt=0, le=3600)
    retries: int = Field(default=5, ge=0, le=100)
    rate: float | None = Field(default=100.0, gt=0, le=1e6)
    concurrency: int = Field(default=8, ge=1, le=256)
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @field_validator("url")
    @classmethod
    def _holds_no_password(cls, value: str | None) -> str | None:
        if value and _CREDENTIALS.search(value):
            msg = "a user's name or password does not belong here: TFaaS asks for a certificate, if for anything"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _a_key_is_that_of_a_certificate(self) -> Self:
        if self.key and not self.certificate:
            msg = "serve.key is given without serve.certificate"
            raise ValueError(msg)
        return self


class SparkConfig(_Section):
    """The Spark session; under spark-submit its own options win."""

    master: str | None = None
    conf: dict[str, str] = Field(default_factory=dict)
    events_per_task: int = Field(default=25_000, ge=1)
    x509_proxy: Path | None = None

    @field_validator("conf", mode="before")
    @classmethod
    def _values_are_text(cls, value: object) -> object:
        # YAML reads 8 and true as a number and a bool; Spark wants the text
        if not isinstance(value, dict):
            return value
        return {
            key: str(item).lower() if isinstance(item, bool) else str(item) if isinstance(item, int | float) else item
            for key, item in value.items()
        }


class Config(_Section):
    """Everything a job is told. Each section is documented in conf/local.yaml."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    runs: str = "runs"
    input: InputConfig = Field(default_factory=InputConfig)
    convert: ConvertConfig = Field(default_factory=ConvertConfig)
    features: FeatureConfig = Field(default_factory=FeatureConfig)
    chunks: ChunkConfig = Field(default_factory=ChunkConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    retrain: RetrainConfig = Field(default_factory=RetrainConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    predict: PredictConfig = Field(default_factory=PredictConfig)
    serve: ServeConfig = Field(default_factory=ServeConfig)
    spark: SparkConfig = Field(default_factory=SparkConfig)

    def digest(self, *sections: str) -> str:
        """SHA-256 over the named sections (all of them if none is named), independent of key order and of secrets."""
        content = {key: value for key, value in self.public().items() if not sections or key in sections}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def public(self) -> dict[str, Any]:
        """As plain values, without the secrets that Spark's settings and callbacks' may hold: for all that is kept."""
        content = self.model_dump(mode="json")
        content["spark"]["conf"] = confidential.hidden(content["spark"]["conf"])
        content["train"]["callbacks"] = [confidential.hidden(item) for item in content["train"]["callbacks"]]
        return content

    def to_yaml(self) -> str:
        """The resolved config as YAML that :func:`resolve` reads back, without secrets."""
        return yaml.safe_dump(self.public(), sort_keys=False, allow_unicode=True)


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: The file is missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read config {path}: {error.strerror if isinstance(error, OSError) else 'it is not UTF-8 text'}"
        raise ConfigError(msg) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date such as 2026-99-99
        msg = f"config {path} is not YAML: {_of_yaml(error)}"
        raise ConfigError(msg) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        msg = f"config {path} is a {type(content).__name__}, not a mapping of keys; see conf/local.yaml"
        raise ConfigError(msg)
    return content


def _of_yaml(error: Exception) -> str:
    """What is wrong and where, without the lines of the file, which may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return type(error).__name__
    mark = error.problem_mark or error.context_mark
    told = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{told}, line {mark.line + 1}, column {mark.column + 1}" if mark else told


def override(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of ``content`` with ``key.subkey=value`` settings put in; values are read as YAML.

    Raises:
        ConfigError: A setting without ``=``, or a key below something that is not a mapping.
    """
    try:
        result = json.loads(json.dumps(dict(content), default=str))
    except TypeError as error:
        msg = f"config: {error}"
        raise ConfigError(msg) from error
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            shown = confidential.HIDDEN if confidential.is_secret(setting) else repr(setting)
            msg = f"--set takes key=value, not {shown}"
            raise ConfigError(msg)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            shown = confidential.HIDDEN if confidential.is_secret(key, text) else repr(text)
            msg = f"--set {key}: {shown} is not a YAML value"
            raise ConfigError(msg) from error
        # spark.conf holds dotted names of its own: everything after it is one key
        *sections, leaf = key.strip().split(".", 2) if key.startswith("spark.conf.") else key.strip().split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                msg = f"--set {key}: {section!r} is a value, not a section"
                raise ConfigError(msg)
        target[leaf] = value
    return dict(result)


def resolve(content: Mapping[str, Any], source: str = "config") -> Config:
    """The config of a mapping.

    Raises:
        ConfigError: Unknown keys, with the nearest known ones; values of a wrong type or out of range.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("; ".join(f"{source}: {_explain(detail)}" for detail in error.errors())) from error


def _explain(detail: Any) -> str:
    place = [str(part) for part in detail["loc"]]
    where = ".".join(place) or "top level"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {where!r}{hint(place[-1], _keys_of(place[:-1]))}"
    text = detail["msg"].removeprefix("Value error, ")
    given = f" (got {detail['input']!r})" if not isinstance(detail["input"], dict) else ""
    if any(confidential.is_secret(part) for part in place):
        given = ""
    return f"{where}: {text}{_CREDENTIALS.sub('//...@', confidential.without_credentials(given))}"


def _keys_of(place: list[str]) -> list[str]:
    model: Any = Config
    for part in place:
        if part.isdigit():
            model = GroupConfig
            continue
        if part not in model.model_fields:
            return []
        annotation = model.model_fields[part].annotation
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
    return list(model.model_fields)
