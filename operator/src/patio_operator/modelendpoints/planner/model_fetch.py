"""The program that has the sidecar fetch the model, and then becomes the engine: text, for `python3 -c`.

Engines read `s3://` and `obs://` each in a way of their own, or not at all; the sidecar fetches both, resumes, and says
how far it is. The program needs nothing but Python's standard library, which every image of an engine has. It repeats
what can be repeated, prints the sidecar's words, and ends with 1 when the sidecar says that it cannot succeed. The
engine does not see its variables, which may hold credentials. `planner.engine_commands` puts it before the engine's
command.
"""

from __future__ import annotations

PREFIX = "PATIO_SOURCE_"
"""Of the variables that it reads: the keys of `config` of the sidecar's `POST /v1/download_model`, in capitals."""
SIDECAR = f"{PREFIX}SIDECAR"
"""The sidecar's base URL."""

# It is an argument of a container, where Kubernetes replaces a dollar sign and parentheses: it has none.
PROGRAM = """\
import json, os, sys, time, urllib.error, urllib.request
prefix = "PATIO_SOURCE_"
sidecar = os.environ.pop(prefix + "SIDECAR", "http://localhost:9091")
found = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(prefix)}
config = {name[len(prefix):].lower(): value for name, value in found.items() if value}
source, folder, command = sys.argv[1], sys.argv[2], sys.argv[3:]
def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(sidecar + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            return json.load(error)
        except ValueError:
            return {"error": {"message": "the sidecar answered " + str(error.code), "retryable": True}}
    except (OSError, ValueError) as error:
        return {"error": {"message": "the sidecar does not answer: " + str(error), "retryable": True}}
order = {"source": source, "output_dir": folder, "config": json.dumps(config), "async_download": True}
pause, said = 1, ""
while True:
    report = call("/v1/download_model", order)
    while report.get("state") in ("Queued", "Running", "Waiting"):
        time.sleep(1)
        report = call("/v1/downloads/" + report["id"])
    if report.get("state") == "Succeeded":
        os.execvp(command[0], command)
    error = report.get("error") or {"message": "the download ended: " + str(report.get("state")), "retryable": True}
    if error["message"] != said:
        said = error["message"]
        print("model " + source + ": " + said, file=sys.stderr, flush=True)
    if not error.get("retryable", True):
        sys.exit(1)
    time.sleep(pause)
    pause = min(pause * 2, 30)
"""
