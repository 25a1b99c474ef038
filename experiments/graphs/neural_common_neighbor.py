"""Neural common neighbours: do embeddings of shared neighbours predict links?

    python -m launch.run --experiment=neural_common_neighbor --preset=laptop

Links are split 70 / 10 / 20, another way for each seed. One hop of averages embeds the nodes; a
pair is scored by the product of its ends (GAE), by that and the number of common neighbours, or by
that and the sum of their embeddings (NCN); NCNC adds nodes that are a neighbour of one end, by the
probability that they are one of the other. Links of a batch are taken out of the graph before it is
encoded, except in one arm. Counts of common neighbours (CN) and their weighted forms (AA, RA) need
no training. On Cora, training links are also deleted, so that common neighbours go missing.

preset   data                    epochs  expected                                    time
smoke    digits as a graph       2       runs at all                                 seconds
laptop   Cora, CiteSeer, USAir,  40, 30  NCN at least as good as GAE, 35 points      ~8 min CPU
         NS, Yeast, 5 splits             above AA; the gain of NCNC grows as links
                                         are deleted
paper    the same and PubMed,    100     Hits@100 89.1, 91.6, 79.1 % (NCN),          ~1 h on one
         10 splits                       89.7, 93.5, 81.3 % (NCNC)                   accelerator
"""

import functools
from typing import Any

import ml_collections
import numpy as np

import trove_jax
from experiments.graphs import _common_neighbours as networks
from experiments.graphs import _planetoid as planetoid
from trove_jax import core
from trove_jax.data.graph_sets import LINK_GRAPHS
from trove_jax.evidence import Claim, Evidence, Figure, System

SYSTEM = System(
    number=31,
    title="Neural common neighbour",
    paper="Wang et al., Neural Common Neighbor with Completion for Link Prediction, ICLR 2024, "
    "arXiv 2302.00890",
    url="https://arxiv.org/abs/2302.00890",
)

_CITATION = {"cora": "Cora", "citeseer": "CiteSeer"}
_BARE = {"usair": "USAir", "ns": "NS", "yeast": "Yeast"}
_PUBLISHED = {
    "cora": ("66.8 (GCN), 89.1 (NCN), 89.7 (NCNC)", "39.9"),
    "citeseer": ("91.6 (NCN), 93.5 (NCNC)", "below 40"),
}
_claim = functools.partial(
    Claim,
    metric="hits",
    unit="points",
    setting="width 64, 40 passes (without features 30) of four batches, 5 random splits; Hits@100 "
    "(without features: Hits@20) with as many negatives as links",
)


def _citation_claims(name: str, title: str) -> tuple[Claim, ...]:
    figures, heuristic = _PUBLISHED[name]
    about = functools.partial(_claim, paper=f"Hits@100 {figures}")
    return (
        about(
            id=f"C1-{name}-gae",
            statement=f"On {title}, NCN finds more links than the product of embeddings alone.",
            treatment=f"{name}_ncn",
            baseline=f"{name}_gae",
        ),
        about(
            id=f"C1-{name}-ncnc",
            statement=f"On {title}, completion loses less than 0.5 points.",
            treatment=f"{name}_ncnc",
            baseline=f"{name}_ncn",
            margin=-0.5,
        ),
        *(
            _claim(
                id=f"C1-{name}-{kind}-aa",
                statement=f"On {title}, {kind.upper()} is more than 35 points above AA.",
                treatment=f"{name}_{kind}",
                baseline=f"{name}_aa",
                margin=35.0,
                paper=f"AA {heuristic}; {figures}",
            )
            for kind in ("ncn", "ncnc")
        ),
        _claim(
            id=f"C7-{name}-removal",
            statement=f"On {title}, to leave the links of a batch in the graph costs NCN at least "
            "2 points.",
            treatment=f"{name}_ncn",
            baseline=f"{name}_ncn_kept",
            margin=2.0,
            paper="an ablation, no figure at hand",
        ),
    )


def _bare_claims(name: str, title: str) -> tuple[Claim, ...]:
    about = functools.partial(
        _claim, treatment=f"{name}_ncn", baseline=f"{name}_gae", paper="not measured there"
    )
    return (
        about(
            id=f"C1-{name}-hits",
            statement=f"On {title}, which has no features, NCN gains at least 5 points of Hits@20.",
            margin=5.0,
        ),
        about(
            id=f"C1-{name}-auc",
            statement=f"On {title}, which has no features, NCN gains at least 0.02 of AUC.",
            metric="auc",
            margin=2.0,
        ),
    )


CLAIMS = (
    *(claim for name, title in _CITATION.items() for claim in _citation_claims(name, title)),
    *(claim for name, title in _BARE.items() for claim in _bare_claims(name, title)),
    _claim(
        id="C7-cora-gap",
        statement="On Cora, what completion gains grows when 60 % of the training links are "
        "deleted.",
        metric="gap",
        treatment="cora_gap_60",
        baseline="cora_gap_00",
        paper="histograms of common neighbours, and an ablation",
    ),
    _claim(
        id="C7-cora-deleted",
        statement="On Cora with 60 % of the training links deleted, NCNC finds more links than "
        "NCN.",
        treatment="cora_ncnc_60",
        baseline="cora_ncn_60",
        paper="histograms of common neighbours, and an ablation",
    ),
)

# As the published command lines set them; graphs without features have none, and get these.
_FREE = networks.Settings(0.0, 0.1, 0.0, 0.0, 0.1, 5.0, 3.0, 0.5, 0.5, 5e-3, 3e-3, 1024)
_SETTINGS = {
    "cora": networks.Settings(0.7, 0.05, 0.3, 0.4, 0.05, 4.3, 2.8, 0.75, 1.0, 0.0043, 0.0024, 1152),
    "citeseer": networks.Settings(
        0.4, 0.75, 0.0, 0.0, 0.55, 6.5, 4.4, 0.75, 0.4, 0.0085, 0.0078, 384, two_layers=True
    ),
    "pubmed": networks.Settings(0.3, 0.1, 0.0, 0.0, 0.05, 5.3, 0.5, 0.5, 0.3, 0.0097, 0.002, 2048),
}
_KEPT = "ncn_kept"
_COMPARED = ("ncn", "ncnc")

# Nodes, links and features of each graph, from which sizes follow before any file is read.
_SIZES = {
    "cora": (2708, 5278, 1433),
    "citeseer": (3327, 4552, 3703),
    "pubmed": (19717, 44324, 500),
    **{name: (*size, 0) for name, size in LINK_GRAPHS.items()},
}


def get_config(preset: str) -> ml_collections.ConfigDict:
    """The settings of a preset."""
    changes = {"smoke": _SMOKE, "laptop": {}, "paper": _PAPER}[preset]
    return ml_collections.ConfigDict(_settings(**changes))


def _settings(**changes: Any) -> dict[str, Any]:
    return {
        "seeds": 5,
        "sets": ("cora", "citeseer"),
        "kinds": ("gae", "gae_cn", "ncn", _KEPT, "ncnc"),
        "heuristics": ("cn", "aa", "ra"),
        "bare_sets": ("usair", "ns", "yeast"),
        "bare_kinds": ("gae", "ncn"),
        "deleted_set": "cora",
        "deleted": (20, 40, 60),
        "hidden": 64,
        "epochs": 40,
        "bare_epochs": 30,
        "batches": 4,
        "hits": 100,
        "bare_hits": 20,
        "implementation": None,
        **changes,
    }


_SMOKE = {
    "seeds": 2,
    "sets": ("digits",),
    "kinds": ("ncnc",),
    "heuristics": ("cn",),
    "bare_sets": (),
    "deleted_set": "digits",
    "deleted": (),
    "hidden": 8,
    "epochs": 2,
    "bare_epochs": 2,
    "batches": 2,
    "hits": 20,
    "implementation": "dense",
}
# No share of the links: the published sizes of batches.
_PAPER = {
    "seeds": 10,
    "sets": ("cora", "citeseer", "pubmed"),
    "hidden": 256,
    "epochs": 100,
    "bare_epochs": 100,
    "batches": 0,
}


def data_sets(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Names of the data sets that a configuration reads."""
    return (*config.sets, *(("seal_link_prediction",) if config.bare_sets else ()))


def plan(config: ml_collections.ConfigDict) -> list[core.StagePlan]:
    """The training runs that a configuration asks for."""
    found = []
    for name, kinds, deleted in _jobs(config):
        if name == "digits":
            loaded = planetoid.load(name)
            n_node, links, width = loaded.n_node, len(loaded.edges), loaded.features.shape[1]
        else:
            n_node, links, width = _SIZES[name]
        _, epoch = _batch(config, name, links - int(0.1 * links) - int(0.2 * links))
        for kind in kinds:
            arm = _arm(config, name, kind, epoch=epoch, limit=1, n_node=n_node, width=width)
            found.append(
                core.plan_stage(
                    _stage(name, kind, deleted),
                    networks.task_of(arm),
                    arm.tx,
                    runs=1,
                    seeds=config.seeds,
                    steps=_of(config, name, "epochs") * epoch,
                )
            )
    return found


def _jobs(config) -> list[tuple[str, tuple[str, ...], int]]:
    """Graph, kinds of heads, and percentage of deleted training links."""
    return [
        *((name, tuple(config.kinds), 0) for name in config.sets),
        *((name, tuple(config.bare_kinds), 0) for name in config.bare_sets),
        *((config.deleted_set, _COMPARED, percent) for percent in config.deleted),
    ]


def _batch(config, name: str, links: int) -> tuple[int, int]:
    """Links per step, and steps per pass; the rest of a pass is dropped."""
    size = links // config.batches if config.batches else _SETTINGS.get(name, _FREE).batch
    if not 1 <= size <= links:
        raise core.UsageError(
            f"{name} has {links} training links, too few for batches={config.batches} or batches "
            f"of {size}; a pass would take no step"
        )
    return size, links // size


def _stage(name: str, kind: str, deleted: int) -> str:
    return f"{name}_{kind}_{deleted:02d}" if deleted else f"{name}_{kind}"


def _of(config, name: str, key: str) -> int:
    """The setting of a graph; those without features have their own."""
    return config[f"bare_{key}" if name in config.bare_sets else key]


def _arm(config, name: str, kind: str, **sizes: int) -> networks.Arm:
    return networks.Arm(
        kind="ncn" if kind == _KEPT else kind,
        settings=_SETTINGS.get(name, _FREE),
        features=config.hidden,
        hits=_of(config, name, "hits"),
        removal=kind != _KEPT,
        implementation=config.implementation,
        **sizes,
    )


def run(config: ml_collections.ConfigDict, context: Any) -> Evidence:
    """Trains all arms, and measures what needs no training."""
    arms: dict[str, dict[str, list[float]]] = {}
    provenance, shared_neighbours = [], {}
    for name, kinds, deleted in _jobs(config):
        edges, n_node, features, source = _load(name, context.data_dir)
        if not deleted:
            provenance.append({**source, "split": "70 / 10 / 20 of the links, at random"})
        data = networks.data_of(edges, n_node, features, config.seeds, deleted=deleted / 100)
        batch, epoch = _batch(config, name, len(data.examples))
        limit = int(np.bincount(np.ravel(edges), minlength=n_node).max())
        width = 0 if features is None else features.shape[1]
        sizes = {"epoch": epoch, "limit": limit, "n_node": n_node, "width": width}
        for kind in kinds:
            arm, stage = _arm(config, name, kind, **sizes), _stage(name, kind, deleted)
            found = networks.train(
                context,
                stage,
                arm,
                data,
                seeds=config.seeds,
                steps=_of(config, name, "epochs") * epoch,
                batch=batch,
            )
            arms[stage] = {key: found[key].tolist() for key in ("hits", "auc")}
        without, shared_neighbours[name, deleted] = networks.without_training(
            data, _of(config, name, "hits"), tuple(config.heuristics)
        )
        if not deleted:
            arms |= {f"{name}_{kind}": measured for kind, measured in without.items()}
    swept = _sweep(config, arms, shared_neighbours)
    return Evidence(
        arms=arms,
        figures=_figures(config, swept),
        data=provenance,
        notes=[*_notes(config, arms, shared_neighbours), *_NOTES],
        curves={f"deleted_{name}": values for name, values in swept.items()},
        not_tested=trove_jax.evidence.not_measured(CLAIMS, arms),
    )


_NOTES = (
    "Settings of Cora, CiteSeer and PubMed are those of the published command lines for NCN and "
    "NCNC, also for GAE; graphs without features share one that was fixed before any run. Nothing "
    "was chosen on test links: variables are those with the best Hits@K on validation links.",
    "Features of Cora and CiteSeer are 0 and 1, not divided by their sum, as published.",
    "Validation links are not in the graph when test links are scored. Negatives of training are "
    "no training links; a held-out link may be among them, as published.",
    "Where training links are deleted, the others are repeated: all arms take as many steps.",
    "Completion takes every neighbour of the 70 % of links that are seen; none is sampled.",
    "ogbl-collab, ppa, ddi and citation2 are not measured.",
)


def _load(name: str, data_dir: Any) -> tuple[np.ndarray, int, Any, dict[str, Any]]:
    """Links, number of nodes, features or None, and where they come from."""
    if name in LINK_GRAPHS:
        found = trove_jax.data.load_link_graph(name, data_dir=data_dir)
        source = {"name": "seal_link_prediction", "graph": name, "sha256": found.sha256}
        return found.edges, found.n_node, None, source
    loaded = planetoid.load(name, data_dir=data_dir, row_normalised=False)
    features = trove_jax.layers.sparse_input(loaded.features)
    return loaded.edges, loaded.n_node, features, loaded.provenance


def _sweep(config, arms, shared_neighbours) -> dict[str, np.ndarray]:
    """Hits@K and common neighbours by share of deleted links, `[s, shares]`; adds arms of gaps."""
    name, shares = config.deleted_set, (0, *config.deleted)
    found = {
        kind: np.array([arms[_stage(name, kind, percent)]["hits"] for percent in shares]).T
        for kind in _COMPARED
        if kind in config.kinds
    }
    if len(found) == len(_COMPARED):
        gaps = (found["ncnc"] - found["ncn"]).T
        for percent, gap in zip(shares, gaps.tolist(), strict=True):
            arms[f"{name}_gap_{percent:02d}"] = {"gap": gap}
    counts = np.stack([shared_neighbours[name, percent] for percent in shares], axis=1)
    return {**found, "common_neighbours": counts}


def _figures(config, swept) -> list[Figure]:
    x = np.array((0, *config.deleted), float)
    drawn = functools.partial(trove_jax.evidence.curves, x, xlabel="deleted training links (%)")
    found = {kind.upper(): swept[kind] for kind in _COMPARED if kind in swept}
    counts = {"test links": swept["common_neighbours"]}
    return [
        Figure(
            "hits_by_deleted",
            f"Hits@{config.hits} on {config.deleted_set} when training links are deleted.",
            functools.partial(drawn, found, ylabel=f"Hits@{config.hits} (%)"),
        ),
        Figure(
            "common_neighbours_by_deleted",
            f"Common neighbours of a test link of {config.deleted_set}, on average.",
            functools.partial(drawn, counts, ylabel="common neighbours"),
        ),
    ]


def _notes(config, arms, shared_neighbours) -> list[str]:
    found = []
    for name in (*config.sets, *config.bare_sets):
        k = _of(config, name, "hits")
        own = {
            arm.removeprefix(f"{name}_"): measured
            for arm, measured in arms.items()
            if arm.startswith(f"{name}_") and "hits" in measured and not arm[-1].isdigit()
        }
        values = ", ".join(
            f"{arm} {np.mean(each['hits']):.1f} ({np.mean(each['auc']):.1f})"
            for arm, each in own.items()
        )
        count = shared_neighbours[name, 0].mean()
        found.append(
            f"{name}: Hits@{k} (AUC) {values}; {count:.2f} common neighbours of a test link."
        )
    return found
