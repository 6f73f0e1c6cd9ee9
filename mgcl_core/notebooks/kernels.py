"""The kernel of a headless notebook, and why a notebook ended."""

from __future__ import annotations

import builtins

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill import PapermillExecutionError
from traitlets import default

from ..support.ends import explain, explain_text, killed


class OwnKernelManager(AsyncKernelManager):
    """Starts this interpreter, whatever ``python3`` on JUPYTER_PATH may be: other packages give other results."""

    @default("kernel_spec_manager")
    def _no_folder_of_kernels(self) -> KernelSpecManager:
        return KernelSpecManager(parent=self, kernel_dirs=[])  # what is left is ipykernel's own, with this interpreter


def why_it_failed(error: Exception) -> str:
    """Where and why a notebook ended, the rest of a sentence."""
    if isinstance(error, PapermillExecutionError):
        reason = explain_text(error.ename, error.evalue)
        if reason is None:  # a class that Python does not have says all in its message, if it is ours
            reason = f"{error.ename}: {error.evalue}" if hasattr(builtins, error.ename) else error.evalue
        return f"in cell {error.exec_count}: {reason}"
    if isinstance(error, DeadKernelError):
        return f"early: {killed('its kernel')}"
    return f"early: {explain(error) or f'{type(error).__name__}: {error}'}"
