"""Chains of units against the whole networks that they are cut from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count, random_variables, shapes
from trove_jax import models


def run_chain(units, head, variables, x, *, train):
    """Applies units and head in turn; returns the outputs and the updated statistics of each."""
    updates = []
    for module, own in zip([*units, head], variables, strict=True):
        x, update = module.apply(own, x, train=train, mutable=["batch_stats"])
        updates.append(update.get("batch_stats", {}))
    return x, updates


def cut(variables, groups):
    """Variables of each unit: `groups` lists, per unit, pairs (name of its own, whole's name)."""
    return [
        {
            kind: {own: tree[whole] for own, whole in group.items() if whole in tree}
            for kind, tree in variables.items()
        }
        for group in groups
    ]


def blocks(variables, names):
    return [{kind: tree[name] for kind, tree in variables.items()} for name in names]


def resnet_chain(variables):
    names = [name for name in variables["params"] if name.startswith("stage_")]
    stem, head = cut(variables, [{"stem": "stem", "stem_norm": "stem_norm"}, {"output": "output"}])
    return [stem, *blocks(variables, names), head]


def resnet_case(large, bottleneck, skip):
    stages = (1, 2, 1) if not large else (1, 1, 2)
    whole = (
        models.ResNet(stages, width=4, classes=5, bottleneck=bottleneck, skip=skip)
        if large
        else models.CifarResNet(2, width=4, classes=5, skip=skip)
    )
    units, head = models.resnet_units(
        stages if large else (2, 2, 2),
        width=4,
        classes=5,
        bottleneck=bottleneck,
        large=large,
        skip=skip,
    )
    return whole, units, head


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("large", "bottleneck", "skip"),
    [(False, False, True), (False, False, False), (True, True, True), (True, False, False)],
)
def test_residual_units_are_the_network_bit_for_bit(large, bottleneck, skip, train):
    whole, units, head = resnet_case(large, bottleneck, skip)
    x = jax.random.normal(jax.random.key(0), (3, 32, 36, 2) if large else (3, 8, 12, 2))
    variables = random_variables(whole, x.shape)
    want, updated = whole.apply(variables, x, train=train, mutable=["batch_stats"])
    got, updates = run_chain(units, head, resnet_chain(variables), x, train=train)
    np.testing.assert_array_equal(got, want)
    want_updates = resnet_chain({"params": variables["params"], **updated})
    jax.tree.map(
        np.testing.assert_array_equal, updates, [part.get("batch_stats") for part in want_updates]
    )


@pytest.mark.parametrize("train", [False, True])
def test_convolution_units_are_the_vgg_bit_for_bit(train):
    stages = ((3, 4), (5,), (6, 6))
    whole = models.CifarVGG(stages=stages, classes=4)
    units, head = models.vgg_units(stages, classes=4)
    x = jax.random.normal(jax.random.key(0), (3, 8, 12, 2))
    variables = random_variables(whole, x.shape)
    groups = [
        {"conv": f"stage_{i}_conv_{j}", "norm": f"stage_{i}_norm_{j}"}
        for i, widths in enumerate(stages)
        for j in range(len(widths))
    ]
    own = cut(variables, [*groups, {"output": "output"}])
    want, _ = whole.apply(variables, x, train=train, mutable=["batch_stats"])
    got, _ = run_chain(units, head, own, x, train=train)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_dense_units_are_the_perceptron_bit_for_bit(norm):
    whole = models.DeepMLP(3, 8, classes=4, norm=norm)
    units, head = models.mlp_units((8,) * 3, classes=4, norm=norm)
    x = jax.random.normal(jax.random.key(0), (5, 2, 3))
    variables = random_variables(whole, x.shape)
    groups = [{"hidden_0": f"hidden_{i}", "norm_0": f"norm_{i}"} for i in range(3)]
    own = cut(variables, [*groups, {"output": "output"}])
    for train in (False, True):
        want, _ = whole.apply(variables, x, train=train, mutable=["batch_stats"])
        got, _ = run_chain(units, head, own, x, train=train)
        np.testing.assert_array_equal(got, want)


def test_published_networks_have_as_many_parameters_as_their_units():
    for whole, (units, head), shape in (
        (models.cifar_resnet(32), models.resnet_units((5, 5, 5)), (1, 32, 32, 3)),
        (
            models.resnet50(),
            models.resnet_units((3, 4, 6, 3), width=64, classes=1000, bottleneck=True, large=True),
            (1, 64, 64, 3),
        ),
        (models.cifar_vgg(13), models.vgg_units(models.cifar_vgg(13).stages), (1, 32, 32, 3)),
        (
            models.lenet_300_100(),
            models.mlp_units((300, 100)),
            (1, 28, 28, 1),
        ),
    ):
        size = 0
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        for module in [*units, head]:
            x, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
            size += count(variables["params"])
            assert module is head or x.shape[-1] == module.width
        assert size == count(shapes(whole, shape)["params"])
        assert len(units) == {32: 16, 50: 17}.get(size, len(units))


def test_a_unit_halves_rounds_up_and_learns_from_its_own_law():
    zeros = jax.nn.initializers.zeros
    x = jnp.ones((1, 5, 7, 3))
    for unit in (
        models.ResidualUnit(4, stride=2, kernel_init=zeros),
        models.BottleneckUnit(4, stride=2, kernel_init=zeros),
        models.StemUnit(4, stride=2, kernel_init=zeros),
    ):
        y, variables = unit.init_with_output(jax.random.key(0), x)
        assert y.shape == (1, 3, 4, unit.width)
        kernels = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
            if path[-1].key == "kernel"
        ]
        assert kernels
        assert not any(kernel.any() for kernel in kernels)
    y = models.ConvUnit(4, stride=2).init_with_output(jax.random.key(0), x)[0]
    assert y.shape == (1, 2, 3, 4)


def test_dropout_draws_from_its_key_and_only_in_training():
    unit = models.DenseUnit(64, dropout_rate=0.5)
    x = jnp.ones((2, 3))
    variables = random_variables(unit, x.shape)
    kept = unit.apply(variables, x)
    draws = [
        unit.apply(variables, x, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    live = draws[0] != 0
    np.testing.assert_allclose(draws[0][live], 2 * kept[live], rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.resnet_units(()), "stages is empty"),
        (lambda: models.resnet_units((2, 0)), r"stages\[1\]=0, want a positive integer"),
        (lambda: models.resnet_units((2,), width=0), "width=0"),
        (lambda: models.resnet_units((2,), classes=2.5), "classes=2.5"),
        (lambda: models.vgg_units(()), "has nothing in it"),
        (lambda: models.vgg_units(((4,), ())), "has nothing in it"),
        (lambda: models.vgg_units(((4, -1),)), r"stages\[0\]\[1\]=-1"),
        (lambda: models.mlp_units(()), "widths is empty"),
        (lambda: models.mlp_units((4, True)), r"widths\[1\]=True"),
        (lambda: models.mlp_units((4,), norm="layer"), "norm='layer' is unknown"),
        (lambda: models.mlp_units((4,), dropout_rate=1.0), "dropout_rate=1.0 is outside"),
    ],
)
def test_what_makes_no_network_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("unit", "shape", "message"),
    [
        (models.ResidualUnit(4, stride=2), (1, 1, 8, 3), "at least 2x2 pixels"),
        (models.BottleneckUnit(4), (1, 8, 3), "channels last"),
        (models.ConvUnit(4, stride=2), (1, 1, 1, 3), "at least 2x2 pixels"),
        (models.StemUnit(4, stride=2, pool=True), (1, 3, 3, 3), "at least 4x4 pixels"),
        (models.StemUnit(4, size=4), (1, 8, 8, 3), "size=4 has no middle; use 5"),
        (models.ResidualUnit(0), (1, 8, 8, 3), "features=0"),
        (models.ResidualUnit(4, stride=0), (1, 8, 8, 3), "stride=0"),
        (models.DenseUnit(4, norm="group"), (1, 8), "norm='group' is unknown"),
        (models.DenseUnit(4, dropout_rate=-0.1), (1, 8), "dropout_rate=-0.1"),
        (models.PoolHead(0), (1, 8), "classes=0"),
        (models.PoolHead(3), (8,), r"want \[b, d\]"),
    ],
)
def test_units_refuse_what_they_cannot_read(unit, shape, message):
    with pytest.raises(ValueError, match=message):
        unit.init({}, jnp.zeros(shape))


@pytest.mark.parametrize(
    "unit",
    [
        models.StemUnit(4),
        models.ResidualUnit(4),
        models.BottleneckUnit(4),
        models.ConvUnit(4),
        models.DenseUnit(4),
        models.PoolHead(4),
    ],
    ids=lambda unit: type(unit).__name__,
)
def test_units_refuse_bytes(unit):
    with pytest.raises(ValueError, match="dtype uint8"):
        unit.init({}, jnp.zeros((1, 8, 8, 3), jnp.uint8))
