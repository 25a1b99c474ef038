"""The graphs that the catalogue knows: their sizes, licences, and where their files come from.

Features are compressed rows (`x_indptr`, `x_indices`, `x_data`, `x_shape`), edges are (sender,
receiver) rows. An undirected link is stored once, the smaller index first.

The digests of the Planetoid files were taken from the files of kimiyoung/planetoid at af6abf46 (of
ind.pubmed.allx: from the file in pgl 2.2.6, which has the Git object name of the one there).
Other graphs are made from several files of several places, which nobody has one digest of.
"""

from collections.abc import Mapping

from trove_jax.data import graph_formats
from trove_jax.data.source import DataSet, RemoteFile

UNDIRECTED = ("cora", "citeseer", "pubmed", "cornell_fixed")

# Nodes and links of each graph in seal_link_prediction.
LINK_GRAPHS = {
    "usair": (332, 2126),
    "ns": (1589, 2742),
    "pb": (1222, 16714),
    "yeast": (2375, 11693),
    "celegans": (297, 2148),
    "power": (4941, 6594),
    "router": (5022, 6258),
    "ecoli": (1805, 14660),
}

_PLANETOID = "https://github.com/kimiyoung/planetoid/raw/master/data"
_DTYPES = {
    "x_indptr": "int32",
    "x_indices": "int16",
    "x_shape": "int32",
    "y": "int8",
    "edges": "int32",
    "train_idx": "int32",
    "val_idx": "int32",
    "test_idx": "int32",
    "split": "int8",
}
_MANY_DTYPES = {
    "y": "int8",
    "num_nodes": "int32",
    "num_edges": "int32",
    "node_label": "int8",
    "edges": "int32",
    "fold": "int8",
}
_MOLECULE_DTYPES = {
    "y": "float32",
    "num_nodes": "int32",
    "num_edges": "int32",
    "charge": "int8",
    "num_h": "int8",
    "edges": "int32",
}
_CITATION = "Sen et al., Collective classification in network data, AI Magazine, 2008"
_WEBKB = "Pei et al., Geom-GCN: geometric graph convolutional networks, ICLR 2020"
_WIKIPEDIA = "Rozemberczki et al., Multi-scale attributed node embedding, 2021"
_FILTERED = "Platonov et al., A critical look at the evaluation of GNNs, ICLR 2023"
_TU = "Morris et al., TUDataset, 2020"
_NO_LICENCE = "none stated"


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _own_file(name: str, contents: str) -> str:
    return f"put {name}.npz under --data_dir or TROVE_DATA_DIR, with {contents}"


def _node_shapes(nodes: int, entries: int, edges: int) -> dict[str, tuple[int, ...]]:
    return {
        "x_indptr": (nodes + 1,),
        "x_indices": (entries,),
        "x_data": (entries,),
        "x_shape": (2,),
        "y": (nodes,),
        "edges": (edges, 2),
    }


def _dtypes(shapes: Mapping[str, object], dtypes: Mapping[str, str]) -> dict[str, str]:
    return {name: dtype for name, dtype in dtypes.items() if name in shapes}


def _citation_graph(
    name: str,
    title: str,
    *,
    sizes: tuple[int, int, int],
    classes: int,
    train: int,
    files: Mapping[str, tuple[str, int]],
) -> DataSet:
    shapes = {
        **_node_shapes(*sizes),
        "train_idx": (train,),
        "val_idx": (500,),
        "test_idx": (1000,),
    }
    values = {"x_data": "float32"} if name == "pubmed" else {}
    return DataSet(
        name=name,
        title=title,
        licence="MIT (repository)",
        citation=f"{_CITATION}; split: Yang et al., Revisiting semi-supervised learning, ICML 2016",
        class_names=_numbers(classes),
        shapes=shapes,
        dtypes={**_dtypes(shapes, _DTYPES), **values},
        downloads=tuple(
            RemoteFile(f"ind.{name}.{part}", (f"{_PLANETOID}/ind.{name}.{part}",), digest, size)
            for part, (digest, size) in files.items()
        ),
        originals=tuple(f"ind.{name}.{part}" for part in files),
        convert=graph_formats.CONVERT[name],
    )


def _split_graph(
    name: str,
    title: str,
    *,
    sizes: tuple[int, int, int],
    licence: str,
    citation: str,
    splits: int = 10,
    classes: int = 5,
) -> DataSet:
    shapes = _node_shapes(*sizes)
    if splits:
        shapes["split"] = (splits, sizes[0])
    wanted = "x_indptr, x_indices, x_data, x_shape, y, edges" + (
        " and split (0 train, 1 validation, 2 test)" if splits else ""
    )
    return DataSet(
        name=name,
        title=title,
        licence=licence,
        citation=citation,
        class_names=_numbers(classes),
        shapes=shapes,
        dtypes=_dtypes(shapes, _DTYPES),
        obtain=_own_file(name, wanted),
    )


def _many_graphs(name: str, title: str, graphs: int, nodes: int, edges: int, k: int) -> DataSet:
    return DataSet(
        name=name,
        title=title,
        licence="MIT (repository)",
        citation=_TU,
        class_names=_numbers(k),
        shapes={
            "y": (graphs,),
            "num_nodes": (graphs,),
            "num_edges": (graphs,),
            "node_label": (nodes,),
            "edges": (edges, 2),
            "fold": (graphs,),
        },
        dtypes=_MANY_DTYPES,
        obtain=_own_file(name, "y, num_nodes, num_edges, node_label, edges and fold"),
    )


def _molecules(name: str, title: str, licence: str, graphs: int, atoms: int, bonds: int) -> DataSet:
    return DataSet(
        name=name,
        title=title,
        licence=licence,
        citation="Wu et al., MoleculeNet, 2018; AqSolDB: Sorkun et al., 2019",
        shapes={
            "y": (graphs,),
            "num_nodes": (graphs,),
            "num_edges": (graphs,),
            "atomic_num": (atoms,),
            "charge": (atoms,),
            "num_h": (atoms,),
            "aromatic": (atoms,),
            "edges": (bonds, 2),
            "bond_type": (bonds,),
        },
        dtypes=_MOLECULE_DTYPES,
        obtain=_own_file(
            name,
            "y, num_nodes, num_edges, atomic_num, charge, num_h, aromatic, edges and bond_type",
        ),
    )


def _timed(
    name: str, title: str, citation: str, nodes: int, edges: int, *, rated: bool = False
) -> DataSet:
    shapes = {"edges": (edges, 2), "time": (edges,), "node_id": (nodes,)}
    dtypes = {"edges": "int32", "time": "int64", "node_id": "int32"}
    if rated:
        shapes["rating"], dtypes["rating"] = (edges,), "int8"
    return DataSet(
        name=name,
        title=title,
        licence="none stated (SNAP)",
        citation=citation,
        shapes=shapes,
        dtypes=dtypes,
        obtain=_own_file(name, " and ".join([", ".join(list(shapes)[:-1]), list(shapes)[-1]])),
    )


GRAPH_SETS: tuple[DataSet, ...] = (
    _citation_graph(
        "cora",
        "citations between 2,708 papers, bags of words, public split",
        sizes=(2708, 49216, 5278),
        classes=7,
        train=140,
        files={
            "x": ("23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab", 22119),
            "y": ("94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1", 4054),
            "tx": ("b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a", 148025),
            "ty": ("41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad", 28135),
            "allx": ("9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543", 257305),
            "ally": ("2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71", 47959),
            "graph": ("58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d", 59847),
            "test.index": (
                "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
                5000,
            ),
        },
    ),
    _citation_graph(
        "citeseer",
        "citations between 3,327 papers, bags of words, public split",
        sizes=(3327, 105165, 4552),
        classes=6,
        train=120,
        files={
            "x": ("d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6", 31087),
            "y": ("8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924", 3014),
            "tx": ("539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21", 260321),
            "ty": ("55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce", 24135),
            "allx": ("2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668", 595021),
            "ally": ("f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95", 55623),
            "graph": ("d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7", 61987),
            "test.index": (
                "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
                5000,
            ),
        },
    ),
    _citation_graph(
        "pubmed",
        "citations between 19,717 papers on diabetes, TF-IDF, public split",
        sizes=(19717, 988_031, 44324),
        classes=3,
        train=60,
        files={
            "x": ("fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33", 23172),
            "y": ("e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3", 854),
            "tx": ("4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d", 405505),
            "ty": ("ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd", 12135),
            "allx": ("508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e", 7578385),
            "ally": ("0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e", 224739),
            "graph": ("5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9", 471808),
            "test.index": (
                "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5",
                6000,
            ),
        },
    ),
    _split_graph(
        "cora_directed",
        "Cora with the direction of citations, nodes in another order",
        sizes=(2708, 49216, 5429),
        classes=7,
        splits=0,
        licence="MIT (repository)",
        citation=_CITATION,
    ),
    _split_graph(
        "citeseer_directed",
        "CiteSeer with the direction of citations",
        sizes=(3312, 105165, 4715),
        classes=6,
        splits=0,
        licence="MIT (repository)",
        citation=_CITATION,
    ),
    _split_graph(
        "texas",
        "web pages of a university, directed, ten splits",
        sizes=(183, 15266, 325),
        licence=_NO_LICENCE,
        citation=_WEBKB,
    ),
    _split_graph(
        "wisconsin",
        "web pages of a university, directed, ten splits",
        sizes=(251, 24057, 515),
        licence=_NO_LICENCE,
        citation=_WEBKB,
    ),
    _split_graph(
        "cornell",
        "web pages of a university, directed; its features and labels are those of texas",
        sizes=(183, 15266, 298),
        licence=_NO_LICENCE,
        citation=_WEBKB,
    ),
    _split_graph(
        "cornell_fixed",
        "web pages of a university, with features and labels of their own, undirected",
        sizes=(183, 17240, 277),
        licence="MIT (repository)",
        citation=_FILTERED,
    ),
    _split_graph(
        "chameleon",
        "pages of Wikipedia, directed, ten splits",
        sizes=(2277, 29157, 36101),
        licence="MIT (repository)",
        citation=_WIKIPEDIA,
    ),
    _split_graph(
        "squirrel",
        "pages of Wikipedia, directed, ten splits",
        sizes=(5201, 93477, 217_073),
        licence="MIT (repository)",
        citation=_WIKIPEDIA,
    ),
    _split_graph(
        "chameleon_filtered",
        "chameleon without duplicated nodes, directed, ten splits",
        sizes=(890, 9903, 13584),
        licence="MIT (repository)",
        citation=_FILTERED,
    ),
    _split_graph(
        "squirrel_filtered",
        "squirrel without duplicated nodes, directed, ten splits",
        sizes=(2223, 32481, 65718),
        licence="MIT (repository)",
        citation=_FILTERED,
    ),
    _split_graph(
        "actor",
        "actors who occur together, directed as published, ten splits",
        sizes=(7600, 40977, 30019),
        licence=_NO_LICENCE,
        citation=_WEBKB,
    ),
    DataSet(
        name="seal_link_prediction",
        title="eight undirected graphs without features, for link prediction",
        licence=_NO_LICENCE,
        citation="Zhang and Chen, Link prediction based on graph neural networks, NeurIPS 2018",
        shapes={
            key: shape
            for name, (_, edges) in LINK_GRAPHS.items()
            for key, shape in ((f"{name}_edges", (edges, 2)), (f"{name}_num_nodes", ()))
        },
        dtypes={
            f"{name}_{part}": "int32" for name in LINK_GRAPHS for part in ("edges", "num_nodes")
        },
        obtain=_own_file("seal_link_prediction", "NAME_edges and NAME_num_nodes of each graph"),
    ),
    _many_graphs("tu_mutag", "188 molecules, mutagenic or not", 188, 3371, 3721, 2),
    _many_graphs("tu_proteins", "1,113 proteins, enzymes or not", 1113, 43471, 81044, 2),
    _many_graphs("tu_nci1", "4,110 compounds, active or not", 4110, 122_747, 132_753, 2),
    _many_graphs("tu_imdb_binary", "1,000 ego networks of actors", 1000, 19773, 96531, 2),
    _many_graphs("tu_enzymes", "600 enzymes of six classes", 600, 19580, 37282, 6),
    _molecules("mol_esol", "solubility of molecules", "MIT (repository)", 1128, 14991, 15428),
    _molecules(
        "mol_lipophilicity",
        "lipophilicity of molecules",
        "MIT (repository)",
        4200,
        113_568,
        123_899,
    ),
    _molecules("mol_aqsoldb", "solubility of molecules", "CC0", 9980, 173_482, 175_982),
    _timed(
        "bitcoin_alpha",
        "trust between members of an exchange, with time",
        "Kumar et al., Edge weight prediction in weighted signed networks, ICDM 2016",
        3783,
        24186,
        rated=True,
    ),
    _timed(
        "uci_messages",
        "messages between students, with time",
        "Panzarasa, Opsahl and Carley, Patterns and dynamics of users' behavior, 2009",
        1899,
        59835,
    ),
)
