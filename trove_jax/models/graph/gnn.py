"""Graph neural networks for nodes: any convolution, at any depth, with skips and normalisation."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import flax.linen as nn
import jax

from trove_jax import layers
from trove_jax.graphs.topology import Topology
from trove_jax.models.inputs import as_logits, check_sizes

CONVOLUTIONS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "gat": layers.GATConv,
        "gatedgcn": layers.GatedGCNConv,
        "gcn": layers.GCNConv,
        "gin": layers.GINConv,
        "mlp": layers.MLPConv,
        "sage": layers.SAGEConv,
        "sgc": layers.SGConv,
    }
)


class GNN(nn.Module):
    """Hidden convolutions, then one that gives the classes.

    h_0 = D(x),  h_l = D(f(N(conv_l(h_{l-1}))) + S_l) for l = 1 .. depth - 1,
    logits = P(conv_depth(h_{depth-1}))

    with dropout D, nonlinearity f, normalisation N, skip S and propagation P where they are asked
    for. The skip starts behind the first hidden layer, where widths agree.

    `embed` gives h_{depth-1} and `classify` the logits from it, so that another loss can read the
    embedding: `logits, h = model.apply(variables, topology, x, method=models.GNN.both)`.

    Attributes:
      conv: a name of `models.graph.CONVOLUTIONS` or a function `features -> module`, applied as
        `module(topology, x, train=train)`.
      hidden: width of the hidden layers.
      classes: width of the output, k.
      depth: number of convolutions, the last one included.
      dropout: share of the units that D sets to 0 in training.
      input_dropout: the same of x; None: `dropout`.
      norm: None, `"batch"` (momentum 0.9, epsilon 1e-5) or `"layer"`.
      residual: None; `"res"`, S_l = h_{l-1}; or `"dense"`, S_l = h_1 + ... + h_{l-1}.
      activation: f.
      output_conv: the last convolution, if it differs; as `conv`.
      propagation: P, a function `() -> module` without width, such as `layers.APPNPConv`.

    Raises:
      ValueError: an unknown name of `conv`, `norm` or `residual`; sizes that are not positive; a
        rate of dropout outside [0, 1).

    Example:
      >>> from trove_jax import graphs
      >>> topology = graphs.topology.from_edges([[0, 1], [1, 2]], 3, **layers.GCNConv.TOPOLOGY)
      >>> model = GNN("gcn", hidden=16, classes=2, depth=4, residual="res", norm="layer")
      >>> x = jax.numpy.ones((3, 5))
      >>> variables = model.init(jax.random.key(0), topology, x)
      >>> model.apply(variables, topology, x).shape
      (3, 2)
      >>> model.apply(variables, topology, x, method="embed").shape
      (3, 16)
    """

    conv: str | Callable[..., nn.Module] = "gcn"
    hidden: int = 64
    classes: int = 2
    depth: int = 2
    dropout: float = 0.5
    input_dropout: float | None = None
    norm: Literal["batch", "layer"] | None = None
    residual: Literal["res", "dense"] | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    output_conv: str | Callable[..., nn.Module] | None = None
    propagation: Callable[[], nn.Module] | None = None

    def setup(self) -> None:
        """Checks the attributes and makes the layers."""
        check_sizes(hidden=self.hidden, classes=self.classes, depth=self.depth)
        _known("norm", self.norm, (None, "batch", "layer"))
        _known("residual", self.residual, (None, "res", "dense"))
        first = self.dropout if self.input_dropout is None else self.input_dropout
        for name, rate in (("dropout", self.dropout), ("input_dropout", first)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name}={rate} is outside [0, 1)")
        conv = _factory(self.conv)
        last = conv if self.output_conv is None else _factory(self.output_conv)
        self.convs = [conv(self.hidden) for _ in range(self.depth - 1)]
        self.norms: list[Any] = [] if self.norm is None else [self._norm() for _ in self.convs]
        self.output = last(self.classes)
        self.propagate = None if self.propagation is None else self.propagation()
        self.drop_input = layers.SparseDropout(first)
        self.drop = nn.Dropout(self.dropout)

    def _norm(self):
        if self.norm == "layer":
            return nn.LayerNorm()
        return layers.BatchNorm(momentum=0.9)

    def __call__(
        self,
        topology: Topology,
        x: Any,
        *,
        train: bool = False,
        node_mask: jax.Array | None = None,
    ) -> jax.Array:
        """Applies the network.

        Args:
          topology: the graph, `n` nodes; each convolution's `TOPOLOGY` says how its paper builds
            it.
          x: features of the nodes, `[n, d]`, dense or a `SparseInput`.
          train: whether dropout draws, from the stream `"dropout"`, and batch normalisation takes
            the statistics of these nodes.
          node_mask: nodes that count in those statistics, `[n]` bool; None: all. Padding must be
            left out here.

        Returns:
          Logits, `[n, k]`, float32 or wider.
        """
        return self.both(topology, x, train=train, node_mask=node_mask)[0]

    def both(
        self,
        topology: Topology,
        x: Any,
        *,
        train: bool = False,
        node_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits, `[n, k]`, and the embedding that they are taken of, `[n, hidden]`.

        In training both see the same dropped units. Arguments as for `__call__`.
        """
        h = self.embed(topology, x, train=train, node_mask=node_mask)
        return self.classify(topology, h, train=train), h

    def embed(
        self,
        topology: Topology,
        x: Any,
        *,
        train: bool = False,
        node_mask: jax.Array | None = None,
    ) -> jax.Array:
        """Applies all but the last convolution; arguments as for `__call__`.

        Returns:
          `[n, hidden]`, after dropout where `train`; x itself (with dropout) at depth 1.
        """
        h = self.drop_input(x, deterministic=not train)
        skip: Any = None
        for i, conv in enumerate(self.convs):
            new = conv(topology, h, train=train)
            if self.norm == "batch":
                mask = None if node_mask is None else node_mask[:, None]
                new = self.norms[i](new, use_running_average=not train, mask=mask)
            elif self.norm == "layer":
                new = self.norms[i](new)
            new = self.activation(new)
            if skip is not None:
                new = new + skip
            h = self.drop(new, deterministic=not train)
            if self.residual == "res":
                skip = h
            elif self.residual == "dense":
                skip = h if skip is None else skip + h
        return h

    def classify(self, topology: Topology, h: Any, *, train: bool = False) -> jax.Array:
        """Applies the last convolution to an embedding.

        Args:
          topology: the graph, `n` nodes.
          h: what `embed` gives, `[n, hidden]`.
          train: as for `__call__`.

        Returns:
          Logits, `[n, k]`, float32 or wider.
        """
        logits = self.output(topology, h, train=train)
        if self.propagate is not None:
            logits = self.propagate(topology, logits, train=train)
        return as_logits(logits)


def _factory(conv):
    if not isinstance(conv, str):
        return conv
    _known("conv", conv, tuple(CONVOLUTIONS))
    return CONVOLUTIONS[conv]


def _known(name, value, known):
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(map(repr, known))}")


def gcn(*, classes: int, hidden: int = 64, depth: int = 2, **options: Any) -> GNN:
    """Builds the graph convolutional network of Kipf and Welling.

    Args:
      classes: outputs, k.
      hidden: width of the hidden layers (16 in the paper).
      depth: number of convolutions.
      **options: other attributes of `GNN`.

    Returns:
      A module `(topology, [n, d]) -> [n, k]`, for a topology of `layers.GCNConv.TOPOLOGY`.

    Example:
      >>> gcn(classes=7, hidden=16).depth
      2

    Reference: Kipf & Welling, Semi-Supervised Classification with Graph Convolutional Networks,
    ICLR 2017.
    """
    return GNN("gcn", hidden, classes, depth, **options)


def sgc(*, classes: int, hops: int = 2, dropout: float = 0.0) -> GNN:
    """Builds simplified graph convolution: logistic regression after `hops` hops.

    Args:
      classes: outputs, k.
      hops: number of hops, K.
      dropout: of the features (0 in the paper).

    Returns:
      A module `(topology, [n, d]) -> [n, k]`, for a topology of `layers.SGConv.TOPOLOGY`.

    Example:
      >>> sgc(classes=7).depth
      1

    Reference: Wu et al., Simplifying Graph Convolutional Networks, ICML 2019.
    """
    conv = functools.partial(layers.SGConv, hops=hops)
    return GNN(conv, classes=classes, depth=1, dropout=dropout)


def appnp(
    *,
    classes: int,
    hidden: int = 64,
    depth: int = 2,
    hops: int = 10,
    alpha: float = 0.1,
    dropout: float = 0.5,
    edge_dropout: float = 0.0,
) -> GNN:
    """Builds APPNP: a perceptron predicts, personalised propagation smooths.

    Args:
      classes: outputs, k.
      hidden: width of the perceptron's hidden layers.
      depth: number of its layers.
      hops: number of hops, K.
      alpha: probability of returning.
      dropout: of features and hidden units.
      edge_dropout: of the entries of A in each hop (0.5 in the paper).

    Returns:
      A module `(topology, [n, d]) -> [n, k]`, for a topology of `layers.APPNPConv.TOPOLOGY`.

    Example:
      >>> appnp(classes=3).conv
      'mlp'

    Reference: Gasteiger et al., Predict then Propagate, ICLR 2019.
    """
    propagation = functools.partial(
        layers.APPNPConv, hops=hops, alpha=alpha, dropout_rate=edge_dropout
    )
    return GNN("mlp", hidden, classes, depth, dropout, propagation=propagation)


def gat(
    *,
    classes: int,
    hidden: int = 64,
    heads: int = 8,
    output_heads: int = 1,
    depth: int = 2,
    dropout: float = 0.6,
    **options: Any,
) -> GNN:
    """Builds the graph attention network of Velickovic et al.

    Args:
      classes: outputs, k.
      hidden: width of the hidden layers, all heads together.
      heads: heads of a hidden layer, concatenated.
      output_heads: heads of the last layer, averaged (8 for PubMed in the paper).
      depth: number of convolutions.
      dropout: of features, hidden units and attention.
      **options: other attributes of `GNN`.

    Returns:
      A module `(topology, [n, d]) -> [n, k]`, for a topology of `layers.GATConv.TOPOLOGY`.

    Example:
      >>> gat(classes=7).dropout
      0.6

    Reference: Velickovic et al., Graph Attention Networks, ICLR 2018 (section 3.3).
    """
    conv = functools.partial(layers.GATConv, dropout_rate=dropout)
    return GNN(
        functools.partial(conv, heads=heads),
        hidden,
        classes,
        depth,
        dropout,
        activation=options.pop("activation", nn.elu),
        output_conv=functools.partial(conv, heads=output_heads, concatenate=False),
        **options,
    )
