"""What talks to a TFaaS server: upload, proof of what it stored, prediction, alias files. No Spark, no TensorFlow."""

from __future__ import annotations
