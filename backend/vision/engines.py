"""What runs a network: OpenVINO on a CPU, torch on a GPU. Images in, arrays out, nothing else."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.errors import SettingsError
from backend.vision.openvino_import import import_openvino

if TYPE_CHECKING:
    import torch

Outputs = list[NDArray[np.float32]]
_LARGEST_TORCH_BATCH = 32


class Engine(Protocol):
    """A network that takes (3, H, W) uint8 images."""

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """The network's outputs for each image, in order, without a batch axis.

        Images may differ in shape where the network allows it.
        """


class OpenVinoEngine:
    """A network in the OpenVINO runtime on the CPU.

    As many requests run at once as OpenVINO thinks best, driven round-robin rather than by an
    AsyncInferQueue, whose callbacks have deadlocked on CPUs (ultralytics issue 25923). Python's
    lock is released while a request runs. A detector's request holds one image: on two cores that
    beats batches, and images of different shapes need no grouping. A CLIP tower, which reads
    hundreds of megabytes of weights a request, takes several.
    """

    def __init__(self, model: Any, *, max_batch: int = 1) -> None:
        """Compile `model`, an `openvino.Model`, for this CPU.

        With `max_batch` above 1 it must take any number of images of one shape.
        """
        openvino = import_openvino()

        self._compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                # CPUs with bf16 would otherwise use it: scores would differ between machines.
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )
        count = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [self._compiled.create_infer_request() for _ in range(max(1, count))]
        self._max_batch = max_batch
        self._lock = threading.Lock()

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """See `Engine.run`."""
        results: list[Outputs] = []
        count = len(self._requests)
        with self._lock:
            try:
                parts = self._parts(images)
                for index, part in enumerate(parts):
                    request = self._requests[index % count]
                    if index >= count:
                        results += _collect(request)
                    request.start_async({0: part}, share_inputs=True)
                for index in range(max(0, len(parts) - count), len(parts)):
                    results += _collect(self._requests[index % count])
            finally:
                # After an error the others may still run, and the next call needs them idle.
                for request in self._requests:
                    request.wait()
        return results

    def _parts(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """The images in order, as one input per request: equal shares that keep all busy."""
        if self._max_batch == 1 or not images:
            return [image[None] for image in images]
        turns = math.ceil(len(images) / (self._max_batch * len(self._requests)))
        size = math.ceil(len(images) / (turns * len(self._requests)))
        return [np.stack(images[i : i + size]) for i in range(0, len(images), size)]


def _collect(request: Any) -> list[Outputs]:
    """The outputs of a request, image by image."""
    request.wait()
    # Copied, since the request's own memory is overwritten by its next input.
    arrays = [tensor.data.astype(np.float32) for tensor in request.output_tensors]
    return [list(rows) for rows in zip(*arrays, strict=True)]


class TorchEngine:
    """A network in torch: half precision on a GPU, single precision on a CPU."""

    def __init__(self, module: torch.nn.Module, device: str) -> None:
        """Move `module` to `device`. It must take (N, 3, H, W) uint8 and return tensors."""
        import torch

        self._device = torch.device(device)
        module = module.eval().to(self._device)
        self._module = module.half() if self._device.type == "cuda" else module
        self._lock = threading.Lock()

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        """See `Engine.run`."""
        results: list[Outputs] = [[] for _ in images]
        with self._lock:
            for group in _groups_of_one_shape(images):
                for index, outputs in zip(
                    group, self._run_stack([images[i] for i in group]), strict=True
                ):
                    results[index] = outputs
        return results

    def _run_stack(self, images: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
        import torch

        with torch.inference_mode():
            stack = torch.from_numpy(np.stack(images)).to(self._device, non_blocking=True)
            outputs = self._module(stack)
            arrays = [output.float().cpu().numpy() for output in outputs]
        return [list(rows) for rows in zip(*arrays, strict=True)]


def _groups_of_one_shape(images: Sequence[NDArray[np.uint8]]) -> list[list[int]]:
    """Indices of the images, grouped by shape, no group larger than a GPU likes."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    return [
        indices[start : start + _LARGEST_TORCH_BATCH]
        for indices in by_shape.values()
        for start in range(0, len(indices), _LARGEST_TORCH_BATCH)
    ]


def choose_device(setting: str) -> str:
    """The setting DEVICE -> "cpu" or a CUDA device that is there.

    Raises:
        SettingsError: a GPU is asked for and there is none.
    """
    if setting == "cpu":
        return "cpu"
    import torch

    if setting == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    kind, _, number = setting.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise SettingsError(f"DEVICE={setting} is none of auto, cpu, cuda, cuda:N")
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        raise SettingsError(
            f"DEVICE={setting}, but torch sees {torch.cuda.device_count()} CUDA devices: "
            "set DEVICE=auto or cpu"
        )
    return f"cuda:{index}"
