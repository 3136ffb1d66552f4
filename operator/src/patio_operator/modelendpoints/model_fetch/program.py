"""The program that has the sidecar fetch the model, and then becomes the engine.

Runs in the engine's container as `python3 -c TEXT URI FOLDER COMMAND...`, where TEXT is this module: so it
needs Python 3.8 and the standard library alone, imports nothing of Patio's, and has no dollar sign, which Kubernetes
would read as a reference. It repeats what can be repeated, prints the sidecar's message, and ends with 1 when the
sidecar says that the download cannot succeed. The engine does not get the variables, which may hold credentials.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

PREFIX = "PATIO_SOURCE_"
LONGEST_PAUSE = 30.0
ANSWER_SECONDS = 30.0


def main() -> None:
    """Have the model fetched, then start the engine in place of this program."""
    source, folder, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    sidecar = os.environ.pop(PREFIX + "SIDECAR", "http://localhost:9091")
    names = [name for name in os.environ if name.startswith(PREFIX)]
    values = {name[len(PREFIX) :].lower(): os.environ.pop(name) for name in names}
    config = json.dumps({key: value for key, value in values.items() if value})
    order = {"source": source, "output_dir": folder, "config": config, "async_download": True}
    pause, printed = 1.0, ""
    while True:
        report = call(sidecar + "/v1/download_model", order)
        while report.get("state") in ("Queued", "Running", "Waiting"):
            time.sleep(1.0)
            report = call(sidecar + "/v1/downloads/" + str(report.get("id")))
        if report.get("state") == "Succeeded":
            os.execvp(command[0], command)  # noqa: S606 - the engine's own command, without a shell
        error = report.get("error") or failed("The download ended: " + str(report.get("state")))["error"]
        if error["message"] != printed:
            printed = error["message"]
            print("model " + source + ": " + printed, file=sys.stderr, flush=True)
        if not error.get("retryable", True):
            sys.exit(1)
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def call(url: str, body: Any = None) -> Any:
    """Return what the sidecar answers; an error in the sidecar's own shape if it does not."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - the pod itself
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - as above
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            return json.load(error)
        except ValueError:
            return failed("The sidecar answered with status " + str(error.code) + ".")
    except (OSError, ValueError) as error:
        return failed("The sidecar does not answer: " + str(error))


def failed(message: str) -> Any:
    """Return an error as the sidecar writes it, after which the order is repeated."""
    return {"error": {"message": message, "retryable": True}}


if __name__ == "__main__":
    main()
