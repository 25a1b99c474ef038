"""Topologies against scipy and networkx; everything that is refused; padding."""

import itertools

import jax
import jax.numpy as jnp
import jraph
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from trove_jax.graphs import topology as topologies
from trove_jax.graphs.topology import build, from_edges, mask_edges, normalise

NORMS = ("sym", "rw", "col", 0.3, None)


def graph(senders, receivers, n_node, n_edge=None):
    return jraph.GraphsTuple(
        nodes=None,
        edges=None,
        globals=None,
        senders=np.asarray(senders),
        receivers=np.asarray(receivers),
        n_node=np.atleast_1d(n_node),
        n_edge=np.atleast_1d(len(senders) if n_edge is None else n_edge),
    )


def matrix(topology):
    places = (np.asarray(topology.receivers), np.asarray(topology.senders))
    size = (topology.n_node, topology.n_node)
    return sparse.coo_matrix((np.asarray(topology.weight, float), places), size).toarray()


def normalised(adjacency, norm):
    """The formula on a dense matrix, with row sums on the left and column sums on the right."""
    r = {"sym": 0.5, "rw": 0.0, "col": 1.0}.get(norm, norm)
    if r is None:
        return adjacency
    with np.errstate(divide="ignore"):
        left = np.where(adjacency.sum(1) > 0, adjacency.sum(1) ** (r - 1.0), 0.0)
        right = np.where(adjacency.sum(0) > 0, adjacency.sum(0) ** -r, 0.0)
    return left[:, None] * adjacency * right


def directed(seed=0, n_node=9, n_edge=25):
    """Self-loops, repeated edges and an isolated node 8."""
    rng = np.random.default_rng(seed)
    senders, receivers = rng.integers(0, n_node - 1, (2, n_edge))
    senders[:2], receivers[:2] = (1, 1), (2, 2)
    senders[2] = receivers[2] = 3
    weight = rng.uniform(0.5, 2.0, n_edge)
    adjacency = np.zeros((n_node, n_node))
    np.add.at(adjacency, (receivers, senders), weight)
    return senders, receivers, weight, adjacency


@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_the_formula_on_a_directed_graph(norm):
    senders, receivers, weight, adjacency = directed()
    found = build(graph(senders, receivers, 9), edge_weight=weight, norm=norm)
    # Weights are rounded to float32 once.
    np.testing.assert_allclose(matrix(found), normalised(adjacency, norm), rtol=2e-7, atol=1e-9)
    plain = build(graph(senders, receivers, 9), edge_weight=weight)
    got = jax.jit(normalise, static_argnums=1)(plain, norm)
    np.testing.assert_allclose(got, found.weight, rtol=1e-6)
    slopes = jax.grad(lambda w: jnp.sum(normalise(plain.with_weight(w), norm) ** 2))(got)
    assert np.isfinite(slopes).all()


def test_sums_of_rows_and_columns():
    senders, receivers, weight, adjacency = directed()
    rows = matrix(build(graph(senders, receivers, 9), edge_weight=weight, norm="rw")).sum(1)
    columns = matrix(build(graph(senders, receivers, 9), edge_weight=weight, norm="col")).sum(0)
    np.testing.assert_allclose(rows, adjacency.any(1), atol=1e-6)
    np.testing.assert_allclose(columns, adjacency.any(0), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(list(itertools.combinations_with_replacement(range(6), 2)))))
def test_undirected_graphs_are_networkx(edges):
    nx_graph = networkx.Graph()
    nx_graph.add_nodes_from(range(6))
    nx_graph.add_edges_from(edges)
    found = from_edges(sorted(edges), 6)
    want = networkx.to_numpy_array(nx_graph)
    np.testing.assert_array_equal(matrix(found), want)
    np.testing.assert_array_equal(found.in_degree(), (want > 0).sum(1))
    laplacian = networkx.normalized_laplacian_matrix(nx_graph).toarray()
    has_edges = np.diag((want.sum(1) > 0).astype(float))
    np.testing.assert_allclose(
        matrix(from_edges(sorted(edges), 6, norm="sym")), has_edges - laplacian, atol=1e-6
    )


def test_self_loops():
    edges = [[0, 1], [1, 1], [1, 2]]
    weight = [2.0, 5.0, 3.0]
    base = np.array([[0, 2, 0, 0], [2, 5, 3, 0], [0, 3, 0, 0], [0, 0, 0, 0]])
    kept = from_edges(edges, 4, edge_weight=weight)
    np.testing.assert_array_equal(matrix(kept), base)
    added = from_edges(edges, 4, edge_weight=weight, self_loops="add_remaining")
    np.testing.assert_array_equal(matrix(added), base + np.diag([1, 0, 1, 1]))
    removed = from_edges(edges, 4, edge_weight=weight, self_loops="remove")
    np.testing.assert_array_equal(matrix(removed), base - np.diag([0, 5, 0, 0]))
    again = from_edges(edges, 4, self_loops="add_remaining", norm="sym")
    want = normalised((base > 0) + np.diag([1, 0, 1, 1]), "sym")
    np.testing.assert_allclose(matrix(again), want, rtol=1e-6)


def test_duplicates():
    edges, weight = [[0, 1], [2, 1], [0, 1], [0, 1]], [1.0, 2.0, 4.0, 8.0]
    found = {
        name: from_edges(edges, 3, undirected=False, edge_weight=weight, duplicates=name)
        for name in ("keep", "sum", "unique")
    }
    assert [t.n_edge for t in found.values()] == [4, 2, 2]
    assert [matrix(t)[1].tolist() for t in found.values()] == [[13, 0, 2], [13, 0, 2], [1, 0, 2]]
    np.testing.assert_array_equal(found["sum"].order, [0, 1])
    with pytest.raises(ValueError, match="2 edges repeat an earlier one, the first from 0 to 1"):
        from_edges(edges, 3, undirected=False, duplicates="error")
    assert from_edges(edges[:2], 3, undirected=False, duplicates="error").n_edge == 2


def test_values_of_the_caller_follow_their_edges():
    edges = np.array([[3, 0], [1, 2], [2, 2]])
    found = from_edges(edges, 4, self_loops="add_remaining")
    labels = found.arrange(np.array([10.0, 20.0, 30.0], np.float32), loops=-1.0)
    for sender, receiver, label in zip(found.senders, found.receivers, labels, strict=True):
        rows = [i for i, ends in enumerate(edges) if set(ends) == {sender, receiver}]
        assert label == ((rows[0] + 1) * 10 if rows else -1)
    two = found.arrange(np.arange(6.0, dtype=np.float32).reshape(3, 2))
    assert two.shape == (found.n_edge, 2)
    nothing = from_edges([], 2, self_loops="add_remaining").arrange(np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(nothing, np.zeros((2, 3)))


def test_empty_graphs():
    for n_node in (0, 3):
        found = from_edges([], n_node, norm="sym")
        assert (found.n_edge, found.n_node, found.starts.tolist()) == (
            0,
            n_node,
            [0] * (n_node + 1),
        )
    none = graph([], [], 3)._replace(senders=None, receivers=None)
    np.testing.assert_array_equal(matrix(build(none, self_loops="add_remaining")), np.eye(3))


def test_graphs_side_by_side():
    found = build(graph([0, 2], [1, 3], [2, 1, 2], [1, 0, 1]))
    np.testing.assert_array_equal(found.node_graph, [0, 0, 1, 2, 2])
    assert (found.n_node, found.n_graph) == (5, 3)


@pytest.mark.parametrize("self_loops", ["none", "add_remaining", "remove"])
@pytest.mark.parametrize("duplicates", ["keep", "sum", "unique"])
def test_padding_changes_no_real_entry_and_no_shape(self_loops, duplicates):
    options = {"self_loops": self_loops, "duplicates": duplicates, "norm": "sym"}
    shapes = set()
    for seed in range(2):
        senders, receivers, weight, _ = directed(seed)
        plain = graph(senders, receivers, [9])
        padded = jraph.pad_with_graphs(plain, n_node=12, n_edge=30, n_graph=4)
        wide = np.concatenate([weight, np.full(5, 7.0)])
        found = build(padded, edge_weight=wide, padded=True, **options)
        want = matrix(build(plain, edge_weight=weight, **options))
        np.testing.assert_allclose(matrix(found)[:9, :9], want, rtol=1e-6)
        assert not matrix(found)[9:].any()
        np.testing.assert_array_equal(found.in_degree()[:9], _degrees(plain, weight, options))
        assert not found.in_degree()[9:].any()
        shapes.add(tuple(a.shape for a in jax.tree.leaves(found)))
    assert len(shapes) == 1


def _degrees(plain, weight, options):
    return build(plain, edge_weight=weight, **options).in_degree()


@pytest.mark.parametrize("norm", NORMS)
def test_removing_edges_is_building_without_them(norm):
    senders, receivers, weight, _ = directed()
    full = build(graph(senders, receivers, 9), edge_weight=weight)
    keep = np.random.default_rng(2).random(25) < 0.6
    found = jax.jit(mask_edges, static_argnames="norm")(full, full.arrange(keep), norm=norm)
    want = build(graph(senders[keep], receivers[keep], 9), edge_weight=weight[keep], norm=norm)
    np.testing.assert_allclose(matrix(found), matrix(want), rtol=1e-6)
    np.testing.assert_array_equal(found.in_degree(), want.in_degree())
    fewer = mask_edges(found, jnp.asarray(full.weight) > 1, norm=norm)
    kept = np.asarray(fewer.edge_mask)
    np.testing.assert_array_equal(kept, np.asarray(full.arrange(keep)) & (full.weight > 1))
    assert not np.asarray(found.with_weight(jnp.full(25, jnp.nan)).weight[~found.edge_mask]).any()


def test_one_program_for_topologies_of_equal_size():
    traces = []

    @jax.jit
    def degree(topology):
        traces.append(topology)
        return topology.in_degree()

    for seed in range(3):
        senders, receivers, *_ = directed(seed)
        total = degree(build(graph(senders, receivers, 9))).sum()
        assert total == 25
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"senders": np.array([0, 3])}, {}, "senders of edge 1 is 3; 0 to 2 is wanted"),
        ({"receivers": np.array([-1, 0])}, {}, "receivers of edge 0 is -1; 0 to 2 is wanted"),
        ({"senders": np.array([0.0, 1.0])}, {}, "senders have dtype float64"),
        ({"senders": np.array([0])}, {}, r"senders have shape \(1,\); \(2,\) is wanted"),
        ({"n_node": np.array([-3])}, {}, r"n_node is \[-3\]; a vector with one count"),
        ({"n_edge": np.array([[2]])}, {}, "n_edge is"),
        ({}, {"edge_weight": [1.0]}, r"edge_weight has shape \(1,\); \(2,\)"),
        ({}, {"edge_weight": [1.0, np.nan]}, r"edge_weight\[1\] is nan; finite"),
        ({}, {"edge_weight": [1.0, -1.0], "norm": "rw"}, "the weights that go in at node 2"),
        ({}, {"norm": "symmetric"}, "norm='symmetric' is unknown; use 'sym', 'rw', 'col'"),
        ({}, {"norm": 1.5}, "norm=1.5 is unknown"),
        ({}, {"self_loops": "add"}, "self_loops='add' is unknown; use one of"),
        ({}, {"duplicates": "drop"}, "duplicates='drop' is unknown; use one of"),
    ],
)
def test_graphs_that_are_refused(changes, options, message):
    with pytest.raises(ValueError, match=message):
        build(graph([0, 1], [1, 2], 3)._replace(**changes), **options)


def test_lists_of_edges_that_are_refused():
    with pytest.raises(ValueError, match=r"edges have shape \(2, 3\)"):
        from_edges(np.zeros((2, 3), int), 4)
    with pytest.raises(ValueError, match=r"edges\[:, 1\] of edge 0 is 4; 0 to 3"):
        from_edges([[0, 4]], 4)
    with pytest.raises(ValueError, match="n_node=-1 is negative"):
        from_edges([], -1)
    found = from_edges([[0, 1]], 2)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\); \(2,\)"):
        found.with_weight(jnp.ones(3))
    with pytest.raises(ValueError, match=r"keep has shape \(2,\) and dtype int32"):
        topologies.mask_edges(found, jnp.ones(2, jnp.int32))
