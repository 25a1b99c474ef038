"""Windows of a running text, put together again."""

import gzip

import numpy as np
import pytest

from trove_jax import data


def test_windows_put_together_are_the_text(data_dir):
    parts = data.character_windows("tinyshakespeare", length=128, data_dir=data_dir)
    with gzip.open(data_dir / "tinyshakespeare.txt.gz", "rt", encoding="utf8", newline="\n") as f:
        text = f.read()
    cuts = [0, round(0.81 * len(text)), round(0.9 * len(text)), len(text)]
    known = sorted(set(text[: cuts[1]]))
    number = {character: i + 1 for i, character in enumerate(known)}
    assert parts.vocabulary == parts.outputs == len(known) + 1
    for name, start, end in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False):
        part, piece = getattr(parts, name), text[start:end]
        n = len(part["tokens"])
        assert n == (len(piece) - 1) // 128
        wanted = [number.get(character, 0) for character in piece[: n * 128 + 1]]
        assert part["tokens"].shape == part["target"].shape == (n, 128)
        np.testing.assert_array_equal(part["tokens"].ravel(), wanted[:-1])
        np.testing.assert_array_equal(part["target"].ravel(), wanted[1:])
        assert part["mask"].all()
        assert part["scored"].all()
    assert parts.provenance["split"] == {"train": 7058, "validation": 784, "test": 871}


def test_bytes_need_no_vocabulary(data_dir):
    parts = data.character_windows(
        "wikitext2_valid_test", length=64, unit="bytes", train=0.9, validation=0.05,
        data_dir=data_dir,
    )  # fmt: skip
    with gzip.open(data_dir / "wikitext2_valid_test.txt.gz") as file:
        whole = file.read()
    assert parts.vocabulary == 256
    assert bytes(parts.train["tokens"].ravel().tolist()[:500]) == whole[:500]
    assert bytes(parts.test["target"][0].tolist()) == whole[round(0.95 * len(whole)) + 1 :][:64]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sst2", {"length": 8}, "no running text"),
        ("digits", {"length": 8}, "no running text"),
        ("tinyshakespeare", {"length": 0}, "length=0"),
        ("tinyshakespeare", {"length": 8, "unit": "words"}, "unit='words' is unknown"),
        ("tinyshakespeare", {"length": 8, "train": 0.9, "validation": 0.1}, "no part for test"),
    ],
)
def test_bad_arguments_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        data.character_windows(name, **settings)


def test_a_window_longer_than_a_part_is_refused(data_dir):
    with pytest.raises(ValueError, match="longer than the validation part"):
        data.character_windows("tinyshakespeare", length=200_000, data_dir=data_dir)
