"""How our parameters lie in the tensors of others, by hand."""

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.interop.mapping import (
    Cell,
    Entry,
    OwnEntry,
    flatten,
    make_entries,
    nest,
    own_entries,
)

DTYPES = pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_linear_layer_is_transposed():
    entry = Entry("x.weight", ("x/kernel",), ((3, 2),))
    assert entry.their_shape == (2, 3)
    ours = np.array([[1, 2], [3, 4], [5, 6]])
    theirs = np.array([[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(entry.to_theirs([ours]), theirs)
    [(path, found)] = entry.to_ours(theirs)
    assert path == "x/kernel"
    np.testing.assert_array_equal(found, ours)
    assert found.flags.c_contiguous


def test_a_convolution_goes_from_hwio_to_oihw():
    entry = Entry("x.weight", ("x/kernel",), ((3, 2, 5, 7),))
    assert entry.their_shape == (7, 5, 3, 2)
    ours = noise(3, 2, 5, 7)
    theirs = entry.to_theirs([ours])
    for h, w, i, o in ((0, 0, 0, 0), (2, 1, 4, 6), (1, 0, 3, 2)):
        assert theirs[o, i, h, w] == ours[h, w, i, o]
    [(_, found)] = entry.to_ours(theirs)
    np.testing.assert_array_equal(found, ours)


def test_biases_norms_and_tables_are_as_they_are():
    for path, shape in (("x/bias", (4,)), ("x/scale", (4,)), ("x/embedding", (5, 4))):
        entry = Entry("x", (path,), (shape,))
        assert entry.their_shape == shape
        x = noise(*shape)
        np.testing.assert_array_equal(entry.to_theirs([x]), x)
        [(_, found)] = entry.to_ours(x)
        np.testing.assert_array_equal(found, x)


QKV = ("a/to_q", "a/to_k", "a/to_v")


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_fused_qkv_goes_head_by_head(heads):
    # Row h 3d + j d + c holds channel c of head h of q, k or v (j = 0, 1, 2): facts, 2.2.
    width, d = 6, 6 // heads
    kernels, biases = [noise(width, width, seed=j) for j in range(3)], noise(3, width, seed=3)
    weight = Entry("w", tuple(f"{p}/kernel" for p in QKV), ((width, width),) * 3, heads, 1)
    bias = Entry("b", tuple(f"{p}/bias" for p in QKV), ((width,),) * 3, heads, 1)
    assert weight.their_shape == (3 * width, width, 1)
    assert bias.their_shape == (3 * width,)
    theirs_w, theirs_b = weight.to_theirs(kernels), bias.to_theirs(list(biases))
    for h in range(heads):
        for j in range(3):
            for c in range(d):
                row = h * 3 * d + j * d + c
                np.testing.assert_array_equal(theirs_w[row, :, 0], kernels[j][:, h * d + c])
                assert theirs_b[row] == biases[j][h * d + c]
    for (path, found), name, kernel in zip(weight.to_ours(theirs_w), QKV, kernels, strict=True):
        assert path == f"{name}/kernel"
        np.testing.assert_array_equal(found, kernel)
    for (_, found), x in zip(bias.to_ours(theirs_b), biases, strict=True):
        np.testing.assert_array_equal(found, x)


def test_parts_in_one_piece_follow_each_other():
    # The first half of a fused GEGLU is the value, the second the gate: facts, 2.2.
    value, gate = noise(2, 8), noise(2, 8, seed=1)
    entry = Entry("proj.weight", ("ff/value/kernel", "ff/gate/kernel"), ((2, 8), (2, 8)))
    theirs = entry.to_theirs([value, gate])
    assert theirs.shape == entry.their_shape == (16, 2)
    np.testing.assert_array_equal(theirs[:8], value.T)
    np.testing.assert_array_equal(theirs[8:], gate.T)
    found = dict(entry.to_ours(theirs))
    np.testing.assert_array_equal(found["ff/value/kernel"], value)
    np.testing.assert_array_equal(found["ff/gate/kernel"], gate)


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_a_linear_layer_may_be_kept_as_a_convolution(axes):
    entry = Entry("x.weight", ("x/kernel",), ((3, 2),), axes=axes)
    ours = noise(3, 2)
    assert entry.their_shape == (2, 3, *(1,) * axes)
    np.testing.assert_array_equal(entry.to_theirs([ours]), ours.T.reshape(entry.their_shape))
    for shape in ((2, 3), (2, 3, 1), (2, 3, 1, 1)):
        assert entry.fits(shape)
        [(_, found)] = entry.to_ours(ours.T.reshape(shape))
        np.testing.assert_array_equal(found, ours)
    for shape in ((3, 2), (2, 3, 3, 3), (2, 3, 2), (2,), (6,)):
        assert not entry.fits(shape)


def test_other_tensors_fit_by_their_exact_shape():
    convolution = Entry("x.weight", ("x/kernel",), ((1, 1, 3, 2),))
    assert convolution.fits((2, 3, 1, 1))
    assert not convolution.fits((2, 3, 3, 3))
    bias = Entry("x.bias", ("x/bias",), ((4,),), axes=2)
    assert bias.fits((4,))
    assert not bias.fits((4, 1, 1))


ENTRIES = [
    Entry("x", ("x/kernel",), ((3, 2),)),
    Entry("x", ("x/kernel",), ((3, 2),), axes=2),
    Entry("x", ("x/kernel",), ((3, 3, 4, 5),)),
    Entry("x", ("x/bias",), ((5,),)),
    Entry("x", ("q/kernel", "k/kernel", "v/kernel"), ((6, 8),) * 3, heads=4, axes=1),
    Entry("x", ("q/bias", "k/bias", "v/bias"), ((8,),) * 3, heads=2, axes=1),
    Entry("x", ("q/kernel", "k/kernel", "v/kernel"), ((6, 8),) * 3),
    Entry("x", ("a/kernel", "b/kernel"), ((2, 4), (2, 4))),
]


@DTYPES
@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
def test_both_ways_and_back_to_the_bit(entry, dtype):
    theirs = noise(*entry.their_shape).astype(dtype)
    ours = dict(entry.to_ours(theirs))
    assert tuple(ours) == entry.ours
    assert tuple(x.shape for x in ours.values()) == entry.shapes
    back = entry.to_theirs([ours[path] for path in entry.ours])
    assert back.dtype == theirs.dtype == next(iter(ours.values())).dtype
    assert back.shape == theirs.shape
    assert back.tobytes() == theirs.tobytes()


PARAMS = {
    "attn": {
        "to_v": {"kernel": noise(4, 6), "bias": noise(6)},
        "to_q": {"kernel": noise(4, 6), "bias": noise(6)},
        "to_k": {"kernel": noise(4, 6), "bias": noise(6)},
    },
    "norm": {"scale": noise(4)},
    "positions": noise(7, 4),
}


def cells(path):
    parts = {"attn/to_q": 0, "attn/to_k": 1, "attn/to_v": 2}
    if path in parts:
        return Cell("in_proj", part=parts[path], heads=2, axes=1, joint="_")
    return {"norm": Cell("ln"), "positions": Cell("pos.emb")}[path]


def test_make_entries_names_joins_and_orders():
    found = {entry.theirs: entry for entry in make_entries(PARAMS, cells)}
    assert {name: entry.their_shape for name, entry in found.items()} == {
        "in_proj_weight": (18, 4, 1),
        "in_proj_bias": (18,),
        "ln.weight": (4,),
        "pos.emb": (7, 4),
    }
    paths = ("attn/to_q/kernel", "attn/to_k/kernel", "attn/to_v/kernel")
    expected = Entry("in_proj_weight", paths, ((4, 6),) * 3, 2, 1)
    assert found["in_proj_weight"] == expected
    assert found["pos.emb"].ours == ("positions",)


@DTYPES
def test_own_entries_turn_nothing(dtype):
    x = noise(3, 3, 4, 5).astype(dtype)
    [entry] = own_entries({"conv": {"kernel": x}})
    assert isinstance(entry, OwnEntry)
    assert entry.theirs == "conv/kernel"
    assert entry.ours == ("conv/kernel",)
    assert entry.their_shape == (3, 3, 4, 5)
    assert entry.fits((3, 3, 4, 5))
    assert not entry.fits((5, 4, 3, 3))
    [(path, found)] = entry.to_ours(x)
    assert path == "conv/kernel"
    assert found.tobytes() == entry.to_theirs([x]).tobytes() == x.tobytes()


def test_a_linear_layer_of_ours_fits_only_as_it_is():
    [entry] = own_entries({"x": {"kernel": noise(3, 2)}})
    assert entry.fits((3, 2))
    assert not entry.fits((2, 3))
    assert not entry.fits((3, 2, 1))


def test_flatten_and_nest():
    tree = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}
    flat = {"a/b/c": 1, "a/b/d": 2, "a/e": 3, "f": 4}
    assert flatten(tree) == flat
    assert nest(flat) == tree
    assert flatten({}) == {} == nest({})
