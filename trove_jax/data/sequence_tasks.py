"""Tasks of token sequences that are drawn from a key: parity of bits, and copying a sequence.

The published code draws each part independently, so that short strings of the test set occur in
training too. Here a string's own tokens (and the key) decide to which part it belongs: parts share
no string, however often one is drawn within its part.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Examples = dict[str, np.ndarray]

_BLOCK = 4096
_BARREN_BLOCKS = 100


@dataclasses.dataclass(frozen=True)
class SequenceData:
    """A task of token sequences, on the host.

    Attributes:
      train: arrays by name, see `parity` and `copy_paste`.
      validation: the same keys; hyper-parameters are chosen on it.
      test: the same keys.
      vocabulary: number of tokens.
      outputs: number of classes of each prediction.
      provenance: name and settings, as plain values that go into evidence.json.
    """

    train: Examples
    validation: Examples
    test: Examples
    vocabulary: int
    outputs: int
    provenance: dict[str, Any]


def parity(
    key: jax.Array,
    *,
    train: int = 80_000,
    validation: int = 10_000,
    test: int = 10_000,
    min_length: int = 2,
    max_length: int = 50,
) -> SequenceData:
    """Draws bit strings whose label is the parity of their sum.

    Lengths are uniform from `min_length` to `max_length`, bits fair; strings are padded with the
    token 2. Parts share no string.

    Args:
      key: decides all draws.
      train: number of training examples.
      validation: likewise.
      test: likewise.
      min_length: of the strings, 1 or more.
      max_length: of the strings, t.

    Returns:
      Parts `{"tokens": int32 [n, t], "mask": bool [n, t], "label": int32 [n]}`, `mask` being True
      at bits; 3 tokens, 2 outputs.

    Raises:
      ValueError: a size or length is out of range, or there are too few strings for three parts.

    Example:
      >>> parts = parity(jax.random.key(0), train=8, validation=2, test=2, max_length=6)
      >>> parts.train["tokens"].shape, parts.vocabulary
      ((8, 6), 3)

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (parity; lengths 2 to 50,
    80/10/10 % in the published code).
    """
    sizes = {"train": train, "validation": validation, "test": test}
    parts = _draw(key, sizes, min_length, max_length, symbols=2)

    def examples(symbols, mask):
        return {
            "tokens": np.where(mask, symbols, 2).astype(np.int32),
            "mask": mask,
            "label": (symbols.sum(axis=1, where=mask) % 2).astype(np.int32),
        }

    made = {name: examples(*drawn) for name, drawn in parts.items()}
    lengths = {"min_length": min_length, "max_length": max_length}
    return _sequence_data("parity", made, 3, 2, sizes, lengths)


def copy_paste(
    key: jax.Array,
    *,
    train: int = 80_000,
    validation: int = 20_000,
    test: int = 20_000,
    min_length: int = 20,
    max_length: int = 40,
    symbols: int = 10,
) -> SequenceData:
    """Draws sequences s that are to be repeated after a signal.

    The input is [s, COPY, 0 ... 0, EOS] with as many zeros as s is long, the target
    [0 ... 0, s, EOS] with one zero more, both padded with 0. Symbols are uniform from 0 to
    `symbols` - 1, lengths of s from `min_length` to `max_length`; COPY is `symbols` + 1, EOS
    `symbols` + 2. Only targets other than 0 are scored: the published code ignores the zeros, and
    with them the symbol 0 where it is to be copied. Parts share no sequence.

    Args:
      key: decides all draws.
      train: number of training examples.
      validation: likewise.
      test: likewise.
      min_length: of s, 1 or more.
      max_length: of s, m; the arrays are t = 2 m + 2 long.
      symbols: number of symbols that s is made of, 2 or more.

    Returns:
      Parts `{"tokens": int32 [n, t], "mask": bool [n, t], "target": int32 [n, t],
      "scored": bool [n, t]}`, `mask` being True up to EOS and `scored` where targets count;
      `symbols` + 3 tokens and outputs.

    Raises:
      ValueError: a size or length is out of range, or there are too few sequences for three parts.

    Example:
      >>> parts = copy_paste(jax.random.key(0), train=8, validation=2, test=2, min_length=2,
      ...                    max_length=3)
      >>> parts.train["target"].shape, parts.vocabulary
      ((8, 8), 13)

    Reference: Subramaniam et al., Training the Untrainable, NeurIPS 2025 (copy-paste; lengths 20
    to 40, 10 symbols, 100,000 samples of which 80,000 to train in the published code).
    """
    sizes = {"train": train, "validation": validation, "test": test}
    if not isinstance(symbols, int) or symbols < 2:
        raise ValueError(f"symbols={symbols!r}, want an integer of 2 or more")
    parts = _draw(key, sizes, min_length, max_length, symbols=symbols)
    made = {name: _copies(*drawn, symbols=symbols) for name, drawn in parts.items()}
    settings = {"min_length": min_length, "max_length": max_length, "symbols": symbols}
    return _sequence_data("copy_paste", made, symbols + 3, symbols + 3, sizes, settings)


def _copies(s: np.ndarray, mask: np.ndarray, *, symbols: int) -> Examples:
    n, longest = s.shape
    rows, length = np.arange(n), mask.sum(axis=1)
    tokens = np.zeros((n, 2 * longest + 2), np.int32)
    tokens[:, :longest] = np.where(mask, s, 0)
    tokens[rows, length] = symbols + 1
    tokens[rows, 2 * length + 1] = symbols + 2
    target = np.zeros_like(tokens)
    row, place = np.nonzero(mask)
    target[row, length[row] + 1 + place] = s[row, place]
    target[rows, 2 * length + 1] = symbols + 2
    valid = np.arange(tokens.shape[1]) < 2 * length[:, None] + 2
    return {"tokens": tokens, "mask": valid, "target": target, "scored": target != 0}


def _draw(
    key: jax.Array, sizes: dict[str, int], min_length: int, max_length: int, *, symbols: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Strings `[n, max_length]` and their masks, for each part as many as it asks for."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"{name}={size!r}, want a number of examples, 0 or more")
    for name, length in (("min_length", min_length), ("max_length", max_length)):
        if not isinstance(length, int) or length < 1:
            raise ValueError(f"{name}={length!r}, want an integer of 1 or more")
    if min_length > max_length:
        raise ValueError(f"min_length={min_length} is above max_length={max_length}")
    edges = np.cumsum(list(sizes.values())) / max(sum(sizes.values()), 1)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in sizes}
    missing, barren, block = dict(sizes), 0, 0
    none = np.zeros((0, max_length), np.int32), np.zeros((0, max_length), bool)
    while any(missing.values()):
        drawn = _draw_block(key, block, min_length, max_length, symbols)
        strings, mask, place = (np.asarray(x) for x in drawn)
        part = np.searchsorted(edges, place, side="right")
        before = dict(missing)
        for i, name in enumerate(sizes):
            rows = np.flatnonzero(part == i)[: missing[name]]
            found[name].append((strings[rows], mask[rows]))
            missing[name] -= len(rows)
        block += 1
        barren = 0 if any(missing[name] < before[name] for name in sizes) else barren + 1
        if barren == _BARREN_BLOCKS:
            name = next(name for name in sizes if missing[name])
            raise ValueError(
                f"{name}={sizes[name]} cannot be drawn: strings of length {min_length} to "
                f"{max_length} are too few for {len(sizes)} parts that share none; raise "
                "max_length"
            )
    return {
        name: (
            np.concatenate([none[0], *(strings for strings, _ in blocks)]),
            np.concatenate([none[1], *(mask for _, mask in blocks)]),
        )
        for name, blocks in found.items()
    }


@functools.partial(jax.jit, static_argnames=("min_length", "max_length", "symbols"))
def _draw_block(key, block, min_length, max_length, symbols):
    """A block of strings, where they end, and the place in [0, 1) that decides their part."""
    draw_key, part_key = jax.random.split(key)
    length_key, symbol_key = jax.random.split(jax.random.fold_in(draw_key, block))
    length = jax.random.randint(length_key, (_BLOCK,), min_length, max_length + 1)
    strings = jax.random.randint(symbol_key, (_BLOCK, max_length), 0, symbols)
    mask = jnp.arange(max_length)[None] < length[:, None]
    strings = jnp.where(mask, strings, 0)
    fold: Callable[..., jax.Array] = jax.vmap(jax.random.fold_in)
    # A key of each string's own, from its length and then its symbols.
    own = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(part_key, length)
    own, _ = jax.lax.scan(lambda keys, column: (fold(keys, column), None), own, strings.T)
    return strings, mask, jax.vmap(jax.random.uniform)(own)


def _sequence_data(name, parts, vocabulary, outputs, sizes, settings) -> SequenceData:
    provenance = {"name": name, "source": "drawn from a key", "split": sizes, **settings}
    return SequenceData(**parts, vocabulary=vocabulary, outputs=outputs, provenance=provenance)
