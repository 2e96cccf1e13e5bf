"""Ask a TFaaS server for scores: Python's own library, nothing of mlaas_spark.

    python tfaas_client.py ALIAS.json < events.jsonl

ALIAS.json is written by `mlaas-spark upload --promote`; an event is a line of JSON: {"column": value, ...}.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def score(server: http.client.HTTPConnection, path: str, model: str, event: dict[str, float]) -> list[float]:
    """Scores of one event; the limit of 100 requests a second (429) is waited for, three times."""
    row = json.dumps({"keys": list(event), "values": list(event.values()), "model": model}, allow_nan=False)
    for _ in range(4):
        server.request("POST", path, row, {"Content-Type": "application/json"})
        answer = server.getresponse()
        body = answer.read()  # to the end, so that the connection stays open
        if answer.status != 429:
            break
        time.sleep(float(answer.headers.get("Retry-After", 1)))
    if answer.status != 200:
        sys.exit(f"{answer.status} {answer.reason}: {body.decode()}")
    return json.loads(body)


alias = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
place = urlsplit(alias["url"])
kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
connection = kind(place.netloc, timeout=30)
for line in sys.stdin:
    print(score(connection, f"{place.path.rstrip('/')}/predict/json", alias["name"], json.loads(line)))
