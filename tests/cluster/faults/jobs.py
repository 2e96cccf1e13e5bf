"""A driver that does one order after the other, so that a JVM serves many faults: ``python -m ...jobs CONFIG``.

An order is a line of JSON on the input: verb and folder; the answer a line on the output that begins with ``=``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from mlaas_spark import storage
from mlaas_spark.config import resolve
from mlaas_spark.errors import MlaasSparkError
from mlaas_spark.filesets import fileset
from mlaas_spark.spark import chunks, convert, specs
from mlaas_spark.spark.ingest import open_events
from mlaas_spark.spark.session import session
from mlaas_spark.transform import FeatureTransform

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from mlaas_spark.config import Config
    from mlaas_spark.manifest import Manifest


def serve(content: dict[str, Any]) -> None:
    """Start a session and do the orders."""
    config = resolve(content)
    spark = session(config.spark, "faults")
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        _say({"order": order["order"], "began": True})
        began = time.monotonic()
        try:
            files = {"input": {"groups": order["groups"]}} if "groups" in order else {}
            answer = _done(spark, resolve({**content, **files}), order["verb"], order["out"])
        except MlaasSparkError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        _say({"order": order["order"], **answer, "seconds": time.monotonic() - began})
    spark.stop()


def _done(spark: SparkSession, config: Config, verb: str, out: str) -> dict[str, Any]:
    events = open_events(spark, fileset(config.input), config.input, config.spark.events_per_task)
    if verb == "convert":
        return _of(convert.convert(events, out))
    names = [name for name in events.plan.schema.names if name not in config.input.identifiers]
    made, counted = specs.compute(events, names, quantiles=["MET_pt"])
    if verb == "specs":
        text = made.dumps()
        storage.write_atomic(storage.join(out, "specs.json"), text.encode())
        return {"digest": hashlib.sha256(text.encode()).hexdigest(), "ledger": {"events": made.specs.events}}
    transform = FeatureTransform.of(made.specs, config.features)
    request = chunks.ChunkRequest(config.chunks, transform, config.input.identifiers, None, 64, "specs")
    return _of(chunks.build(counted, request, out))


def _of(manifest: Manifest) -> dict[str, Any]:
    return {"digest": manifest.content_digest, "ledger": manifest.ledger}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"={json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
