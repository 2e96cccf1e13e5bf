"""Fuzzing led by coverage: ``python -m tests.fuzz NAME [options of libFuzzer]``, which `make fuzz` does for each name.

The documents and what reads them are those of ``tests.unit.test_fuzz``. An exception that is none of ours ends it; the
input that raised it is kept in a file, which it names. Source: https://github.com/google/atheris
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

# numba compiles the kernels from their bytecode
with atheris.instrument_imports(include=["mlaas_spark"], exclude=["mlaas_spark.kernels"]):
    from mlaas_spark.errors import MlaasSparkError
    from mlaas_spark.selection import Expression
    from tests.unit.test_fuzz import DOCUMENTS, outcome

EXPRESSION = "expression"
SEEDS = (b"count(Muon_pt) >= 2 && max(Muon_pt) > 25", b"Jet_pt[Jet_eta < 2.4]", b"!(x == -1.5e3) || any(y)")


def parse(content: bytes) -> None:
    """An expression is parsed, or refused by name."""
    with suppress(MlaasSparkError):
        Expression.parse(content.decode(errors="replace"))


def main(name: str, options: list[str]) -> None:
    """Fuzz one document until the options of libFuzzer say that it is enough."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for place, seed in enumerate(SEEDS if name == EXPRESSION else (DOCUMENTS[name][0],)):
        (corpus / str(place)).write_bytes(seed)
    path = folder / name

    def read(content: bytes) -> None:
        path.write_bytes(content)
        outcome(DOCUMENTS[name][1], path)

    atheris.Setup([sys.argv[0], *options, str(corpus)], parse if name == EXPRESSION else read)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
