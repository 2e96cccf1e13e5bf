"""spark-submit jobs/retrain.py: the same as `mlaas-spark retrain`, see its --help."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python looks first in this folder, where inspect.py would hide Python's own
    sys.path[:] = [folder for folder in sys.path if folder != str(Path(__file__).parent)]
    from mlaas_spark.cli import main

    sys.exit(main(["retrain", *sys.argv[1:]]))
