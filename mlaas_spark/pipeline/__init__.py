"""Wires the verbs: config in, files out. The only package that sees both Spark and TensorFlow; no logic of its own.

Each module has one stage of the work; what callers use is named here. Spark and TensorFlow are imported when a verb
needs them.
"""

from __future__ import annotations

from mlaas_spark.pipeline.converting import convert
from mlaas_spark.pipeline.exporting import export
from mlaas_spark.pipeline.judging import Evaluated, evaluate, judge
from mlaas_spark.pipeline.looking import SAMPLE, Planned, doctor, inspect, inspect_headers, plan
from mlaas_spark.pipeline.preparing import chunks, reference, specs
from mlaas_spark.pipeline.probing import Explained, explain, throughput
from mlaas_spark.pipeline.publishing import RunResult
from mlaas_spark.pipeline.scoring import predict
from mlaas_spark.pipeline.serving import (
    Asking,
    deletable,
    delete,
    models,
    params,
    predict_image,
    predict_remote,
    rollback,
    rolled_back,
    serve_check,
    serve_check_remote,
    upload,
    uploadable,
)
from mlaas_spark.pipeline.trained import check_run
from mlaas_spark.pipeline.training import model_file, train
from mlaas_spark.pipeline.verifying import verify

__all__ = [
    "SAMPLE",
    "Asking",
    "Evaluated",
    "Explained",
    "Planned",
    "RunResult",
    "check_run",
    "chunks",
    "convert",
    "deletable",
    "delete",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "inspect",
    "inspect_headers",
    "judge",
    "model_file",
    "models",
    "params",
    "plan",
    "predict",
    "predict_image",
    "predict_remote",
    "reference",
    "rollback",
    "rolled_back",
    "serve_check",
    "serve_check_remote",
    "specs",
    "throughput",
    "train",
    "upload",
    "uploadable",
    "verify",
]
