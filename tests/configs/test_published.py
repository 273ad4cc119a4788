"""The published models have the parameters of the originals, to the last one.

The numbers were counted in PyTorch, on the reference's own classes with the reference's YAML files;
those of Stable Diffusion 2 in diffusers and transformers. "computed" marks the one that was not: it
is that of a first stage with half the latent channels, plus the layers that grow with them.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from ldm_jax.cli.config_args import load_config
from ldm_jax.cli.info import describe
from ldm_jax.core.checks import UserError
from ldm_jax.data import Shapes
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.condition_checks import check_inputs

FOLDER = Path(__file__).parents[2] / "configs" / "published"

VQ_F2, VQ_F4, VQ_F4_NOATTN = 13_313_937, 55_322_782, 53_219_486
VQ_F8, VQ_F8_N256, VQ_F16 = 67_717_295, 67_652_783, 69_593_371
# vq-f32 with 16 channels, and 16 more: of the encoder's last and the decoder's first convolution,
# of the two 1x1 convolutions (32 * 33 - 16 * 17 each), and of 16384 codes. Computed.
VQ_F32 = 103_384_755 + 16 * (4609 + 4608) + 2 * 784 + 16 * 16384
KL_F4, KL_F8, KL_F16, KL_F32 = 55_312_063, 83_653_863, 69_610_963, 103_880_131
CLASSES, CLASSES_AND_NULL, LAYOUT = 512_000, 512_512, 58_858_496
CLIP_L, OPENCLIP_H = 123_060_480, 340_387_840

# The three-layer discriminator of most first stages, and that of two layers.
DISCRIMINATOR, SMALL_DISCRIMINATOR = 2_765_633, 663_361
LPIPS = 14_714_688 + 1_472  # VGG16's convolutions and the heads
SMALL = ("vq_f8", "vq_f16", "vq_f32")

# Name: latent, parameters.
FIRST_STAGES = {
    "kl_f2": ((128, 128, 2), 13_314_465),
    "vq_f2": ((128, 128, 2), VQ_F2),
    "vq_f2:64": ((128, 128, 2), 13_309_969),
    "vq_f4:256": ((64, 64, 3), 55_298_974),
    "kl_f16:8": ((16, 16, 8), 69_499_371),
    "kl_f32:16": ((8, 8, 16), 103_197_139),
    "vq_f32": ((8, 8, 16), 103_384_755),
    "kl_f4": ((64, 64, 3), KL_F4),
    "kl_f8": ((32, 32, 4), KL_F8),
    "kl_f16": ((16, 16, 16), KL_F16),
    "kl_f32": ((8, 8, 64), KL_F32),
    "vq_f4": ((64, 64, 3), VQ_F4),
    "vq_f4_noattn": ((64, 64, 3), VQ_F4_NOATTN),
    "vq_f8": ((32, 32, 4), VQ_F8),
    "vq_f8_n256": ((32, 32, 4), VQ_F8_N256),
    "vq_f16": ((16, 16, 8), VQ_F16),
}

# Name: latent, parameters of the U-Net, the first stage and the conditioner.
MODELS = {
    "celebahq": ((64, 64, 3), 274_056_163, VQ_F4, 0),
    "ffhq": ((64, 64, 3), 274_056_163, VQ_F4, 0),
    "lsun_bedrooms": ((64, 64, 3), 274_056_163, VQ_F4, 0),
    "lsun_churches": ((32, 32, 4), 294_966_916, KL_F8, 0),
    "imagenet_vq_f8": ((32, 32, 4), 394_984_196, VQ_F8, CLASSES),
    "imagenet_vq_f4": ((64, 64, 3), 400_920_579, VQ_F4, CLASSES_AND_NULL),
    "text2img256": ((64, 64, 3), 403_623_939, VQ_F4, 186_154_682),
    "txt2img_1p4b": ((32, 32, 4), 872_300_484, KL_F8, 581_994_042),
    "layout2img_openimages": ((64, 64, 3), 246_277_379, VQ_F4, LAYOUT),
    "layout2img_coco": ((32, 32, 4), 312_241_540, VQ_F8, LAYOUT),
    "inpainting": ((64, 64, 3), 215_230_467, VQ_F4, 0),
    "inpainting:vq_f4_noattn": ((64, 64, 3), 215_230_467, VQ_F4_NOATTN, 0),
    "inpainting:kl_f4": ((64, 64, 3), 215_230_467, KL_F4, 0),
    "inpainting:none": ((256, 256, 3), 215_230_467, 0, 0),
    "inpainting_big": ((64, 64, 3), 387_245_827, VQ_F4_NOATTN, 0),
    "super_resolution": ((64, 64, 3), 113_622_563, VQ_F4, 0),
    "semantic_256": ((64, 64, 3), 215_229_315, VQ_F4, 546),
    "semantic_512": ((128, 128, 3), 215_229_315, VQ_F4, 546),
    "rdm_768": ((48, 48, 16), 1_335_480_400, KL_F16, 0),
    "sd_v1": ((64, 64, 4), 859_520_964, KL_F8, CLIP_L),
    "sd_v2_base": ((64, 64, 4), 865_910_724, KL_F8, OPENCLIP_H),
    "sd_v2_768v": ((96, 96, 4), 865_910_724, KL_F8, OPENCLIP_H),
    "compression_imagenet": ((64, 64, 3), 400_920_579, VQ_F4, CLASSES),
    "compression_imagenet:1": ((256, 256, 3), 396_835_971, 0, CLASSES),
    "compression_imagenet:2": ((128, 128, 2), 390_888_578, VQ_F2, CLASSES),
    "compression_imagenet:8": ((32, 32, 4), 394_984_196, VQ_F8, CLASSES),
    "compression_imagenet:16": ((16, 16, 8), 395_002_632, VQ_F16, CLASSES),
    "compression_imagenet:32": ((8, 8, 32), 395_113_248, VQ_F32, CLASSES),
    "compression_celebahq": ((64, 64, 3), 274_056_163, VQ_F4, 0),
    "compression_celebahq:1": ((256, 256, 3), 270_458_115, 0, 0),
    "compression_celebahq:2": ((128, 128, 2), 264_510_722, VQ_F2, 0),
    "compression_celebahq:8": ((32, 32, 4), 257_733_124, VQ_F8, 0),
    "compression_celebahq:16": ((16, 16, 8), 257_751_560, VQ_F16, 0),
    "compression_celebahq:32": ((8, 8, 32), 257_862_176, VQ_F32, 0),
}

# Name: latent, parameters of the classifier and of the first stage.
CLASSIFIERS = {"imagenet_classifier": ((32, 32, 4), 111_604_200, VQ_F8)}

# Heads at every width of the U-Net that has attention: they do not show in the counts.
HEADS = {
    "celebahq": {448: 14, 672: 21, 896: 28},
    "ffhq": {448: 14, 672: 21, 896: 28},
    "lsun_bedrooms": {448: 14, 672: 21, 896: 28},
    "lsun_churches": {192: 8, 384: 8, 768: 8},
    "imagenet_vq_f8": {256: 8, 512: 16, 1024: 32},
    "imagenet_vq_f4": {384: 1, 576: 1, 960: 1},
    "text2img256": {384: 12, 576: 18, 960: 30},
    "txt2img_1p4b": {320: 8, 640: 8, 1280: 8},
    "layout2img_openimages": {256: 8, 384: 12, 512: 16},
    "inpainting_big": {512: 8, 768: 8, 1024: 8},
    "super_resolution": {640: 20},
    "semantic_256": {1024: 8},
    "semantic_512": {1024: 8},
    "rdm_768": {448: 14, 896: 28, 1344: 42, 1792: 56},
    "sd_v1": {320: 8, 640: 8, 1280: 8},
    "sd_v2_base": {320: 5, 640: 10, 1280: 20},
}

# The learning rate of the whole batch, where the paper or a YAML file gives both.
LEARNING_RATES = {
    "celebahq": 9.6e-5,
    "ffhq": 8.4e-5,
    "lsun_bedrooms": 9.6e-5,
    "lsun_churches": 5e-5,
    "imagenet_vq_f8": 6.4e-5,
    "imagenet_vq_f4": 1e-4,
    "text2img256": 5.6e-5,
    "txt2img_1p4b": 1e-4,
    "layout2img_openimages": 4.8e-5,
    "layout2img_coco": 4.8e-5,
    "super_resolution": 6.4e-5,
    "semantic_256": 4.8e-5,
    "semantic_512": 8e-6,
    "sd_v1": 1e-4,
}


def load(spec):
    name, colon, argument = spec.partition(":")
    return load_config(f"{FOLDER / name}.py{colon}{argument}")


def describe_within_memory(spec):
    before = sum(x.nbytes for x in jax.live_arrays())
    facts, table = describe(load(spec))
    # A noise schedule may stay for a moment; the parameters of no model are this small.
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 100_000
    assert table.count("\n") > 10
    assert facts["image_size"][0] % facts["size_multiple"] == 0
    return facts


READS = {
    "layout2img_openimages": {"layout": (92,)},
    "layout2img_coco": {"layout": (92,)},
    "inpainting": {"mask": (256, 256)},
    "inpainting_big": {"mask": (256, 256)},
    "super_resolution": {"low_res": (64, 64, 3)},
    "semantic_256": {"segmentation": (256, 256)},
    "semantic_512": {"segmentation": (512, 512)},
    "rdm_768": {"clip_embeddings": (11, 768)},
}


@pytest.mark.parametrize("spec", MODELS)
def test_data_have_what_a_diffusion_model_is_conditioned_on(spec, tmp_path):
    config = load(spec)
    if spec == "rdm_768":
        embeddings = np.random.default_rng(0).normal(size=(12, 768)).astype(np.float32)
        np.save(tmp_path / "clip.npy", embeddings)
        config.data.derive.clip_embeddings.embeddings = str(tmp_path / "clip.npy")
    task = assemble.build_task(config)
    check_inputs(config, task)
    reads = set(task.inputs) - {"class", "tokens"}
    shapes = READS.get(spec.partition(":")[0], {})
    assert reads == set(shapes)
    if not reads:
        return
    source = Shapes(image_size=config.data.image_size, num_examples=2)
    batch = assemble_data.build_examples(config, source, None, (0, 1), ("image", *reads))
    for name, expected in task.input_shapes().items():
        assert batch[name].shape == (2, *expected.shape)
        assert expected.shape == shapes[name]
        assert batch[name].dtype == expected.dtype


def test_every_published_config_is_in_a_table():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"published_base"}
    assert files == {spec.partition(":")[0] for spec in [*FIRST_STAGES, *MODELS, *CLASSIFIERS]}


@pytest.mark.parametrize("spec", FIRST_STAGES)
def test_a_first_stage_has_the_published_size(spec):
    latent, parameters = FIRST_STAGES[spec]
    facts = describe_within_memory(spec)
    discriminator = SMALL_DISCRIMINATOR if spec in SMALL else DISCRIMINATOR
    assert facts["parameters"] == {"autoencoder": parameters, "discriminator": discriminator}
    assert facts["first_stage_parameters"] == parameters
    assert facts["trained_parameters"] == parameters + discriminator
    assert facts["frozen_parameters"] == LPIPS
    assert facts["latent_shape"] == list(latent)


@pytest.mark.parametrize("spec", MODELS)
def test_a_diffusion_model_has_the_published_size(spec):
    latent, unet, first_stage, conditioner = MODELS[spec]
    facts = describe_within_memory(spec)
    assert facts["parameters"] == {"unet": unet, "conditioner": conditioner}
    assert facts["first_stage_parameters"] == first_stage
    assert facts["latent_shape"] == list(latent)
    trained = unet if spec.startswith("sd_") else unet + conditioner
    assert facts["trained_parameters"] == trained
    assert facts["frozen_parameters"] == first_stage + unet + conditioner - trained
    if spec in LEARNING_RATES:
        assert facts["effective_learning_rate"] == pytest.approx(LEARNING_RATES[spec], rel=1e-6)


@pytest.mark.parametrize("spec", CLASSIFIERS)
def test_a_classifier_has_the_published_size(spec):
    latent, classifier, first_stage = CLASSIFIERS[spec]
    facts = describe_within_memory(spec)
    assert facts["parameters"] == {"classifier": classifier}
    assert facts["first_stage_parameters"] == facts["frozen_parameters"] == first_stage
    assert facts["latent_shape"] == list(latent)
    # With the U-Net that it guides, the 506M of the paper's Table 3.
    unet = MODELS["imagenet_vq_f8"][1]
    assert (unet + classifier) // 1_000_000 == 506


@pytest.mark.parametrize("spec", HEADS)
def test_a_diffusion_model_has_the_published_heads(spec):
    unet = load(spec).task.model
    found = {}
    for level, multiplier in enumerate(unet.channel_mult):
        width = unet.channels * multiplier
        if 2**level in unet.attention_factors or level == len(unet.channel_mult) - 1:
            found[width] = unet.get("num_heads") or width // unet.num_head_channels
    assert found == HEADS[spec]


def test_an_ablation_that_is_not_in_the_paper_is_an_error():
    with pytest.raises(UserError, match=r"get_config\('3'\) does not know it"):
        load("compression_imagenet:3")
