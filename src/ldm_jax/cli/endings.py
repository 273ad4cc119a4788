"""How a command ends: the line and the exit status of an error."""

from ldm_jax.core.checks import UserError


def ending(error: BaseException) -> tuple[str, int] | None:
    """Returns what to write to standard error and the exit status; None for a mistake of ours."""
    if isinstance(error, UserError | OSError):  # such as a folder that cannot be made, a full disk
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        if hasattr(error, "status"):  # `train.signals.Interrupted`, which is not imported for it
            return str(error), error.status
        return str(error) or "interrupted", 130
    return None


def line(sentence: str) -> str:
    """Returns a sentence as the commands write it, whatever line breaks are in it; '' as ''."""
    if not sentence:
        return ""
    return f"ldm-jax: {' '.join(sentence.split())}\n"
