"""Graph convolutions against PyTorch Geometric, with its parameters.

The graph is directed where nothing is normalised; PyG takes the degrees of receivers on both sides,
which is the same in a symmetric graph only.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax import graphs, layers

torch = pytest.importorskip("torch", reason="needs the extra bench")
pyg = pytest.importorskip("torch_geometric.nn", reason="needs the extra bench")

N, D, F = 12, 5, 6
# Directed, without self-loops and duplicates; nodes 10 and 11 receive nothing.
EDGES = np.array(
    sorted({(int(j), int(i)) for j, i in np.random.default_rng(0).integers(0, 10, (40, 2))})
)
EDGES = EDGES[EDGES[:, 0] != EDGES[:, 1]]
BOTH_WAYS = np.unique(np.concatenate([EDGES, EDGES[:, ::-1]]), axis=0)
X = np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)


def _theirs(conv, edges):
    with torch.no_grad():
        for p in conv.parameters():
            p.copy_(torch.from_numpy(np.random.default_rng(2).normal(size=tuple(p.shape))))
        out = conv(torch.from_numpy(X), torch.from_numpy(edges.T.copy())).numpy()
    return out, {name: p.detach().numpy() for name, p in conv.named_parameters()}


def _kernel(p, name):
    return {"kernel": p[f"{name}.weight"].T}


def _linear(p, name):
    return {**_kernel(p, name), "bias": p[f"{name}.bias"]}


def _attention(p):
    return {
        "linear": _kernel(p, "lin"),
        "sender": p["att_src"][0],
        "receiver": p["att_dst"][0],
        "bias": p["bias"],
    }


def _mlp():
    return torch.nn.Sequential(torch.nn.Linear(D, 4), torch.nn.ReLU(), torch.nn.Linear(4, F))


CASES = {
    "gcn": (
        layers.GCNConv(F),
        lambda: pyg.GCNConv(D, F),
        lambda p: {"linear": _kernel(p, "lin"), "bias": p["bias"]},
    ),
    "sgc": (
        layers.SGConv(F, hops=3),
        lambda: pyg.SGConv(D, F, K=3),
        lambda p: {"linear": _kernel(p, "lin"), "bias": p["lin.bias"]},
    ),
    "appnp": (layers.APPNPConv(5, 0.2), lambda: pyg.APPNP(5, 0.2), lambda p: {}),
    "sage_mean": (
        layers.SAGEConv(F),
        lambda: pyg.SAGEConv(D, F),
        lambda p: {
            "own": {**_kernel(p, "lin_r"), "bias": p["lin_l.bias"]},
            "neighbours": _kernel(p, "lin_l"),
        },
    ),
    "gin": (
        layers.GINConv(F, hidden=4, learn_epsilon=True),
        lambda: pyg.GINConv(_mlp(), train_eps=True),
        lambda p: {
            "epsilon": p["eps"].reshape(()),
            "first": _kernel(p, "nn.0"),
            "first_bias": p["nn.0.bias"],
            "second": _linear(p, "nn.2"),
        },
    ),
    "gat": (
        layers.GATConv(F, heads=3),
        lambda: pyg.GATConv(D, F // 3, heads=3),
        _attention,
    ),
    "gat_mean": (
        layers.GATConv(F, heads=2, concatenate=False),
        lambda: pyg.GATConv(D, F, heads=2, concat=False),
        _attention,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_pyg(name):
    conv, peer, params = CASES[name]
    edges = EDGES if conv.TOPOLOGY["norm"] is None else BOTH_WAYS
    want, p = _theirs(peer(), edges)
    topology = graphs.topology.from_edges(edges, N, undirected=False, **conv.TOPOLOGY)
    variables = {"params": jax.tree.map(jnp.asarray, params(p))}
    got = conv.apply(variables, topology, jnp.asarray(X))
    # Float32 sums of a few dozen terms on both sides.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5 * np.abs(want).max())
