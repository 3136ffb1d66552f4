"""runc without CAP_SYS_RESOURCE, for a Docker daemon on a machine that has not got it.

kind runs its nodes privileged, and Docker then asks for every capability that there is. Where the machine itself lacks
one, as many containers and small virtual machines do, runc cannot give it: `unable to apply caps: operation not
permitted`. This program takes it, and OOM scores below zero that need it, out of what Docker asks for, and becomes
runc. `docker_daemon` writes it into a file of its own; so it imports nothing of this package.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

LACKING = "CAP_SYS_RESOURCE"


def limit(process: dict[str, Any]) -> None:
    """Take what needs the capability out of the description of a process."""
    for capabilities in (process.get("capabilities") or {}).values():
        capabilities[:] = [name for name in capabilities if name != LACKING]
    if process.get("oomScoreAdj", 0) < 0:
        process["oomScoreAdj"] = 0


def description(arguments: Sequence[str]) -> tuple[str, Callable[[dict[str, Any]], dict[str, Any]]] | None:
    """Where a command of runc describes its process: the file, and how the process is found in it."""
    if "create" in arguments or "run" in arguments:
        bundle = arguments[arguments.index("--bundle") + 1] if "--bundle" in arguments else "."
        return os.path.join(bundle, "config.json"), lambda container: container["process"]
    if "exec" in arguments and "--process" in arguments:
        return arguments[arguments.index("--process") + 1], lambda process: process
    return None


def main(arguments: Sequence[str]) -> None:
    """Rewrite the description, if this command has one, and become runc."""
    if found := description(arguments):
        path, process_of = found
        with open(path) as file:
            whole = json.load(file)
        limit(process_of(whole))
        with open(path, "w") as file:
            json.dump(whole, file)
    os.execvp("runc", ["runc", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
