"""What CompVis, OpenCLIP, transformers and diffusers call the layers of the conditioners."""

from ldm_jax.conditioning.bert_text import BertText
from ldm_jax.conditioning.class_label import ClassLabel
from ldm_jax.conditioning.clip_text import ClipText
from ldm_jax.conditioning.spatial_rescaler import SpatialRescaler
from ldm_jax.conditioning.text_transformer import TextTransformer
from ldm_jax.interop.mapping import Cell, Cells

# Ours to transformers' CLIPTextModel; {} is the number of the layer.
_CLIP = {
    "token_embedding": "embeddings.token_embedding",
    "position_embedding": "embeddings.position_embedding.weight",
    "norm_out": "final_layer_norm",
    "norm_attn": "encoder.layers.{}.layer_norm1",
    "attn/to_q": "encoder.layers.{}.self_attn.q_proj",
    "attn/to_k": "encoder.layers.{}.self_attn.k_proj",
    "attn/to_v": "encoder.layers.{}.self_attn.v_proj",
    "attn/to_out": "encoder.layers.{}.self_attn.out_proj",
    "norm_ff": "encoder.layers.{}.layer_norm2",
    "ff/hidden": "encoder.layers.{}.mlp.fc1",
    "ff/out": "encoder.layers.{}.mlp.fc2",
}
# Ours to OpenCLIP, which keeps q, k and v as one.
_OPEN_CLIP = {
    "token_embedding": "token_embedding",
    "position_embedding": "positional_embedding",
    "norm_out": "ln_final",
    "norm_attn": "transformer.resblocks.{}.ln_1",
    "attn/to_q": "transformer.resblocks.{}.attn.in_proj",
    "attn/to_k": "transformer.resblocks.{}.attn.in_proj",
    "attn/to_v": "transformer.resblocks.{}.attn.in_proj",
    "attn/to_out": "transformer.resblocks.{}.attn.out_proj",
    "norm_ff": "transformer.resblocks.{}.ln_2",
    "ff/hidden": "transformer.resblocks.{}.mlp.c_fc",
    "ff/out": "transformer.resblocks.{}.mlp.c_proj",
}
# ViT-H/14's text tower by its width and its layers; Stable Diffusion 2 skips the last of them.
_TOWER_WIDTH, _TOWER_LAYERS = 1024, 24
_QKV = {"attn/to_q": 0, "attn/to_k": 1, "attn/to_v": 2}
# Ours to CompVis' BERTEmbedder, whose attention and feed-forward layers are counted through.
_BERT = {
    "token_embedding": "transformer.token_emb",
    "position_embedding": "transformer.pos_emb.emb.weight",
    "norm_out": "transformer.norm",
    "to_logits": "transformer.to_logits",
    "norm_attn": "transformer.attn_layers.layers.{even}.0",
    "attn/to_q": "transformer.attn_layers.layers.{even}.1.to_q",
    "attn/to_k": "transformer.attn_layers.layers.{even}.1.to_k",
    "attn/to_v": "transformer.attn_layers.layers.{even}.1.to_v",
    "attn/to_out": "transformer.attn_layers.layers.{even}.1.to_out",
    "norm_ff": "transformer.attn_layers.layers.{odd}.0",
    "ff/hidden": "transformer.attn_layers.layers.{odd}.1.net.0.0",
    "ff/out": "transformer.attn_layers.layers.{odd}.1.net.2",
}
# Ours to diffusers' LDMBertModel.
_LDM_BERT = {
    "token_embedding": "model.embed_tokens",
    "position_embedding": "model.embed_positions.weight",
    "norm_out": "model.layer_norm",
    "to_logits": "to_logits",
    "norm_attn": "model.layers.{}.self_attn_layer_norm",
    "attn/to_q": "model.layers.{}.self_attn.q_proj",
    "attn/to_k": "model.layers.{}.self_attn.k_proj",
    "attn/to_v": "model.layers.{}.self_attn.v_proj",
    "attn/to_out": "model.layers.{}.self_attn.out_proj",
    "norm_ff": "model.layers.{}.final_layer_norm",
    "ff/hidden": "model.layers.{}.fc1",
    "ff/out": "model.layers.{}.fc2",
}

# Ours to transformers' BertModel.
_BERT_MODEL = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings.weight",
    "type_embedding": "embeddings.token_type_embeddings.weight",
    "norm_embedding": "embeddings.LayerNorm",
    "attn/to_q": "encoder.layer.{}.attention.self.query",
    "attn/to_k": "encoder.layer.{}.attention.self.key",
    "attn/to_v": "encoder.layer.{}.attention.self.value",
    "attn/to_out": "encoder.layer.{}.attention.output.dense",
    "norm_attn": "encoder.layer.{}.attention.output.LayerNorm",
    "ff/hidden": "encoder.layer.{}.intermediate.dense",
    "ff/out": "encoder.layer.{}.output.dense",
    "norm_ff": "encoder.layer.{}.output.LayerNorm",
}


def layers_read(width: int, layers: int) -> int:
    """Returns how many of a text tower's layers are read: all, or all but the last of ViT-H/14's.

    Files that leave the last one out, as ours and those of diffusers do, have 23.
    """
    return layers - 1 if (width, layers) == (_TOWER_WIDTH, _TOWER_LAYERS) else layers


def clip_activation(width: int) -> str:
    """Returns the activation of a published text tower: OpenAI's quick GELU, or OpenCLIP's GELU."""
    return "gelu" if width == _TOWER_WIDTH else "quick_gelu"


def transformers_clip(model: ClipText) -> Cells:
    """Returns where transformers' CLIPTextModel keeps each layer, without 'text_model.'."""
    del model
    return lambda path: Cell(_numbered(_CLIP, path))


def open_clip(model: ClipText) -> Cells:
    """Returns where OpenCLIP's text tower keeps each layer."""
    del model

    def cells(path: str) -> Cell:
        name = _numbered(_OPEN_CLIP, path)
        layer = path.partition("/")[2]
        if layer in _QKV:
            return Cell(name, part=_QKV[layer], joint="_")
        return Cell(name)

    return cells


def transformers_bert(model: BertText) -> Cells:
    """Returns where transformers' BertModel keeps each layer, without 'bert.'."""
    del model
    return lambda path: Cell(_numbered(_BERT_MODEL, path))


def compvis_bert(model: TextTransformer) -> Cells:
    """Returns where CompVis' BERTEmbedder keeps each layer."""
    del model
    return lambda path: Cell(_numbered(_BERT, path))


def diffusers_bert(model: TextTransformer) -> Cells:
    """Returns where diffusers' LDMBertModel keeps each layer."""
    del model
    return lambda path: Cell(_numbered(_LDM_BERT, path))


def compvis_class_label(model: ClassLabel) -> Cells:
    """Returns where CompVis' ClassEmbedder keeps its table."""
    del model
    return lambda path: Cell("embedding")


def diffusers_class_label(model: ClassLabel) -> Cells:
    """Returns where diffusers' U-Nets keep the table of classes."""
    del model
    return lambda path: Cell("class_embedding")


def compvis_rescaler(model: SpatialRescaler) -> Cells:
    """Returns where CompVis' SpatialRescaler keeps its kernel, a 1x1 convolution."""
    del model
    return lambda path: Cell("channel_mapper.weight", axes=2)


def _numbered(table: dict[str, str], path: str) -> str:
    number = 0
    if path.startswith("layer_"):
        layer, _, path = path.partition("/")
        number = int(layer.removeprefix("layer_"))
    return table[path].format(number, even=2 * number, odd=2 * number + 1)
