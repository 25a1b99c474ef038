"""Recurrent networks of token sequences."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from trove_jax.models.inputs import as_logits, check_dense, check_sizes
from trove_jax.models.sequence.tokens import Readout, accept_tokens, check_readout, read


class SimpleRNN(nn.Module):
    """Recurrent layers on top of an embedding of tokens.

    h_t = tanh(W x_t + b + U h_{t-1}), h_{-1} = 0, with x the embedded tokens or, from the second
    layer on, the states of the layer below; the outputs are W' h + b' at the positions that
    `readout` names. The layers are called `embedding`, `layer_0`, ... and `output`; a capture
    reads the states of each layer as one array `[b, t, width]`.

    It has v e + (e w + w^2 + w) + (depth - 1) (2 w^2 + w) + (w + 1) k parameters (v tokens,
    embedded in e dimensions, width w, k outputs); an LSTM has four times as many in its layers.

    Attributes:
      vocabulary: number of tokens, v.
      outputs: k.
      embedding: size e of the embedding.
      width: size w of the state of each layer.
      depth: number of recurrent layers.
      cell: `"simple"`, or `"lstm"` for the gated cell of Hochreiter and Schmidhuber.
      readout: `"all"` (a prediction at every position), or that of the `"last"` token or of the
        `"mean"` over tokens.
      dropout_rate: share of the inputs of each layer that are set to 0 in training, in [0, 1);
        above 0, training needs a key in the stream `dropout`.
      recurrent_init: law of U at the start.
      dtype: dtype of the computation; None: that of the parameters (float32).

    Example:
      >>> model = SimpleRNN(vocabulary=3, outputs=2, embedding=4, width=8, depth=2, readout="last")
      >>> tokens = jnp.array([[0, 1, 1, 2], [1, 2, 2, 2]])
      >>> y, variables = model.init_with_output(jax.random.key(0), tokens, tokens != 2)
      >>> y.shape, list(variables["params"])
      ((2, 2), ['embedding', 'layer_0', 'layer_1', 'output'])

    Reference: Elman, Finding Structure in Time, 1990; as target and guide in Subramaniam et al.,
    Training the Untrainable, NeurIPS 2025 (sequence tasks: e 256, w 512, 4 layers).
    """

    vocabulary: int
    outputs: int
    embedding: int = 256
    width: int = 512
    depth: int = 4
    cell: Literal["simple", "lstm"] = "simple"
    readout: Readout = "all"
    dropout_rate: float = 0.0
    recurrent_init: nn.initializers.Initializer = nn.initializers.orthogonal()
    dtype: Any = None

    @nn.compact
    def __call__(
        self, tokens: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Applies the network.

        Args:
          tokens: integer `[b, t]`; one that is not below `vocabulary` makes its outputs NaN.
          mask: which positions hold a token, bool `[b, t]`, True up to the length of each
            sequence; None: all. The outputs at other positions mean nothing.
          train: drop inputs of layers.

        Returns:
          Outputs, `[b, t, k]` for the readout "all", else `[b, k]`, float32 or wider.

        Raises:
          ValueError: `tokens` or `mask` is no such array; an attribute is out of range.
        """
        check_sizes(
            vocabulary=self.vocabulary,
            outputs=self.outputs,
            embedding=self.embedding,
            width=self.width,
            depth=self.depth,
        )
        if self.cell not in ("simple", "lstm"):
            raise ValueError(f'cell={self.cell!r} is unknown; use "simple" or "lstm"')
        check_dense(norm=None, dropout_rate=self.dropout_rate)
        check_readout(self.readout)
        tokens = accept_tokens(tokens, mask)
        x = nn.Embed(self.vocabulary, self.embedding, dtype=self.dtype, name="embedding")(tokens)
        for i in range(self.depth):
            if self.dropout_rate:
                drop = nn.Dropout(self.dropout_rate, deterministic=not train, name=f"dropout_{i}")
                x = drop(x)
            states: Any = nn.RNN(self._cell(), name=f"layer_{i}")(x)
            x = states
        x = read(x, mask, self.readout)
        return as_logits(nn.Dense(self.outputs, dtype=self.dtype, name="output")(x))

    def _cell(self) -> nn.RNNCellBase:
        # Without a parent here the cell becomes part of the layer that it is handed to.
        settings: dict[str, Any] = {
            "features": self.width,
            "recurrent_kernel_init": self.recurrent_init,
            "carry_init": self._zeros,
            "dtype": self.dtype,
            "parent": None,
        }
        return nn.SimpleCell(**settings) if self.cell == "simple" else nn.LSTMCell(**settings)

    def _zeros(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        # Flax starts in the dtype of the parameters, which a scan in another dtype refuses.
        del key
        return jnp.zeros(shape, self.dtype or dtype)
