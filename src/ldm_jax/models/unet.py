"""The denoising U-Net."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.axes import shard_batch
from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.types import Array, Conditioning
from ldm_jax.models.unet_encoder import ApplyAttention, ApplyRes, UNetEncoder
from ldm_jax.nn.attention import SpatialTransformer
from ldm_jax.nn.linear import Conv
from ldm_jax.nn.normalization import EPS_UNET, group_norm
from ldm_jax.nn.resample import Upsample


class UNet(UNetEncoder):
    """Returns the network's prediction for noisy latents, [b, h, w, out_channels] float32.

    Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233) with the cross-attention of the
    paper's section 3.3. The last layer starts at zero, hence so does the output. What the
    output means (eps, x0, v) is decided in `ldm_jax.diffusion.parameterization`.

    Attributes, besides those of `UNetEncoder`, whose `out_channels` are the prediction's and whose
    `num_res_blocks` have one more on the way up:
      transformer_depth: number of blocks in each spatial transformer, which attends to the
        context; 0 for plain self-attention, with which a context is an error.
      linear_projections: the spatial transformers' projections are linear layers where other
        projects keep them, as in Stable Diffusion 2, rather than 1x1 convolutions. The same
        numbers in another shape: it is read by exports alone.
    """

    transformer_depth: int = 0
    linear_projections: bool = False

    def attention_kind(self) -> tuple[Any, dict[str, Any]]:
        """Returns the spatial transformer where there are any."""
        if self.transformer_depth:
            return SpatialTransformer, {"depth": self.transformer_depth}
        return super().attention_kind()

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
        emb = self.embed_time(t, conditioning.embedding)
        context = conditioning.context
        context = None if context is None else context.astype(self.dtype)
        inputs = (context,) if self.transformer_depth else ()
        res, attend = self.make_blocks(emb, deterministic, inputs)
        x = z_t
        if conditioning.concat is not None:
            x = jnp.concatenate([z_t, conditioning.concat.astype(z_t.dtype)], axis=-1)
        x, skips = self.go_down(x, res, attend)
        x = self._go_up(x, skips, res, attend)
        x = nn.silu(group_norm(self.num_groups, EPS_UNET, name="norm_out", **self.types)(x))
        x = Conv(self.out_channels, zero_init=True, name="conv_out", **self.types)(x)
        return x.astype(jnp.float32)

    def _go_up(
        self,
        x: Array,
        skips: list[Array],
        res: ApplyRes,
        attend: ApplyAttention,
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
                        x = shard_batch(Upsample(name=name, **self.types)(x))
        return x

    def _check_inputs(self, z_t: Array, t: Array, conditioning: Conditioning) -> None:
        self.check_latents(z_t, t)
        b, h, w, _ = z_t.shape
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
