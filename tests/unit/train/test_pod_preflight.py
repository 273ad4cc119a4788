"""What several processes must have in common."""

import re

import jax
import pytest
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.train import pod_preflight
from ldm_jax.train.pod_preflight import check_data, check_pod, check_shards


def says(text):
    return pytest.raises(UserError, match=f"^{re.escape(text)}$")


@pytest.fixture
def second_of_two(monkeypatch):
    """Makes this process 1, to which process 0 says what is given, and which complains alone."""

    def make(*first):
        texts = list(first)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        monkeypatch.setattr(pod_preflight, "from_first", lambda text: texts.pop(0))
        monkeypatch.setattr(pod_preflight, "check_together", complain)

    def complain(topic, complaint):
        assert topic
        if complaint:
            raise UserError(complaint)

    return make


def test_one_process_needs_no_others(tmp_path):
    check_pod(ConfigDict(), tmp_path / "run", "--workdir=run")
    check_data(range(3))
    check_shards(1, 8, 8)
    assert not (tmp_path / "run").exists()


def test_a_field_that_differs_is_named(second_of_two, tmp_path):
    second_of_two('{"seed": 0, "train.b1": 0.9, "train.mesh": [1, 2]}')
    config = ConfigDict({"seed": 0, "train": {"b1": 0.5, "mesh": (1, 2)}})
    with says(
        "config.train.b1=0.5, but 0.9 on process 0. Legal: the same configuration everywhere."
    ):
        check_pod(config, tmp_path, "--workdir=run")


def test_a_folder_of_ones_own_is_refused(second_of_two, tmp_path, monkeypatch):
    second_of_two("{}", "token")
    monkeypatch.setattr(pod_preflight, "_VISIBLE_AFTER", 0)
    with says(
        "--workdir=run: is not shared; what process 0 wrote there is not to be seen. Legal: a "
        "folder that all hosts mount."
    ):
        check_pod(ConfigDict(), tmp_path / "run", "--workdir=run")
    assert not list((tmp_path / "run").iterdir())


def test_a_shared_folder_is_left_as_it_was(second_of_two, tmp_path):
    second_of_two("{}", "token")
    (tmp_path / ".preflight-token-0").write_text("token")
    check_pod(ConfigDict(), tmp_path, "--workdir=run")
    assert [path.name for path in tmp_path.iterdir()] == [".preflight-token-0"]  # not ours


def test_a_folder_that_cannot_be_written_to(second_of_two, tmp_path):
    second_of_two("{}", "token")
    (tmp_path / "run").write_text("a file")
    with says("--workdir=run: cannot be written to (File exists)."):
        check_pod(ConfigDict(), tmp_path / "run", "--workdir=run")


def test_data_that_differ_are_refused(monkeypatch):
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(pod_preflight, "check_same", lambda *words: said.append(words))
    check_data(range(3))
    assert said == [("config.data.source", "3 examples", "the same data within reach of all hosts")]


@pytest.mark.parametrize(
    ("count", "size", "examples", "message"),
    [
        (1, 64, 64, "--examples_per_shard=64: makes 1 file for 4 processes. Legal: up to 21."),
        (3, 25, 64, "--examples_per_shard=25: makes 3 files for 4 processes. Legal: up to 21."),
        (1, 8, 3, "config.data.source: 3 examples for 4 processes. Legal: at most 3 processes."),
    ],
)
def test_too_few_files(monkeypatch, count, size, examples, message):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with says(message):
        check_shards(count, size, examples)
    check_shards(4, 21, 64)
