"""What the studio's server gives to whoever asks, without a browser: nothing but its page."""

import contextlib
import http.client
import importlib.util
import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.studio.files import png
from ldm_jax.studio.serve import check_address, is_loopback

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None,
    reason="the studio needs Gradio: pip install ldm-jax[studio]",
)
SECRET = "of-nobody-else"


@contextlib.contextmanager
def served(workdir, *arguments):
    """Runs the command, and yields its address."""
    command = [sys.executable, "-m", "ldm_jax.cli.main", "studio", "--checkpoint", str(workdir)]
    command += ["--port", "0", "--lazy", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("studio: http://"), line
            yield line.split()[1].rstrip("/")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(runs):
    with served(runs.text) as found:
        yield found


def fetch(url, data=None, kind="application/json"):
    """Returns status and body."""
    request = urllib.request.Request(url, data, {"Content-Type": kind} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_page_is_served_and_names_no_other_place(address):
    status, body = fetch(address)
    assert status == 200
    text = body.decode()
    config = json.loads(fetch(f"{address}/config")[1])
    assert not config.get("analytics_enabled")
    # What a browser would fetch: links of style, scripts, fonts and pictures. A page's address in
    # its own description is none.
    fetched = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', text)
    assert fetched == []
    assert "fonts.googleapis.com" not in text
    assert not re.search(r"url\(\s*['\"]?https?:", config.get("css") or "")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def test_no_path_from_outside_is_opened(address, secret):
    for path in (
        secret,
        "/etc/passwd",
        f"../../../../../..{secret}",
        f"..%2f..%2f..%2f..%2f..{urllib.parse.quote(str(secret), safe='')}",
        f"file://{secret}",
        __file__,
        "setup.cfg",
    ):
        for route in ("file=", "gradio_api/file=", "gradio_api/stream/", "static/", "assets/"):
            status, body = fetch(f"{address}/{route}{path}")
            assert status >= 400, (route, path)
            assert SECRET.encode() not in body
    status, body = fetch(f"{address}/gradio_api/proxy=http://127.0.0.1:1/")
    assert status >= 400


def call(address, number, data, session):
    """Asks for an event as a page does, and returns what the server says of it until its end."""
    body = json.dumps({"fn_index": number, "data": data, "session_hash": session}).encode()
    status, _ = fetch(f"{address}/gradio_api/queue/join", body)
    if status != 200:
        return f"refused: {status}"
    url = f"{address}/gradio_api/queue/data?session_hash={session}"
    said = []
    with urllib.request.urlopen(url, timeout=60) as stream:
        for line in stream:
            said.append(line.decode())
            if "process_completed" in said[-1]:
                break
    return "".join(said)


def test_no_event_takes_a_path(address, tmp_path):
    """A picture outside of the studio's folder stays where it is; one that is uploaded comes."""
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(np.full((16, 16, 3), 77, np.uint8)))
    config = json.loads(fetch(f"{address}/config")[1])
    ids = {x["props"].get("elem_id"): x["id"] for x in config["components"]}
    (number,) = [
        k
        for k, event in enumerate(config["dependencies"])
        if event["inputs"][:1] == [ids["upload"]]
    ]
    props = {x["id"]: x["props"] for x in config["components"]}
    form = [props[x].get("value") for x in config["dependencies"][number]["inputs"][1:]]

    def put(path, session):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
        return call(address, number, [file, *form], session)

    refused = put(str(outside), "one")
    assert "data:image/png" not in refused
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + outside.read_bytes() + b"\r\n--x--\r\n"
    status, answer = fetch(f"{address}/gradio_api/upload", body, "multipart/form-data; boundary=x")
    assert status == 200
    assert "data:image/png" in put(json.loads(answer)[0], "two")


def test_bodies_are_bounded(address):
    """What a request says of its length is believed, before a byte of it is read."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("Content-Length", str(65 * 2**20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_uploads_are_bounded(address):
    boundary = "x"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode()
    body = head + bytes(21 * 2**20) + f"\r\n--{boundary}--\r\n".encode()
    status, _ = fetch(
        f"{address}/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}"
    )
    assert status == 413


def test_another_address_needs_a_password():
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
        check_address(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(UserError, match=r"others could reach it\. Legal: 127\.0\.0\.1"):
            check_address(host, None)
        with pytest.raises(UserError, match="8 characters or more"):
            check_address(host, "short")
        check_address(host, "long enough")


def test_with_a_password_nothing_is_told_without_it(runs, tmp_path):
    file = tmp_path / "password"
    file.write_text("long enough\n")
    with served(runs.text, "--host", "0.0.0.0", "--password_file", file) as address:
        address = address.replace("0.0.0.0", "127.0.0.1")
        for path in ("config", "gradio_api/info", "gradio_api/file=x"):
            assert fetch(f"{address}/{path}")[0] in (401, 403, 404, 405), path
        assert fetch(f"{address}/gradio_api/queue/join", b"{}")[0] == 401
        form = "application/x-www-form-urlencoded"
        assert fetch(f"{address}/login", b"username=studio&password=wrong+one", form)[0] == 400
        assert fetch(f"{address}/login", b"username=studio&password=long+enough", form)[0] == 200


def test_the_command_says_what_is_legal(runs, tmp_path, capfd):
    def line(*arguments):
        assert main(["studio", *map(str, arguments)]) == 2
        (said,) = capfd.readouterr().err.splitlines()
        return said

    short = tmp_path / "password"
    short.write_text("abc\n")
    assert "--host=0.0.0.0: others could reach it" in line(
        "--checkpoint", runs.text, "--host", "0.0.0.0"
    )
    assert "8 characters or more" in line(
        "--checkpoint", runs.text, "--host", "0.0.0.0", "--password_file", short
    )
    assert "no such file" in line("--checkpoint", runs.text, "--password_file", tmp_path / "none")
    assert "holds a first stage alone" in line("--checkpoint", runs.autoencoder)
    assert "Legal: --config.sample.FIELD" in line(
        "--checkpoint", runs.text, "--config.train.steps=3"
    )
    for flag in ("--config", "--tokenizer"):
        assert f"{flag}: a trained run keeps its own" in line("--checkpoint", runs.text, flag, "x")


def test_a_port_that_is_taken_is_a_sentence(runs, address):
    port = address.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "ldm_jax.cli.main", "studio", "--checkpoint", str(runs.text)]
    done = subprocess.run(
        [*command, "--port", port, "--lazy"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"ldm-jax: --host=127.0.0.1 --port={port}: cannot listen"
    )
