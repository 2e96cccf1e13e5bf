"""What this machine has of what mlaas_spark needs, each with how to mend it. Quick: no JVM is started.

No file is written but in a folder that the user names to be tried, and that file is removed.

A check takes what it looks at as arguments and gives a :class:`Check`; :func:`checks` looks at this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree as ET

from packaging.requirements import Requirement

from mlaas_spark import storage
from mlaas_spark.errors import MlaasSparkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

State = Literal["ok", "warn", "fail"]

_PYTHON = (3, 11)
_JAVA = 17
_JAVA_TOO = 21  # Spark 4.0 runs on it, we have not tried it
_MEMORY = 4 << 30
_CORES = 2
_DISK = 5 << 30
_ANSWER_S = 10
_PROXY_S = 3600


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one thing.

    Attributes:
        name: Of the thing.
        state: ``ok``; ``warn``: some work will not run, or not well; ``fail``: nothing will.
        found: What there is.
        mend: How to mend it; "" where nothing is to be mended.
    """

    name: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the work that is meant to be done asks for, beside the least.

    Attributes:
        hdfs: Files on HDFS.
        yarn: A cluster of Hadoop runs it.
        xrootd: Files on XRootD servers.
        proxy: The grid proxy that the config names.
    """

    hdfs: bool = False
    yarn: bool = False
    xrootd: bool = False
    proxy: Path | None = None

    @classmethod
    def of(cls, places: Iterable[str], master: str | None = None, proxy: Path | None = None) -> Needs:
        """By the URLs of what is read and written, and Spark's master."""
        schemes = {place.partition("://")[0] for place in places if "://" in place}
        xrootd = bool(schemes & {"root", "roots", "xroot", "xroots"})
        return cls("hdfs" in schemes, (master or "").startswith("yarn"), xrootd, proxy)


def checks(needs: Needs, writes: Sequence[str], tried: Sequence[str] = ()) -> list[Check]:
    """All checks of this machine.

    Args:
        needs: What the work asks for.
        writes: Folders that would be written: paths or URLs; nothing is written to find out.
        tried: Further ones, in which a small file is written and removed.
    """
    from mlaas_spark.spark.probe import memory_of_machine

    environment = os.environ
    return [
        python(sys.version_info[:3]),
        java(environment.get("JAVA_HOME"), _first_lines),
        *packages(requires("mlaas-spark") or [], _version),
        cores(available_cores()),
        memory(memory_of_machine()),
        *(writable(place) for place in dict.fromkeys([*writes, *scratch(environment)]) if place not in tried),
        *(written(place) for place in dict.fromkeys(tried)),
        hadoop(environment.get("HADOOP_CONF_DIR"), needed=needs.hdfs or needs.yarn),
        kerberos(ticket(environment), needed=needs.hdfs or needs.yarn),
        xrootd(_version, needed=needs.xrootd),
        proxy(proxy_file(environment, needs.proxy), proxy_end, datetime.now(UTC), needed=needs.proxy is not None),
    ]


def python(found: tuple[int, ...]) -> Check:
    """Its version: petastorm and pyarrow 14 want this one."""
    text = ".".join(map(str, found))
    if found[:2] == _PYTHON:
        return Check("Python", "ok", text)
    return Check("Python", "fail", text, "install Python 3.11 and make the environment anew with it")


def java(home: str | None, told: Callable[[Sequence[str]], str | None]) -> Check:
    """The Java that Spark will take: that of JAVA_HOME, else the shell's.

    Args:
        home: JAVA_HOME.
        told: What a command prints; None if there is none.
    """
    program = str(Path(home, "bin", "java")) if home else "java"
    where = f"of JAVA_HOME={home}" if home else "of the shell's PATH"
    install = "install it (Debian: apt install openjdk-17-jre-headless)"
    text = told([program, "-version"])
    if text is None:
        unset = ", or unset JAVA_HOME" if home else ", or set JAVA_HOME to where it is"
        return Check("Java", "fail", f"none {where}", f"{install}{unset}")
    match = re.search(r'version "(?:1\.)?(\d+)[^"]*"', text)
    found, major = (match.group(0).removeprefix("version "), int(match.group(1))) if match else (text[:60], 0)
    if major == _JAVA:
        return Check("Java", "ok", f"{found} {where}")
    if major == _JAVA_TOO:
        return Check("Java", "warn", f"{found} {where}", "Spark 4.0 runs on it, but ours is tried with Java 17 only")
    return Check("Java", "fail", f"{found} {where}", f"Spark 4.0 needs Java 17: {install}, and set JAVA_HOME to it")


def packages(wanted: Iterable[str], found: Callable[[str], str | None]) -> list[Check]:
    """Installed packages against the ranges that this package asks for: a line for each that is wrong, one if none is.

    Args:
        wanted: Requirements, as PEP 508 writes them; those of extras are left out.
        found: The installed version of a package, None if there is none.
    """
    needed = [Requirement(text) for text in wanted]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = []
    for one in needed:
        there = found(one.name)
        if there is None or not one.specifier.contains(there, prereleases=True):
            mend = f"pip install '{one.name}{one.specifier}'; with all others as tried: make demo, or requirements.lock"
            wrong.append(Check(f"package {one.name}", "fail", there or "not installed", mend))
    return wrong or [Check("packages", "ok", f"{len(needed)}, each in the range that is tried")]


def cores(found: float) -> Check:
    """How many processors the work gets."""
    text = f"{found:g}"
    if found >= _CORES:
        return Check("cores", "ok", text)
    return Check("cores", "warn", text, f"give the container or the batch job at least {_CORES}")


def available_cores(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Processors of this process: those it may run on, or what its control group grants of them."""
    allowed = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return min(allowed, int(quota) / int(period))
    except (OSError, ValueError):  # no control group of version 2, or "max": no limit
        return allowed


def memory(found: int) -> Check:
    """Bytes of memory, of this machine or the container it is."""
    text = f"{found / 1e9:.1f} GB"
    if found >= _MEMORY:
        return Check("memory", "ok", text)
    return Check("memory", "warn", text, "4 GB are the least: Spark's JVM, a Python worker a core, TensorFlow")


def scratch(environment: Mapping[str, str]) -> list[str]:
    """Folders where Spark and Python put what they cannot hold in memory."""
    local = environment.get("SPARK_LOCAL_DIRS", "")
    return local.split(",") if local else [tempfile.gettempdir()]


def writable(place: str) -> Check:
    """Whether a folder can be written, or made; nothing is written to find out. Of a server: whether it answers."""
    name = f"write {place}"
    try:
        path = storage.local_path(storage.absolute(place))
        if path is None:
            storage.exists(storage.absolute(place))
            return Check(name, "ok", "its server answers; to see whether you may write there, name it by --out")
    except MlaasSparkError as error:
        return Check(name, "fail", str(error), "choose a folder that you can reach: --set runs=FOLDER, --out FOLDER")
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        return Check(name, "fail", f"{nearest} is a file", "name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Check(name, "fail", f"you may not write in {nearest}", "choose another folder, or ask its owner")
    free = shutil.disk_usage(nearest).free
    text = f"{free / 1e9:,.1f} GB free" + ("" if nearest == path else f"; it would be made in {nearest}")
    if free < _DISK:
        return Check(name, "warn", text, "chunks are as large as the branches that are read: make room")
    return Check(name, "ok", text)


def written(place: str) -> Check:
    """As :func:`writable`, but a small file is written and removed, in the folder or the nearest above that is there.

    What only trying tells: rights on a server, quotas, a disk that is mounted to be read.
    """
    name = f"write {place}"
    try:
        folder = storage.absolute(place)
        nearest = _nearest(folder)
        file = storage.join(nearest, f".mlaas-spark-doctor-{uuid.uuid4().hex}")
        try:
            storage.write_atomic(file, b"mlaas-spark doctor tries whether it may write here\n")
        except MlaasSparkError:
            with suppress(MlaasSparkError):  # which hides no error that led here
                storage.remove(file)
            raise
        storage.remove(file)
    except MlaasSparkError as error:
        mend = "ask who owns the folder for the right to write there, or choose another: --out FOLDER"
        return Check(name, "fail", str(error), mend)
    above = "" if nearest == folder else f", in {nearest}: the folder itself is not there yet"
    known = writable(place) if storage.local_path(folder) is not None else None
    if known is not None and known.state != "ok":
        return known
    free = f"; {known.found.partition(';')[0]}" if known else ""
    return Check(name, "ok", f"a small file was written and removed{above}{free}")


def _nearest(folder: str) -> str:
    """The folder, or the nearest above it that is there; of a server at the least its root."""
    start, scheme, path = folder.rpartition("://")
    host, slash, inside = path.partition("/") if scheme else ("", "/", path.removeprefix("/"))
    parts = [part for part in inside.split("/") if part]
    for depth in range(len(parts), 0, -1):
        there = f"{start}{scheme}{host}{slash}{'/'.join(parts[:depth])}"
        if storage.is_folder(there):
            return there
    return f"{start}{scheme}{host}/"


def hadoop(folder: str | None, *, needed: bool) -> Check:
    """The Hadoop client's settings: which cluster hdfs:// and YARN mean."""
    name = "HADOOP_CONF_DIR"
    mend = "set it to the folder with core-site.xml (at CERN: source hadoop-setconf.sh CLUSTER, of the LCG view)"
    if not folder:
        return (
            Check(name, "warn", "not set", mend) if needed else Check(name, "ok", "not set; hdfs:// and YARN need it")
        )
    site = Path(folder) / "core-site.xml"
    if not site.is_file():
        return Check(name, "fail" if needed else "warn", f"{folder} has no core-site.xml", mend)
    try:
        properties = ET.parse(site).getroot().iter("property")  # noqa: S314 - the administrator's own file
        settings = {one.findtext("name", ""): one.findtext("value", "") for one in properties}
    except ET.ParseError as error:
        return Check(name, "fail", f"{site} is no XML: {error}", mend)
    default = settings.get("fs.defaultFS") or "no fs.defaultFS"
    return Check(name, "ok", f"{folder}: {default}")


def ticket(environment: Mapping[str, str]) -> bool | None:
    """Whether there is a Kerberos ticket that is still good; None if the machine has no Kerberos client to ask."""
    if (klist := shutil.which("klist", path=environment.get("PATH"))) is None:
        return None
    return subprocess.run([klist, "-s"], check=False, timeout=_ANSWER_S).returncode == 0  # noqa: S603 - klist


def kerberos(good: bool | None, *, needed: bool) -> Check:  # noqa: FBT001 - the answer is yes, no or none
    """The ticket by which a cluster knows the user."""
    name = "Kerberos ticket"
    if good:
        return Check(name, "ok", "there, and good")
    found = "no klist here to ask" if good is None else "none, or it is over"
    if not needed:
        return Check(name, "ok", f"{found}; only clusters that ask for one need it")
    return Check(name, "warn", found, "kinit USER@REALM; in a batch job: a keytab, spark.kerberos.keytab")


def xrootd(found: Callable[[str], str | None], *, needed: bool) -> Check:
    """The client for root:// files."""
    there = found("xrootd")
    if there:
        return Check("XRootD client", "ok", there)
    if not needed:
        return Check("XRootD client", "ok", "not installed; only root:// files need it")
    return Check("XRootD client", "fail", "not installed", "pip install 'mlaas-spark[xrootd]'")


def proxy_file(environment: Mapping[str, str], named: Path | None = None) -> Path:
    """Where the grid proxy is, as XRootD's client looks for it."""
    return named or Path(environment.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.getuid()}")  # noqa: S108 - the grid's


def proxy(path: Path, end: Callable[[Path], datetime | None], now: datetime, *, needed: bool) -> Check:
    """The grid proxy by which XRootD servers know the user, and how long it is good.

    Args:
        path: The file.
        end: Until when the certificate in a file is good; None if nobody can tell.
        now: The time.
        needed: The config names it.
    """
    name, make = "X.509 proxy", "voms-proxy-init --voms VO --valid 96:00"
    bad: State = "fail" if needed else "warn"
    if not path.exists():
        found = f"none at {path}"
        return Check(name, "fail", found, make) if needed else Check(name, "ok", f"{found}; only grid sites ask for it")
    if (mode := path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"{path} can be read by others (mode {stat.S_IMODE(mode):04o})"
        return Check(name, bad, found, f"chmod 600 {path}")
    if (until := end(path)) is None:
        return Check(name, "warn", f"{path}; openssl cannot read until when it is good", f"look at it, or {make}")
    left = (until - now).total_seconds()
    if left <= 0:
        return Check(name, bad, f"{path} was good until {until:%Y-%m-%d %H:%M} UTC", make)
    state: State = "ok" if left >= _PROXY_S else "warn"
    return Check(name, state, f"{path}, good for {left / 3600:.1f} h", "" if state == "ok" else make)


def proxy_end(path: Path) -> datetime | None:
    """Until when the first certificate of a PEM file is good; None if openssl cannot tell."""
    text = _first_lines(["openssl", "x509", "-noout", "-enddate", "-in", str(path)])
    match = re.search(r"notAfter=(.+)", text or "")
    return datetime.strptime(match.group(1).strip(), "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC) if match else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_lines(command: Sequence[str]) -> str | None:
    """What a program says on both outputs; None if it is not there or does not end."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + done.stderr
