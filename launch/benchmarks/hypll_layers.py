"""Layers of HypLL on the Poincare ball, with the weights and inputs of ours, as their peer.

HypLL keeps points of the ball where we keep tangent vectors at 0, channels first, and unfolds
channel by channel where our kernels are tap by tap.

Reference: van Spengler, Wirth and Mettes, HypLL: the hyperbolic learning library, ACM Multimedia
2023 (MIT, PyPI `hypll`).
"""

import os

import numpy as np
import torch
from hypll.manifolds.poincare_ball import Curvature, PoincareBall
from hypll.nn import HBatchNorm2d, HConvolution2d
from hypll.tensors import ManifoldTensor, TangentTensor


class _Layer:
    """Output and all gradients of a layer, again and again.

    Args:
      layer: what is applied.
      tangent: tangent vectors at 0, `[b, h, w, d]`.
    """

    def __init__(self, layer: torch.nn.Module, ball: PoincareBall, tangent: np.ndarray):
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(self.threads)
        self._layer, self._ball = layer, ball
        vectors = torch.from_numpy(np.ascontiguousarray(tangent.transpose(0, 3, 1, 2)))
        points = ball.expmap(TangentTensor(vectors, None, ball, man_dim=1)).tensor
        self._points = points.detach().requires_grad_()
        self._cotangent = torch.randn(self._apply().shape, generator=torch.Generator())

    def _apply(self) -> torch.Tensor:
        return self._layer(ManifoldTensor(self._points, self._ball, man_dim=1)).tensor

    def output(self) -> np.ndarray:
        """Tangent vectors at 0 of what comes out, `[b, h, w, d]`."""
        with torch.no_grad():
            points = ManifoldTensor(self._apply(), self._ball, man_dim=1)
            return self._ball.logmap(None, points).tensor.numpy().transpose(0, 2, 3, 1)

    def __call__(self) -> None:
        """Computes the output and the gradients of the input and of all weights."""
        self._layer.zero_grad()
        self._points.grad = None
        self._apply().backward(self._cotangent)


def convolution(
    kernel: np.ndarray, bias: np.ndarray, tangent: np.ndarray, *, curvature: float
) -> _Layer:
    """A convolution of stride 1 that keeps height and width.

    Args:
      kernel: `[k, k, d, m]`, k odd.
      bias: `[m]`.
      tangent: tangent vectors at 0, `[b, h, w, d]`.
      curvature: c.
    """
    size, _, channels, features = kernel.shape
    ball = PoincareBall(Curvature(curvature, constraining_strategy=lambda c: c))
    layer = HConvolution2d(channels, features, size, ball, padding=size // 2)
    by_channel = kernel.transpose(2, 0, 1, 3).reshape(-1, features)
    with torch.no_grad():
        layer.weights.tensor.copy_(torch.tensor(by_channel))
        layer.bias.copy_(torch.tensor(bias))
    return _Layer(layer, ball, tangent)


def batch_norm(tangent: np.ndarray, *, curvature: float, midpoint: bool) -> _Layer:
    """A batch normalisation with the statistics of the batch, bias 0 and scale 1.

    Args:
      tangent: tangent vectors at 0, `[b, h, w, d]`.
      curvature: c.
      midpoint: normalise with the midpoint, else with the iterated Frechet mean.
    """
    ball = PoincareBall(Curvature(curvature, constraining_strategy=lambda c: c))
    return _Layer(HBatchNorm2d(tangent.shape[-1], ball, use_midpoint=midpoint), ball, tangent)
