"""The report's page in a real browser, as a reader uses it."""

import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from made import ACCURACY, seeds, write_run
from playwright.sync_api import Browser, Page, sync_playwright

from qpa.commands.report import main
from qpa.report.axes import axes
from qpa.report.compare import compare, front
from qpa.report.runs import find

CHROME = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
WHY = "the page is looked at in a browser: no Chromium on this machine (apt install chromium)"
pytestmark = pytest.mark.skipif(CHROME is None and "CI" not in os.environ, reason=WHY)
OPTIONS = ["--no-sandbox", "--disable-background-networking"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three tasks, one of them judged by accuracy, with a failed run and a damaged one."""
    root = tmp_path_factory.mktemp("report")
    seeds(root / "runs", [20.0, 22.0, 25.0], kind="none")
    seeds(root / "runs", [20.6, 22.4, 25.7])
    seeds(root / "runs", [20.5, 22.6, 25.6], latents="table")
    draw = random.Random(0)
    for number in range(8):
        seeds(root / "runs", [20 + 5 * draw.random() for _ in range(3)], trainable=draw.randint(1, 60), width=number + 1)
    seeds(root / "runs", [10.0, 11.0], text="another")
    for number in range(6):
        seeds(root / "runs", [50 + 40 * draw.random() for _ in range(2)], metric=ACCURACY, trainable=draw.randint(1, 60), width=number + 1)
    seeds(root / "runs", [80.0, 81.0], metric=ACCURACY, kind="none")
    write_run(root / "runs", seed=3, value=1.0, status="failed", error="<b>too many</b>", lr=99)
    (write_run(root / "runs", seed=4, value=1.0) / "result.json").write_text('{"run_info": {')
    main([f"runs={root}/runs", f"out={root}/out"])
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROME, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture
def page(report: Path, browser: Browser) -> Iterator[Page]:
    """The page as a reader opens it; at the end, nothing may have been reported as an error or fetched from elsewhere."""
    wrong: list[str] = []
    opened = browser.new_page(viewport={"width": 1100, "height": 900})
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    opened.goto((report / "out" / "index.html").as_uri())
    opened.wait_for_selector("body[data-ready]")
    yield opened
    opened.close()
    assert not wrong


def drawn(page: Page, task: int) -> list[list[list[float]]]:
    """Of every trace of a task's Pareto figure, x and y."""
    plot = f"document.querySelectorAll('[data-figure=pareto] .plot')[{task}]"
    return page.evaluate(f"Array.from({plot}.data, t => [Array.from(t.x), Array.from(t.y)])")


def test_page_says_what_was_read_and_left_out(page: Page) -> None:
    text = page.inner_text("body")
    for words in ("49 finished runs", "3 tasks", "compared within each, not across", "1 not finished", "1 damaged and left out"):
        assert words in text
    assert "<b>too many</b>" in text  # shown as it is, not as markup
    assert page.inner_text(".verdict p") == "The circuit does as well as a learned table."


def test_page_has_a_row_for_plain_peft_and_every_setting_beside_it(page: Page, report: Path) -> None:
    told = json.loads((report / "out" / "report.json").read_text())["tasks"][0]
    cells = page.evaluate(
        "Array.from(document.querySelector('table.settings').tBodies[0].rows, r => Array.from(r.cells, c => c.innerText))"
    )
    assert len(cells) == 1 + len(told["against_baseline"])
    assert [row[1] for row in cells] == sorted((row[1] for row in cells), key=lambda n: -int(n.replace(",", "")))


@pytest.mark.few(1)
@pytest.mark.parametrize(("task", "metric"), [(0, "test perplexity"), (1, "test accuracy, %")])
def test_selectors_draw_what_they_say_with_the_front_of_it(page: Page, report: Path, task: int, metric: str) -> None:
    comparison = compare(find(report / "runs").finished)[task]
    known = axes(comparison.metric)
    assert known["test"].title == metric
    assert len(comparison.best) > 5
    section = page.locator(".task").nth(task)
    for across, down in itertools.product(known.values(), known.values()):
        section.locator(".axis-x").select_option(label=across.title)
        section.locator(".axis-y").select_option(label=down.title)
        (front_x, front_y), *traces = drawn(page, task)
        points = {(round(x, 6), round(y, 6)) for xs, ys in traces for x, y in zip(xs, ys, strict=True)}
        assert points == {(round(across.of(s), 6), round(down.of(s), 6)) for s in comparison.best}, (across, down)
        best = front(comparison.best, across.ascending, down.ascending)
        assert set(zip(front_x, front_y, strict=True)) == {(across.of(s), down.of(s)) for s in best}, (across, down)
        layout = f"document.querySelectorAll('[data-figure=pareto] .plot')[{task}].layout"
        assert page.evaluate(f"(({{xaxis, yaxis}}) => [xaxis.title.text, yaxis.title.text])({layout})") == [across.title, down.title]


def test_words_follow_the_metric_and_its_direction(page: Page) -> None:
    perplexity, accuracy = (page.locator(".task").nth(number).inner_text() for number in (0, 1))
    assert "Differences of test perplexity, paired by seed, with 95 % intervals; left is better." in perplexity
    assert "Differences of test accuracy, paired by seed, with 95 % intervals; right is better." in accuracy
    assert "accuracy" not in perplexity
    assert "perplexity" not in accuracy.replace("of perplexity, and whatever else has a log scale", "")


@pytest.mark.slow
def test_picked_run_shows_the_command_that_repeats_it(page: Page) -> None:
    row = page.locator("tr[data-run]").nth(4)
    row.click()
    command = page.inner_text(".picked pre")
    assert command == f"python train.py seed={row.locator('td').nth(1).inner_text()}"
    page.locator("tr[data-run]").nth(5).press("Enter")
    assert page.inner_text(".picked pre") != command


@pytest.mark.slow
def test_filter_leaves_the_runs_that_contain_it(page: Page) -> None:
    shown = page.locator(".task >> nth=0").locator("tr[data-run]:visible")
    every = shown.count()
    page.fill(".filter", "learned table")
    assert shown.count() == 3
    page.fill(".filter", "")
    assert shown.count() == every > 3


@pytest.mark.slow
def test_page_fits_a_phone_and_dark_mode(page: Page) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.scrollWidth === 400")
    page.wait_for_function("document.querySelector('.plot').layout.font.color === '#e6e7e9'")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert all(page.evaluate("Array.from(document.querySelectorAll('.plot'), p => p.getBoundingClientRect().width <= 400)"))
