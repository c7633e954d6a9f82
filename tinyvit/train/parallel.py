"""Many processes, one model: each takes its share of every batch, and all take the same step (data parallelism).

    mpiexec -n 4 tinyvit train …

Every process has all weights. What they exchange is one flat array a step: the loss and the gradient.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise

import numpy as np

from tinyvit.autodiff.watch import watching
from tinyvit.nn.noise import source
from tinyvit.train.gradient import Gradient

LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK")  # what MPICH, Open MPI and Slurm tell their processes


def communicator():
    """All processes that were started together, or None for one that was started alone.

    Raises ValueError if they were started together and mpi4py is missing.
    """
    if os.environ.get("PMI_SIZE") == "1" or not any(name in os.environ for name in LAUNCHED):
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ValueError('many processes need mpi4py and an MPI: pip install "tinyvit[mpi]"') from error
    return MPI.COMM_WORLD if MPI.COMM_WORLD.size > 1 else None


class AllReduced:
    """The gradient of a batch that every process sees a share of: the same number on all of them.

        g = Σᵣ (nᵣ/n) gᵣ      where process r has nᵣ of the n samples

    Each process has noise of its own. The objective must be a mean over the samples. A model in which samples meet
    (BatchNorm in training) is not cut: each process computes the whole batch, the same function first, speed second.

    What is outermost sees the whole gradient: ``clipped(AllReduced(…), norm=1)``.

    seconds  how long this process has waited for the others and their numbers
    """

    def __init__(self, gradient: Gradient, comm):
        self.gradient, self.comm, self.seconds = gradient, comm, 0.0

    def __call__(self, model, batch):
        rank, size, total = self.comm.rank, self.comm.size, len(batch[0])
        if total < size:
            raise ValueError(f"batch: {total} samples cannot be shared out among {size} processes")
        if model.training and any(module.mixes_batch for _, module in model.named_modules()):
            return self.gradient(model, batch)
        cut = slice(total * rank // size, total * (rank + 1) // size)
        seeds = source(model.rng).integers(2**63, size=size) if model.training else None
        with watching(noise=None if seeds is None else np.random.default_rng(seeds[rank])):
            loss, g = self.gradient(model, tuple(a[cut] for a in batch))
        return self.summed(loss, g, (cut.stop - cut.start) / total)

    def summed(self, loss: float, g: dict[str, np.ndarray], share: float):
        """Loss and gradients of all processes, each times its share, added up."""
        dtype = np.result_type(*g.values())
        flat = np.concatenate([np.array([loss], dtype), *(array.ravel() for array in g.values())]) * dtype.type(share)
        began = time.perf_counter()
        self.comm.Allreduce(flat.copy(), flat)
        self.seconds += time.perf_counter() - began
        ends = np.cumsum([1, *(array.size for array in g.values())])
        parts = (flat[a:b] for a, b in pairwise(ends))
        return float(flat[0]), {n: part.reshape(x.shape) for (n, x), part in zip(g.items(), parts, strict=True)}


class Team:
    """The processes of a run; one alone is a team too."""

    def __init__(self, comm=None):
        self.comm = comm
        self.size, self.leads = (1, True) if comm is None else (comm.size, comm.rank == 0)
        self.exchange: AllReduced | None = None

    def told(self, function):
        """What the leader's call of ``function`` returns, or raises, on all of them."""
        if self.comm is None:
            return function()
        answer = error = None
        if self.leads:
            try:
                answer = function()
            except Exception as raised:
                error = raised
        answer, error = self.comm.bcast((answer, error))
        if error is not None:
            raise error
        return answer

    def any(self, flag: bool) -> bool:
        """Whether it is so on any of them."""
        return flag if self.comm is None else any(self.comm.allgather(flag))

    def reduced(self, gradient: Gradient) -> Gradient:
        """The gradient shared out among them."""
        if self.comm is None:
            return gradient
        self.exchange = AllReduced(gradient, self.comm)
        return self.exchange

    @property
    def seconds(self) -> float:
        """How long this process has waited for the others and their numbers."""
        return self.exchange.seconds if self.exchange else 0.0

    def abort(self) -> None:
        """End all of them, because this one cannot go on."""
        if self.comm is not None:
            self.comm.Abort(1)
