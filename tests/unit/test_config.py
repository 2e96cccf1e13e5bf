"""config: what is refused and how, overrides, and the digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlaas_spark import config
from mlaas_spark.config import Config, override, read, resolve
from mlaas_spark.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = [
    ({"trian": {}}, r"unknown key 'trian'; nearest: train"),
    ({"train": {"epoch": 3}}, r"unknown key 'train.epoch'; nearest: epochs"),
    ({"chunks": {"split": {"tset": 0.2}}}, r"unknown key 'chunks.split.tset'; nearest: test"),
    ({"input": {"groups": [{"files": "a.root"}, {"files": "b.root", "lable": 1}]}}, r"groups.1.lable'; nearest: label"),
    ({"input": {"zzz": 1}}, r"unknown key 'input.zzz'; there are: allow_copies, bad_files, branches"),
]


@pytest.mark.parametrize(("content", "message"), UNKNOWN)
def test_unknown_key_is_refused_and_the_nearest_one_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(content, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")


WRONG = [
    ({"train": {"epochs": "many"}}, "train.epochs"),
    ({"train": {"epochs": 0}}, "train.epochs"),
    ({"train": {"epochs": 1.5}}, "train.epochs"),
    ({"train": {"batch_size": None}}, "train.batch_size"),
    ({"train": {"mode": "epoch"}}, "train.mode"),
    ({"train": {"workers": 0}}, "train.workers"),
    ({"train": {"workers": 3, "shards": 2}}, "3 workers need a shard each, shards is 2"),
    ({"train": {"shards": 9, "batch_size": 8}}, "a batch of 8 events cannot be dealt to 9 shards: raise batch_size"),
    ({"train": {"patience": 0}}, "train.patience"),
    ({"train": {"patience": float("inf")}}, "train.patience"),
    ({"train": 3}, "train"),
    ({"input": None}, "input"),
    ({"input": {"format": "hdf5"}}, "input.format"),
    ({"input": {"events": 0}}, "input.events"),
    (
        {"input": {"files": ["a.root"], "groups": [{"files": "b.root"}]}},
        "one of 'files' or 'groups' or 'fileset', not several",
    ),
    ({"input": {"files": "a.root", "fileset": "f.json"}}, "'groups' or 'fileset', not several"),
    ({"input": {"groups": [{"files": "a", "weight": float("inf")}]}}, "weight: must be finite"),
    ({"input": {"groups": [{"files": "a", "label": float("nan")}]}}, "label: must be finite"),
    ({"input": {"groups": [{"label": 1}]}}, "groups.0.files"),
    ({"features": {"caps": {"Jet_pt": 0}}}, "cap is at least 1"),
    ({"features": {"normalise": "zscore"}}, "features.normalise"),
    ({"features": {"overrides": {"MET": "zscore"}}}, "features.overrides.MET"),
    ({"chunks": {"size": 0}}, "chunks.size"),
    ({"chunks": {"size": "some"}}, "chunks.size"),
    ({"chunks": {"seed": -1}}, "chunks.seed"),
    ({"serve": {"rate": 0}}, "serve.rate"),
    ({"serve": {"timeout": 0}}, "serve.timeout"),
    ({"serve": {"concurrency": 0}}, "serve.concurrency"),
    ({"serve": {"key": "key.pem"}}, "serve.key is given without serve.certificate"),
    ({"serve": {"url": "https://me:secret@host"}}, "serve.url: a user's name or password does not belong here"),
    ({"input": {"derive": ["HT"]}}, "input.derive: give NAME=EXPRESSION, not 'HT'"),
    ({"input": {"derive": {"a b": "x"}}}, "'a b' is no name for a branch"),
    ({"input": {"categories": {"channel": {True: 1}}}}, "channel has True for a category or for its number"),
    ({"input": {"categories": {"channel": {"a": False}}}}, "text such as yes, no, on needs quotes"),
    ({"input": {"categories": {"channel": {}}}}, "channel needs a finite number for each category"),
    ({"input": {"categories": {"channel": {"a": float("nan")}}}}, "channel needs a finite number for each category"),
    ({"input": {"categories": {"channel": ["a"]}}}, "input.categories.channel"),
    ({"input": {"columns": ["a", "b", "a"]}}, "input.columns: each column needs a name of its own, unlike 'a'"),
    ({"input": {"schema_policy": "union"}}, "input.schema_policy"),
    ({"input": {"timeout": 0}}, "input.timeout"),
    ({"input": {"retries": -1}}, "input.retries"),
    ({"input": {"redirector": "host:1094"}}, "input.redirector: give root://host or root://host:port"),
    ({"input": {"redirector": "root:///store"}}, "input.redirector"),
    ({"chunks": {"size": True}}, "chunks.size: must be a number, not true or false"),
    ({"train": {"epochs": True}}, "train.epochs: must be a number, not true or false"),
    ({"input": {"groups": [{"files": "a", "weight": False}]}}, "weight: must be a number"),
    ({"export": {"name": "my-model"}}, "export.name"),
    ({"name": "../up"}, "name"),
    ({"name": "run\n"}, "name"),
    ({"spark": {"conf": {"spark.x": [1]}}}, "spark.conf.spark.x"),
    ({1: 2}, "1"),
]


@pytest.mark.parametrize(("content", "place"), WRONG)
def test_wrong_types_and_values_are_refused_by_place(content: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(content)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_derived_branches_are_a_mapping_or_assignments() -> None:
    given = ["HT = sum(Jet_pt)", "is_b=Jet_id[0] == 5"]
    named = {"HT": "sum(Jet_pt)", "is_b": "Jet_id[0] == 5"}
    assert resolve({"input": {"derive": given}}) == resolve({"input": {"derive": named}})


def test_categories_are_text_whatever_yaml_makes_of_them_and_whole_numbers_stay_whole() -> None:
    made = resolve({"input": {"categories": {"id": {11: 0, "13": 1, 1.5: 0.5}}}}).input.categories
    assert made == {"id": {"11": 0, "13": 1, "1.5": 0.5}}
    assert [type(number) for number in made["id"].values()] == [int, int, float]


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"trian.*runz|runz.*trian"):
        resolve({"trian": 1, "runz": 2})


@pytest.mark.parametrize("shares", [(0.5, 0.3, 0.3), (0.5, 0.2, 0.2), (1.0, 0.1, 0.0)])
def test_shares_that_do_not_add_up_to_one_are_refused(shares: tuple[float, float, float]) -> None:
    split = dict(zip(("train", "validation", "test"), shares, strict=True))
    with pytest.raises(ConfigError, match=r"chunks.split: train \+ validation \+ test must be 1, not"):
        resolve({"chunks": {"split": split}})


def test_shares_are_compared_within_rounding() -> None:
    split = resolve({"chunks": {"split": dict.fromkeys(("train", "validation", "test"), 0.3333333333)}}).chunks.split
    assert split.train == 0.3333333333


@pytest.mark.parametrize("split", [{"train": 0.0, "validation": 0.5, "test": 0.5}, {"train": 1.2, "test": -0.36}])
def test_shares_outside_their_range_are_refused(split: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"chunks\.split\.train"):
        resolve({"chunks": {"split": split}})


def test_lists_may_be_given_as_one_comma_separated_text() -> None:
    made = resolve({"input": {"files": "a.root, b.root,", "branches": "MET_*,Jet_pt", "exclude": ["x,y"]}}).input
    assert (made.files, made.branches, made.exclude) == (("a.root", "b.root"), ("MET_*", "Jet_pt"), ("x,y",))
    assert resolve({"input": {"groups": [{"files": "a,b.root"}]}}).input.groups[0].files == ("a,b.root",)


@pytest.mark.parametrize(("given", "dealt"), [({}, 1), ({"workers": 3}, 3), ({"workers": 2, "shards": 4}, 4)])
def test_there_are_as_many_shards_as_workers_unless_more_are_asked_for(given: dict[str, int], dealt: int) -> None:
    assert resolve({"train": given}).train.dealt == dealt


def test_config_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 7  # type: ignore[misc]


def test_override_puts_values_where_the_dots_say_and_reads_them_as_yaml() -> None:
    content = {"train": {"epochs": 1, "shuffle": True}, "name": "a"}
    made = override(content, ["train.epochs=7", "input.branches=[MET, Jet_pt]", "chunks.split.test=0.1", "name=b=c"])
    assert made == {
        "train": {"epochs": 7, "shuffle": True},
        "name": "b=c",
        "input": {"branches": ["MET", "Jet_pt"]},
        "chunks": {"split": {"test": 0.1}},
    }
    assert content == {"train": {"epochs": 1, "shuffle": True}, "name": "a"}


def test_override_of_spark_conf_takes_the_rest_as_one_key() -> None:
    made = override({}, ["spark.conf.spark.sql.shuffle.partitions=8", "spark.master=local[2]"])
    assert made == {"spark": {"conf": {"spark.sql.shuffle.partitions": 8}, "master": "local[2]"}}


def test_spark_conf_values_may_be_numbers_and_booleans() -> None:
    settings = ["spark.conf.spark.a=8", "spark.conf.spark.b=true", "spark.conf.spark.c=0.5", "spark.conf.spark.d=2g"]
    conf = resolve(override({}, settings)).spark.conf
    assert conf == {"spark.a": "8", "spark.b": "true", "spark.c": "0.5", "spark.d": "2g"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.epochs"], "takes key=value"),
        (["=3"], "takes key=value"),
        (["name.x=3"], "'name' is a value, not a section"),
        (["name=[1"], "is not a YAML value"),
    ],
)
def test_override_that_cannot_be_put_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override({"name": "a"}, settings)


def test_override_refuses_keys_that_are_not_text() -> None:
    content: Any = yaml.safe_load("2020-01-01: 3")
    with pytest.raises(ConfigError, match="keys must be str"):
        override(content, ["name=b"])


@given(
    epochs=st.integers(1, 10**6),
    labels=st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))), max_size=3),
    description=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))),
    weight=st.floats(allow_nan=False, allow_infinity=False),
    size=st.one_of(st.just("all"), st.integers(1, 2**40)),
    caps=st.dictionaries(st.text(alphabet="Jet_pt.123", min_size=1), st.integers(1, 99), max_size=3),
)
def test_resolved_yaml_reads_back_as_the_same_config(
    epochs: int, labels: list[str], description: str, weight: float, size: int | str, caps: dict[str, int]
) -> None:
    made = resolve(
        {
            "train": {"epochs": epochs, "model": "m.py"},
            "export": {"labels": labels, "description": description},
            "input": {"groups": [{"files": ["a.root"], "weight": weight, "label": 1}]},
            "chunks": {"size": size},
            "features": {"caps": caps},
        }
    )
    again = resolve(yaml.safe_load(made.to_yaml()))
    assert again == made
    assert again.digest() == made.digest()


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    one = resolve({"features": {"caps": {"a": 1, "b": 2}, "nan": "error"}, "train": {"epochs": 2, "seed": 3}})
    two = resolve({"train": {"seed": 3, "epochs": 2}, "features": {"nan": "error", "caps": {"b": 2, "a": 1}}})
    assert one.digest() == two.digest()


def test_digest_changes_with_a_value_and_covers_only_the_named_sections() -> None:
    one, two = resolve({}), resolve({"train": {"epochs": 6}})
    assert one.digest() != two.digest()
    assert one.digest("train") != two.digest("train")
    assert one.digest("features", "chunks") == two.digest("features", "chunks")


BROKEN = [
    ("a: [1", "is not YAML"),
    ("- a\n- b\n", "is a list, not a mapping"),
    ("just words", "is a str, not a mapping"),
    ("!!python/object/apply:os.system ['true']", "is not YAML"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read config .*none\.yaml: No such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read(tmp_path / "latin.yaml")


def test_empty_config_file_means_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert resolve(read(tmp_path / "empty.yaml")) == Config()


def test_identifiers_are_those_of_the_design() -> None:
    assert config.IDENTIFIERS == ("run", "luminosityBlock", "event")
    assert Config().input.identifiers == config.IDENTIFIERS


@pytest.mark.parametrize(
    ("text", "size"),
    [("128MB", 128_000_000), ("1.5 kB", 1_500), ("2GiB", 2**31), ("4096", 4096), (4096, 4096), (None, None)],
)
def test_target_size_is_bytes_or_a_number_with_its_unit(text: str | int | None, size: int | None) -> None:
    assert resolve({"convert": {"target_size": text}}).convert.target_size == size


@pytest.mark.parametrize("text", ["128 M", "many", "-1MB", "0MB", 0, True, "MB"])
def test_target_size_of_no_size_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match=r"convert\.target_size"):
        resolve({"convert": {"target_size": text}})


def test_loss_and_optimizer_of_a_torch_model_are_one_name_each() -> None:
    train = resolve({"train": {"loss": "MSELoss", "optimizer": {"Adam": {"lr": 0.01}}}}).train
    assert (train.loss, train.optimizer) == ({"MSELoss": {}}, {"Adam": {"lr": 0.01}})
    with pytest.raises(ConfigError, match=r"train\.optimizer: give one name with its settings"):
        resolve({"train": {"optimizer": {"Adam": {}, "SGD": {}}}})
