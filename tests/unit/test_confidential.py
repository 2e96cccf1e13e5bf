"""Which settings are secrets, and what is kept of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mlaas_spark import confidential
from mlaas_spark.confidential import HIDDEN, check_url, hidden, hide_arguments, is_secret, without_credentials
from mlaas_spark.config import read, resolve
from mlaas_spark.errors import ConfigError, FilesetError
from mlaas_spark.filesets import fileset
from mlaas_spark.storage import absolute

if TYPE_CHECKING:
    from pathlib import Path

SECRET = [
    "spark.hadoop.fs.s3a.access.key",
    "spark.hadoop.fs.s3a.secret.key",
    "spark.hadoop.fs.s3a.session.token",
    "spark.hadoop.fs.s3a.bucket.cms.secret.key",
    "spark.hadoop.fs.azure.account.key.a.blob.core.windows.net",
    "spark.hadoop.fs.s3a.encryption.key",
    "spark.authenticate.secret",
    "spark.ssl.keyPassword",
    "spark.ssl.ui.keyStorePassword",
    "spark.kubernetes.authenticate.submission.oauthToken",
    "spark.executorEnv.AWS_ACCESS_KEY_ID",
    "spark.executorEnv.AWS_SECRET_ACCESS_KEY",
    "spark.executorEnv.BEARER_TOKEN",
    "spark.hadoop.dfs.client.sasl.jaas.config",
    "Authorization",
]
OPEN = [
    "spark.master",
    "spark.executor.memory",
    "spark.kerberos.keytab",
    "spark.kerberos.principal",
    "spark.hadoop.fs.s3a.endpoint",
    "spark.sql.shuffle.partitions",
    "spark.eventLog.dir",
    "spark.hadoop.fs.s3a.path.style.access",
]


@pytest.mark.parametrize("name", SECRET)
def test_settings_that_are_secrets_are_hidden_by_us_and_by_spark(name: str) -> None:
    assert is_secret(name)
    assert hidden({name: "x"}) == {name: HIDDEN}
    assert re.search(confidential.NAMES, name)  # a pattern that Java takes too: no group that only Python has
    assert "(?P" not in confidential.NAMES


@pytest.mark.parametrize("name", OPEN)
def test_other_settings_are_kept(name: str) -> None:
    assert hidden({name: "4g"}) == {name: "4g"}


def test_a_secret_in_java_options_is_hidden_with_them() -> None:
    assert hidden({"spark.executor.extraJavaOptions": "-Da.password=x"}) == {"spark.executor.extraJavaOptions": HIDDEN}


def test_a_path_with_such_a_word_in_it_is_kept() -> None:
    assert hidden({"spark.local.dir": "/data/secret/token"}) == {"spark.local.dir": "/data/secret/token"}


def test_nested_settings_are_hidden_too() -> None:
    given = {"Log": {"headers": [{"Authorization": "Basic eHg="}], "path": "a"}}
    assert hidden(given) == {"Log": {"headers": [{"Authorization": HIDDEN}], "path": "a"}}


def test_command_lines_are_kept_without_secrets() -> None:
    given = ["--set", "spark.conf.spark.hadoop.fs.s3a.secret.key=abc=", "--events", "5", "root://u:pw@h//f?authz=ey"]
    kept = [
        "--set",
        f"spark.conf.spark.hadoop.fs.s3a.secret.key={HIDDEN}",
        "--events",
        "5",
        "root://...@h//f?authz=...",
    ]
    assert hide_arguments(given) == kept


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@host/f.root", "https://...@host/f.root"),
        ("s3://KEY:SECRET@bucket/f.parquet", "s3://...@bucket/f.parquet"),
        ("root://h:1094//f.root?authz=Bearer%20eyJ.a.b", "root://h:1094//f.root?authz=..."),
        ("root://h//f.root?x=1&xrd.token=abc&y=2", "root://h//f.root?x=1&xrd.token=...&y=2"),
        ("https://b/f?X-Amz-Credential=A&X-Amz-Signature=B", "https://b/f?X-Amz-Credential=...&X-Amz-Signature=..."),
        ("https://a.blob/f.root?sv=1&sig=abc", "https://a.blob/f.root?sv=1&sig=..."),
    ],
)
def test_urls_with_credentials_are_refused_wherever_they_are_given(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
    for refused in (
        lambda: check_url(url),
        lambda: absolute(url),
        lambda: fileset(resolve({"input": {"files": [url]}}).input),
    ):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert str(caught.value).startswith(f"{shown} holds a password or a token")
        assert not any(part in str(caught.value) for part in ("pass@", "SECRET@", "eyJ", "abc", "=A&", "=B"))


@pytest.mark.parametrize(
    "url", ["root://user@host:1094//store/f.root", "hdfs://nn:8020/a", "/data/a@b:c.root", "data/token.root", "a?b"]
)
def test_urls_without_are_taken(url: str) -> None:
    check_url(url)


def test_a_password_of_mlflow_is_refused_and_not_told() -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        resolve({"train": {"mlflow": "http://me:geheim@host:5000"}})
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "spark:\n  conf:\n    spark.hadoop.fs.s3a.secret.key: [geheim\n",
        "spark:\n  conf: {a.password: 'geheim}\n",
        "spark:\n  conf:\n    a.password: geheim: x\n",
        "spark:\n\tconf: geheim\n",
    ],
)
def test_a_broken_config_is_told_by_its_line_without_the_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is not YAML: .*, line \d+, column \d+") as caught:
        read(path)
    assert "geheim" not in str(caught.value)


def test_a_secret_of_a_wrong_type_is_not_told() -> None:
    with pytest.raises(ConfigError, match=r"spark\.conf\.a\.password") as caught:
        resolve({"spark": {"conf": {"a.password": ["geheim"]}}})
    assert "geheim" not in str(caught.value)


def test_digests_do_not_depend_on_secrets() -> None:
    one, two = (resolve({"spark": {"conf": {"a.password": value, "b": "1"}}}) for value in ("x", "y"))
    assert one.digest() == two.digest()
    assert one.digest("spark") != resolve({"spark": {"conf": {"a.password": "x", "b": "2"}}}).digest("spark")
    assert resolve({}).digest() != one.digest()


def test_a_list_of_files_may_not_hold_a_token(tmp_path: Path) -> None:
    path = tmp_path / "files.txt"
    path.write_text("root://h//f.root?authz=geheim\n")
    with pytest.raises((ConfigError, FilesetError)) as caught:
        fileset(resolve({"input": {"files": [str(path)]}}).input)
    assert "geheim" not in str(caught.value)
