"""Whether a run of a configuration would take its data, without running it."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.data.split import split
from ldm_jax.train import assemble_data
from ldm_jax.train.condition_checks import (
    check_classes,
    check_first_examples,
    check_inputs,
    check_largest,
    check_tokenizer,
)
from ldm_jax.train.preflight import check_config


def refusal(
    config: ConfigDict, source: Any, batch_size: int, largest: Mapping[str, int] | None = None
) -> str | None:
    """Returns the message with which a run would refuse its data or settings, None if it would not.

    Weights, such as those of a first stage, are not looked for.

    Args:
      config: of the run; its latent cache, if it names one, is left alone.
      source: what `config.data.source` builds.
      batch_size: in place of the configuration's.
      largest: number that was seen of an entry, by its name.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.data.latent_cache = None
        config.train.batch_size = batch_size
    try:
        task = check_config(config)
        check_inputs(config, task)
        tokenizer = assemble_data.build_tokenizer(config)
        check_tokenizer(task, tokenizer)
        check_classes(task, source)
        derived = config.data.get("derive") or {}  # which hide the source's own
        check_largest(task, {k: v for k, v in (largest or {}).items() if k not in derived})
        if config.data.get("holdout"):
            source, _ = split(source, config.data.holdout)
        assemble_data.build_stream(config, source, task, tokenizer, squares=True)
        check_first_examples(config, task, source, tokenizer)
    except UserError as error:
        return str(error)
    return None
