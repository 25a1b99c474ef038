"""Images as sequences: every pixel value a token, in the order of rows, columns and channels."""

import os

import numpy as np

from trove_jax.data.catalogue import describe
from trove_jax.data.images import load_images
from trove_jax.data.sequence_tasks import Examples, SequenceData
from trove_jax.data.splits import holdout

_DIGIT_LEVELS = 17


def digit_sequences(
    *, data_dir: str | os.PathLike | None = None, validation: float = 0.1, seed: int = 0
) -> SequenceData:
    """The digits of scikit-learn as 64 tokens each, of 17 grey levels.

    Args:
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.
      validation: share of the 1437 training images that is held out, each class keeping its share.
      seed: decides which.

    Returns:
      Parts `{"tokens": int32 [n, 64], "mask": bool [n, 64], "label": int32 [n]}`, `mask` being
      True everywhere; 17 tokens, 10 outputs; the 360 test images of the set "digits".

    Raises:
      ValueError: `validation` is not strictly between 0 and 1, or leaves a part empty.
      DataUnavailable: scikit-learn is not installed, or damaged.

    Example:
      >>> digits = digit_sequences()
      >>> digits.test["tokens"].shape, digits.vocabulary, digits.outputs
      ((360, 64), 17, 10)
    """
    images = load_images("digits", data_dir=data_dir)

    def examples(part) -> Examples:
        tokens = part["image"].reshape(len(part["image"]), -1).astype(np.int32)
        return {"tokens": tokens, "mask": np.ones(tokens.shape, bool), "label": part["label"]}

    rest, held = holdout(images.train, fraction=validation, seed=seed)
    return SequenceData(
        train=examples(rest),
        validation=examples(held),
        test=examples(images.test),
        vocabulary=_DIGIT_LEVELS,
        outputs=len(images.class_names),
        provenance=_provenance(images.provenance, rest, held, images.test),
    )


def pixel_sequences(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> SequenceData:
    """Images whose every value is to be predicted from those before it.

    The input is [256, x_1 ... x_(t-1)], the target [x_1 ... x_t]: 256 stands for the beginning.

    Args:
      name: as `load_images`; of CIFAR-10, t = 3072.
      data_dir: a folder of data sets, in place of the one that TROVE_DATA_DIR names.
      validation: share of the training images that is held out, each class keeping its share.
      seed: decides which.

    Returns:
      Parts `{"tokens": int32 [n, t], "mask": bool [n, t], "target": int32 [n, t], "scored":
      bool [n, t]}`, `mask` and `scored` being True everywhere; 257 tokens, 256 outputs.

    Raises:
      ValueError: no such set of images, or `validation` is out of range.
      DataUnavailable: the set is not here, or damaged; says what to do.

    Example:
      >>> digits = pixel_sequences("digits")
      >>> digits.test["tokens"][0, :4].tolist(), digits.test["target"][0, :4].tolist()
      ([256, 0, 0, 11], [0, 0, 11, 16])
    """
    describe(name)
    images = load_images(name, data_dir=data_dir)

    def examples(part) -> Examples:
        target = part["image"].reshape(len(part["image"]), -1).astype(np.int32)
        tokens = np.roll(target, 1, axis=1)
        tokens[:, 0] = 256
        every = np.ones(tokens.shape, bool)
        return {"tokens": tokens, "mask": every, "target": target, "scored": every}

    rest, held = holdout(images.train, fraction=validation, seed=seed)
    return SequenceData(
        train=examples(rest),
        validation=examples(held),
        test=examples(images.test),
        vocabulary=257,
        outputs=256,
        provenance=_provenance(images.provenance, rest, held, images.test),
    )


def _provenance(provenance, train, validation, test):
    parts = {"train": train, "validation": validation, "test": test}
    split = {name: len(part["label"]) for name, part in parts.items()}
    return {**provenance, "split": split, "order": "rows, columns, channels"}
