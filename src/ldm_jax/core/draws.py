"""Many random arrays, compiled as few."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters import partial_eval

from ldm_jax.core.types import PyTree


def batch_draws(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Returns `function` with draws of one shape as one draw, of results equal but for rounding.

    A network's initialiser derives a key for every array and draws from it, and a compiler spends
    its time on hundreds of copies of the generator: a small U-Net's initialiser takes it longer
    than a gradient. Here keys that are derived alike are derived at once, and arrays of one shape
    are drawn at once. Whatever no result needs, such as the network's output, is left out.

    Args:
      function: of arrays and keys, to be run under `jax.jit`.
    """

    @functools.wraps(function)
    def batched(*args: PyTree) -> PyTree:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _run(program, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return batched


def _run(program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    whole = program.jaxpr
    needed, _ = partial_eval.dce_jaxpr(whole, [True] * len(whole.outvars))
    values = dict(zip(whole.constvars, program.consts, strict=True))
    values.update(zip(whole.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for layer in _layers(needed):
        for equations in _alike(layer):
            operands = [[read(atom) for atom in equation.invars] for equation in equations]
            results = _evaluate(equations[0], operands)
            for equation, outputs in zip(equations, results, strict=True):
                values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in needed.outvars]


def _layers(jaxpr: Jaxpr) -> Iterable[list[Any]]:
    """Returns the equations by how many must be evaluated before them, one after the other."""
    depth: dict[Any, int] = {}
    layers: dict[int, list[Any]] = defaultdict(list)
    for equation in jaxpr.eqns:
        inputs = [atom for atom in equation.invars if not isinstance(atom, Literal)]
        level = max((depth.get(atom, 0) for atom in inputs), default=0)
        layers[level].append(equation)
        depth.update((atom, level + 1) for atom in equation.outvars)
    return [layers[level] for level in sorted(layers)]


def _alike(equations: Iterable[Any]) -> Iterable[list[Any]]:
    """Returns groups that do the same, each with a key; an equation without one is a group."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for equation in equations:
        avals = tuple(atom.aval for atom in equation.invars)
        if any(_is_key(aval) for aval in avals):
            kind: Any = (equation.primitive, frozenset(equation.params.items()), avals)
        else:
            kind = id(equation)
        groups[kind].append(equation)
    return groups.values()


def _is_key(aval: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(aval, "dtype", np.void), jax.dtypes.prng_key)


def _evaluate(equation: Any, operands: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Returns the results of one equation for each of some lists of operands."""
    primitive = equation.primitive

    def call(*inputs: Any) -> Sequence[Any]:
        outputs = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
        return outputs if primitive.multiple_results else [outputs]

    if len(operands) == 1:
        return [call(*operands[0])]
    stacked = [
        jnp.stack([jnp.asarray(x) for x in column]) for column in zip(*operands, strict=True)
    ]
    outputs = jax.vmap(call)(*stacked)
    return [[output[row] for output in outputs] for row in range(len(operands))]
