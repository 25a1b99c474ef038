"""DAGNN in PyTorch Geometric, as its users write it; imported by the benchmark alone."""

import torch
import torch_geometric.nn as geometric
import torch_geometric.utils as geometric_utils
from torch.nn import functional


class TorchDAGNN(torch.nn.Module):
    """A perceptron, K hops of a normalised adjacency, and a learned score for every hop."""

    def __init__(self, hop, width: int, hidden: int, classes: int, hops: int, dropout: float):
        super().__init__()
        self.hidden = torch.nn.Linear(width, hidden)
        self.output = torch.nn.Linear(hidden, classes)
        self.score = torch.nn.Linear(classes, 1)
        self.hop = hop
        self.hops, self.dropout = hops, dropout

    def forward(self, x, *graph):
        """Logits `[n, k]`; `graph` is edges `[2, e]` and weights, or a sparse matrix."""
        h = functional.dropout(x, self.dropout, self.training)
        h = torch.relu(self.hidden(h))
        h = self.output(functional.dropout(h, self.dropout, self.training))
        stack = [h]
        for _ in range(self.hops):
            stack.append(self.hop(stack[-1], *graph))
        stacked = torch.stack(stack, dim=1)
        scores = torch.sigmoid(self.score(stacked))
        return (scores * stacked).sum(dim=1)


class _EdgeHop(geometric.MessagePassing):
    def forward(self, x, edges, weight):
        return self.propagate(edges, x=x, weight=weight)

    def message(self, x_j, weight):  # pyright: ignore[reportIncompatibleMethodOverride]
        return weight[:, None] * x_j


class _MatrixHop(geometric.MessagePassing):
    def forward(self, x, matrix):
        return self.propagate(matrix, x=x)

    def message_and_aggregate(self, edge_index, x):  # pyright: ignore
        return geometric_utils.spmm(edge_index, x, reduce="sum")


class TorchEpochs:
    """One training epoch after the other: forward, backward and Adam with coupled decay.

    Args:
      topology: a `graphs.Topology` whose weights are the normalised adjacency.
      features: dense, `[n, d]` NumPy.
      labels: of the nodes of `train`.
      train: their indices.
      sizes: hidden, classes, hops and dropout of the network.
      form: `"edges"` gathers and scatters along a list of edges, `"csr"` multiplies by a compressed
        sparse matrix.
    """

    def __init__(self, topology, features, labels, train, sizes, form: str):
        torch.manual_seed(0)
        self._x = torch.from_numpy(features)
        self._labels, self._train = _long(labels), _long(train)
        senders, weight = _long(topology.senders), torch.from_numpy(topology.weight)
        if form == "edges":
            self._graph = (torch.stack([senders, _long(topology.receivers)]), weight)
        else:
            shape = (topology.n_node, topology.n_node)
            matrix = torch.sparse_csr_tensor(_long(topology.starts), senders, weight, shape)
            self._graph = (matrix,)
        hop = _EdgeHop(aggr="add") if form == "edges" else _MatrixHop(aggr="add")
        self._model = TorchDAGNN(hop, features.shape[1], *sizes)
        self._optimiser = torch.optim.Adam(self._model.parameters(), lr=0.01, weight_decay=5e-3)

    def __call__(self) -> float:
        self._model.train()
        self._optimiser.zero_grad()
        logits = self._model(self._x, *self._graph)
        loss = functional.cross_entropy(logits[self._train], self._labels)
        loss.backward()
        self._optimiser.step()
        return loss.item()


def _long(array) -> torch.Tensor:
    return torch.from_numpy(array).long()
