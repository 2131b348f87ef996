"""Reports in a real browser: nothing is requested, nothing complained about, and they fit a phone."""

import json
import re
import shutil
import struct
import subprocess
import urllib.parse

import pytest
from mho_lab import report
from report_page import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--v=0"),
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def browse(file, folder, *options):
    """What the browser says on stderr and stdout, and every address it asked for."""
    log = folder / "net.json"
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--log-net-log={log}", *options, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    text = log.read_text()
    return done, set(re.findall(r'"url":"((?:https?|wss?|ftp):[^"]+)"', text))


def of_the_page(addresses, baseline):
    """Requests that an empty page does not make: a browser of its own accord looks after its updates."""

    def host(address):
        return urllib.parse.urlsplit(address).hostname

    return {a for a in addresses if host(a) not in {host(b) for b in baseline}}


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    (folder / "empty.html").write_text("<!doctype html><title>empty</title>")
    return browse(folder / "empty.html", folder, "--dump-dom")[1]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One of every block, with a hostile name wherever a text goes."""
    points = [(1, 0.5, 0.01), (10, 0.7), (1000, 0.9)]
    blocks = [
        report.text(HOSTILE, HOSTILE),
        report.lines("Lines", {HOSTILE: points, "b": points}, x=HOSTILE, log=("x",), levels={HOSTILE: 0.6}),
        report.bars("Bars", {HOSTILE: (1.5, 0.1), "b": 2}),
        report.heatmap("Map", [HOSTILE, "b"], ["x", "y"], [[0.5, -0.2], [None, 0.1]]),
        report.histogram("Histogram", [0, 1, 2], {HOSTILE: [3, 1]}),
        report.table("Table", ["a", *(f"column {i}" for i in range(20))], [[HOSTILE, *range(20)]]),
        report.tiles("Tiles", [report.TileGrid(HOSTILE, "640x512", 20, 10, 0.5, 0.25)]),
        report.facts("Facts", {HOSTILE: HOSTILE}),
        report.code("Again", "mho sweep run " + "very_long_name " * 30),
    ]
    return report.write_page(tmp_path_factory.mktemp("page") / "page.html", HOSTILE, blocks, headline=HOSTILE)


def complaints(done):
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_nothing_is_requested_and_nothing_complained_about(page, tmp_path, baseline):
    done, addresses = browse(page, tmp_path, "--dump-dom")
    assert complaints(done) == []
    assert of_the_page(addresses, baseline) == set()


def test_the_watch_would_notice(tmp_path, baseline):
    """A page with a script, a picture from elsewhere and the policy of the reports: all three are noticed or refused."""
    bad = tmp_path / "bad.html"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    bad.write_text(f"<!doctype html>{meta}<title>x</title><script>document.title = 'hacked'</script>")
    done, _ = browse(bad, tmp_path, "--dump-dom")
    assert complaints(done) and "<title>x</title>" in done.stdout
    open_ = tmp_path / "open.html"
    open_.write_text("<!doctype html><title>x</title><img src='http://elsewhere.invalid/x.png'>")
    _, addresses = browse(open_, tmp_path, "--dump-dom")
    assert any("elsewhere.invalid" in a for a in of_the_page(addresses, baseline))


def test_hostile_names_are_text_in_the_browser_too(page, tmp_path):
    dom = browse(page, tmp_path, "--dump-dom")[0].stdout
    assert "<script" not in dom.lower() and dom.count("&lt;script&gt;alert('x')&lt;/script&gt;") > 10


@pytest.mark.parametrize("width", [390, 1200])
def test_a_page_is_as_wide_as_the_window(page, tmp_path, width):
    """A frame of the width of a phone: what does not fit scrolls inside its own box, never the page."""
    probe = tmp_path / "probe.html"
    content = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    # The measuring script is outside of the page, in a document without a policy.
    content = content.replace("default-src 'none'; ", "")
    probe.write_text(
        f"<!doctype html><meta charset=utf-8><title>?</title><iframe id=f style='width:{width}px;height:900px;border:0'>"
        f"</iframe><script>const f = document.getElementById('f'); f.srcdoc = {content}; f.onload = () => {{"
        "const d = f.contentDocument.documentElement; document.title = d.scrollWidth + ' of ' + d.clientWidth}</script>",
        encoding="utf-8",
    )
    dom = browse(probe, tmp_path, "--dump-dom", "--virtual-time-budget=4000", f"--window-size={width + 40},1000")[0].stdout
    found = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert found and int(found[1]) <= int(found[2]) == width


@pytest.mark.parametrize("width", [390, 1200])
def test_a_screenshot_is_not_empty(page, tmp_path, width):
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--screenshot={shot}", f"--window-size={width},2000")
    data = shot.read_bytes()
    assert struct.unpack(">II", data[16:24])[0] == width and len(data) > 20_000
