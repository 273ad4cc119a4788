"""What becomes of a caption that says left or right when its image is mirrored."""

import re

from ldm_jax.core.checks import check_in

# refuse: an image whose caption names a side is not mirrored, and its caption stays true.
# swap: it is mirrored, and the caption names the other side.
# any: it is mirrored, and the caption stays as it is.
FLIP_CAPTIONS = ("refuse", "swap", "any")

_OTHER = {
    "left": "right",
    "lefts": "rights",
    "lefty": "righty",
    "leftmost": "rightmost",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "lefthand": "righthand",
    "lefthanded": "righthanded",
    "leftside": "rightside",
    "clockwise": "counterclockwise",
}
_OTHER |= {right: left for left, right in _OTHER.items()}
_OTHER |= {"anticlockwise": "clockwise", "anti-clockwise": "clockwise"}
_OTHER |= {"counter-clockwise": "clockwise"}
# The longest first: 'counter-clockwise' is one word, while 'left' of 'left-hand' stands for itself.
_SIDES = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, _OTHER), key=len, reverse=True))})\b", re.IGNORECASE
)


def names_side(caption: str) -> bool:
    """Returns whether an English caption has a word that is false of the mirror image.

    Whole words in any case: left, right, their compounds such as leftmost or right-hand, and
    clockwise with its opposites. Other senses (all right) count too, since they cannot be told
    apart; other languages are not known.
    """
    return _SIDES.search(caption) is not None


def mirror_caption(caption: str, policy: str) -> tuple[bool, str]:
    """Returns whether an image with this caption is mirrored, and the caption it has then.

    Args:
      caption: of the image as it is.
      policy: one of `FLIP_CAPTIONS`.
    """
    if policy == "any" or not names_side(caption):
        return True, caption
    return (False, caption) if policy == "refuse" else (True, _SIDES.sub(_swapped, caption))


def check_flip_captions(policy: str) -> None:
    """Raises UserError unless `policy` is one of `FLIP_CAPTIONS`."""
    check_in("data.flip_captions", policy, FLIP_CAPTIONS)


def _swapped(match: re.Match[str]) -> str:
    word = match.group()
    other = _OTHER[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
