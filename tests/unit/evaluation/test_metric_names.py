import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.metric_names import NAMES, metric_name


def test_published_features_give_the_usual_names():
    assert metric_name("fid", "inception") == "FID"
    assert metric_name("is", "inception") == "Inception Score"
    assert metric_name("recall", "inception") == "recall"
    assert metric_name("psnr") == "PSNR"


@pytest.mark.parametrize("extractor", ["emoji classifier", "pixels 8x8", "inception 0123abcd"])
@pytest.mark.parametrize("metric", [name for name, entry in NAMES.items() if entry.other])
def test_other_features_are_named_and_no_name_of_inceptions_is_lent(metric, extractor):
    name = metric_name(metric, extractor)
    assert name.endswith(f" ({extractor})")
    title = name.removesuffix(f" ({extractor})")
    for reserved in ("FID", "KID", "Inception"):
        assert reserved not in title


def test_some_names_in_full():
    assert metric_name("fid", "emoji classifier") == "Fréchet distance (emoji classifier)"
    assert metric_name("clip_score", "ViT-L/14") == "CLIP score (ViT-L/14)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "inception"), "metric: got 'fit'; did you mean 'fid'? Legal: fid, sfid, "),
        (("fid",), "metric fid: got no extractor. Legal: the name of one."),
        (("fid", ""), "metric fid: got no extractor. Legal: the name of one."),
        (("psnr", "inception"), "metric psnr: got extractor 'inception'. Legal: none."),
    ],
)
def test_refuses_names_that_would_say_nothing(arguments, message):
    with pytest.raises(UserError) as caught:
        metric_name(*arguments)
    assert str(caught.value).startswith(message)
