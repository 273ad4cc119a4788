"""Attention over tokens and over the pixels of a map, and the blocks made of it."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.types import Array
from ldm_jax.nn.flash import flash_attend, takes_flash
from ldm_jax.nn.linear import Dense
from ldm_jax.nn.normalization import EPS_TRANSFORMER, group_norm, layer_norm

ATTENTION_IMPLS = ("auto", "xla", "cudnn")


def check_attention(attention_impl: str, dtype: Any, head_dim: int) -> None:
    """Raises UserError unless the implementation exists and takes this type and head width."""
    check_in("attention_impl", attention_impl, ATTENTION_IMPLS)
    if attention_impl != "cudnn":
        return
    name = jnp.dtype(dtype).name
    if name not in ("bfloat16", "float16"):
        raise UserError(
            f"attention_impl='cudnn': got dtype={name}. Legal: bfloat16, float16, "
            "or attention_impl='xla' for any dtype."
        )
    if head_dim % 8 or head_dim > 256:
        raise UserError(
            f"attention_impl='cudnn': got a head width of {head_dim}. Legal: multiples of 8 up "
            "to 128 (256 from Hopper on), or attention_impl='xla' for any width."
        )


def attend(
    q: Array,
    k: Array,
    v: Array,
    attention_impl: str,
    causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """Returns softmax(q k^T / sqrt(d)) v per head, [b, n, heads, d].

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1. The logits and the softmax
    are float32 also for half-precision inputs. This is the one place that chooses an attention
    kernel.

    Args:
      q: [b, n, heads, d] queries.
      k: [b, m, heads, d] keys.
      v: [b, m, heads, d] values.
      attention_impl: 'auto' (on TPUs, in bfloat16, for long sequences, `flash_attend`; on CPUs, in
        float32, `attend_by_heads`; otherwise 'xla'), 'xla' (the logits are written out; the only
        one with a forward-mode derivative), or 'cudnn' (`flash_attend`'s like on NVIDIA GPUs, half
        precision).
      causal: query i sees the keys 0 .. i only; otherwise all of them.
      mask: [b, m] bool, the keys that any query sees; None for all of them.
    """

    def fused(q: Array, k: Array, v: Array) -> Array:
        implementation: Literal["xla", "cudnn"] = "cudnn" if attention_impl == "cudnn" else "xla"
        seen = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(
            q, k, v, mask=seen, is_causal=causal, implementation=implementation
        )

    if attention_impl != "auto" or causal or mask is not None:
        return fused(q, k, v)
    # By the platform that the program is lowered for, which may be another than this one.
    if q.dtype == jnp.float32:
        return jax.lax.platform_dependent(q, k, v, cpu=attend_by_heads, default=fused)
    if q.dtype == jnp.bfloat16 and takes_flash(q.shape[1], k.shape[1], q.shape[3]):
        return jax.lax.platform_dependent(q, k, v, tpu=flash_attend, default=fused)
    return fused(q, k, v)


def attend_by_heads(q: Array, k: Array, v: Array) -> Array:
    """Returns `attend` of float32 arrays with the heads before the tokens, for CPUs.

    XLA then multiplies matrices as they lie, where it would transpose the logits, which are by far
    the largest array here. It also writes out whatever is the size of the logits, so these are
    divided by their sums only after the product with v, and the gradient is spelled out below: half
    the time of what differentiating a softmax gives (jax 0.10.2).
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    return jnp.swapaxes(_softmax_product(q, k, v), 1, 2)


@jax.custom_vjp
def _softmax_product(q: Array, k: Array, v: Array) -> Array:
    """Returns softmax(q k^T) v; q is [b, heads, n, d], k and v are [b, heads, m, d]."""
    return _softmax_product_forward(q, k, v)[0]


def _softmax_product_forward(q: Array, k: Array, v: Array):
    s = jnp.einsum("bhnd,bhmd->bhnm", q, k)
    p = jnp.exp(s - jnp.max(s, axis=-1, keepdims=True))
    total = jnp.sum(p, axis=-1, keepdims=True)
    o = jnp.einsum("bhnm,bhmd->bhnd", p, v) / total
    return o, (q, k, v, p, total, o)


def _softmax_product_backward(kept: tuple[Array, ...], do: Array) -> tuple[Array, Array, Array]:
    q, k, v, p, total, o = kept
    do = do / total
    dv = jnp.einsum("bhnm,bhnd->bhmd", p, do)
    dp = jnp.einsum("bhnd,bhmd->bhnm", do, v)
    ds = p * (dp - jnp.sum(do * o, axis=-1, keepdims=True))
    return jnp.einsum("bhnm,bhmd->bhnd", ds, k), jnp.einsum("bhnm,bhnd->bhmd", ds, q), dv


_softmax_product.defvjp(_softmax_product_forward, _softmax_product_backward)


class Attention(nn.Module):
    """Returns multi-head attention of x to a context, [b, n, c] -> [b, n, c].

    Attributes:
      num_heads: h.
      head_dim: d; the inner width is h d, whatever c is, heads contiguous.
      qkv_bias: biases of `to_q`, `to_k` and `to_v`; `to_out` always has one.
      zero_init: `to_out` starts at zero.
      causal: see `attend`.
      attention_impl: see `attend`.
      dtype: type of the computation and of the result; the softmax is float32.
      param_dtype: type of the parameters.
    """

    num_heads: int
    head_dim: int
    qkv_bias: bool = False
    zero_init: bool = False
    causal: bool = False
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_attention(self.attention_impl, self.dtype, self.head_dim)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, mask: Array | None = None) -> Array:
        """Attends from x [b, n, c] to context [b, m, c'], or to x itself when it is None.

        `mask` is that of `attend`.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        context = x if context is None else context

        def project(name: str, tokens: Array) -> Array:
            inner = self.num_heads * self.head_dim
            y = Dense(inner, use_bias=self.qkv_bias, name=name, **types)(tokens)
            return y.reshape(*y.shape[:2], self.num_heads, self.head_dim)

        q, k, v = project("to_q", x), project("to_k", context), project("to_v", context)
        y = attend(q, k, v, self.attention_impl, self.causal, mask).reshape(*x.shape[:2], -1)
        return Dense(x.shape[-1], zero_init=self.zero_init, name="to_out", **types)(y)


class SelfAttentionBlock(nn.Module):
    """Returns x + attention(norm(x)) over the pixels of a map, [b, h, w, c] -> [b, h, w, c].

    The reference's `AttentionBlock` (U-Net, eps 1e-5, zero output) and `AttnBlock` (autoencoder,
    eps 1e-6, one head). Its fused head-major qkv is three layers here, so that each can be
    sharded by heads.
    """

    num_heads: int
    eps: float
    num_groups: int = 32
    zero_init: bool = True
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Attends over h w tokens in row-major order."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, h, w, c = x.shape
        y = group_norm(self.num_groups, self.eps, name="norm", **types)(x)
        y = Attention(
            self.num_heads,
            c // self.num_heads,
            qkv_bias=True,
            zero_init=self.zero_init,
            attention_impl=self.attention_impl,
            name="attn",
            **types,
        )(y.reshape(b, h * w, c))
        return x + y.reshape(b, h, w, c)


class GEGLU(nn.Module):
    """Returns out(value(x) * gelu(gate(x))) with hidden width 4c, [..., c] -> [..., c].

    Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6, with biases; the exact (erf)
    GELU. `value` and `gate` are separate layers: the split of one fused layer would cut across
    the shards of a tensor-parallel axis.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps the last axis."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = x.shape[-1]
        value = Dense(4 * width, name="value", **types)(x)
        gate = Dense(4 * width, name="gate", **types)(x)
        return Dense(width, name="out", **types)(value * gelu(gate))


def gelu(x: Array) -> Array:
    """Returns x Phi(x) with the normal distribution's exact Phi (erf), shaped like `x`."""
    return nn.gelu(x, approximate=False)


def quick_gelu(x: Array) -> Array:
    """Returns x sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


class FeedForward(nn.Module):
    """Returns out(activation(hidden(x))) with hidden width 4c, [..., c] -> [..., c].

    Attributes:
      activation: 'gelu' (exact) or 'quick_gelu'.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    activation: str = "gelu"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps the last axis."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = Dense(4 * x.shape[-1], name="hidden", **types)(x)
        return Dense(x.shape[-1], name="out", **types)(ACTIVATIONS[self.activation](h))


class EncoderLayer(nn.Module):
    """Returns x after self-attention and feed-forward, each x + f(layer_norm(x)), [b, n, c].

    Attributes as in `Attention` and `FeedForward`.
    """

    num_heads: int
    head_dim: int
    qkv_bias: bool = False
    causal: bool = False
    activation: str = "gelu"
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps tokens [b, n, c]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = Attention(
            self.num_heads,
            self.head_dim,
            qkv_bias=self.qkv_bias,
            causal=self.causal,
            attention_impl=self.attention_impl,
            name="attn",
            **types,
        )
        x = x + attention(layer_norm(name="norm_attn", **types)(x))
        feed_forward = FeedForward(self.activation, name="ff", **types)
        return x + feed_forward(layer_norm(name="norm_ff", **types)(x))


class TransformerBlock(nn.Module):
    """Returns x after self-attention, cross-attention and GEGLU, each x + f(layer_norm(x)).

    The order is the reference code's; the paper's Table 16 lists the feed-forward layer second.
    """

    num_heads: int
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Maps tokens [b, n, c]; context [b, m, d], or None to attend to x a second time."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def attention(name: str) -> Attention:
            head_dim = x.shape[-1] // self.num_heads
            impl = self.attention_impl
            return Attention(self.num_heads, head_dim, attention_impl=impl, name=name, **types)

        x = x + attention("self_attn")(layer_norm(name="norm_self", **types)(x))
        x = x + attention("cross_attn")(layer_norm(name="norm_cross", **types)(x), context)
        return x + GEGLU(name="ff", **types)(layer_norm(name="norm_ff", **types)(x))


class SpatialTransformer(nn.Module):
    """Returns x + proj_out(blocks(proj_in(norm(x)))) on a map, [b, h, w, c] -> [b, h, w, c].

    Paper, section 3.3 and appendix E.2.1: the route by which tokens condition the U-Net.

    Attributes:
      num_heads: heads of every attention layer; must divide c.
      depth: number of transformer blocks.
      num_groups: of the group normalisation, whose epsilon is 1e-6.
      attention_impl: see `attend`.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    num_heads: int
    depth: int = 1
    num_groups: int = 32
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Maps x; context [b, m, d], or None for self-attention only."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, h, w, c = x.shape
        y = group_norm(self.num_groups, EPS_TRANSFORMER, name="norm", **types)(x)
        y = Dense(c, name="proj_in", **types)(y.reshape(b, h * w, c))
        for i in range(self.depth):
            impl = self.attention_impl
            block = TransformerBlock(self.num_heads, impl, name=f"block_{i}", **types)
            y = block(y, context)
        y = Dense(c, zero_init=True, name="proj_out", **types)(y)
        return x + y.reshape(b, h, w, c)
