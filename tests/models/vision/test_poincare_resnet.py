"""The Poincare residual network and its Euclidean twins."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tests.models.variables import count, random_variables, shapes
from trove_jax import layers, models

IMAGES = (2, 8, 12, 3)


def _small(model, shape, seed=0):
    """NumPy draws: kernels of half their usual size, all else near 0, variances near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return 0.7 * rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        if name == "var":
            return 0.5 + rng.random(leaf.shape)
        return 0.3 * rng.normal(size=leaf.shape)

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(draw(path, leaf), jnp.float32), shapes(model, shape)
    )


class _Ball:
    """The layers in NumPy, on points of the ball, from the formulas of the papers."""

    def __init__(self, c):
        self.c, self.root = c, np.sqrt(c)

    def exp0(self, v):
        n = self.root * np.linalg.norm(v, axis=-1, keepdims=True)
        return v * np.where(n > 0, np.tanh(n) / np.where(n > 0, n, 1), 1)

    def log0(self, x):
        n = self.root * np.linalg.norm(x, axis=-1, keepdims=True)
        return x * np.where(n > 0, np.arctanh(n) / np.where(n > 0, n, 1), 1)

    def add(self, x, y):
        c = self.c
        xy, xx, yy = ((a * b).sum(-1, keepdims=True) for a, b in ((x, y), (x, x), (y, y)))
        top = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
        return top / (1 + 2 * c * xy + c**2 * xx * yy)

    def distances(self, x, z, r):
        """Signed distances to hyperplanes, scaled by |z|."""
        s = np.linalg.norm(z, axis=0)
        factor = 2 / (1 - self.c * (x * x).sum(-1, keepdims=True))
        alpha = self.root * factor * (x @ z) / s * np.cosh(2 * self.root * r)
        alpha = alpha - (factor - 1) * np.sinh(2 * self.root * r)
        return 2 * s / self.root * np.arcsinh(alpha)

    def dense(self, x, z, r):
        w = np.sinh(self.root * self.distances(x, z, r)) / self.root
        return w / (1 + np.sqrt(1 + self.c * (w * w).sum(-1, keepdims=True)))

    def conv(self, x, kernel, bias, stride, pad):
        """Unfolded: every receptive field is one point, by beta-concatenation."""
        size, _, channels, features = kernel.shape
        v = np.pad(self.log0(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        rows = (v.shape[1] - size) // stride + 1
        columns = (v.shape[2] - size) // stride + 1
        taps = [
            v[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            for i in range(size)
            for j in range(size)
        ]
        v = np.concatenate([tap[:, :rows, :columns] for tap in taps], axis=-1)
        v = (
            v
            * scipy.special.beta(size**2 * channels / 2, 0.5)
            / scipy.special.beta(channels / 2, 0.5)
        )
        return self.dense(self.exp0(v), kernel.reshape(-1, features), bias)

    def norm(self, x, mean, variance, bias, gamma):
        b = self.exp0(bias)
        k = np.sqrt(gamma / (variance + 1e-6))
        moved = self.add(-mean + 0 * x, x)
        moved = self.exp0(k * self.log0(moved))
        return self.add(b + 0 * x, self.gyration(b + 0 * x, -mean + 0 * x, moved))

    def gyration(self, u, v, w):
        """-(u + v) + (u + (v + w))."""
        return self.add(-self.add(u, v), self.add(u, self.add(v, w)))

    def midpoint(self, x):
        """Of all pixels, `[b, h, w, d] -> [b, d]`, by the Lorentz centroid."""
        cx = self.c * (x * x).sum(-1, keepdims=True)
        time, space = (1 + cx) / (1 - cx), 2 * x / (1 - cx)  # space in units of 1 / sqrt(c)
        time, space = time.sum((1, 2)), space.sum((1, 2))
        scale = np.sqrt(time**2 - self.c * (space * space).sum(-1, keepdims=True))
        return space / scale / (1 + time / scale)

    def relu(self, x):
        return self.exp0(np.maximum(self.log0(x), 0))


def _numpy_network(variables, x, *, widths, blocks, c, order, pool, head):
    """The whole network in float64, in evaluation mode."""
    ball = _Ball(c)
    p, stats = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables[name])
        for name in ("params", "batch_stats")
    )

    def conv(x, p, stride=1, pad=1):
        return ball.conv(x, p["kernel"], p["bias"], stride, pad)

    def norm(x, p, s):
        gamma = np.log1p(np.exp(p["scale"]))
        return ball.norm(x, ball.exp0(s["mean"]), s["var"], p["bias"], gamma)

    x = ball.relu(norm(conv(ball.exp0(x), p["stem"]), p["stem_norm"], stats["stem_norm"]))
    for group in range(len(widths)):
        for block in range(blocks):
            name = f"stage_{group}_block_{block}"
            stride = 2 if group and not block else 1
            b, s = p[name], stats[name]
            y = ball.relu(norm(conv(x, b["conv_0"], stride), b["norm_0"], s["norm_0"]))
            y = norm(conv(y, b["conv_1"]), b["norm_1"], s["norm_1"])
            x = conv(x, b["shortcut"], stride, 0) if stride > 1 else x
            x = ball.relu(ball.add(y, x) if order == "fr" else ball.add(x, y))
    x = ball.midpoint(x) if pool == "midpoint" else ball.exp0(ball.log0(x).mean((1, 2)))
    z, r = p["output"]["kernel"], p["output"]["bias"]
    return ball.distances(x, z, r) if head == "mlr" else ball.log0(ball.dense(x, z, r))


@pytest.mark.parametrize(
    ("order", "pool", "head", "learned"),
    [("fr", "midpoint", "mlr", False), ("rf", "tangent", "fc", True)],
)
def test_poincare_resnet_equals_the_layers_on_the_ball(order, pool, head, learned):
    """Also: NaN in a pixel stays in its image, and a curvature may be a parameter."""
    c, widths = 0.3, (2, 4, 3)
    options = {"order": order, "pool": pool, "head": head, "learn_curvature": learned}
    model = models.poincare_resnet(8, widths=widths, classes=5, curvature=c, **options)
    variables = _small(model, IMAGES)
    if learned:
        raw = {"raw": jnp.float32(np.log(np.expm1(c)))}
        variables["params"] = {**variables["params"], "curvature": raw}
    x = 0.5 * jax.random.normal(jax.random.key(1), IMAGES)
    want = _numpy_network(
        variables, np.asarray(x, np.float64),
        widths=widths, blocks=1, c=c, order=order, pool=pool, head=head,
    )  # fmt: skip
    apply = jax.jit(model.apply)
    got = apply(variables, x)
    assert np.abs(want).max() > 0.1
    # Float32 through eight layers, each good to a few units of the last place.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    broken = apply(variables, x.at[0, 3, 3, 1].set(jnp.nan))
    assert bool(jnp.isnan(broken[0]).any())
    np.testing.assert_array_equal(broken[1], got[1])


def test_poincare_resnet_has_the_names_and_sizes_of_its_twin():
    ours, twin = (
        shapes(build(20), (1, 32, 32, 3))
        for build in (models.poincare_resnet, models.euclidean_twin)
    )

    def layer_names(params):
        paths = jax.tree_util.tree_leaves_with_path(params)
        return {tuple(key.key for key in path[:-1]) for path, _ in paths}

    assert layer_names(ours["params"]) == layer_names(twin["params"])
    # A norm has one scale and one running variance, where the twin has one for each channel.
    channels = 7 * 8 + 6 * 16 + 6 * 32
    assert count(ours["params"]) == count(twin["params"]) - channels + 19
    assert count(ours["batch_stats"]) == channels + 19


def _captured(network, pattern):
    """What is captured by name, traced but not compiled."""
    found = jax.eval_shape(
        lambda v, x: layers.capture(network, v, x, filter=pattern)[1],
        shapes(network, IMAGES),
        jax.ShapeDtypeStruct(IMAGES, jnp.float32),
    )
    return {name: leaf.shape for name, leaf in found.items()}


def test_the_same_layers_can_be_captured_in_both():
    ours, twin = (
        _captured(build(8, widths=(2, 2, 2)), r"stem|stage_0.*")
        for build in (models.poincare_resnet, models.euclidean_twin)
    )
    blocks = ("/conv_0", "/norm_0", "/conv_1", "/norm_1", "")
    assert list(twin) == ["stem", *(f"stage_0_block_0{layer}" for layer in blocks)]
    # A convolution also gives the sums for the normalisation behind it, as its entries 1 and 2.
    vectors = {name.removesuffix("/0"): s for name, s in ours.items() if name[-2:] not in _SUMS}
    assert list(vectors.items()) == list(twin.items())


_SUMS = ("/1", "/2")


def _gradients(model, variables, x):
    @jax.jit
    def run(variables, x):
        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(logits**2), updates

        return jax.grad(loss, has_aux=True)(variables["params"])

    return run(variables, x)


def test_training_moves_all_statistics_and_reaches_every_parameter():
    model = models.poincare_resnet(
        6, widths=(2, 4), classes=3, learn_curvature=True, implementation="blocks"
    )
    x = jax.random.normal(jax.random.key(1), IMAGES).at[0].set(0.0)  # an image of zeros
    variables = _small(model, IMAGES)
    gradients, updates = _gradients(model, variables, x)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.isfinite(gradient).all()), path
        assert bool((gradient != 0).any()), path
    moved = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), updates["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))


def test_every_norm_has_the_mean_that_was_asked_for():
    means = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, layers.PoincareBatchNorm):
            means.append(context.module.mean)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes(models.poincare_resnet(8, mean="frechet"), IMAGES)
    assert means == ["frechet"] * 7


@jax.numpy_dtype_promotion("standard")
def test_half_precision_answers_in_float32():
    model = models.poincare_resnet(4, widths=(2,), classes=3)
    images = jax.ShapeDtypeStruct(IMAGES, jnp.bfloat16)
    got = jax.eval_shape(model.apply, shapes(model, IMAGES), images)
    assert (got.shape, got.dtype) == ((2, 3), jnp.float32)
    conv = layers.PoincareConv(3)
    state = jax.eval_shape(conv.init_with_output, jax.random.key(0), images)[0]
    assert state.dtype == jnp.bfloat16


def test_hyperbolic_head_classifies_shortened_features():
    """Distances to hyperplanes through 0 with unit normals, in closed form."""
    options = {"widths": (2, 2, 3), "classes": 3}
    plain = models.euclidean_twin(8, **options)
    x = jnp.array([[[[0.3]]], [[[1.0]]]]) * jax.random.normal(jax.random.key(1), IMAGES)
    variables = random_variables(plain, IMAGES)
    identity = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    variables["params"] = {**variables["params"], "output": identity}
    features = np.asarray(jax.jit(plain.apply)(variables, x), np.float64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    longest = norms.mean()
    assert norms.min() < 0.99 * longest
    c = (0.8 / longest) ** 2
    twin = models.euclidean_twin(
        8, **options, hyperbolic_head=True, curvature=c, feature_radius=0.8
    )
    features *= np.minimum(1, longest / norms)
    norms, root = np.minimum(norms, longest), np.sqrt(c)
    # lambda x = sinh(2 C |v|) / (C |v|) v, and then asinh.
    want = 2 / root * np.arcsinh(np.sinh(2 * root * norms) * features / norms)
    got = jax.jit(twin.apply)(variables, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": "median"}, "mean='median' is unknown; use one of midpoint, frechet"),
        ({"pool": "max"}, "pool='max' is unknown"),
        ({"order": "xf"}, "order='xf' is unknown"),
        ({"head": "dense"}, "head='dense' is unknown"),
        ({"curvature": 0.0}, "curvature"),
        ({"curvature": -1.0}, "curvature"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes(models.poincare_resnet(8, **options), IMAGES)


def test_features_without_room_are_refused():
    twin = models.euclidean_twin(8, hyperbolic_head=True, feature_radius=0.0)
    with pytest.raises(ValueError, match=r"feature_radius=0.0, want a positive number"):
        shapes(twin, IMAGES)


def _twin_of_cifar_resnet(variables):
    """The same function: shortcut norms with running statistics folded into their convolutions."""
    params, stats = ({**variables[c]} for c in ("params", "batch_stats"))
    for name, block in params.items():
        block = {
            layer: {**p, "bias": jnp.zeros(p["kernel"].shape[-1])} if "conv" in layer else p
            for layer, p in block.items()
        }
        if "shortcut" in block:
            norm, seen = block.pop("shortcut_norm"), stats[name]["shortcut_norm"]
            scale = norm["scale"] / jnp.sqrt(seen["var"] + 1e-5)
            block["shortcut"] = {
                "kernel": block["shortcut"]["kernel"] * scale,
                "bias": norm["bias"] - seen["mean"] * scale,
            }
            stats[name] = {k: v for k, v in stats[name].items() if k != "shortcut_norm"}
        params[name] = block
    params["stem"] = {**params["stem"], "bias": jnp.zeros(params["stem"]["kernel"].shape[-1])}
    return {"params": params, "batch_stats": stats}


@jax.numpy_rank_promotion("allow")
def test_euclidean_twin_is_a_residual_network_without_shortcut_norms():
    known = models.cifar_resnet(14, width=3, classes=5)
    variables = random_variables(known, IMAGES)
    x = jax.random.normal(jax.random.key(1), IMAGES)
    twin = models.euclidean_twin(14, widths=(3, 6, 12), classes=5)
    folded = _twin_of_cifar_resnet(variables)
    jax.tree.map(lambda a, b: None, folded, shapes(twin, IMAGES))  # the same names
    want = jax.jit(known.apply)(variables, x)
    got = jax.jit(twin.apply)(folded, x)
    # Float32 through 14 layers, with one product folded in another order.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_euclidean_twin_has_the_sizes_of_its_plan():
    variables = shapes(models.euclidean_twin(20), (1, 32, 32, 3))
    convolutions, inputs = 9 * 3 * 8 + 8, 8
    for width in (8, 16, 32):
        convolutions += 9 * inputs * width + width + 5 * (9 * width * width + width)
        convolutions += inputs * width + width if width > inputs else 0
        inputs = width
    norms = 2 * (7 * 8 + 6 * 16 + 6 * 32)
    assert count(variables["params"]) == convolutions + norms + 32 * 10 + 10
    assert count(variables["batch_stats"]) == norms


def test_euclidean_twin_updates_running_statistics():
    model = models.euclidean_twin(8, widths=(2, 2, 2))
    x = 2 + jax.random.normal(jax.random.key(1), IMAGES)
    variables = random_variables(model, IMAGES)
    step = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    got, updated = step(variables, x)
    moved = jax.tree.map(
        lambda a, b: bool(jnp.all(a != b)), updated["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    assert not np.allclose(got, jax.jit(model.apply)(variables, x))


@pytest.mark.parametrize("build", [models.poincare_resnet, models.euclidean_twin])
@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"widths": (8, 16)}, IMAGES, "the nearest is depth="),
        ({"widths": ()}, IMAGES, r"widths=\(\), want one for each group"),
        ({"widths": (8, 0, 8)}, IMAGES, r"widths\[1\]=0, want a positive integer"),
        ({"classes": 0}, IMAGES, "classes=0, want a positive integer"),
        ({}, (2, 3, 2, 2), "at least 4x4 pixels"),
        ({}, (8, 8, 3), "want images"),
    ],
)
def test_networks_that_cannot_be_are_refused(build, options, shape, message):
    with pytest.raises(ValueError, match=message):
        shapes(build(8, **options), shape)


@pytest.mark.parametrize("build", [models.poincare_resnet, models.euclidean_twin])
def test_depths_that_are_no_network_are_refused(build):
    with pytest.raises(ValueError, match="the nearest is depth=20"):
        build(18)
