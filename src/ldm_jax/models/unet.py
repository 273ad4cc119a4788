"""The denoising U-Net."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.axes import shard_batch
from ldm_jax.core.checks import UserError, check_divides, check_in, check_positive, check_shape
from ldm_jax.core.types import Array, Conditioning
from ldm_jax.nn.attention import SelfAttentionBlock, SpatialTransformer, check_attention
from ldm_jax.nn.embedding import timestep_embedding
from ldm_jax.nn.linear import Conv, Dense
from ldm_jax.nn.normalization import EPS_UNET, group_norm
from ldm_jax.nn.resample import PAD_SYMMETRIC, Downsample, Upsample
from ldm_jax.nn.resnet import ResBlock

REMAT_MODES = ("none", "attention", "blocks", "dots")


class UNet(nn.Module):
    """Returns the network's prediction for noisy latents, [b, h, w, out_channels] float32.

    Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233) with the cross-attention of the
    paper's section 3.3. The last layer starts at zero, hence so does the output. What the
    output means (eps, x0, v) is decided in `ldm_jax.diffusion.parameterization`.

    Attributes:
      out_channels: of the prediction.
      channels: width of the first level, multiplied by `channel_mult` on each.
      channel_mult: one multiplier per level; the resolution halves between levels.
      num_res_blocks: residual blocks per level on the way down; one more on the way up.
      attention_factors: downsampling factors of the latent grid whose levels have attention
        (the reference's `attention_resolutions`). The middle always has it.
      num_heads: heads of every attention block, or
      num_head_channels: width of every head; exactly one of the two when there are
        `attention_factors`, and one head in the middle when neither is given.
      transformer_depth: number of blocks in each spatial transformer, which attends to the
        context; 0 for plain self-attention, with which a context is an error.
      linear_projections: the spatial transformers' projections are linear layers where other
        projects keep them, as in Stable Diffusion 2, rather than 1x1 convolutions. The same
        numbers in another shape: it is read by exports alone.
      scale_shift_norm: the embedding scales and shifts the second norm of a residual block.
      resblock_updown: residual blocks change the resolution instead of convolutions.
      dropout: rate in the residual blocks; randomness from the 'dropout' stream.
      num_groups: of the group normalisations; must divide every width.
      remat: what the backward pass recomputes: 'none', 'attention' (attention and transformer
        blocks), 'blocks' (every block), 'dots' (every block but the results of its matrix
        products without batch dimensions).
      attention_impl: 'xla', or 'cudnn' (NVIDIA GPUs, half precision).
      dtype: type of the computation; statistics, softmax and time embedding are float32.
      param_dtype: type of the parameters.
    """

    out_channels: int
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = ()
    num_heads: int | None = None
    num_head_channels: int | None = None
    transformer_depth: int = 0
    linear_projections: bool = False
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    dropout: float = 0.0
    num_groups: int = 32
    remat: str = "none"
    attention_impl: str = "xla"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_in("remat", self.remat, REMAT_MODES)
        for field in ("out_channels", "channels"):
            check_positive(field, [getattr(self, field)])
        check_positive("channel_mult", self.channel_mult)
        given = sum(count is not None for count in (self.num_heads, self.num_head_channels))
        if given > 1 or (self.attention_factors and not given):
            raise UserError(
                f"attention heads: got num_heads={self.num_heads}, "
                f"num_head_channels={self.num_head_channels}, expected exactly one of the two."
            )
        for level, multiplier in enumerate(self.channel_mult):
            width = self.channels * multiplier
            check_divides("num_groups", self.num_groups, f"the width of level {level}", width)
            if 2**level in self.attention_factors or level == len(self.channel_mult) - 1:
                self._check_heads(f"the width of level {level}", width)
        super().__post_init__()

    def _check_heads(self, where: str, width: int) -> None:
        if self.num_head_channels is not None:
            check_divides("num_head_channels", self.num_head_channels, where, width)
        if self.num_heads is not None:
            check_divides("num_heads", self.num_heads, where, width)
        check_attention(self.attention_impl, self.dtype, width // self.heads(width))

    @property
    def size_multiple(self) -> int:
        """The number that must divide the height and the width of a latent."""
        return 2 ** (len(self.channel_mult) - 1)

    @nn.compact
    def __call__(
        self,
        z_t: Array,
        t: Array,
        conditioning: Conditioning | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Predicts from noisy latents.

        Args:
          z_t: [b, h, w, c] latents; h and w are multiples of `size_multiple`.
          t: [b] times in units of training steps, 0 to T - 1, float.
          conditioning: `concat` [b, h, w, c'] is appended to the channels of z_t, `context`
            [b, m, d] goes to the spatial transformers (without it they attend to themselves),
            `embedding` [b, 4 channels] is added to the time embedding.
          deterministic: no dropout.

        Raises:
          UserError: for sizes and conditioning that this network cannot take.
        """
        conditioning = Conditioning() if conditioning is None else conditioning
        self._check_inputs(z_t, t, conditioning)
        emb = self._embed_time(t, conditioning.embedding)
        context = conditioning.context
        context = None if context is None else context.astype(self.dtype)
        res_block, attention_block = self._block_makers()

        def res(name: str, x: Array, width: int, resample: str = "none") -> Array:
            block = res_block(width, resample=resample, name=name)
            return shard_batch(block(x, emb, deterministic))

        def attend(name: str, x: Array) -> Array:
            block = attention_block(self.heads(x.shape[-1]), name=name)
            return shard_batch(block(x, context) if self.transformer_depth else block(x))

        x = z_t
        if conditioning.concat is not None:
            x = jnp.concatenate([z_t, conditioning.concat.astype(z_t.dtype)], axis=-1)
        x = shard_batch(Conv(self.channels, name="conv_in", **self._types)(x))
        x, skips = self._go_down(x, res, attend)
        with jax.named_scope("mid"):
            x = res("mid_res_0", x, x.shape[-1])
            x = attend("mid_attn", x)
            x = res("mid_res_1", x, x.shape[-1])
        x = self._go_up(x, skips, res, attend)
        x = nn.silu(group_norm(self.num_groups, EPS_UNET, name="norm_out", **self._types)(x))
        x = Conv(self.out_channels, zero_init=True, name="conv_out", **self._types)(x)
        return x.astype(jnp.float32)

    def _go_down(
        self, x: Array, res: Callable[..., Array], attend: Callable[..., Array]
    ) -> tuple[Array, list[Array]]:
        """Returns the lowest resolution, and every map that the way up will need."""
        skips = [x]
        for level, multiplier in enumerate(self.channel_mult):
            with jax.named_scope(f"down_{level}"):
                for i in range(self.num_res_blocks):
                    x = res(f"down_{level}_res_{i}", x, self.channels * multiplier)
                    if 2**level in self.attention_factors:
                        x = attend(f"down_{level}_attn_{i}", x)
                    skips.append(x)
                if level < len(self.channel_mult) - 1:
                    name = f"down_{level}_downsample"
                    if self.resblock_updown:
                        x = res(name, x, x.shape[-1], "down")
                    else:
                        x = shard_batch(Downsample(PAD_SYMMETRIC, name=name, **self._types)(x))
                    skips.append(x)
        return x, skips

    def _go_up(
        self,
        x: Array,
        skips: list[Array],
        res: Callable[..., Array],
        attend: Callable[..., Array],
    ) -> Array:
        for level, multiplier in reversed(list(enumerate(self.channel_mult))):
            with jax.named_scope(f"up_{level}"):
                for i in range(self.num_res_blocks + 1):
                    x = jnp.concatenate([x, skips.pop()], axis=-1)
                    x = res(f"up_{level}_res_{i}", x, self.channels * multiplier)
                    if 2**level in self.attention_factors:
                        x = attend(f"up_{level}_attn_{i}", x)
                if level:
                    name = f"up_{level}_upsample"
                    if self.resblock_updown:
                        x = res(name, x, x.shape[-1], "up")
                    else:
                        x = shard_batch(Upsample(name=name, **self._types)(x))
        return x

    def _embed_time(self, t: Array, embedding: Array | None) -> Array:
        # float32 whatever the compute type: it costs nothing, and bfloat16 cannot tell the
        # slow sinusoids of neighbouring times apart.
        types = {**self._types, "dtype": jnp.float32}
        width = 4 * self.channels
        emb = timestep_embedding(t, self.channels)
        emb = nn.silu(Dense(width, name="time_mlp_0", **types)(emb))
        emb = Dense(width, name="time_mlp_1", **types)(emb)
        return emb if embedding is None else emb + embedding.astype(emb.dtype)

    def _block_makers(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Returns makers of residual and of attention blocks, recomputed as `remat` says."""
        res_class: Any = ResBlock
        attention_class: Any = SelfAttentionBlock
        attention_fields: dict[str, Any] = {"eps": EPS_UNET}
        if self.transformer_depth:
            attention_class = SpatialTransformer
            attention_fields = {"depth": self.transformer_depth}
        policy = None
        if self.remat == "dots":
            policy = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
        if self.remat in ("blocks", "dots"):
            # Position 3, counting the module itself, is the Python bool `deterministic`.
            res_class = nn.remat(res_class, policy=policy, static_argnums=(3,))
        if self.remat != "none":
            attention_class = nn.remat(attention_class, policy=policy)

        def make_res(width: int, **fields: Any) -> nn.Module:
            return res_class(
                width,
                eps=EPS_UNET,
                num_groups=self.num_groups,
                dropout=self.dropout,
                scale_shift_norm=self.scale_shift_norm,
                **fields,
                **self._types,
            )

        def make_attention(num_heads: int, **fields: Any) -> nn.Module:
            return attention_class(
                num_heads,
                num_groups=self.num_groups,
                attention_impl=self.attention_impl,
                **attention_fields,
                **fields,
                **self._types,
            )

        return make_res, make_attention

    @property
    def _types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def heads(self, width: int) -> int:
        """Returns the number of heads of an attention block of that width."""
        if self.num_head_channels is not None:
            return width // self.num_head_channels
        return self.num_heads or 1

    def _check_inputs(self, z_t: Array, t: Array, conditioning: Conditioning) -> None:
        check_shape("z_t", z_t.shape, (None, None, None, None))
        b, h, w, _ = z_t.shape
        check_shape("t", t.shape, (b,))
        multiple = self.size_multiple
        if h % multiple or w % multiple:
            raise UserError(
                f"latent size: got {h}x{w}, expected multiples of {multiple} on both sides. "
                f"Legal: {multiple}, {2 * multiple}, {3 * multiple}, ..."
            )
        if conditioning.concat is not None:
            check_shape("conditioning.concat", conditioning.concat.shape, (b, h, w, None))
        if conditioning.embedding is not None:
            expected = (b, 4 * self.channels)
            check_shape("conditioning.embedding", conditioning.embedding.shape, expected)
        if conditioning.context is not None:
            if not self.transformer_depth:
                raise UserError(
                    "conditioning.context: got tokens, but transformer_depth=0 has no "
                    "cross-attention. Legal: transformer_depth >= 1, or a conditioner whose "
                    "route is 'embedding' or 'concat'."
                )
            check_shape("conditioning.context", conditioning.context.shape, (b, None, None))
