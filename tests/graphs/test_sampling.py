"""Neighbourhoods, samples and negatives against the whole graph, brute force and their chances."""

import collections
import itertools

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from scipy import sparse, stats

from trove_jax import graphs
from trove_jax.graphs import topology as topologies

KEY = jax.random.key(3)
N, E, BUSH = 12, 40, 3000
sample = jax.jit(graphs.sample_neighbours, static_argnames=("fanout", "replace"))
layers = jax.jit(graphs.sample_layers, static_argnames=("fanouts", "replace"))
negatives = jax.jit(graphs.negative_edges, static_argnames=("count", "self_loops"))


def directed(seed=0):
    """Self-loops and repeated edges; nothing arrives at node 11."""
    rng = np.random.default_rng(seed)
    edges = np.stack([rng.integers(0, N, E), rng.integers(0, N - 1, E)], axis=1)
    edges[0], edges[1] = (2, 2), edges[2]
    weight = rng.uniform(0.5, 2.0, E)
    return edges, topologies.from_edges(edges, N, undirected=False, edge_weight=weight)


EDGES, TOPOLOGY = directed()
SENDERS, RECEIVERS = np.asarray(TOPOLOGY.senders), np.asarray(TOPOLOGY.receivers)
DEGREE = np.bincount(RECEIVERS, minlength=N)
X = np.random.default_rng(1).standard_normal((N, 3)).astype(np.float32)
MANY = 4000
CROWDED = int(DEGREE.argmax())


def stack(topology, x, hops):
    """Features after 0, 1, ... hops, by scipy."""
    size = (topology.n_node, topology.n_node)
    places = (np.asarray(topology.receivers), np.asarray(topology.senders))
    adjacency = sparse.coo_matrix((np.asarray(topology.weight), places), size).tocsr()
    held = [np.asarray(x)]
    for _ in range(hops):
        held.append(adjacency @ held[-1])
    return np.stack(held)


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_neighbourhoods_are_those_of_networkx_and_enough_for_so_many_hops(hops):
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(N))
    graph.add_edges_from(EDGES[:, ::-1].tolist())
    far = stack(TOPOLOGY, X, hops)
    for seeds in ([5], [3, 11, 3], []):
        part = graphs.khop_neighbourhood(TOPOLOGY, seeds, hops)
        found: dict[int, int] = {}
        for seed in seeds:
            for node, hop in networkx.single_source_shortest_path_length(graph, seed, hops).items():
                found[node] = min(hop, found.get(node, hop))
        np.testing.assert_array_equal(part.nodes, sorted(found))
        np.testing.assert_array_equal(part.hops, [found[node] for node in sorted(found)])
        np.testing.assert_array_equal(part.nodes[part.seeds], seeds)
        # All edges among its nodes, repeated ones repeatedly, in the stored order of the whole.
        inside = np.flatnonzero(np.isin(SENDERS, part.nodes) & np.isin(RECEIVERS, part.nodes))
        np.testing.assert_array_equal(part.topology.order, inside)
        np.testing.assert_array_equal(part.nodes[part.topology.senders], SENDERS[inside])
        np.testing.assert_array_equal(part.topology.arrange(TOPOLOGY.weight), part.topology.weight)
        if seeds:
            near = stack(part.topology, X[part.nodes], hops)
            np.testing.assert_allclose(near[:, part.seeds], far[:, seeds], rtol=1e-5, atol=1e-5)


def test_neighbourhoods_leave_masked_edges_out():
    kept = np.arange(E) % 3 > 0
    masked = topologies.mask_edges(TOPOLOGY, jnp.asarray(kept))
    part = graphs.khop_neighbourhood(masked, np.arange(N), 1)
    np.testing.assert_array_equal(part.topology.order, np.flatnonzero(kept))
    assert part.topology.edge_mask is None
    lonely = graphs.khop_neighbourhood(topologies.from_edges([], 4), [2], 3)
    assert (lonely.topology.n_node, lonely.topology.n_edge, lonely.nodes.tolist()) == (1, 0, [2])


@pytest.mark.parametrize("replace", [False, True])
def test_samples_are_edges_of_their_nodes(replace):
    nodes = jnp.asarray([*range(N), -1, N, *[CROWDED] * MANY])
    drawn = sample(TOPOLOGY, KEY, nodes, fanout=3, replace=replace)
    assert [a.dtype for a in drawn] == [jnp.int32, jnp.int32, jnp.bool_]
    mask, edges = np.asarray(drawn.mask), np.asarray(drawn.edges)
    degree = np.concatenate([DEGREE, [0, 0], np.full(MANY, DEGREE[CROWDED])])
    count = 3 * (degree > 0) if replace else np.minimum(degree, 3)
    np.testing.assert_array_equal(mask.sum(1), count)
    assert not edges[~mask].any()
    assert not np.asarray(drawn.nodes)[~mask].any()
    for node in range(N):
        own = edges[node][mask[node]]
        np.testing.assert_array_equal(RECEIVERS[own], node)
        np.testing.assert_array_equal(SENDERS[own], np.asarray(drawn.nodes)[node][mask[node]])
        assert replace or len(set(own.tolist())) == len(own)
    # Sequences, or subsets, of three edges at one node are as likely as each other.
    first, last = TOPOLOGY.starts[CROWDED], TOPOLOGY.starts[CROWDED + 1]
    possible = range(first, last)
    of_three = itertools.product(possible, repeat=3) if replace else None
    cells = list(of_three or itertools.combinations(possible, 3))
    of_many = edges[N + 2 :] if replace else np.sort(edges[N + 2 :], axis=1)
    counts = collections.Counter(map(tuple, of_many.tolist()))
    assert set(counts) <= set(cells)
    # One false alarm in a thousand keys; the key is fixed.
    assert stats.chisquare([counts[cell] for cell in cells]).pvalue > 1e-3


def test_trees_with_room_for_all_are_the_whole_graph():
    """What a seed receives in its tree is what it receives in the graph, after one hop and two."""
    seeds = jnp.array([0, 11, -1, 7, 7])
    tree = layers(TOPOLOGY, KEY, seeds, fanouts=(DEGREE.max(), DEGREE.max() + 1))
    found = stack(tree.topology, X[np.asarray(tree.nodes)], 2)[:, :5]
    wanted = stack(TOPOLOGY, X, 2)[:, np.array([0, 11, 0, 7, 7])]
    wanted[1:, 2] = 0.0
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tree.nodes[:5], [0, 11, 0, 7, 7])
    np.testing.assert_array_equal(tree.mask[:5], [True, True, False, True, True])


def test_trees_are_topologies_of_sampled_edges():
    tree = layers(TOPOLOGY, KEY, np.arange(BUSH, dtype=np.int32) % N, fanouts=(2, 2), replace=False)
    topology = jax.tree.map(np.asarray, tree.topology)
    assert (topology.n_node, topology.n_edge, topology.n_graph) == (7 * BUSH, 6 * BUSH, BUSH)
    rebuilt = topologies.from_edges(
        np.stack([topology.senders, topology.receivers], axis=1), 7 * BUSH, undirected=False
    )
    for got, want in zip(
        jax.tree.leaves(topology.pattern), jax.tree.leaves(rebuilt.pattern), strict=True
    ):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    mask, nodes, edges = np.asarray(tree.mask), np.asarray(tree.nodes), np.asarray(tree.edges)
    np.testing.assert_array_equal(topology.edge_mask, mask[BUSH:])
    real = mask[BUSH:]
    np.testing.assert_array_equal(SENDERS[edges[real]], nodes[topology.senders[real]])
    np.testing.assert_array_equal(RECEIVERS[edges[real]], nodes[topology.receivers[real]])
    assert mask[topology.receivers[real]].all()
    np.testing.assert_array_equal(
        topology.node_graph[topology.senders], topology.node_graph[topology.receivers]
    )
    np.testing.assert_array_equal(topology.node_graph[:BUSH], np.arange(BUSH))


@pytest.mark.parametrize("replace", [False, True])
def test_trees_receive_in_expectation_what_the_graph_does(replace):
    tree = layers(TOPOLOGY, KEY, np.full(BUSH, CROWDED, np.int32), fanouts=(2, 2), replace=replace)
    found = stack(tree.topology, X[np.asarray(tree.nodes)], 2)[:, :BUSH]
    wanted = stack(TOPOLOGY, X, 2)[:, CROWDED]
    error = found.std(axis=1) / np.sqrt(BUSH)
    # Six numbers within 4.5 standard errors: one false alarm in 20,000 keys; the key is fixed.
    assert (np.abs(found.mean(axis=1) - wanted)[1:] < 4.5 * error[1:]).all()


def test_samples_of_a_graph_without_edges():
    empty = topologies.from_edges([], 3)
    tree = layers(empty, KEY, jnp.array([1]), fanouts=(2,))
    assert (tree.mask.tolist(), tree.topology.weight.tolist()) == ([True, False, False], [0.0, 0.0])


@pytest.mark.parametrize(("n_node", "self_loops"), [(N, False), (6, True)])
def test_negatives_are_the_free_pairs_evenly(n_node, self_loops):
    """12 nodes are few edges, drawn again; 6 are many, drawn by number."""
    rng = np.random.default_rng(4)
    edges = rng.integers(0, n_node, (E, 2))
    topology = topologies.from_edges(edges, n_node, undirected=False)
    topology = topologies.mask_edges(topology, jnp.arange(E) > 4)
    free = np.ones((n_node, n_node), bool) if self_loops else ~np.eye(n_node, dtype=bool)
    free[edges[:, 0], edges[:, 1]] = False
    pairs = np.asarray(negatives(topology, KEY, count=6000, self_loops=self_loops))
    assert pairs.dtype == np.int32
    counts = np.zeros((n_node, n_node))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    assert not counts[~free].any()
    # One false alarm in a thousand keys; the key is fixed.
    assert stats.chisquare(counts[free]).pvalue > 1e-3


def test_negatives_under_vmap_are_those_of_each_key():
    keys = jax.random.split(KEY, 2)
    each = jax.vmap(graphs.negative_edges, in_axes=(None, 0, None))
    masked = topologies.mask_edges(TOPOLOGY, jnp.arange(E) > 4)
    together = jax.jit(each, static_argnums=2)(masked, keys, 6000)
    for i in range(2):
        alone = negatives(masked, keys[i], count=6000, self_loops=False)
        np.testing.assert_array_equal(together[i], alone)
    assert (together[0] != together[1]).any()


def test_negatives_of_graphs_that_are_nearly_complete_and_complete():
    pairs = np.array(list(itertools.permutations(range(5), 2)))
    without = np.concatenate([pairs[:-1], pairs[:1]])
    nearly = topologies.from_edges(without, 5, undirected=False)
    found = negatives(nearly, KEY, count=30)
    np.testing.assert_array_equal(found, np.tile(pairs[-1], (30, 1)))
    complete = topologies.from_edges(pairs, 5, undirected=False)
    np.testing.assert_array_equal(negatives(complete, KEY, count=30), np.full((30, 2), -1))
    with_loops = np.asarray(negatives(complete, KEY, count=30, self_loops=True))
    np.testing.assert_array_equal(with_loops[:, 0], with_loops[:, 1])
    assert graphs.negative_edges(complete, KEY, 0).shape == (0, 2)


def test_edges_are_looked_up():
    first, second = np.meshgrid(np.arange(-1, N + 1), np.arange(-1, N + 1), indexing="ij")
    wanted = np.zeros(first.shape, bool)
    wanted[EDGES[:, 0] + 1, EDGES[:, 1] + 1] = True
    np.testing.assert_array_equal(jax.jit(graphs.has_edges)(TOPOLOGY, first, second), wanted)
    empty = topologies.from_edges([], 2)
    assert not graphs.has_edges(empty, jnp.array([0]), jnp.array([1])).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: graphs.khop_neighbourhood(t, [0.5], 1), "float64; a vector of integers"),
        (lambda t: graphs.khop_neighbourhood(t, [0, N], 1), "seeds go from 0 to 12; 0 to 11"),
        (lambda t: graphs.khop_neighbourhood(t, [0], -1), "hops=-1 is negative"),
        (lambda t: graphs.sample_neighbours(t, KEY, jnp.zeros(1), 1), "nodes have shape"),
        (lambda t: graphs.sample_neighbours(t, KEY, jnp.array([0]), 0), "fanout=0 must be"),
        (lambda t: graphs.sample_layers(t, KEY, jnp.array([0]), ()), "fanouts is empty"),
        (lambda t: graphs.negative_edges(t, KEY, -1), "count=-1 is negative"),
        (lambda t: graphs.negative_edges(topologies.from_edges([], 0), KEY, 1), "no nodes"),
        (lambda t: graphs.has_edges(t, jnp.array([0]), jnp.array([0.0])), "integers of one shape"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(TOPOLOGY)


def test_masked_edges_are_not_sampled_from():
    masked = topologies.mask_edges(TOPOLOGY, jnp.arange(E) > 2)
    with pytest.raises(ValueError, match="masked edges; build it without them"):
        graphs.sample_neighbours(masked, KEY, jnp.array([0]), 1)
