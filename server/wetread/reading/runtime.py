"""ONNX Runtime in this process; the only module that imports it.

Synchronous and CPU- or GPU-bound: call it from the inference process, never on the event loop. Making a session holds
the GIL, so `open` every model before the work begins. One session per model, shared by threads (Run is thread-safe).
"""

from __future__ import annotations

import os
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wetread.errors import Misconfigured, Refused, Unsupported
from wetread.reading.models import ModelPackage

# Else it opens a store of its own in the home directory and sends usage to its maker (its Privacy.md).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

Device = Literal["auto", "cpu", "cuda"]
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ONLY = 3


class Runtime:
    """Sessions by content digest. `threads` are those of one operator; give each worker cores / workers of them.

    Raises Misconfigured when `device` is `cuda` and the installed wheel has no CUDA.
    """

    def __init__(self, device: Device = "auto", threads: int = 1) -> None:
        available = onnxruntime.get_available_providers()
        if device == "cuda" and _CUDA not in available:
            raise Misconfigured(
                "device: cuda is configured, but the installed onnxruntime has no CUDA; install wetread[gpu] and "
                "remove the CPU wheel (both together lose CUDA)"
            )
        if threads < 1:
            raise Misconfigured("threads: expected 1 or more")
        self._device = device
        self._threads = threads
        self._wanted = _CUDA if device != "cpu" and _CUDA in available else _CPU
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        if self._wanted == _CUDA:
            onnxruntime.preload_dlls()

    def open(self, package: ModelPackage) -> Any:
        """The session of the package. Raises Misconfigured where ONNX Runtime refuses the file or the device."""
        digest = package.identity.digest
        with self._lock:
            if digest not in self._sessions:
                self._sessions[digest] = self._session(package)
            return self._sessions[digest]

    def run(self, package: ModelPackage, inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        """Outputs by name. Raises Refused where the model fails, Unsupported where the input exceeds its limits."""
        limits = package.manifest.runtime.max_shape
        for name, array in inputs.items():
            if limits and any(size > limit for size, limit in zip(array.shape[-len(limits) :], limits, strict=True)):
                raise Unsupported(
                    f"input {name!r} of model {package.name!r} would be {array.shape}, over its limit {limits}; "
                    "the scan covers more than the model was made for"
                )
        session = self.open(package)
        names = [output.name for output in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, inputs), strict=True))
        except Exception as error:
            raise Refused(f"model {package.name!r} failed: {_first_line(error)}") from error

    def describe(self, package: ModelPackage) -> str:
        """Runtime, provider and precision of the package's session, for the result's provenance."""
        provider = self.open(package).get_providers()[0]
        text = f"onnxruntime {onnxruntime.__version__} {provider} {package.manifest.model.precision}"
        return f"{text} (CUDA could not be used)" if provider != self._wanted else text

    def _session(self, package: ModelPackage) -> Any:
        limits = package.manifest.runtime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = limits.cpu_memory_arena
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        providers: list[Any] = [_CPU]
        if self._wanted == _CUDA:
            # TF32 moves probabilities; exhaustive search would benchmark every new shape.
            providers.insert(0, (_CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}))
        try:
            session = onnxruntime.InferenceSession(package.content, options, providers=providers)
        except Exception as error:
            raise Misconfigured(f"model {package.name!r} does not load: {_first_line(error)}") from error
        if self._device == "cuda" and session.get_providers()[0] != _CUDA:
            raise Misconfigured(
                f"device: cuda is configured, but model {package.name!r} got {session.get_providers()[0]}; "
                "check the CUDA libraries and the driver (onnxruntime-gpu 1.27 and later want CUDA 13)"
            )
        return session


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
