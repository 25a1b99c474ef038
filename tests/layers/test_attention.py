"""Every kind of self-attention against NumPy loops, and what masks and order hide."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.variables import random_variables
from trove_jax import layers
from trove_jax.kernels import attention_pattern
from trove_jax.layers.attention_substitutes import orthogonal_rows

B, N, D, HEADS, SIZE = 2, 10, 5, 2, 3
SHORT = 6
MASK = np.arange(N)[None] < np.array([[N], [SHORT]])

KINDS = {
    "vanilla": layers.VanillaAttention(),
    "local": layers.LocalAttention(block=4),
    "strided": layers.LocalAttention(block=4, strided_blocks=True),
    "longformer": layers.LongformerAttention(window=4, global_tokens=2),
    "shared_longformer": layers.LongformerAttention(window=2, separate=False),
    "bigbird": layers.BigBirdAttention(block=2, window=0, random=1),
    "sparse": layers.SparseAttention(block=4, summary=1),
    "lra_sparse": layers.SparseAttention(block=4, summary=1, lra_causal=True),
    "sinkhorn": layers.SinkhornAttention(block=4, iterations=2, length=12),
    "softmax_sinkhorn": layers.SinkhornAttention(block=3, normalisation="softmax", length=12),
    "linformer": layers.LinformerAttention(rank=4, length=12),
    "performer": layers.PerformerAttention(features=7),
    "softmax_performer": layers.PerformerAttention(features=7, kind="softmax"),
    "linear": layers.LinearAttention(),
    "synthesizer": layers.SynthesizerAttention(rank=4, length=12),
    "dense_synthesizer": layers.SynthesizerAttention("dense", length=12),
    "ssa_unbiased": layers.UnbiasedSubsampledAttention(),
    "ssa_local": layers.LocalSubsampledAttention(window=4),
}
GLOBAL = ("global_query", "global_key", "global_value")
# Blocks that are counted from the end move when padding goes.
NOT_A_SLICE = ("strided", "bigbird")


def make(kind, **settings):
    options = KINDS.get(kind, kind)
    return layers.SelfAttention(HEADS, SIZE, attention=options, **settings)


def inputs(seed=0, n=N):
    return np.random.default_rng(seed).normal(size=(B, n, D)).astype(np.float32)


def weighted(scores, v):
    weights = np.exp(scores - scores.max())
    return weights @ v / weights.sum()


def over(q, k, v, seen):
    """Softmax attention of one head of one example, one query after the other."""
    out = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        keys = np.flatnonzero(seen[i])
        if len(keys):
            out[i] = weighted(k[keys] @ q[i] / np.sqrt(q.shape[1]), v[keys])
    return out


def visible(kind, n, head):
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    options = KINDS[kind]
    if kind == "local":
        return i // 4 == j // 4
    if kind == "strided":
        return i % 3 == j % 3
    if kind == "longformer":
        return (abs(i - j) <= 2) | (j < 2)
    if kind == "shared_longformer":
        return (abs(i - j) <= 1) | (j < 1) | (i < 1)
    if kind == "bigbird":
        drawn = attention_pattern.big_bird(n, block=2, window=0, random=1, heads=HEADS)
        seen = drawn.visible(i, j, head)
        # Four whole rows, else first, last, own and random block; 2 by 2 each.
        assert n < N or seen.sum() == 4 * n + (n // 2 - 2) * 4 * 4
        assert seen[(i // 2 == j // 2) | (i // 2 == 4) | (j // 2 == 0)].all()
        return seen
    if kind.endswith("sparse"):
        seen = (i // 4 == j // 4) | (j % 4 == 0) | (j % 4 == 3)
        return seen & (j <= i) if options.lra_causal else seen
    return np.ones((n, n), bool)


def sinkhorn(q, k, v, mask, options, w):
    size, n = options.block, len(q)
    blocks = -(-n // size)
    held = [np.arange(s * size, (s + 1) * size) for s in range(blocks)]
    there = np.concatenate([mask, np.zeros(blocks * size - n, bool)])
    q, k, v = (np.concatenate([a, np.zeros((blocks * size - n, SIZE))]) for a in (q, k, v))
    real = [s for s in range(blocks) if there[held[s]].any()]
    r = np.exp([[k[held[s]].sum(0) @ w[:, t] for t in real] for s in real])
    if options.normalisation == "softmax":
        r = r / r.sum(0)
    else:
        for _ in range(options.iterations):
            r = r / r.sum(1, keepdims=True)
            r = r / r.sum(0, keepdims=True)
    out = np.zeros_like(q)
    anywhere = np.array([any(there[held[s][p]] for s in range(blocks)) for p in range(size)])
    for column, t in enumerate(real):
        mixed_k = sum(r[row, column] * k[held[s]] for row, s in enumerate(real))
        mixed_v = sum(r[row, column] * v[held[s]] for row, s in enumerate(real))
        own = np.broadcast_to(there[held[t]], (size, size))
        other = np.broadcast_to(anywhere, (size, size))
        out[held[t]] = over(q[held[t]], k[held[t]], v[held[t]], own)
        out[held[t]] += over(q[held[t]], mixed_k, mixed_v, other)
    return out[:n]


def features(kind, x, rows):
    if kind == "linear":
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    if kind == "performer":
        return np.maximum(x @ rows.T, 0) + 1e-3
    x = x / SIZE**0.25
    return np.exp(x @ rows.T - (x**2).sum(-1, keepdims=True) / 2)


def one_head(kind, head, q, k, v, x, mask, p, rows):
    options, n = KINDS[kind], len(x)
    core = p.get("core", {})
    if "sinkhorn" in kind:
        return sinkhorn(q, k, v, mask, options, core["sorting"])
    if kind == "linformer":
        e = core["sums"][:n]
        return over(q, e.T @ k, e.T @ v, np.ones((n, 4), bool))
    if kind in ("performer", "softmax_performer", "linear"):
        q, k = features(kind, q, rows), features(kind, k, rows)
        if kind == "softmax_performer":
            # The added epsilon is relative to the largest feature: of a query, and of all keys.
            q = q / q.max(-1, keepdims=True) + 1e-3
            k = k / features(kind, np.asarray(KEYS[head]), rows).max() + 1e-3
        weights = (q @ k.T) * mask
        return weights @ v / weights.sum(-1, keepdims=True)
    if kind == "synthesizer":
        logits = (core["left"][head] @ core["right"][head])[:n, :n]
    elif kind == "dense_synthesizer":
        logits = np.maximum(q, 0) @ core["places"][:, :n]
    else:
        out = over(q, k, v, visible(kind, n, head) & mask)
        if kind == "longformer":
            q, k, v = (
                x @ core[f"global_{a}"]["kernel"][:, head] for a in ("query", "key", "value")
            )
            out[:2] = over(q[:2], k, v, np.broadcast_to(mask, (2, n)))
        return out
    return np.stack([weighted(row[mask], v[mask]) for row in logits])


KEYS: dict[int, np.ndarray] = {}  # Of the head and example at hand, padding included.


def reference(kind, variables, x, mask):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    rows = np.asarray(variables["frozen"]["core"]["rows"]) if "frozen" in variables else None
    out = np.zeros(x.shape)
    for b, head in itertools.product(range(len(x)), range(HEADS)):
        one = np.where(mask[b][:, None], x[b], 0).astype(np.float64)
        q, k, v = (
            one @ p[name]["kernel"][:, head] if name in p else np.zeros((len(one), SIZE))
            for name in ("query", "key", "value")
        )
        KEYS[head] = k
        found = one_head(kind, head, q, k, v, one, mask[b], p, rows)
        out[b] += found @ p["out"]["kernel"][head]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_equals_numpy_and_padding_of_any_value_reaches_nothing(kind):
    layer = make(kind)
    variables = random_variables(layer, (B, N, D))
    frozen = {name: leaf for name, leaf in variables.items() if name != "params"}
    clean = inputs()

    @jax.jit
    def run(params, x, mask):
        def loss(params, x):
            y = layer.apply({"params": params, **frozen}, x, mask)
            return jnp.where(MASK[..., None], jnp.sin(y), 0.0).sum(), y

        (value, y), gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
        return value, y, gradient

    x = np.where(MASK[..., None], clean, np.nan)
    _, y, (of_params, of_x) = run(variables["params"], x, MASK)
    want = reference(kind, variables, clean, MASK)
    # Float32 against float64, a few dozen terms deep.
    np.testing.assert_allclose(np.asarray(y)[MASK], want[MASK], rtol=1e-4, atol=2e-5)
    assert bool(jnp.isfinite(y).all())
    assert not np.asarray(of_x)[~MASK].any()

    # The derivative along one direction, against differences.
    rng, step = np.random.default_rng(1), 2e-3
    along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), of_params)
    ahead, behind = (
        run(jax.tree.map(lambda p, a, s=s: p + s * a, variables["params"], along), x, MASK)[0]
        for s in (step, -step)
    )
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, a: (g * a).sum(), of_params, along)))
    # Float32 sums of about 10 are good to 1e-5, which step divides; relu has kinks beside.
    assert float(slope) == pytest.approx(float(ahead - behind) / (2 * step), rel=3e-2, abs=3e-2)

    # Without tokens.
    _, y_empty, gradient = run(variables["params"], np.full_like(x, np.nan), np.zeros_like(MASK))
    np.testing.assert_array_equal(y_empty, 0.0)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))

    if kind not in NOT_A_SLICE:
        alone = reference(kind, variables, clean[1:, :SHORT], MASK[1:, :SHORT])
        np.testing.assert_allclose(y[1, :SHORT], alone[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["sinkhorn", "linformer", "synthesizer"])
def test_without_mask_any_length_up_to_the_fixed_one(kind):
    layer = make(kind)
    variables = random_variables(layer, (B, N, D))
    x = inputs(n=7)
    want = reference(kind, variables, x, np.ones((B, 7), bool))
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "kind",
    [
        *("strided", "longformer", "bigbird", "performer", "synthesizer"),
        *("ssa_unbiased", "ssa_local"),
    ],
)
def test_causal_kinds_do_not_see_later_tokens(kind):
    layer = make(kind, causal=True)
    variables = random_variables(layer, (B, N, D))

    @jax.jit
    def run(x):
        return layer.apply(variables, x, sample=True, rngs={"ssa": jax.random.key(3)})

    x = inputs()
    later = x.copy()
    later[:, 5:] += 1.0
    y, z = run(x), run(later)
    np.testing.assert_allclose(y[:, :5], z[:, :5], rtol=1e-5, atol=1e-6)
    assert (np.asarray(y != z)[:, 5:]).any(axis=2).all()
    assert bool(jnp.isfinite(y).all())


@pytest.mark.parametrize("kind", ["linformer", "sinkhorn"])
def test_kinds_that_mix_the_sequence_refuse_to_be_causal(kind):
    with pytest.raises(ValueError, match="cannot hide later keys"):
        make(kind, causal=True).init({}, jnp.ones((B, N, D)))


def test_all_unbiased_keys_are_one_subset_of_the_tokens():
    layer = make(layers.UnbiasedSubsampledAttention(keys=2))
    variables = random_variables(layer, (B, 5, D))
    # Padding between tokens too: draws count tokens.
    mask = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1]], bool)
    x = inputs(n=5)

    @jax.jit
    def run(key):
        return layer.apply(variables, x, jnp.asarray(mask), train=True, rngs={"ssa": key})

    found = set()
    for seed in range(6):
        y = np.asarray(run(jax.random.key(seed)))
        for b in range(B):
            fits = []
            for subset in itertools.combinations(np.flatnonzero(mask[b]), 2):
                only = np.isin(np.arange(5), subset)
                want = _attend_to(variables, x[b], np.broadcast_to(only, (5, 5)))
                if np.allclose(y[b][mask[b]], want[mask[b]], rtol=1e-4, atol=2e-5):
                    fits.append(subset)
            assert len(fits) == 1
            found.add((b, *fits[0]))
    # Of 10 and 3 subsets; that 6 draws of 10 agree has a probability of 1e-5.
    assert len({f for f in found if f[0] == 0}) > 1


def test_windows_of_queries_share_out_the_keys():
    layer = make(layers.LocalSubsampledAttention(window=2, sigma_over_w=1.0))
    variables = random_variables(layer, (B, 6, D))
    x = inputs(n=6)
    y = jax.jit(lambda key: layer.apply(variables, x, sample=True, rngs={"ssa": key}))(
        jax.random.key(0)
    )
    for b in range(B):
        drawn = []
        for window in range(3):
            for pair in itertools.combinations(range(6), 2):
                seen = np.broadcast_to(np.isin(np.arange(6), pair), (6, 6))
                want = _attend_to(variables, x[b], seen)[2 * window : 2 * window + 2]
                if np.allclose(y[b, 2 * window : 2 * window + 2], want, rtol=1e-4, atol=2e-5):
                    drawn += pair
        assert sorted(drawn) == [*range(6)]


def test_without_a_shuffle_windows_are_blocks_and_need_no_key():
    layer = make(layers.LocalSubsampledAttention(window=4, sigma_over_w=0.0))
    variables = random_variables(layer, (B, N, D))
    y = jax.jit(lambda x: layer.apply(variables, x, jnp.asarray(MASK), sample=True))(inputs())
    want = reference("local", variables, inputs(), MASK)
    np.testing.assert_allclose(np.asarray(y)[MASK], want[MASK], rtol=1e-4, atol=2e-5)


def test_one_draw_for_a_batch_or_one_for_each_example():
    x = np.repeat(inputs()[:1], 2, axis=0)
    variables = random_variables(make("vanilla"), (B, N, D))

    @jax.jit
    def run(key):
        both = (
            make(layers.UnbiasedSubsampledAttention(keys=3, share=share))
            for share in ("batch", "example")
        )
        return [layer.apply(variables, x, train=True, rngs={"ssa": key}) for layer in both]

    shared, own = run(jax.random.key(0))
    np.testing.assert_allclose(shared[0], shared[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(own[0], own[1], atol=1e-3)


def _attend_to(variables, x, seen):
    p = jax.tree.map(np.asarray, variables["params"])
    out = np.zeros_like(x)
    for head in range(HEADS):
        q, k, v = (x @ p[name]["kernel"][:, head] for name in ("query", "key", "value"))
        out = out + over(q, k, v, seen) @ p["out"]["kernel"][head]
    return out


def test_softmax_features_tend_to_softmax_attention():
    options = layers.PerformerAttention(features=4096, kind="softmax", epsilon=0.0)
    layer = make(options)
    variables = random_variables(make("vanilla"), (B, N, D))
    rows = jax.jit(orthogonal_rows, static_argnums=(1, 2))(jax.random.key(0), 4096, SIZE)
    x = 0.3 * inputs()
    got = jax.jit(layer.apply)({**variables, "frozen": {"core": {"rows": rows}}}, x)
    want = reference("vanilla", variables, x, np.ones((B, N), bool))
    # Relative errors of weights of exp(|q + k|^2 / 2) / sqrt(4096), a few percent; seed fixed.
    np.testing.assert_allclose(got, want, atol=0.1 * np.abs(want).max())
    blocks = np.asarray(rows[:4095]).reshape(-1, SIZE, SIZE)
    gram = np.einsum("bid,bjd->bij", blocks, blocks) * (1 - np.eye(SIZE))
    assert np.abs(gram).max() < 1e-4
    # 12,288 standard normal numbers: the mean square is within 5 standard deviations of 1.
    assert abs(float((rows**2).mean()) - 1) < 5 * np.sqrt(2 / rows.size)


@pytest.mark.parametrize("kind", ["longformer", "performer"])
def test_seeds_under_vmap_equal_the_loop(kind):
    layer = make(kind)
    seeds = [random_variables(layer, (B, N, D), seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together = jax.jit(jax.vmap(lambda v: layer.apply(v, inputs(), jnp.asarray(MASK))))(stacked)
    for variables, got in zip(seeds, together, strict=True):
        want = reference(kind, variables, inputs(), MASK)
        np.testing.assert_allclose(np.asarray(got)[MASK], want[MASK], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["local", "sinkhorn", "softmax_performer", "synthesizer"])
def test_half_precision(kind):
    half = make(kind, dtype=jnp.bfloat16)
    variables = random_variables(half, (B, N, D))

    @jax.jit
    def run(x):
        return half.apply(variables, x, jnp.asarray(MASK), sample=False)

    got = run(jnp.asarray(inputs(), jnp.bfloat16))
    want = reference(kind, variables, inputs(), MASK)
    assert got.dtype == jnp.bfloat16
    # bfloat16 rounds by 2^-9 per operation; about ten deep, with sums of up to ten terms.
    got = np.asarray(got, np.float32)
    np.testing.assert_allclose(got[MASK], want[MASK], atol=0.06 * np.abs(want).max())


def test_dropout_takes_what_heads_read():
    layer = make("vanilla", dropout_rate=0.5)
    variables = random_variables(layer, (B, N, D))
    # Of values 1 and an output layer of ones, the sum counts the entries that stay, twice each.
    x = jnp.ones((B, N, D))
    variables["params"]["value"]["kernel"] = jnp.full((D, HEADS, SIZE), 1 / D)
    variables["params"]["out"]["kernel"] = jnp.ones((HEADS, SIZE, D))
    run = jax.jit(lambda key: layer.apply(variables, x, train=True, rngs={"dropout": key}))
    a, b = run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_allclose(a, 2 * np.round(a / 2), atol=1e-4)
    assert (a != b).any()
    assert float(a.min()) >= -1e-4
    assert float(a.max()) <= 2 * HEADS * SIZE + 1e-4


def test_the_output_layer_starts_by_the_number_of_its_inputs():
    layer = layers.SelfAttention(heads=16, head_dim=8)
    init = jax.jit(lambda key: layer.init(key, jnp.zeros((1, 2, 24)))["params"])
    kernel = init(jax.random.key(0, impl="rbg"))["out"]["kernel"]
    assert kernel.shape == (16, 8, 24)
    # 3,072 draws: the standard deviation is known to 1.3 percent.
    assert float(kernel.std()) == pytest.approx(128**-0.5, rel=0.07)


def test_queries_and_keys_can_be_captured():
    layer = make("longformer")
    variables = random_variables(layer, (B, N, D))
    found = {}
    jax.eval_shape(
        lambda v: found.update(layers.capture(layer, v, jnp.ones((B, N, D)))[1]), variables
    )
    assert {name: found[name].shape for name in ("query", "key")} == {
        "query": (B, N, HEADS, SIZE),
        "key": (B, N, HEADS, SIZE),
    }


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: layers.SelfAttention(2), "head_dim"),
        (lambda: make("preformer"), "did you mean 'performer'"),
        (lambda: make("nothing alike"), "use one of"),
        (lambda: make(3), "no kind of attention"),
        (lambda: layers.SelfAttention(0, 3), "heads=0, want a positive integer"),
        (lambda: layers.LocalAttention(block=0), "block=0, want an integer of 1 or more"),
        (lambda: layers.LongformerAttention(window=5), "window=5 has no two equal sides; use 6"),
        (lambda: layers.SparseAttention(block=4, summary=5), "summary=5 is more than block=4"),
        (lambda: layers.PerformerAttention(kind="cosine"), "kind='cosine' is unknown"),
        (lambda: layers.PerformerAttention(epsilon=-1.0), "epsilon=-1.0 is negative"),
        (lambda: layers.UnbiasedSubsampledAttention(ratio=1.5), "ratio=1.5 is no share"),
        (lambda: layers.UnbiasedSubsampledAttention(share="head"), "share='head' is unknown"),
        (lambda: layers.LocalSubsampledAttention(sigma_over_w=-1.0), "sigma_over_w=-1.0"),
        (lambda: make("vanilla", dropout_rate=1.0), "rate=1.0"),
    ],
)
def test_what_does_not_fit_is_refused(make_it, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jax.eval_shape(make_it().init, jax.random.key(0), jnp.ones((1, 4, D)))


def test_inputs_that_do_not_fit_are_refused():
    layer = make("vanilla")
    for x, mask, message in (
        (jnp.ones((4, D)), None, r"want floating-point \[b, n, d\]"),
        (jnp.ones((1, 4, D), jnp.int32), None, "x is int32"),
        (jnp.ones((1, 4, D)), jnp.ones((1, 3), bool), r"want bool \(1, 4\)"),
        (jnp.ones((1, 4, D)), jnp.ones((1, 4)), "mask is float32"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.init({}, x, mask)


@pytest.mark.parametrize("kind", ["sinkhorn", "linformer", "synthesizer", "dense_synthesizer"])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_sequence_above_a_fixed_length_is_refused_by_name(kind, is_named):
    options = KINDS[kind]
    if not is_named:
        options = layers.attention_options(type(options)())
    layer = make(options)
    variables = random_variables(layer, (B, 12, D))
    longer = jnp.ones((B, 60, D))
    with pytest.raises(ValueError, match=rf"length 60, but {type(options).__name__} has .*=60"):
        jax.eval_shape(layer.apply, variables, longer)


def test_sampling_names_the_stream_and_the_number_it_lacks():
    layer = make("ssa_unbiased")
    variables = random_variables(layer, (B, N, D))
    with pytest.raises(ValueError, match=r'rngs=\{"ssa": key\}'):
        layer.apply(variables, inputs(), train=True)
    layer = make(layers.UnbiasedSubsampledAttention(keys=11))
    with pytest.raises(ValueError, match="keys=11 is more than the 10 tokens"):
        layer.apply(variables, inputs(), train=True, rngs={"ssa": jax.random.key(0)})
    layer = make(layers.UnbiasedSubsampledAttention(dense=True))
    jax.eval_shape(lambda: layer.apply(variables, inputs(), train=True))
