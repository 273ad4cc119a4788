"""When a latent cache is stale."""

import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.latent_cache import LatentCache, Manifest, pack
from ldm_jax.data.shapes import Shapes
from ldm_jax.data.shards import write_shard
from ldm_jax.train.cache_key import (
    check_cached_first_stage,
    check_key,
    content_key,
    open_cache,
    preprocessing_key,
)


def settings(**fields):
    data = {"source": {"name": "shapes", "num_examples": 5}, "image_size": 16}
    stage = {"first_stage": {"model": {"name": "identity"}}}
    return ConfigDict({"data": data | fields, "task": stage})


def write_cache(folder, config, source, first_stage="0" * 64):
    key = {"first_stage": first_stage, **preprocessing_key(config), **content_key(source)}
    manifest = Manifest(key, (1 + key["flips"], 2, 2, 1), examples_per_shard=100)
    manifest.write(folder)
    moments = np.zeros(manifest.shape, np.float32)
    write_shard(folder / manifest.shard(0)[0], [pack(moments, {})] * len(source))
    config.data.latent_cache = str(folder)


def test_defaults_may_be_spelt_out_and_paths_may_change():
    plain = preprocessing_key(settings())
    assert plain["source.max_objects"] == Shapes().max_objects
    spelt = settings(channels=3, flip_probability=0.0, background=(255, 255, 255), num_threads=2)
    spelt.data.source.seed = 0
    assert preprocessing_key(spelt) == plain
    keys = [
        preprocessing_key(settings(source={"name": "folder", "path": path})) for path in ("a", "b")
    ]
    assert keys[0] == keys[1]
    assert "source.path" not in keys[0]
    assert keys[0]["source.text_column"] == "text"
    for other in ({"image_size": 8}, {"channels": 1}, {"background": (0, 0, 0)}):
        assert preprocessing_key(settings(**other)) != plain
    assert preprocessing_key(settings(flip_probability=0.5))["flips"] is True


def test_content_is_told_by_some_examples():
    found = content_key(Shapes(16, num_examples=40))
    assert found["num_examples"] == 40
    assert content_key(Shapes(16, num_examples=40)) == found
    assert content_key(Shapes(16, num_examples=40, seed=1))["examples"] != found["examples"]
    assert content_key(Shapes(16, num_examples=3))["num_examples"] == 3


def test_mirror_images_do_no_harm():
    check_key("x", {"flips": True}, {"flips": False})
    text = (
        "x: stale, its flips is False and here it is True. Legal: the same value, or "
        "'ldm-jax encode' into a new folder."
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        check_key("x", {"flips": False}, {"flips": True})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda data: data.update(image_size=8), "image_size"),
        (lambda data: data.update(channels=1), "channels"),
        (lambda data: data.update(background=(0, 0, 0)), "background"),
        (lambda data: data.update(flip_probability=0.5), "flips"),
        (lambda data: data.source.update(max_objects=2), "source.max_objects"),
        (lambda data: data.source.update(num_examples=6), "source.num_examples"),
    ],
)
def test_a_stale_cache_is_refused_by_field(tmp_path, change, field):
    config = settings()
    write_cache(tmp_path, config, Shapes(num_examples=5))
    assert isinstance(open_cache(config), LatentCache)
    change(config.data)
    match = f"^config.data.latent_cache={tmp_path}: stale, its {field} is "
    with pytest.raises(UserError, match=match):
        open_cache(config)


def test_images_may_be_missing_but_not_others(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(images / f"{k}.png")
    config = settings(source={"name": "folder", "path": str(images)})
    (tmp_path / "cache").mkdir()
    from ldm_jax.data.folder import Folder

    write_cache(tmp_path / "cache", config, Folder(str(images)))
    assert len(open_cache(config)) == 4
    Image.new("RGB", (8, 8), (0, 9, 0)).save(images / "2.png")
    with pytest.raises(UserError, match="stale, its examples is "):
        open_cache(config)
    (images / "3.png").unlink()
    with pytest.raises(UserError, match="stale, its num_examples is 4 and here it is 3"):
        open_cache(config)
    for path in (str(tmp_path / "none"), None):
        config.data.source.path = path
        assert len(open_cache(config)) == 4


def test_a_cache_of_another_first_stage(tmp_path):
    config = settings()
    check_cached_first_stage(config, "1" * 64, (2, 2, 1))  # no cache
    write_cache(tmp_path, config, Shapes(num_examples=5), first_stage="1" * 64)
    check_cached_first_stage(config, "1" * 64, (2, 2, 1))
    with pytest.raises(UserError, match=f"stale, its first_stage is '{'1' * 64}' and here it is"):
        check_cached_first_stage(config, "2" * 64, (2, 2, 1))
    with pytest.raises(UserError, match=r"an example: got shape \(1, 2, 2, 1\), expected \(1, 4, "):
        check_cached_first_stage(config, "1" * 64, (4, 2, 1))


def test_the_first_stages_type_is_told(tmp_path):
    config = settings()
    write_cache(tmp_path, config, Shapes(num_examples=5))
    config.task.first_stage.model.dtype = "float32"
    open_cache(config)
    config.task.first_stage.model.dtype = "bfloat16"
    with pytest.raises(UserError, match="stale, its dtype is 'float32' and here it is 'bfloat16'"):
        open_cache(config)


def test_every_file_of_a_folder_counts(tmp_path):
    from ldm_jax.data.folder import Folder

    for k in range(40):  # more than are looked into
        Image.new("RGB", (8, 8), (k, 0, 0)).save(tmp_path / f"{k:02d}.png")
    before = content_key(Folder(str(tmp_path)))
    assert content_key(Folder(str(tmp_path))) == before
    for k in range(40):
        path = tmp_path / f"{k:02d}.png"
        content = path.read_bytes()
        path.write_bytes(content + b"x")
        assert content_key(Folder(str(tmp_path))) != before
        path.write_bytes(content)
    rows = [{"file_name": f"{k:02d}.png", "text": "a"} for k in range(40)]
    for text in ("a", "b"):
        rows[21]["text"] = text
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        after = content_key(Folder(str(tmp_path)))
        assert after != before
        before = after
