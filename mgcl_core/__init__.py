"""MGCL: Modality-Granularity Collaborative Contrastive Learning for multimodal sentiment analysis.

The names here are the public ones; the rest of a module may change. Heavy imports wait until a name
is used, so that reading a corpus or a metric does not load torch.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# On a machine that is shared, threads that spin while they wait for each other cost many times what they save; threads
# that sleep at once cost a wake-up for each small operation. So they spin for some microseconds (docs/speed.md).
# Read when torch is loaded, so it must stand before that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Sums of cuBLAS come out the same every time only with a workspace of fixed size; read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_PUBLIC = {
    "load_corpus": "data",
    "Corpus": "data",
    "Split": "data",
    "table1": "data",
    "Config": "config",
    "preset": "config",
    "collaborative_contrastive_loss": "losses",
    "regression_metrics": "metrics",
    "Batch": "data.batches",
    "Output": "system",
    "System": "system",
    "MGCL": "model",
    "SYSTEMS": "experiments.registry",
    "Study": "experiments.study",
    "Run": "experiments.runs",
    "load_run": "experiments.runs",
    "load_model": "experiments.export",
    "MGCLError": "support.errors",
    "ConfigError": "support.errors",
    "CorpusError": "support.errors",
    "RunError": "support.errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
