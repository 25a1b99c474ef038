"""Topological concentration: which nodes get good link predictions, and can edges help them?

    python -m launch.run --experiment=topological_concentration --preset=laptop

Links of three citation graphs are split 70 / 10 / 20, ten times over; a one-layer GCN with a
perceptron on products of embeddings learns to predict them. How well a node's test neighbours are
ranked among all nodes is compared with measures that need no training: the overlap of its
surroundings with those of its neighbours (TC, and ATC from random vectors), its degree, and the
density of its surroundings. Then edges are re-weighted towards neighbours that agree.

preset   data                   steps   expected                                     time
smoke    digits as a graph      6       runs at all                                  seconds
laptop   Cora, CiteSeer,        200     correlation with TC at least 0.1 above that  ~10 min CPU
         PubMed, 5 splits               with degree; TC lower towards held-out
                                        links; re-weighting gains Hits@100
paper    the same, 10 splits    1000    the same                                     ~1 h on one
                                                                                     accelerator
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import trove_jax
from experiments.graphs import _links as links
from experiments.graphs import _planetoid as planetoid
from trove_jax import core
from trove_jax.evidence import Claim, Evidence, Figure, System

SYSTEM = System(
    number=18,
    title="Topological concentration",
    paper="Wang et al., A Topological Perspective on Demystifying GNN-Based Link Prediction "
    "Performance, ICLR 2024, arXiv 2310.04612",
    url="https://arxiv.org/abs/2310.04612",
)

_TITLES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
_claim = functools.partial(
    Claim, setting="citation graphs, 5 random splits, a GCN of 64 units, 200 steps of all links"
)


def _claims(name: str, title: str) -> tuple[Claim, ...]:
    correlation = functools.partial(_claim, metric="correlation", treatment=f"{name}_tc")
    return (
        correlation(
            id=f"C1-{name}-degree",
            statement=f"On {title}, a node's F1@10 is correlated with its concentration by at "
            "least 0.1 more than with its degree.",
            baseline=f"{name}_degree",
            margin=0.1,
            paper="a figure of binned values, higher for concentration on all sets",
        ),
        correlation(
            id=f"C1-{name}-density",
            statement=f"On {title}, a node's F1@10 is more correlated with its concentration than "
            "with the density of its surroundings.",
            baseline=f"{name}_density",
            paper="a figure of binned values, higher for concentration on all sets",
        ),
        _claim(
            id=f"C3-{name}",
            statement=f"On {title}, concentration towards test neighbours is lower than towards "
            "training neighbours.",
            metric="concentration",
            treatment=f"{name}_training_neighbours",
            baseline=f"{name}_test_neighbours",
            paper="a figure: lower towards validation and test neighbours",
        ),
        _claim(
            id=f"C4-{name}",
            statement=f"On {title}, the approximation loses less than 0.1 of the correlation.",
            metric="correlation",
            treatment=f"{name}_atc",
            baseline=f"{name}_tc",
            margin=-0.1,
            paper="about the same correlation at a fraction of the time",
        ),
        _claim(
            id=f"C5-{name}",
            statement=f"On {title}, re-weighting edges raises Hits@100 of a GCN.",
            metric="hits",
            unit="points",
            treatment=f"{name}_reweighted",
            baseline=f"{name}_gcn",
            paper="a gain of a few points at most",
        ),
    )


CLAIMS = tuple(claim for name, title in _TITLES.items() for claim in _claims(name, title))

# alpha, steps between two times, and the first step, as the published program sets them for GCN.
_REWEIGHTING = {
    "cora": links.Reweighting(2.0, 1, 1),
    "citeseer": links.Reweighting(2.0, 1, 5),
    "pubmed": links.Reweighting(0.2, 2, 5),
    "digits": links.Reweighting(2.0, 1, 1),
}
_MEASURES = ("tc", "atc", "degree", "density")
_BINS = 10

# Links of each graph, once each, from which the sizes of splits follow before any file is read.
_LINKS = {"cora": 5278, "citeseer": 4552, "pubmed": 44324}
_NODES = {"cora": 2708, "citeseer": 3327, "pubmed": 19717}


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    changes = {"smoke": _SMOKE, "laptop": {}, "paper": _PAPER}[preset]
    return ml_collections.ConfigDict(_settings(**changes))


def _settings(**changes: Any) -> dict[str, Any]:
    return {
        "seeds": 5,
        "sets": ("cora", "citeseer", "pubmed"),
        "hidden": 64,
        "learning_rate": 5e-3,
        "steps": 200,
        "hits": 100,
        "k": 10,
        "queries": 1000,
        "width": 256,
        **changes,
    }


_SMOKE = {
    "seeds": 2,
    "sets": ("digits",),
    "hidden": 8,
    "steps": 6,
    "hits": 20,
    "queries": 50,
    "width": 16,
}
_PAPER = {"seeds": 10, "hidden": 256, "learning_rate": 1e-3, "steps": 1000, "queries": 20_000}


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return tuple(config.sets)


def plan(config: ml_collections.ConfigDict) -> list[core.StagePlan]:
    """The training runs that a configuration asks for."""
    found = []
    for name in config.sets:
        if name == "digits":
            loaded = planetoid.load(name)
            count, nodes = len(loaded.edges), loaded.n_node
        else:
            count, nodes = _LINKS[name], _NODES[name]
        kept = count - int(0.1 * count) - int(0.2 * count)
        for kind, arm in _arms(config, name).items():
            task = links.task_of(arm, planetoid.SIZES[name][0], 2 * kept + nodes)
            found += [
                core.plan_stage(
                    f"{name}_{kind}/{seed}", task, arm.tx, runs=1, seeds=1, steps=config.steps
                )
                for seed in range(config.seeds)
            ]
    return found


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms on all splits, and measures what the claims compare."""
    arms: dict[str, dict[str, list[float]]] = {}
    provenance, binned = [], {}
    for name in config.sets:
        loaded = planetoid.load(name, data_dir=context.data_dir)
        provenance.append({**loaded.provenance, "split": "70 / 10 / 20 of the links, at random"})
        bins = []
        for seed in range(config.seeds):
            results, curve = _one_split(config, context, loaded, seed)
            bins.append(curve)
            for arm, found in results.items():
                for metric, value in found.items():
                    arms.setdefault(f"{name}_{arm}", {}).setdefault(metric, []).append(value)
        binned[name] = {measure: np.stack([b[measure] for b in bins]) for measure in _MEASURES}
    return Evidence(
        arms=arms,
        figures=_figures(config, binned),
        data=provenance,
        notes=[*_notes(config, arms), *_NOTES],
        curves={
            f"{name}_{measure}": values
            for name, found in binned.items()
            for measure, values in found.items()
        },
        not_tested=trove_jax.evidence.not_measured(CLAIMS, arms),
    )


_NOTES = (
    "Learning rate and width are the same for both networks; nothing was chosen on test links. "
    "Variables are those with the best Hits@K on validation links.",
    "Correlations are Pearson's over nodes, not over bins. With one hop, to take a link away "
    "before it is scored changes nothing, so concentration towards training neighbours has no "
    "advantage from the link itself; it has the advantage that walks pass training links alone.",
    "Reptile, Vole, ogbl-collab and re-weighting of a neural common neighbour are not measured.",
)


def _arms(config, name) -> dict[str, links.Arm]:
    plain = links.Arm(config.hidden, config.learning_rate, config.hits)
    return {"gcn": plain, "reweighted": plain._replace(reweighting=_REWEIGHTING[name])}


def _one_split(config, context, loaded, seed):
    """All that is measured on one split: by arm and metric, and F1 along each measure."""
    split = trove_jax.data.split_links(loaded.edges, loaded.n_node, seed=seed)
    features = trove_jax.layers.sparse_input(loaded.features)
    data = links.data_of(split, loaded.n_node, features)
    keys = core.seed_keys(config.seeds)[seed : seed + 1]
    results, measures = _measured(config, split, loaded.n_node, keys[0])
    queries, padded, known = _queries(config, split, loaded.n_node, seed)
    f1 = np.zeros(0)
    for kind, arm in _arms(config, loaded.name).items():
        stage = f"{loaded.name}_{kind}/{seed}"
        found, best = links.train(context, stage, arm, data, keys, steps=config.steps)
        ranking = links.rank_nodes(arm, best, data.shared, padded, known, config.k)
        ranking = jax.tree.map(lambda x: np.asarray(x[: len(queries)]), ranking)
        results[kind] = {
            "hits": found["hits_test"],
            "auc": found["auc_test"],
            "f1": 100.0 * float(ranking.f1.mean()),
            "mrr": 100.0 * float(ranking.mrr.mean()),
        }
        if kind == "gcn":
            f1 = ranking.f1
    chosen = {name: values[queries] for name, values in measures.items()}
    several = chosen["degree"] >= 2
    for name, values in chosen.items():
        results[name] = {
            "correlation": _pearson(values, f1),
            "correlation_degree_2": _pearson(values[several], f1[several]),
        }
    results["atc"]["correlation_with_tc"] = _pearson(chosen["atc"], chosen["tc"])
    return results, {name: _in_bins(values, f1) for name, values in chosen.items()}


def _measured(config, split, n_node, key):
    """Concentration towards each part, and the measures of nodes that need no training."""
    analysis, graphs = trove_jax.analysis, trove_jax.graphs
    parts = {
        part: analysis.topological_concentration(split.train, edges, n_node)
        for part, edges in (("training", split.train), ("test", split.test))
    }
    both = parts["training"].is_valid & parts["test"].is_valid
    results: dict[str, dict[str, float]] = {
        f"{part}_neighbours": {"concentration": float(found.value[both].mean())}
        for part, found in parts.items()
    }
    rows = graphs.topology.from_edges(split.train, n_node, norm="rw")
    approximate = _approximate(rows, jax.random.fold_in(key, 18), config.width)
    degree = np.bincount(split.train.ravel(), minlength=n_node).astype(np.float64)
    return results, {
        "tc": parts["training"].value,
        "atc": np.asarray(approximate, np.float64),
        "degree": degree,
        "density": analysis.subgraph_density(split.train, n_node),
    }


@functools.partial(jax.jit, static_argnames="width")
def _approximate(rows, key, width):
    return trove_jax.analysis.approximate_concentration(rows, rows, key, hops=1, width=width)


def _queries(config, split, n_node, seed):
    """Nodes with a test neighbour, and for each what it should find and what is left out.

    Padded to one number of rows for all splits, which then share a program.
    """
    ends = np.unique(split.test)
    random = np.random.RandomState(seed)
    queries = np.sort(random.permutation(ends)[: config.queries]).astype(np.int32)
    rows = min(config.queries, n_node)
    targets, excluded = np.zeros((2, rows, n_node), bool)
    place = np.full(n_node, -1)
    place[queries] = np.arange(len(queries))
    for mask, edges in (
        (targets, split.test),
        (excluded, np.concatenate([split.train, split.validation])),
    ):
        for first, second in (edges.T, edges.T[::-1]):
            asked = place[first] >= 0
            mask[place[first[asked]], second[asked]] = True
    excluded[np.arange(len(queries)), queries] = True
    padded = np.pad(queries, (0, rows - len(queries)))
    return queries, jnp.asarray(padded), (jnp.asarray(targets), jnp.asarray(excluded))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """0 where one of them does not vary: it then tells nothing of the other."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _in_bins(values: np.ndarray, f1: np.ndarray) -> np.ndarray:
    """Mean F1 in percent of ten groups of nodes of equal size, by rising measure, `[10]`."""
    order = np.argsort(values, kind="stable")
    return np.array([100.0 * f1[part].mean() for part in np.array_split(order, _BINS)])


def _figures(config, binned) -> list[Figure]:
    return [
        Figure(
            f"f1_{name}",
            f"F1@{config.k} on {name} by tenths of the nodes, in the order of each measure.",
            functools.partial(
                trove_jax.evidence.curves,
                np.arange(1, _BINS + 1),
                found,
                xlabel="tenth of the nodes, by rising measure",
                ylabel=f"F1@{config.k} (%)",
            ),
        )
        for name, found in binned.items()
    ]


def _notes(config, arms) -> list[str]:
    found = []
    for name in config.sets:
        parts = []
        for measure in _MEASURES:
            all_nodes, several = (
                np.mean(arms[f"{name}_{measure}"][metric])
                for metric in ("correlation", "correlation_degree_2")
            )
            parts.append(f"{measure} {all_nodes:.2f} ({several:.2f})")
        tc = np.mean(arms[f"{name}_atc"]["correlation_with_tc"])
        hits = [np.mean(arms[f"{name}_{kind}"]["hits"]) for kind in ("gcn", "reweighted")]
        found.append(
            f"{name}: correlation with F1@{config.k} (of nodes of degree 2 and more): "
            f"{', '.join(parts)}; of ATC with TC {tc:.2f}; Hits@{config.hits} {hits[0]:.1f} %, "
            f"re-weighted {hits[1]:.1f} %."
        )
    return found
