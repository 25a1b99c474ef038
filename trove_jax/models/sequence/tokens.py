"""What networks of token sequences share: checks of their inputs, and what they read out."""

from typing import Literal

import jax
import jax.numpy as jnp

Readout = Literal["all", "last", "mean"]


def accept_tokens(
    tokens: jax.Array, mask: jax.Array | None, *, longest: int | None = None
) -> jax.Array:
    """Refuses what is not a batch of token sequences with its mask.

    Args:
      tokens: `[b, t]`, integer.
      mask: None, or which positions hold a token, `[b, t]` bool.
      longest: the largest t that the network has positions for.

    Returns:
      The tokens, 0 where there is none, so that padding of any value can be embedded.

    Raises:
      ValueError: another rank, length or dtype, or a mask of another shape or dtype.

    Example:
      >>> print(accept_tokens(jnp.array([[5, -1]]), jnp.array([[True, False]])))
      [[5 0]]
    """
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(
            f"tokens has shape {tokens.shape}, want [b, t] with t of 1 or more; for one sequence: "
            "tokens[None]"
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens has dtype {tokens.dtype}, want integer indices of tokens")
    if longest is not None and tokens.shape[1] > longest:
        raise ValueError(
            f"tokens has length {tokens.shape[1]}, but the network has positions for {longest}; "
            f"build it with context={tokens.shape[1]}"
        )
    if mask is not None and (mask.shape != tokens.shape or mask.dtype != jnp.bool_):
        raise ValueError(
            f"mask is {mask.dtype} {mask.shape}, want bool {tokens.shape} as tokens has"
        )
    return tokens if mask is None else jnp.where(mask, tokens, jnp.zeros((), tokens.dtype))


def check_readout(readout: str) -> None:
    """Refuses an unknown way of reading a sequence.

    Args:
      readout: "all", "last" or "mean".

    Raises:
      ValueError: any other.

    Example:
      >>> check_readout("last")
    """
    if readout not in ("all", "last", "mean"):
        raise ValueError(f'readout={readout!r} is unknown; use "all", "last" or "mean"')


def read(states: jax.Array, mask: jax.Array | None, readout: Readout) -> jax.Array:
    """Picks what the output layer sees of the states of a sequence.

    Args:
      states: one for each position, `[b, t, d]`; may hold anything where `mask` is False.
      mask: which positions hold a token, `[b, t]` bool; None: all.
      readout: `"all"`: the states as they are; `"last"`: that of the last token; `"mean"`: the
        mean over tokens. A sequence without tokens gives 0 by "last" and "mean".

    Returns:
      `[b, t, d]` for "all", else `[b, d]`.

    Example:
      >>> states = jnp.arange(6.0).reshape(1, 3, 2)
      >>> print(read(states, jnp.array([[True, True, False]]), "last"))
      [[2. 3.]]
    """
    if readout == "all":
        return states
    if mask is None:
        return states[:, -1] if readout == "last" else states.mean(axis=1)
    states = jnp.where(mask[..., None], states, jnp.zeros((), states.dtype))
    if readout == "last":
        last = states.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
        return jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
    count = jnp.maximum(mask.sum(axis=1), 1).astype(states.dtype)
    return states.sum(axis=1) / count[:, None]
