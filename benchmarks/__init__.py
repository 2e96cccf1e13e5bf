"""Our stages measured beside their peers, in the same run on the same files: ``make bench``."""

from __future__ import annotations
