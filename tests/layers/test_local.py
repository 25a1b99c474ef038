"""Which units an auxiliary network is made of: the published formulas, rules and refusals."""

import fractions

import flax.linen as nn
import numpy as np
import pytest

from trove_jax import layers, models

PLACES = [(i, n, d) for n in range(2, 30) for i in range(n - 1) for d in range(1, n + 1)]


def test_uniform_indices_are_the_formula_rounded_half_to_even():
    """Rational numbers are exact; the published float64 may fall to either side of a half."""
    halves = off = 0
    for index, units, depth in PLACES:
        behind = units - 1 - index
        chosen = layers.uniform_indices(index, units, depth)
        if depth >= behind:
            assert chosen == [*range(index + 1, units)]
            continue
        assert len(chosen) == depth
        for i, got in enumerate(chosen, 1):
            place = index + fractions.Fraction(behind * i, depth)
            # Halves that float64 holds exactly go to the even side, as in NumPy.
            exact = place.denominator == 2 and (depth & (depth - 1)) == 0
            if place.denominator == 2 and not exact:
                halves, off = halves + 1, off + (got != round(place))
                assert abs(got - place) == fractions.Fraction(1, 2)
            else:
                assert got == round(place) == np.rint(float(place))
    assert off < 0.1 * halves


@pytest.mark.parametrize("select", ["uniform", "next", "last"])
def test_chosen_units_lie_behind_and_differ(select):
    for index, units, depth in PLACES:
        chosen = layers.selected_indices(index, units, depth, select=select)
        assert len(chosen) == min(depth, units - 1 - index)
        assert chosen == sorted(set(chosen))
        assert index < chosen[0] <= chosen[-1] < units
        if select != "next":
            assert chosen[-1] == units - 1
        if select == "next":
            assert chosen[0] == index + 1
        if select == "last":
            assert chosen == [*range(units)][chosen[0] :]


def test_pyramid_is_linear_between_its_ends():
    for parts in (3, 4, 16, 55):
        for depth in (1, 2, 5, 9):
            for c in (0.0, 0.3, 0.5, 1.0):
                depths = layers.pyramid_depths(parts, depth, c)
                # np.interp is the straight line; a rounding error moves no value over a half here
                # except where the line passes through one.
                line = np.interp(range(parts - 1), [0, parts - 2], [depth, depth - c * (depth - 1)])
                assert np.all(np.abs(depths - line) <= 0.5 + 1e-9)
                assert depths == sorted(depths, reverse=True)
                assert depths[0] == depth
                assert min(depths) >= 1
    assert layers.pyramid_depths(16, 2) == [2] * 15  # the last is 1.5, half to even
    assert layers.pyramid_depths(16, 9)[-1] == 5
    assert layers.pyramid_depths(2, 7) == [7]


RESNET_32 = (16,) * 6 + (32,) * 5 + (64,) * 5


@pytest.mark.parametrize(
    ("index", "depth", "plan"),
    [
        (0, 1, [(64, 2)]),  # one unit can halve once only
        (0, 2, [(32, 2), (64, 2)]),  # units 8 and 15
        (0, 4, [(16, 1), (32, 2), (64, 2), (64, 1)]),  # units 4, 8, 11, 15
        (5, 2, [(32, 2), (64, 2)]),  # units 10 and 15
        (8, 2, [(64, 2), (64, 1)]),  # units 12 (11.5, half to even) and 15
        (14, 9, [(64, 1)]),
    ],
)
def test_plan_of_resnet_32_by_hand(index, depth, plan):
    assert layers.aux_plan(RESNET_32, index, depth, size=32) == plan


def test_a_jump_in_width_halves_as_often_as_units_allow():
    assert layers.aux_plan((8, 64, 64, 64), 0, 3) == [(64, 2), (64, 2), (64, 2)]
    assert layers.aux_plan((8, 64, 64), 0, 2) == [(64, 2), (64, 2)]
    assert layers.aux_plan((8, 24, 24), 0, 2) == [(24, 2), (24, 1)]


def test_auglocal_copies_units_with_the_plan_and_no_parameters():
    units, _ = models.resnet_units((5, 5, 5), classes=7)
    nets = layers.auglocal(4)(units, classes=7)
    assert len(nets) == 15
    for index, (net, depth) in enumerate(zip(nets, layers.pyramid_depths(16, 4), strict=True)):
        plan = [(unit.features, unit.stride) for unit in net.units]
        assert plan == layers.aux_plan(RESNET_32, index, depth)
        assert all(type(unit) is models.ResidualUnit for unit in net.units)
        assert not {id(unit) for unit in net.units} & {id(unit) for unit in units}
        assert (net.classes, net.norm) == (7, False)
    assert all(net.norm for net in layers.auglocal(1)(units, classes=7))


def test_settings_of_a_unit_reach_its_copies():
    units, _ = models.resnet_units((1, 1), width=4, axis_name="batch", dtype=np.float16)
    for rule in (layers.auglocal(2), layers.greedy(), layers.dgl(), layers.predsim()):
        for net in rule(units, classes=3):
            assert (net.dtype, net.axis_name) == (np.float16, "batch")
            for unit in getattr(net, "units", ()):
                assert (unit.dtype, unit.axis_name) == (np.float16, "batch")


def test_vectors_have_no_strides_and_may_shrink():
    units, _ = models.mlp_units((32, 16, 8, 4))
    net = layers.auglocal(2)(units, classes=3)[0]
    assert [unit.features for unit in net.units] == [8, 4]  # units 2 (1.5, half to even) and 3


def test_bottlenecks_are_planned_by_the_width_that_comes_out():
    units, _ = models.resnet_units((1, 1), width=4, bottleneck=True)
    assert [unit.width for unit in units] == [4, 16, 32]
    stem, block = layers.auglocal(2)(units, classes=3)
    assert [(unit.features, unit.stride) for unit in stem.units] == [(4, 2), (8, 2)]
    assert [(unit.features, unit.stride) for unit in block.units] == [(8, 2)]


def test_fewer_parts_than_units_makes_the_first_units_local():
    units, _ = models.mlp_units((8,) * 6)
    assert len(layers.auglocal(2)(units, classes=3, parts=3)) == 2
    assert len(layers.bp()(units, classes=3)) == 0


def test_weights_of_infopro_change_linearly_and_those_of_predsim_sum_to_one():
    units, _ = models.resnet_units((1, 1, 1), width=4)
    weights = [dict(net.weights) for net in layers.infopro()(units, classes=3)]
    assert [w["reconstruction"] for w in weights] == pytest.approx([5.0, 2.6, 0.2])
    assert [w["logits"] for w in weights] == pytest.approx([0.05, 0.275, 0.5])
    for net in layers.predsim(0.75)(units, classes=3):
        assert dict(net.weights) == {"similarity": 0.75, "logits": 0.25}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layers.uniform_indices(0, 5, 0), "depth=0 is no depth"),
        (lambda: layers.uniform_indices(0, 5, 1.5), "depth=1.5 is no depth"),
        (lambda: layers.uniform_indices(4, 5, 1), "index=4 has no unit behind it .* use 0 to 3"),
        (lambda: layers.uniform_indices(-1, 5, 1), "index=-1 has no unit"),
        (lambda: layers.selected_indices(0, 5, 1, select="first"), "select='first' is unknown"),
        (lambda: layers.selected_indices(9, 5, 1, select="last"), "index=9 has no unit"),
        (lambda: layers.pyramid_depths(1, 2), "parts=1 leaves nothing local"),
        (lambda: layers.pyramid_depths(4, 0), "depth=0 is no depth"),
        (lambda: layers.pyramid_depths(4, 2, -0.1), r"coefficient=-0.1 is outside \[0, 1\]"),
        (lambda: layers.pyramid_depths(4, 2, 1.1), r"coefficient=1.1 is outside \[0, 1\]"),
        (lambda: layers.aux_plan((16, 32, 16), 0, 1), r"widths\[2\]=16 is below widths\[1\]=32"),
        (
            lambda: layers.aux_plan((16, 32, 64), 0, 2, size=3),
            "size=3 of unit 0 cannot be halved 2 times",
        ),
        (lambda: layers.auglocal(0), "depth=0 is no depth"),
        (lambda: layers.auglocal(2, 2.0), "coefficient=2.0 is outside"),
        (lambda: layers.auglocal(2, select="nearest"), "select='nearest' is unknown"),
        (lambda: layers.predsim(1.5), "beta=1.5 is outside"),
        (lambda: layers.infopro((1.0, -1.0)), "reconstruction=.* none negative"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "rule",
    [layers.auglocal(2), layers.greedy(), layers.dgl(), layers.predsim(), layers.infopro()],
    ids=["auglocal", "greedy", "dgl", "predsim", "infopro"],
)
def test_numbers_of_parts_that_do_not_fit_are_refused(rule):
    units, _ = models.mlp_units((8, 8, 8))
    with pytest.raises(ValueError, match="parts=1 leaves nothing local"):
        rule(units, classes=3, parts=1)
    with pytest.raises(ValueError, match="parts=4 of a network of 3 units"):
        rule(units, classes=3, parts=4)
    with pytest.raises(ValueError, match="parts=1 leaves nothing local"):
        rule(units[:1], classes=3)


def test_end_to_end_training_has_one_part():
    with pytest.raises(ValueError, match="parts=2: end-to-end training has 1 part"):
        layers.bp()(models.mlp_units((8, 8))[0], classes=3, parts=2)


def test_shrinking_widths_are_refused_where_strides_depend_on_them():
    units = (models.StemUnit(8), models.ResidualUnit(16), models.ResidualUnit(8))
    with pytest.raises(ValueError, match=r"widths\[2\]=8 is below widths\[1\]=16"):
        layers.auglocal(1)(units, classes=3)


def test_any_module_can_be_a_unit():
    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return x * self.param("scale", nn.initializers.ones, ())

    nets = layers.auglocal(1)((Scale(), Scale(), Scale()), classes=3)
    assert [type(unit) for unit in nets[0].units] == [Scale]
