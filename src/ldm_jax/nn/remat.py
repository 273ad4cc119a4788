"""Rematerialisation: what the backward pass of a block reads, and what it computes again.

Chen et al. 2016, https://arxiv.org/abs/1604.06174. Saved or recomputed, the numbers are the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_policies as policies

from ldm_jax.nn.flash import RESIDUALS

Policy = Callable[..., Any]


class Remat(NamedTuple):
    """Which blocks are computed again, and what of them is kept all the same; None for nothing."""

    residual: bool = True
    attention: bool = True
    policy: Policy | None = None


def _is_convolution(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive is jax.lax.conv_general_dilated_p


def _keep_products() -> Policy:
    """Keeps what costs arithmetic: convolutions, matrix products but those of logits, flash.

    What is computed again are normalisations and elementwise operations, which the compiler fuses
    into whatever reads them, and the logits of short attention.
    """
    return policies.save_from_both_policies(
        policies.save_from_both_policies(
            _is_convolution, policies.dots_with_no_batch_dims_saveable
        ),
        policies.save_only_these_names(RESIDUALS),
    )


REMAT = {
    "none": Remat(residual=False, attention=False),
    "elementwise": Remat(policy=_keep_products()),
    "attention": Remat(residual=False),
    "blocks": Remat(),
    "dots": Remat(policy=policies.dots_with_no_batch_dims_saveable),
    "offload": Remat(policy=policies.offload_dot_with_no_batch_dims("device", "pinned_host")),
}
