"""What networks refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import models
from trove_jax.models.inputs import as_logits, check_images, check_sizes

IMAGE_MODELS = {
    "cifar_resnet": (models.cifar_resnet(8, width=2), 4),
    "cifar_vgg": (models.CifarVGG(stages=((2,),) * 5), 16),
    "resnet": (models.ResNet(stages=(1, 1, 1, 1), width=2, classes=3), 32),
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_what_is_not_a_batch_of_images_is_refused(name):
    model, smallest = IMAGE_MODELS[name]
    for shape in ((2, 64, 64), (2, 3, smallest, smallest), (2, smallest - 1, 64, 3)):
        with pytest.raises(ValueError, match="channels last"):
            model.init({}, jnp.zeros(shape))
    with pytest.raises(ValueError, match="/ 255") as error:
        model.init({}, jnp.zeros((2, smallest, smallest, 3), jnp.uint8))
    assert "uint8" in str(error.value)


@pytest.mark.parametrize("model", [models.lenet_300_100(), models.residual_mlp(width=8)])
def test_perceptrons_refuse_bytes(model):
    with pytest.raises(ValueError, match="dtype uint8") as error:
        model.init({}, jnp.zeros((2, 28, 28), jnp.uint8))
    assert "float32" in str(error.value)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "10"])
def test_sizes_that_are_not_positive_integers_are_refused(size):
    for build in (
        lambda: models.lenet_300_100(classes=size),
        lambda: models.residual_mlp(classes=size),
        lambda: models.cifar_resnet(20, classes=size),
        lambda: models.cifar_vgg(19, classes=size),
        lambda: models.resnet18(classes=size),
        lambda: models.resnet50(classes=size),
    ):
        with pytest.raises(ValueError, match=r"classes=.*positive integer"):
            build()
    assert check_sizes(width=3) is None


def test_wide_outputs_stay_wide():
    assert as_logits(jnp.ones(1, jnp.float16)).dtype == jnp.float32
    assert as_logits(jnp.ones(1)).dtype == jnp.float32
    check_images(jnp.zeros((0, 4, 4, 1)), smallest=4)
    np.testing.assert_array_equal(as_logits(jnp.asarray([1.5], jnp.bfloat16)), [1.5])
