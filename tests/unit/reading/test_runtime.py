"""ONNX Runtime gives what was configured, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from wetread.errors import Misconfigured, Refused, Unsupported
from wetread.reading.models import ModelPackage, load_packages
from wetread.reading.runtime import Runtime

FILM = {"image": np.zeros((1, 1, 224, 224), np.float32)}


def test_a_session_is_made_once_per_content(packages: dict[str, ModelPackage]) -> None:
    runtime = Runtime("cpu", threads=1)
    package = packages["brain-tissue-gwm-tiny"]
    assert runtime.open(package) is runtime.open(replace(package, path=Path("/elsewhere")))


def test_the_provenance_names_runtime_provider_and_precision(
    runtime: Runtime, packages: dict[str, ModelPackage]
) -> None:
    described = runtime.describe(packages["brain-tissue-gwm-tiny"])
    assert described == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider float32"


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this wheel has CUDA")
def test_cuda_is_refused_rather_than_replaced_by_the_cpu(packages: dict[str, ModelPackage]) -> None:
    with pytest.raises(Misconfigured, match="device: cuda"):
        Runtime("cuda", threads=1)
    assert "CPUExecutionProvider" in Runtime("auto", threads=1).describe(packages["brain-tissue-gwm-tiny"])


def test_an_input_over_the_declared_limit_is_refused_before_it_takes_memory(
    runtime: Runtime, packages: dict[str, ModelPackage]
) -> None:
    with pytest.raises(Unsupported, match="over its limit"):
        runtime.run(packages["brain-tissue-gwm-tiny"], {"image": np.zeros((1, 1, 8, 8, 300), np.float32)})


def test_a_model_that_fails_is_refused_by_name(runtime: Runtime, packages: dict[str, ModelPackage]) -> None:
    with pytest.raises(Refused, match="model 'cxr-pneumonia-peds' failed"):
        runtime.run(packages["cxr-pneumonia-peds"], {"image": np.zeros((1, 3, 10, 10), np.float32)})


def test_a_model_that_does_not_load_is_refused_by_name(
    make_package: Callable[..., Path], onnx_file: Callable[..., bytes]
) -> None:
    content = onnx_file([("NoSuchOperator", ["image"], ["p_pneumonia"])], "image", ["p_pneumonia"])
    package = load_packages(make_package("cxr-pneumonia-peds", content=content))["cxr-pneumonia-peds"]
    with pytest.raises(Misconfigured, match=r"does not load: .*NoSuchOperator"):
        Runtime("cpu", threads=1).run(package, FILM)


def test_one_session_serves_several_threads_alike(runtime: Runtime, packages: dict[str, ModelPackage]) -> None:
    film = {"image": np.random.default_rng(7).uniform(0, 255, (1, 1, 224, 224)).astype(np.float32)}
    package = packages["cxr-pneumonia-peds"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: runtime.run(package, film)["p_pneumonia"].item(), range(8)))
    assert len(set(answers)) == 1
