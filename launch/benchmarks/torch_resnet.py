"""CIFAR ResNet-20 and its train step written plainly in PyTorch, as the peer of ours.

Reference: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2, with
projections as shortcuts.
"""

import os

import numpy as np
import torch
from torch import nn


class TorchResNet:
    """Trains on the same batches, again and again.

    Args:
      params: weights of `trove_jax.models.cifar_resnet(depth=20, width=16)`.
      images: `[steps, b, 32, 32, 3]`.
      labels: `[steps, b]`.
      learning_rate: of SGD.
      momentum: of SGD.
    """

    def __init__(self, params, images, labels, *, learning_rate: float, momentum: float):
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(self.threads)
        self._images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 1, 4, 2, 3)))
        self._labels = torch.from_numpy(labels.astype(np.int64))
        self._model = _ResNet(labels_to=params["output"]["bias"].size)
        _copy(params, self._model)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=learning_rate, momentum=momentum
        )

    def first_loss(self) -> float:
        """Loss of the first batch; takes no step."""
        with torch.no_grad():
            logits = self._model(self._images[0])
            return nn.functional.cross_entropy(logits, self._labels[0]).item()

    def __call__(self) -> None:
        """Takes one step with every batch."""
        for images, labels in zip(self._images, self._labels, strict=True):
            self._optimizer.zero_grad()
            nn.functional.cross_entropy(self._model(images), labels).backward()
            self._optimizer.step()


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm_0 = nn.BatchNorm2d(outputs)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        return nn.functional.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class _ResNet(nn.Module):
    def __init__(self, labels_to: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        blocks, inputs = {}, 16
        for stage, outputs in enumerate((16, 32, 64)):
            for block in range(3):
                stride = 2 if stage and not block else 1
                blocks[f"stage_{stage}_block_{block}"] = _Block(inputs, outputs, stride)
                inputs = outputs
        self.blocks = nn.ModuleDict(blocks)
        self.output = nn.Linear(64, labels_to)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks.values():
            x = block(x)
        return self.output(x.mean((2, 3)))


def _copy(params, model: _ResNet) -> None:
    """Copies all weights that do not start as ones or zeros."""

    def convolution(layer: nn.Conv2d, found) -> None:
        layer.load_state_dict({"weight": torch.tensor(found["kernel"].transpose(3, 2, 0, 1))})

    convolution(model.stem, params["stem"])
    for name, block in model.blocks.items():
        convolution(block.conv_0, params[name]["conv_0"])
        convolution(block.conv_1, params[name]["conv_1"])
        if block.shortcut is not None:
            convolution(block.shortcut[0], params[name]["shortcut"])
    found = params["output"]
    model.output.load_state_dict(
        {"weight": torch.tensor(found["kernel"].T), "bias": torch.tensor(found["bias"])}
    )
