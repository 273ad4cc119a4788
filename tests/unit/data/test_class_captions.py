import collections

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.class_captions import ClassCaptions

NAMES = (("a cat",), ("a dog", "a hound"))
TEMPLATES = ("a photo of {}", "{}")


def test_every_example_keeps_its_caption_and_every_caption_is_used():
    captions = ClassCaptions(NAMES, TEMPLATES)
    drawn = [captions(1, index) for index in range(4000)]
    assert drawn == [captions(1, index) for index in range(4000)]
    counts = collections.Counter(drawn)
    assert set(counts) == {"a dog", "a hound", "a photo of a dog", "a photo of a hound"}
    assert min(counts.values()) > 850  # 1000 expected; a standard deviation is 27


def test_examples_whose_class_follows_from_their_number_get_all_captions_too():
    captions = ClassCaptions(NAMES, TEMPLATES)
    assert len({captions(1, 2 * index + 1) for index in range(100)}) == 4


def test_without_templates_the_names_are_whole_captions():
    assert ClassCaptions(NAMES)(0, 7) == "a cat"


def test_a_name_may_have_braces():
    assert ClassCaptions((("{}",),), ("<{}>",))(0, 0) == "<{}>"


@pytest.mark.parametrize(
    ("names", "templates", "text"),
    [
        ((("a cat",), ()), ("{}",), r"captions.names: class 1 has \(\). Legal: one or more names"),
        ((("a", " "),), ("{}",), r"captions.names: class 0 has \('a', ' '\)"),
        (NAMES, ("a photo",), r"captions.templates: got 'a photo'. Legal: .* with {} once"),
        (NAMES, ("{} {}",), r"captions.templates: got '{} {}'"),
        (NAMES, (), r"captions.templates: got None. Legal: one or more texts"),
    ],
)
def test_illegal_names_and_templates(names, templates, text):
    with pytest.raises(UserError, match=text):
        ClassCaptions(names, templates)


def test_the_classes_must_be_those_of_the_data():
    captions = ClassCaptions(NAMES)
    captions.check_classes(("cat", "dog"))
    with pytest.raises(UserError, match=r"names of 2 classes. Legal: of 1, in this order: cat."):
        captions.check_classes(("cat",))
    with pytest.raises(UserError, match=r"the data have no classes. Legal: not given."):
        captions.check_classes(None)
