"""One process of a training run: its device and precision, its share of each batch, and what all compute together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn

from world_model.hardware import cores, cpu_name
from world_model.training import TrainingError

PRODUCTS, ROWS = 5, {"cpu": 1024, "cuda": 8192}
"""Matrix products that are timed, and the rows and columns of their matrices, by device."""
PRECISION_ROWS = 512
"""Rows and columns of the matrices with which float32 and bfloat16 are compared."""


@dataclass(frozen=True)
class DistributedContext:
    """Where training runs. ``precision_note`` says, for people, why ``bfloat16`` is as it is."""

    device: torch.device
    bfloat16: bool = False
    compile: bool = False
    rank: int = 0
    processes: int = 1
    seed: int = 0
    console: Console = field(default_factory=Console)
    precision_note: str = ""

    @classmethod
    def open(
        cls,
        environment: Mapping[str, str],
        device: str = "auto",
        precision: str = "auto",
        compile: bool = True,
        seed: int = 0,
    ) -> DistributedContext:
        """This process's context; ``environment`` holds torchrun's RANK, LOCAL_RANK and WORLD_SIZE, if any. Raises
        TrainingError without the GPU that was asked for."""
        rank, processes = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
        cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        if cuda and not torch.cuda.is_available():
            raise TrainingError("--device cuda: PyTorch finds no CUDA GPU; --device cpu trains on the processor")
        where = torch.device("cuda", int(environment.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(where)
            torch.set_float32_matmul_precision("high")
        if processes > 1:
            dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))
        bfloat16, note = precision == "bfloat16", ""
        if precision == "auto":
            bfloat16, note = (True, "") if cuda else faster_precision(processes)
        return cls(where, bfloat16, cuda and compile, rank, processes, seed, Console(), note)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def hardware(self) -> str:
        """What it trains on, for people."""
        each = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{cores()} cores of {cpu_name()}"
        return f"{self.processes} x {each}" if self.processes > 1 else each

    def precision(self):
        """Context of every forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def matmul_rate(self) -> float:
        """Floating-point operations a second of a large matrix product, in the precision of training."""
        kind, rows = torch.bfloat16 if self.bfloat16 else torch.float32, ROWS[self.device.type]
        return 2 * rows**3 / matmul_seconds(rows, kind, self.device)

    def barrier(self) -> None:
        if self.processes > 1:
            dist.barrier()

    def maximum(self, *numbers: float) -> list[float]:
        """The largest of each number over all processes, which must save, sample and stop at the same step."""
        if self.processes == 1:
            return list(numbers)
        largest = torch.tensor([float(number) for number in numbers], device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def gather(self, part: Tensor) -> Tensor:
        """The tensors of all processes, concatenated along the first dimension."""
        if self.processes == 1:
            return part
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.processes)]
        dist.all_gather(parts, part)
        return torch.cat(parts)

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Mean over processes in one message: these networks are small, and rollouts call forward many times a step."""
        if self.processes == 1:
            return
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= self.processes
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(grad.view_as(p))


class StepNoise:
    """The random numbers of one step: each call makes those of the whole batch and returns this process's part.
    ``progress``: the share of the stage that is done."""

    def __init__(self, distributed: DistributedContext, step: int, salt: int, batch: int, progress: float = 0.0):
        self.step, self.progress = step, progress
        self.distributed, self.batch, self.local = distributed, batch, batch // distributed.processes
        self.generator = torch.Generator(distributed.device)
        self.generator.manual_seed(((distributed.seed * 1_000_003 + step) * 1_009 + salt) % 2**63)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal [local batch, *shape]."""
        return self._local(torch.randn((self.batch, *shape), generator=self.generator, device=self.distributed.device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), [local batch, *shape]."""
        return self._local(torch.rand((self.batch, *shape), generator=self.generator, device=self.distributed.device))

    def shared(self, count: int) -> int:
        """One integer in [0, count), the same for every clip and process."""
        return int(torch.randint(count, (1,), generator=self.generator, device=self.distributed.device))

    def _local(self, whole: Tensor) -> Tensor:
        return whole[self.distributed.rank * self.local : (self.distributed.rank + 1) * self.local]


def matmul_seconds(rows: int, kind: torch.dtype, device: torch.device | str = "cpu") -> float:
    """Seconds of one product of square matrices: the fastest of ``PRODUCTS``, so that the first may warm up."""
    matrix, seconds = torch.ones(rows, rows, dtype=kind, device=device), []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the result
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def faster_precision(processes: int) -> tuple[bool, str]:
    """Whether this processor multiplies faster in bfloat16, and the figures. All processes take the first one's."""
    seconds = torch.tensor([matmul_seconds(PRECISION_ROWS, kind) for kind in (torch.float32, torch.bfloat16)])
    if processes > 1:
        dist.broadcast(seconds, 0)
    single, half = (1e3 * seconds).tolist()
    return half < single, f" (a matrix product takes {single:.1f} ms in float32, {half:.1f} ms in bfloat16)"
