"""An engine double for tests: answers as recorded vLLM 0.32.0 and SGLang 0.5.23 servers do, faults included.

In process: `running_double` (see `server`). As an image: `python -m engine_double` (see `cli`). `vllm` and `sglang`
hold what each engine does, `recordings/` what the real ones answered; a test compares the two, route by route.
Nothing here may import the product that is tested with it.
"""

from engine_double.server import Double, running_double
from engine_double.settings import EngineKind, Settings

__all__ = ["Double", "EngineKind", "Settings", "running_double"]
