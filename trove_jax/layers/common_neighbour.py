"""Scores of pairs from what their ends hold and from what their common neighbours hold."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.graphs.completion import difference_sum, two_hop_sum
from trove_jax.graphs.intersection import common_neighbour_counts, common_neighbour_sum
from trove_jax.graphs.propagation import propagate
from trove_jax.graphs.topology import Topology, mask_edges
from trove_jax.layers.sparse_features import SparseDropout

Kind = Literal["gae", "gae_cn", "ncn", "ncn2", "ncn_diff", "ncnc"]
_KINDS = get_args(Kind)


class _Perceptron(nn.Module):
    """[ReLU(D(Dense))], ReLU(D(LayerNorm(Dense))), [Dense]; brackets by `front` and `tail`."""

    features: int
    dropout: float
    front: bool = False
    tail: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        drop = SparseDropout(self.dropout)
        if self.front:
            x = nn.relu(drop(nn.Dense(self.features)(x), deterministic=not train))
        x = nn.Dense(self.features)(x)
        x = nn.LayerNorm(use_fast_variance=False)(x)
        x = nn.relu(drop(x, deterministic=not train))
        return nn.Dense(self.features)(x) if self.tail else x


class CNHead(nn.Module):
    """Scores pairs of nodes that an encoder has seen once, with the graph between them.

    s_ij = f(beta g(sum over u in N(i) and N(j) of x_u) + p(h_i * h_j)),  x = h + q(h)

    with perceptrons f, g, p, q. The kinds differ in what is added up:

      gae: nothing, f(p(h_i * h_j))
      gae_cn: ones, so that g sees the number of common neighbours
      ncn: as above
      ncn_diff: another perceptron also gets the neighbours of one end alone
      ncn2: another perceptron also gets neighbours of one end that are two hops from the other
      ncnc: neighbours u of one end alone join the sum, weighted by the probability that the other
        end a has a link to u that is not in the graph,
        P(a, u) = alpha sigmoid(scale (s_au - offset) + log prior)

    The s_au in P is this network's own score with `depth` - 1, without gradient and dropout, and
    that of `ncn` at depth 0, which is also what `init_with_output` gives. As published, P is
    alpha r q / (r q + 1 - q) with q = sigmoid(scale (s_au - offset)) and the prior r.

    Attributes:
      kind: what is added up.
      features: width of h and of all layers.
      dropout: rate in the perceptrons.
      edge_dropout: share of the stored edges that training hides from the sums.
      node_map: whether there is a q; without, x = h.
      tail_activation: whether g and p end with their activation, not with a further layer.
      two_layers: whether f has two hidden layers, not one.
      beta_init: beta at the start.
      depth: of completion.
      scale: of the score in P.
      offset: the score at which q is one half.
      prior: r, in (0, 1].
      alpha: bound of P.
      limit: neighbours of one end that completion takes at most; those that it takes then stand for
        all. `graphs.neighbour_difference_counts` says how many there are.
      sample: whether training takes a random choice of them, not the first ones; without need where
        `limit` is the largest degree.
      block: pairs that completion scores at a time.
      as_released: whether the scores in P take x for h, so that q is applied twice, as the
        published code does.
      implementation: of `graphs.common_neighbour_sum`.

    Raises:
      ValueError: an unknown kind; sizes below 1; `prior` outside (0, 1].

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2], [0, 3]], 4)
      >>> h, pairs = jnp.ones((4, 8)), jnp.array([[0, 2], [2, 0], [1, 1]])
      >>> head = CNHead("ncnc", features=8)
      >>> s, _ = head.init_with_output(jax.random.key(0), topology, h, pairs)
      >>> s.shape
      (3,)

    Reference: Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024.
    """

    kind: Kind = "ncn"
    features: int = 256
    dropout: float = 0.0
    edge_dropout: float = 0.0
    node_map: bool = True
    tail_activation: bool = True
    two_layers: bool = False
    beta_init: float = 1.0
    depth: int = 1
    scale: float = 5.0
    offset: float = 3.0
    prior: float = 0.5
    alpha: float = 1.0
    limit: int = 128
    sample: bool = True
    block: int = 4096
    as_released: bool = False
    implementation: Literal["dense", "sparse"] | None = None

    def setup(self) -> None:
        """Checks the attributes and makes the perceptrons."""
        if self.kind not in _KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; use one of {', '.join(_KINDS)}")
        for name in ("features", "depth", "limit", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; at least 1 is wanted")
        if not 0.0 < self.prior <= 1.0:
            raise ValueError(f"prior={self.prior} is no probability above 0")
        width, rate, tail = self.features, self.dropout, not self.tail_activation
        self.of_pair = _Perceptron(width, rate, tail=tail)
        self.out = [_Perceptron(width, rate) for _ in range(1 + self.two_layers)]
        self.score = nn.Dense(1)
        if self.kind == "gae":
            return
        self.of_common = _Perceptron(width, rate, front=True, tail=tail)
        self.beta = self.param("beta", nn.initializers.constant(self.beta_init), (), jnp.float32)
        if self.node_map and self.kind != "gae_cn":
            self.of_node = _Perceptron(width, rate, front=True)
        if self.kind in ("ncn2", "ncn_diff"):
            self.of_rest = _Perceptron(width, rate, front=True, tail=tail)

    def __call__(
        self, topology: Topology, h: jax.Array, pairs: jax.Array, *, train: bool = False
    ) -> jax.Array:
        """Scores pairs.

        Args:
          topology: the observed graph, both directions of every link; self-loops, weights and
            masked edges do not matter.
          h: embeddings, floating-point `[n, features]`.
          pairs: nodes, integer `[b, 2]`, in any direction; a node and itself have its neighbours in
            common.
          train: whether dropout draws, from the stream `"dropout"`.

        Returns:
          Logits, `[b]`, float32 or wider.

        Raises:
          ValueError: `h` of another shape.
        """
        if h.shape != (topology.n_node, self.features):
            raise ValueError(
                f"h has shape {h.shape}; [{topology.n_node}, features={self.features}] is wanted"
            )
        graph = topology if self.kind == "gae" else self._neighbourhoods(topology, train)
        logits = self._scores(graph, h, self._nodes(h, train), pairs, self.depth, train)
        return logits if jnp.finfo(logits.dtype).bits >= 32 else logits.astype(jnp.float32)

    def _neighbourhoods(self, topology: Topology, train: bool) -> Topology:
        """The graph without self-loops, and in training without the edges that are dropped."""
        keep = jnp.asarray(topology.senders) != jnp.asarray(topology.receivers)
        if train and self.edge_dropout > 0:
            shape = (topology.n_edge,)
            keep &= jax.random.bernoulli(self.make_rng("dropout"), 1 - self.edge_dropout, shape)
        return mask_edges(topology, keep)

    def _nodes(self, h: jax.Array, train: bool) -> jax.Array:
        """x, what is added up."""
        if self.kind in ("gae", "gae_cn") or not self.node_map:
            return h
        return h + self.of_node(h, train=train)

    def _scores(self, graph, h, x, pairs, depth, train) -> jax.Array:
        ends = h[pairs[:, 0]] * h[pairs[:, 1]]
        mixed = self.of_pair(ends, train=train)
        if self.kind == "gae_cn":
            count = common_neighbour_counts(graph, pairs).astype(h.dtype)[:, None]
            mixed += self._of_common(count, train)
        elif self.kind != "gae":
            # A column of ones counts them on the way.
            ones = jnp.ones((x.shape[0], 1), x.dtype)
            columns, form = jnp.concatenate([x, ones], axis=1), self.implementation
            common = common_neighbour_sum(graph, pairs, columns, implementation=form)
            common, count = common[:, :-1], jax.lax.stop_gradient(common[:, -1])
            if self.kind == "ncn2":
                mixed += self.of_rest(two_hop_sum(graph, pairs, x), train=train)
            if self.kind == "ncn_diff":
                mixed += self.of_rest(_either(graph, x, pairs, common), train=train)
            # While parameters are made there is no score yet to complete with.
            if self.kind == "ncnc" and depth and not self.is_initializing():
                common += self._completion(graph, h, x, pairs, count, depth, train)
            mixed += self._of_common(common, train)
        for layer in self.out:
            mixed = layer(mixed, train=train)
        return self.score(mixed)[:, 0]

    def _of_common(self, common: jax.Array, train: bool) -> jax.Array:
        return self.beta.astype(common.dtype) * self.of_common(common, train=train)

    def _completion(self, graph, h, x, pairs, count, depth, train) -> jax.Array:
        """The part of the sum over neighbours of one end alone."""
        # Flax's modules may not be called inside a loop, pure functions of their variables may.
        scorer, variables = self.clone(parent=None), jax.lax.stop_gradient(self.variables)
        inner_h = jax.lax.stop_gradient(x if self.as_released else h)
        inner_x = scorer.apply(variables, inner_h, False, method="_nodes")

        def weigh(pairs):
            score: Any = scorer.apply(
                variables, graph, inner_h, inner_x, pairs, depth - 1, False, method="_scores"
            )
            return self.alpha * nn.sigmoid(self.scale * (score - self.offset) + jnp.log(self.prior))

        key = self.make_rng("dropout") if train and self.sample else None
        return difference_sum(
            graph, pairs, x, weigh, limit=self.limit, block=self.block, key=key, common=count
        )


def _either(graph: Topology, x: jax.Array, pairs: jax.Array, common: jax.Array) -> jax.Array:
    """The sum over neighbours of one end alone: of all neighbours, less those in common twice."""
    everyone = propagate(graph, x, graph.masked(jnp.ones(graph.n_edge, x.dtype)))
    return everyone[pairs[:, 0]] + everyone[pairs[:, 1]] - 2 * common
