"""A running text cut into windows, at every place of which the next character is asked for."""

import os
from typing import Literal, get_args

import numpy as np

from trove_jax.data.catalogue import describe
from trove_jax.data.sequence_tasks import Examples, SequenceData
from trove_jax.data.source import contents_sha256, load_arrays

Unit = Literal["characters", "bytes"]


def character_windows(
    name: str,
    *,
    length: int,
    unit: Unit = "characters",
    train: float = 0.81,
    validation: float = 0.09,
    data_dir: str | os.PathLike | None = None,
) -> SequenceData:
    """Windows of a running text, and at each place the character that comes next.

    The text is cut into three parts in its order: what trains, what validates, and the rest, which
    tests. By default nine tenths train, as is usual for Tiny Shakespeare, the last tenth of them
    held out for validation; enwik8 is usually cut at 0.9 and 0.95. Windows follow each other
    without overlap; window i holds the characters i t to i t + t - 1, its target those one further
    on. Characters that do not fill a window are left out.

    Args:
      name: a set that is one text, such as tinyshakespeare or enwik8.
      length: of a window, t.
      unit: `"characters"`: token 0 is a character that training does not hold, 1 and on are those
        that it holds, in the order of Unicode; `"bytes"`: tokens are the bytes of the file.
      train: share of the text that trains.
      validation: share that validates.
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.

    Returns:
      Parts `{"tokens": int32 [n, t], "mask": bool [n, t], "target": int32 [n, t], "scored":
      bool [n, t]}`, `mask` and `scored` being True everywhere; as many outputs as tokens.

    Raises:
      ValueError: no such text, an unknown unit, or a part that fills no window.
      DataUnavailable: the set is not here, or damaged; says what to do.
    """
    data_set = describe(name)
    if not data_set.is_text or data_set.class_names:
        raise ValueError(f"name={name!r} is no running text; use tinyshakespeare or enwik8")
    if unit not in get_args(Unit):
        raise ValueError(f'unit={unit!r} is unknown; use "characters" or "bytes"')
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"length={length!r}, want an integer of 1 or more")
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise ValueError(
            f"train={train} and validation={validation} leave no part for test; want positive "
            "shares with a sum below 1"
        )
    arrays, location = load_arrays(data_set, data_dir=data_dir)
    text = _code_points(arrays["text"]) if unit == "characters" else arrays["text"]
    cuts = [round(train * len(text)), round((train + validation) * len(text))]
    parts = dict(zip(("train", "validation", "test"), np.split(text, cuts), strict=True))
    vocabulary = 256
    if unit == "characters":
        known = np.unique(parts["train"])
        vocabulary = len(known) + 1
        parts = {part: _number(known, found) for part, found in parts.items()}
    made = {part: _windows(part, found, length) for part, found in parts.items()}
    provenance = {
        "name": name,
        "source": location.description,
        "sha256": contents_sha256(arrays),
        "split": {part: len(found["tokens"]) for part, found in made.items()},
        "licence": data_set.licence,
        "citation": data_set.citation,
        "tokens": unit,
        "length": length,
    }
    return SequenceData(**made, vocabulary=vocabulary, outputs=vocabulary, provenance=provenance)


def _code_points(text: np.ndarray) -> np.ndarray:
    return np.frombuffer(text.tobytes().decode("utf8").encode("utf-32-le"), np.uint32)


def _number(known: np.ndarray, text: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(known, text), len(known) - 1)
    return np.where(known[place] == text, place + 1, 0)


def _windows(name: str, text: np.ndarray, length: int) -> Examples:
    count = (len(text) - 1) // length
    if count < 1:
        raise ValueError(
            f"length={length} is longer than the {name} part of {len(text)} characters; use at "
            f"most {len(text) - 1}"
        )
    tokens = text[: count * length].reshape(count, length).astype(np.int32)
    target = text[1 : count * length + 1].reshape(count, length).astype(np.int32)
    every = np.ones(tokens.shape, bool)
    return {"tokens": tokens, "mask": every, "target": target, "scored": every}
