"""Collectives counted in compiled programs, most of them written by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ldm_jax.parallel.collectives import Traffic, collectives
from ldm_jax.parallel.mesh import make_mesh

HEADER = "HloModule jit_f, is_scheduled=true\n\n"
ENTRY = "ENTRY %main.5_spmd (param.5: f32[8,4]) -> f32[8,4] {\n"
ADD = "%add (x: f32[], y: f32[]) -> f32[] {\n  ROOT %s = f32[] add(%x, %y)\n}\n\n"


def program(*lines):
    return HEADER + ADD + ENTRY + "\n".join(f"  {line}" for line in lines) + "\n}\n"


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("%a = f32[8,4]{1,0} all-reduce(%p), channel_id=1, to_apply=%add", "all-reduce", 128),
        # Several arrays in one, with the compiler's notes on their layout.
        (
            "%a = (f32[8]{0:T(8,128)S(1)}, bf16[4,2]{1,0:T(8,128)(2,1)}) all-reduce(%p, %q), "
            "to_apply=%add",
            "all-reduce",
            32 + 16,
        ),
        ("%a.1 = bf16[16,4]{1,0} all-gather(%p), dimensions={0}", "all-gather", 128),
        ("%a = pred[3,5]{1,0} all-gather(%p), dimensions={0}", "all-gather", 15),
        ("%a = s4[10]{0} all-to-all(%p), dimensions={0}", "all-to-all", 5),
        ("%r = f32[2,4]{1,0} reduce-scatter(%p), to_apply=%add", "reduce-scatter", 32),
        ("ROOT %c = f8e4m3fn[6]{0} collective-permute(%p)", "collective-permute", 6),
        # Started and awaited: (operand, result, …), but an all-reduce's results alone.
        ("%s = (f32[2]{0}, f32[16]{0}) all-gather-start(%p), dimensions={0}", "all-gather", 64),
        (
            "%s = ((f32[2]{0}, bf16[4]{0}), (f32[16]{0}, bf16[32]{0})) all-gather-start(%p, %q)",
            "all-gather",
            64 + 64,
        ),
        (
            "%s = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%p)",
            "collective-permute",
            20,
        ),
        ("%s = f32[8,4]{1,0} all-reduce-start(%p), to_apply=%add", "all-reduce", 128),
    ],
)
def test_kinds_and_bytes(line, kind, size):
    assert collectives(program(line)) == {kind: Traffic(1, size)}


def test_what_awaits_or_uses_a_collective_is_none():
    text = program(
        "%d = f32[16]{0} all-gather-done(%all-gather-start.1)",
        "%f = f32[16]{0} fusion(%all-reduce.4), kind=kLoop, calls=%fused",
        '%m = f32[16]{0} add(%p, %q), metadata={op_name="all-reduce(x)"}',
    )
    assert collectives(text) == {}


def loop(backend_config="", condition=""):
    return (
        HEADER
        + ADD
        + "%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {\n"
        + "  %r = f32[4]{0} all-reduce(%x), to_apply=%add\n}\n\n"
        + f"%until.1 (p: (s32[], f32[4])) -> pred[] {{\n{condition}}}\n\n"
        + ENTRY
        + "  %w = (s32[], f32[4]{0}) while(%t), condition=%until.1, body=%body.1"
        + f"{backend_config}\n  %g = f32[8]{{0}} all-gather(%x), dimensions={{0}}\n}}\n"
    )


KNOWN = ', backend_config={"known_trip_count":{"n":"10"},"x":1}'
LESS = (
    "  %c.1 = s32[]{:T(128)} constant(7)\n"
    "  %i = s32[]{:T(128)} get-tuple-element(%p), index=0\n"
    "  ROOT %lt = pred[]{:T(512)} compare(%i, %c.1), direction=LT\n"
)
BY_INPUT = LESS.replace("s32[]{:T(128)} constant(7)", "s32[] get-tuple-element(%p), index=3")


@pytest.mark.parametrize(
    ("text", "times"),
    [(loop(KNOWN), 10), (loop(condition=LESS), 7), (loop(condition=BY_INPUT), 1)],
    ids=["noted", "compared", "an input"],
)
def test_a_loop_counts_as_often_as_it_runs(text, times):
    assert collectives(text) == {
        "all-reduce": Traffic(times, 16 * times),
        "all-gather": Traffic(1, 32),
    }


def test_a_real_program():
    """A gradient summed over rows, in a loop of three."""
    mesh = make_mesh((8, 1, 1))
    rows = jax.NamedSharding(mesh, P("data"))
    w = jax.ShapeDtypeStruct((4, 4), jnp.float32, sharding=jax.NamedSharding(mesh, P()))
    x = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=rows)

    def f(w, x):
        def body(w, _):
            return w - jnp.cos(x @ w).T @ x, None

        return jax.lax.scan(body, w, None, length=3)[0]

    found = collectives(jax.jit(f).lower(w, x).compile().as_text())
    assert found == {"all-reduce": Traffic(3, 3 * 64)}
