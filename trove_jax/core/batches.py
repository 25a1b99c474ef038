"""Which examples a step sees, and how they get there: from device arrays or from a stream."""

import concurrent.futures
import functools

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from trove_jax.core.keys import epoch_order
from trove_jax.core.mesh import place
from trove_jax.core.task import Data, PyTree


def is_stream(examples: PyTree) -> bool:
    """Whether `examples` reads batches (`len(e)`, `e[indices]`) instead of being arrays."""
    return jax.tree_util.all_leaves([examples]) and not hasattr(examples, "shape")


def count_examples(examples: PyTree) -> int:
    """Number of examples.

    Raises:
      ValueError: the leaves of `examples` disagree, or there are none.
    """
    if is_stream(examples):
        return len(examples)
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(examples)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"examples has leaves with first axes {sizes}; one common size is wanted")
    return sizes.pop()[0]


class BatchOrder:
    """The examples of every step, a function of `(key, epoch)` and nothing else.

    An epoch is `size // batch_size` steps; the few examples that its order leaves over are not
    used, and the next epoch has an order of its own.

    Args:
      keys: a run's key, or one per seed, `[s]`.
      size: number of examples.
      batch_size: examples per step.
    """

    def __init__(self, keys: jax.Array, *, size: int, batch_size: int):
        self._keys, self._batch_size = keys, batch_size
        self._per_epoch = size // batch_size
        self._size = size
        self._epochs: dict[int, np.ndarray] = {}

    def indices(self, step: int, end: int) -> np.ndarray:
        """Examples of the steps `step, ..., end - 1`, `[..., end - step, b]` int32."""
        epochs = range(step // self._per_epoch, (end - 1) // self._per_epoch + 1)
        known = self._epochs
        self._epochs = {e: known[e] if e in known else self._epoch(e) for e in epochs}
        batches = np.concatenate(list(self._epochs.values()), axis=-2)
        first = step - epochs[0] * self._per_epoch
        return batches[..., first : first + end - step, :]

    def _epoch(self, epoch: int) -> np.ndarray:
        order = np.asarray(_orders(self._keys, epoch, self._size))
        used = order[..., : self._per_epoch * self._batch_size]
        return used.reshape(*order.shape[:-1], self._per_epoch, self._batch_size)


@functools.partial(jax.jit, static_argnames="size")
def _orders(keys, epoch, size):
    one = functools.partial(epoch_order, epoch=epoch, size=size)
    return one(keys) if keys.ndim == 0 else jax.vmap(one)(keys)


class Batches:
    """Feeds the compiled chunk, reading a stream one span ahead.

    Every process knows the order of all examples; of a stream it reads what its own devices see.

    Args:
      data: what is learned from.
      keys: a run's key, or one per seed.
      batch_size: examples per step, or None for all.
      length: number of steps that the chunk is compiled for.
      mesh: devices; seeds go along its axis `seed`, the examples of a batch along `data`.

    Attributes:
      resident: the data that the compiled chunk holds as an argument.
      streaming: whether `read` gives examples; otherwise it gives indices into `resident`.
    """

    def __init__(
        self,
        data: Data,
        keys: jax.Array,
        *,
        batch_size: int | None,
        length: int,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.streaming = is_stream(data.examples)
        self.resident = data._replace(examples=()) if self.streaming else data
        self._stream, self._length = data.examples, length
        self._mesh, self._sharding = mesh, None
        if mesh is not None:
            axes = ("seed", None, "data") if keys.ndim else (None, "data")
            own = [axis if axis in mesh.axis_names else None for axis in axes]
            self._sharding = NamedSharding(mesh, PartitionSpec(*own))
        self._order = None
        if batch_size is not None:
            size = count_examples(data.examples)
            self._order = BatchOrder(keys, size=size, batch_size=batch_size)
        self._ahead: dict[tuple[int, int], concurrent.futures.Future] = {}
        self._reader = concurrent.futures.ThreadPoolExecutor(1) if self.streaming else None

    def read(self, step: int, end: int) -> PyTree | None:
        """What the steps from `step` to `end` see, `[..., length, b, ...]`; None for all data."""
        if self._order is None:
            return None
        ahead = self._ahead.pop((step, end), None)
        return self._load(self._order, step, end) if ahead is None else ahead.result()

    def prefetch(self, step: int, end: int) -> None:
        """Starts to read the next span of a stream while the devices are busy with this one."""
        if self._reader and self._order and step < end:
            self._ahead[step, end] = self._reader.submit(self._load, self._order, step, end)

    def close(self) -> None:
        """Lets the reading thread go."""
        if self._reader:
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _load(self, order: BatchOrder, step: int, end: int) -> PyTree:
        indices = order.indices(step, end)
        # The loop ends before the steps past `end`; zeros fill the place of what they would see.
        fill = functools.partial(_fill, length=self._length, axis=indices.ndim - 2)
        if not self.streaming:
            filled = fill(indices)
            if self._mesh is None or self._sharding is None:
                return filled
            return place(filled, self._mesh, self._sharding.spec)
        shape = (*indices.shape[:-2], self._length, indices.shape[-1])
        if self._sharding is not None:
            indices = indices[_own_block(self._sharding, shape)]
        rows = self._stream[indices.reshape(-1)]
        found = jax.tree.map(lambda leaf: fill(leaf.reshape(indices.shape + leaf.shape[1:])), rows)
        if self._sharding is None:
            return found
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(
                self._sharding, leaf, shape + leaf.shape[len(shape) :]
            ),
            found,
        )


def _own_block(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of an array that the devices of this process hold, all of the second last axis."""
    places = sharding.addressable_devices_indices_map(shape).values()
    spans = [
        [place[axis].indices(n)[:2] for place in places if place is not None]
        for axis, n in enumerate(shape)
    ]
    block = [slice(min(a for a, _ in span), max(b for _, b in span)) for span in spans]
    block[-2] = slice(None)
    return tuple(block)


def _fill(leaf: np.ndarray, length: int, axis: int) -> np.ndarray:
    widths = [(0, 0)] * leaf.ndim
    widths[axis] = (0, length - leaf.shape[axis])
    return np.pad(leaf, widths)
