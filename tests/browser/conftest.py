"""The studio's command in a process of its own, and a browser before it."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The quickstart's model; `LDM_JAX_QUICKSTART=DIR` takes the folder of an earlier run."""
    folder = os.environ.get("LDM_JAX_QUICKSTART")
    if folder is None:
        folder = tmp_path_factory.mktemp("quickstart")
        script = ROOT / "experiments" / "quickstart" / "run.py"
        subprocess.run(
            [sys.executable, script, "--workdir", str(folder)],
            check=True,
            env={**os.environ, "XLA_FLAGS": ""},
        )
    return Path(folder) / "diffusion"


@pytest.fixture(scope="session")
def address(model):
    """Where the studio is served."""
    command = [sys.executable, "-m", "ldm_jax.cli.main", "studio", "--checkpoint", str(model)]
    told = {**os.environ, "JAX_LOG_COMPILES": "1", "XLA_FLAGS": ""}  # as for a person
    log = model.parent / "studio.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=errors, text=True, env=told
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line.startswith("studio: "), log.read_text()
            yield line.split()[1]
        finally:
            process.kill()


@pytest.fixture(scope="session")
def log(model, address):
    """What the studio has said of its compilations."""
    return model.parent / "studio.log"


@pytest.fixture(scope="session")
def browser():
    if importlib.util.find_spec("playwright") is None or shutil.which("chromium") is None:
        pytest.skip("needs Playwright and Chromium: make test-browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield found
        found.close()
