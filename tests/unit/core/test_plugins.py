"""Import paths: what is found, what is refused, and that nothing runs unasked."""

import re
import sys

import pytest

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.conditioning import CONDITIONERS, ClassLabel
from ldm_jax.core import plugins
from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build
from ldm_jax.core.plugins import allow_plugins, find_plugin
from ldm_jax.data import DERIVED, SOURCES, TOKENIZERS
from ldm_jax.models import CLASSIFIERS, DISCRIMINATORS, FIRST_STAGES, NETWORKS
from ldm_jax.samplers import SAMPLERS

REGISTRIES = {
    **{"conditioners": CONDITIONERS, "sources": SOURCES, "derived": DERIVED},
    **{"tokenizers": TOKENIZERS, "networks": NETWORKS, "classifiers": CLASSIFIERS},
    **{"discriminators": DISCRIMINATORS, "first stages": FIRST_STAGES, "samplers": SAMPLERS},
}
PLUGIN = """
from ldm_jax.conditioning import ClassLabel
from ldm_jax.samplers.ddim import ddim

class Mine(ClassLabel):
    pass

class Numbers:
    class_names = None
    def __init__(self, count: int = 3): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index): return {"index": index}

def sampler(levels): return ddim(levels)
def function(other): return other
"""
FIELD = "config.task.conditioner.name"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory with a module of plug-ins, none of them allowed."""
    monkeypatch.setattr(plugins, "_allowed", set())
    monkeypatch.setattr(plugins, "_folders", [])
    monkeypatch.delenv(plugins.ENVIRONMENT, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_plugins.py").write_text(PLUGIN)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def refused(name, registry=CONDITIONERS):
    with pytest.raises(UserError) as caught:
        find_plugin(FIELD, registry, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_what_a_registry_holds_is_of_its_kind(registry):
    assert all(registry.is_kind(entry) for entry in registry.values())
    assert not registry.is_kind(print)
    first = next(iter(registry))
    assert first not in registry.without(first)
    assert find_plugin("x", registry, first) is registry[first]


def test_classes_sources_and_functions_from_the_current_directory(folder):
    allow_plugins("my_plugins")
    mine = build("c", CONDITIONERS, {"name": "my_plugins:Mine", "num_classes": 3, "dim": 2})
    assert isinstance(mine, ClassLabel)
    assert type(mine).__module__ == "my_plugins"
    assert len(build("c", SOURCES, {"name": "my_plugins:Numbers", "count": 5})) == 5
    assert find_plugin("c", SAMPLERS, "my_plugins:sampler").__name__ == "sampler"
    with pytest.raises(UserError, match=r"^c: unknown field 'dimm' for Mine; did you mean 'dim'"):
        build("c", CONDITIONERS, {"name": "my_plugins:Mine", "num_classes": 3, "dimm": 2})


def test_nothing_runs_unless_it_is_allowed(folder, monkeypatch):
    (folder / "my_trap.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n")
    message = (
        f"{FIELD}=my_trap:Thing: a stored configuration asks for code from outside ldm_jax. Legal, "
        "if you trust it: LDM_JAX_PLUGINS=my_trap in the environment, or in Python "
        "ldm_jax.core.plugins.allow_plugins('my_trap')."
    )
    assert refused("my_trap:Thing") == message
    allow_plugins("my_tra", "my_trap.below")
    assert refused("my_trap:Thing") == message
    monkeypatch.setenv(plugins.ENVIRONMENT, "other, ")
    assert refused("my_trap:Thing") == message
    assert not (folder / "sprung").exists()
    # Nor is what happens to be imported for the taking.
    assert "asks for code from outside" in refused("ldm_jax.conditioning:ClassLabel")
    assert "asks for code from outside" in refused("os:system")
    monkeypatch.setenv(plugins.ENVIRONMENT, "other, my_trap")
    assert "my_trap has no 'Thing'" in refused("my_trap:Thing")
    assert (folder / "sprung").exists()


def test_a_package_is_allowed_with_all_below_it(folder):
    (folder / "my_package").mkdir()
    (folder / "my_package" / "inner.py").write_text(PLUGIN)
    allow_plugins("my_package")
    assert find_plugin("c", CONDITIONERS, "my_package.inner:Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "registry", "text"),
    [
        (
            "my_nothing:Mine",
            CONDITIONERS,
            f"{FIELD}: no module 'my_nothing'. Legal: an installed one, or one on PYTHONPATH or in "
            "the current directory, ",
        ),
        (
            "my_plugins:Mime",
            CONDITIONERS,
            f"{FIELD}=my_plugins:Mime: my_plugins has no 'Mime'; did you mean 'Mine'? Legal: a "
            "subclass of ldm_jax.conditioning.base.Conditioner.",
        ),
        (
            "my_plugins:Numbers",
            CONDITIONERS,
            f"{FIELD}=my_plugins:Numbers: got the class Numbers. Legal: a subclass of "
            "ldm_jax.conditioning.base.Conditioner.",
        ),
        (
            "my_plugins:function",
            SAMPLERS,
            f"{FIELD}=my_plugins:function: got a function. Legal: a function whose first "
            "parameter is levels.",
        ),
        (
            "my_plugins:Mine",
            SOURCES,
            f"{FIELD}=my_plugins:Mine: got the class Mine. Legal: a class as "
            "ldm_jax.data.source.Source says.",
        ),
        (
            "my_plugins:a.b",
            CONDITIONERS,
            f"{FIELD}: got 'my_plugins:a.b'. Legal: an import path as package.module:Name.",
        ),
        ("my_plugins:Mine", {"mine": 1}, f"{FIELD}: got 'my_plugins:Mine'. Legal: mine."),
    ],
)
def test_mistakes(folder, name, registry, text):
    allow_plugins("my_plugins", "my_nothing")
    assert refused(name, registry).startswith(text)


def test_a_module_that_does_not_import(folder):
    (folder / "my_broken.py").write_text("x = 1\nimport my_missing_part\n")
    allow_plugins("my_broken")
    assert refused("my_broken:Thing") == (
        f"{FIELD}: importing my_broken failed at {folder}/my_broken.py:2 (ModuleNotFoundError: No "
        "module named 'my_missing_part'). Legal: a module that imports."
    )


def test_plugins_beside_the_configuration_are_found_from_anywhere(folder, monkeypatch):
    (folder / "configs").mkdir()
    (folder / "configs" / "my_beside.py").write_text(PLUGIN)
    (folder / "configs" / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'data': {'source': {'name': 'my_beside:Numbers'}}})\n"
    )
    allow_plugins("my_beside")  # alone, it says nothing about where
    assert "no module 'my_beside'" in refused("my_beside:Mine")
    config = load_config("configs/config.py")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert find_plugin("c", SOURCES, config.data.source.name).__name__ == "Numbers"
    allow_plugins("my_nothing")
    assert refused("my_nothing:Mine") == (
        f"{FIELD}: no module 'my_nothing'. Legal: an installed one, or one on PYTHONPATH or in the "
        f"current directory, {folder}/elsewhere, or beside the configuration, in {folder}/configs."
    )
    assert "asks for code from outside" in refused("my_third:Mine")


def test_what_the_user_wrote_is_allowed(folder):
    (folder / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'task': {'name': 'x', 'conditioner': {'name': 'class_label'}},\n"
        "        'data': {'source': {'name': 'my_plugins:Numbers'}}})\n"
    )
    assert "asks for code" in refused("my_plugins:Mine")
    config = load_config("config.py")
    assert find_plugin("c", SOURCES, config.data.source.name).__name__ == "Numbers"
    (folder / "my_others.py").write_text(PLUGIN)
    apply_overrides(config, ["--config.task.conditioner.name=my_others:Mine"])
    assert find_plugin("c", CONDITIONERS, config.task.conditioner.name).__name__ == "Mine"
    assert re.match("config.*asks for code", refused("my_third:Mine"))
