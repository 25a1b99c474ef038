"""The contract that every pure function of arrays keeps, checked from one line of a table.

A test file lists its functions and runs every property:

    CONTRACTS = {"masked_distance": ArrayContract(masked_distance, draw, masked_by={0: 2, 1: 2})}

    @pytest.mark.parametrize(("name", "check"), cases(CONTRACTS))
    def test_contract(name, check):
        assert holds(CONTRACTS[name], check)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np

ALL = (
    "jit",
    "vmap",
    "float64",
    "bfloat16",
    "gradient",
    "empty",
    "single",
    "permutation",
    "mask_is_slice",
    "masked_nan",
)


@dataclasses.dataclass(frozen=True)
class ArrayContract:
    """What is promised of one function.

    Attributes:
      function: pure function of positional arrays.
      draw: `(rng, n) -> arguments`, NumPy arrays with first axis n (float32, bool or integer).
      properties: the names in `ALL` that apply.
      masked_by: `{position of a floating argument: position of the mask it is read under}`.
      equivariant: with "permutation": the output is permuted too, else it stays the same.
      rtol: relative tolerance of float32 against float64 and of reordered sums. The default
        allows a rounding error per element of sums of a few dozen terms.
    """

    function: Callable[..., Any]
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]
    properties: tuple[str, ...] = ALL
    masked_by: Mapping[int, int] = dataclasses.field(default_factory=dict)
    equivariant: bool = False
    rtol: float = 1e-5


def cases(contracts: Mapping[str, ArrayContract]) -> list[tuple[str, str]]:
    """Lists (name, property) pairs for `pytest.mark.parametrize`."""
    return [(name, prop) for name, contract in contracts.items() for prop in contract.properties]


def holds(contract: ArrayContract, prop: str, *, n: int = 24) -> bool:
    """Checks one property; raises AssertionError with the difference, else returns True."""
    _CHECKS[prop](contract, n)
    return True


def _arguments(contract: ArrayContract, n: int, seed: int = 0) -> list[np.ndarray]:
    return list(contract.draw(np.random.default_rng(seed), n))


def _call(contract: ArrayContract, arguments: list[Any]) -> Any:
    return contract.function(*[jnp.asarray(a) for a in arguments])


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _equal(got: Any, want: Any, rtol: float, atol: float = 0.0) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape
        if _is_float(g):
            g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
            scale = np.max(np.abs(w), initial=0.0)
            np.testing.assert_allclose(g, w, rtol=rtol, atol=max(atol, rtol * scale))
        else:
            np.testing.assert_array_equal(g, w)


def _jit(contract: ArrayContract, n: int) -> None:
    arguments = [jnp.asarray(a) for a in _arguments(contract, n)]
    _equal(jax.jit(contract.function)(*arguments), contract.function(*arguments), contract.rtol)


def _vmap(contract: ArrayContract, n: int) -> None:
    draws = [_arguments(contract, n, seed) for seed in range(3)]
    stacked = [jnp.stack(column) for column in zip(*draws, strict=True)]
    loop = [_call(contract, draw) for draw in draws]
    want = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    _equal(jax.vmap(contract.function)(*stacked), want, contract.rtol)


def _float64(contract: ArrayContract, n: int) -> None:
    arguments = _arguments(contract, n)
    single = _call(contract, arguments)
    with jax.enable_x64(True):
        double = _call(contract, [a.astype(np.float64) if _is_float(a) else a for a in arguments])
        widest = [leaf.dtype for leaf in jax.tree.leaves(double) if _is_float(leaf)]
    assert all(dtype == jnp.float64 for dtype in widest), widest
    _equal(single, double, contract.rtol)


def _bfloat16(contract: ArrayContract, n: int) -> None:
    arguments = [jnp.asarray(a) for a in _arguments(contract, n)]
    half = [a.astype(jnp.bfloat16) if _is_float(a) else a for a in arguments]
    got = contract.function(*half)
    for leaf in jax.tree.leaves(got):
        assert bool(jnp.all(jnp.isfinite(leaf)))
    # The rounded inputs in float32 are the reference: what is left is the arithmetic's own error,
    # at most a few units of bfloat16's 2^-8.
    rounded = [a.astype(jnp.float32) if _is_float(a) else a for a in half]
    _equal(got, contract.function(*rounded), rtol=2**-6)


def _gradient(contract: ArrayContract, n: int) -> None:
    arguments = [jnp.asarray(a) for a in _arguments(contract, n)]
    floats = [i for i, a in enumerate(arguments) if _is_float(a)]

    def function(*values: jax.Array) -> Any:
        filled = list(arguments)
        for i, value in zip(floats, values, strict=True):
            filled[i] = value
        return contract.function(*filled)

    values = [arguments[i] for i in floats]
    # Finite differences in float32 are good to about 1e-2.
    jax.test_util.check_grads(function, values, order=1, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


def _empty(contract: ArrayContract, n: int) -> None:
    got = jax.tree.leaves(_call(contract, _arguments(contract, 0)))
    want = jax.eval_shape(contract.function, *[jnp.asarray(a) for a in _arguments(contract, 0)])
    assert [leaf.shape for leaf in got] == [leaf.shape for leaf in jax.tree.leaves(want)]
    assert not any(bool(jnp.any(jnp.isinf(leaf))) for leaf in got)


def _single(contract: ArrayContract, n: int) -> None:
    got = jax.tree.leaves(_call(contract, _arguments(contract, 1)))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in got)


def _permutation(contract: ArrayContract, n: int) -> None:
    arguments = _arguments(contract, n)
    order = np.random.default_rng(1).permutation(n)
    got = _call(contract, [a[order] for a in arguments])
    want = _call(contract, arguments)
    if contract.equivariant:
        want = jax.tree.map(lambda leaf: leaf[order], want)
    _equal(got, want, contract.rtol)


def _mask_is_slice(contract: ArrayContract, n: int) -> None:
    arguments = _arguments(contract, n)
    masks = set(contract.masked_by.values())
    assert len(masks) == 1, "needs masked_by with one mask"
    keep = arguments[masks.pop()]
    assert keep.any()
    assert not keep.all()
    got, want = _call(contract, arguments), _call(contract, [a[keep] for a in arguments])
    if contract.equivariant:
        got = jax.tree.map(lambda leaf: leaf[keep], got)
    _equal(got, want, contract.rtol)


def _masked_nan(contract: ArrayContract, n: int) -> None:
    assert contract.masked_by, "needs masked_by"
    clean, poisoned = _arguments(contract, n), _arguments(contract, n)
    for i, m in contract.masked_by.items():
        assert not clean[m].all()
        poisoned[i] = np.where(clean[m], clean[i], np.array(np.nan, clean[i].dtype))
    _equal(_call(contract, poisoned), _call(contract, clean), 0.0)

    if "gradient" not in contract.properties:
        return
    floats = tuple(i for i, a in enumerate(clean) if _is_float(a))

    def total(*values: jax.Array) -> jax.Array:
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(contract.function(*values)))

    grad = jax.grad(total, argnums=floats)
    got = grad(*[jnp.asarray(a) for a in poisoned])
    _equal(got, grad(*[jnp.asarray(a) for a in clean]), 0.0)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in got)


_CHECKS: dict[str, Callable[[ArrayContract, int], None]] = {
    "jit": _jit,
    "vmap": _vmap,
    "float64": _float64,
    "bfloat16": _bfloat16,
    "gradient": _gradient,
    "empty": _empty,
    "single": _single,
    "permutation": _permutation,
    "mask_is_slice": _mask_is_slice,
    "masked_nan": _masked_nan,
}
