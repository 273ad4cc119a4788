"""What may be imported by whom, as far as import-linter's contracts cannot say it."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ldm_jax.conditioning import CONDITIONERS
from ldm_jax.data import SOURCES, TOKENIZERS
from ldm_jax.evaluation.extractors import EXTRACTORS
from ldm_jax.models import FIRST_STAGES, NETWORKS
from ldm_jax.samplers import SAMPLERS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "ldm_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
import ldm_jax
alone = sorted(sys.modules)
for module in pkgutil.walk_packages(ldm_jax.__path__, "ldm_jax."):
    importlib.import_module(module.name)
from jax._src import xla_bridge
print(json.dumps([alone, sorted(sys.modules), xla_bridge.backends_are_initialized()]))
"""


def test_no_other_framework_and_no_backend():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    alone, everything, backend = json.loads(done.stdout)
    assert not {"jax", "flax", "numpy", "ml_collections"} & set(alone)
    assert not {"tensorflow", "torch", "keras", "diffusers", "safetensors"} & set(everything)
    assert not backend
    found = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
    }
    assert found <= set(everything)


def imported(path):
    """Returns the full names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", ["diffusion", "samplers", "core"])
def test_numerics_know_no_flax_modules(package):
    for path in (PACKAGE / package).rglob("*.py"):
        for name in imported(path):
            assert not name.startswith("flax.") or name.startswith("flax.struct"), f"{path}: {name}"
            assert name not in ("flax", "linen"), f"{path}: {name}"


def test_only_the_commands_configs_and_training_see_config_dicts():
    allowed = {"sweep", "cli", "train", "core", "pipeline"}
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] not in allowed:
            assert not any(name.startswith("ml_collections") for name in imported(path)), path


def test_there_is_no_drawer_for_odds_and_ends():
    names = {"utils", "util", "helpers", "misc", "common"}
    assert not [path for path in FILES if path.stem in names or path.parent.name in names]


def test_files_stay_short():
    long = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert not {name: lines for name, lines in long.items() if lines > 500}


@pytest.mark.parametrize(
    "registry",
    [SAMPLERS, CONDITIONERS, SOURCES, TOKENIZERS, NETWORKS, FIRST_STAGES, EXTRACTORS],
    ids=[
        "samplers",
        "conditioners",
        "sources",
        "tokenizers",
        "networks",
        "first stages",
        "extractors",
    ],
)
def test_every_registry_entry_has_a_unit_test_file(registry):
    for name, entry in registry.items():
        package = entry.__module__.split(".")[-2]
        tests = [path.read_text() for path in (ROOT / "tests" / "unit" / package).glob("*.py")]
        assert any(re.search(rf"\b{entry.__name__}\b", text) for text in tests), (
            f"{name}: no file in tests/unit/{package} mentions {entry.__name__}"
        )
