"""The way down and the middle of a U-Net: what it shares with a classifier of its inputs."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.axes import shard_batch
from ldm_jax.core.checks import UserError, check_divides, check_in, check_positive, check_shape
from ldm_jax.core.types import Array
from ldm_jax.nn.attention import SelfAttentionBlock, check_attention
from ldm_jax.nn.embedding import timestep_embedding
from ldm_jax.nn.linear import Conv, Dense
from ldm_jax.nn.normalization import EPS_UNET
from ldm_jax.nn.remat import REMAT
from ldm_jax.nn.resample import PAD_SYMMETRIC, Downsample
from ldm_jax.nn.resnet import ResBlock

# (name, x, width, resample) -> x, and (name, x) -> x: a named block, applied.
ApplyRes = Callable[..., Array]
ApplyAttention = Callable[[str, Array], Array]


class UNetEncoder(nn.Module):
    """Fields, time embedding and blocks of a U-Net, down to its middle.

    Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233), section 3. A subclass calls
    `go_down` and `go_through_middle` in its `__call__`, with the blocks of `make_blocks`.

    Attributes:
      out_channels: of the last layer, whatever it gives.
      channels: width of the first level, multiplied by `channel_mult` on each.
      channel_mult: one multiplier per level; the resolution halves between levels.
      num_res_blocks: residual blocks per level on the way down.
      attention_factors: downsampling factors of the latent grid whose levels have attention
        (the reference's `attention_resolutions`). The middle always has it.
      num_heads: heads of every attention block, or
      num_head_channels: width of every head; exactly one of the two when there are
        `attention_factors`, and one head in the middle when neither is given.
      scale_shift_norm: the embedding scales and shifts the second norm of a residual block.
      resblock_updown: residual blocks change the resolution instead of convolutions.
      dropout: rate in the residual blocks; randomness from the 'dropout' stream.
      num_groups: of the group normalisations; must divide every width.
      remat: what the backward pass computes again, of `ldm_jax.nn.remat.REMAT`: 'none',
        'elementwise' (what is not a convolution or a matrix product), 'attention' (attention and
        transformer blocks), 'blocks' (every block), 'dots' (every block but its matrix products),
        'offload' (likewise, with these in the host's memory).
      attention_impl: see `ldm_jax.nn.attention.attend`.
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
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    dropout: float = 0.0
    num_groups: int = 32
    remat: str = "none"
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_in("remat", self.remat, tuple(REMAT))
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

    @property
    def types(self) -> dict[str, Any]:
        """The compute and parameter types, as keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def heads(self, width: int) -> int:
        """Returns the number of heads of an attention block of that width."""
        if self.num_head_channels is not None:
            return width // self.num_head_channels
        return self.num_heads or 1

    def embed_time(self, t: Array, embedding: Array | None = None) -> Array:
        """Returns what the residual blocks read, [b, 4 channels] float32; `embedding` is added."""
        # float32 whatever the compute type: it costs nothing, and bfloat16 cannot tell the
        # slow sinusoids of neighbouring times apart.
        types = {**self.types, "dtype": jnp.float32}
        width = 4 * self.channels
        emb = timestep_embedding(t, self.channels)
        emb = nn.silu(Dense(width, name="time_mlp_0", **types)(emb))
        emb = Dense(width, name="time_mlp_1", **types)(emb)
        return emb if embedding is None else emb + embedding.astype(emb.dtype)

    def make_blocks(
        self, emb: Array, deterministic: bool, attention_inputs: tuple[Any, ...] = ()
    ) -> tuple[ApplyRes, ApplyAttention]:
        """Returns `res(name, x, width, resample)` and `attend(name, x)`, which apply named blocks.

        Args:
          emb: of `embed_time`.
          deterministic: no dropout.
          attention_inputs: what attention blocks read besides the map.
        """
        res_block, attention_block = self._block_makers()

        def res(name: str, x: Array, width: int, resample: str = "none") -> Array:
            block = res_block(width, resample=resample, name=name)
            return shard_batch(block(x, emb, deterministic))

        def attend(name: str, x: Array) -> Array:
            block = attention_block(self.heads(x.shape[-1]), name=name)
            return shard_batch(block(x, *attention_inputs))

        return res, attend

    def attention_kind(self) -> tuple[Any, dict[str, Any]]:
        """Returns the class of the attention blocks, and the fields that only it has."""
        return SelfAttentionBlock, {"eps": EPS_UNET}

    def _block_makers(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Returns makers of residual and of attention blocks, recomputed as `remat` says."""
        res_class: Any = ResBlock
        attention_class, attention_fields = self.attention_kind()
        again = REMAT[self.remat]
        if again.residual:
            # Position 3, counting the module itself, is the Python bool `deterministic`.
            res_class = nn.remat(res_class, policy=again.policy, static_argnums=(3,))
        if again.attention:
            attention_class = nn.remat(attention_class, policy=again.policy)

        def make_res(width: int, **fields: Any) -> nn.Module:
            return res_class(
                width,
                eps=EPS_UNET,
                num_groups=self.num_groups,
                dropout=self.dropout,
                scale_shift_norm=self.scale_shift_norm,
                **fields,
                **self.types,
            )

        def make_attention(num_heads: int, **fields: Any) -> nn.Module:
            return attention_class(
                num_heads,
                num_groups=self.num_groups,
                attention_impl=self.attention_impl,
                **attention_fields,
                **fields,
                **self.types,
            )

        return make_res, make_attention

    def go_down(self, x: Array, res: ApplyRes, attend: ApplyAttention) -> tuple[Array, list[Array]]:
        """Returns the middle's result, and the maps on the way to it, first to last.

        Args:
          x: [b, h, w, c] what the network reads.
          res: of `make_blocks`.
          attend: likewise.
        """
        x = shard_batch(Conv(self.channels, name="conv_in", **self.types)(x))
        maps = [x]
        for level, multiplier in enumerate(self.channel_mult):
            with jax.named_scope(f"down_{level}"):
                for i in range(self.num_res_blocks):
                    x = res(f"down_{level}_res_{i}", x, self.channels * multiplier)
                    if 2**level in self.attention_factors:
                        x = attend(f"down_{level}_attn_{i}", x)
                    maps.append(x)
                if level < len(self.channel_mult) - 1:
                    name = f"down_{level}_downsample"
                    if self.resblock_updown:
                        x = res(name, x, x.shape[-1], "down")
                    else:
                        x = shard_batch(Downsample(PAD_SYMMETRIC, name=name, **self.types)(x))
                    maps.append(x)
        with jax.named_scope("mid"):
            x = res("mid_res_0", x, x.shape[-1])
            x = attend("mid_attn", x)
            x = res("mid_res_1", x, x.shape[-1])
        return x, maps

    def check_latents(self, z_t: Array, t: Array) -> None:
        """Raises UserError unless z_t is [b, h, w, c] with legal sizes and t is [b]."""
        check_shape("z_t", z_t.shape, (None, None, None, None))
        b, h, w, _ = z_t.shape
        check_shape("t", t.shape, (b,))
        multiple = self.size_multiple
        if h % multiple or w % multiple:
            raise UserError(
                f"latent size: got {h}x{w}, expected multiples of {multiple} on both sides. "
                f"Legal: {multiple}, {2 * multiple}, {3 * multiple}, ..."
            )
