"""Classification of short texts: as they are, as tokens that are words, and as bytes."""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trove_jax.core import DataUnavailable
from trove_jax.data.catalogue import describe
from trove_jax.data.sequence_tasks import Examples, SequenceData
from trove_jax.data.source import contents_sha256, find, how_to_get, load_arrays
from trove_jax.data.splits import stratified_split
from trove_jax.data.text_file import split_labels, split_parts

PADDING, UNKNOWN = 0, 1

_HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class TextPart:
    """Texts of one part of a set, and their labels int32 `[n]`."""

    texts: tuple[str, ...]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class TextData:
    """A set of labelled texts, on the host.

    Attributes:
      train: what is learned from.
      validation: what models are chosen on.
      test: likewise held back.
      class_names: one for each class.
      provenance: name, source, sha256, split sizes, licence and citation, as plain values that go
        into evidence.json.
    """

    train: TextPart
    validation: TextPart
    test: TextPart
    class_names: tuple[str, ...]
    provenance: dict[str, Any]


def load_texts(name: str, *, data_dir: str | os.PathLike | None = None, seed: int = 0) -> TextData:
    """Loads a set of labelled texts by name.

    The published parts are kept. What is not published is drawn with `seed`, each class keeping
    its share: a tenth of the training part for validation (trec6, imdb), and of mr, which has no
    parts at all, a tenth for validation and a tenth for test.

    Args:
      name: sst2, trec6, mr or imdb.
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.
      seed: of the parts that are drawn.

    Returns:
      The texts as published, nothing tokenised.

    Raises:
      ValueError: no such set of labelled texts.
      DataUnavailable: the set is not here, or damaged; says what to do.
    """
    data_set = describe(name)
    readable = data_set.is_text or name == "imdb"
    if not (readable and data_set.class_names):
        raise ValueError(f"name={name!r} is no set of labelled texts; use sst2, trec6, mr or imdb")
    classes = len(data_set.class_names)
    if data_set.is_folder:
        parts, source, digest = _read_folder(data_set, data_dir)
    else:
        arrays, location = load_arrays(data_set, data_dir=data_dir)
        source, digest, origin = location.description, contents_sha256(arrays), str(location.path)
        parts = {
            part: _part(*split_labels(lines, classes=classes, origin=f"{origin}, part {part!r}"))
            for part, lines in split_parts(arrays["text"].tobytes(), origin=origin).items()
        }
    train, validation, test = _three_parts(parts, seed=seed, origin=source)
    split = {"train": train, "validation": validation, "test": test}
    provenance = {
        "name": name,
        "source": source,
        "sha256": digest,
        "split": {part: len(found.labels) for part, found in split.items()},
        "licence": data_set.licence,
        "citation": data_set.citation,
    }
    return TextData(train, validation, test, data_set.class_names, provenance)


def text_tokens(
    name: str,
    *,
    length: int,
    vocabulary: int | None = None,
    min_count: int = 1,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
) -> SequenceData:
    """Texts as sequences of words, in lower case and split at blanks.

    The words known are those of the training part alone, the commonest first (the earlier in the
    alphabet where two are as common). Token 0 is padding, 1 a word that is not known.

    Args:
      name: as `load_texts`.
      length: of all sequences, t; longer texts lose their end.
      vocabulary: the largest number of tokens, the two special ones included; None: no limit.
      min_count: how often a word must occur in training to be known.
      data_dir: as `load_texts`.
      seed: as `load_texts`.

    Returns:
      Parts `{"tokens": int32 [n, t], "mask": bool [n, t], "label": int32 [n]}`, `mask` being True
      at words; as many outputs as classes. A text without words has an empty mask. `provenance`
      tells the share of texts that were cut, and of test words that are not known.

    Raises:
      ValueError: a number is out of range, or as `load_texts`.
      DataUnavailable: as `load_texts`.
    """
    _check(length=length, min_count=min_count)
    if vocabulary is not None and vocabulary < 3:
        raise ValueError(f"vocabulary={vocabulary} leaves no word beside 0 and 1; use 3 or more")
    found = load_texts(name, data_dir=data_dir, seed=seed)
    words = word_vocabulary(found.train.texts, size=vocabulary, min_count=min_count)
    number = {word: token for token, word in enumerate(words, UNKNOWN + 1)}

    def tokens(text: str) -> list[int]:
        return [number.get(word, UNKNOWN) for word in text.lower().split()]

    data = _sequences(found, tokens, length=length, vocabulary=len(words) + 2, unit="words")
    test = data.test["tokens"][data.test["mask"]]
    data.provenance["unknown"] = float((test == UNKNOWN).mean()) if test.size else 0.0
    data.provenance["min_count"] = min_count
    return data


def text_bytes(
    name: str, *, length: int, data_dir: str | os.PathLike | None = None, seed: int = 0
) -> SequenceData:
    """Texts as sequences of their UTF-8 bytes.

    Token 0 is padding, 1 to 256 are the bytes 0 to 255.

    Args:
      name: as `load_texts`.
      length: of all sequences, t; longer texts lose their end.
      data_dir: as `load_texts`.
      seed: as `load_texts`.

    Returns:
      Parts as `text_tokens`; 257 tokens.

    Raises:
      ValueError: `length` is out of range, or as `load_texts`.
      DataUnavailable: as `load_texts`.
    """
    _check(length=length)
    found = load_texts(name, data_dir=data_dir, seed=seed)

    def tokens(text: str) -> list[int]:
        return [byte + 1 for byte in text.encode("utf8")[:length]]

    return _sequences(found, tokens, length=length, vocabulary=257, unit="bytes")


def word_vocabulary(
    texts: Sequence[str], *, size: int | None = None, min_count: int = 1
) -> tuple[str, ...]:
    """The words of texts in lower case, the commonest first, ties in the order of the alphabet.

    Args:
      texts: what they are counted in.
      size: the largest number of tokens, of which two are not words; None: no limit.
      min_count: how often a word must occur.

    Returns:
      The words; the token of the first is 2.

    Example:
      >>> word_vocabulary(["a film and a half", "Film b"], min_count=1, size=5)
      ('a', 'film', 'and')
    """
    counts = collections.Counter(word for text in texts for word in text.lower().split())
    words = [word for word, count in counts.items() if count >= min_count]
    words.sort(key=lambda word: (-counts[word], word))
    return tuple(words if size is None else words[: size - 2])


def _sequences(
    found: TextData,
    tokens: Callable[[str], list[int]],
    *,
    length: int,
    vocabulary: int,
    unit: str,
) -> SequenceData:
    cut: dict[str, float] = {}

    def examples(name: str, part: TextPart) -> Examples:
        rows = np.full((len(part.texts), length), PADDING, np.int32)
        mask = np.zeros(rows.shape, bool)
        longer = 0
        for i, text in enumerate(part.texts):
            row = tokens(text)
            longer += len(row) > length or (unit == "bytes" and len(text.encode("utf8")) > length)
            row = row[:length]
            rows[i, : len(row)], mask[i, : len(row)] = row, True
        cut[name] = longer / max(1, len(rows))
        return {"tokens": rows, "mask": mask, "label": part.labels}

    parts = {name: examples(name, getattr(found, name)) for name in ("train", "validation", "test")}
    settings = {"tokens": unit, "length": length, "vocabulary": vocabulary, "cut": cut["train"]}
    return SequenceData(
        **parts,
        vocabulary=vocabulary,
        outputs=len(found.class_names),
        provenance={**found.provenance, **settings},
    )


def _part(texts: Sequence[str], labels: np.ndarray) -> TextPart:
    return TextPart(tuple(texts), labels)


def _take(part: TextPart, rows: np.ndarray) -> TextPart:
    return TextPart(tuple(part.texts[i] for i in rows), part.labels[rows])


def _hold_out(part: TextPart, size: int, seed: int) -> tuple[TextPart, TextPart]:
    rest, held = stratified_split(part.labels, size=size, seed=seed)
    return _take(part, rest), _take(part, held)


def _three_parts(parts: dict[str, TextPart], *, seed: int, origin: str) -> tuple[TextPart, ...]:
    if set(parts) == {"train", "dev", "test"}:
        return parts["train"], parts["dev"], parts["test"]
    if set(parts) == {"train", "test"}:
        train = parts["train"]
        rest, held = _hold_out(train, round(_HELD_OUT * len(train.labels)), seed)
        return rest, held, parts["test"]
    if set(parts) == {""}:
        size = round(_HELD_OUT * len(parts[""].labels))
        rest, test = _hold_out(parts[""], size, seed)
        rest, validation = _hold_out(rest, size, seed)
        return rest, validation, test
    raise DataUnavailable(
        f"{origin} has the parts {sorted(parts)}; expected train, dev and test, or train and test, "
        "or none"
    )


def _read_folder(data_set, data_dir) -> tuple[dict[str, TextPart], str, str]:
    """The texts of a folder `<part>/<neg or pos>/*.txt`, and a digest of names and contents."""
    location = find(data_set, data_dir=data_dir)
    if location is None:
        raise DataUnavailable(f"{data_set.name} is not here: {how_to_get(data_set)}")
    digest, parts = hashlib.sha256(), {}
    for part in ("train", "test"):
        texts, labels = [], []
        for label, folder in enumerate(("neg", "pos")):
            files = sorted((pathlib.Path(location.path) / part / folder).glob("*.txt"))
            if not files:
                raise DataUnavailable(
                    f"{location.path} has no {part}/{folder}/*.txt; {how_to_get(data_set)}"
                )
            for file in files:
                contents = file.read_bytes()
                digest.update(f"{part}/{folder}/{file.name} {len(contents)}\n".encode())
                digest.update(contents)
                texts.append(contents.decode("utf8", errors="replace"))
                labels.append(label)
        parts[part] = _part(texts, np.array(labels, np.int32))
    return parts, location.description, digest.hexdigest()


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}, want an integer of 1 or more")
