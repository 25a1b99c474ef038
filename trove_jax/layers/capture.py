"""Activations read from outside, in execution order, without editing the model.

`capturing` listens to every Flax module that is called while it is open, so it also works around
a whole `Task.loss`: its one forward pass gives the loss and the activations.
"""

import collections
import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.tracers import current_trace

_hidden: contextvars.ContextVar[int] = contextvars.ContextVar("hidden", default=0)

_LINEAR_LIKE = (
    nn.Conv,
    nn.ConvLocal,
    nn.ConvTranspose,
    nn.Dense,
    nn.DenseGeneral,
    nn.Einsum,
    nn.LayerNorm,
    nn.MultiHeadDotProductAttention,
    nn.RNN,
)
_WHOLE = (nn.MultiHeadDotProductAttention, nn.RNN)


class Layer(NamedTuple):
    """One call of a module, as a filter sees it.

    Attributes:
      name: path of the module, as `block_0/conv_1`; the outermost module is `""`. A method other
        than `__call__` is appended: `embed.attend`.
      module: the Flax module, bound.
      method: name of the method that was called.
      inputs: its positional arguments.
      output: what it returned.
      around: the modules whose calls it is part of, outermost first.
    """

    name: str
    module: nn.Module
    method: str
    inputs: tuple[Any, ...]
    output: Any
    around: tuple[nn.Module, ...] = ()


Filter = Callable[[Layer], Any]


def linear_like(layer: Layer) -> bool:
    """Chooses outputs of convolutions, dense layers, layer norms, attention and recurrent layers.

    These are values before the nonlinearity and before batch normalisation. Attention and
    recurrent layers count as a whole: what happens inside them does not.

    Args:
      layer: one call of a module.

    Returns:
      Whether it is chosen.

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (`layer_extract.py` of
    the published code).
    """
    if layer.method != "__call__" or not isinstance(layer.module, _LINEAR_LIKE):
        return False
    return not any(isinstance(module, _WHOLE) for module in layer.around)


def post_activation(layer: Layer) -> Any:
    """Chooses what reaches each linear-like layer: values after nonlinearity, norm and pooling.

    Nonlinearities are functions, not modules, so their results are read where they arrive. The
    first entry is therefore the input of the network, and the entry of a layer is called like the
    layer that reads it.

    Args:
      layer: one call of a module.

    Returns:
      The layer's first argument, or None where the layer is not `linear_like`.
    """
    return layer.inputs[0] if layer.inputs and linear_like(layer) else None


def by_name(pattern: str) -> Filter:
    """Chooses the outputs of modules whose name matches a regular expression as a whole.

    Args:
      pattern: such as `r"hidden_\\d+"` or `r"block_[0-3]"`.

    Returns:
      A filter.

    Raises:
      ValueError: the pattern is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"filter={pattern!r} is no regular expression: {error}") from error
    return lambda layer: compiled.fullmatch(layer.name) is not None


@contextlib.contextmanager
def capturing(
    filter: Filter | str = linear_like,
) -> Iterator[collections.OrderedDict[str, jax.Array]]:
    """Collects activations of all Flax modules that are called in the `with` block.

    Open it inside `jit`, `grad`, `vmap` or `shard_map`, around the call of the model: what it
    collects are then ordinary values of that trace. Modules under a transformation of the model's
    own (`nn.scan`, `nn.vmap`, `nn.jit`, `nn.remat`, `jax.lax.map`) cannot be read; the module
    around them, and `nn.RNN`, can. Blocks may be nested; each collects for itself, and none sees
    what is called under `hidden`.

    Args:
      filter: `Layer -> bool` (True: record what the layer returned) or `Layer -> array` (record
        that; None: nothing); a string is a regular expression for `by_name`.

    Yields:
      An ordered dict that fills while modules are called, name -> array, in execution order (which
      it keeps through `jit`, as a plain dict does not). A second call of the same name is
      `name#1`. A result that holds several arrays gives `name/0`, `name/1`, ...; of an `nn.RNN`
      only the sequence counts. Complete when the block ends.

    Raises:
      ValueError: at the end of the block, where the filter chose nothing (the names that were
        called are listed), or chose a layer that runs inside a transformation.

    Example:
      >>> model = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
      >>> variables = model.init(jax.random.key(0), jnp.ones((4, 5)))
      >>> with capturing() as activations:
      ...     y = model.apply(variables, jnp.ones((4, 5)))
      >>> jax.tree.map(jnp.shape, dict(activations))
      {'layers_0': (4, 3), 'layers_2': (4, 2)}
    """
    recorder = _Recorder(by_name(filter) if isinstance(filter, str) else filter)
    with nn.intercept_methods(recorder):
        yield recorder.found
    recorder.check()


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Hides calls of modules from every `capturing` block that is already open.

    For a second network in a loss, such as a frozen guide or a teacher: who captures the loss
    wants the network that learns.

    Example:
      >>> model, x = nn.Dense(3), jnp.ones((4, 5))
      >>> variables = model.init(jax.random.key(0), x)
      >>> with capturing() as activations:
      ...     y = model.apply(variables, x)
      ...     with hidden():
      ...         y = model.apply(variables, x)
      >>> list(activations)
      ['']
    """
    token = _hidden.set(_hidden.get() + 1)
    try:
        yield
    finally:
        _hidden.reset(token)


def capture(
    module: nn.Module,
    variables: Any,
    *inputs: Any,
    filter: Filter | str = linear_like,
    **options: Any,
) -> tuple[Any, collections.OrderedDict[str, jax.Array]]:
    """Applies a module and returns the activations beside the result.

    Args:
      module: a Flax module.
      variables: its collections.
      *inputs: what it is called with.
      filter: as `capturing`.
      **options: keyword arguments of `module.apply`: `train`, `rngs`, `mutable`, `method`.

    Returns:
      What `module.apply` returns (with `mutable`: result and updates), and name -> array in
      execution order. Blocks that are already open do not see this call.

    Raises:
      ValueError: as `capturing`.

    Example:
      >>> model, x = nn.Dense(3), jnp.ones((4, 5))
      >>> y, activations = capture(model, model.init(jax.random.key(0), x), x)
      >>> y.shape, list(activations)
      ((4, 3), [''])
    """
    with hidden(), capturing(filter) as activations:
        outputs = module.apply(variables, *inputs, **options)
    return outputs, activations


class _Recorder:
    """The interceptor behind one block."""

    def __init__(self, filter: Filter):
        # JAX sorts the keys of a plain dict wherever it passes through a transformation.
        self.found: collections.OrderedDict[str, jax.Array] = collections.OrderedDict()
        self._filter = filter
        self._level, self._trace = _hidden.get(), current_trace()
        self._called: dict[str, None] = {}
        self._inside: dict[str, None] = {}
        self._running: list[tuple[nn.Module, str]] = []

    def __call__(self, call, args, kwargs, context):
        module, method = context.module, context.method_name
        # `super().__call__` arrives here as well; the outermost method of a module is its layer.
        again = any(module is other and method == name for other, name in self._running)
        # A method with another kind of name is a function that a lifted transformation wraps.
        if _hidden.get() != self._level or again or method == "setup" or not method.isidentifier():
            return call(*args, **kwargs)
        self._running.append((module, method))
        try:
            output = call(*args, **kwargs)
        finally:
            self._running.pop()
        if not module.is_initializing():
            self._record(module, method, args, output)
        return output

    def _record(self, module, method, args, output):
        name = "/".join(module.path)
        name = name if method == "__call__" else f"{name}.{method}"
        self._called[name] = None
        around = tuple(module for module, _ in self._running)
        chosen = self._filter(Layer(name, module, method, args, output, around))
        if chosen is None or chosen is False:
            return
        if current_trace() != self._trace:
            self._inside[name] = None
            return
        for entry, array in _arrays(name, module, output if chosen is True else chosen):
            self.found[self._free(entry)] = array

    def _free(self, name):
        if name not in self.found:
            return name
        number = 1
        while f"{name}#{number}" in self.found:
            number += 1
        return f"{name}#{number}"

    def check(self):
        entries = {re.sub(r"(/\d+)?(#\d+)?$", "", name) for name in self.found} | set(self.found)
        lost = [name for name in self._inside if name not in entries]
        if lost:
            raise ValueError(
                f"filter chose {', '.join(map(repr, lost))}, called inside a transformation "
                "(jit, scan, remat, vmap) that began after the block was opened, so the values "
                "cannot leave it; open `capturing` inside the transformation, or choose the "
                f"module around it. Names called: {_listed(self._called)}"
            )
        if not self.found:
            raise ValueError(
                f"filter chose nothing; names called: {_listed(self._called)}. No names: a "
                "function compiled earlier calls no modules; open `capturing` inside `jit`"
            )


def _listed(names: dict[str, None]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _arrays(name: str, module: nn.Module, value: Any) -> Iterator[tuple[str, jax.Array]]:
    if isinstance(module, nn.RNN) and isinstance(value, tuple) and module.return_carry:
        value = value[1]
    leaves = [x for x in jax.tree.leaves(value) if hasattr(x, "shape")]
    if len(leaves) == 1:
        yield name, jnp.asarray(leaves[0])
        return
    for i, leaf in enumerate(leaves):
        yield f"{name}/{i}" if name else str(i), jnp.asarray(leaf)
