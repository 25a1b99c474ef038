"""Networks with auxiliary networks: whatever the rule, units and head are the network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import count, random_variables, shapes
from trove_jax import layers, models

RULES = {
    "bp": layers.bp(),
    "greedy": layers.greedy(),
    "dgl": layers.dgl(),
    "predsim": layers.predsim(),
    "infopro": layers.infopro(size=8, channels=2),
    "auglocal": layers.auglocal(2),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_network_is_its_units_and_head_alone(rule):
    units, head = models.resnet_units((1, 1), width=4, classes=3)
    chain = models.local_chain(units, head, RULES[rule])
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    variables = random_variables(chain, x.shape)
    want = x
    for i, unit in enumerate((*units, head)):
        name = f"units_{i}" if i < len(units) else "head"
        parts = {key: part[name] for key, part in variables.items() if name in part}
        want = unit.apply(parts, want, train=False)
    got = jax.jit(chain.apply)(variables, x)
    # The same operations, fused differently.
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    bare = {
        key: {name: leaf for name, leaf in part.items() if not name.startswith("aux")}
        for key, part in variables.items()
    }
    np.testing.assert_array_equal(jax.jit(chain.apply)(bare, x), got)


def test_the_chain_is_the_published_network():
    units, head = models.resnet_units((3, 3, 3))
    chain = models.local_chain(units, head, layers.bp())
    assert count(shapes(chain, (1, 32, 32, 3))["params"]) == 272_474


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_follow_each_other_to_the_same_output(parts):
    units, head = models.mlp_units((6, 5, 4, 3), classes=2, norm="batch")
    chain = models.local_chain(units, head, layers.auglocal(2), parts=parts)
    x = jax.random.normal(jax.random.key(0), (7, 4))
    variables = random_variables(chain, x.shape)
    assert chain.parts == parts
    y, seen = x, []
    for part in range(parts):
        names = chain.variable_names(part)
        seen += names
        # The variables of this part are enough.
        own = {
            key: {name: collection[name] for name in names if name in collection}
            for key, collection in variables.items()
        }
        y, outputs = chain.apply(own, part, y, method="part")
        assert outputs["logits"].shape == (7, 2)
    assert sorted(seen) == sorted(variables["params"])
    np.testing.assert_allclose(outputs["logits"], chain.apply(variables, x), rtol=1e-6)


def test_auxiliary_networks_have_parameters_of_their_own():
    chain = models.local_chain(*models.mlp_units((6,) * 4, classes=2), layers.auglocal(3))
    params = chain.init(jax.random.key(0), jnp.ones((1, 6)))["params"]
    copy, model = params["auxiliaries_0"]["units_0"], params["units_1"]
    assert jax.tree.map(jnp.shape, copy) == jax.tree.map(jnp.shape, model)
    for leaf, other in zip(jax.tree.leaves(copy), jax.tree.leaves(model), strict=True):
        assert leaf.ndim == 1 or not np.allclose(leaf, other)


def test_activations_are_read_from_outside():
    chain = models.local_chain(*models.mlp_units((6, 5, 4), classes=2), layers.greedy())
    x = jnp.ones((3, 4))
    _, found = layers.capture(chain, chain.init(jax.random.key(0), x), x, filter=r"units_\d+")
    assert {name: leaf.shape for name, leaf in found.items()} == {
        "units_0": (3, 6),
        "units_1": (3, 5),
        "units_2": (3, 4),
    }


def test_any_head_will_do_if_the_classes_are_named():
    class Head(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(2)(x)

    units, _ = models.mlp_units((6, 5))
    chain = models.local_chain(units, Head(), layers.greedy(), classes=2)
    assert shapes(chain, (3, 4))["params"]["auxiliaries_0"]["output"]["kernel"].shape == (6, 2)
    with pytest.raises(ValueError, match="classes is missing, and Head has none"):
        models.local_chain(units, Head(), layers.greedy())


def test_networks_that_are_none_are_refused():
    units, head = models.mlp_units((6, 5))
    with pytest.raises(ValueError, match="units is empty"):
        models.local_chain((), head, layers.greedy())
    with pytest.raises(ValueError, match="a unit is there twice"):
        models.local_chain((units[0], units[0]), head, layers.greedy())
    with pytest.raises(ValueError, match="parts=3 of a network of 2 units"):
        models.local_chain(units, head, layers.greedy(), parts=3)
    nets = tuple(layers.AuxNet(units=(), classes=10) for _ in range(2))
    with pytest.raises(ValueError, match="2 auxiliary networks for 2 units"):
        shapes(models.LocalChain(units, head, nets), (3, 4))


def test_space_too_small_for_an_auxiliary_network_is_refused_before_training():
    units, head = models.resnet_units((1, 1, 1), width=4)
    chain = models.local_chain(units, head, layers.auglocal(3))
    with pytest.raises(ValueError, match="3x3 pixels, but the strides of the 3 units"):
        shapes(chain, (1, 3, 3, 1))
