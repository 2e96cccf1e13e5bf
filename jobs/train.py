"""spark-submit jobs/train.py: the same as `mlaas-spark train`, see its --help."""

from __future__ import annotations

import sys

from mlaas_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
