"""Labelled texts: their parts, and words and bytes as tokens, against the files read plainly."""

import collections
import gzip

import numpy as np
import pytest

from trove_jax import core, data
from trove_jax.data.text_file import read_text, split_labels, split_parts


def plain_lines(folder, name):
    with gzip.open(folder / f"{name}.txt.gz", "rt", encoding="utf8", newline="\n") as file:
        return file.read().rstrip("\n").split("\n")


def plain_parts(folder, name):
    """(label, text) of each part, by a loop over the lines of the file."""
    parts, part = collections.defaultdict(list), ""
    for line in plain_lines(folder, name):
        if line.startswith("#file"):
            part = line.split()[1]
        else:
            parts[part].append((int(line[0]), line[2:].strip()))
    return parts


def pairs(part):
    return list(zip(part.labels.tolist(), part.texts, strict=True))


def test_published_parts_are_kept_and_counted(data_dir):
    found, plain = data.load_texts("sst2", data_dir=data_dir), plain_parts(data_dir, "sst2")
    assert pairs(found.train) == plain["train"]
    assert pairs(found.validation) == plain["dev"]
    assert pairs(found.test) == plain["test"]
    assert found.provenance["split"] == {"train": 6920, "validation": 872, "test": 1821}
    assert np.bincount(found.train.labels).tolist() == [3310, 3610]
    assert len(found.provenance["sha256"]) == 64


@pytest.mark.parametrize(("name", "sizes"), [("trec6", (4907, 545, 500)), ("mr", None)])
def test_parts_that_are_drawn_keep_classes_and_lose_no_text(data_dir, name, sizes):
    found, plain = data.load_texts(name, data_dir=data_dir), plain_parts(data_dir, name)
    assert tuple(found.provenance["split"].values()) == (sizes or (8530, 1066, 1066))
    drawn = pairs(found.train) + pairs(found.validation)
    if name == "mr":
        drawn += pairs(found.test)
        whole = plain[""]
    else:
        assert pairs(found.test) == plain["test"]
        whole = plain["train"]
    assert sorted(drawn) == sorted(whole)
    share = np.bincount([label for label, _ in whole]) / len(whole)
    held = np.bincount(found.validation.labels)
    assert np.abs(held - share * held.sum()).max() < 1
    assert data.load_texts(name, data_dir=data_dir, seed=1).train.texts != found.train.texts


def test_words_are_numbered_by_how_common_they_are_in_training(data_dir):
    parts = data.text_tokens("trec6", length=12, vocabulary=300, min_count=2, data_dir=data_dir)
    found = data.load_texts("trec6", data_dir=data_dir)
    counts = collections.Counter(w for text in found.train.texts for w in text.lower().split())
    order = sorted(counts, key=lambda word: (-counts[word], word))[:298]
    assert (parts.vocabulary, parts.outputs) == (300, 6)
    for name in ("validation", "test"):
        part, texts = getattr(parts, name), getattr(found, name).texts
        assert part["tokens"].dtype == np.int32
        for row, mask, text in zip(part["tokens"], part["mask"], texts, strict=True):
            words = text.lower().split()[:12]
            wanted = [order.index(word) + 2 if word in order else 1 for word in words]
            assert row.tolist() == wanted + [0] * (12 - len(wanted))
            assert mask.tolist() == [True] * len(words) + [False] * (12 - len(words))
    cut = np.mean([len(text.split()) > 12 for text in found.train.texts])
    assert parts.provenance["cut"] == pytest.approx(cut)
    unknown = (parts.test["tokens"] == 1).sum() / parts.test["mask"].sum()
    assert 0 < parts.provenance["unknown"] == pytest.approx(unknown)


def test_min_count_and_vocabulary_limit_the_words():
    texts = ["b a b", "c b a", "d"]
    assert data.word_vocabulary(texts) == ("b", "a", "c", "d")
    assert data.word_vocabulary(texts, min_count=2) == ("b", "a")
    assert data.word_vocabulary(texts, size=3) == ("b",)


def test_bytes_are_shifted_by_the_padding(data_dir):
    parts = data.text_bytes("sst2", length=40, data_dir=data_dir)
    texts = data.load_texts("sst2", data_dir=data_dir).test.texts
    assert (parts.vocabulary, parts.outputs) == (257, 2)
    for row, mask, text in zip(parts.test["tokens"], parts.test["mask"], texts, strict=True):
        assert bytes((row[mask] - 1).tolist()) == text.encode("utf8")[:40]
        assert not row[~mask].any()


def test_a_folder_of_reviews_is_read_with_its_labels(tmp_path):
    for part in ("train", "test"):
        for kind in ("neg", "pos"):
            (tmp_path / "imdb" / part / kind).mkdir(parents=True)
            for i in range(5):
                file = tmp_path / "imdb" / part / kind / f"{i}_7.txt"
                file.write_text(f"{part} {kind} number{i} né", encoding="utf8")
    found = data.load_texts("imdb", data_dir=tmp_path)
    assert found.provenance["split"] == {"train": 9, "validation": 1, "test": 10}
    for part in (found.train, found.validation, found.test):
        assert [("neg", "pos")[label] for label in part.labels] == [
            t.split()[1] for t in part.texts
        ]
    digest = found.provenance["sha256"]
    (tmp_path / "imdb/test/pos/0_7.txt").write_text("other")
    assert data.load_texts("imdb", data_dir=tmp_path).provenance["sha256"] != digest
    for file in (tmp_path / "imdb/test/neg").iterdir():
        file.unlink()
    with pytest.raises(core.DataUnavailable, match=r"no test/neg/\*\.txt; get aclImdb"):
        data.load_texts("imdb", data_dir=tmp_path)


def test_what_is_missing_or_damaged_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(core.DataUnavailable, match=r"sst2 is not here: put sst2\.txt\.gz"):
        data.load_texts("sst2", data_dir=tmp_path)
    whole = gzip.compress(b"1 fine\n" * 100, mtime=0)
    (tmp_path / "sst2.txt.gz").write_bytes(whole[:-9])
    with pytest.raises(core.DataUnavailable, match="damaged"):
        data.load_texts("sst2", data_dir=tmp_path)
    (tmp_path / "sst2.txt.gz").write_bytes(whole)
    with pytest.raises(core.DataUnavailable, match=r"text is uint8 \[700\], expected .*1026839"):
        data.load_texts("sst2", data_dir=tmp_path)


def test_lines_and_labels_are_checked():
    with pytest.raises(core.DataUnavailable, match="begins the part 'train' twice"):
        split_parts(b"#file train\n1 a\n#file train\n", origin="here")
    with pytest.raises(core.DataUnavailable, match="here is no UTF-8 text"):
        split_parts(b"1 \xff\n", origin="here")
    with pytest.raises(core.DataUnavailable, match="line 2 of the part begins with '2', expected"):
        split_labels(["1 a", "2 b"], classes=2, origin="here")
    # A separator of lines that only Unicode knows does not end a line.
    assert split_parts("1 a\u2028b\x85c\n".encode(), origin="here") == {"": ["1 a\u2028b\x85c"]}


def test_a_text_is_prepared_into_another_folder_and_found_there(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TROVE_DATA_DIR", raising=False)
    mr = data.describe("mr")
    done = data.prepare(mr, origin=data_dir / "mr.txt.gz", data_dir=tmp_path)
    assert done.path == tmp_path / "mr.npz"
    text = read_text(data_dir / "mr.txt.gz")
    assert done.sha256 == data.contents_sha256({"text": text})
    found = data.load_texts("mr", data_dir=tmp_path)
    assert found.provenance["sha256"] == done.sha256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length=0"),
        ({"length": 4, "vocabulary": 2}, "vocabulary=2 leaves no word"),
        ({"length": 4, "min_count": 0}, "min_count=0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        data.text_tokens("sst2", **settings)


def test_other_sets_are_no_labelled_texts():
    for name in ("tinyshakespeare", "digits", "imagenet"):
        with pytest.raises(ValueError, match="no set of labelled texts"):
            data.load_texts(name)
