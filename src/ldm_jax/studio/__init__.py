"""The studio: a page in the browser that draws with a model, and lets one steer it meanwhile.

`ldm-jax studio --checkpoint DIR` serves it. It stands on `ldm_jax.pipeline` and
`ldm_jax.inspection`; Gradio (extra `[studio]`) is imported by `layout`, `page` and `serve` alone.
"""
