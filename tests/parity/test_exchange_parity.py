"""Whole models out and in: PyTorch checkpoints, and folders that diffusers reads back."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

import folders
from compare import nchw, randomize
from safetensors.torch import load_file, save_file

from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.interop.compvis import PREFIXES, ema_name
from ldm_jax.interop.mapping import flatten
from ldm_jax.interop.safetensors_io import SafetensorsFile
from ldm_jax.train.convert import convert
from ldm_jax.train.exchange import open_model, read_model_config

PIPELINES = {
    "stable_diffusion_1": lambda folder: folders.stable_diffusion(folder, 1),
    "stable_diffusion_2": lambda folder: folders.stable_diffusion(folder, 2),
    "text_to_image": folders.text_to_image,
    "unconditional": folders.unconditional,
    "super_resolution": folders.super_resolution,
}
UNET = PREFIXES["unet"]


def weights(path, **kwargs):
    """Returns all parameters of a model, by component and path."""
    with open_model(path, **kwargs) as model:
        model.check()
        trees = {name: flatten(model.load(name)) for name in model.abstract}
    return {f"{name}/{leaf}": x for name, tree in trees.items() for leaf, x in tree.items()}


def assert_same_weights(got, expected):
    assert got.keys() == expected.keys()
    for path, x in expected.items():
        assert (got[path].dtype, got[path].tobytes()) == (x.dtype, x.tobytes()), path


def config_file(folder, source):
    """Writes the configuration of a model as a file for --config, and returns its path."""
    config = read_model_config(source)
    groups = {name: config[name].to_dict() for name in ("task", "data", "sample")}
    path = folder / "small_model.py"
    path.write_text(
        '"""A small model."""\n\nfrom ldm_jax.core.defaults import base_config\n\n\n'
        "def get_config():\n    config = base_config()\n"
        f"    config.task = {groups['task']!r}\n    config.data = {groups['data']!r}\n"
        f"    config.sample.update({groups['sample']!r})\n    return config\n"
    )
    return path


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(False, id="float32"),
        pytest.param(True, id="float16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", PIPELINES)
def test_compvis_to_ours_to_diffusers_to_ours(name, half, tmp_path):
    pipeline, source = PIPELINES[name](tmp_path)
    if half:
        source = tmp_path / "half"
        pipeline.to(torch.float16).save_pretrained(source)
    compvis = tmp_path / "model.safetensors"
    config = ["--config", str(config_file(tmp_path, source))]
    tokenizer = ["--tokenizer", str(source / "tokenizer")]
    tokenizer = tokenizer if (source / "tokenizer").is_dir() else []
    for arguments in (
        [source, compvis, "--to", "compvis"],
        [compvis, tmp_path / "own", "--to", "ldm_jax", *config, *tokenizer],
        [tmp_path / "own", tmp_path / "folder", "--to", "diffusers"],
        [tmp_path / "folder", tmp_path / "again", "--to", "ldm_jax"],
    ):
        assert main(["convert", *map(str, arguments)]) == 0
    first, last = weights(tmp_path / "own"), weights(tmp_path / "again")
    assert {x.dtype for x in first.values()} == {np.dtype(np.float16 if half else np.float32)}
    assert_same_weights(last, first)
    assert_same_weights(first, weights(source))
    before, after = (read_model_config(tmp_path / name) for name in ("own", "again"))
    for group in ("task", "sample"):
        assert after[group].to_dict() == before[group].to_dict()


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_reads_our_folders(name, tmp_path, monkeypatch):
    pipeline, source = PIPELINES[name](tmp_path)
    with open_model(source) as model:
        convert(model, tmp_path / "ours", "diffusers")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours")
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(pipeline)
    channels = 4 if "text_encoder" in again.components or "bert" in again.components else 3
    z_T = np.random.default_rng(7).normal(size=(1, 8, 8, channels)).astype(np.float32)
    settings = {"num_inference_steps": 5, "output_type": "np"}
    if channels == 4:
        settings |= {"prompt": ["a red cat"], "latents": nchw(z_T), "guidance_scale": 7.5}
        settings |= {} if "text_encoder" in again.components else {"height": 64, "width": 64}
    else:
        module = __import__(type(pipeline).__module__, fromlist=["randn_tensor"])
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: nchw(z_T))
    if name == "super_resolution":
        settings["image"] = nchw(z_T)
    np.testing.assert_array_equal(again(**settings).images, pipeline(**settings).images)


def checkpoint(tmp_path, *, lightning):
    """Returns a .ckpt as latent-diffusion saves it, its folder of origin, and what is in it."""
    _, source = folders.stable_diffusion(tmp_path)
    with open_model(source) as model:
        convert(model, tmp_path / "model.safetensors", "compvis")
    with SafetensorsFile(tmp_path / "model.safetensors") as file:
        state = {name: torch.from_numpy(file[name]) for name in file.keys()}
    averages = {
        ema_name(name.removeprefix(UNET)): x + 1
        for name, x in state.items()
        if name.startswith(UNET)
    }
    state |= averages
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["model_ema.num_updates"] = torch.tensor(7, dtype=torch.int32)
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[
        None
    ]
    saved = {"state_dict": state, "global_step": 470000} if lightning else state
    torch.save(saved, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt", source, state


@pytest.mark.parametrize("lightning", [True, False])
def test_a_pytorch_checkpoint_and_its_average(lightning, tmp_path, capfd):
    path, source, state = checkpoint(tmp_path, lightning=lightning)
    config = [
        "--config",
        str(config_file(tmp_path, source)),
        "--tokenizer",
        str(source / "tokenizer"),
    ]
    capfd.readouterr()
    for flag, folder in (([], "average"), (["--raw"], "raw")):
        command = ["convert", str(path), str(tmp_path / folder), "--to", "ldm_jax", *config, *flag]
        assert main(command) == 0
    out = capfd.readouterr().out
    assert "note: the averaged U-Net, model_ema, is taken; the raw one is left out" in out
    assert "note: the raw U-Net is taken; the averaged one, model_ema, is left out" in out
    assert out.count("every tensor is accounted for") == 2
    raw, average = weights(tmp_path / "raw"), weights(tmp_path / "average")
    assert_same_weights(raw, weights(source))
    for name, x in raw.items():
        expected = x + 1 if name.startswith("unet/") else x
        np.testing.assert_array_equal(average[name], expected)
    assert "model_ema.diffusion_modelinput_blocks00weight" in state


def test_a_malicious_checkpoint_runs_nothing(tmp_path, capfd):
    marker = tmp_path / "owned"

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    torch.save({"state_dict": {"model.diffusion_model.x": Evil()}}, tmp_path / "evil.ckpt")
    assert (
        main(["convert", str(tmp_path / "evil.ckpt"), str(tmp_path / "o"), "--to", "ldm_jax"]) == 2
    )
    assert "may be malicious" in capfd.readouterr().err
    with pytest.raises(UserError, match="may be malicious"):
        open_model(tmp_path / "evil.ckpt")
    assert not marker.exists()


def rewrite(folder, change, name="diffusion_pytorch_model.safetensors"):
    """Saves a component's weights anew after a change of their names or format."""
    tensors = load_file(folder / name)
    (folder / name).unlink()
    change(folder, tensors)


def test_older_and_other_files_of_diffusers(tmp_path):
    _, source = folders.stable_diffusion(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(source, other)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_names(folder, tensors):
        def rename(name):
            for new, before in old.items():
                if "attentions" in name:
                    name = name.replace(f".{new}.", f".{before}.")
            return name

        save_file({rename(name): x for name, x in tensors.items()}, folder / "model.safetensors")

    def shards(folder, tensors):
        names = sorted(tensors)
        half = len(names) // 2
        files = {
            f"diffusion_pytorch_model-0000{k}-of-00002.safetensors": part
            for k, part in ((1, names[:half]), (2, names[half:]))
        }
        for file, part in files.items():
            save_file({name: tensors[name] for name in part}, folder / file)
        index = {"metadata": {}, "weight_map": {n: f for f, part in files.items() for n in part}}
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))

    def pickled(folder, tensors):
        prefixed = {
            f"text_model.{name.removeprefix('text_model.')}": x for name, x in tensors.items()
        }
        prefixed["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        torch.save(prefixed, folder / "pytorch_model.bin")

    rewrite(other / "vae", old_names)
    rewrite(other / "unet", shards)
    rewrite(other / "text_encoder", pickled, "model.safetensors")
    assert_same_weights(weights(other), weights(source))


def test_bare_first_stages(tmp_path):
    for make in (folders.autoencoder, folders.vq):
        stage = make()
        randomize(stage)
        folder = tmp_path / type(stage).__name__
        stage.save_pretrained(folder)
        again, compvis = tmp_path / f"{folder.name}_again", tmp_path / f"{folder.name}.safetensors"
        assert main(["convert", str(folder), str(again), "--to", "diffusers"]) == 0
        loaded = type(stage).from_pretrained(again).state_dict()
        for name, x in stage.state_dict().items():
            assert torch.equal(loaded[name], x), name
        assert main(["convert", str(folder), str(compvis), "--to", "compvis"]) == 0
        config = read_model_config(folder)  # eight groups: the shapes do not say
        assert_same_weights(weights(compvis, config=config), weights(folder))
