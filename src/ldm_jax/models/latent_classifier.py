"""The classifier of noisy latents, whose gradient guides a diffusion model."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.types import Array
from ldm_jax.models.unet_encoder import UNetEncoder
from ldm_jax.nn.attention import attend
from ldm_jax.nn.linear import Dense
from ldm_jax.nn.normalization import EPS_UNET, group_norm

POOLS = ("adaptive", "attention", "spatial", "spatial_v2")
_HIDDEN = 2048  # width of the spatial heads, and their groups, whatever those of the blocks are
_HIDDEN_GROUPS = 32


class AttentionPool(nn.Module):
    """Returns what one query, the mean over a map, reads of the map, [b, h, w, c] -> [b, features].

    Radford et al. 2021 (https://arxiv.org/abs/2103.00020), section 2.4: the mean comes first
    among the tokens, each has a learned position, and the mean alone asks. The positions, which
    start as N(0, 1/c), tie the layer to maps of one size.

    Attributes:
      features: of the result.
      num_heads: must divide c.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    features: int
    num_heads: int
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Pools maps of the size that the layer was made for.

        Raises:
          UserError: maps of another size.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, h, w, c = x.shape
        self._check_size(h * w)
        init = jax.nn.initializers.normal(c**-0.5)
        positions = self.param("positions", init, (1 + h * w, c), self.param_dtype)
        cells = x.reshape(b, h * w, c)
        tokens = jnp.concatenate([cells.mean(axis=1, keepdims=True), cells], axis=1)
        tokens = tokens.astype(self.dtype) + positions.astype(self.dtype)[None]

        def project(name: str, tokens: Array) -> Array:
            y = Dense(c, name=name, **types)(tokens)
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        q, k, v = project("to_q", tokens[:, :1]), project("to_k", tokens), project("to_v", tokens)
        y = attend(q, k, v, self.attention_impl).reshape(b, c)
        return Dense(self.features, name="to_out", **types)(y)

    def _check_size(self, cells: int) -> None:
        if self.has_variable("params", "positions"):
            expected = self.get_variable("params", "positions").shape[0] - 1
            if cells != expected:
                raise UserError(
                    f"attention pool: got a map of {cells} pixels, expected {expected}. Legal: "
                    "latents of the size that it was trained on, or another pool."
                )


class LatentClassifier(UNetEncoder):
    """Returns the logits of the classes of noisy latents, [b, out_channels] float32.

    Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233), section 4, in latent space: the
    half of a U-Net before its way up, and a head.

    Attributes, besides those of `UNetEncoder`, whose `out_channels` are the classes:
      pool: the head. 'adaptive': the mean of the normalised last map, then a linear layer that
        starts at zero, hence uniform probabilities. 'attention': an `AttentionPool` of that map.
        'spatial': a perceptron on the means of all maps, the network's every stage, with ReLU
        and no normalisation; 'spatial_v2': with group normalisation and SiLU.
    """

    pool: str = "adaptive"

    def __post_init__(self) -> None:
        check_in("pool", self.pool, POOLS)
        super().__post_init__()

    @property
    def num_classes(self) -> int:
        """The classes that it tells apart, 0 .. num_classes - 1."""
        return self.out_channels

    @nn.compact
    def __call__(self, z_t: Array, t: Array, *, deterministic: bool = True) -> Array:
        """Classifies.

        Args:
          z_t: [b, h, w, c] latents; h and w are multiples of `size_multiple`.
          t: [b] times in units of training steps, 0 to T - 1, float.
          deterministic: no dropout.

        Raises:
          UserError: for sizes that this network cannot take.
        """
        self.check_latents(z_t, t)
        res, apply_attention = self.make_blocks(self.embed_time(t), deterministic)
        x, maps = self.go_down(z_t, res, apply_attention)
        with jax.named_scope("head"):
            head = self._spatial([*maps, x]) if self.pool.startswith("spatial") else self._pooled(x)
        return head.astype(jnp.float32)

    def _pooled(self, x: Array) -> Array:
        x = nn.silu(group_norm(self.num_groups, EPS_UNET, name="norm_out", **self.types)(x))
        if self.pool == "adaptive":
            mean = x.mean(axis=(1, 2))
            return Dense(self.out_channels, zero_init=True, name="out", **self.types)(mean)
        heads, impl = self.heads(x.shape[-1]), self.attention_impl
        return AttentionPool(self.out_channels, heads, impl, name="pool", **self.types)(x)

    def _spatial(self, maps: list[Array]) -> Array:
        means = jnp.concatenate([x.mean(axis=(1, 2)) for x in maps], axis=-1)
        x = Dense(_HIDDEN, name="hidden", **self.types)(means)
        if self.pool == "spatial":
            x = nn.relu(x)
        else:
            x = nn.silu(group_norm(_HIDDEN_GROUPS, EPS_UNET, name="norm_out", **self.types)(x))
        return Dense(self.out_channels, name="out", **self.types)(x)
