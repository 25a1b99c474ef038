"""ListOps: nested operations on lists of digits, written out as a sequence of tokens.

Drawn as the published generator draws: an operation with probability 1/4, else a digit. Two things
differ. Numbers come from a key, and parts share no expression (nor does one part hold it twice).
"""

from collections.abc import Iterator

import jax
import numpy as np

from trove_jax.data.sequence_tasks import Examples, SequenceData

LISTOPS_TOKENS = (
    *("", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    *("[MIN", "[MAX", "[MED", "[SM", "]"),
)

_FIRST_DIGIT, _FIRST_OPERATION, _END = 1, 11, 15
_OPERATION_SHARE = 0.25
_BLOCK = 1 << 16
_BARREN = 50_000


def listops(
    key: jax.Array,
    *,
    train: int = 96_000,
    validation: int = 2_000,
    test: int = 2_000,
    max_depth: int = 10,
    max_args: int = 10,
    min_length: int = 500,
    max_length: int = 2_000,
) -> SequenceData:
    """Draws expressions such as `[MAX 2 [MIN 7 4 ] 9 ]`, to be classified by their value.

    MIN, MAX, MED (the median; of an even number of values the mean of the middle two, rounded
    down) and SM (the sum modulo 10) of two to `max_args` values, each a digit or, down to
    `max_depth` levels of which the lowest is digits, an operation again. Only expressions of
    `min_length` to `max_length` tokens are kept. Tokens are `LISTOPS_TOKENS`, 0 being padding.

    Args:
      key: decides all draws.
      train: number of training examples.
      validation: likewise.
      test: likewise.
      max_depth: levels of an expression, 2 or more.
      max_args: the most values of one operation, 2 or more.
      min_length: of an expression in tokens.
      max_length: likewise, t.

    Returns:
      Parts `{"tokens": int32 [n, t], "mask": bool [n, t], "label": int32 [n]}`, `mask` being True
      at the expression; 16 tokens, 10 outputs.

    Raises:
      ValueError: a size is out of range, or so many different expressions are not found.

    Example:
      >>> parts = listops(jax.random.key(0), train=3, validation=1, test=1, max_depth=3,
      ...                 max_args=3, min_length=8, max_length=12)
      >>> print(" ".join(LISTOPS_TOKENS[token] for token in parts.train["tokens"][1]).strip())
      [MED 8 [MIN 7 9 4 ] ]
      >>> parts.train["label"][1].item()
      6

    Reference: Nangia and Bowman, ListOps, NAACL SRW 2018; Tay et al., Long Range Arena, ICLR 2021
    (the default sizes).
    """
    sizes = {"train": train, "validation": validation, "test": test}
    limits = {"max_depth": max_depth, "max_args": max_args}
    lengths = {"min_length": min_length, "max_length": max_length}
    for least, numbers in ((0, sizes), (2, limits), (1, lengths)):
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}, want an integer of {least} or more")
    if min_length > max_length:
        raise ValueError(f"min_length={min_length} is above max_length={max_length}")
    uniform = _uniform(key)
    seen: set[bytes] = set()
    parts = {}
    for name, size in sizes.items():
        drawn: list[tuple[bytes, int]] = []
        barren = 0
        while len(drawn) < size:
            found = _expression(uniform, 1, max_depth, max_args, max_length)
            tokens, value = found or (b"", 0)
            if len(tokens) < min_length or tokens in seen:
                barren += 1
                if barren == _BARREN:
                    raise ValueError(
                        f"{name}={size} cannot be drawn: {len(seen)} expressions of {min_length} "
                        f"to {max_length} tokens were found and then none in {_BARREN} draws; "
                        "raise max_depth, max_args or max_length, or lower min_length"
                    )
                continue
            barren = 0
            seen.add(tokens)
            drawn.append((tokens, value))
        parts[name] = _examples(drawn, max_length)
    provenance = {"name": "listops", "source": "drawn from a key", "split": sizes}
    return SequenceData(
        **parts,
        vocabulary=len(LISTOPS_TOKENS),
        outputs=10,
        provenance={**provenance, **limits, **lengths},
    )


def _uniform(key: jax.Array) -> Iterator[float]:
    """Numbers in [0, 1) without end; NumPy's RandomState is used because its stream is frozen."""
    state = np.random.RandomState(np.asarray(jax.random.bits(key, (4,), np.uint32)))
    while True:
        yield from state.random_sample(_BLOCK).tolist()


def _expression(
    uniform: Iterator[float], depth: int, max_depth: int, max_args: int, room: int
) -> tuple[bytes, int] | None:
    """Tokens and value of one drawn expression; None as soon as it is longer than `room`."""
    if depth == max_depth or next(uniform) >= _OPERATION_SHARE:
        digit = int(10 * next(uniform))
        return bytes([_FIRST_DIGIT + digit]), digit
    operation = int(4 * next(uniform))
    pieces, values = [bytes([_FIRST_OPERATION + operation])], []
    room -= 2
    for _ in range(2 + int((max_args - 1) * next(uniform))):
        found = _expression(uniform, depth + 1, max_depth, max_args, room)
        if found is None:
            return None
        room -= len(found[0])
        if room < 0:
            return None
        pieces.append(found[0])
        values.append(found[1])
    pieces.append(bytes([_END]))
    return b"".join(pieces), _value(operation, values)


def _value(operation: int, values: list[int]) -> int:
    values = sorted(values)
    if operation == 0:
        return values[0]
    if operation == 1:
        return values[-1]
    if operation == 2:
        return (values[(len(values) - 1) // 2] + values[len(values) // 2]) // 2
    return sum(values) % 10


def _examples(drawn: list[tuple[bytes, int]], length: int) -> Examples:
    tokens = np.zeros((len(drawn), length), np.int32)
    for row, (expression, _) in zip(tokens, drawn, strict=True):
        row[: len(expression)] = np.frombuffer(expression, np.uint8)
    return {
        "tokens": tokens,
        "mask": tokens != 0,
        "label": np.array([value for _, value in drawn], np.int32),
    }
