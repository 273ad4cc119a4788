"""Small pipelines with random weights, saved by diffusers itself."""

import json

import diffusers
import torch
import transformers
from compare import randomize
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)

WORDS = ["a", "red", "blue", "cat", "dog", "on", "the", "moon"]
LENGTH = 77


def scheduler(**fields):
    """Returns the scheduler of Stable Diffusion as a DDIM."""
    return diffusers.DDIMScheduler(
        **{
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": False,
            "steps_offset": 1,
            "set_alpha_to_one": False,
            **fields,
        }
    )


def clip_tokenizer(folder):
    """Returns a CLIP tokenizer over single letters and a few merges, saved and loaded anew."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges = ["c a", "ca t</w>", "d o", "do g</w>", "r e", "re d</w>"]
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), *(m.replace(" ", "") for m in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), model_max_length=LENGTH)


def bert_tokenizer(folder):
    """Returns a BERT tokenizer over a few words."""
    folder.mkdir(parents=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return transformers.BertTokenizer.from_pretrained(str(folder), model_max_length=LENGTH)


def autoencoder(**fields):
    """Returns a KL first stage of factor 4."""
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (32, 32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "latent_channels": 4,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "sample_size": 32,
            "scaling_factor": 0.18215,
            **fields,
        }
    )


def vq(**fields):
    """Returns a VQ first stage of factor 4."""
    return diffusers.VQModel(
        **{
            "block_out_channels": (32, 32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "latent_channels": 3,
            "num_vq_embeddings": 40,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "sample_size": 32,
            "scaling_factor": 1.0,
            **fields,
        }
    )


def conditional_unet(context, **fields):
    """Returns a U-Net with cross-attention on 8 x 8 latents."""
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "cross_attention_dim": context,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            **fields,
        }
    )


def plain_unet(**fields):
    """Returns a U-Net with self-attention on 8 x 8 latents."""
    return diffusers.UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 16,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **fields,
        }
    )


def clip_encoder(tokenizer, activation="quick_gelu", **fields):
    """Returns a CLIP text tower for a tokenizer."""
    size = len(tokenizer)
    config = transformers.CLIPTextConfig(
        **{
            "vocab_size": size,
            "max_position_embeddings": LENGTH,
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_act": activation,
            "bos_token_id": size - 2,
            "eos_token_id": size - 1,
            "pad_token_id": size - 1,
            **fields,
        }
    )
    return transformers.CLIPTextModel(config)


def stable_diffusion(folder, version=1):
    """Saves and returns a Stable Diffusion pipeline of version 1 or 2 (v-prediction)."""
    tokenizer = clip_tokenizer(folder / "made" / "tokenizer")
    two = version == 2
    text = clip_encoder(tokenizer, "gelu" if two else "quick_gelu")
    unet = conditional_unet(
        32,
        **({"attention_head_dim": (2, 4), "use_linear_projection": True} if two else {}),
    )
    vae = autoencoder()
    for seed, module in enumerate((text, unet, vae)):
        randomize(module, seed)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(prediction_type="v_prediction" if two else "epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return saved(pipeline, folder / f"stable_diffusion_{version}")


def text_to_image(folder):
    """Saves and returns a latent diffusion text-to-image pipeline."""
    tokenizer = bert_tokenizer(folder / "made" / "tokenizer")
    config = LDMBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        d_model=32,
        encoder_ffn_dim=128,
        encoder_layers=2,
        encoder_attention_heads=4,
        head_dim=64,
    )
    bert, unet, vae = LDMBertModel(config), conditional_unet(32), autoencoder()
    for seed, module in enumerate((bert, unet, vae)):
        randomize(module, seed)
    pipeline = diffusers.LDMTextToImagePipeline(
        vqvae=vae, bert=bert, tokenizer=tokenizer, unet=unet, scheduler=scheduler()
    )
    return saved(pipeline, folder / "text_to_image")


def unconditional(folder):
    """Saves and returns a pipeline without condition, over a VQ first stage."""
    return _plain(diffusers.LDMPipeline, folder / "unconditional", plain_unet())


def super_resolution(folder):
    """Saves and returns a super-resolution pipeline."""
    unet = plain_unet(in_channels=6)
    return _plain(diffusers.LDMSuperResolutionPipeline, folder / "super_resolution", unet)


def _plain(kind, folder, unet):
    stage = vq()
    randomize(unet, 1)
    randomize(stage, 2)
    torch.nn.init.normal_(stage.quantize.embedding.weight)
    return saved(kind(vqvae=stage, unet=unet, scheduler=scheduler()), folder)


def saved(pipeline, folder):
    """Returns a pipeline and its folder after saving it."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return pipeline, folder
