"""The site's page of results: the text that is made of a folder, and the page in a browser."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest

from experiments.pages import documents
from experiments.pages.documents import Document, Table
from experiments.targets import TARGETS

pytest.importorskip("mkdocs", reason='needs mkdocs: pip install -e ".[docs]"')

ROOT = Path(__file__).parents[1]
COMMAND = "python -m experiments.reproduce"
HEADER = ("Model", "Optimiser", "", "HR@10", "Difference", "Seeds")
ROWS = (
    ("SASRec", "Adam", "ours", "0.0645 ± 0.0014", "+2.1%", "5 of 5"),
    ("", "", "paper", "0.0634", "", "5"),
    ("MF-BPR", "Adam", "ours", "–", "–", "0 of 5"),
    ("", "", "paper", "0.9", "", "5"),
    ("BERT4Rec", "Adam", "ours", "0.1", "-10.4%", "1 of 5"),
    ("STOSA", "SEvo <b>|</b>", "ours", "1.2e-05", "+0.3%", "1,000 of 5"),
)
ALT = "A line of three points"


@pytest.fixture(scope="module")
def hook() -> Any:
    """The module that mkdocs runs, which is in no package."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs/hooks/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(path: Path) -> None:
    figure = matplotlib.figure.Figure(figsize=(4, 3))
    figure.add_subplot().plot([1, 3, 2])
    figure.savefig(path)


def row(seeds: int, epochs: int) -> dict[str, Any]:
    """A row of a JSON file, as the accuracy tables have them."""
    return {
        "devices": ["abacus"], "seeds_done": seeds, "epochs": epochs, "epochs_published": 200,
        "best_epochs": {str(seed): epochs for seed in range(seeds)},
    }  # fmt: skip


def document(name: str = "table2", **changes: Any) -> Document:
    made = Document(
        name=name,
        title="Made up: accuracy <of all>",
        text=["*Paper* is <script>alert(1)</script> its mean; `--epochs` ends early."],
        tables=[Table("Beauty: test", HEADER, ROWS, text_columns=3)],
        missing=["toys, seed 3: 160 of 200 epochs", "toys, seed 4: not <run>"],
        content={"rows": [row(3, 200), row(2, 200), row(1, 60), row(1, 160), row(0, 0)]},
        draw=draw,
        alt=ALT,
    )  # fmt: skip
    return made._replace(**changes)


def section(page: str, name: str) -> str:
    """Returns the text below the heading of a table or figure."""
    return page.partition(f"{{ #{name} }}\n")[2].partition("\n## ")[0]


def status(page: str, name: str) -> list[str]:
    """The cells of the summary beside a title: status, gaps and command."""
    line = next(line for line in page.splitlines() if f"](#{name}) |" in line)
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    return [cells[0].partition(">")[2].removesuffix("</span>"), *cells[1:]]


def test_the_hook_knows_every_target(hook) -> None:
    assert sorted(hook.TARGETS) == sorted(TARGETS)


def test_summary(hook, tmp_path) -> None:
    documents.write(document(), tmp_path)
    documents.write(document("figure6", missing=[], content={}, draw=None), tmp_path)
    page = hook.results_page(tmp_path)
    count = len(TARGETS)
    words = f"Of {count} tables and figures: 1 complete, 1 partial, {count - 2} not run."
    assert words in page
    assert status(page, "table2") == ["partial", "3", f"`{COMMAND} table2`"]
    assert status(page, "figure6") == ["complete", "–", f"`{COMMAND} figure6`"]
    assert status(page, "table3") == ["not run", "all", f"`{COMMAND} table3`"]
    order = [page.index(f"](#{name})") for name in ("table1", "table7", "table8", "figure2a", "a4")]
    assert order == sorted(order)


def test_a_section_has_runs_and_gaps(hook, tmp_path) -> None:
    documents.write(document(), tmp_path)
    text = section(hook.results_page(tmp_path), "table2")
    for words in (
        "- Devices: abacus\n",
        "- Seeds: 0, 1, 2\n",
        "- Epochs: 200 of 200 (2 rows), 60 of 200 (1 row), 160 of 200 (1 row)\n",
        f"- Command: `{COMMAND} table2`",
        "0.0645 ± 0.0014",
        f"![{ALT}](table2.png)",
        '??? warning "Missing: 3 gaps"',
        "- toys, seed 3: 160 of 200 epochs",
        "- 1 row stopped early: 60 of 200 epochs",
    ):
        assert words in text, words
    assert text.count("seed 3: 160") == 1, "no gap is listed twice"


def test_a_result_of_another_name_is_shown(hook, tmp_path) -> None:
    documents.write(document("table2-quick"), tmp_path)
    page = hook.results_page(tmp_path)
    assert status(page, "table2-quick")[0] == "partial"
    assert "0.0645 ± 0.0014" in section(page, "table2-quick")


BROKEN = {
    "cut off": ("table3.json", b'{"document": {"title": "T", "tex', "JSONDecodeError"),
    "a list": ("table3.json", b"[]", "TypeError"),
    "deep": ("table3.json", b"[" * 200_000, "RecursionError"),
    "another form": ("table3.json", b'{"table": "table3"}', "'document'"),
    "no text": ("table3.json", b"\xff\xfe", "UnicodeDecodeError"),
    "strange rows": (
        "table3.json",
        b'{"document": {"title": "T", "missing": [], "picture": null}, '
        b'"rows": [{"epochs_published": 3, "seeds_done": 1}]}',
        "'epochs'",
    ),
    "huge": ("table3.json", b" " * 20_000_001, "larger than 20,000,000 bytes"),
    "no Markdown": ("table3.md", None, "table3.md: No such file"),
    "no JSON": ("table3.json", None, "table3.json: No such file"),
    "a broken picture": ("table3.png", b"\x89PNG\r\n\x1a\nbroken", "no whole PNG"),
    "no picture": ("table3.png", None, "table3.png: No such file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_read_is_named(case, hook, tmp_path, caplog) -> None:
    documents.write(document(), tmp_path)
    documents.write(document("table3"), tmp_path)
    name, content, reason = BROKEN[case]
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    page = hook.results_page(tmp_path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING, "which ends a strict build"
    for words in (section(page, "table3"), record.getMessage()):
        assert "table3 cannot be shown" in words
        assert reason in words
    assert status(page, "table3") == ["unreadable", "all", f"`{COMMAND} table3`"]
    assert "table3.png)" not in page
    assert "0.0645 ± 0.0014" in section(page, "table2"), "the rest is shown"


def test_notes_follow_the_sections(hook, tmp_path, caplog) -> None:
    notes = tmp_path / "README.md"
    notes.write_text("# Results\n\nAll.\n\n## Curves\n\nSee [it](table2.md) and [a](b/c.md).\n")
    page = hook.results_page(tmp_path)
    assert page.endswith("\n## Curves\n\nSee [it](#table2) and [a](b/c.md).\n\n")
    assert not caplog.records
    notes.write_bytes(b"# Results\n\n## Curves\n\n\xff")
    page, (record,) = hook.results_page(tmp_path), caplog.records
    assert "README.md cannot be shown" in record.getMessage()
    assert "README.md cannot be shown" in page.partition("\n## README.md\n")[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[str]:
    """The site of our results and a made-up one, strictly built and served; its address."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    root = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", root / "docs")
    shutil.copytree(ROOT / "results", root / "results", ignore=shutil.ignore_patterns("run*"))
    shutil.copytree(ROOT / "benchmarks/results", root / "benchmarks/results")
    shutil.copy(ROOT / "mkdocs.yml", root)
    documents.write(document("made-up"), root / "results")
    # The reference, which is of no concern here, takes most of the time.
    config = load_config(str(root / "mkdocs.yml"), strict=True, plugins=["search"])
    build(config)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Keeps the test's output clean."""

    handler = functools.partial(Handler, directory=str(root / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    """A headless Chromium that records its requests and errors."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
                   "disable-background-networking", "disable-component-update", "disable-sync",
                   f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.mark.slow
def test_page_in_a_browser(browser, site) -> None:
    def emulate(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def brightness() -> int:
        script = "return getComputedStyle(document.body).backgroundColor"
        return sum(map(int, browser.execute_script(script)[4:-1].split(", ")))

    def pictures() -> dict[str, int]:
        script = "return [...document.images].map((image) => [image.src, image.naturalWidth])"
        return dict(browser.execute_script(script))

    emulate("dark")
    browser.get(f"{site}/results/")
    assert brightness() < 200
    assert len(pictures()) == 1 + len(list((ROOT / "results").glob("*.png")))
    assert all(pictures().values()), pictures()

    table = "document.querySelector('h2#made-up ~ * table')"
    names = f"[...{table}.tBodies[0].rows].map((row) => row.cells[0].textContent)"

    def column(index: int) -> list[str]:
        """The order of a heading, and the first cells of all rows, after a click on it."""
        return browser.execute_script(
            f"""const heading = {table}.tHead.rows[0].cells[arguments[0]];
            heading.querySelector("button").click();
            return [heading.ariaSort, ...{names}];""",
            index,
        )

    assert column(3) == ["ascending", "STOSA", "SASRec", "", "BERT4Rec", "MF-BPR", ""]
    assert column(3) == ["descending", "BERT4Rec", "SASRec", "", "STOSA", "MF-BPR", ""]
    assert column(3) == [None, "SASRec", "", "MF-BPR", "", "BERT4Rec", "STOSA"]
    assert column(4) == ["ascending", "BERT4Rec", "STOSA", "SASRec", "", "MF-BPR", ""]
    assert column(5) == ["ascending", "MF-BPR", "", "BERT4Rec", "SASRec", "", "STOSA"]
    # With the keyboard: the heading is a button.
    browser.execute_script(f"{table}.querySelector('thead button').focus()")
    browser.switch_to.active_element.send_keys("\n")
    by_name = ["BERT4Rec", "MF-BPR", "", "SASRec", "", "STOSA"]
    assert browser.execute_script(f"return {names}") == by_name
    assert "SEvo <b>|</b>" in browser.execute_script(f"return {table}.innerText")
    assert browser.execute_script("return document.querySelector('article script')") is None

    emulate("light")
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.execute_script("localStorage.clear()")
    for place in ("results", "benchmarks"):
        browser.get(f"{site}/{place}/")
        assert brightness() > 700
        widths = "return [innerWidth, document.documentElement.scrollWidth]"
        assert browser.execute_script(widths) == [390, 390], "wide tables scroll in themselves"
        assert pictures()
        assert all(pictures().values()), pictures()

    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    of_page = [r["request"]["url"] for r in requests if r["documentURL"].startswith(site)]
    assert of_page
    assert [url for url in of_page if not url.startswith((site, "data:"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
def test_every_page_in_a_browser(browser, site, width) -> None:
    """No error, no broken link or picture, nothing wider than the screen."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 1000}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    todo, anchors, places = [f"{site}/"], dict[str, set[str]](), set[str]()
    while todo:
        page = todo.pop()
        if page in anchors:
            continue
        browser.get(page)
        anchors[page] = set(
            browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
        )
        broken = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
        assert browser.execute_script(broken) == [], page
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page
        links = browser.execute_script("return [...document.links].map(link => link.href)")
        own = [link for link in links if link.startswith(site)]
        places.update(own)
        todo += [link.partition("#")[0] for link in own if not link.endswith((".png", ".py"))]
    assert len(anchors) > 15
    missing = [
        place
        for place, _, anchor in (link.partition("#") for link in places)
        if anchor and anchor not in anchors.get(place, ())
    ]
    assert missing == []
    assert browser.get_log("browser") == []
