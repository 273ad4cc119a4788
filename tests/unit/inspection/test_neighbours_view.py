"""Neighbours are those of brute force, and copies of training images are told."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.defaults import base_config
from ldm_jax.inspection.nearest import nearest_rows, share_nearer
from ldm_jax.inspection.neighbours import neighbours_view
from ldm_jax.inspection.view import Subject
from ldm_jax.train.image_reader import image_readers


def brute_force(queries, rows, count, own):
    """Returns distances and numbers one by one, in whole numbers."""
    distances = np.array(
        [
            [min(np.sum((x.astype(np.int64) - row) ** 2) for x in views) ** 0.5 for row in rows]
            for views in np.swapaxes(queries, 0, 1)
        ]
    )
    for q, number in enumerate(own):
        if number >= 0:
            distances[q, number] = np.inf
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("size", [1, 5, 64])
def test_any_blocks_give_what_brute_force_gives(size):
    draw = np.random.default_rng(0)
    rows = draw.integers(0, 4, (40, 6), dtype=np.uint8)  # so few values that many are equally near
    queries = draw.integers(0, 4, (2, 7, 6), dtype=np.uint8)
    queries[0, 3] = rows[11]
    own = np.array([-1, 4, -1, 11, -1, 39, 0])
    blocks = (rows[start : start + size] for start in range(0, 40, size))
    distances, numbers = nearest_rows(queries, blocks, 5, own)
    expected, order = brute_force(queries, rows.astype(np.int64), 5, own)
    np.testing.assert_array_equal(numbers, order)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)


def test_one_grey_level_in_a_large_image_is_not_lost():
    image = np.random.default_rng(0).integers(1, 255, (1, 1, 200_000), dtype=np.uint8)
    near = image[0].copy()
    near[0, 7] += 1
    distances, numbers = nearest_rows(image, [255 - image[0], near], 1)
    assert (distances.item(), numbers.item()) == (1.0, 1)


def test_shares():
    assert share_nearer(2.0, np.array([1.0, 2.0, 3.0, 1.5])) == 0.5


def config_of(**fields):
    config = base_config()
    config.data = {
        "source": {"name": "shapes", "image_size": 16, "max_objects": 1, "num_examples": 24},
        "image_size": 16,
        **fields,
    }
    return config


@dataclasses.dataclass(frozen=True)
class Samples(Subject):
    """A subject whose samples are given."""

    given: np.ndarray | None = None

    def samples(self):
        return self.given


def view_of(config, given, **fields):
    return neighbours_view(Samples(SimpleNamespace(config=config), given=given, **fields))


def root_mean_square(a, b):
    return np.sqrt(np.mean((a.astype(np.float64) - b) ** 2))


def test_a_copy_is_nearer_than_all_held_out_images():
    config = config_of(holdout=6)
    train, held_out = image_readers(config)
    images, others = train.read(range(18)), held_out.read(range(6))
    changed = images[5].copy()
    changed[0, 0] += 3  # three channels by three levels, of 768 numbers
    picture, lines = view_of(config, np.stack([changed, others[2]]))
    distances = [min(root_mean_square(x, y) for y in images) for x in others]
    least, low, half = np.quantile(distances, [0, 0.05, 0.5])
    assert lines[:2] == (
        "distance: root mean square difference in grey levels; to 18 training images",
        f"6 held-out images are at {least:.3g} (the least), {low:.3g} (5 %), {half:.3g} (half) "
        "from their nearest",
    )
    assert lines[2] == (
        f"sample 0: nearest is training image {train.whole_number(5)} at 0.188; 0% of held-out "
        "images are nearer to theirs"
    )
    share = np.mean(np.array(distances) < distances[2])
    assert lines[3].endswith(f"{share:.0%} of held-out images are nearer to theirs")
    # Numbers are those of the whole source: six of 24 are missing in what was trained on.
    numbers = [train.whole_number(k) for k in range(18)]
    assert numbers != list(range(18))
    assert len({*numbers, *(held_out.whole_number(k) for k in range(6))}) == 24
    # The copy and its original stand side by side.
    size = 96
    rows = picture[-(2 * (14 + size + 3)) :]
    sample, nearest = rows[14 : 14 + size, 3 : 3 + size], rows[14 : 14 + size, 102 : 102 + size]
    np.testing.assert_array_equal(sample, np.kron(changed, np.ones((6, 6, 1), np.uint8)))
    np.testing.assert_array_equal(nearest, np.kron(images[5], np.ones((6, 6, 1), np.uint8)))


def test_without_held_out_images_training_images_stand_beside():
    config = config_of()
    train, held_out = image_readers(config)
    assert held_out is None
    images = train.read(range(24))
    _, lines = view_of(config, images[3:4])
    distances = [
        min(root_mean_square(x, y) for k, y in enumerate(images) if k != n)
        for n, x in enumerate(images)
    ]
    assert lines[1] == (
        f"24 training images, each without itself, are at {min(distances):.3g} (the least), "
        f"{np.quantile(distances, 0.05):.3g} (5 %), {np.median(distances):.3g} (half) from their "
        "nearest"
    )
    assert "training image 3 at 0; 0% of training images" in lines[2]


def test_mirror_images_are_copies_where_training_mirrors():
    for probability, distance in ((0.5, "at 0;"), (0.0, "")):
        config = config_of(flip_probability=probability, flip_captions="any")
        train, _ = image_readers(config)
        image = train.read([7])
        _, lines = view_of(config, image[:, :, ::-1])
        assert (distance in lines[2]) == (probability > 0) or not distance
        assert ("orientation" in lines[0]) == (probability > 0)
    assert "at 0;" not in lines[2]


@pytest.fixture
def features(tmp_path):
    """Writes random features with some arrays changed, and returns the file and all of them."""

    def write(**changed):
        draw = np.random.default_rng(0)
        counts = {"train": 24, "held_out": 5, "samples": 2}
        arrays = {name: draw.standard_normal((n, 3)) for name, n in counts.items()}
        arrays.update(changed)
        np.savez(tmp_path / "features.npz", **{k: v for k, v in arrays.items() if v is not None})
        return str(tmp_path / "features.npz"), arrays

    return write


def test_features_of_a_file(features):
    file, arrays = features()
    _, lines = view_of(config_of(), np.zeros((2, 16, 16, 3), np.uint8), features=file)
    distances = np.linalg.norm(arrays["samples"][:, None] - arrays["train"][None], axis=-1)
    others = np.linalg.norm(arrays["held_out"][:, None] - arrays["train"][None], axis=-1).min(1)
    assert lines[0] == (
        "distance: Euclidean, of the features in features.npz; to 24 training images"
    )
    for k in range(2):
        assert lines[2 + k] == (
            f"sample {k}: nearest is training image {distances[k].argmin()} at "
            f"{distances[k].min():.3g}; {np.mean(others < distances[k].min()):.0%} of held-out "
            "images are nearer to theirs"
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"samples": np.zeros((3, 3))},
            "samples has 3 rows. Legal: 2, one for each image in order.",
        ),
        (
            {"train": np.zeros((7, 3))},
            "train has 7 rows. Legal: 24, one for each image in order.",
        ),
        (
            {"held_out": None},
            "Legal: finite train, held_out, samples, floats [n, d] each, of one d.",
        ),
        ({"held_out": np.zeros((5, 2))}, "of one d."),
        ({"samples": np.full((2, 3), np.nan)}, "Legal: finite train"),
        ({"samples": np.zeros((2, 3), np.int32)}, "('int32', 2, 3)"),
    ],
)
def test_features_that_do_not_fit(features, changed, message):
    file, _ = features(**changed)
    with pytest.raises(UserError) as error:
        view_of(config_of(), np.zeros((2, 16, 16, 3), np.uint8), features=file)
    assert str(error.value).startswith(f"--features={file}: ")
    assert message in str(error.value)


def test_a_file_of_features_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"no \.npz of plain arrays"):
        view_of(config_of(), np.zeros((1, 16, 16, 3), np.uint8), features=str(tmp_path / "no.npz"))


def test_a_single_training_image_has_no_neighbours():
    config = config_of()
    config.data.source.num_examples = 1
    with pytest.raises(UserError) as error:
        view_of(config, np.zeros((1, 16, 16, 3), np.uint8))
    assert str(error.value) == "neighbours: got 1 training image. Legal: at least 2."
