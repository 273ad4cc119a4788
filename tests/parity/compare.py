"""Comparisons with PyTorch, whole and block by block."""

import jax
import numpy as np

# Of the reference's largest magnitude; float32 on both sides.
TOLERANCE = 2e-5


def assert_close(ours, theirs, what: str, tolerance: float = TOLERANCE) -> float:
    """Raises unless the largest difference is within tolerance; returns it, relative."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} against {theirs.shape}"
    scale = np.abs(theirs).max()
    assert scale > 0, f"{what}: the reference is zero, which proves nothing"
    relative = float(np.abs(ours - theirs).max() / scale)
    assert relative <= tolerance, f"{what}: differs by {relative:.2e} of the largest magnitude"
    return relative


def nhwc(x):
    """Returns a torch map [b, c, h, w] as NumPy [b, h, w, c]."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def nchw(x):
    """Returns maps [b, h, w, c] as a torch tensor [b, c, h, w]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def record(module, names):
    """Returns a dict that the next forward pass of a torch module fills with outputs by name."""
    outputs, modules = {}, dict(module.named_modules())

    def hook(name):
        def keep(_, __, output):
            output = output if hasattr(output, "detach") else output[0]
            outputs[name] = output.detach()

        return keep

    for name in names:
        modules[name].register_forward_hook(hook(name))
    return outputs


def intermediates(module, params, *args, **kwargs):
    """Returns the output of a Flax module and those of its direct children, by name."""

    def apply(params, args):
        return module.apply(
            {"params": params},
            *args,
            capture_intermediates=True,
            mutable=["intermediates"],
            **kwargs,
        )

    out, state = jax.jit(apply)(params, args)
    children = {k: v for k, v in state["intermediates"].items() if isinstance(v, dict)}
    return out, {k: v["__call__"][0] for k, v in children.items() if "__call__" in v}


def randomize(module, seed: int = 0) -> None:
    """Gives every parameter of a torch module noise, also those that start at zero or one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
    module.eval()
