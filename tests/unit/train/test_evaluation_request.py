"""What can be asked of an evaluation, and the sentences about what cannot."""

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.defaults import base_config
from ldm_jax.train.evaluation_request import Wanted, check_outputs, check_wanted, choose_counts

STAGE = {
    **{"name": "autoencoder_kl", "channels": 8, "channel_mult": (1, 2), "num_res_blocks": 0},
    **{"embed_dim": 2, "z_channels": 2, "mid_attention": False, "num_groups": 4},
}
UNET = {
    **{"name": "unet", "out_channels": 2, "channels": 8, "channel_mult": (1,)},
    **{"num_res_blocks": 0, "num_head_channels": 8, "num_groups": 4},
}


def config(kind):
    found = base_config()
    found.data = {"image_size": 16, "source": {"name": "shapes", "image_size": 16}}
    found.task = {"name": "autoencoder", "model": STAGE}
    if kind != "first stage":
        found.task = {"name": "latent_diffusion", "model": UNET, "first_stage": {"model": STAGE}}
    if kind == "class":
        found.task.conditioner = {"name": "class_label", "num_classes": 4, "dim": 8}
    return found


def refusal(act):
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


def test_the_usual_metrics_are_those_of_the_model():
    assert check_wanted(config("first stage"), Wanted())[1] == {"psnr": {}, "ssim": {}}
    assert check_wanted(config("class"), Wanted())[1] == {"fid": {}}
    found = check_wanted(config("class"), Wanted(metrics=("kid", "pr"), kid_size=16))[1]
    assert found == {"kid": {"subsets": 100, "size": 16, "seed": 2020}, "pr": {"k": 3}}
    again = check_wanted(config("class"), Wanted(metrics=("kid",)))[1]
    assert again["kid"]["size"] == 1000


@pytest.mark.parametrize(
    ("kind", "wanted", "sentence"),
    [
        ("class", {"metrics": ("fidd",)}, "--metrics: got 'fidd'; did you mean 'fid'? Legal: fid,"),
        (
            "class",
            {"metrics": ("psnr",)},
            "--metrics=psnr: this is a diffusion model. Legal: fid, sfid, kid, is, pr, dc, clip, "
            "bound.",
        ),
        (
            "first stage",
            {"metrics": ("fid",)},
            "--metrics=fid: this is a first stage. Legal: rfid, psnr, ssim, lpips.",
        ),
        (
            "class",
            {"metrics": ()},
            "--metrics: got none. Legal: fid, sfid, kid, is, pr, dc, clip, bound.",
        ),
        ("class", {"num_samples": 0}, "--num_samples=0: legal is 1 or more."),
        ("class", {"num_reference": 0}, "--num_reference=0: legal is 1 or more."),
        ("class", {"kid_size": 16}, "--kid_size=16: legal is 2 or more, with kid."),
        (
            "class",
            {"metrics": ("clip",), "clip": "a"},
            "--metrics=clip: this model reads no text. Legal: metrics without clip.",
        ),
        (
            "class",
            {"clip": "a"},
            "--clip=a: the metric clip needs a folder of transformers with a whole CLIPModel, and "
            "no other metric does. Legal: both or neither.",
        ),
        (
            "none",
            {"conditions": "train"},
            "--conditions=train: this model reads none. Legal: without this flag.",
        ),
    ],
)
def test_mistakes_are_told(kind, wanted, sentence):
    found = refusal(lambda: check_wanted(config(kind), Wanted(**wanted)))
    assert found.startswith(sentence) if sentence.endswith(",") else found == sentence


def test_a_classifier_draws_nothing():
    found = config("none")
    found.task = {
        "name": "latent_classifier",
        "model": {**UNET, "name": "unet_encoder", "out_channels": 4},
        "first_stage": {"model": STAGE},
    }
    assert refusal(lambda: check_wanted(found, Wanted())) == (
        "config.task.name=latent_classifier: draws no images. Legal: the --workdir of a "
        "latent_diffusion model, or of a first stage."
    )


def test_metrics_need_what_an_extractor_tells():
    check_outputs(("fid", "clip"), "pixels", ("features",))
    assert refusal(lambda: check_outputs(("fid", "is"), "pixels", ("features",))) == (
        "--metrics=is: needs logits, which --extractor=pixels does not have. Legal with it: fid, "
        "kid, pr, dc, rfid."
    )


def test_how_many_are_compared():
    fid, kid = {"fid": {}}, {"kid": {"size": 1000}}
    assert choose_counts(Wanted(), fid, 60_000, paired=False) == (50_000, 60_000)
    some = Wanted(num_samples=20, num_reference=30)
    assert choose_counts(some, fid, 60_000, paired=False) == (20, 30)
    assert choose_counts(Wanted(), {"psnr": {}}, 7, paired=True) == (7, 7)
    assert choose_counts(Wanted(num_samples=5), {"rfid": {}}, 7, paired=True) == (5, 5)
    assert refusal(lambda: choose_counts(some, fid, 25, paired=False)) == (
        "--num_reference=30: more than there are. Legal: 1 to 25."
    )
    assert refusal(lambda: choose_counts(some, kid, 60_000, paired=False)) == (
        "--metrics=kid: got 20 images. Legal: 1000 or more, or a smaller --kid_size."
    )
    assert refusal(lambda: choose_counts(some, {"psnr": {}}, 60, paired=True)) == (
        "--num_reference=30: reconstructions are compared with their own images. Legal: "
        "--num_samples."
    )
    many = Wanted(num_samples=30)
    assert refusal(lambda: choose_counts(many, {"psnr": {}}, 25, paired=True)) == (
        "--num_samples=30: more than there are. Legal: 1 to 25."
    )
