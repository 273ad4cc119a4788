"""The attention pool against PyTorch, where every token asks and one answer is kept."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")

from compare import assert_close, nchw, randomize

from ldm_jax.models.latent_classifier import AttentionPool

HEADS, WIDTH, CLASSES, EDGE = 3, 24, 7, 4


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = torch.nn.Parameter(torch.empty(WIDTH, EDGE**2 + 1))
        self.qkv = torch.nn.Conv1d(WIDTH, 3 * WIDTH, 1)
        self.out = torch.nn.Conv1d(WIDTH, CLASSES, 1)

    def forward(self, x):
        cells = x.flatten(2)
        tokens = torch.cat([cells.mean(2, keepdim=True), cells], 2) + self.positions
        # q of all heads, then k, then v; tokens last.
        q, k, v = (
            part.unflatten(1, (HEADS, -1)).transpose(2, 3) for part in self.qkv(tokens).chunk(3, 1)
        )
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(2, 3).flatten(1, 2))[:, :, 0]


def dense(weight, bias):
    return {"kernel": weight[:, :, 0].T.detach().numpy(), "bias": bias.detach().numpy()}


def test_attention_pool():
    theirs = Theirs()
    randomize(theirs)
    weights, biases = theirs.qkv.weight.chunk(3), theirs.qkv.bias.chunk(3)
    params = {
        name: dense(weight, bias)
        for name, weight, bias in zip(("to_q", "to_k", "to_v"), weights, biases, strict=True)
    }
    params["to_out"] = dense(theirs.out.weight, theirs.out.bias)
    params["positions"] = theirs.positions.T.detach().numpy()
    x = np.random.default_rng(0).normal(size=(2, EDGE, EDGE, WIDTH)).astype(np.float32)
    got = jax.jit(AttentionPool(CLASSES, HEADS).apply)({"params": params}, x)
    with torch.no_grad():
        assert_close(got, theirs(nchw(x)), "attention pool")
