"""``python -m experiments.report``: what the page says, and what a browser makes of it."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import matplotlib.figure
import pytest

from experiments.files import write_json
from experiments.report.__main__ import main
from experiments.reproduce import documents
from experiments.reproduce.__main__ import TABLES
from experiments.reproduce.documents import Document, Table

HEADER = ("Model", "Optimiser", "", "HR@10", "Difference", "Seeds")
ROWS = (
    ("SASRec", "Adam", "ours", "0.0645 ± 0.0014", "+2.1%", "5 of 5"),
    ("", "", "paper", "0.0634", "", "5"),
    ("MF-BPR", "Adam", "ours", "–", "–", "0 of 5"),
    ("", "", "paper", "0.9", "", "5"),
    ("BERT4Rec", "Adam", "ours", "0.1", "-10.4%", "1 of 5"),
    ("STOSA", "SEvo <b>", "ours", "1.2e-05", "+0.3%", "1,000 of 5"),
)
ALT = 'A line & a "dot"'


def draw(path: Path) -> None:
    figure = matplotlib.figure.Figure(figsize=(4, 3))
    figure.add_subplot().plot([1, 3, 2])
    figure.savefig(path)


def cell(optimizer: str, seeds: int, epochs: int, mean: float) -> dict:
    """A row of a JSON file, as the accuracy tables have them."""
    found = {str(seed): mean for seed in range(seeds)}
    score = {
        "seeds": found,
        "mean": mean,
        "std": None,
        "paper": 0.04,
        "difference": mean / 0.04 - 1,
    }
    return {
        "dataset": "beauty", "model": "sasrec", "label": "SASRec", "optimizer": optimizer,
        "seeds_done": seeds, "seeds_asked": 5, "epochs": epochs, "epochs_published": 200,
        "best_epochs": dict.fromkeys(found, epochs), "devices": ["abacus"] if seeds else [],
        "test": {"NDCG@10": score},
    }  # fmt: skip


def table2(**changes) -> Document:
    content = {
        "rows": [cell("adam", 3, 200, 0.03), cell("sevo-adamw", 2, 200, 0.05),
                 cell("adamw", 1, 60, 0.09), cell("adamw", 0, 0, 0.0)],
        "comparisons": [{"dataset": "beauty", "model": "sasrec", "label": "SASRec",
                         "sevo": "sevo-adamw", "against": "adam", "seeds": [0, 1],
                         "gain": {"NDCG@10": 0.125}, "paper_gain": {"NDCG@10": None}}],
    }  # fmt: skip
    document = Document(
        name="table2",
        title="Table 2: accuracy <of all>",
        text=["*Paper* is <script>alert(1)</script> its mean; `--epochs` ends early."],
        tables=[Table("Beauty: test", HEADER, ROWS, text_columns=3),
                Table("Toys: test", HEADER, [ROWS[2], ROWS[3]], text_columns=3)],
        missing=["beauty, sasrec-adam, seed 4: not <run>"],
        content=content,
        draw=draw,
        alt=ALT,
    )  # fmt: skip
    return document._replace(**changes)


BENCHMARK = {
    "benchmark": "first_run", "device": "abacus", "platform": "cpu", "quick": False,
    "versions": {"jax": "0.10"}, "date": "2026-01-02",
    "cases": [
        {"case": "step", "ours": 2.0, "unit": "ms", "peers": {"slow": 8.0, "fast": 1.0},
         "ratio": 2.0, "spread": [1.5, 2.5], "others": {"gather": 3.0}, "entries": 7},
        {"case": "alone", "ours": 4.0, "unit": "s", "peers": {}, "ratio": None, "spread": [3, 5]},
    ],
}  # fmt: skip


@pytest.fixture
def folders(tmp_path) -> Path:
    """A folder with results, one of them complete, and a benchmark."""
    documents.write(table2(), tmp_path / "results")
    whole = table2(name="figure9", title="Figure 9", missing=[], draw=None)
    rows = [row for row in whole.content["rows"] if row["epochs"] >= row["epochs_published"]]
    whole = whole._replace(content=whole.content | {"rows": rows})
    documents.write(whole, tmp_path / "results")
    (tmp_path / "benchmarks").mkdir()
    write_json(tmp_path / "benchmarks/first_run-abacus.json", BENCHMARK)
    return tmp_path


def report(folder: Path) -> tuple[str, str]:
    """Writes the page of a folder; its HTML without references, and its Markdown."""
    out = folder / "out/report.html"
    options = {"results": folder / "results", "benchmarks": folder / "benchmarks", "out": out}
    assert main([word for name, path in options.items() for word in (f"--{name}", str(path))]) == 0
    return out.read_text(), out.with_suffix(".md").read_text()


def test_documents_are_read_as_they_were_written(tmp_path):
    written = table2()
    documents.write(written, tmp_path)
    found, picture = documents.read(tmp_path / "table2.json")
    assert picture == tmp_path / "table2.png"
    assert picture.exists()
    tables = [
        t._replace(header=[*t.header], rows=[[*row] for row in t.rows]) for t in written.tables
    ]
    assert found == written._replace(draw=None, tables=tables)
    assert f"![{ALT}](table2.png)" in (tmp_path / "table2.md").read_text()


def test_page(folders):
    page, text = report(folders)
    for words in (
        f"tables and figures: 1 complete, 1 partial, {len(TABLES) - 1} not run.",
        "0.0645 ± 0.0014",
        "python -m experiments.reproduce table3",
        "python -m experiments.reproduce figure9",
        "python -m benchmarks.first_run",
        "6 of 20, in 3 of 4 rows",
        "all of them in 2 rows, fewer in 1 (60 of 200)",
        "1 row stopped early: 60 of 200 epochs",
        "abacus",
        "0 1 2",
        "+12.5%",
        "+25.0%",
    ):
        assert words in page, words
        assert words in text, words
    assert "0.0900" not in page, "a row that was stopped early is none of the best"
    assert '<details>\n<summary id="table2-2">' in page, "a table of nothing is folded"
    assert '<details open>\n<summary id="table2-1">' in page
    assert "![" in text
    assert "](../results/table2.png)" in text


def test_gaps_have_their_commands(folders):
    page, text = report(folders)
    for name in TABLES.keys() - {"table2"}:
        section = page.partition(f'<section aria-labelledby="{name}">')[2].partition("</section>")[
            0
        ]
        assert f"To make it: <code>python -m experiments.reproduce {name}</code>" in section
        assert f"Not run. To make it: `python -m experiments.reproduce {name}`" in text
    assert "To fill the gaps: <code>python -m experiments.reproduce table2</code>" in page


def test_targets_of_one_module_are_told_apart(folders, monkeypatch):
    for name in ("figure3a", "figure3b"):
        monkeypatch.setitem(TABLES, name, TABLES["table2"])
    page, text = report(folders)
    for title in ("Figure 3a", "Figure 3b", "Table 3: SASRec on two large data sets"):
        assert f"## {title}\n\nNot run." in text
        assert f"{title} <span" in page


def test_text_is_escaped(folders):
    page, _ = report(folders)
    assert "<script>alert" not in page
    assert "<em>Paper</em> is &lt;script&gt;" in page
    assert "<code>--epochs</code>" in page
    for words in ("accuracy <of all>", "SEvo <b>", "not <run>", ALT):
        assert words not in page
        assert words in html.unescape(page)


def test_benchmarks(folders):
    _, text = report(folders)
    lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert "step fast 2 ms 1 ms 2 1.5 to 2.5 entries 7" in lines
    assert "slow 8 ms" in lines
    assert "ours, gather 3 ms" in lines
    assert "alone – 4 s – – 3 to 5" in lines


def test_no_results(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    page, text = report(tmp_path)
    for written in (page, text):
        assert "There are no results yet" in written
        assert "python -m experiments.reproduce table2" in written
    assert f"warning: --benchmarks: there is no folder {tmp_path / 'benchmarks'}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"table": "table3"}',
        '{"document": []}',
        '{"document": {"title": "T", "text": "", "tables": [], "missing": [], "picture": null}}',
        '{"document": {"title": "T", "text": [], "missing": [], "picture": null, "tables": '
        '[{"title": "t", "header": ["a"], "rows": [["1", "2"]], "text_columns": 1}]}}',
        '{"document": {"title": "T", "text": [], "tables": [], "missing": [], "picture": null}, '
        '"rows": [{"epochs_published": 3, "seeds_done": 1}]}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(folders, capsys, content):
    (folders / "results/table3.json").write_text(content)
    (folders / "benchmarks/kernels-abacus.json").write_text(content)
    (folders / "results/table2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    page, text = report(folders)
    warnings = capsys.readouterr().err
    for written in (warnings, text, page.partition('<h2 id="problems">')[2]):
        assert "table3.json" in written
        assert "kernels-abacus.json" in written
        assert "table2.png: the picture cannot be read" in written
    assert "1 unreadable" in text
    assert "Unreadable. To make it: `python -m experiments.reproduce table3`" in text
    assert "0.0645 ± 0.0014" in page, "the rest is shown"


def test_out_must_be_html(folders, capsys):
    nowhere = ["--results", str(folders / "no"), "--benchmarks", str(folders / "no"), "--out"]
    assert main([*nowhere, str(folders / "report.pdf")]) == 1
    assert "--out: expected a file that ends in .html, got" in capsys.readouterr().err
    (folders / "file").touch()
    assert main([*nowhere, str(folders / "file/report.html")]) == 1
    assert "--out: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that writes its requests and errors down."""
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
                   "disable-background-networking", "disable-component-update",
                   f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


def test_page_in_a_browser(folders, browser):
    report(folders)
    browser.get((folders / "out/report.html").as_uri())

    def column(index: int) -> list[str]:
        """The models of the first table of Table 2, in order, after a click on a heading."""
        return browser.execute_script(
            """const table = document.querySelector("#table2-1 ~ .scroll table");
            const heading = table.tHead.rows[0].cells[arguments[0]];
            heading.querySelector("button").click();
            const models = [...table.tBodies].map((group) => group.rows[0].cells[0].textContent);
            return [heading.ariaSort, ...models];""",
            index,
        )  # fmt: skip

    assert column(3) == ["ascending", "STOSA", "SASRec", "BERT4Rec", "MF-BPR"]
    assert column(3) == ["descending", "BERT4Rec", "SASRec", "STOSA", "MF-BPR"]
    assert column(3) == [None, "SASRec", "MF-BPR", "BERT4Rec", "STOSA"]
    assert column(4) == ["ascending", "BERT4Rec", "STOSA", "SASRec", "MF-BPR"]
    assert column(0) == ["ascending", "BERT4Rec", "MF-BPR", "SASRec", "STOSA"]
    assert column(5) == ["ascending", "MF-BPR", "BERT4Rec", "SASRec", "STOSA"]
    # With the keyboard: the heading is a button, and rows of a group stay together.
    browser.execute_script(
        "document.querySelectorAll('#table2-1 ~ .scroll thead button')[0].focus()"
    )
    browser.switch_to.active_element.send_keys("\n")
    rows = browser.execute_script(
        "const rows = document.querySelectorAll('#table2-1 ~ .scroll tbody tr');"
        "return [...rows].map((row) => row.innerText)"
    )
    assert [row.split()[0] for row in rows] == [
        "BERT4Rec",
        "MF-BPR",
        "paper",
        "SASRec",
        "paper",
        "STOSA",
    ]

    widths = browser.execute_script(
        "return [...document.images].map((image) => image.naturalWidth)"
    )
    assert len(widths) == 1
    assert all(width > 0 for width in widths)
    assert browser.execute_script("return document.images[0].alt") == ALT

    def background() -> str:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    def emulate(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    emulate("light")
    assert background() == "rgb(255, 255, 255)"
    emulate("dark")
    assert sum(map(int, background()[4:-1].split(", "))) < 120
    picture = "return getComputedStyle(document.images[0]).backgroundColor"
    assert browser.execute_script(picture) == "rgb(255, 255, 255)"

    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.refresh()
    assert browser.execute_script(
        "return [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth]"
    ) == [390, 390, 390]
    assert browser.execute_script(
        "const table = document.querySelector('#table2-1 ~ .scroll');"
        "return table.scrollWidth > table.clientWidth"
    ), "a wide table scrolls in itself"

    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    of_page = [r["request"]["url"] for r in requests if r["documentURL"].startswith("file:")]
    assert of_page
    assert [url for url in of_page if not url.startswith(("file:", "data:"))] == []
