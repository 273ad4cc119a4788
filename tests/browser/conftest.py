"""The studio's command in a process of its own, and a browser before it."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
from compiling import as_users_compile


@pytest.fixture(scope="session")
def model(quickstart):
    return quickstart / "diffusion"


@pytest.fixture(scope="session")
def address(model):
    """Where the studio is served."""
    command = [sys.executable, "-m", "ldm_jax.cli.main", "studio", "--checkpoint", str(model)]
    told = {**as_users_compile(), "JAX_LOG_COMPILES": "1"}
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
