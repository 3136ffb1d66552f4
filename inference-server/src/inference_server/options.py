"""Reads the tables of the engines' options, once each, when they are first needed.

The files in `engine_options/` are of vLLM 0.32.0 and SGLang 0.5.23; `scripts/engine_options.py` writes such a file from
the parser of an installed engine. What is known about options that were removed is below; `arguments` uses both.
"""

from __future__ import annotations

import json
import pkgutil
from typing import Mapping

from inference_server.arguments import Kind, OptionTable, Retired

RETIRED: Mapping[str, Mapping[str, Retired]] = {
    "vllm": {
        "--disable-log-requests": Retired(
            "requests are not logged by default since vLLM 0.10.1, so it was left out; "
            "--enable-log-requests turns the log on",
            replacement=(),
        ),
        "--worker-use-ray": Retired("use --distributed-executor-backend ray"),
        "--engine-use-ray": Retired("use --distributed-executor-backend ray"),
        "--speculative-model": Retired("use --speculative-config with the key `model`"),
        "--num-speculative-tokens": Retired("use --speculative-config with the key `num_speculative_tokens`"),
        "--use-v2-block-manager": Retired("there is only one block manager today: leave it out"),
    },
    "sglang": {
        "--mem-fraction-reserved": Retired("SGLang has only --mem-fraction-static: the rest of the memory is reserved"),
    },
}

_tables: dict[str, OptionTable] = {}


def options_of(engine: str) -> OptionTable | None:
    """Return the table of an engine's options, or None for an engine without one."""
    if engine not in RETIRED:
        return None
    if engine not in _tables:
        data = pkgutil.get_data("inference_server", "engine_options/%s.json" % engine)
        assert data is not None
        content = json.loads(data.decode("utf-8"))
        kinds = {name: Kind(option["kind"]) for option in content["options"] for name in option["names"]}
        if engine == "vllm":
            kinds["-O"] = Kind.VALUE  # `-O3`: vLLM takes it apart before its parser sees it
        _tables[engine] = OptionTable(
            engine=engine,
            version=content["version"],
            kinds=kinds,
            retired=RETIRED[engine],
            underscores=engine == "vllm",
            dotted=engine == "vllm",
        )
    return _tables[engine]
