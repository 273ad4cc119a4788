"""Training of a first stage as the paper does: perceptual distance and a discriminator."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.rng import Purpose, StepKeys
from ldm_jax.core.types import Array, Batch, PyTree
from ldm_jax.models.lpips import LPIPS
from ldm_jax.models.quantizer import code_shares, perplexity
from ldm_jax.models.vq_autoencoder import Code
from ldm_jax.tasks.autoencoder import FirstStageTask
from ldm_jax.tasks.base import LossOutput, to_float_images

_MAX_WEIGHT, _EPS = 1e4, 1e-4


def hinge(real: Array, fake: Array) -> Array:
    """Returns (mean relu(1 - real) + mean relu(1 + fake)) / 2 of logits, scalar."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def vanilla(real: Array, fake: Array) -> Array:
    """Returns (mean softplus(-real) + mean softplus(fake)) / 2 of logits, scalar."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


DISCRIMINATOR_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "hinge": hinge,
    "vanilla": vanilla,
}
PIXEL_LOSSES: dict[str, Callable[[Array], Array]] = {"l1": jnp.abs, "l2": jnp.square}
REDUCTIONS = ("sum", "mean")
CODE_INITS = ("uniform", "data")
_MEMORY = 0.99  # how much of the past the average of the codes' use keeps


@flax.struct.dataclass
class Perceptual:
    """What the losses read and nobody trains: the parameters of LPIPS."""

    lpips: PyTree


@dataclasses.dataclass(frozen=True)
class AdversarialAutoencoderTask(FirstStageTask):
    """Reconstruction judged by pixels, by features and by a discriminator (paper, appendix G).

    nll = (|x - x̂| + perceptual_weight · LPIPS(x, x̂)) / exp(logvar) + logvar, per pixel and channel,
    reduced by `reduction`; the generator's loss is

      nll + weight · g + kl_weight · KL (or codebook_weight · codebook loss),   g = -mean D(x̂)

    where weight = disc_weight · clip(‖∂nll/∂W‖ / (‖∂g/∂W‖ + 1e-4), 0, 1e4) with W the decoder's
    last kernel, and 0 before `disc_start`. Esser et al. 2021 (https://arxiv.org/abs/2012.09841),
    equations 6 and 7. The discriminator then learns from a new reconstruction, whose gradient ends
    at the image.

    Attributes:
      discriminator: judges images.
      pixel_loss: 'l1' or 'l2'.
      perceptual_weight: of LPIPS against pixels.
      reduction: 'sum' over an image and mean over the batch, as the reference has it for KL
        models, with KL summed likewise; 'mean' over everything, as it has it for VQ models.
      disc_start: step of the first adversarial gradient.
      disc_weight: see above.
      disc_loss: 'hinge' or 'vanilla'.
      learned_logvar: train logvar, one number for all pixels. Differs from the reference, which
        means to and never gives it to an optimizer: there and by default it stays at 0.
      reference: what the reference does and does not mean: beta on the codebook's term instead of
        the commitment's, and, unless `lpips` is given, dropout 0.5 within LPIPS.
      code_init: 'uniform' (the reference), or 'data': the first batch's latents become the codes.
      revive_below: replace codes taken less often than this share of the even one; 0 never does.
        Their use is averaged over about a hundred batches, or micro-batches.
      lpips: the perceptual distance, without dropout if not given; its parameters are in `frozen`.
    """

    discriminator: Any = None
    pixel_loss: str = "l1"
    perceptual_weight: float = 1.0
    reduction: str = "sum"
    disc_start: int = 50_001
    disc_weight: float = 0.5
    disc_loss: str = "hinge"
    learned_logvar: bool = False
    reference: bool = False
    code_init: str = "uniform"
    revive_below: float = 0.0
    lpips: LPIPS | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_in("task.pixel_loss", self.pixel_loss, PIXEL_LOSSES)
        check_in("task.reduction", self.reduction, REDUCTIONS)
        check_in("task.disc_loss", self.disc_loss, DISCRIMINATOR_LOSSES)
        check_in("task.code_init", self.code_init, CODE_INITS)
        self._check_not_negative("perceptual_weight", "disc_weight", "disc_start", "revive_below")
        quantised = hasattr(self.model, "num_codes")
        if not quantised and (self.code_init != "uniform" or self.revive_below):
            raise UserError(
                "task.code_init, task.revive_below: the model has no codebook. Legal: with "
                "task.model.name=autoencoder_vq only."
            )

    @property
    def perceptual_distance(self) -> LPIPS:
        """LPIPS as this task has it."""
        return self.lpips or LPIPS(dropout=0.5 if self.reference else 0.0)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The generator first, then the discriminator, which sees the generator's update."""
        generator = ("autoencoder", "logvar") if self.learned_logvar else ("autoencoder",)
        return {"generator": generator, "discriminator": ("discriminator",)}

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """Returns fresh parameters, and the discriminator's statistics as mutable collections."""
        autoencoder_key, discriminator_key = jax.random.split(key)
        params, _ = super().init(autoencoder_key, batch)
        images = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        found = dict(self.discriminator.init(discriminator_key, images))
        params["discriminator"] = found.pop("params")
        if self.learned_logvar:
            params["logvar"] = {"value": jnp.zeros(())}
        mutable = {"discriminator": found}
        if "codebook" in params["autoencoder"]:
            codebook = params["autoencoder"]["codebook"]
            even = jnp.full(codebook.shape[:1], 1.0 / codebook.shape[0], jnp.float32)
            mutable["codebook"] = {"shares": even, "candidates": codebook.astype(jnp.float32)}
        return params, mutable

    def loss(
        self,
        group: str,
        params: PyTree,
        mutable: PyTree,
        frozen: Perceptual,
        batch: Batch,
        keys: StepKeys,
    ) -> LossOutput:
        """Returns the loss of the generator or of the discriminator."""
        x = to_float_images(batch["image"])
        if group == "discriminator":
            return self._discriminator_loss(params, mutable, x, keys)
        return self._generator_loss(params, mutable, frozen, x, keys)

    def _generator_loss(
        self, params: PyTree, mutable: PyTree, frozen: Perceptual, x: Array, keys: StepKeys
    ) -> LossOutput:
        last = params["autoencoder"]["decoder"]["conv_out"]["kernel"]

        def of_last_kernel(kernel: Array) -> tuple[Array, Any]:
            return self.forward(_with_last_kernel(params, kernel), x, keys)

        # Only the last layer is differentiated here, once for each of the two losses; the rest
        # of the backward pass is the train step's, once for their sum.
        x_hat, pull, posterior = jax.vjp(of_last_kernel, last, has_aux=True)
        fixed = jax.lax.stop_gradient(x_hat)
        logvar = params["logvar"]["value"] if self.learned_logvar else jnp.zeros(())

        def nll_of(x_hat: Array, logvar: Array) -> tuple[Array, dict[str, Array]]:
            return self._nll(frozen, x, x_hat, logvar, keys)

        (nll, metrics), (to_nll, to_logvar) = jax.value_and_grad(nll_of, (0, 1), has_aux=True)(
            fixed, jax.lax.stop_gradient(logvar)
        )
        judge = self._judge(jax.lax.stop_gradient(params), mutable)
        g, to_g = jax.value_and_grad(lambda x_hat: -jnp.mean(judge(x_hat)))(fixed)
        weight = self.disc_weight * adaptive_weight(pull(to_nll)[0], pull(to_g)[0])
        factor = jnp.where(keys.step >= self.disc_start, weight, 0.0)

        value = nll + factor * g
        loss = _with_gradient(value, x_hat, to_nll + factor * to_g)
        if self.learned_logvar:
            loss = loss + _with_gradient(jnp.zeros(()), logvar, to_logvar)
        name, penalty, share = self._regularization(posterior, x)
        metrics |= {name: penalty, "g_loss": g, "d_weight": weight, "nll": nll}
        if self.learned_logvar:
            metrics["logvar"] = logvar
        if isinstance(posterior, Code):
            usage, health = self._watch(mutable["codebook"], posterior, keys)
            mutable, metrics = {**mutable, "codebook": usage}, metrics | health
        return LossOutput(loss + share, metrics, mutable)

    def _nll(
        self, frozen: Perceptual, x: Array, x_hat: Array, logvar: Array, keys: StepKeys
    ) -> tuple[Array, dict[str, Array]]:
        error = PIXEL_LOSSES[self.pixel_loss](x - x_hat)
        l2 = jnp.mean(jnp.square(x - x_hat))
        metrics = {self.pixel_loss: jnp.mean(error), "psnr": 10 * jnp.log10(4.0 / l2)}
        if self.perceptual_weight:
            distance = self._distance(frozen, x, x_hat, keys)
            error = error + self.perceptual_weight * distance[:, None, None, None]
            metrics["lpips"] = jnp.mean(distance)
        likelihood = error / jnp.exp(logvar) + logvar
        size = x[0].size if self.reduction == "sum" else 1
        return jnp.mean(likelihood) * size, metrics

    def _distance(self, frozen: Perceptual, x: Array, x_hat: Array, keys: StepKeys) -> Array:
        dropout = {"dropout": keys.shared(Purpose.LPIPS_DROPOUT)}
        variables = {"params": frozen.lpips}
        distance = self.perceptual_distance.apply(
            variables, x, x_hat, deterministic=False, rngs=dropout
        )
        return cast(Array, distance)

    def _regularization(self, posterior: Any, x: Array) -> tuple[str, Array, Array]:
        """Returns its name, its value, and its share of the loss."""
        if isinstance(posterior, Code):
            value = posterior.codebook_loss(self.codebook_beta, reference=self.reference)
            return "codebook", value, self.codebook_weight * value
        kl = jnp.mean(posterior.kl()) / (1 if self.reduction == "sum" else x[0].size)
        return "kl", kl, self.kl_weight * kl

    def _watch(self, before: PyTree, code: Code, keys: StepKeys) -> tuple[PyTree, dict[str, Array]]:
        """Returns what is known of the codebook's use after this batch, and its health."""
        num_codes = before["shares"].shape[0]
        assert code.indices is not None
        shares = code_shares(code.indices, num_codes)
        vectors = code.latent.reshape(-1, code.latent.shape[-1])
        picked = jax.random.randint(
            keys.shared(Purpose.CODE_REVIVAL), (num_codes,), 0, vectors.shape[0]
        )
        after = {
            "shares": _MEMORY * before["shares"] + (1 - _MEMORY) * shares,
            "candidates": vectors[picked],
        }
        health = {"code_usage": jnp.mean(shares > 0), "code_perplexity": perplexity(shares)}
        return jax.lax.stop_gradient((after, health))

    def revise(
        self, group: str, params: PyTree, mutable: PyTree, step: Array
    ) -> tuple[PyTree, PyTree]:
        """Returns the parameters with dead codes replaced by latents of the present batch.

        With `code_init` 'data' every code counts as dead at the first step. A code is dead whose
        share of the latents, averaged over about a hundred steps, is below `revive_below` times
        the even share; a revived one starts from the even share again.
        """
        if group != "generator" or "codebook" not in mutable:
            return params, mutable
        shares, candidates = mutable["codebook"]["shares"], mutable["codebook"]["candidates"]
        even = 1.0 / shares.shape[0]
        dead = shares < self.revive_below * even
        if self.code_init == "data":
            dead = dead | (step == 0)
        codebook = params["autoencoder"]["codebook"]
        revived = jnp.where(dead[:, None], candidates.astype(codebook.dtype), codebook)
        usage = {**mutable["codebook"], "shares": jnp.where(dead, even, shares)}
        autoencoder = {**params["autoencoder"], "codebook": revived}
        return {**params, "autoencoder": autoencoder}, {**mutable, "codebook": usage}

    def _discriminator_loss(
        self, params: PyTree, mutable: PyTree, x: Array, keys: StepKeys
    ) -> LossOutput:
        x_hat, _ = self.forward(params, x, keys, Purpose.DISCRIMINATOR_POSTERIOR)
        fake_images = jax.lax.stop_gradient(x_hat)
        collections = mutable["discriminator"]
        # Real and fake in separate calls, as in the reference: each has its own statistics.
        real, collections = self._discriminate(params, collections, x)
        fake, collections = self._discriminate(params, collections, fake_images)
        loss = DISCRIMINATOR_LOSSES[self.disc_loss](real, fake)
        metrics = {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}
        started = jnp.where(keys.step >= self.disc_start, 1.0, 0.0)
        return LossOutput(started * loss, metrics, {**mutable, "discriminator": collections})

    def _discriminate(self, params: PyTree, collections: PyTree, x: Array) -> tuple[Array, PyTree]:
        variables = {"params": params["discriminator"], **collections}
        out = self.discriminator.apply(variables, x, train=True, mutable=list(collections))
        return cast(tuple[Array, PyTree], out)

    def _judge(self, params: PyTree, mutable: PyTree) -> Callable[[Array], Array]:
        """Returns the logits of images, with the batch's statistics and without keeping them."""
        return lambda x: self._discriminate(params, mutable["discriminator"], x)[0]


def adaptive_weight(nll_gradient: Array, g_gradient: Array) -> Array:
    """Returns clip(‖nll_gradient‖ / (‖g_gradient‖ + 1e-4), 0, 1e4), scalar, not differentiated.

    Esser et al. 2021, equation 7, with the reference's constants.
    """
    ratio = jnp.linalg.norm(nll_gradient) / (jnp.linalg.norm(g_gradient) + _EPS)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, _MAX_WEIGHT))


def _with_gradient(value: Array, x: Array, gradient: Array) -> Array:
    """Returns `value`, whose derivative with respect to `x` is `gradient`."""
    linear = jnp.sum(x * jax.lax.stop_gradient(gradient))
    return jax.lax.stop_gradient(value) + (linear - jax.lax.stop_gradient(linear))


def _with_last_kernel(params: PyTree, kernel: Array) -> PyTree:
    autoencoder = params["autoencoder"]
    decoder = autoencoder["decoder"]
    conv_out = {**decoder["conv_out"], "kernel": kernel}
    decoder = {**decoder, "conv_out": conv_out}
    return {**params, "autoencoder": {**autoencoder, "decoder": decoder}}
