"""The Spark session, and errors that cross from executors to the driver."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import re
import signal
import stat
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote
from zipimport import zipimporter

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext, SparkFiles, TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from mlaas_spark import confidential, interrupts
from mlaas_spark.errors import ConfigError, MlaasSparkError, UnreadableInputError, from_text, reason, to_text
from mlaas_spark.memory import keep_freed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pyspark.sql import DataFrame

    from mlaas_spark.config import SparkConfig

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)

_PARTITIONS_PER_CORE = 4
_modules_frozen = 0
_MARK = "mlaas_spark error "
_MARKED = re.compile(re.escape(_MARK) + r"(\[.*\])$", re.MULTILINE)
_READERS = re.compile(
    r"\[(?:MALFORMED_RECORD|FAILED_READ_FILE|CANNOT_READ_FILE|INVALID_JSON_RECORD|PARQUET_TYPE_ILLEGAL"
    r"|PARQUET_TYPE_NOT)[\w.]*\] *(.*)"
)
_SERVERS = re.compile(
    r"(?:java\.net\.\w+|java\.io\.EOFException|org\.apache\.hadoop\.(?:hdfs|ipc|security)\.[\w.$]+"
    r"|java\.io\.IOException)(?:\([\w.$]+\))?: "
    r"((?:Call From|End of File|Invalid host name|Failed on local|DestHost|Could not obtain block)"
    r"[^;\n]*)"
)
"""What Hadoop's client says where a server is gone (org.apache.hadoop.net.NetUtils.wrapException)."""
_NAMED_FILE = re.compile(r"reading file (\S+)\.\s")
_CODES = re.compile(r"\[[A-Z0-9_.]+\] *| *SQLSTATE: \w+")
_LONGEST = 300
_CAUSE = re.compile(r"^Caused by: [\w.$]+: (.+)$", re.MULTILINE)
_DEFAULTS = {
    # as SQL's Python workers have it: with the same environment those of RDDs are the same processes
    "spark.executorEnv.SPARK_SIMPLIFIED_TRACEBACK": "1",
    # Spark starts its workers by python -m, which would import modules out of the current folder first: a numpy.py
    # that lies beside the data would run
    "spark.executorEnv.PYTHONSAFEPATH": "1",
    # what Spark leaves out of its event log and web pages; its own pattern knows access.key but not access_key
    "spark.redaction.regex": confidential.NAMES,
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "64",
    "spark.ui.showConsoleProgress": "false",
}
_MADE = pa.schema([("made", pa.binary())])
_QUIET = f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties').as_uri()}"
_PROXY = "mlaas_spark.x509_proxy"  # property of our jobs: name of the grid proxy among the files that Spark ships
_DAEMON = {"spark.python.daemon.module": "mlaas_spark.spark.daemon"}
"""For masters on this machine: elsewhere the package may come to the executors later than the daemon."""

_UNHEARD = b"_PYSPARK_DRIVER_CONN_INFO_PATH="  # in the environment of a JVM that pyspark waits for

_LOCAL_DEFAULTS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
}


def session(config: SparkConfig, name: str, meanwhile: Callable[[], object] | None = None) -> SparkSession:
    """The active session if there is one (a notebook's), else a new one; spark-submit's options win over the config's.

    Args:
        config: The settings.
        name: Of the application.
        meanwhile: What a thread of its own does from when the JVM is there, and may go on with after the return.

    Raises:
        ConfigError: No session could be started, Java missing for example; a grid proxy that others can read.
    """
    _check_given(config.conf)
    spark = SparkSession.getActiveSession() or _started(config, name, meanwhile or _nothing)
    if config.x509_proxy is not None:
        _ship_proxy(spark, config.x509_proxy)
    return spark


def _check_given(conf: Mapping[str, str]) -> None:
    """The config is not one that a run folder keeps, which has no secrets."""
    if lost := [key for key, value in conf.items() if value == confidential.HIDDEN]:
        msg = (
            f"spark.conf.{lost[0]} is a secret, which run folders do not keep: give it again, or by spark-submit --conf"
        )
        raise ConfigError(msg)


def _nothing() -> None:
    """To be done meanwhile."""


def _started(config: SparkConfig, name: str, meanwhile: Callable[[], object]) -> SparkSession:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    verbose = _log.isEnabledFor(logging.DEBUG)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has started the JVM and knows the master
    builder = SparkSession.builder.appName(name)
    settings = {**_DEFAULTS, **config.conf}
    master = config.master or "local[*]"
    if not submitted:
        settings["spark.master"] = _with_retry(master)
        if master.startswith("local"):
            settings = {**_LOCAL_DEFAULTS, **settings}
        if not verbose:
            settings.setdefault("spark.driver.extraJavaOptions", _QUIET)
    try:
        given = SparkConf() if submitted else None  # to make one starts a JVM, which would not know our settings
        if (master if given is None else given.get("spark.master", "")).startswith("local"):
            settings = {**_DAEMON, **settings}
        if given is None:
            # which starts the JVM, by a fork: while other threads run that would not be safe. Its command line is for
            # all users of the machine to see; what is a secret comes by the session's config
            told = [(key, value) for key, value in settings.items() if not confidential.is_secret(key, value)]
            with _no_jvm_left():
                SparkContext._ensure_initialized(conf=SparkConf().setAll(told))  # noqa: SLF001
        threading.Thread(target=meanwhile, name="meanwhile").start()
        for key, value in settings.items():
            if given is None or not given.contains(key):
                builder = builder.config(key, value)
        of_interrupts = interrupts.handler()
        spark = builder.getOrCreate()
        interrupts.keep_handler(of_interrupts)  # pyspark's own asks the JVM first, which may not answer
    except (PySparkException, Py4JError, OSError) as error:
        msg = f"cannot start Spark ({reason(error)}): Java 17 must be installed and JAVA_HOME, if set, must point to it"
        raise ConfigError(msg) from error
    if not verbose:
        # our errors come with their own messages; Spark's stack traces are for --debug
        spark.sparkContext.setLogLevel("OFF")
    return spark


@contextmanager
def _no_jvm_left() -> Iterator[None]:
    """End a JVM that starts, if we do not stay to hear of it.

    It ends with us once it has told where it listens. Interrupted before, pyspark removes the folder of that message,
    and the JVM, which cannot write it, listens for ever.
    """
    try:
        yield
    except KeyboardInterrupt:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is another user's
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and _UNHEARD in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        raise


def _ship_proxy(spark: SparkSession, proxy: Path) -> None:
    """Have Spark bring the grid proxy to the executors, and tell the jobs of this thread under what name.

    Its file server reads the user's own file: an executor that comes later gets a renewed one.
    """
    try:
        mode = proxy.stat().st_mode
    except OSError as error:
        msg = f"no grid proxy at {proxy} ({error.strerror}): make one with voms-proxy-init, or unset spark.x509_proxy"
        raise ConfigError(msg) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        msg = f"the grid proxy {proxy} can be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 {proxy}"
        raise ConfigError(msg)
    spark.sparkContext.addFile(str(proxy.absolute()))
    spark.sparkContext.setLocalProperty(_PROXY, proxy.resolve().name)


def _with_retry(master: str) -> str:
    """``local[N]`` with a second try for a task, as a cluster gives it.

    Spark up to 4.0 has a race (SPARK-54217): the monitor of a task that was interrupted, as the others are when one
    fails, may close a Python worker that was handed on to the next task, which then dies of a CancelledKeyException.
    That fits the one time it was seen here; it could not be made to happen again. The next try gets another worker.
    """
    return re.sub(r"^local\[(\d+|\*)\]$", r"local[\1,2]", master)


def numbers(spark: SparkSession, count: int) -> DataFrame:
    """The numbers 0 ... ``count`` - 1 in the column ``id``, neighbours in one partition.

    The JVM makes them: a DataFrame of Python's rows costs a Python task for each partition before the work begins.
    """
    return spark.range(0, count, 1, partitions(spark, count))


def spread(spark: SparkSession, items: Sequence[T], work: Callable[[Iterator[T]], Iterable[R]]) -> list[R]:
    """All that ``work`` makes of the items on executors, in order; neighbours come to one call.

    By an RDD: no rows go through Spark, and its SQL engine would cost 3 s of CPU at the first job, 0.1 s at each other.
    """

    def run(some: Iterable[T]) -> Iterator[R]:
        with on_executor():
            yield from work(iter(some))

    with received():
        made: list[R] = (
            spark.sparkContext.parallelize(items, partitions(spark, len(items))).mapPartitions(run).collect()
        )
    return made


def gathered(rows: DataFrame, work: Callable[[Iterator[pa.RecordBatch]], Iterable[R]]) -> list[R]:
    """As :func:`spread`, of the rows of a DataFrame."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with on_executor():
            for made in work(iter(batches)):
                yield pa.RecordBatch.from_arrays([pa.array([pickle.dumps(made)], pa.binary())], schema=_MADE)

    with received():
        found = rows.mapInArrow(run, from_arrow_schema(_MADE)).collect()
    return [pickle.loads(row.made) for row in found]  # noqa: S301 - our own executors made it


def partitions(spark: SparkSession, count: int) -> int:
    """In how many partitions to do ``count`` pieces of work: a few for each core, so that few wait at the end."""
    return max(1, min(count, _PARTITIONS_PER_CORE * spark.sparkContext.defaultParallelism))


@contextmanager
def on_executor() -> Iterator[None]:
    """All of ours that runs on an executor runs in this: our errors travel to the driver, the worker stays quick."""
    try:
        keep_freed()
        _take_proxy()
        yield
    except MlaasSparkError as error:
        msg = f"{error}\n{_MARK}{to_text(error)}"  # the sentence for who sees Spark's error, the mark for received()
        raise RuntimeError(msg) from None
    finally:
        _forget_archives()
        _freeze_imports()


def _take_proxy() -> None:
    """Let XRootD's client find the grid proxy, if Spark brought one.

    Spark lets everybody read and execute what it brings; the client takes no proxy that others can read.
    """
    task = TaskContext.get()
    if task is not None and (name := task.getLocalProperty(_PROXY)):
        proxy = Path(SparkFiles.get(name))
        proxy.chmod(stat.S_IRUSR | stat.S_IWUSR)
        os.environ["X509_USER_PROXY"] = str(proxy)


def _forget_archives() -> None:
    """Drop the import system's finders of archives; it makes them again when it needs them.

    Before each task Spark's worker invalidates all finders (pyspark.worker_util.setup_spark_files), and those of
    Spark's jar and pyspark.zip, a finder for each package in them, then read the archives anew: 90 ms a task.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            sys.path_importer_cache.pop(path, None)


def _freeze_imports() -> None:
    """Once for each package newly imported: what lives now is no garbage, and is not looked through again.

    After each task Spark's daemon runs a full garbage collection (pyspark.daemon), and uproot, awkward, numba and
    pyarrow have made a million objects: 120 ms a task.
    """
    global _modules_frozen  # noqa: PLW0603 - of the process, as the garbage collector is
    if len(sys.modules) > _modules_frozen:
        gc.collect()
        gc.freeze()
        _modules_frozen = len(sys.modules)


@contextmanager
def received(what: str = "the input") -> Iterator[None]:
    """On the driver: raise the executor's error as itself; an error of Spark's own readers as unreadable input."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        text = str(error)
        if found := _MARKED.search(text):
            raise from_text(found.group(1)) from error
        if (why := unreadable(error)) is not None:
            raise UnreadableInputError(file_of(error) or what, why) from error
        raise


def unreadable(error: Exception) -> str | None:
    """What Spark's readers say of a file that they cannot read, in plain words; None for any other error."""
    text = str(error)
    if _MARKED.search(text):
        return None
    if said := _SERVERS.search(text):
        return f"its server does not answer ({said.group(1)[:_LONGEST]}): run it again when it is there"
    if not (told := _READERS.search(text)):
        return None
    causes = [cause for cause in _CAUSE.findall(text) if not _READERS.match(cause)]
    why = _CODES.sub("", causes[-1] if causes else told.group(1)).strip()
    return why[:_LONGEST] or "Spark could not read it"


def file_of(error: Exception) -> str | None:
    """The file that an error of Spark's readers names, as a local path or a URL; None if it names none."""
    named = _NAMED_FILE.search(str(error))
    return local(named.group(1)) if named else None


def local(url: str) -> str:
    """A path as the user would write it, from Spark's URL of it: local ones without ``file:``, nothing quoted."""
    return unquote(unschemed(url))


def unschemed(path: str) -> str:
    """A path of the user without ``file://``."""
    return re.sub(r"^file:(//(?=/))?", "", path)


def literal(path: str) -> str:
    """A path in which Spark sees no glob."""
    return re.sub(r"([\\{}\[\]*?])", r"\\\1", path)


def quoted(name: str) -> str:
    """A column's name in which Spark sees no dots and quotes."""
    return f"`{name.replace('`', '``')}`"
