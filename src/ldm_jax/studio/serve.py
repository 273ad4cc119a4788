"""Serving the page: on this machine alone, unless there is a password."""

import atexit
import ipaddress
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.studio.studio import Studio

USER = "studio"
_LEAST_PASSWORD = 8
_QUEUE = 24  # runs that wait; more are told to come again
_UPLOAD = "20mb"
_MOST_BODY = 64 * 2**20  # bytes of any request: painted masks come in one


def check_address(host: str, password: str | None) -> None:
    """Raises UserError for an address that others can reach, without a password of some length."""
    if is_loopback(host):
        return
    if password is None:
        raise UserError(
            f"--host={host}: others could reach it. Legal: 127.0.0.1, or --password_file FILE."
        )
    if len(password) < _LEAST_PASSWORD:
        raise UserError(f"--password_file: legal are {_LEAST_PASSWORD} characters or more.")


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_app(studio: Studio) -> Any:
    """Returns the Gradio app of a studio, not yet served.

    Raises:
      UserError: Gradio is not installed.
    """
    # Nothing is told to anybody, and nothing is fetched.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "1")
    try:
        from ldm_jax.studio.desk import Desk
        from ldm_jax.studio.page import Page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError('studio: needs Gradio. Legal: pip install "ldm-jax[studio]".') from error
    return Page(Desk(studio)).build()


def serve(
    studio: Studio,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    password: str | None = None,
    warm: bool = True,
) -> tuple[Any, str]:
    """Serves the page by threads of its own; returns the app and its address.

    Args:
      studio: what is served.
      host: address to listen on.
      port: 0 takes any that is free.
      password: of the user 'studio'; None asks for none.
      warm: compile what steering may need, while the page is served already.

    Raises:
      UserError: an address that others reach without a password, or where none can listen.
    """
    check_address(host, password)
    folder = tempfile.mkdtemp(prefix="ldm_jax_studio_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads
    app = make_app(studio)
    app.queue(max_size=_QUEUE, default_concurrency_limit=8, api_open=False)
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port or _free_port(host),
            auth=None if password is None else (USER, password),
            max_file_size=_UPLOAD,
            allowed_paths=[],
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            app_kwargs={"middleware": [_body_limit()]},
            enable_monitoring=False,
            **_looks(),
        )
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port}: cannot listen there. Legal: an address of this machine "
            "and a port that is free, or 0 for any."
        ) from error
    if warm:
        threading.Thread(target=studio.warm, daemon=True).start()
    return app, address


def _looks() -> dict[str, Any]:
    """Returns theme, style and script of the page, none of which comes from elsewhere."""
    import gradio as gr

    def font(*names: str) -> list[Any]:
        return [gr.themes.Font(name) for name in names]

    assets = Path(__file__).parent / "assets"
    return {
        "theme": gr.themes.Base(
            primary_hue="teal",
            neutral_hue="slate",
            radius_size="md",
            font=font("system-ui", "sans-serif"),
            font_mono=font("ui-monospace", "monospace"),
        ),
        "css": (assets / "style.css").read_text(),
        "head": f"<script>{(assets / 'easel.js').read_text()}</script>",
    }


class BodyLimit:
    """Answers 413 to requests that say, or turn out, to be too large; an ASGI middleware."""

    def __init__(self, app: Any, most: int):
        """Takes the app that it stands before, and a number of bytes."""
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, as far as it is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > self._most:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"too large"})
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > self._most else message

        await self._app(scope, counted, send)


def _body_limit() -> Any:
    from starlette.middleware import Middleware

    return Middleware(BodyLimit, most=_MOST_BODY)


def _free_port(host: str) -> int:
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        found.bind((host, 0))
        port: int = found.getsockname()[1]
        return port
