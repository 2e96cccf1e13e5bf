"""spark-submit jobs/specs.py: the same as `mlaas-spark specs`, see its --help."""

from __future__ import annotations

import sys

from mlaas_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["specs", *sys.argv[1:]]))
