"""Batches of graphs: what comes back, and that padding reaches nothing."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_jax import data, graphs
from trove_jax.graphs import topology as topologies

BUDGET = graphs.Budget(n_node=24, n_edge=40, n_graph=5)
LOOPED = {"self_loops": "add_remaining", "norm": "sym"}


def graph(seed, n, m):
    """Features of several kinds; edges go both ways, so that limits of propagation exist."""
    rng = np.random.default_rng(seed)
    senders, receivers = rng.integers(0, n, (2, m // 2)) if n else np.zeros((2, 0), int)
    m = 2 * len(senders)
    return jraph.GraphsTuple(
        nodes={"x": rng.standard_normal((n, 3)).astype(np.float32), "kind": rng.integers(0, 9, n)},
        edges=(rng.standard_normal((m, 2)).astype(np.float16), np.arange(m) % 2 == 0),
        globals=rng.integers(0, 5, (1, 2)).astype(np.int16),
        senders=np.concatenate([senders, receivers]).astype(np.int32),
        receivers=np.concatenate([receivers, senders]).astype(np.int32),
        n_node=np.array([n], np.int32),
        n_edge=np.array([m], np.int32),
    )


def sizes(seed):
    """Four graphs with 12 nodes and 20 edges; the second has no nodes, the third no edges."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 8)), 2 * int(rng.integers(0, 10))
    return [
        graph(seed, n, m),
        graph(1, 0, 0),
        graph(seed + 1, 3, 0),
        graph(seed + 2, 9 - n, 20 - m),
    ]


SET = sizes(0)


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("padded", [False, True])
def test_graphs_come_back_as_they_were(padded):
    found = graphs.batch(SET)
    if padded:
        found = graphs.pad(found, **BUDGET._asdict())
        assert (found.nodes["x"].shape, found.edges[0].shape) == ((24, 3), (40, 2))
        assert (found.senders.shape, found.globals.shape) == ((40,), (5, 2))
    back = graphs.unbatch(found, padded=padded)
    assert len(back) == 4
    for got, want in zip(back, SET, strict=True):
        assert_same(got, want)


def test_fields_that_are_not_there_stay_away():
    bare = [each._replace(nodes=None, edges=None, globals=None) for each in SET]
    found = graphs.pad(graphs.batch(bare), **BUDGET._asdict())
    assert found.nodes is found.edges is found.globals is None
    for got, want in zip(graphs.unbatch(found, padded=True), bare, strict=True):
        assert_same(got, want)


def test_batches_are_full_ordered_complete_and_of_one_shape():
    many = [graph(i, 1 + i % 7, 2 * (i % 5)) for i in range(17)]
    order = np.random.default_rng(0).permutation(17)[:15]
    batches = list(graphs.padded_batches(many, BUDGET, order=order, **LOOPED))
    index = [each.index[each.index >= 0] for each in batches]
    np.testing.assert_array_equal(np.concatenate(index), order)
    assert len({tuple(np.shape(leaf) for leaf in jax.tree.leaves(each)) for each in batches}) == 1
    assert len({jax.tree.structure(each.topology) for each in batches}) == 1
    for number, each in enumerate(batches):
        for got, place in zip(graphs.unbatch(each.graph, padded=True), index[number], strict=True):
            assert_same(got, many[place])
        np.testing.assert_array_equal(
            each.node_mask, np.arange(24) < sum(1 + i % 7 for i in index[number])
        )
        if number + 1 < len(batches):
            together = [many[i] for i in [*index[number], index[number + 1][0]]]
            used = [sum(int(g.n_node[0]) for g in together), sum(len(g.senders) for g in together)]
            assert used[0] >= 24 or used[1] > 40 or len(together) >= 5
    assert list(graphs.padded_batches([], BUDGET)) == []


def test_any_graphs_fit_the_budget_made_for_so_many():
    many = [graph(i, 1 + i % 7, 2 * (i % 5)) for i in range(12)]
    budget = graphs.padding_budget(many, 4)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        found = list(graphs.padded_batches(many, budget, order=order))
        assert len(found) == 3
        assert all((each.index >= 0).sum() == 4 for each in found)
    heavy = sorted(range(12), key=lambda i: -int(many[i].n_node[0]))[:4]
    smaller = budget._replace(n_node=budget.n_node - 1)
    assert len(list(graphs.padded_batches(many, smaller, order=heavy))) == 2


def everything(topology, x, edge_features, part, g):
    """What graph networks are made of, node by node and graph by graph, and gradients."""
    logits = topology.arrange(edge_features)

    def call(x):
        nodes = [
            graphs.propagate(topology, x),
            graphs.propagate(topology, x, reduce="mean"),
            graphs.propagate(topology, x, reduce="max"),
            graphs.propagate(topology, x, reduce="softmax", logits=logits[:, 0]),
            graphs.stationary_features(topology, x, part),
        ]
        pooled = [graphs.pool(topology, x, reduce=reduce) for reduce in ("sum", "mean", "max")]
        return jnp.stack(nodes), jnp.stack(pooled)

    out, pull = jax.vjp(call, x)
    return out[0], out[1], pull((g[0], g[1]))[0], topology.in_degree()


compiled = jax.jit(everything)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000))
def test_padding_reaches_nothing_real(seed):
    """Padded and not, with NaN in padding nodes and edges, where no real value may show it."""
    members = sizes(seed)
    plain = graphs.batch(members)
    padded = next(graphs.padded_batches(members, BUDGET, **LOOPED))
    n, m, g = int(plain.n_node.sum()), int(plain.n_edge.sum()), len(members)
    small, large = topologies.build(plain, **LOOPED), padded.topology
    x = np.full((24, 3), np.nan, np.float32)
    x[:n] = plain.nodes["x"]
    features = np.full((40, 2), np.nan, np.float32)
    features[:m] = plain.edges[0]
    rng = np.random.default_rng(seed)
    on_nodes, on_graphs = np.zeros((5, 24, 3), np.float32), np.zeros((3, 5, 3), np.float32)
    on_nodes[:, :n] = rng.standard_normal((5, n, 3))
    on_graphs[:, :g] = rng.standard_normal((3, g, 3))
    wanted = compiled(
        small,
        x[:n],
        features[:m],
        graphs.components(small),
        (on_nodes[:, :n], on_graphs[:, :g]),
    )
    part = graphs.components(large)
    found = compiled(large, x, features, part, (on_nodes, on_graphs))
    np.testing.assert_allclose(found[0][:, :n], wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1][:, :g], wanted[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[2][:n], wanted[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[3][:n], wanted[3])
    assert not found[3][n:].any()


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_pooling_is_graph_by_graph(reduce):
    topology = topologies.build(graphs.batch(SET))
    x = np.random.default_rng(2).standard_normal((topology.n_node, 2, 2)).astype(np.float32)
    found = graphs.pool(topology, x, reduce=reduce)
    ends = np.cumsum([0, *(int(each.n_node[0]) for each in SET)])
    for i in range(4):
        rows = x[ends[i] : ends[i + 1]]
        want = getattr(np, reduce)(rows, axis=0) if len(rows) else np.zeros((2, 2))
        np.testing.assert_allclose(found[i], want, rtol=1e-5, atol=1e-6)
    half = graphs.pool(topology, jnp.asarray(x, jnp.bfloat16), reduce=reduce)
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["tu_mutag", "mol_esol"])
def test_sets_of_graphs_in_batches(name, data_dir):
    """Numbers of links and sums of features of every graph, found from padded batches."""
    found = data.load_graphs(name, data_dir=data_dir).graphs[:60]
    links = np.zeros(60)
    kinds = np.zeros(60)
    key = next(iter(found[0].nodes))
    for each in graphs.padded_batches(found, graphs.padding_budget(found, 16)):
        real = each.index >= 0
        degree = each.topology.in_degree().astype(jnp.float32)
        kind = jnp.asarray(each.graph.nodes[key], jnp.float32)
        pooled = np.asarray(graphs.pool(each.topology, jnp.stack([degree, kind], axis=1)))
        links[each.index[real]], kinds[each.index[real]] = pooled[real].T
    np.testing.assert_array_equal(links, [len(each.senders) for each in found])
    np.testing.assert_array_equal(kinds, [each.nodes[key].sum() for each in found])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graphs.batch([]), "graphs is empty"),
        (
            lambda: graphs.batch([SET[0], SET[0]._replace(edges=None)]),
            r"graph 1 has nothing at \['edges'\]\[0\], which graph 0",
        ),
        (
            lambda: graphs.batch([SET[0], SET[0]._replace(globals=np.zeros((1, 2)))]),
            r"graph 1 has float64 rows \[2\] at \['globals'\]",
        ),
        (
            lambda: graphs.batch([SET[0]._replace(globals=np.zeros((2, 2)))]),
            "graph 0 has 2 rows of globals; 1 are wanted",
        ),
        (
            lambda: graphs.batch([SET[3]._replace(senders=np.zeros(1, int))]),
            r"graph 0 has senders of shape \(1,\); \(\d+,\)",
        ),
        (lambda: graphs.pad(SET[2], n_node=3, n_edge=9, n_graph=2), "n_node=3 is too small"),
        (
            lambda: graphs.pad(SET[3], n_node=30, n_edge=1, n_graph=2),
            "n_edge=1 is too small; the graphs have",
        ),
        (lambda: graphs.pad(SET[2], n_node=30, n_edge=9, n_graph=1), "padding needs 1 more"),
        (lambda: graphs.unbatch(graph(0, 0, 0), padded=True), "has no nodes"),
        (lambda: graphs.padding_budget([], 1), "graphs is empty"),
        (lambda: graphs.padding_budget(SET, 0), "graphs_per_batch=0"),
        (
            lambda: graphs.padded_batches([*SET, graph(0, 24, 2)], BUDGET),
            "graph 4 with 24 nodes and 2 edges does not fit Budget",
        ),
        (lambda: graphs.padded_batches([graphs.batch(SET)], BUDGET), "graph 0 is 4 graphs"),
        (lambda: graphs.padded_batches(SET, BUDGET, order=[0, 4]), "from 0 to 4; 0 to 3"),
        (lambda: graphs.padded_batches(SET, BUDGET, order=[0.5]), "float64; a vector of integers"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_pooling_refuses():
    topology = topologies.build(SET[2])
    with pytest.raises(ValueError, match="reduce='min' is unknown"):
        graphs.pool(topology, jnp.zeros(3), reduce="min")
    with pytest.raises(ValueError, match=r"x has shape \(2,\); \(3, ...\)"):
        graphs.pool(topology, jnp.zeros(2))
    with pytest.raises(ValueError, match="x has dtype int"):
        graphs.pool(topology, jnp.zeros(3, int))
