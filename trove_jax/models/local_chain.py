"""Sequential networks whose parts can be trained by losses of their own."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from trove_jax.layers.local import LocalRule


class LocalChain(nn.Module):
    """Units, a head, and auxiliary networks that judge the outputs of the first parts.

    The network is head(units[-1](... units[0](x))); the auxiliary networks take no part in it.
    With K - 1 auxiliary networks it has K parts: the first K - 1 units, one each, and all other
    units with the head. Variables are called `units_0`, ..., `head` and `auxiliaries_0`, ...

    Attributes:
      units: Flax modules called as `unit(x, *, train)`.
      head: a Flax module called likewise that gives logits.
      auxiliaries: Flax modules called likewise that give a mapping of outputs (`layers.AuxNet`),
        at most one fewer than there are units.

    Example:
      >>> from trove_jax import layers, models
      >>> units, head = models.mlp_units((8, 8, 8), classes=3)
      >>> chain = LocalChain(units, head, layers.greedy()(units, classes=3))
      >>> variables = chain.init(jax.random.key(0), jax.numpy.ones((5, 4)))
      >>> sorted(variables["params"])
      ['auxiliaries_0', 'auxiliaries_1', 'head', 'units_0', 'units_1', 'units_2']
      >>> chain.apply(variables, jax.numpy.ones((5, 4))).shape
      (5, 3)
    """

    units: Sequence[nn.Module]
    head: nn.Module
    auxiliaries: Sequence[nn.Module] = ()

    @property
    def parts(self) -> int:
        """K, in how many parts the network is trained."""
        return len(self.auxiliaries) + 1

    @nn.nowrap
    def variable_names(self, part: int) -> tuple[str, ...]:
        """Names of the variables of a part, its auxiliary network among them.

        Args:
          part: from 0 to `parts` - 1.

        Returns:
          Keys of every variable collection.
        """
        if part < len(self.auxiliaries):
            return (f"units_{part}", f"auxiliaries_{part}")
        return (*(f"units_{i}" for i in range(part, len(self.units))), "head")

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the network without its auxiliary networks.

        Args:
          x: inputs, `[b, ...]`, as the first unit takes them.
          train: as the units take it.

        Returns:
          Outputs of the head, `[b, k]`.

        Raises:
          ValueError: there are as many auxiliary networks as units, or no units.
        """
        self._check()
        for i, unit in enumerate(self.units):
            x = unit(x, train=train)
            if self.is_initializing() and i < len(self.auxiliaries):
                self.auxiliaries[i](x, train=train)
        return self.head(x, train=train)

    def part(
        self, index: int, x: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Applies one part; `apply(..., method="part")` needs the variables of this part only.

        Args:
          index: from 0 to `parts` - 1.
          x: output of the part before.
          train: as the units take it.

        Returns:
          The output of the part's last unit, and the outputs of its auxiliary network; for the
          last part `logits` of the head.
        """
        self._check()
        if index < len(self.auxiliaries):
            x = self.units[index](x, train=train)
            return x, self.auxiliaries[index](x, train=train)
        for unit in self.units[index:]:
            x = unit(x, train=train)
        return x, {"logits": self.head(x, train=train)}

    def _check(self) -> None:
        if len(self.auxiliaries) >= max(len(self.units), 1):
            raise ValueError(
                f"{len(self.auxiliaries)} auxiliary networks for {len(self.units)} units; the "
                "last unit has the head, so there is at most one fewer"
            )


def local_chain(
    units: Sequence[nn.Module],
    head: Any,
    rule: LocalRule,
    *,
    parts: int | None = None,
    classes: int | None = None,
) -> LocalChain:
    """Puts the auxiliary networks of a rule to a sequential network.

    Args:
      units: Flax modules called as `unit(x, *, train)`, such as `resnet_units` gives.
      head: a Flax module called likewise that gives logits.
      rule: such as `layers.auglocal(4)`; `layers.bp()` for end-to-end training.
      parts: K: the first K - 1 units are trained each by itself, all others together with the
        head. Default: every unit by itself.
      classes: outputs of the auxiliary networks; default: `head.classes`.

    Returns:
      The network.

    Raises:
      ValueError: no unit, a unit that is there twice, no number of classes, or as the rule raises.

    Example:
      >>> from trove_jax import layers, models
      >>> chain = local_chain(*models.resnet_units((5, 5, 5)), layers.auglocal(2))
      >>> chain.parts, [len(aux.units) for aux in chain.auxiliaries[::7]]
      (16, [2, 2, 1])

    Reference: Ma et al., Scaling Supervised Local Learning with Augmented Auxiliary Networks,
    ICLR 2024.
    """
    if not units:
        raise ValueError("units is empty; a network has at least one")
    if len({id(unit) for unit in units}) < len(units):
        raise ValueError("a unit is there twice, but parts share no parameters; use unit.clone()")
    classes = getattr(head, "classes", None) if classes is None else classes
    if classes is None:
        raise ValueError(f"classes is missing, and {type(head).__name__} has none; pass classes=")
    units = tuple(units)
    return LocalChain(units, head, rule(units, classes=classes, parts=parts))
