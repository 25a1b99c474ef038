"""Lists of edges on the host: checks, both directions, self-loops, duplicates, normalisation."""

import dataclasses
from typing import Any, Literal, get_args

import numpy as np

SelfLoops = Literal["none", "add_remaining", "remove"]
Duplicates = Literal["keep", "sum", "unique", "error"]
Norm = Literal["sym", "rw", "col"] | float | None

_POWERS = {"sym": 0.5, "rw": 0.0, "col": 1.0}


@dataclasses.dataclass(frozen=True)
class EdgeList:
    """Edges in any order; every method returns a new list.

    Attributes:
      senders: `[e]` int64.
      receivers: `[e]` int64.
      weight: `[e]` float64, 0 where `mask` is False.
      index: of the caller's edge, -1 for an added self-loop, `[e]` int64.
      mask: False for an edge that is stored and does not count, `[e]` bool.
      is_padded: whether edges are masked where they could be dropped.
    """

    senders: np.ndarray
    receivers: np.ndarray
    weight: np.ndarray
    index: np.ndarray
    mask: np.ndarray
    is_padded: bool = False

    @classmethod
    def of(
        cls,
        senders: tuple[str, Any],
        receivers: tuple[str, Any],
        weight: Any,
        n_edge: int,
        n_node: int,
    ) -> "EdgeList":
        """Checks the caller's arrays; the ends come with the names that errors use."""
        if n_node < 0:
            raise ValueError(f"n_node={n_node} is negative")
        return cls(
            _checked_ends(*senders, n_edge, n_node),
            _checked_ends(*receivers, n_edge, n_node),
            _checked_weight(weight, n_edge),
            np.arange(n_edge),
            np.ones(n_edge, bool),
        )

    def without(self, removed: np.ndarray, *, padded: bool) -> "EdgeList":
        """Drops edges or, with `padded`, masks them."""
        if padded:
            mask = self.mask & ~removed
            return dataclasses.replace(
                self, mask=mask, weight=np.where(mask, self.weight, 0.0), is_padded=True
            )
        return self._taken(np.flatnonzero(~removed))

    def both_directions(self) -> "EdgeList":
        """Adds the reverse of every edge but self-loops."""
        back = self._taken(np.flatnonzero(self.senders != self.receivers))
        return self._joined(
            dataclasses.replace(back, senders=back.receivers, receivers=back.senders)
        )

    def with_self_loops(
        self, self_loops: SelfLoops, real_nodes: int, n_node: int, *, padded: bool
    ) -> "EdgeList":
        """Adds or removes self-loops; nodes from `real_nodes` on are padding and get none.

        With `padded` all `n_node` have one in store, so that the shape does not tell how many are
        real.
        """
        _check_option("self_loops", self_loops, get_args(SelfLoops))
        is_loop = self.senders == self.receivers
        if self_loops == "remove":
            return self.without(is_loop, padded=padded)
        if self_loops == "none":
            return self
        is_missing = np.arange(n_node) < real_nodes
        is_missing[self.senders[is_loop & self.mask]] = False
        nodes = np.arange(n_node) if padded else np.flatnonzero(is_missing)
        added = is_missing[nodes]
        return self._joined(
            EdgeList(nodes, nodes, added.astype(np.float64), np.full(len(nodes), -1), added)
        )

    def with_duplicates(self, duplicates: Duplicates, *, padded: bool) -> "EdgeList":
        """Treats edges with the same ends as `duplicates` says."""
        _check_option("duplicates", duplicates, get_args(Duplicates))
        if duplicates == "keep" or not len(self.senders):
            return self
        # Masked edges come last within the same ends, so that they never stand for others.
        order = np.lexsort((~self.mask, self.senders, self.receivers))
        senders, receivers = self.senders[order], self.receivers[order]
        again = np.zeros(len(order), bool)
        again[1:] = (senders[1:] == senders[:-1]) & (receivers[1:] == receivers[:-1])
        repeated = np.zeros(len(order), bool)
        repeated[order] = again
        counted = np.flatnonzero(repeated & self.mask)
        if duplicates == "error" and counted.size:
            first = counted[0]
            raise ValueError(
                f"{counted.size} edges repeat an earlier one, the first from "
                f"{self.senders[first]} to {self.receivers[first]}; say duplicates='keep', 'sum' "
                "or 'unique'"
            )
        joined = self
        if duplicates == "sum":
            group = np.cumsum(~again) - 1
            weight = np.zeros(len(order))
            weight[order[~again]] = np.bincount(group, weights=self.weight[order])
            joined = dataclasses.replace(self, weight=weight)
        return joined.without(repeated, padded=padded)

    def normalised(self, power: float | None, n_node: int) -> "EdgeList":
        """D^(r-1) A D^-r with row sums on the left and column sums on the right."""
        if power is None:
            return self
        weight = self.weight.copy()
        for name, ends, exponent in (
            ("in", self.receivers, power - 1.0),
            ("out", self.senders, -power),
        ):
            if not exponent:
                continue
            degree = np.bincount(ends, weights=self.weight, minlength=n_node)
            if np.any(degree < 0):
                node = int(np.argmax(degree < 0))
                raise ValueError(
                    f"the weights that go {name} at node {node} add up to {degree[node]:.4g}; "
                    "norm needs degrees that are not negative"
                )
            scale = np.zeros(n_node)
            np.power(degree, exponent, out=scale, where=degree > 0)
            weight *= scale[ends]
        return dataclasses.replace(self, weight=weight)

    def _taken(self, at: np.ndarray) -> "EdgeList":
        return EdgeList(
            self.senders[at],
            self.receivers[at],
            self.weight[at],
            self.index[at],
            self.mask[at],
            self.is_padded,
        )

    def _joined(self, other: "EdgeList") -> "EdgeList":
        return EdgeList(
            np.concatenate([self.senders, other.senders]),
            np.concatenate([self.receivers, other.receivers]),
            np.concatenate([self.weight, other.weight]),
            np.concatenate([self.index, other.index]),
            np.concatenate([self.mask, other.mask]),
            self.is_padded,
        )


def power_of(norm: Norm) -> float | None:
    """The r of D^(r-1) A D^-r; None for no normalisation. Raises ValueError for anything else."""
    if norm is None:
        return None
    if isinstance(norm, str) and norm in _POWERS:
        return _POWERS[norm]
    if isinstance(norm, int | float) and not isinstance(norm, bool) and 0.0 <= norm <= 1.0:
        return float(norm)
    raise ValueError(
        f"norm={norm!r} is unknown; use {', '.join(map(repr, _POWERS))}, a number r "
        "in [0, 1] or None"
    )


def checked_counts(name: str, counts: Any) -> np.ndarray:
    """Numbers of nodes or edges of each graph, `[g]` int64."""
    found = np.asarray(counts)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or np.any(found < 0):
        raise ValueError(f"{name} is {found.tolist()}; a vector with one count per graph is wanted")
    return found.astype(np.int64)


def _checked_ends(name: str, ends: Any, n_edge: int, n_node: int) -> np.ndarray:
    found = np.asarray(() if ends is None else ends)
    if found.shape != (n_edge,):
        raise ValueError(f"{name} have shape {found.shape}; ({n_edge},) is wanted")
    if not n_edge:
        return np.zeros(0, np.int64)
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{name} have dtype {found.dtype}; integers are wanted")
    outside = np.flatnonzero((found < 0) | (found >= n_node))
    if outside.size:
        raise ValueError(
            f"{name} of edge {outside[0]} is {found[outside[0]]}; 0 to {n_node - 1} is wanted "
            f"({outside.size} of {n_edge} are out of range)"
        )
    return found.astype(np.int64)


def _checked_weight(weight: Any, n_edge: int) -> np.ndarray:
    if weight is None:
        return np.ones(n_edge)
    found = np.asarray(weight).astype(np.float64)
    if found.shape != (n_edge,):
        raise ValueError(f"edge_weight has shape {found.shape}; ({n_edge},) is wanted")
    broken = np.flatnonzero(~np.isfinite(found))
    if broken.size:
        raise ValueError(
            f"edge_weight[{broken[0]}] is {found[broken[0]]}; finite weights are wanted"
        )
    return found


def _check_option(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ValueError(f"{name}={value!r} is unknown; use one of {options}")
