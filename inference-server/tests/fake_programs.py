"""Programs on a PATH of a test: a Python with both engines, which are the fake one, and profilers that write a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fake_tree import FAKE

PYTHON = f"""#!/bin/sh
case "$1 $2" in
  *inference-server-probe*)
    case "$2" in *"'vllm'"*) version=0.32.0 ;; *) version=0.5.23 ;; esac
    echo inference-server-probe 1 $version ;;
  "-m vllm."*|"-m sglang."*) exec "{sys.executable}" "{FAKE}" "$@" ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""

NSYS = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
echo "$@" >> "$here/nsys-arguments"
write() { [ -e "$here/nsys-writes-nothing" ] || echo profile > "$1"; }
case "$1" in
  launch)
    while [ "$1" != -- ]; do shift; done; shift
    "$@" ;;
  start)
    for word; do case "$word" in --output=*) echo "${word#--output=}" > "$here/nsys-output" ;; esac; done ;;
  stop)
    echo "Generating the report"
    write "$(cat "$here/nsys-output")" ;;
  profile)
    while [ "$1" != -- ]; do
      case "$1" in --output) report=$2 ;; -c | --capture-range=*) export FAKE_RANGES="$here/ranges" ;; esac
      shift
    done; shift
    "$@"
    if [ -z "$FAKE_RANGES" ]; then write "$report"; exit; fi
    number=0
    while read -r _; do number=$((number + 1)); write "${report%.nsys-rep}.$number.nsys-rep"; done < "$FAKE_RANGES" ;;
esac
"""

ROCPROF = """#!/bin/sh
echo "$@" > "$(dirname "$0")/rocprofv3-arguments"
while [ "$1" != -- ]; do [ "$1" = -d ] && folder=${2%%%*}; shift; done; shift
"$@"
mkdir -p "$folder/$$"
echo profile > "$folder/$$/profile_kernel_stats.csv"
"""

BACKEND = f"""#!/bin/sh
exec "{sys.executable}" "{FAKE}" "$@"
"""


def install(folder: Path) -> Path:
    """Write the programs into a folder; return it."""
    folder.mkdir(exist_ok=True)
    programs = {"python": PYTHON, "nsys": NSYS, "rocprofv3": ROCPROF, "my-backend-binary": BACKEND}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def path_with(folder: Path) -> str:
    """Return a PATH that has these programs first."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
