"""The convolution against XLA's own, a NumPy loop and SciPy, and its form inside loops."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from trove_jax.kernels import conv_general_dilated, conv_transpose

NUMBERS = {
    1: ("NWC", "WIO", "NWC"),
    2: ("NHWC", "HWIO", "NHWC"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}

# name: (input, kernel, strides, padding, other arguments)
CASES = {
    "1-D": ((2, 11, 3), (5, 3, 4), (1,), "SAME", {}),
    "1-D strided, long window": ((2, 23, 8), (9, 8, 4), (3,), "VALID", {}),
    "1-D atrous": ((2, 15, 12), (3, 12, 4), (1,), "SAME", {"rhs_dilation": (4,)}),
    "2-D few channels": ((2, 7, 9, 3), (3, 3, 3, 8), (1, 1), "SAME", {}),
    "2-D": ((2, 7, 9, 8), (3, 3, 8, 5), (1, 1), "SAME", {}),
    "2-D by rows": ((2, 6, 7, 24), (3, 5, 24, 32), (1, 1), "SAME", {}),
    "2-D by rows, atrous": (
        (2, 8, 9, 24),
        (3, 2, 24, 25),
        (1, 1),
        ((3, 1), (0, 2)),
        {"rhs_dilation": (2, 3)},
    ),
    "chunks": ((12, 10, 10, 192), (1, 5, 192, 4), (1, 1), "SAME", {}),
    "chunks, strided": ((12, 20, 10, 192), (1, 5, 192, 4), (2, 1), "SAME", {}),
    "no chunks of a prime number": ((11, 10, 10, 192), (1, 5, 192, 4), (1, 1), "SAME", {}),
    "2-D same lower": ((2, 7, 9, 8), (2, 4, 8, 5), (1, 1), "SAME_LOWER", {}),
    "2-D valid": ((2, 8, 9, 8), (3, 2, 8, 5), (1, 1), "VALID", {}),
    "2-D 5x5": ((2, 9, 8, 6), (5, 5, 6, 4), (1, 1), "SAME", {}),
    "2-D 7x7 strided": ((1, 17, 16, 3), (7, 7, 3, 4), (2, 2), "SAME", {}),
    "2-D 1xk": ((2, 6, 9, 8), (1, 5, 8, 4), (1, 1), "SAME", {}),
    "2-D kx1": ((2, 9, 6, 8), (5, 1, 8, 4), (1, 1), "SAME", {}),
    "2-D stride 2, odd": ((2, 9, 7, 8), (3, 3, 8, 5), (2, 2), "SAME", {}),
    "2-D stride 2, even": ((2, 8, 8, 8), (3, 3, 8, 5), (2, 2), "SAME", {}),
    "2-D stride 3 on one axis": ((2, 8, 10, 8), (3, 3, 8, 5), (1, 3), "VALID", {}),
    "2-D stride over the window": ((2, 9, 9, 8), (2, 2, 8, 5), (3, 4), "VALID", {}),
    "2-D padding by hand": ((2, 6, 7, 8), (3, 3, 8, 5), (1, 2), ((3, 0), (1, 4)), {}),
    "2-D negative padding": ((2, 9, 9, 8), (3, 3, 8, 5), (2, 1), ((-1, 2), (-2, -3)), {}),
    "2-D crop past the end": ((2, 3, 4, 8), (2, 2, 8, 5), (1, 1), ((-4, 6), (0, 1)), {}),
    "2-D atrous": ((2, 9, 11, 8), (3, 3, 8, 5), (1, 1), "SAME", {"rhs_dilation": (2, 3)}),
    "2-D atrous strided": ((2, 9, 11, 8), (3, 3, 8, 5), (2, 2), "SAME", {"rhs_dilation": (2, 1)}),
    "pointwise": ((2, 5, 6, 7), (1, 1, 7, 4), (1, 1), "SAME", {}),
    "pointwise strided": ((2, 5, 6, 7), (1, 1, 7, 4), (2, 3), "VALID", {}),
    "pointwise padded": ((2, 5, 6, 7), (1, 1, 7, 4), (1, 2), ((1, 0), (2, 1)), {}),
    "groups": ((2, 6, 7, 8), (3, 3, 4, 6), (1, 1), "SAME", {"feature_group_count": 2}),
    "many groups": ((1, 6, 7, 64), (3, 3, 2, 96), (2, 1), "SAME", {"feature_group_count": 32}),
    "depthwise": ((2, 7, 8, 6), (3, 3, 1, 6), (1, 1), "SAME", {"feature_group_count": 6}),
    "depthwise strided": ((2, 7, 8, 6), (3, 3, 1, 6), (2, 2), "SAME", {"feature_group_count": 6}),
    "depthwise multiplied": (
        (2, 7, 8, 3),
        (3, 2, 1, 6),
        (1, 1),
        "SAME",
        {"feature_group_count": 3},
    ),
    "depthwise 1-D atrous": (
        (2, 12, 5),
        (4, 1, 5),
        (1,),
        ((6, 0),),
        {"feature_group_count": 5, "rhs_dilation": (2,)},
    ),
    "transposed": ((2, 5, 6, 8), (3, 3, 8, 4), (1, 1), ((1, 2), (2, 2)), {"lhs_dilation": (2, 2)}),
    "transposed by 3, small window": (
        (2, 5, 6, 4),
        (2, 2, 4, 4),
        (1, 1),
        ((1, 1), (1, 1)),
        {"lhs_dilation": (3, 3)},
    ),
    "transposed, strided and atrous": (
        (2, 5, 6, 4),
        (3, 4, 4, 4),
        (2, 3),
        ((4, 3), (2, -1)),
        {"lhs_dilation": (4, 2), "rhs_dilation": (2, 3)},
    ),
    "transposed groups": (
        (2, 5, 6, 4),
        (3, 3, 2, 4),
        (1, 1),
        ((2, 2), (2, 1)),
        {"lhs_dilation": (2, 1), "feature_group_count": 2},
    ),
    "transposed depthwise": (
        (2, 5, 6, 4),
        (3, 3, 1, 4),
        (1, 1),
        ((2, 2), (2, 1)),
        {"lhs_dilation": (2, 2), "feature_group_count": 4},
    ),
    "3-D": ((2, 4, 5, 6, 3), (3, 3, 3, 3, 4), (1, 1, 1), "SAME", {}),
    "3-D strided": ((1, 5, 6, 7, 4), (3, 2, 3, 4, 3), (2, 1, 2), "SAME", {}),
    "3-D transposed": (
        (1, 3, 4, 3, 2),
        (2, 2, 2, 2, 3),
        (1, 1, 1),
        ((1, 1), (1, 1), (1, 1)),
        {"lhs_dilation": (2, 2, 2)},
    ),
}


def draw(shape, seed, dtype=jnp.float32):
    # NumPy's: compiling a float64 normal takes JAX seconds for every shape.
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def arguments(case, dtype=jnp.float32):
    x, kernel, strides, padding, options = CASES[case]
    numbers = NUMBERS[len(strides)]
    options = {
        "window_strides": strides,
        "padding": padding,
        "dimension_numbers": numbers,
    } | options
    return draw(x, 0, dtype), draw(kernel, 1, dtype), options


def run(convolve, x, kernel):
    y, pull = jax.vjp(convolve, x, kernel)
    return y, *pull(draw(y.shape, 2, y.dtype))


def value_and_pullback(convolve, x, kernel):
    return jax.jit(lambda x, k: run(convolve, x, k))(x, kernel)


def side_by_side(ours, theirs, x, kernel):
    """Name, our result and theirs, for the output and both gradients; compiled as one program."""
    got, want = jax.jit(lambda x, k: (run(ours, x, k), run(theirs, x, k)))(x, kernel)
    return zip(("output", "input gradient", "kernel gradient"), got, want, strict=True)


def both(x, kernel, options, **ours):
    return side_by_side(
        lambda x, k: conv_general_dilated(x, k, **options, **ours),
        lambda x, k: lax.conv_general_dilated(x, k, **options),
        x,
        kernel,
    )


# One for each form, for what is slow to compile.
FORMS = (
    "1-D atrous",
    "2-D",
    "2-D by rows",
    "2-D few channels",
    "chunks",
    "2-D stride 2, odd",
    "pointwise strided",
    "groups",
    "depthwise",
    "transposed",
    "3-D",
)


# XLA 0.10.2 reads past the input in a float32 convolution with negative padding on a CPU (seen as
# infinities and changing numbers), so these are compared in float64 only.
NEGATIVE = (
    "2-D negative padding",
    "2-D crop past the end",
    "transposed, strided and atrous",
)


@pytest.mark.parametrize("case", [case for case in CASES if case not in NEGATIVE])
def test_equals_the_native_convolution_and_gradients(case):
    x, kernel, options = arguments(case)
    for name, got, want in both(x, kernel, options):
        # Two orders of summing n <= 1200 products of order one: n^0.5 eps n^0.5 = 1e-4; a wrong tap
        # is off by order one.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=name)
        assert got.dtype == jnp.float32


@pytest.mark.parametrize("case", FORMS + NEGATIVE)
def test_equals_them_in_float64(case):
    with jax.enable_x64(True):
        x, kernel, options = arguments(case, jnp.float64)
        for name, got, want in both(x, kernel, options):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11, err_msg=name)
            assert got.dtype == jnp.float64


def test_negative_padding_crops():
    x, kernel, options = arguments("2-D negative padding")
    cropped = jnp.pad(x[:, 1:, 2:-3], ((0, 0), (0, 2), (0, 0), (0, 0)))
    got = conv_general_dilated(x, kernel, **options)
    want = conv_general_dilated(cropped, kernel, **(options | {"padding": "VALID"}))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert got.shape == (2, 4, 2, 5)


@pytest.mark.parametrize("implementation", ["taps", "reference"])
@pytest.mark.parametrize("case", ["2-D few channels", "groups", "depthwise", "transposed"])
def test_every_implementation_agrees(case, implementation):
    x, kernel, options = arguments(case)
    for name, got, want in both(x, kernel, options, implementation=implementation):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=name)
        assert got.dtype == jnp.float32


@pytest.mark.parametrize("case", ["2-D", "depthwise", "transposed"])
def test_bfloat16_is_close_to_float32(case):
    x, kernel, options = arguments(case, jnp.bfloat16)
    wide = both(x.astype(jnp.float32), kernel.astype(jnp.float32), options)
    narrow = value_and_pullback(lambda x, k: conv_general_dilated(x, k, **options), x, kernel)
    for got, (name, _, want) in zip(narrow, wide, strict=True):
        assert got.dtype == jnp.bfloat16
        # Inputs are the same numbers; the cotangent and the result are rounded to 8 bits, and so
        # are partial sums in XLA's own bfloat16 convolution.
        scale = float(jnp.abs(want).max())
        error = jnp.abs(got.astype(jnp.float32) - want).max()
        assert error < 0.05 * scale, name


def test_wider_result_than_input():
    x, kernel, options = arguments("2-D", jnp.bfloat16)
    options |= {"preferred_element_type": jnp.float32}
    y, dx, dk = value_and_pullback(lambda x, k: conv_general_dilated(x, k, **options), x, kernel)
    assert (y.dtype, dx.dtype, dk.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(
        y, lax.conv_general_dilated(x, kernel, **options), rtol=1e-5, atol=1e-5
    )


def numpy_convolution(x, kernel, strides, low):
    """y[o] = sum_t x[stride o + t - low] kernel[t], by a loop over outputs and taps."""
    batch, height, width, _ = x.shape
    rows, columns, _, features = kernel.shape
    out = [
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip((height, width), low, kernel.shape, strides, strict=False)
    ]
    y = np.zeros((batch, *out, features))
    for i, j, a, b in itertools.product(range(out[0]), range(out[1]), range(rows), range(columns)):
        row, column = i * strides[0] + a - low[0], j * strides[1] + b - low[1]
        if 0 <= row < height and 0 <= column < width:
            y[:, i, j] += x[:, row, column] @ kernel[a, b]
    return y


@pytest.mark.parametrize("channels", [2, 8])
def test_equals_a_numpy_loop(channels):
    x, kernel = draw((2, 6, 7, channels), 0), draw((3, 2, channels, 4), 1)
    want = numpy_convolution(np.asarray(x), np.asarray(kernel), (2, 1), (1, 2))
    got = conv_general_dilated(x, kernel, (2, 1), ((1, 1), (2, 2)), dimension_numbers=NUMBERS[2])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert got.shape == want.shape


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_equals_scipys_correlation(rank):
    x, kernel = draw((7, 6, 5)[:rank], 0), draw((3, 2, 4)[:rank], 1)
    want = scipy.signal.correlate(np.asarray(x), np.asarray(kernel), mode="full", method="direct")
    got = conv_general_dilated(
        x[None, ..., None],
        kernel[..., None, None],
        (1,) * rank,
        [(k - 1, k - 1) for k in kernel.shape],
        dimension_numbers=NUMBERS[rank],
    )
    np.testing.assert_allclose(got[0, ..., 0], want, rtol=1e-4, atol=1e-5)
    assert got.shape[1:-1] == want.shape


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 2))
    axes = st.tuples(*[st.integers(1, 3)] * rank)
    groups, inner, outer = draw(st.tuples(*[st.integers(1, 3)] * 3))
    return {
        "space": draw(st.tuples(*[st.integers(1, 7)] * rank)),
        "window": draw(st.tuples(*[st.integers(1, 4)] * rank)),
        "channels": (groups * inner, inner, groups * outer),
        "window_strides": draw(axes),
        "lhs_dilation": draw(axes),
        "rhs_dilation": draw(axes),
        "padding": draw(st.tuples(*[st.tuples(st.integers(-2, 3), st.integers(-2, 3))] * rank)),
        "feature_group_count": groups,
    }


@settings(max_examples=10, deadline=None, derandomize=True)
@given(convolutions())
def test_any_geometry(options):
    space, window = options.pop("space"), options.pop("window")
    d, inner, features = options.pop("channels")
    options["dimension_numbers"] = NUMBERS[len(space)]
    with jax.enable_x64(True):
        x, kernel = (
            draw((2, *space, d), 0, jnp.float64),
            draw((*window, inner, features), 1, jnp.float64),
        )
        try:
            lax.conv_general_dilated(x, kernel, **options)
        except (TypeError, ValueError):
            return
        for name, got, want in both(x, kernel, options):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11, err_msg=name)
            assert got.shape == want.shape


@pytest.mark.parametrize("numbers", [None, ("NCHW", "OIHW", "NHWC"), ("HWNC", "OHWI", "CNHW")])
def test_any_layout(numbers):
    shapes = lax.conv_dimension_numbers((0,) * 4, (0,) * 4, numbers)
    x, kernel = np.zeros(4, int), np.zeros(4, int)
    x[list(shapes.lhs_spec)], kernel[list(shapes.rhs_spec)] = (2, 8, 5, 6), (4, 8, 3, 2)
    options = {"window_strides": (1, 2), "padding": "SAME", "dimension_numbers": numbers}
    for name, got, want in both(draw(tuple(x), 0), draw(tuple(kernel), 1), options):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=name)
        assert got.shape == want.shape


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 3))])
@pytest.mark.parametrize("window", [(3, 3), (1, 4)])
def test_conv_transpose_equals_the_native_one(window, padding, transpose_kernel):
    x, kernel = draw((2, 5, 4, 6), 0), draw((*window, 6, 6), 1)
    how = ((2, 3), padding, (1, 2), None, transpose_kernel)
    found = side_by_side(
        lambda x, k: conv_transpose(x, k, *how),
        lambda x, k: lax.conv_transpose(x, k, *how),
        x,
        kernel,
    )
    for name, got, want in found:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=name)
        assert got.shape == want.shape


@pytest.mark.parametrize("case", ["2-D", "depthwise", "transposed"])
def test_vmap_equals_a_loop(case):
    x, kernel, options = arguments(case)
    xs, kernels = jnp.stack([x, 2 * x, x[::-1]]), jnp.stack([kernel, -kernel, kernel + 1])

    @jax.jit
    def one(x, kernel):
        return run(lambda x, k: conv_general_dilated(x, k, **options), x, kernel)

    want = [one(x, kernel) for x, kernel in zip(xs, kernels, strict=True)]
    got = jax.jit(jax.vmap(one))(xs, kernels)
    for index, part in enumerate(want):
        for a, b in zip(got, part, strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-4)
    shared = jax.jit(jax.vmap(one, in_axes=(0, None)))(xs, kernel)
    np.testing.assert_allclose(shared[0][0], want[0][0], rtol=1e-4, atol=1e-4)
    assert shared[2].shape == (3, *kernel.shape)


@pytest.mark.parametrize("case", ["2-D", "depthwise"])
def test_inside_scan_and_map_equals_outside(case):
    x, kernel, options = arguments(case)
    xs = jnp.stack([x, 2 * x])

    def gradient(kernel, x):
        return jax.grad(lambda k: (conv_general_dilated(x, k, **options) ** 2).sum())(kernel)

    compiled = jax.jit(gradient)
    want = jnp.stack([compiled(kernel, x) for x in xs])
    mapped = jax.jit(lambda xs: lax.map(lambda x: gradient(kernel, x), xs))(xs)
    scale = float(jnp.abs(want).max())
    np.testing.assert_allclose(mapped, want, atol=1e-5 * scale)

    def chain(kernel):
        def step(total, x):
            return total + (conv_general_dilated(x, kernel, **options) ** 2).sum(), None

        return lax.scan(step, 0.0, xs)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(chain))(kernel), want.sum(0), atol=1e-5 * scale)
    assert mapped.shape == (2, *kernel.shape)


def test_hessian_vector_product():
    with jax.enable_x64(True):
        x, kernel, options = arguments("2-D", jnp.float64)
        direction = draw(kernel.shape, 3, jnp.float64)

        def product(convolve, outer):
            gradient = jax.grad(lambda k: jnp.tanh(convolve(x, k, **options)).sum())
            if outer == "jvp":
                return jax.jit(lambda k: jax.jvp(gradient, (k,), (direction,))[1])(kernel)
            return jax.jit(jax.grad(lambda k: jnp.vdot(gradient(k), direction)))(kernel)

        want = product(lax.conv_general_dilated, "jvp")
        for outer in ("jvp", "grad"):
            got = product(conv_general_dilated, outer)
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
            assert got.shape == kernel.shape


def compiled_loop(convolve, case):
    x, kernel, options = arguments(case)

    def step(kernel, x):
        loss = lambda k, x: (convolve(x, k, **options) ** 2).sum()  # noqa: E731
        dk, dx = jax.grad(loss, argnums=(0, 1))(kernel, x)
        return kernel - dk + dx.sum(), None

    loop = jax.jit(lambda kernel, xs: lax.scan(step, kernel, xs)[0])
    return loop.lower(kernel, jnp.stack([x] * 3)).compile().as_text()


CANONICAL = re.compile(r"dim_labels=b0?1?2?f_0?1?2?io->b0?1?2?f")


def naive(program):
    """Convolutions of a compiled program that XLA's CPU backend has no fast code for."""
    lines = [line for line in program.splitlines() if re.search(r"\bconvolution\(", line)]
    slow = ("lhs_dilate", "feature_group_count", "batch_group_count")
    return [
        line for line in lines if not CANONICAL.search(line) or any(word in line for word in slow)
    ]


@pytest.mark.parametrize("case", FORMS)
def test_no_slow_form_of_convolution_inside_a_loop(case):
    assert not naive(compiled_loop(conv_general_dilated, case))


def test_the_native_gradient_does_take_a_slow_form_inside_a_loop():
    # Where this fails, XLA has learned to rewrite loops too, and the rule may have outlived itself.
    assert naive(compiled_loop(lax.conv_general_dilated, "2-D"))


def test_only_the_branch_of_the_platform_is_compiled():
    assert "conditional" not in compiled_loop(conv_general_dilated, "2-D")


def test_what_computes_an_activation_stays_out_of_the_copies():
    # The gradient to the kernel is a computation of its own, so that XLA cannot fuse (and repeat)
    # what comes before it.
    assert re.search(
        r"\bcall\(.*to_apply=%?kernel_gradient", compiled_loop(conv_general_dilated, "2-D")
    )


@pytest.mark.parametrize(
    "case", ["2-D", "2-D by rows", "chunks", "2-D stride 2, even", "transposed"]
)
def test_sharded_batch_is_not_gathered(case):
    x, kernel, options = arguments(case)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    one = jax.jit(lambda x, k: run(lambda x, k: conv_general_dilated(x, k, **options), x, k))
    want = one(x, kernel)
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    assert "all-gather" not in one.lower(x, kernel).compile().as_text()
    for a, b in zip(one(x, kernel), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["2-D", "chunks", "depthwise"])
def test_inside_shard_map(case):
    x, kernel, options = arguments(case)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def loss(kernel, x):
        return jnp.tanh(conv_general_dilated(x, kernel, **options)).sum()

    def spread(kernel, x):
        return jax.grad(lambda k, x: lax.psum(loss(k, x), "data"), argnums=(0, 1))(kernel, x)

    whole, shared = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(spread, mesh=mesh, in_specs=(whole, shared), out_specs=(whole, shared))
    want = jax.jit(jax.grad(loss, argnums=(0, 1)))(kernel, x)
    for a, b in zip(jax.jit(mapped)(kernel, x), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        assert a.shape == b.shape


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_keep_the_native_operation(platform):
    x, kernel, options = arguments("transposed depthwise")

    def one(x, kernel):
        return run(lambda x, k: conv_general_dilated(x, k, **options), x, kernel)

    text = jax.jit(one).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.while" not in text


@pytest.mark.parametrize(
    ("x", "kernel"), [((0, 5, 5, 3), (3, 3, 3, 4)), ((2, 2, 2, 3), (3, 3, 3, 4))]
)
def test_empty_batch_and_empty_output(x, kernel):
    options = {"window_strides": (1, 1), "padding": "VALID", "dimension_numbers": NUMBERS[2]}
    for _, got, want in both(draw(x, 0), draw(kernel, 1), options):
        np.testing.assert_array_equal(got, want)
        assert got.shape == want.shape


def test_integers_and_batch_groups_go_to_the_native_operation():
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.int32), jnp.ones((3, 3, 2, 2), jnp.int32)
    y = conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NUMBERS[2])
    assert y.ravel().tolist() == [18] * 8
    options = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": NUMBERS[2],
        "batch_group_count": 2,
    }
    for _, got, want in both(draw((4, 5, 5, 2), 0), draw((3, 3, 2, 4), 1), options):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "fast"}, "implementation='fast' is unknown"),
        ({"padding": "FULL"}, "padding='FULL' is unknown"),
        ({"padding": ((1, 1),)}, "must hold 2 pairs"),
        ({"window_strides": (1,)}, r"window_strides=\(1,\) must be 2 integers"),
        ({"window_strides": (0, 1)}, "all at least 1"),
        ({"rhs_dilation": (1, 0)}, r"rhs_dilation=\(1, 0\)"),
        ({"lhs_dilation": (2, 2)}, "String padding"),
        ({"feature_group_count": 3}, "feature_group_count"),
        ({"feature_group_count": 0}, "feature_group_count=0"),
        ({"lhs": jnp.ones((5, 5, 4))}, "both need rank"),
        ({"lhs": jnp.ones((1, 5, 5, 5))}, "feature"),
        ({"lhs": jnp.ones((1, 5, 5, 4), jnp.bfloat16)}, "lhs is bfloat16 and rhs float32"),
    ],
)
def test_bad_arguments_raise(change, message):
    good = {
        "lhs": jnp.ones((1, 5, 5, 4)),
        "rhs": jnp.ones((3, 3, 4, 4)),
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": NUMBERS[2],
    }
    with pytest.raises(ValueError, match=message):
        conv_general_dilated(**(good | change))


def test_conv_transpose_refuses_unknown_padding():
    with pytest.raises(ValueError, match="padding='FULL'"):
        conv_transpose(jnp.ones((1, 5, 4)), jnp.ones((3, 4, 4)), (2,), "FULL")
