"""Code that the user named: a function out of a Python file. Runs on the driver or, from its source, on executors."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlaas_spark.errors import MlaasSparkError, hint, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


@dataclass(frozen=True, slots=True)
class UserFile:
    """A Python file of the user; it holds the text, so that executors need not have the file."""

    path: str
    source: str

    @classmethod
    def read(cls, path: str | Path, error: type[MlaasSparkError]) -> Self:
        """The file at ``path``; ``error`` if it cannot be read."""
        try:
            return cls(str(Path(path).absolute()), Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as failure:
            why = failure.strerror if isinstance(failure, OSError) else "it is not UTF-8 text"
            msg = f"cannot read {path}: {why}"
            raise error(msg) from failure

    def check_syntax(self, error: type[MlaasSparkError]) -> None:
        """``error`` if the file is not Python; it is not run."""
        try:
            compile(self.source, self.path, "exec")
        except (SyntaxError, ValueError) as failure:
            raise error(self.explain(failure)) from failure

    def function(self, name: str, error: type[MlaasSparkError]) -> Callable[..., Any]:
        """The function ``name`` of the file, which is run once for it; ``error`` if that fails or it has none."""
        return self.first_of((name,), error)[1]

    @property
    def digest(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def first_of(self, names: tuple[str, ...], error: type[MlaasSparkError]) -> tuple[str, Callable[..., Any]]:
        """The first of ``names`` that is a function of the file, and the function; ``error`` as :meth:`function`."""
        return UserModule.of(self, error).first_of(names)

    def _run(self, error: type[MlaasSparkError]) -> ModuleType:
        stem = "".join(character if character.isidentifier() else "_" for character in Path(self.path).stem)
        loader = _SourceLoader(self)
        spec = importlib.util.spec_from_loader(f"mlaas_spark_user_{stem}", loader, origin=self.path)
        if spec is None:
            msg = f"{self.path} cannot be loaded as a Python module"
            raise error(msg)
        module = importlib.util.module_from_spec(spec)
        module.__file__ = self.path  # by which it finds files that lie beside it
        with self.neighbours(), _known(module):
            try:
                loader.exec_module(module)
            except (Exception, SystemExit) as failure:
                raise error(self.explain(failure)) from failure
        return module

    @contextmanager
    def neighbours(self) -> Iterator[None]:
        """Let the file, and what it calls while it runs, import modules that lie beside it."""
        folder = str(Path(self.path).parent)
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            if folder in sys.path:  # the file may have changed it
                sys.path.remove(folder)

    def explain(self, failure: BaseException) -> str:
        """Where in the file an error came from, and what it says."""
        if isinstance(failure, SyntaxError):
            return f"{failure.filename or self.path}, line {failure.lineno}: {failure.msg}"
        lines = [frame.lineno for frame in traceback.extract_tb(failure.__traceback__) if frame.filename == self.path]
        if isinstance(failure, ModuleNotFoundError) and (failure.name or "").split(".")[0] == "MLaaS4HEP":
            said = self.source.splitlines()[lines[-1] - 1] if lines and lines[-1] else ""
            if "jarray" in said:
                ours = "from mlaas_spark.ml.jagged_linear import JaggedArrayLinear"
                return f"{self.path}, line {lines[-1]}: imports {failure.name}: write {ours!r} in its place"
            return f"{self.path} imports {failure.name}: mlaas_spark does not need it, take that import out"
        extra = ""
        if isinstance(failure, ModuleNotFoundError) and failure.name == "torch" and "mlaas-spark" not in str(failure):
            extra = "; pip install 'mlaas-spark[torch]'"
        return f"{self.path}{f', line {lines[-1]}' if lines else ''}: {reason(failure)}{extra}"


@dataclass(frozen=True)
class UserModule:
    """A user's file that has been run, once, for all that is wanted of it.

    Attributes:
        file: It.
        module: What it has become.
        error: Raised where it lacks what is wanted.
    """

    file: UserFile
    module: ModuleType
    error: type[MlaasSparkError]

    @classmethod
    def of(cls, file: str | Path | UserFile | UserModule, error: type[MlaasSparkError]) -> UserModule:
        """Run a file, if that was not done yet; ``error`` if it cannot be read or fails."""
        if isinstance(file, UserModule):
            return file
        read = file if isinstance(file, UserFile) else UserFile.read(file, error)
        return cls(read, read._run(error), error)  # noqa: SLF001 - a module of one file is made here alone

    def function(self, name: str) -> Callable[..., Any]:
        """The function ``name``; ``error`` if there is none."""
        return self.first_of((name,))[1]

    def value(self, name: str) -> Any:
        """What is there under ``name``, None if nothing."""
        return getattr(self.module, name, None)

    def first_of(self, names: tuple[str, ...]) -> tuple[str, Callable[..., Any]]:
        """The first of ``names`` that is a function, and the function; ``error`` if none is."""
        for name in names:
            if callable(found := getattr(self.module, name, None)):
                return name, found
        functions = [key for key, value in vars(self.module).items() if callable(value) and not key.startswith("_")]
        wanted = " or ".join(repr(name) for name in names)
        msg = f"{self.file.path} has no function {wanted}{hint(names[-1], functions)}"
        raise self.error(msg)


class _SourceLoader(importlib.abc.InspectLoader):
    def __init__(self, file: UserFile) -> None:
        self._file = file

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 - signature of the base class
        return self._file.source

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_source(fullname), self._file.path)


@contextmanager
def _known(module: ModuleType) -> Iterator[None]:
    """While the file is run, let its classes find their module (dataclasses ask for it).

    Not longer: what stays out of ``sys.modules`` is pickled by value, which executors need.
    """
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        sys.modules.pop(module.__name__, None)
