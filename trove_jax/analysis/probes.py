"""What a linear classifier reads from a representation."""

import jax
import jax.numpy as jnp


def linear_probe_accuracy(
    features: jax.Array,
    labels: jax.Array,
    test_features: jax.Array,
    test_labels: jax.Array,
    *,
    classes: int,
    ridge: float = 1e-3,
) -> jax.Array:
    """Fits a linear classifier to a representation, and measures it on other examples.

    Ridge regression of one-hot labels on standardised features,
    argmin_W mean |Y - mean(Y) - X W|^2 + ridge |W|^2; the largest output is the answer. It has a
    closed form, so that no probe is better trained than another. Features that are the same for
    all examples count as 0.

    Args:
      features: representation to fit on, `[b, ...]`, floating; the axes behind the first are
        flattened.
      labels: classes from 0 to k - 1, integer `[b]`.
      test_features: representation to measure on, `[n, ...]`; standardised like `features`.
      test_labels: integer `[n]`.
      classes: k, at least 2.
      ridge: above 0, relative to standardised features.

    Returns:
      Share of the n examples that are answered rightly, in [0, 1], float32.

    Raises:
      ValueError: shapes that do not belong together, or a `ridge` that is not above 0.

    Example:
      >>> x, labels = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 0, 1, 1])
      >>> print(linear_probe_accuracy(x, labels, x, labels, classes=2))
      1.0

    Reference: Alain & Bengio, Understanding Intermediate Layers Using Linear Classifier Probes,
    2016 (with logistic regression in place of ridge regression).
    """
    pairs = {"features": (features, labels), "test_features": (test_features, test_labels)}
    for name, (rows, answers) in pairs.items():
        if rows.ndim < 2 or answers.shape != rows.shape[:1] or 0 in rows.shape:
            raise ValueError(
                f"{name} {rows.shape} and its labels {answers.shape} do not belong together; "
                "[b, d] and [b] are wanted, b and d at least 1"
            )
    if features.shape[1:] != test_features.shape[1:]:
        raise ValueError(
            f"features {features.shape} and test_features {test_features.shape} differ behind the "
            "first axis"
        )
    if not ridge > 0:
        raise ValueError(f"ridge={ridge} must be above 0, such as 1e-3")
    x = _flat(features)
    mean, std = x.mean(axis=0, keepdims=True), x.std(axis=0, keepdims=True)
    scale = jnp.where(std > 0, 1.0 / jnp.where(std > 0, std, 1.0), 0.0)
    x = (x - mean) * scale
    one_hot = jax.nn.one_hot(labels, classes, dtype=x.dtype)
    centre = one_hot.mean(axis=0, keepdims=True)
    gram = x.T @ x / x.shape[0] + ridge * jnp.eye(x.shape[1], dtype=x.dtype)
    weights = jax.scipy.linalg.solve(gram, x.T @ (one_hot - centre) / x.shape[0], assume_a="pos")
    scores = (_flat(test_features) - mean) * scale @ weights + centre
    right = jnp.argmax(scores, axis=1).astype(test_labels.dtype) == test_labels
    return right.astype(jnp.float32).mean()


def _flat(x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], -1)
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
