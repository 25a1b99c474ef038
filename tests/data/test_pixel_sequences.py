"""Images as sequences of their values."""

import numpy as np

from trove_jax import data


def test_digits_become_their_pixels_in_order():
    parts, images = data.digit_sequences(), data.load_images("digits")
    np.testing.assert_array_equal(
        parts.test["tokens"].reshape(360, 8, 8), images.test["image"][..., 0]
    )
    np.testing.assert_array_equal(parts.test["label"], images.test["label"])
    assert parts.provenance["split"] == {"train": 1293, "validation": 144, "test": 360}
    assert parts.train["tokens"].dtype == np.int32
    assert parts.train["tokens"].max() == parts.vocabulary - 1 == 16
    assert parts.train["mask"].all()
    rest, held = data.holdout(images.train, fraction=0.1, seed=0)
    for part, wanted in ((parts.train, rest), (parts.validation, held)):
        np.testing.assert_array_equal(part["tokens"], wanted["image"].reshape(-1, 64))


def test_the_next_pixel_is_asked_for_after_a_beginning():
    parts = data.pixel_sequences("mnist_5k")
    images = data.load_images("mnist_5k").test["image"].reshape(1000, -1)
    np.testing.assert_array_equal(parts.test["target"], images)
    assert (parts.test["tokens"][:, 0] == 256).all()
    np.testing.assert_array_equal(parts.test["tokens"][:, 1:], images[:, :-1])
    assert (parts.vocabulary, parts.outputs) == (257, 256)
    assert parts.provenance["split"] == {"train": 3600, "validation": 400, "test": 1000}
