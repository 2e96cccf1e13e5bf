"""``python -m benchmarks.remote BUNDLE.tar.gz``: our client beside a plain load generator, on the same contract server.

The server has no rate limit here and a process of its own, and so has who asks. The generator writes requests that were
encoded before onto bare sockets; it is what the server alone can do.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from mlaas_spark.config import ServeConfig
from mlaas_spark.serving import proto
from mlaas_spark.serving.client import Client, Form
from mlaas_spark.serving.deploy import Archive

if TYPE_CHECKING:
    import numpy.typing as npt

_WHO = ("generator", "client")


def main() -> None:
    """Measure in turn, show medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--events", type=int, default=3_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ask", nargs=3, metavar=("WHO", "FORM", "PORT"), help="one measurement, in this process")
    given = parser.parse_args()
    if given.ask:
        who, form, port = given.ask
        measured = _measured(who, form, int(port), given.bundle, given.events, given.threads)
        sys.stdout.write(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as models, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        command = ["-m", "tests.serving.server", "--port", str(port), "--models", models, "--limit", "0"]
        server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE)  # noqa: S603
        try:
            assert server.stdout is not None  # noqa: S101 - it is a pipe
            server.stdout.readline()
            _client(port, given.threads).upload(given.bundle.read_bytes())
            _show(given, port)
        finally:
            server.terminate()
            server.wait()


def _show(given: argparse.Namespace, port: int) -> None:
    table = Table("form", "who", "requests a second", "lowest, highest", "CPU ms a request")
    for form in get_args(Form):
        found: dict[str, list[tuple[float, float]]] = {who: [] for who in _WHO}
        for _ in range(given.repeats):
            for who in _WHO:
                options = [
                    "--events",
                    str(given.events),
                    "--threads",
                    str(given.threads),
                    "--ask",
                    who,
                    form,
                    str(port),
                ]
                command = [sys.executable, "-m", "benchmarks.remote", str(given.bundle), *options]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603
                found[who].append(tuple(json.loads(done.stdout)))
        for who, measured in found.items():
            rates = [rate for rate, _ in measured]
            cpu = statistics.median(cpu for _, cpu in measured)
            spread = f"{min(rates):.0f}, {max(rates):.0f}"
            table.add_row(form, who, f"{statistics.median(rates):.0f}", spread, f"{1e3 * cpu:.2f}")
    Console().print(table)


def _client(port: int, threads: int) -> Client:
    return Client(ServeConfig(url=f"http://127.0.0.1:{port}", rate=None, concurrency=threads))


def _measured(who: str, form: Form, port: int, bundle: Path, events: int, threads: int) -> tuple[float, float]:
    """Requests a second, and CPU seconds of a request in this process."""
    archive = Archive.read(bundle)
    x = np.resize(archive.x, (events, archive.x.shape[1]))
    if who == "client":
        client = _client(port, threads)
        model = client.served(archive.name)
        client.predict(model, x[:threads], form)  # the server loads the model, the client connects
        began, cpu = time.perf_counter(), time.process_time()
        client.predict(model, x, form)
    else:
        requests = _requests(archive, x, form)
        _generate(port, requests[:threads], threads)
        began, cpu = time.perf_counter(), time.process_time()
        _generate(port, requests, threads)
    return events / (time.perf_counter() - began), (time.process_time() - cpu) / events


def _requests(archive: Archive, x: npt.NDArray[np.float32], form: Form) -> list[bytes]:
    keys, name = list(archive.served.columns), archive.name
    if form == "json":
        bodies = [json.dumps({"keys": keys, "values": row, "model": name}).encode() for row in x.tolist()]
    else:
        bodies = [proto.encode_names(keys, name) + proto.encode_values(row) for row in x.tolist()]
    head = b"POST /predict/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    return [head % (form.encode(), len(body)) + body for body in bodies]


def _generate(port: int, requests: list[bytes], threads: int) -> None:
    """Send requests on as many connections as threads."""
    failed: list[bytes] = []

    def ask(mine: list[bytes]) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for request in mine:
                connection.sendall(request)
                if not (answer := _answer(connection)).startswith(b"HTTP/1.1 200"):
                    failed.append(answer)
                    return

    asking = [threading.Thread(target=ask, args=(requests[number::threads],)) for number in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    if failed:
        raise SystemExit(failed[0].decode(errors="replace"))


def _answer(connection: socket.socket) -> bytes:
    """An answer to its end, by its Content-Length."""
    answer = b""
    while part := connection.recv(65_536):
        answer += part
        if (end := answer.find(b"\r\n\r\n")) > 0:
            length = int(answer[:end].lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(answer) >= end + 4 + length:
                break
    return answer


if __name__ == "__main__":
    main()
