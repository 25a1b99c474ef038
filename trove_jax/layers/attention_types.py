"""Kinds of self-attention as options: which keys each query of a layer meets, and how they weigh.

Every kind is a frozen dataclass, so that it is hashable and compared by value. `SelfAttention`
takes one of them, or its name for the published sizes.
"""

import dataclasses
import difflib
from typing import Any, ClassVar, Literal

from trove_jax.kernels import attention_pattern as patterns

# What `SelfAttention` projects for a kind.
_QKV = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class VanillaAttention:
    """Every query meets every key: softmax(q k^T / sqrt(d)) v.

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017 (section 3.2).
    """

    projections: ClassVar[tuple[str, ...]] = _QKV

    def pattern(self, length: int, heads: int) -> patterns.Pattern | None:
        """Which keys each query meets; None: all."""
        del length, heads
        return None


@dataclasses.dataclass(frozen=True)
class LocalAttention:
    """Every query meets the keys of its own block.

    Attributes:
      block: tokens of a block.
      strided_blocks: whether a block holds every c-th token (c blocks in all, as the program of
        the Long Range Arena cuts a sequence, perhaps unintendedly), not neighbours.

    Reference: Tay et al., Long Range Arena, ICLR 2021 (block 50).
    """

    block: int = 50
    strided_blocks: bool = False
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        _check_sizes(block=self.block)

    def pattern(self, length: int, heads: int) -> patterns.Pattern | None:
        """Which keys each query meets, where blocks are contiguous."""
        del length, heads
        return patterns.local_blocks(self.block)


@dataclasses.dataclass(frozen=True)
class LongformerAttention:
    """Every query meets the keys near it and the first tokens, which meet all keys.

    Attributes:
      window: i meets j where |i - j| <= window / 2; even.
      global_tokens: how many tokens from the first on meet all and are met by all.
      separate: whether what global tokens read goes through query, key and value projections of
        its own, as published.

    Reference: Beltagy et al., Longformer: The Long-Document Transformer, 2020, arXiv 2004.05150
    (sections 3.1 and 3.2; window 512).
    """

    window: int = 512
    global_tokens: int = 1
    separate: bool = True
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        _check_sizes(window=self.window, global_tokens=(self.global_tokens, 0))
        if self.window % 2:
            raise ValueError(
                f"window={self.window} has no two equal sides; use {self.window + 1} or "
                f"{self.window - 1}"
            )

    def pattern(self, length: int, heads: int) -> patterns.Pattern | None:
        """Which keys each query meets."""
        del length, heads
        side = self.window // 2
        window = patterns.sliding_window(side, side)
        return window | patterns.global_tokens(self.global_tokens) if self.global_tokens else window


@dataclasses.dataclass(frozen=True)
class BigBirdAttention:
    """Every block of queries meets the first and last block, those around it, and random ones.

    The first and last block of queries meet all keys. Random blocks are drawn once, on the host.

    Attributes:
      block: tokens of a block.
      window: blocks on each side that a block meets.
      random: random blocks that a block meets.
      seed: of the random blocks; give layers different ones to have them differ.
      per_head: whether every head has its own random blocks.

    Reference: Zaheer et al., Big Bird: Transformers for Longer Sequences, NeurIPS 2020
    (section 2; block 64, 3 random blocks).
    """

    block: int = 64
    window: int = 1
    random: int = 3
    seed: int = 0
    per_head: bool = True
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        _check_sizes(block=self.block, window=(self.window, 0), random=(self.random, 0))

    def pattern(self, length: int, heads: int) -> patterns.Pattern | None:
        """Which keys each query meets."""
        return patterns.big_bird(
            length,
            block=self.block,
            window=self.window,
            random=self.random,
            seed=self.seed,
            heads=heads if self.per_head else None,
        )


@dataclasses.dataclass(frozen=True)
class SparseAttention:
    """Every query meets its own block, and the first and last few keys of every block.

    i meets j where i // block = j // block, or j % block = 0, or j % block >= block - summary.

    Attributes:
      block: tokens of a block.
      summary: last keys of a block that all queries meet.
      lra_causal: whether no query meets later keys, in encoders too, as the program of the Long
        Range Arena has it.

    Reference: Child et al., Generating Long Sequences with Sparse Transformers, 2019, arXiv
    1904.10509 (section 4.3, the fixed pattern; block 128, summary 32).
    """

    block: int = 128
    summary: int = 32
    lra_causal: bool = False
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        _check_sizes(block=self.block, summary=self.summary)
        if self.summary > self.block:
            raise ValueError(
                f"summary={self.summary} is more than block={self.block} holds; use at most "
                f"{self.block}"
            )

    def pattern(self, length: int, heads: int) -> patterns.Pattern | None:
        """Which keys each query meets."""
        del length, heads
        fixed = patterns.fixed_blocks(self.block, self.summary)
        return fixed & patterns.causal() if self.lra_causal else fixed


@dataclasses.dataclass(frozen=True)
class SinkhornAttention:
    """Every query meets its own block and a block mixed of all; the two results are added.

    Block t of the mixed keys is sum over s of R_st K_s, with log R = (sum of the keys of s) . w_t,
    whose rows and columns are normalised in turn. w is shared by heads and has no bias.

    Attributes:
      block: tokens of a block.
      iterations: how often rows and columns are normalised.
      normalisation: `"sinkhorn"`, or `"softmax"` over s alone.
      length: the longest sequence; None: that of the first input.

    Reference: Tay et al., Sparse Sinkhorn Attention, ICML 2020 (sections 3.1 and 3.2, without
    noise; block 50 and 1 iteration in the Long Range Arena).
    """

    block: int = 50
    iterations: int = 1
    normalisation: Literal["sinkhorn", "softmax"] = "sinkhorn"
    length: int | None = None
    projections: ClassVar[tuple[str, ...]] = _QKV
    not_causal: ClassVar[str] = "sums of blocks hold later keys"

    def __post_init__(self) -> None:
        _check_sizes(block=self.block, iterations=self.iterations, length=self.length)
        _check_choice("normalisation", self.normalisation, ("sinkhorn", "softmax"))


@dataclasses.dataclass(frozen=True)
class LinformerAttention:
    """Every query meets a few sums of keys: k' = E^T k, v' = E^T v along the sequence.

    Attributes:
      rank: number of sums, r.
      length: the longest sequence, rows of E; None: that of the first input.

    Reference: Wang et al., Linformer: Self-Attention with Linear Complexity, 2020, arXiv
    2006.04768 (equation 7; E shared by keys, values and heads; r 16 in the Long Range Arena).
    """

    rank: int = 16
    length: int | None = None
    projections: ClassVar[tuple[str, ...]] = _QKV
    not_causal: ClassVar[str] = "its sums hold later keys"

    def __post_init__(self) -> None:
        _check_sizes(rank=self.rank, length=self.length)


@dataclasses.dataclass(frozen=True)
class PerformerAttention:
    """Weights are products of positive random features of queries and keys.

    o_i = phi(q_i) . S / phi(q_i) . z, S = sum_j phi(k_j) v_j^T, z = sum_j phi(k_j), and with the
    frozen random rows W: phi(x) = relu(W x) + epsilon, or exp(W x' - |x'|^2 / 2 - c) + epsilon with
    x' = x / d^(1/4), whose weights tend to those of the softmax; c keeps the exponent from
    overflowing. W is orthogonal in blocks of d rows and lies in the collection `frozen`.

    Attributes:
      features: rows of W.
      kind: `"relu"` or `"softmax"`.
      epsilon: at least 0; with 0, relu features of all keys may vanish where a query's do not.

    Reference: Choromanski et al., Rethinking Attention with Performers, ICLR 2021 (sections 2.3
    and 2.4; 256 relu features in the Long Range Arena).
    """

    features: int = 256
    kind: Literal["relu", "softmax"] = "relu"
    epsilon: float = 1e-3
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        _check_sizes(features=self.features)
        _check_choice("kind", self.kind, ("relu", "softmax"))
        if self.epsilon < 0:
            raise ValueError(f"epsilon={self.epsilon} is negative; use 1e-3")


@dataclasses.dataclass(frozen=True)
class LinearAttention:
    """Weights are products of phi(x) = elu(x) + 1 of queries and keys.

    Attributes:
      epsilon: added to the sum of weights.

    Reference: Katharopoulos et al., Transformers are RNNs, ICML 2020 (equations 5 and 7).
    """

    epsilon: float = 1e-6
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"epsilon={self.epsilon} is negative; use 1e-6")


@dataclasses.dataclass(frozen=True)
class SynthesizerAttention:
    """Weights do not compare tokens: they are parameters, or made of the query's token alone.

    Attributes:
      kind: `"factorised"`: softmax(R_1 R_2) with one pair of matrices for each head; `"dense"`:
        softmax(W relu(q_i)), W shared by heads.
      rank: width of R_1.
      length: the longest sequence; None: that of the first input.

    Reference: Tay et al., Synthesizer: Rethinking Self-Attention for Transformer Models, ICML 2021
    (sections 3.1 and 3.2; factorised in the Long Range Arena).
    """

    kind: Literal["factorised", "dense"] = "factorised"
    rank: int = 32
    length: int | None = None

    def __post_init__(self) -> None:
        _check_sizes(rank=self.rank, length=self.length)
        _check_choice("kind", self.kind, ("factorised", "dense"))

    @property
    def projections(self) -> tuple[str, ...]:
        """What is projected: keys never."""
        return ("value",) if self.kind == "factorised" else ("query", "value")


@dataclasses.dataclass(frozen=True)
class UnbiasedSubsampledAttention:
    """All queries meet one random subset of the keys while it samples, else every key.

    Attributes:
      keys: size of the subset; None: `ratio` of the sequence, rounded.
      ratio: share of the keys, in (0, 1].
      share: `"example"`: every example of a batch has its own draw; `"batch"`: one for all, which
        is cheaper and, where there is padding, may spend draws on it.
      dense: whether it never samples.

    Reference: Hussain et al., The Information Pathways Hypothesis, KDD 2023 (unbiased SSA).
    """

    keys: int | None = None
    ratio: float = 0.25
    share: Literal["example", "batch"] = "example"
    dense: bool = False
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        _check_sizes(keys=self.keys)
        _check_choice("share", self.share, ("example", "batch"))
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} is no share of the keys; use 0 < ratio <= 1")


@dataclasses.dataclass(frozen=True)
class LocalSubsampledAttention:
    """A window of queries meets a window of keys that were shuffled locally, while it samples.

    Else every query meets every key. Keys move by about `sigma_over_w` windows; 0 gives blocks
    that do not overlap, and draws nothing.

    Attributes:
      window: queries, and keys, of a window, w.
      sigma_over_w: standard deviation of the shuffle, in windows.
      share: as in `UnbiasedSubsampledAttention`.
      dense: whether it never samples.

    Reference: Hussain et al., The Information Pathways Hypothesis, KDD 2023 (locally biased SSA).
    """

    window: int = 64
    sigma_over_w: float = 0.5
    share: Literal["example", "batch"] = "example"
    dense: bool = False
    projections: ClassVar[tuple[str, ...]] = _QKV

    def __post_init__(self) -> None:
        _check_sizes(window=self.window)
        _check_choice("share", self.share, ("example", "batch"))
        if self.sigma_over_w < 0:
            raise ValueError(f"sigma_over_w={self.sigma_over_w} is negative; use 0.5 to 1")


ATTENTION_TYPES: dict[str, type] = {
    "vanilla": VanillaAttention,
    "local": LocalAttention,
    "longformer": LongformerAttention,
    "bigbird": BigBirdAttention,
    "sparse": SparseAttention,
    "sinkhorn": SinkhornAttention,
    "linformer": LinformerAttention,
    "performer": PerformerAttention,
    "linear": LinearAttention,
    "synthesizer": SynthesizerAttention,
    "ssa_unbiased": UnbiasedSubsampledAttention,
    "ssa_local": LocalSubsampledAttention,
}


def attention_options(attention: Any, *, length: int | None = None) -> Any:
    """Looks up a kind of attention by its name, and fills in the longest sequence.

    Args:
      attention: a name in `ATTENTION_TYPES`, or options of one of them.
      length: for kinds whose parameters fix the longest sequence, where the options leave it open.

    Returns:
      Options of one of the kinds.

    Raises:
      ValueError: an unknown name, or no options of a kind.

    Example:
      >>> attention_options("linformer", length=100)
      LinformerAttention(rank=16, length=100)
    """
    if isinstance(attention, str):
        if attention not in ATTENTION_TYPES:
            near = difflib.get_close_matches(attention, ATTENTION_TYPES, n=1)
            cure = f"did you mean {near[0]!r}?" if near else f"use one of {[*ATTENTION_TYPES]}"
            raise ValueError(f"attention={attention!r} is unknown; {cure}")
        attention = ATTENTION_TYPES[attention]()
    elif type(attention) not in ATTENTION_TYPES.values():
        raise ValueError(
            f"attention={attention!r} is no kind of attention; use one of {[*ATTENTION_TYPES]}, or "
            "its options, such as layers.LocalAttention(block=16)"
        )
    if length is not None and getattr(attention, "length", length) is None:
        return dataclasses.replace(attention, length=length)
    return attention


def _check_sizes(**sizes: Any) -> None:
    """Refuses what is no integer of at least 1, or of a pair's second entry; None passes."""
    for name, size in sizes.items():
        size, least = size if isinstance(size, tuple) else (size, 1)
        if size is not None and (not isinstance(size, int) or size < least):
            raise ValueError(f"{name}={size!r}, want an integer of {least} or more")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; use one of {choices}")
