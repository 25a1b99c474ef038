"""Settings that every test runs under, and the real data that some need."""

import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data sets; a test that asks for it skips, with the reason, without it."""
    folder = os.environ.get("TROVE_DATA_DIR")
    if not folder:
        pytest.skip("needs the real data sets: set TROVE_DATA_DIR to their folder")
    return pathlib.Path(folder)
