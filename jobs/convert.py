"""spark-submit jobs/convert.py: the same as `mlaas-spark convert`, see its --help."""

from __future__ import annotations

import sys

from mlaas_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
