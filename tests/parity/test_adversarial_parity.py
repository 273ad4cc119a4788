"""The losses of the adversarial first stage, and their gradients, against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

import folders
from compare import assert_close, nchw, randomize
from torch.nn import functional as F

from ldm_jax.core.config import build
from ldm_jax.core.rng import Purpose, StepKeys, normal
from ldm_jax.interop.diffusers import read_diffusers
from ldm_jax.interop.foreign import read_parameters
from ldm_jax.interop.mapping import flatten, nest
from ldm_jax.models import FIRST_STAGES, PatchDiscriminator
from ldm_jax.models.lpips import LPIPS
from ldm_jax.tasks.adversarial import AdversarialAutoencoderTask, Perceptual

SIZE, BATCH = 16, 3
KL_WEIGHT, DISC_WEIGHT, PERCEPTUAL_WEIGHT = 1e-2, 0.75, 0.5


class Discriminator(torch.nn.Module):
    """Written from the facts sheet, section 2.5."""

    def __init__(self, channels, layers):
        super().__init__()
        conv, steps, width = torch.nn.Conv2d, [], channels
        steps += [conv(3, channels, 4, 2, 1), torch.nn.LeakyReLU(0.2)]
        for n in range(1, layers + 1):
            before, width = width, channels * min(2**n, 8)
            stride = 2 if n < layers else 1
            steps += [conv(before, width, 4, stride, 1, bias=False)]
            steps += [torch.nn.BatchNorm2d(width), torch.nn.LeakyReLU(0.2)]
        self.main = torch.nn.Sequential(*steps, conv(width, 1, 4, 1, 1))

    def forward(self, x):
        return self.main(x)


def discriminator_params(module):
    """Returns our parameters for the discriminator above."""
    convs = [m for m in module.main if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in module.main if isinstance(m, torch.nn.BatchNorm2d)]
    params = {}
    for i, conv in enumerate(convs):
        name = "conv_out" if i == len(convs) - 1 else f"conv_{i}"
        params[name] = {"kernel": conv.weight.detach().numpy().transpose(2, 3, 1, 0)}
        if conv.bias is not None:
            params[name]["bias"] = conv.bias.detach().numpy()
    for i, norm in enumerate(norms):
        params[f"norm_{i + 1}"] = {
            "scale": norm.weight.detach().numpy(),
            "bias": norm.bias.detach().numpy(),
        }
    return params


def torch_lpips(params, x, y):
    """Returns LPIPS of torch images, written from the facts sheet, section 2.5."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in flatten(params).items()}

    def features(x):
        x, taps, conv = (x - shift) / scale, [], 0
        for stage, count in enumerate((2, 2, 3, 3, 3)):
            if stage:
                x = F.max_pool2d(x, 2)
            for _ in range(count):
                kernel = tensors[f"conv_{conv}/kernel"].permute(3, 2, 0, 1)
                x = F.relu(F.conv2d(x, kernel, tensors[f"conv_{conv}/bias"], padding=1))
                conv += 1
            taps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taps

    total = 0
    for k, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
        head = tensors[f"head_{k}/kernel"].reshape(1, -1, 1, 1)
        total = total + F.conv2d((a - b).square(), head).mean((1, 2, 3))
    return total


def read_stage(stage, folder):
    """Returns our module for a torch one, its parameters, and its entries."""
    stage.save_pretrained(folder)
    with read_diffusers(folder) as foreign:
        ours = build("model", FIRST_STAGES, foreign.settings["task"]["model"])
        key = jax.eval_shape(lambda: jax.random.key(0))
        latent = jnp.zeros((1, *ours.latent_shape(SIZE, SIZE)))
        abstract = jax.eval_shape(ours.init, key, jnp.zeros((1, SIZE, SIZE, 3)), latent)["params"]
        component = foreign.components["first_stage"]
        entries = component.entries(ours, abstract)
        return ours, read_parameters(entries, component.tensors), entries


@functools.cache
def lpips_weights():
    """Returns random parameters of LPIPS; heads are positive, as the published ones are."""
    x = jnp.zeros((1, SIZE, SIZE, 3))
    shapes = jax.eval_shape(LPIPS().init, jax.eval_shape(lambda: jax.random.key(0)), x, x)["params"]
    rng = np.random.default_rng(3)

    def draw(path, shape):
        values = rng.normal(size=shape)
        if path.startswith("head"):
            return np.abs(values).astype(np.float32)
        return (values / max(1, np.prod(shape[:-1])) ** 0.5 * 1.4).astype(np.float32)

    return nest({path: draw(path, s.shape) for path, s in flatten(shapes).items()})


def make_setting(stage, folder):
    """Returns the torch modules, our parameters, and the images and noise."""
    judge = Discriminator(8, 2)
    randomize(stage, 1)
    randomize(judge, 2)
    judge.train()
    if hasattr(stage, "quantize"):  # codes as far apart as the latents are
        with torch.no_grad():
            stage.quantize.embedding.weight.normal_(0, 0.5, generator=torch.manual_seed(4))
    ours, params, entries = read_stage(stage, folder)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    return stage, judge, ours, params, entries, lpips_weights(), images


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(folders.autoencoder(), tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def vq_setting(tmp_path_factory):
    return make_setting(folders.vq(), tmp_path_factory.mktemp("vq_stage"))


def make_task(ours, **fields):
    return AdversarialAutoencoderTask(
        model=ours,
        image_size=SIZE,
        kl_weight=KL_WEIGHT,
        perceptual_weight=PERCEPTUAL_WEIGHT,
        disc_weight=DISC_WEIGHT,
        disc_start=10,
        discriminator=PatchDiscriminator(8, 2),
        **fields,
    )


def run(task, setting, group, step):
    """Returns the loss, metrics, and gradients of one group of our task."""
    _, judge, _, params, _, weights, images = setting
    params = {"autoencoder": params, "discriminator": discriminator_params(judge)}
    if task.learned_logvar:
        params["logvar"] = {"value": jnp.float32(0.3)}
    shapes = jax.eval_shape(
        lambda: task.discriminator.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    )
    stats = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes["batch_stats"])
    mutable = {"discriminator": {"batch_stats": stats}}
    if "codebook" in params["autoencoder"]:
        codes = jnp.asarray(params["autoencoder"]["codebook"])
        shares = jnp.full(len(codes), 1 / len(codes))
        mutable["codebook"] = {"shares": shares, "candidates": codes}
    keys = StepKeys(jnp.int32(step), jnp.arange(BATCH, dtype=jnp.int32), 5)

    def loss(trained):
        out = task.loss(
            group,
            {**params, **trained},
            mutable,
            Perceptual(weights),
            {"image": jnp.asarray(images)},
            keys,
        )
        return out.loss, (out.metrics, out.mutable)

    trained = {name: params[name] for name in task.groups[group]}
    (value, (metrics, mutable)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        trained
    )
    return value, metrics, gradients, mutable


def noise(ours, step, purpose):
    keys = StepKeys(jnp.int32(step), jnp.arange(BATCH, dtype=jnp.int32), 5)
    return nchw(normal(keys(purpose), ours.latent_shape(SIZE, SIZE)))


def reconstruct(stage, x, eps):
    posterior = stage.encode(x).latent_dist
    return stage.decode(posterior.mean + posterior.std * eps).sample, posterior


@pytest.mark.parametrize(
    ("reduction", "learned"),
    [("sum", False), pytest.param("mean", True, marks=pytest.mark.slow)],
)
def test_the_generators_loss_weight_and_gradient(setting, reduction, learned):
    stage, judge, ours, _, entries, weights, images = setting
    step = 12
    value, metrics, gradients, _ = run(
        make_task(ours, reduction=reduction, learned_logvar=learned), setting, "generator", step
    )
    x = nchw(images.astype(np.float32) / 127.5 - 1)
    stage.zero_grad()
    logvar = torch.tensor(0.3 if learned else 0.0, requires_grad=True)
    x_hat, posterior = reconstruct(stage, x, noise(ours, step, Purpose.POSTERIOR))
    distance = torch_lpips(weights, x, x_hat)
    pixels = (x - x_hat).abs() + PERCEPTUAL_WEIGHT * distance[:, None, None, None]
    likelihood = pixels / logvar.exp() + logvar
    mean, log = posterior.mean, posterior.logvar
    kl = 0.5 * (mean**2 + log.exp() - 1 - log).sum((1, 2, 3))
    if reduction == "sum":
        nll, kl = likelihood.sum() / BATCH, kl.sum() / BATCH
    else:
        nll, kl = likelihood.mean(), kl.mean() / x[0].numel()
    g = -judge(x_hat).mean()
    last = stage.decoder.conv_out.weight
    to_nll, to_g = (torch.autograd.grad(part, last, retain_graph=True)[0] for part in (nll, g))
    weight = DISC_WEIGHT * torch.clamp(to_nll.norm() / (to_g.norm() + 1e-4), 0, 1e4)
    loss = nll + KL_WEIGHT * kl + weight.detach() * g
    loss.backward()

    assert_close(metrics["lpips"], distance.mean().item(), "lpips", 1e-5)
    assert_close(metrics["nll"], nll.item(), "nll", 1e-5)
    assert_close(metrics["kl"], kl.item(), "kl", 1e-5)
    assert_close(metrics["g_loss"], g.item(), "g", 1e-5)
    assert_close(metrics["d_weight"], weight.item(), "weight", 1e-5)
    assert_close(value, loss.item(), "loss", 1e-5)
    if learned:
        assert_close(gradients["logvar"]["value"], logvar.grad.item(), "logvar", 1e-5)
    assert_gradients(gradients, stage, entries)


def assert_gradients(gradients, stage, entries):
    found, theirs = flatten(gradients["autoencoder"]), dict(stage.named_parameters())
    largest = stage.decoder.conv_out.weight.grad.abs().max().item()
    compared = 0
    for entry in entries:
        got = entry.to_theirs([np.asarray(found[path]) for path in entry.ours])
        expected = theirs[entry.theirs].grad.numpy()
        if np.abs(expected).max() > 1e-6 * largest:
            assert_close(got, expected, entry.theirs, 2e-4)
            compared += 1
    assert compared > 0.8 * len(entries)


@pytest.mark.parametrize("reference", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_loss_and_gradient_of_a_quantised_stage(vq_setting, reference):
    stage, judge, ours, _, entries, weights, images = vq_setting
    step, beta, codebook_weight = 12, 0.25, 0.8
    fields = {"reduction": "mean", "codebook_weight": codebook_weight, "pixel_loss": "l2"}
    # Its dropout, which the reference has too, cannot be compared between two generators.
    task = make_task(ours, reference=reference, lpips=LPIPS(), **fields)
    value, metrics, gradients, _ = run(task, vq_setting, "generator", step)
    x = nchw(images.astype(np.float32) / 127.5 - 1)
    stage.zero_grad()
    codes = stage.quantize.embedding.weight
    z = stage.quant_conv(stage.encoder(x)).permute(0, 2, 3, 1)
    nearest = torch.cdist(z.detach().reshape(-1, z.shape[-1]), codes.detach()).argmin(1)
    z_q = codes[nearest].reshape(z.shape)
    passed = (z + (z_q - z).detach()).permute(0, 3, 1, 2)
    x_hat = stage.decoder(stage.post_quant_conv(passed))
    to_codes, commitment = F.mse_loss(z_q, z.detach()), F.mse_loss(z, z_q.detach())
    codebook = beta * to_codes + commitment if reference else to_codes + beta * commitment
    distance = torch_lpips(weights, x, x_hat)
    nll = ((x - x_hat).square() + PERCEPTUAL_WEIGHT * distance[:, None, None, None]).mean()
    g = -judge(x_hat).mean()
    last = stage.decoder.conv_out.weight
    to_nll, to_g = (torch.autograd.grad(part, last, retain_graph=True)[0] for part in (nll, g))
    weight = DISC_WEIGHT * torch.clamp(to_nll.norm() / (to_g.norm() + 1e-4), 0, 1e4)
    loss = nll + weight.detach() * g + codebook_weight * codebook
    loss.backward()
    assert len(nearest.unique()) > 3
    for name, expected in {"nll": nll, "codebook": codebook, "d_weight": weight}.items():
        assert_close(metrics[name], expected.item(), name, 1e-5)
    assert_close(value, loss.item(), "loss", 1e-5)
    assert_gradients(gradients, stage, entries)


@pytest.mark.slow  # tests/unit/tasks holds the start without PyTorch
def test_before_the_start_the_discriminator_has_no_say(setting):
    _, _, ours, *_ = setting
    task = make_task(ours, reduction="mean")
    value, metrics, _, _ = run(task, setting, "generator", 9)
    penalty = KL_WEIGHT * metrics["kl"]
    np.testing.assert_allclose(value, metrics["nll"] + penalty, rtol=1e-6)
    assert metrics["d_weight"] > 0  # computed and logged all the same
    loss, _, gradients, _ = run(task, setting, "discriminator", 9)
    assert loss == 0
    assert all(np.all(x == 0) for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", ["hinge", "vanilla"])
def test_the_discriminators_loss_gradient_and_statistics(setting, name):
    stage, judge, ours, *_, images = setting
    step = 12
    value, metrics, gradients, mutable = run(
        make_task(ours, disc_loss=name), setting, "discriminator", step
    )
    x = nchw(images.astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        x_hat, _ = reconstruct(stage, x, noise(ours, step, Purpose.DISCRIMINATOR_POSTERIOR))
    for module in judge.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.zeros_(module.running_mean)
            torch.nn.init.zeros_(module.running_var)
    judge.zero_grad()
    real, fake = judge(x), judge(x_hat)
    if name == "hinge":
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    else:
        loss = 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
    loss.backward()
    assert set(gradients) == {"discriminator"}
    assert_close(value, loss.item(), "loss", 1e-5)
    assert_close(metrics["logits_real"], real.mean().item(), "real", 1e-5)
    assert_close(metrics["logits_fake"], fake.mean().item(), "fake", 1e-5)
    got = flatten(gradients["discriminator"])
    convs = [m for m in judge.main if isinstance(m, torch.nn.Conv2d)]
    for i, conv in enumerate(convs):
        layer = "conv_out" if i == len(convs) - 1 else f"conv_{i}"
        expected = conv.weight.grad.numpy().transpose(2, 3, 1, 0)
        assert_close(got[f"{layer}/kernel"], expected, layer, 1e-4)
    norm = next(m for m in judge.main if isinstance(m, torch.nn.BatchNorm2d))
    stats = mutable["discriminator"]["batch_stats"]["norm_1"]
    assert_close(stats["mean"], norm.running_mean.numpy(), "running mean")
    # PyTorch keeps the unbiased variance, Flax the biased one: n / (n - 1) apart.
    n = BATCH * 4 * 4
    assert_close(stats["var"] * n / (n - 1), norm.running_var.numpy(), "running variance")
