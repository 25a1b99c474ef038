"""Patterns against their definitions pair by pair, and plans against the patterns."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from trove_jax.kernels import attention_pattern as patterns
from trove_jax.kernels import attention_plan
from trove_jax.kernels.attention_plan import live_blocks, plan, square_lists

N = 150


def big_bird_pair(i, j):
    """What a pair of positions in blocks of 16 sees without draws."""
    (a, b), last = (i // 16, j // 16), (N - 1) // 16
    return a in (0, last) or b in (0, last) or abs(a - b) <= 1


DEFINITIONS = {
    "causal": (patterns.causal(), lambda i, j: j <= i),
    "local": (patterns.local_blocks(7), lambda i, j: i // 7 == j // 7),
    "window": (patterns.sliding_window(5, 2), lambda i, j: i - 5 <= j <= i + 2),
    "global": (patterns.global_tokens(3), lambda i, j: i < 3 or j < 3),
    "fixed": (
        patterns.fixed_blocks(20, 4),
        lambda i, j: i // 20 == j // 20 or j % 20 >= 16 or j % 20 == 0,
    ),
    "big bird": (patterns.big_bird(N, 16, random=0), big_bird_pair),
    "and": (
        patterns.causal() & patterns.local_blocks(40),
        lambda i, j: j <= i and i // 40 == j // 40,
    ),
    "or": (
        patterns.sliding_window(3, 3) | patterns.global_tokens(1),
        lambda i, j: abs(i - j) <= 3 or i == 0 or j == 0,
    ),
}
SEEN_BY_HEADS = {
    **{name: pattern for name, (pattern, _) in DEFINITIONS.items()},
    "random": patterns.big_bird(N, 16, heads=2),
    "random and causal": patterns.big_bird(N, 16, random=2) & patterns.causal(),
}


def seen(pattern, heads=2):
    ids, head = np.arange(N), np.arange(heads)[:, None, None]
    return np.broadcast_to(
        pattern.visible(ids[None, :, None], ids[None, None], head), (heads, N, N)
    )


@pytest.mark.parametrize("name", DEFINITIONS)
def test_patterns_equal_their_definitions(name):
    pattern, pair = DEFINITIONS[name]
    wanted = [[pair(i, j) for j in range(N)] for i in range(N)]
    np.testing.assert_array_equal(seen(pattern, 1)[0], wanted)


@pytest.mark.parametrize("name", SEEN_BY_HEADS)
def test_jax_sees_what_numpy_sees(name):
    ids, pattern = jnp.arange(N, dtype=jnp.int32), SEEN_BY_HEADS[name]
    for head in range(2):
        found = pattern.visible(ids[:, None], ids[None], jnp.int32(head))
        np.testing.assert_array_equal(found, seen(pattern)[head])
        known = pattern.looked_up(ids[:, None], jnp.int32(head))
        assert len(known) == pattern.terms
        assert all(x.shape == (N, 1) for x in known)


def test_random_blocks_are_new_ones():
    pattern, none = patterns.big_bird(N, 16, heads=3, seed=1), patterns.big_bird(N, 16, random=0)
    added = (seen(pattern, 3) & ~seen(none, 3))[:, ::16, ::16]
    counts = added.sum(-1)
    # Ten blocks: two are always seen, and the query's own with its neighbours.
    assert counts[:, 1:-1].tolist() == [[3] * 8] * 3
    assert not counts[:, [0, -1]].any()
    assert (added[0] != added[1]).any()
    assert patterns.big_bird(N, 16, heads=3, seed=1) == pattern
    np.testing.assert_array_equal(
        seen(patterns.big_bird(N, 16, heads=3, seed=1), 3), seen(pattern, 3)
    )


@pytest.mark.parametrize("name", SEEN_BY_HEADS)
@pytest.mark.parametrize("blocks", [(8, 8), (16, 32), (13, 50)])
def test_live_blocks_are_those_with_a_visible_pair(name, blocks):
    """No block is missed; a conjunction may take one too many, its parts alone do not."""
    pattern = SEEN_BY_HEADS[name]
    full = seen(pattern, 2 if pattern.per_head else 1)
    live = live_blocks(pattern, N, N, 2, *blocks)
    for head, i, j in itertools.product(*map(range, live.shape)):
        rows, columns = (
            slice(s * size, (s + 1) * size) for s, size in zip((i, j), blocks, strict=True)
        )
        wanted = full[head, rows, columns].any()
        assert live[head, i, j] >= wanted
        if " and" not in name and name != "and":
            assert live[head, i, j] == wanted


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        (patterns.causal(), "spans"),
        (patterns.sliding_window(10, 10), "groups"),
        (patterns.sliding_window(10, 10) | patterns.global_tokens(1), "groups"),
        (patterns.big_bird(1000, 64, random=1, heads=2), "groups"),
        (patterns.fixed_blocks(8, 2), "spans"),
    ],
)
def test_plans_cover_what_is_visible_once(pattern, kind, monkeypatch):
    """Blocks are chosen at longer sequences than here, but for the constant."""
    monkeypatch.setattr(attention_plan, "_COPYING", 0)
    n = 1000
    cut = plan(pattern, n, n, 2)
    assert getattr(cut, kind)
    ids = np.arange(n)
    for head in range(2):
        count = np.zeros((n + 128, n + 128), int)
        for span in cut.spans:
            count[span.q_start : span.q_stop, span.kv_start : span.kv_stop] += 1
        tiles = []
        for group in cut.groups:
            for row, chosen in zip(group.rows, group.lists[head % len(group.lists)], strict=True):
                for key in chosen:
                    tiles.append(key)
                    if key >= 0:
                        rows = slice(row * cut.q_block, (row + 1) * cut.q_block)
                        count[rows, key * cut.kv_block : (key + 1) * cut.kv_block] += 1
        assert count.max() == 1
        visible = np.broadcast_to(pattern.visible(ids[:, None], ids[None], head), (n, n))
        assert count[:n, :n][visible].all()
        # Every tile of a block of keys is gathered there, once.
        gathered = {}
        for group in cut.gathers:
            for key, places in zip(group.rows, group.lists[head % len(group.lists)], strict=True):
                gathered |= {int(place): int(key) for place in places if place >= 0}
        if cut.groups:
            assert gathered == {i: int(key) for i, key in enumerate(tiles) if key >= 0}
            assert cut.scores == len(tiles) * cut.q_block * cut.kv_block
    assert cut.scores < 0.7 * n * n or kind == "spans"


def test_lists_of_kernels():
    pattern = patterns.sliding_window(0, 0) | patterns.global_tokens(1)
    size, of_queries, of_keys = square_lists(pattern, 500, 400, 1, (100,), 0)
    assert size == 100
    assert of_queries.counts.tolist() == [[4, 2, 2, 2, 1]]
    assert of_queries.chosen[0].tolist() == [
        [0, 1, 2, 3],
        *([0, i, i, i] for i in (1, 2, 3)),
        [0] * 4,
    ]
    assert of_keys.counts.tolist() == [[5, 2, 2, 2]]
    # Large steps are dear where a pattern is thin, small ones where it is not.
    assert square_lists(patterns.sliding_window(8, 8), 4096, 4096, 1, (128, 512), 2**15)[0] == 128
    assert square_lists(patterns.causal(), 4096, 4096, 1, (128, 512), 2**15)[0] == 512


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: patterns.local_blocks(0), "size=0; an integer >= 1"),
        (lambda: patterns.sliding_window(-1, 2), "before=-1"),
        (lambda: patterns.global_tokens(1.5), "count=1.5"),
        (lambda: patterns.fixed_blocks(4, 5), "summary=5 is more than block=4"),
        (lambda: patterns.big_bird(0), "length=0"),
        (lambda: patterns.causal() & "local", "combined with 'local'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
