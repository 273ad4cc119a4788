"""A classifier of noisy latents, trained through the command on the latents that it is to guide."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.pipeline import ImageGuide, Pipeline
from ldm_jax.train.convert import convert
from ldm_jax.train.exchange import open_model
from ldm_jax.train.load import load_classifier

TINY = f"{Path(__file__).parent / 'tiny.py'}:classifier"


def train(workdir, *overrides):
    return main(["train", "--config", TINY, "--workdir", str(workdir), *overrides])


def first_stage(workdir):
    return f"--config.task.first_stage.workdir={workdir}"


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    assert train(workdir, first_stage(runs.classes)) == 0
    return workdir


def test_accuracies_are_logged(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] == pytest.approx(np.log(24), rel=1e-5)  # the head starts at zero
    for row in rows:
        assert {"top1", "top5", "top1_q1", "top1_q4", "grad_norm"} <= set(row)
        assert 0 <= row["top1"] <= row["top5"] <= 1


def test_it_guides_the_model_whose_latents_it_has(run, runs):
    mesh = make_mesh()
    with open_model(run) as model, open_model(runs.classes) as guided:
        np.testing.assert_array_equal(model.latent_scale.scale, guided.latent_scale.scale)
        np.testing.assert_array_equal(model.latent_scale.shift, guided.latent_scale.shift)
        params, task = load_classifier(model, mesh, guided), model.task
    z = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)

    def total(z):
        log_prob = task.log_prob(params, z, np.array([1.0, 500.0]), np.array([3, 23]))
        return log_prob.sum(), log_prob

    gradient, log_prob = jax.jit(jax.grad(total, has_aux=True))(z)
    assert np.all(np.asarray(log_prob) < 0)
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient)


def test_a_pipeline_draws_with_it(run, runs):
    """At scale 0 nothing changes; the strength and the class are inputs, not programs."""
    pipe = Pipeline.from_checkpoint(runs.classes)
    classifier = pipe.load_classifier(run)
    # The head starts at zero, and three steps leave it near there.
    head = classifier.params["classifier"]
    classifier = dataclasses.replace(
        classifier, params={"classifier": jax.tree.map(lambda x: x + 0.3 * np.cos(x), head)}
    )
    arguments = {"classes": [0, 1], "seed": 4, "guidance_scale": 1.0, "output": "float32"}
    plain = pipe(**arguments)
    none = pipe(**arguments, **classifier.towards([3, 7], scale=0.0))
    np.testing.assert_allclose(none, plain, atol=1e-4)
    towards = pipe(**arguments, **classifier.towards([3, 7], scale=20.0))
    other = pipe(**arguments, **classifier.towards([7, 3], scale=20.0))
    assert np.abs(towards - plain).max() > 1e-3
    assert np.abs(other - towards).max() > 1e-3
    programs = [p for options, p in pipe._programs.items() if options.guide is classifier]
    assert [p.advance._cache_size() for p in programs] == [1]
    for wrong in (99, -1, 1.5):
        with pytest.raises(UserError, match=rf"^class {wrong}: legal is 0 to 23\.$"):
            classifier.towards([wrong], scale=1.0)


def test_a_pipeline_heads_for_what_a_loss_says(runs):
    """Appendix C: images whose mean is asked to be bright are brighter, in step with the scale."""
    pipe = Pipeline.from_checkpoint(runs.classes)
    guide = ImageGuide(
        pipe.task.schedule,
        lambda images, inputs: (images.mean((1, 2, 3)) - inputs["mean"]) ** 2,
    )
    arguments = {"classes": [0, 1], "seed": 4, "guidance_scale": 1.0, "output": "float32"}
    means = []
    # Small: at t = 999 the predicted image moves by 1 / alpha_bar = 7,000 times the gradient.
    for scale in (0.0, 0.01, 0.03):
        inputs = {"mean": np.full(2, 0.5, np.float32), "scale": np.full(2, scale, np.float32)}
        means.append(pipe(**arguments, guide=guide, guide_inputs=inputs).mean())
    assert abs(means[2] - 0.5) < abs(means[1] - 0.5) < abs(means[0] - 0.5)


def test_a_classifier_of_other_latents_is_refused(run, runs):
    mesh = make_mesh()
    with open_model(run) as model, open_model(runs.classes) as guided:
        twice = jax.tree.map(lambda x: 2 * x, guided.latent_scale)
        schedule = dataclasses.replace(guided.task.schedule, alpha_bar=np.full(1000, 0.5))
        others = {
            "first stage": {"scale_record": {"first_stage": "another"}},
            "scale of latents": {"latent_scale": twice},
            "noise schedule": {"task": dataclasses.replace(guided.task, schedule=schedule)},
        }
        for what, fields in others.items():
            text = (
                f"{run}: its {what} is not that of {guided.path}. Legal: a classifier trained with "
                f"--config.task.first_stage.workdir={guided.path}."
            )
            with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
                load_classifier(model, mesh, dataclasses.replace(guided, **fields))
        text = (
            f"{guided.path}: holds no classifier. Legal: the --workdir of a run of a "
            "latent_classifier."
        )
        with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
            load_classifier(guided, mesh, guided)


def test_it_is_not_converted(run, tmp_path):
    with (
        open_model(run) as model,
        pytest.raises(UserError, match="holds a classifier of noisy latents, for which no layout"),
    ):
        convert(model, tmp_path / "out", "ldm_jax")


def test_a_first_stage_alone_will_do_and_another_classifier_to_start_from(run, runs, tmp_path):
    short = "--config.train.steps=1"
    assert train(tmp_path / "measured", first_stage(runs.autoencoder), short) == 0
    start = f"--config.train.init_from={run}"
    assert train(tmp_path / "continued", start, short) == 0
    (row,) = (tmp_path / "continued" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row)["loss"] != pytest.approx(np.log(24), rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.task.model.out_channels=7"], "model.out_channels=7, but the data have 24 cl"),
        (["--config.task.schedule.name=cosine"], "its noise schedule is not config.task.schedule"),
        (["--config.task.model.pool=mean"], "pool: got 'mean'. Legal: adaptive, attention, spat"),
        (["--config.task.model.name=unet"], "config.task.model.name: got 'unet'"),
        (["--config.evaluation.every=1"], "only first stages are evaluated while they train"),
    ],
)
def test_a_mistake_is_one_line(overrides, message, runs, tmp_path, capfd):
    assert train(tmp_path / "run", first_stage(runs.classes), *overrides) == 2
    lines = capfd.readouterr().err.splitlines()
    assert any(message in line for line in lines)
    assert not any("Traceback" in line for line in lines)
