"""Settings that every test runs under, and the real data that some need."""

import atexit
import gc
import importlib.util
import os
import pathlib
import shutil
import tempfile

# Nearly all of the suite's time is compilation. It is halved by building programs without
# optimisation, loops directly instead of through MLIR, in one piece, and without a traceback for
# every operation; and a fifth of the programs have been compiled before, by another test.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # libtpu ends a process that has a flag which it does not know.
        "" if importlib.util.find_spec("libtpu") else "--xla_cpu_use_fusion_emitters=false",
    )
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _COMPILED = tempfile.mkdtemp(prefix="trove_jax_compiled_")
    atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each process has its own: a reader does not wait until another has written.
    os.environ["JAX_COMPILATION_CACHE_DIR"] += "/" + os.environ["PYTEST_XDIST_WORKER"]

import jax
import pytest

# Tracing makes many objects and few cycles: looking for those less often saves time.
gc.set_threshold(100_000, 50, 100)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Every compiled program holds mappings of memory, of which Linux grants a process 65,530.
_MAPPINGS = pathlib.Path("/proc/self/maps")
_MOST_MAPPINGS = 45_000


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two modules, lets go of compiled programs before their number ends the process."""
    if nextitem is None or nextitem.path == item.path or not _MAPPINGS.exists():
        return
    if _MAPPINGS.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data sets; a test that asks for it skips, with the reason, without it."""
    folder = os.environ.get("TROVE_DATA_DIR")
    if not folder:
        pytest.skip("needs the real data sets: set TROVE_DATA_DIR to their folder")
    return pathlib.Path(folder)
