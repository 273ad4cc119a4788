"""The JSON files of diffusers folders: what they amount to, ours again, and what is refused."""

import json

import numpy as np
import pytest

from ldm_jax.conditioning import (
    CONDITIONERS,
    ClassLabel,
    ClipText,
    Identity,
    NoConditioning,
    SpatialRescaler,
    TextTransformer,
)
from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build
from ldm_jax.diffusion.schedule import betas
from ldm_jax.interop.diffusers_export import (
    first_stage_config,
    pipeline_index,
    scheduler_config,
    text_config,
    unet_config,
)
from ldm_jax.interop.diffusers_settings import (
    bert_settings,
    clip_settings,
    first_stage_settings,
    schedule_settings,
    scheduler_notes,
    unet_settings,
)
from ldm_jax.models import (
    FIRST_STAGES,
    NETWORKS,
    Autoencoder,
    IdentityFirstStage,
    UNet,
    VQAutoencoder,
)


def as_read(config):
    """Returns what comes out of the file that a dict goes into."""
    return json.loads(json.dumps(config))


def attention(model):
    """Returns the heads of every level with attention and of the middle."""
    widths = [model.channels * multiplier for multiplier in model.channel_mult]
    sites = [w for i, w in enumerate(widths) if 2**i in model.attention_factors]
    return {width: model.heads(width) for width in (*sites, widths[-1])}


# The JSON of runwayml/stable-diffusion-v1-5, google/ddpm-celebahq-256 (its rules) and
# stabilityai/stable-diffusion-2-base, shortened to what is not the default.
SD_1 = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
SD_2 = {
    **SD_1,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": True,
}
PLAIN = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "attention_head_dim": 32,
    "block_out_channels": [224, 448, 672, 896],
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 3,
    "time_embedding_type": "positional",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
VQ = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 3,
    "latent_channels": 3,
    "layers_per_block": 2,
    "num_vq_embeddings": 8192,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
}
BERT = {
    "model_type": "ldmbert",
    "activation_function": "gelu",
    "d_model": 1280,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "head_dim": 64,
    "max_position_embeddings": 77,
    "scale_embedding": False,
    "vocab_size": 30522,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def unet_of(config):
    return build("unet", NETWORKS, unet_settings(as_read(config)))


def first_stage_of(config):
    settings, scale = first_stage_settings(as_read(config), "vae")
    return build("vae", FIRST_STAGES, settings), scale


def test_stable_diffusion():
    one = UNet(4, 320, (1, 2, 4, 4), 2, (1, 2, 4), num_heads=8, transformer_depth=1)
    assert unet_of(SD_1) == one
    two = one.clone(num_heads=None, num_head_channels=64, linear_projections=True)
    assert unet_of(SD_2) == two
    assert unet_of({**SD_1, "num_attention_heads": 8, "attention_head_dim": 3}) == one
    assert first_stage_of(VAE) == (Autoencoder(), 0.18215)
    assert first_stage_of({**VAE, "scaling_factor": 0.5})[1] == 0.5
    assert build("text", CONDITIONERS, clip_settings(as_read(CLIP))) == ClipText()
    schedule = {"name": "linear", "num_timesteps": 1000, "start": 0.00085, "end": 0.012}
    assert schedule_settings(as_read(SCHEDULER)) == (schedule, "eps", "offset_leading")


def test_latent_diffusion():
    expected = UNet(3, 224, (1, 2, 3, 4), 2, (2, 4, 8), num_head_channels=32)
    assert unet_of(PLAIN) == expected
    single = unet_of({**PLAIN, "attention_head_dim": None})
    assert attention(single) == {448: 1, 672: 1, 896: 1}
    stage = VQAutoencoder(channel_mult=(1, 2, 4), z_channels=3, embed_dim=3, num_codes=8192)
    assert first_stage_of(VQ) == (stage, 1.0)
    assert first_stage_of({**VQ, "vq_embed_dim": 5})[0] == stage.clone(embed_dim=5)
    bert = TextTransformer(30522, unused_logits=True)
    assert build("bert", CONDITIONERS, bert_settings(as_read(BERT))) == bert


def test_absent_fields_are_the_defaults_of_diffusers():
    minimal = {k: v for k, v in SD_1.items() if k not in ("norm_num_groups", "attention_head_dim")}
    assert unet_of(minimal) == unet_of(SD_1)
    assert schedule_settings({}) == (
        {"name": "sqrt_linear", "num_timesteps": 1000, "start": 0.0001, "end": 0.02},
        "eps",
        "leading",
    )


SMALL = {"channels": 8, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "num_groups": 4}
UNETS = {
    "transformers by heads": UNet(
        3, **SMALL, attention_factors=(1, 2), num_heads=2, transformer_depth=2, dropout=0.1
    ),
    "transformers by head width": UNet(
        3, **SMALL, attention_factors=(1, 4), num_head_channels=4, transformer_depth=1
    ),
    "linear": UNet(
        3,
        **SMALL,
        attention_factors=(2,),
        num_heads=4,
        transformer_depth=1,
        linear_projections=True,
        scale_shift_norm=True,
    ),
    "self-attention": UNet(4, **SMALL, attention_factors=(2, 4), num_head_channels=8),
    "scale-shift": UNet(
        4, **SMALL, attention_factors=(2,), num_head_channels=8, scale_shift_norm=True
    ),
    "updown": UNet(4, **SMALL, attention_factors=(2,), num_head_channels=8, resblock_updown=True),
    "updown below": UNet(
        4, **SMALL, attention_factors=(4,), num_head_channels=8, resblock_updown=True
    ),
    "updown everywhere": UNet(
        4, **SMALL, attention_factors=(1, 2, 4), num_head_channels=8, resblock_updown=True
    ),
    "updown, middle alone": UNet(4, **SMALL, num_head_channels=8, resblock_updown=True),
    "one width of attention": UNet(4, **SMALL, attention_factors=(2, 4), num_heads=4),
    "one head in the middle": UNet(4, **SMALL),
}


@pytest.mark.parametrize("name", UNETS)
def test_a_unet_comes_back(name):
    model = UNETS[name]
    config = unet_config(model, NoConditioning(), in_channels=5, context_dim=6, latent_size=16)
    found = unet_of(config)
    heads = {"num_heads": None, "num_head_channels": None}
    assert attention(found) == attention(model)
    plain = {**heads, "attention_factors": ()}
    assert found.attention_factors == model.attention_factors
    assert found.clone(**plain) == model.clone(**plain)
    assert (config["in_channels"], config["sample_size"]) == (5, 16)
    assert config.get("cross_attention_dim", 6) == 6


def test_class_names_and_blocks():
    model = UNETS["updown"]
    config = unet_config(model, ClassLabel(10, 32, "embedding"), 4, 0, 16)
    assert config["_class_name"] == "UNet2DModel"
    assert config["num_class_embeds"] == 11
    assert config["down_block_types"] == [
        "ResnetDownsampleBlock2D",
        "AttnDownBlock2D",
        "ResnetDownsampleBlock2D",
    ]
    assert config["up_block_types"] == [
        "ResnetUpsampleBlock2D",
        "AttnUpBlock2D",
        "ResnetUpsampleBlock2D",
    ]
    assert config["downsample_type"] == config["upsample_type"] == "resnet"
    config = unet_config(UNETS["transformers by head width"], NoConditioning(), 4, 6, 16)
    assert config["_class_name"] == "UNet2DConditionModel"
    assert config["attention_head_dim"] == [2, 4, 4]


FIRST = {"channels": 8, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "num_groups": 4}
STAGES = {
    "kl": Autoencoder(**FIRST, z_channels=5, embed_dim=5, attention_factors=(4,)),
    "kl without attention": Autoencoder(**FIRST, mid_attention=False, image_channels=1),
    "vq": VQAutoencoder(**FIRST, z_channels=5, embed_dim=3, num_codes=17, attention_factors=(2,)),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_first_stage_comes_back(name):
    config = first_stage_config(STAGES[name], image_size=64, scale_factor=0.25)
    assert first_stage_of(config) == (STAGES[name], 0.25)
    silent = first_stage_config(STAGES[name], image_size=64, scale_factor=None)
    assert "scaling_factor" not in silent


@pytest.mark.parametrize(
    "module",
    [
        ClipText(),
        ClipText(99, 7, 16, 3, 4, "gelu"),
        TextTransformer(99, 7, 16, 3, 2, 4, unused_logits=True),
    ],
)
def test_a_text_encoder_comes_back(module):
    settings = clip_settings if isinstance(module, ClipText) else bert_settings
    found = build("text", CONDITIONERS, settings(as_read(text_config(module))))
    assert found == module


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
@pytest.mark.parametrize("spacing", ["offset_leading", "leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "linear", "num_timesteps": 1000, "start": 0.00085, "end": 0.012},
        {"name": "sqrt_linear", "num_timesteps": 500, "start": 0.0001, "end": 0.02},
        {"name": "cosine", "num_timesteps": 100},
    ],
    ids=["linear", "sqrt_linear", "cosine"],
)
def test_a_schedule_comes_back(schedule, parameterization, spacing):
    config = scheduler_config(betas(**schedule), schedule["name"], parameterization, spacing)
    found, kind, steps = schedule_settings(as_read(config))
    assert (kind, steps) == (parameterization, spacing)
    assert found.pop("name") == schedule["name"]
    expected = {key: value for key, value in schedule.items() if key != "name"}
    assert found == pytest.approx(expected, rel=1e-12)


LEVELS = "some levels resample by residual blocks and some by convolutions. Legal: one of the two"


@pytest.mark.parametrize(
    ("base", "fields", "text"),
    [
        (
            SD_1,
            {"_class_name": "UNet3D"},
            "unet/config.json: got UNet3D. Legal: UNet2DModel, UNet2D",
        ),
        (SD_1, {"act_fn": "gelu"}, "unet/config.json: act_fn='gelu'. Legal: 'silu'."),
        (SD_1, {"conv_in_kernel": 5}, "unet/config.json: conv_in_kernel=5. Legal: 3."),
        (SD_1, {"addition_embed_type": "text"}, "addition_embed_type='text'. Legal: None."),
        (SD_1, {"only_cross_attention": True}, "only_cross_attention=True. Legal: False."),
        (PLAIN, {"time_embedding_type": "fourier"}, "='fourier'. Legal: 'positional'."),
        (PLAIN, {"flip_sin_to_cos": False}, "flip_sin_to_cos=False. Legal: True."),
        (PLAIN, {"downsample_padding": 0}, "downsample_padding=0. Legal: 1."),
        (PLAIN, {"norm_eps": 1e-6}, "norm_eps=1e-06. Legal: 1e-05."),
        (PLAIN, {"add_attention": False}, "unet/config.json: add_attention=False. Legal: true."),
        (
            PLAIN,
            {"resnet_time_scale_shift": "scale_shift"},
            "middle's attention needs attn_norm_num_groups=32, got None.",
        ),
        (
            SD_1,
            {"down_block_types": ["AttnDownBlock2D"] * 4},
            "unet/config.json: down_block_types has AttnDownBlock2D. Legal: CrossAttnDownBlock2D, "
            "DownBlock2D.",
        ),
        (
            PLAIN,
            {"up_block_types": ["SkipUpBlock2D"] * 4},
            "up_block_types has SkipUpBlock2D. Legal: AttnUpBlock2D, UpBlock2D, Resnet",
        ),
        (
            PLAIN,
            {"up_block_types": ["UpBlock2D", *["AttnUpBlock2D"] * 3]},
            "unet/config.json: up_block_types must mirror down_block_types.",
        ),
        (
            SD_1,
            {"block_out_channels": [320, 640, 1280]},
            "unet/config.json: up_block_types must mirror down_block_types.",
        ),
        (
            SD_1,
            {"block_out_channels": [320, 480, 640, 640]},
            "block_out_channels=(320, 480, 640, 640). Legal: multiples of the first.",
        ),
        (
            SD_1,
            {"layers_per_block": [2, 2, 3, 2]},
            "layers_per_block=[2, 2, 3, 2]. Legal: one number for all levels.",
        ),
        (
            SD_1,
            {"transformer_layers_per_block": [1, 2, 10, 10]},
            "transformer_layers_per_block=[1, 2, 10, 10]. Legal: one number for all levels.",
        ),
        (
            SD_1,
            {"attention_head_dim": [5, 8, 20, 20]},
            "attention_head_dim=[5, 8, 20, 20] gives neither one number of heads nor one "
            "head width for all levels.",
        ),
        (
            PLAIN,
            {"down_block_types": ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3]},
            LEVELS,
        ),
        (PLAIN, {"downsample_type": "resnet", "upsample_type": "resnet"}, LEVELS),
        (PLAIN, {"upsample_type": "resnet"}, LEVELS),
    ],
)
def test_an_illegal_unet(base, fields, text):
    with pytest.raises(UserError) as caught:
        unet_settings({**base, **fields})
    assert text in str(caught.value)


DOWN, UP = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"


@pytest.mark.parametrize(
    ("downs", "ups", "fields"),
    [
        ([DOWN, "DownBlock2D"], ["UpBlock2D", "UpBlock2D"], {}),
        (["DownBlock2D", "DownBlock2D"], [UP, UP], {}),
        (
            [DOWN, "AttnDownBlock2D"],
            ["AttnUpBlock2D", UP],
            {"downsample_type": "resnet", "upsample_type": "conv"},
        ),
        (["DownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", UP], {"upsample_type": "resnet"}),
    ],
)
def test_resampling_is_the_same_on_both_ways(downs, ups, fields):
    config = {
        **PLAIN,
        "block_out_channels": [32, 64],
        "down_block_types": downs,
        "up_block_types": ups,
        **fields,
    }
    with pytest.raises(UserError) as caught:
        unet_settings(config)
    assert LEVELS in str(caught.value)


@pytest.mark.parametrize("fields", [{}, {"downsample_type": "resnet"}])
def test_levels_that_do_not_resample_do_not_count(fields):
    # The last level does not go down, and the first does not go up.
    config = {
        **PLAIN,
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        **fields,
    }
    assert unet_of(config) == UNet(3, 32, (1, 2), 2, (2,), num_head_channels=32)


@pytest.mark.parametrize(
    ("base", "fields", "text"),
    [
        (VAE, {"_class_name": "AutoencoderDC"}, "vae/config.json: got AutoencoderDC. Legal: Auto"),
        (VAE, {"act_fn": "gelu"}, "vae/config.json: act_fn='gelu'. Legal: 'silu'."),
        (VAE, {"use_quant_conv": False}, "use_quant_conv=False. Legal: True."),
        (VAE, {"latents_mean": [0.0]}, "latents_mean=[0.0]. Legal: None."),
        (VAE, {"shift_factor": 0.1}, "vae/config.json: shift_factor=0.1. Legal: null."),
        (VAE, {"out_channels": 4}, "in_channels and out_channels differ. Legal: equal."),
        (VAE, {"up_block_types": ["UpDecoderBlock2D"] * 3}, "up_block_types must mirror"),
        (
            VAE,
            {"down_block_types": ["DownBlock2D"] * 4},
            "down_block_types has DownBlock2D. Legal: AttnDownEncoderBlock2D, DownEncoderBlock2D.",
        ),
        (VQ, {"lookup_from_codebook": True}, "lookup_from_codebook=True. Legal: False."),
        (VQ, {"norm_type": "spatial"}, "norm_type='spatial'. Legal: 'group'."),
    ],
)
def test_an_illegal_first_stage(base, fields, text):
    with pytest.raises(UserError) as caught:
        first_stage_settings({**base, **fields}, "vae")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("read", "base", "fields", "text"),
    [
        (
            clip_settings,
            CLIP,
            {"model_type": "t5", "architectures": ["T5EncoderModel"]},
            "text_encoder/config.json: got T5EncoderModel. Legal: CLIPTextModel.",
        ),
        (clip_settings, CLIP, {"layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06. Legal: 1e-05."),
        (
            clip_settings,
            CLIP,
            {"intermediate_size": 5},
            "intermediate_size must be 4 x hidden_size",
        ),
        (
            bert_settings,
            BERT,
            {"model_type": "bert"},
            "bert/config.json: got bert. Legal: ldmbert.",
        ),
        (bert_settings, BERT, {"scale_embedding": True}, "scale_embedding=True. Legal: False."),
        (bert_settings, BERT, {"encoder_ffn_dim": 5}, "encoder_ffn_dim must be 4 x d_model."),
        (
            schedule_settings,
            SCHEDULER,
            {"beta_schedule": "sigmoid"},
            "scheduler: beta_schedule='sigmoid'. Legal: scaled_linear, linear, squaredcos_cap_v2.",
        ),
        (
            schedule_settings,
            SCHEDULER,
            {"prediction_type": "flow"},
            "scheduler: prediction_type='flow'. Legal: epsilon, v_prediction, sample.",
        ),
        (
            schedule_settings,
            SCHEDULER,
            {"rescale_betas_zero_snr": True},
            "scheduler/config.json: rescale_betas_zero_snr=True. Legal: False.",
        ),
        (
            schedule_settings,
            SCHEDULER,
            {"trained_betas": [0.1]},
            "trained_betas=[0.1]. Legal: None.",
        ),
        (schedule_settings, SCHEDULER, {"timestep_spacing": "karras"}, "timestep_spacing='karras'"),
    ],
)
def test_illegal_text_encoders_and_schedules(read, base, fields, text):
    with pytest.raises(UserError) as caught:
        read({**base, **fields})
    assert text in str(caught.value)


def export_unet(**fields):
    return lambda: unet_config(UNet(3, **{**SMALL, **fields}), NoConditioning(), 3, 0, 8)


def export_stage(model):
    return lambda: first_stage_config(model, 64, 1.0)


def export_index(conditioner, scale=1.0):
    return lambda: pipeline_index(conditioner, "VQModel", scale)


LEGAL_CONDITIONERS = (
    "clip_text, text_transformer, class_label with route=embedding, identity with key=low_res, "
    "none."
)


@pytest.mark.parametrize(
    ("export", "text"),
    [
        (
            export_unet(channel_mult=(2, 4)),
            "channel_mult=(2, 4). Legal: multipliers that begin with 1.",
        ),
        (
            export_unet(
                attention_factors=(2,), num_heads=2, transformer_depth=1, resblock_updown=True
            ),
            "resblock_updown=True with transformer_depth. Legal: one of the two.",
        ),
        (
            export_unet(attention_factors=(1, 2), num_heads=2),
            "num_heads=2 at several widths. Legal: num_head_channels.",
        ),
        (
            export_stage(Autoencoder(**FIRST, z_channels=4, embed_dim=3)),
            "z_channels=4, embed_dim=3. Legal: equal ones.",
        ),
        (
            export_stage(Autoencoder(**{**FIRST, "channel_mult": (2, 2)})),
            "channel_mult=(2, 2). Legal: multipliers that begin with 1.",
        ),
        (
            export_stage(IdentityFirstStage()),
            "a first stage IdentityFirstStage. Legal: autoencoder_kl, autoencoder_vq.",
        ),
        (
            export_index(TextTransformer(9, pooled_dim=32)),
            "text_transformer.pooled_dim=32. Legal: 0.",
        ),
        (
            export_index(Identity("low_res", (8, 8, 3), "concat"), 0.5),
            "scale_factor=0.5 in super-resolution. Legal: 1.0.",
        ),
        (
            export_index(SpatialRescaler(5, 8)),
            f"the conditioner spatialrescaler. Legal: {LEGAL_CONDITIONERS}",
        ),
        (
            export_index(ClassLabel(10, 8)),
            f"the conditioner classlabel. Legal: {LEGAL_CONDITIONERS}",
        ),
        (
            export_index(TextTransformer(9, key="layout")),
            f"the conditioner texttransformer. Legal: {LEGAL_CONDITIONERS}",
        ),
        (
            lambda: scheduler_config(np.ones(3), "sqrt", "eps", "trailing"),
            "the schedule 'sqrt'. Legal: linear, sqrt_linear, cosine.",
        ),
    ],
)
def test_what_diffusers_has_no_place_for(export, text):
    with pytest.raises(UserError) as caught:
        export()
    assert str(caught.value) == f"diffusers has no place for {text}"


@pytest.mark.parametrize(
    ("conditioner", "pipeline", "parts"),
    [
        (ClipText(), "StableDiffusionPipeline", {"vae", "text_encoder", "tokenizer"}),
        (TextTransformer(9), "LDMTextToImagePipeline", {"vqvae", "bert", "tokenizer"}),
        (
            Identity("low_res", (8, 8, 3), "concat"),
            "LDMSuperResolutionPipeline",
            {"vqvae"},
        ),
        (ClassLabel(10, 8, "embedding"), "LDMPipeline", {"vqvae"}),
        (NoConditioning(), "LDMPipeline", {"vqvae"}),
    ],
)
def test_the_pipeline_of_a_conditioner(conditioner, pipeline, parts):
    index = pipeline_index(conditioner, "VQModel", 1.0)
    assert index["_class_name"] == pipeline
    models = {n for n, v in index.items() if isinstance(v, list) and v[0] is not None}
    assert models == parts | {"scheduler"}
    assert index.get("vae", index.get("vqvae")) == ["diffusers", "VQModel"]


@pytest.mark.parametrize(
    ("fields", "spacing", "note"),
    [
        ({}, "offset_leading", None),
        ({"steps_offset": 0, "set_alpha_to_one": True}, "leading", None),
        ({"timestep_spacing": "trailing", "set_alpha_to_one": True}, "trailing", None),
        ({"timestep_spacing": "trailing"}, "trailing", "the last step lands on clean data here"),
        ({"timestep_spacing": "linspace"}, "linspace", "linspace steps land on the next timestep"),
        ({"steps_offset": 0}, "leading", "the last step lands on clean data here; set_alpha_to_on"),
        ({"set_alpha_to_one": True}, "offset_leading", "the last step lands on noise level 0 here"),
        ({"thresholding": True}, "offset_leading", "thresholding=True is not applied here"),
        ({"clip_sample": True}, "offset_leading", "clip_sample=True is not applied here"),
        (
            {"_class_name": "PNDMScheduler"},
            "offset_leading",
            "sampling will use ddim; the folder",
        ),
    ],
)
def test_tables_of_steps_and_what_is_different_about_them(fields, spacing, note):
    config = {**SCHEDULER, "_class_name": "DDIMScheduler", **fields}
    assert schedule_settings(config)[2] == spacing
    notes = scheduler_notes(config)
    assert len(notes) == (note is not None)
    assert all(line.startswith(note) for line in notes)
