"""usercode: a function out of the user's file, and messages that say where the file is wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mlaas_spark.errors import ConfigError, MlaasSparkError, ModelContractError
from mlaas_spark.usercode import UserFile


def write(folder: Path, text: str, name: str = "my-model.py") -> UserFile:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return UserFile.read(path, ModelContractError)


def test_named_function_is_given_with_the_globals_of_its_file(tmp_path: Path) -> None:
    file = write(tmp_path, "SCALE = 3\ndef model(idim):\n    return SCALE * idim\n")
    assert file.function("model", ModelContractError)(14) == 42


def test_missing_function_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    file = write(tmp_path, "def modle(idim): pass\ndef loss(): pass\ndef _model(): pass\n")
    with pytest.raises(ModelContractError, match=r"my-model\.py has no function 'model'; nearest: modle$"):
        file.function("model", ModelContractError)


def test_name_that_is_not_a_function_counts_as_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelContractError, match="no function 'model'"):
        write(tmp_path, "model = 3\n").function("model", ModelContractError)


BAD = [
    ("x = 1\ndef model(idim:\n", r"my-model\.py, line 2: '\(' was never closed$"),
    ("x = 1\n\ny = 1 / 0\n", r"my-model\.py, line 3: ZeroDivisionError: division by zero$"),
    ("def f():\n    return {}['k']\n\nf()\n", r"my-model\.py, line 2: KeyError: 'k'$"),
    ("import no_such_module_at_all\n", r"my-model\.py, line 1: ModuleNotFoundError: No module named 'no_such_module"),
    ("import json\njson.loads('{')\n", r"my-model\.py, line 2: JSONDecodeError"),
    ("import sys\nsys.exit(3)\n", r"my-model\.py, line 2: SystemExit: 3$"),
    (
        "import os\nfrom MLaaS4HEP.jarray.pytorch import JaggedArrayLinear\n",
        r"line 2: imports MLaaS4HEP.*: write 'from mlaas_spark\.ml\.jagged_linear import JaggedArrayLinear' in its",
    ),
    (
        "from MLaaS4HEP.reader import parse\n",
        r"imports MLaaS4HEP.*: mlaas_spark does not need it, take that import out$",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
@pytest.mark.parametrize("kind", [ConfigError, ModelContractError])
def test_file_that_does_not_run_is_refused_by_line(
    tmp_path: Path, text: str, message: str, kind: type[MlaasSparkError]
) -> None:
    with pytest.raises(kind, match=message) as caught:
        write(tmp_path, text).function("model", kind)
    assert str(tmp_path) in str(caught.value)


def test_syntax_error_in_a_neighbour_names_the_neighbour(tmp_path: Path) -> None:
    (tmp_path / "broken_neighbour.py").write_text("def f(:\n")
    file = write(tmp_path, "import broken_neighbour\n")
    with pytest.raises(ModelContractError, match=r"broken_neighbour\.py, line 1: "):
        file.function("model", ModelContractError)


def test_a_file_knows_where_it_lies(tmp_path: Path) -> None:
    file = write(tmp_path, "from pathlib import Path\ndef model(idim):\n    return Path(__file__).parent\n")
    assert file.function("model", ModelContractError)(1) == tmp_path


def test_neighbours_can_be_imported_and_the_path_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neighbour_of_model.py").write_text("def layers():\n    return 7\n")
    monkeypatch.delitem(sys.modules, "neighbour_of_model", raising=False)
    before = list(sys.path)
    file = write(tmp_path, "from neighbour_of_model import layers\ndef model(idim):\n    return layers() + idim\n")
    assert file.function("model", ModelContractError)(1) == 8
    assert sys.path == before
    del sys.modules["neighbour_of_model"]


def test_path_is_as_before_after_a_failure_and_after_a_file_that_changed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    with pytest.raises(ModelContractError):
        write(tmp_path, "1 / 0\n").function("model", ModelContractError)
    assert sys.path == before
    file = write(tmp_path, "import sys\nsys.path.pop(0)\ndef model(idim):\n    return idim\n")
    assert file.function("model", ModelContractError)(5) == 5
    assert sys.path == before


def test_dataclasses_with_deferred_annotations_work_in_a_user_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass
        class Settings:
            width: int = 4

        def model(idim):
            return Settings().width * idim
        """,
    )
    before = set(sys.modules)
    assert file.function("model", ModelContractError)(2) == 8
    assert set(sys.modules) == before


def test_functions_of_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    one = write(tmp_path / "a", "K = 1\ndef model():\n    return K\n").function("model", ModelContractError)
    two = write(tmp_path / "b", "K = 2\ndef model():\n    return K\n").function("model", ModelContractError)
    assert (one(), two()) == (1, 2)


def test_user_file_works_in_a_process_that_does_not_have_it(tmp_path: Path) -> None:
    file = write(tmp_path, "def model(idim):\n    return idim * 2\n")
    Path(file.path).unlink()
    code = (
        "import pickle, sys\nfrom mlaas_spark.errors import ConfigError\n"
        "file = pickle.loads(sys.stdin.buffer.read())\nprint(file.function('model', ConfigError)(21))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(file), capture_output=True, check=True)  # noqa: S603
    assert done.stdout.strip() == b"42"


def test_failure_at_work_is_explained_by_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, "def preprocessing(rec):\n    rec = dict(rec)\n    return rec['x']\n")
    with pytest.raises(KeyError) as caught:
        file.function("preprocessing", ConfigError)({})
    assert file.explain(caught.value) == f"{file.path}, line 3: KeyError: 'x'"


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.py: No such file or directory"):
        UserFile.read(tmp_path / "none.py", ConfigError)
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        UserFile.read(tmp_path / "latin.py", ConfigError)


def test_first_of_several_functions_that_the_file_has_is_given(tmp_path: Path) -> None:
    file = write(tmp_path, "fast = 3\ndef slow(x): return x + 1\ndef other(x): return x\n")
    name, function = file.first_of(("fast", "slow", "other"), ConfigError)
    assert (name, function(1)) == ("slow", 2)
    with pytest.raises(ConfigError, match=r"has no function 'quick' or 'slwo'; nearest: slow$"):
        file.first_of(("quick", "slwo"), ConfigError)
