"""Pretext tasks on the karate club, against networkx and NumPy written from the definitions."""

import itertools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest

from trove_jax import graphs, losses
from trove_jax.losses import graph_targets

CLUB = nx.karate_club_graph()
CLUB.add_node(34)  # an isolated one
N, D, K = 35, 8, 2
TOPOLOGY = graphs.topology.from_edges(np.array(CLUB.edges), N)
FEATURES = np.abs(np.random.default_rng(0).normal(size=(N, D))) * (
    np.random.default_rng(1).random((N, D)) < 0.6
)
LABELS = np.full(N, -1)
LABELS[[0, 1]] = 0
LABELS[[32, 33, 30]] = 1
GUESSES = np.array([int(CLUB.nodes[i].get("club") == "Officer") for i in range(N)])
HOPS = {i: nx.single_source_shortest_path_length(CLUB, i) for i in range(N)}


def _targets(task, **options):
    return losses.pretext_targets(
        task, TOPOLOGY, FEATURES, LABELS, classes=K, rng=np.random.default_rng(3), **options
    )


def _closeness(i, j):
    return 1.0 / max(HOPS[i][j], 1) if j in HOPS[i] else 0.0


def test_degree_classes():
    got = _targets("node_property").arrays["labels"]
    degrees = [CLUB.degree(i) for i in range(N)]
    assert got.tolist() == [0 if d <= 2 else 1 if d <= 7 else 2 for d in degrees]
    assert set(got.tolist()) == {0, 1, 2}


def test_hidden_links_are_links_and_the_others_are_not():
    found = _targets("edge_mask", fraction=0.25)
    arrays = found.arrays
    pairs = list(zip(arrays["left"].tolist(), arrays["right"].tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == 2 * round(0.25 * 78)
    for (i, j), linked in zip(pairs, arrays["wanted"], strict=True):
        assert CLUB.has_edge(i, j) == bool(linked)
        assert i < j
    hidden = {pair for pair, linked in zip(pairs, arrays["wanted"], strict=True) if linked}
    both = zip(np.asarray(TOPOLOGY.senders), np.asarray(TOPOLOGY.receivers), strict=True)
    for keep, (j, i) in zip(found.keep_edges, both, strict=True):
        assert keep == ((min(i, j), max(i, j)) not in hidden)


def test_hidden_features_are_those_of_unlabelled_nodes():
    found = _targets("attribute_mask", fraction=0.2)
    nodes = found.arrays["nodes"]
    assert len(set(nodes.tolist())) == 6
    assert np.all(LABELS[nodes] == -1)
    np.testing.assert_array_equal(np.flatnonzero(found.hide_nodes), nodes)
    np.testing.assert_allclose(
        found.arrays["values"], FEATURES / FEATURES.sum(1, keepdims=True), rtol=1e-5
    )
    fewer = _targets("attribute_mask", components=3).arrays["values"]
    rows = FEATURES / FEATURES.sum(1, keepdims=True)
    rows = rows - rows.mean(0)
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    # Up to the sign of each component, which an SVD leaves open.
    np.testing.assert_allclose(np.abs(fewer), np.abs(left * sizes)[:, :3], atol=1e-5)


def test_hops_between_nodes():
    found = _targets("pairwise_distance", sources=N)
    arrays = found.arrays
    pairs = np.stack([arrays["left"], arrays["right"]], axis=1)
    assert len(pairs) == N * (N - 1)  # every node is a source, none is a pair with itself
    for (i, j), wanted in zip(pairs.tolist(), arrays["wanted"].tolist(), strict=True):
        assert wanted == min(HOPS[i].get(j, 99), 4) - 1
    assert np.all(np.diff(arrays["wanted"]) >= 0)
    np.testing.assert_array_equal(
        np.diff(arrays["starts"]), np.bincount(arrays["wanted"], minlength=4)
    )


def test_parts_cover_the_graph_evenly_and_centres_are_their_largest_degree():
    matrix = graph_targets.adjacency(TOPOLOGY)
    part = graph_targets.partition(matrix, 4, np.random.default_rng(3))
    sizes = np.bincount(part)
    assert sizes.sum() == N
    assert sizes.max() - sizes.min() <= 1
    values = _targets("distance_to_clusters", clusters=4).arrays["values"]
    for p in range(4):
        members = np.flatnonzero(part == p)
        centre = members[np.argmax([CLUB.degree(int(i)) for i in members])]
        want = [_closeness(int(centre), i) for i in range(N)]
        np.testing.assert_allclose(values[:, p], want, rtol=1e-6)
    slip = _targets("distance_to_clusters", clusters=4, local_centres=True).arrays["values"]
    assert not np.array_equal(slip, values)


def test_likeness_is_the_cosine_of_the_most_and_least_alike_and_of_chance():
    arrays = _targets("pairwise_similarity").arrays
    lengths = np.linalg.norm(FEATURES, axis=1)
    cosines = FEATURES @ FEATURES.T / np.where(lengths > 0, lengths, 1)[:, None]
    cosines = cosines / np.where(lengths > 0, lengths, 1)[None]
    left, right = arrays["left"].reshape(N, 9), arrays["right"].reshape(N, 9)
    np.testing.assert_allclose(
        arrays["wanted"].reshape(N, 9), cosines[left, right], rtol=1e-5, atol=1e-6
    )
    assert np.all(left != right)
    for i in range(N):
        others = np.sort(np.delete(cosines[i], i))
        got = cosines[i, right[i]]
        np.testing.assert_allclose(np.sort(got[:3]), others[-3:], atol=1e-6)
        np.testing.assert_allclose(np.sort(got[3:6]), others[:3], atol=1e-6)


def test_hops_to_labelled_nodes():
    found = _targets("distance_to_labelled").arrays
    for c in range(K):
        known = np.flatnonzero(c == LABELS)
        want = [np.mean([_closeness(int(u), v) for u in known]) for v in range(N)]
        np.testing.assert_allclose(found["values"][:, c], want, rtol=1e-6)
    np.testing.assert_array_equal(found["nodes"], np.flatnonzero(LABELS < 0))


def test_a_class_without_labels_is_warned_of_and_has_no_closeness():
    labels = np.where(LABELS == 1, -1, LABELS)
    with pytest.warns(UserWarning, match="no node of class 1"):
        found = losses.pretext_targets(
            "distance_to_labelled",
            TOPOLOGY,
            FEATURES,
            labels,
            classes=K,
            rng=np.random.default_rng(3),
        )
    assert not found.arrays["values"][:, 1].any()
    assert found.arrays["values"][:, 0].any()


def test_label_context_counts_triangles_twice_and_is_uniform_where_nothing_is():
    arrays = _targets("corrected_label", guesses=GUESSES).arrays
    a = nx.to_numpy_array(CLUB, nodelist=range(N), weight=None)
    second = (a @ a > 0).astype(float)
    np.fill_diagonal(second, 0.0)
    labels = np.where(LABELS >= 0, LABELS, GUESSES)
    counts = (a + second) @ np.eye(K)[labels]
    want = counts[:34] / counts[:34].sum(1, keepdims=True)
    for values in (
        arrays["values"],
        losses.label_context(arrays["two_hop"], arrays["paths"], jnp.asarray(labels), K),
    ):
        np.testing.assert_allclose(values[:34], want, rtol=1e-5)
        np.testing.assert_array_equal(values[34], 0.5)
    context = _targets("context_label", guesses=GUESSES).arrays
    np.testing.assert_array_equal(context["values"], arrays["values"])


def test_no_withheld_label_reaches_a_target():
    """Targets are functions of what the caller shows: a known node's guess is its label."""
    wrong = 1 - GUESSES
    for task, i in itertools.product(("context_label", "corrected_label"), (0, 33)):
        other = GUESSES.copy()
        other[i] = wrong[i]
        one, two = (_targets(task, guesses=g).arrays["values"] for g in (GUESSES, other))
        np.testing.assert_array_equal(one, two)


H = jax.random.normal(jax.random.key(0), (N, 4))


@pytest.mark.parametrize("task", sorted(losses.graph_ssl.PRETEXT_TASKS))
def test_losses_equal_numpy_and_reach_the_embedding(task):
    options = {"guesses": GUESSES} if "label" in task.split("_") else {}
    made = _targets(task, **options)
    head = losses.pretext_head(jax.random.key(1), 4, made.width)
    targets = jax.tree.map(jnp.asarray, made.arrays)
    more = {"dropout": 0.0, "alpha": 0.0, "candidates": 10, "prototypes": 2}

    @jax.jit
    def loss(h, head):
        return losses.pretext_loss(task, head, h, targets, jax.random.key(2), **more)

    value, slope = jax.value_and_grad(loss)(H, head)
    h, kernel, t = np.asarray(H, np.float64), np.asarray(head["kernel"]), made.arrays
    if "left" in t:
        z, wanted = np.abs(h[t["left"]] - h[t["right"]]) @ kernel, t["wanted"]
    elif task == "node_property":
        z, wanted = h @ kernel, t["labels"]
    else:
        z, wanted = (h @ kernel)[t["nodes"]], t["values"][t["nodes"]]
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    if np.issubdtype(wanted.dtype, np.integer):
        want = -np.log(softmax[np.arange(len(wanted)), wanted]).mean()
    else:
        guessed = softmax if task in ("context_label", "corrected_label") else z
        want = np.square(guessed - wanted.reshape(guessed.shape)).mean()
    # Float32 means of some dozens to a thousand terms.
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert float(jnp.abs(slope).max()) > 1e-5


def test_the_corrected_part_adds_alpha_times_its_own_loss():
    made = _targets("corrected_label", guesses=GUESSES)
    targets = jax.tree.map(jnp.asarray, made.arrays)
    head = losses.pretext_head(jax.random.key(1), 4, K)
    values = [
        losses.pretext_loss(
            "corrected_label",
            head,
            H,
            targets,
            jax.random.key(2),
            dropout=0.0,
            alpha=alpha,
            candidates=40,
            prototypes=4,
            sample=1000,
        )
        for alpha in (0.0, 1.0, 2.0)
    ]
    np.testing.assert_allclose(values[2] - values[1], values[1] - values[0], rtol=1e-4)
    assert values[1] > values[0]


def test_drawn_pairs_take_every_distance_alike():
    """Unlike all pairs, of which most are two hops apart; an empty class is no error."""
    targets = jax.tree.map(jnp.asarray, _targets("pairwise_distance", sources=5).arrays)
    head = {"kernel": jnp.zeros((4, 4)), "bias": jnp.arange(4.0)}
    log_p = jax.nn.log_softmax(jnp.arange(4.0))
    loss = losses.pretext_loss("pairwise_distance", head, H, targets, jax.random.key(0), pairs=50)
    np.testing.assert_allclose(loss, -log_p.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "edge_masks"}, "task='edge_masks' is unknown"),
        ({"labels": np.zeros(3, int)}, "labels have shape"),
        ({"labels": np.full(N, K)}, "labels go from"),
        ({"task": "context_label"}, "guesses is None"),
        ({"guesses": np.full(N, -1)}, "guesses of shape"),
        (
            {"topology": graphs.topology.from_edges([[0, 1]], N, undirected=False)},
            "one-way links",
        ),
        (
            {"topology": graphs.topology.from_edges([[0, 1]], N, self_loops="add_remaining")},
            "self-loops",
        ),
    ],
)
def test_refuses(change, message):
    options = {"topology": TOPOLOGY, "task": "node_property", "labels": LABELS, **change}
    topology, task, labels = (options.pop(name) for name in ("topology", "task", "labels"))
    with pytest.raises(ValueError, match=message):
        losses.pretext_targets(
            task, topology, FEATURES, labels, classes=K, rng=np.random.default_rng(0), **options
        )


def test_a_head_of_another_width_is_refused():
    head = losses.pretext_head(jax.random.key(0), 5, 3)
    with pytest.raises(ValueError, match="head has shapes"):
        losses.pretext_loss("node_property", head, H, {}, jax.random.key(0))
