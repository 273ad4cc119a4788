"""Many random arrays, compiled as few."""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters import partial_eval

from ldm_jax.core.types import PyTree

_DRAWS = ("random_bits", "random_fold_in", "random_split")
_APART = ("checkpoint", "jit", "remat2")


def batch_draws(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Returns `function` with equal results, in which arrays of one shape are drawn as one.

    A network's initialiser derives a key for every array and draws from it, and a compiler spends
    its time on hundreds of copies of the generator: a small U-Net's initialiser takes it longer
    than a gradient. Here keys that are derived alike are derived at once, and arrays of one shape
    are drawn at once. Whatever no result needs, such as the network's output, is left out.

    With generators other than JAX's default nothing is batched; with effects such as printing, and
    under `jax.debug_key_reuse`, `function` runs as it is. Drawn words of one shape are held
    together until they are used, which takes memory for a moment.

    Args:
      function: of arrays and keys, to be run under `jax.jit`.
    """

    @functools.wraps(function)
    def batched(*args: PyTree) -> PyTree:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        flags: Any = jax.config
        if program.effects or flags.jax_debug_key_reuse:  # what is watched has an order
            return function(*args)
        inputs = jax.tree.leaves(args)
        needed = _needed(program.jaxpr)
        flat = jax.make_jaxpr(functools.partial(_inline, needed, program.consts))(*inputs)
        results = _batch(flat.jaxpr, flat.consts, *inputs)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return batched


def _needed(jaxpr: Jaxpr) -> Jaxpr:
    """Returns the program without what no result needs."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), True)[0]


def _inline(jaxpr: Jaxpr, consts: Sequence[Any], *inputs: Any) -> list[Any]:
    """Returns the results, with what `jax.jit` and `jax.checkpoint` set apart in its place."""
    values = _Values(jaxpr, consts, inputs)
    for equation in jaxpr.eqns:
        operands = values.read(equation.invars)
        if equation.primitive.name in _APART:
            inner = equation.params["jaxpr"]
            closed = isinstance(inner, ClosedJaxpr)
            parts = (inner.jaxpr, inner.consts) if closed else (inner, ())
            values.write(equation, _inline(*parts, *operands))
        else:
            values.write(equation, _call(equation, *operands))
    return values.read(jaxpr.outvars)


def _batch(jaxpr: Jaxpr, consts: Sequence[Any], *inputs: Any) -> list[Any]:
    """Returns the results, computed with like draws as one."""
    values = _Values(jaxpr, consts, inputs)
    for layer in _layers(jaxpr):
        for equations in _alike(layer):
            operands = [values.read(equation.invars) for equation in equations]
            results = _call_all(equations[0], operands)
            for equation, outputs in zip(equations, results, strict=True):
                values.write(equation, outputs)
    return values.read(jaxpr.outvars)


class _Values:
    """What the variables of a program are."""

    def __init__(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]):
        self._values = dict(zip(jaxpr.constvars, consts, strict=True))
        self._values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(self, atoms: Iterable[Any]) -> list[Any]:
        return [x.val if isinstance(x, Literal) else self._values[x] for x in atoms]

    def write(self, equation: Any, outputs: Sequence[Any]) -> None:
        self._values.update(zip(equation.outvars, outputs, strict=True))


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
    """Returns groups that do the same with a key each; any other equation is its own group."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    threefry = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype
    for equation in equations:
        avals = tuple(atom.aval for atom in equation.invars)
        # Another generator draws another thing for a batch of keys than for each.
        if equation.primitive.name in _DRAWS and avals[0].dtype == threefry:
            params = frozenset(equation.params.items())
            groups[equation.primitive, params, avals, equation.ctx].append(equation)
        else:
            groups[id(equation)].append(equation)
    return groups.values()


def _call(equation: Any, *operands: Any) -> Sequence[Any]:
    primitive = equation.primitive
    with equation.ctx.manager:
        outputs = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return outputs if primitive.multiple_results else [outputs]


def _call_all(equation: Any, operands: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Returns the results of one equation for each of some lists of operands."""
    if len(operands) == 1:
        return [_call(equation, *operands[0])]
    columns = list(zip(*operands, strict=True))
    axes = [None if all(x is column[0] for x in column) else 0 for column in columns]
    stacked = [
        column[0] if axis is None else jnp.stack([jnp.asarray(x) for x in column])
        for axis, column in zip(axes, columns, strict=True)
    ]
    rows = range(len(operands))
    outputs = jax.vmap(functools.partial(_call, equation), axes, axis_size=len(rows))(*stacked)
    return [[output[row] for output in outputs] for row in rows]
