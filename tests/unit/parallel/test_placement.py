"""What lands where on meshes that do not exist."""

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import make_abstract_mesh, make_mesh, read_mesh_sizes
from ldm_jax.parallel.placement import Placement, placed_bytes, placement_table, placements


def tree():
    def kernel(*shape):
        return {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}

    return {
        "unet": {
            "block_0": {"to_q": kernel(64, 32), "conv": kernel(3, 3, 5, 7)},
            "block_1": {"to_q": kernel(64, 32)},
        },
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }


def test_arrays_that_differ_in_numbers_are_one_row():
    rows = placements(make_abstract_mesh((2, 4, 2)), tree())
    assert rows == [
        Placement("step", 1, (), "int32", (), 4),
        Placement("unet/block_*/conv/kernel", 1, (3, 3, 5, 7), "float32", (None,) * 4, 1260),
        Placement(
            "unet/block_*/to_q/kernel", 2, (64, 32), "float32", ("fsdp", "tensor"), 2 * 64 * 32 // 2
        ),
    ]
    assert [line.split() for line in placement_table(rows).splitlines()] == [
        ["where", "arrays", "shape", "split", "bytes", "per", "device"],
        ["unet/block_*/to_q/kernel", "2", "64×32", "fsdp,", "tensor", "2,048"],
        ["unet/block_*/conv/kernel", "1", "3×3×5×7", "whole", "1,260"],
        ["step", "1", "scalar", "whole", "4"],
    ]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_real_devices_hold_as_much(sizes):
    abstract = placed_bytes(make_abstract_mesh(sizes), tree())
    assert abstract == placed_bytes(make_mesh(sizes), tree())
    assert abstract == sum(
        row.bytes_per_device for row in placements(make_abstract_mesh(sizes), tree())
    )


def test_sizes_are_read_and_checked():
    assert read_mesh_sizes("2,4,1") == (2, 4, 1)
    assert read_mesh_sizes("-1,4,1") == (-1, 4, 1)
    for text in ("2,4", "2x4x1", "a,b,c", "2,4,1,"):
        with pytest.raises(UserError) as error:
            read_mesh_sizes(text)
        assert str(error.value) == (
            f"--mesh={text}: legal are three sizes ('data', 'fsdp', 'tensor'), such as 2,4,1."
        )
    with pytest.raises(UserError) as error:
        make_abstract_mesh((-1, 4, 1))
    assert str(error.value) == (
        "mesh=(-1, 4, 1): no devices are counted here. Legal: three positive sizes "
        "('data', 'fsdp', 'tensor')."
    )
