"""spark-submit jobs/inspect.py: the same as `mlaas-spark inspect`, see its --help."""

from __future__ import annotations

import sys

from mlaas_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
