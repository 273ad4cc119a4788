"""FLOPs of the matrix products and convolutions of a traced program.

XLA's own count takes a loop's body once, however often it runs, and knows nothing of what happens
inside a Pallas kernel. This one reads the program before it is compiled, where both can be seen;
elementwise operations, a few percent, are left out.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def device_flops(traced: ClosedJaxpr, devices: int) -> float:
    """Returns the FLOPs of one device of `devices` that share the work evenly.

    Loops whose length is an input count once: a sampler's is one evaluation of the model.

    Args:
      traced: of `jax.jit(f).trace(...)`.
      devices: of the mesh; inside `shard_map` a program already is that of one device.
    """
    return _flops(traced.jaxpr, 1.0 / devices)


def _flops(jaxpr: Jaxpr, share: float) -> float:
    return sum(_equation_flops(equation, share) for equation in jaxpr.eqns)


def _equation_flops(equation: Any, share: float) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * share * _size(equation) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return share * _convolution(equation)
    inner = [_flops(x, 1.0 if name == "shard_map" else share) for x in _programs(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * _repeats(name, params)


def _size(equation: Any) -> int:
    return math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> float:
    """Returns the FLOPs of a convolution; zeros between dilated inputs cost nothing."""
    params, kernel = equation.params, equation.invars[1].aval.shape
    outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * _size(equation) * math.prod(kernel) / outputs / math.prod(params["lhs_dilation"])


def _repeats(name: str, params: Mapping[str, Any]) -> float:
    if name == "scan":
        return params["length"]
    if name == "pallas_call":
        return math.prod(x for x in params["grid_mapping"].grid if isinstance(x, int))
    return 1


def _programs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """Yields the programs that an operation runs."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
