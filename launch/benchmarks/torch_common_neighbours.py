"""The published form of the common-neighbour step with torch's sparse matrices."""

import functools
import warnings
from collections.abc import Callable

import numpy as np
import torch


def steps(starts, senders, pairs, x, g) -> dict[str, Callable]:
    """The sum, and the sum with the gradient, `{name: function}`."""
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    arrays = [torch.from_numpy(np.array(a)) for a in (starts, senders, pairs.T, x)]
    arrays[:3] = [array.long() for array in arrays[:3]]
    both = functools.partial(_step, *arrays, torch.from_numpy(g))
    return {"torch": functools.partial(_step, *arrays, None), "torch, both": both}


def _step(starts, senders, pairs, x, g) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        first, second = (_keys(starts, senders, ends) for ends in pairs)
        if not len(second):
            second = torch.full((1,), -1)
        at = torch.searchsorted(second, first).clamp_(max=len(second) - 1)
        shared = first[second[at] == first]
        rows, columns = shared >> 32, shared & (2**32 - 1)
        n_pairs = pairs.shape[1]
        places = torch.searchsorted(rows, torch.arange(n_pairs + 1))
        ones = torch.ones(len(shared))
        matrix = torch.sparse_csr_tensor(
            places, columns, ones, (n_pairs, len(x)), check_invariants=False
        )
        y = matrix @ x
        if g is None:
            return (y,)
        return y, torch.zeros_like(x).index_add_(0, columns, g[rows])


def _keys(starts, senders, nodes) -> torch.Tensor:
    lengths = starts[nodes + 1] - starts[nodes]
    ends = torch.cumsum(lengths, 0)
    rows = torch.repeat_interleave(torch.arange(len(nodes)), lengths)
    offsets = torch.repeat_interleave(starts[nodes] - (ends - lengths), lengths)
    within = torch.arange(int(ends[-1])) + offsets
    return (rows << 32) | senders[within]
