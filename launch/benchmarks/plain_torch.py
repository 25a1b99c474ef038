"""Iterative magnitude pruning of LeNet written plainly in PyTorch, as the peer of our search.

One seed after another; a Python loop over batches; the mask is multiplied into the weights before
every forward pass.

Reference: https://github.com/facebookresearch/open_lth (pruning/pruned_model.py).
"""

import numpy as np
import torch
from torch import nn

Masks = list[torch.Tensor]


class TorchSearch:
    """Pruning from step 0, layer by layer.

    Args:
      params: initial weights per seed, `{layer: {"kernel": [s, n, m], "bias": [s, m]}}` in the
        order of the layers.
      train: inputs `[n, d]` float32 and labels `[n]`.
      test: the same.
      batches: indices of the examples of every step, `[s, steps, b]`.
      learning_rate: of Adam.
      rates: share of the living weights that a round removes, by layer.
      rounds: how often to prune.
    """

    def __init__(self, params, train, test, batches, *, learning_rate, rates, rounds):
        self._params, self._rates = params, rates
        self._train, self._test = (
            (torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64)))
            for inputs, labels in (train, test)
        )
        self._batches = torch.from_numpy(batches.astype(np.int64))
        self._learning_rate, self._rounds = learning_rate, rounds

    def __call__(self) -> np.ndarray:
        """Runs the search; gives the test accuracies in percent, `[s, rounds + 1]`."""
        return np.array([self._search(seed) for seed in range(len(self._batches))])

    def _search(self, seed: int) -> list[float]:
        model = self._initial(seed)
        masks = [torch.ones_like(layer.weight) for layer in _layers(model)]
        accuracies = [self._fit(model, masks, seed)]
        for _ in range(self._rounds):
            masks = [
                _prune(layer.weight.detach(), mask, rate)
                for layer, mask, rate in zip(_layers(model), masks, self._rates, strict=True)
            ]
            model = self._initial(seed)
            accuracies.append(self._fit(model, masks, seed))
        return accuracies

    def _initial(self, seed: int) -> nn.Sequential:
        modules: list[nn.Module] = []
        for layer in self._params.values():
            kernel, bias = (torch.tensor(layer[kind][seed]) for kind in ("kernel", "bias"))
            linear = nn.Linear(*kernel.shape)
            linear.load_state_dict({"weight": kernel.T, "bias": bias})
            modules += [linear, nn.ReLU()]
        return nn.Sequential(*modules[:-1])

    def _fit(self, model: nn.Sequential, masks: Masks, seed: int) -> float:
        inputs, labels = self._train
        optimizer = torch.optim.Adam(model.parameters(), lr=self._learning_rate)
        for batch in self._batches[seed]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(_forward(model, masks, inputs[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        inputs, labels = self._test
        with torch.no_grad():
            right = _forward(model, masks, inputs).argmax(dim=1) == labels
        return 100.0 * right.float().mean().item()


def _layers(model: nn.Sequential) -> list[nn.Linear]:
    return [module for module in model if isinstance(module, nn.Linear)]


def _forward(model: nn.Sequential, masks: Masks, inputs: torch.Tensor) -> torch.Tensor:
    for layer, mask in zip(_layers(model), masks, strict=True):
        layer.weight.data *= mask
    return model(inputs)


def _prune(weight: torch.Tensor, mask: torch.Tensor, rate: float) -> torch.Tensor:
    alive = mask.bool()
    removed = round(rate * int(alive.sum()))
    ranked = torch.where(alive, weight.abs(), torch.inf).flatten().argsort()
    pruned = mask.flatten().clone()
    pruned[ranked[:removed]] = 0.0
    return pruned.view_as(mask)
