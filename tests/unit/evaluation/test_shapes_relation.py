import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import (
    RELATIONS,
    RELATIONS_VOCABULARY,
    SceneObject,
    Shapes,
    relation_of,
    render_scene,
)
from ldm_jax.evaluation.shapes_relation import parse_relation, relation_scores


def at(row, column, colour="red", shape="circle"):
    return SceneObject(colour, shape, "small", row, column)


def test_real_scenes_show_what_their_captions_say():
    source = Shapes(32, min_objects=2, max_objects=2, seed=5, captions="relation", num_examples=200)
    found = [relation_scores(x["image"], x["text"]) for x in map(source.__getitem__, range(200))]
    assert sum(x["all"] for x in found) >= 190
    words = {word for k in range(200) for word in source[k]["text"].split()}
    assert words == set(RELATIONS_VOCABULARY) - {"and"}
    # Captions speak of the same scenes, whichever they are.
    places = Shapes(32, min_objects=2, max_objects=2, seed=5)
    assert (source[3]["image"] == places[3]["image"]).all()


def test_the_relation_is_the_more_distant_way():
    assert relation_of(at("top", "left"), at("middle", "right")) == "left of"
    assert relation_of(at("middle", "right"), at("top", "left")) == "right of"
    assert relation_of(at("top", "left"), at("middle", "center")) == "above"
    assert relation_of(at("bottom", "left"), at("top", "center")) == "below"


CAPTION = "a large red circle at the {} {} a small blue cross at the middle center"
PLACES = {
    "left of": ("middle", "left"),
    "right of": ("middle", "right"),
    "above": ("top", "center"),
    "below": ("bottom", "center"),
}
MIDDLE = ("middle", "center")


def scene(first, second):
    return render_scene([at(*first), at(*second, "blue", "cross")], 48)[0]


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_other_way_round_is_seen(relation):
    place = PLACES[relation]
    caption = CAPTION.format(" ".join(place), relation)
    right = relation_scores(scene(place, MIDDLE), caption)
    assert right == {"objects": True, "relation": True, "places": True, "all": True}
    wrong = relation_scores(scene(MIDDLE, place), caption)
    assert wrong == {"objects": True, "relation": False, "places": False, "all": False}


def test_a_relation_may_hold_in_other_places():
    caption = CAPTION.format("top left", "above")
    found = relation_scores(scene(("top", "right"), MIDDLE), caption)
    assert found == {"objects": True, "relation": True, "places": False, "all": False}


def test_wrong_objects_relate_to_nothing():
    caption = CAPTION.format("top left", "above")
    nothing = dict.fromkeys(("objects", "relation", "places", "all"), False)
    image, _, _ = render_scene([at("top", "left"), at(*MIDDLE, "blue", "square")], 48)
    assert relation_scores(image, caption) == nothing
    image, _, _ = render_scene([at("top", "left")], 48)
    assert relation_scores(image, caption) == nothing


def test_other_captions_are_refused():
    caption = CAPTION.format("middle left", "left of")
    first = SceneObject("red", "circle", "large", "middle", "left")
    second = SceneObject("blue", "cross", "small", "middle", "center")
    assert parse_relation(caption) == (first, "left of", second)
    with pytest.raises(UserError, match="RELATION one of left of, right of, above, below"):
        parse_relation("a small red circle at the top left")
    with pytest.raises(UserError, match="Legal: min_objects=2, max_objects=2"):
        Shapes(captions="relation")
    with pytest.raises(UserError, match="places, relation"):
        Shapes(captions="nothing")
