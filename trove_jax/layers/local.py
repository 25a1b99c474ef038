"""Which later units an auxiliary network is made of, and rules that give every unit one.

Supervised local learning trains each part of a network by a loss of its own, behind an auxiliary
network that is dropped afterwards. A rule is a function `(units, *, classes, parts=None)` that
gives the auxiliary networks of all parts but the last; `models.local_chain` puts them together
and `losses.local_learning` trains them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn

from trove_jax.layers.auxiliary import AuxNet, DglAux, InfoProAux, PredSimAux

Select = Literal["uniform", "next", "last"]
LocalRule = Callable[..., tuple[nn.Module, ...]]


def uniform_indices(index: int, units: int, depth: int) -> list[int]:
    """Chooses units behind a given one, evenly spaced, the last unit always among them.

    round(index + (units - index - 1) / depth * i) for i = 1, ..., depth, in float64 and in this
    order of operations, halves to even; all units behind `index` where there are no more than
    `depth`.

    Args:
      index: the unit that gets an auxiliary network, 0 <= index < units - 1.
      units: number of units of the network, n.
      depth: how many to choose, at least 1.

    Returns:
      Rising indices from index + 1 to units - 1.

    Raises:
      ValueError: a `depth` below 1, or an `index` that is no unit or the last one.

    Example:
      >>> uniform_indices(0, 16, 4), uniform_indices(13, 16, 4)
      ([4, 8, 11, 15], [14, 15])

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024 (the uniform selection).
    """
    _check_place(index, units, depth)
    behind = units - 1 - index
    if depth >= behind:
        return list(range(index + 1, units))
    return [round(index + behind / depth * i) for i in range(1, depth + 1)]


def selected_indices(
    index: int, units: int, depth: int, *, select: Select = "uniform"
) -> list[int]:
    """Chooses units behind a given one, evenly or, as controls, from one end.

    Args:
      index: as `uniform_indices`.
      units: as `uniform_indices`.
      depth: as `uniform_indices`.
      select: `"uniform"`, `"next"` (those that follow directly) or `"last"` (the network's last).

    Returns:
      Rising indices, min(depth, units - 1 - index) of them.

    Raises:
      ValueError: as `uniform_indices`, and for an unknown `select`.

    Example:
      >>> selected_indices(2, 10, 3, select="next"), selected_indices(2, 10, 3, select="last")
      ([3, 4, 5], [7, 8, 9])
    """
    if select == "uniform":
        return uniform_indices(index, units, depth)
    _check_place(index, units, depth)
    if select == "next":
        return list(range(index + 1, min(index + 1 + depth, units)))
    if select == "last":
        return list(range(max(index + 1, units - depth), units))
    raise ValueError(f'select={select!r} is unknown; use "uniform", "next" or "last"')


def pyramid_depths(parts: int, depth: int, coefficient: float = 0.5) -> list[int]:
    """Depths of the auxiliary networks, shrinking linearly towards the end of the network.

    d_l = max(1, round(d (1 - r) + r)) with r = c l / (K - 2), halves to even: from d for the
    first part to d - c (d - 1) for the last hidden one. With K = 2 there is one hidden part, and
    d_0 = d.

    Args:
      parts: K, in how many parts the network is trained, at least 2.
      depth: d, at least 1.
      coefficient: c in [0, 1]; 0 gives every part the depth d, 0.5 is the published setting.

    Returns:
      K - 1 depths.

    Raises:
      ValueError: an argument outside its range.

    Example:
      >>> pyramid_depths(6, 5), pyramid_depths(2, 5)
      ([5, 4, 4, 4, 3], [5])

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024 (the pyramidal depth).
    """
    _check_parts(parts)
    _check_depth(depth)
    if not 0.0 <= coefficient <= 1.0:
        raise ValueError(f"coefficient={coefficient} is outside [0, 1]; the published one is 0.5")
    shares = [coefficient * i / max(parts - 2, 1) for i in range(parts - 1)]
    return [max(1, round(depth * (1 - r) + r)) for r in shares]


def aux_plan(
    widths: Sequence[int],
    index: int,
    depth: int,
    *,
    select: Select = "uniform",
    size: int | None = None,
) -> list[tuple[int, int]]:
    """Widths and strides of the units of an auxiliary network.

    The widths are those of the chosen units. A counter grows by log2 of the factor by which the
    width grows; wherever it is at least 1, the unit gets stride 2 and the counter falls by 1, so
    that a network that passes over a stage still halves height and width.

    Args:
      widths: of all units of the network, none below the one before.
      index: the unit that gets the auxiliary network.
      depth: how many later units to choose.
      select: which, as `selected_indices`.
      size: height or width (the smaller) of the unit's output, to check that it can be halved so
        often; None to leave that open.

    Returns:
      (width, stride) of every chosen unit.

    Raises:
      ValueError: as `selected_indices`; a width below the one before it; a `size` that is too
        small for the strides.

    Example:
      >>> aux_plan((16, 16, 16, 32, 32, 64, 64), 0, 2, size=32)
      [(32, 2), (64, 2)]
      >>> aux_plan((16, 64, 64), 0, 2)
      [(64, 2), (64, 2)]

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024 (published code, `auxiliary_nets.py`).
    """
    for i in range(1, len(widths)):
        if widths[i] < widths[i - 1]:
            raise ValueError(
                f"widths[{i}]={widths[i]} is below widths[{i - 1}]={widths[i - 1]}; where an "
                "auxiliary network halves height and width is known for growing widths only"
            )
    plan, counter, width = [], 0, widths[index]
    for chosen in selected_indices(index, len(widths), depth, select=select):
        counter += (widths[chosen] // width).bit_length() - 1
        stride = 2 if counter >= 1 else 1
        counter -= stride - 1
        width = widths[chosen]
        plan.append((width, stride))
    halvings = sum(stride == 2 for _, stride in plan)
    if size is not None and size < 2**halvings:
        raise ValueError(
            f"size={size} of unit {index} cannot be halved {halvings} times, as the plan {plan} "
            f"of its auxiliary network does; want {2**halvings} pixels or more"
        )
    return plan


def auglocal(depth: int, coefficient: float = 0.5, *, select: Select = "uniform") -> LocalRule:
    """Makes the rule whose auxiliary networks repeat the structure of later units.

    Part l gets fresh copies of `pyramid_depths(...)[l]` later units (their structure, not their
    parameters), chosen by `select`, and a linear head on the mean over pixels. Units with a
    `stride` get the strides of `aux_plan`. As in the published code, a batch normalisation stands
    before the head of a network of depth 1.

    Args:
      depth: d, units of the deepest auxiliary network, at least 1.
      coefficient: c in [0, 1], as `pyramid_depths`.
      select: `"uniform"`, or the controls `"next"` and `"last"`.

    Returns:
      The rule.

    Raises:
      ValueError: an argument outside its range; from the rule: fewer than 2 parts or more parts
        than units, widths that shrink.

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024.
    """
    pyramid_depths(2, depth, coefficient)
    selected_indices(0, 2, depth, select=select)

    def rule(units: Sequence[Any], *, classes: int, parts: int | None = None):
        depths = pyramid_depths(_count(units, parts), depth, coefficient)
        return tuple(
            AuxNet(
                units=_copies(units, index, part_depth, select),
                classes=classes,
                norm=part_depth <= 1,
                **_settings(units[index]),
            )
            for index, part_depth in enumerate(depths)
        )

    return rule


def greedy() -> LocalRule:
    """Makes the rule of plain local learning: a linear head on the mean over pixels.

    Returns:
      The rule; it raises ValueError for fewer than 2 parts or more parts than units.

    Reference: Belilovsky et al., Greedy Layerwise Learning Can Scale to ImageNet, ICML 2019 (with
    auxiliary networks of depth 1).
    """

    def rule(units: Sequence[Any], *, classes: int, parts: int | None = None):
        hidden = range(_count(units, parts) - 1)
        return tuple(AuxNet(units=(), classes=classes, **_settings(units[i])) for i in hidden)

    return rule


def dgl() -> LocalRule:
    """Makes the rule of decoupled greedy learning: `DglAux` behind every hidden part.

    Returns:
      The rule; it raises ValueError for fewer than 2 parts or more parts than units.

    Reference: Belilovsky et al., Decoupled Greedy Learning of CNNs, ICML 2020 (MLP-SR-aux).
    """

    def rule(units: Sequence[Any], *, classes: int, parts: int | None = None):
        hidden = range(_count(units, parts) - 1)
        return tuple(DglAux(classes=classes, **_settings(units[i])) for i in hidden)

    return rule


def predsim(beta: float = 0.99) -> LocalRule:
    """Makes the rule of similarity matching: `PredSimAux` behind every hidden part.

    The loss of a part is beta times the similarity-matching loss of a linear map of its output
    plus (1 - beta) times the cross-entropy of a linear classifier.

    Args:
      beta: in [0, 1].

    Returns:
      The rule; it raises ValueError for fewer than 2 parts or more parts than units.

    Raises:
      ValueError: `beta` is outside [0, 1].

    Reference: Nokland & Eidnes, Training Neural Networks with Local Error Signals, ICML 2019.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta={beta} is outside [0, 1]; the published one is 0.99")

    def rule(units: Sequence[Any], *, classes: int, parts: int | None = None):
        weights = (("similarity", beta), ("logits", 1.0 - beta))
        hidden = range(_count(units, parts) - 1)
        return tuple(
            PredSimAux(classes=classes, weights=weights, **_settings(units[i])) for i in hidden
        )

    return rule


def infopro(
    reconstruction: tuple[float, float] = (5.0, 0.2),
    classification: tuple[float, float] = (0.05, 0.5),
    *,
    size: int = 32,
    channels: int = 3,
) -> LocalRule:
    """Makes the rule of information propagation: `InfoProAux` behind every hidden part.

    The loss of a part is a weighted sum of the cross-entropy between the input images and their
    reconstruction, and that of a classifier; both weights change linearly over the parts. For
    networks of images only.

    Args:
      reconstruction: weight in the first and in the last hidden part, not negative.
      classification: the same, of the classifier.
      size: height and width of the images that the network gets.
      channels: of these images.

    Returns:
      The rule; it raises ValueError for fewer than 2 parts or more parts than units.

    Raises:
      ValueError: a negative weight.

    Reference: Wang et al., Revisiting Locally Supervised Learning: an Alternative to End-to-end
    Training, ICLR 2021 (defaults: as Ma et al. 2024 set them for ResNet-32).
    """
    for name, pair in (("reconstruction", reconstruction), ("classification", classification)):
        if len(pair) != 2 or min(pair) < 0:
            raise ValueError(f"{name}={pair} must be two weights, none negative")

    def rule(units: Sequence[Any], *, classes: int, parts: int | None = None):
        parts = _count(units, parts)

        def between(pair: tuple[float, float], index: int) -> float:
            return pair[0] + (pair[1] - pair[0]) * index / max(parts - 2, 1)

        widest = units[-1].width
        return tuple(
            InfoProAux(
                classes=classes,
                size=size,
                channels=channels,
                widest=widest,
                weights=(
                    ("reconstruction", between(reconstruction, index)),
                    ("logits", between(classification, index)),
                ),
                **_settings(units[index]),
            )
            for index in range(parts - 1)
        )

    return rule


def bp() -> LocalRule:
    """Makes the rule of end-to-end backpropagation: one part, no auxiliary network.

    Returns:
      The rule; it raises ValueError for more than 1 part.
    """

    def rule(units: Sequence[Any], *, classes: int, parts: int | None = None):
        del units, classes
        if parts not in (None, 1):
            raise ValueError(f"parts={parts}: end-to-end training has 1 part; leave parts out")
        return ()

    return rule


def _copies(units: Sequence[Any], index: int, depth: int, select: Select) -> tuple[Any, ...]:
    """Fresh modules like the chosen units; those with a stride get the plan's."""
    chosen = selected_indices(index, len(units), depth, select=select)
    copies = [units[i].clone(parent=None, name=None) for i in chosen]
    if not any(hasattr(unit, "stride") for unit in copies):
        return tuple(copies)
    plan = aux_plan([unit.width for unit in units], index, depth, select=select)
    return tuple(
        unit.clone(stride=stride) if hasattr(unit, "stride") else unit
        for unit, (_, stride) in zip(copies, plan, strict=True)
    )


def _settings(unit: Any) -> dict[str, Any]:
    return {name: getattr(unit, name, None) for name in ("dtype", "axis_name")}


def _count(units: Sequence[Any], parts: int | None) -> int:
    parts = len(units) if parts is None else parts
    _check_parts(parts)
    if parts > len(units):
        raise ValueError(f"parts={parts} of a network of {len(units)} units; use {len(units)}")
    return parts


def _check_parts(parts: int) -> None:
    if parts < 2:
        raise ValueError(f"parts={parts} leaves nothing local; use at least 2, or the rule bp()")


def _check_depth(depth: int) -> None:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth={depth!r} is no depth; use an integer from 1")


def _check_place(index: int, units: int, depth: int) -> None:
    _check_depth(depth)
    if not 0 <= index < units - 1:
        raise ValueError(
            f"index={index} has no unit behind it in a network of {units}; use 0 to {units - 2}"
        )
