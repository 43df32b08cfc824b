"""The report as a reader sees it, in a real Chromium."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from browsing import CONTRAST, Browser
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

WIDTHS = (360, 768, 1280, 2560)
KINDS = 6  # charts of a task
CHARTS = 2 * KINDS + 1  # and one of the steps behind the heads
TEXTS = ("h1", ".lead", ".note", ".number", "th", "td", "caption", "figcaption", "a", "label")


@pytest.fixture
def page(micro_run: Path) -> Path:
    return micro_run / "results/micro/report/index.html"


def unfold(browser: Browser) -> None:
    """Open every folded part."""
    browser.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")


def table(browser: Browser, caption: str) -> object:
    """The table whose caption begins so."""
    for found in browser.driver.find_elements(By.CSS_SELECTOR, "table"):
        if found.find_element(By.TAG_NAME, "caption").text.startswith(caption):
            return found
    raise AssertionError(caption)


def column(found: object, number: int) -> list[str]:
    rows = found.find_elements(By.CSS_SELECTOR, "tbody tr:not([hidden])")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[number].text for row in rows]


def test_it_opens_without_a_network_or_a_complaint(browser: Browser, page: Path) -> None:
    browser.forget()
    browser.open(page)
    assert browser.problems() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]


def test_every_chart_is_drawn_and_described(browser: Browser, page: Path) -> None:
    browser.open(page)
    unfold(browser)
    charts = browser.driver.find_elements(By.CSS_SELECTOR, "div.chart svg")
    assert len(charts) == CHARTS
    described = browser.driver.find_elements(
        By.CSS_SELECTOR, "div.chart[role=graphics-document][aria-label]"
    )
    assert len(described) == CHARTS
    assert all(len(chart.get_attribute("aria-label")) > 60 for chart in described)
    for found in browser.driver.find_elements(By.CSS_SELECTOR, "table"):
        assert found.find_elements(By.TAG_NAME, "caption")
        assert found.find_elements(By.CSS_SELECTOR, "thead th[scope=col]")
        assert found.find_elements(By.CSS_SELECTOR, "tbody th[scope=row]")


def test_a_point_says_what_it_is(browser: Browser, page: Path) -> None:
    browser.open(page)
    point = browser.driver.find_element(By.CSS_SELECTOR, "div.chart .mark-symbol path")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(browser.driver).move_to_element(point).perform()
    tip = browser.driver.find_element(By.CSS_SELECTOR, "#vg-tooltip-element.visible")
    assert "difference" in tip.text
    assert "setting" in tip.text


def test_a_table_sorts_both_ways_by_number_and_by_key(browser: Browser, page: Path) -> None:
    browser.open(page)
    unfold(browser)
    runs = table(browser, "Every head and reference")
    heads = runs.find_elements(By.CSS_SELECTOR, "thead th")
    number = [head.text.split()[0] for head in heads].index("macro")
    button = heads[number].find_element(By.TAG_NAME, "button")
    browser.run("arguments[0].click()", button)
    rising = [float(value) for value in column(runs, number)]
    assert rising == sorted(rising)
    assert len(rising) == 14  # 2 tasks of 4 heads and 3 references
    assert heads[number].get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert [float(value) for value in column(runs, number)] == rising[::-1]
    # Words as words; the empty cells of references without a seed come last.
    browser.run("arguments[0].click()", heads[1].find_element(By.TAG_NAME, "button"))
    assert column(runs, 1) == sorted(column(runs, 1))
    seed = [head.text.split()[0] for head in heads].index("seed")
    browser.run("arguments[0].click()", heads[seed].find_element(By.TAG_NAME, "button"))
    assert column(runs, seed) == sorted(column(runs, seed), key=lambda s: (s == "", s))


def test_a_table_filters(browser: Browser, page: Path) -> None:
    browser.open(page)
    unfold(browser)
    long = table(browser, "Differences in macro F1")
    tasks, targets = column(long, 0), column(long, 4)
    wanted = sum(pair == ("EXPR", "Disgust") for pair in zip(tasks, targets, strict=True))
    field = long.find_element(By.XPATH, "../preceding-sibling::label[1]")
    assert field.text.endswith(f"{len(tasks)} of {len(tasks)} rows")
    field.find_element(By.TAG_NAME, "input").send_keys("expr disgust")
    assert column(long, 0) == ["EXPR"] * wanted
    assert field.text.endswith(f"{wanted} of {len(tasks)} rows")
    short = table(browser, "Macro F1 of every setting")
    assert not short.find_elements(By.XPATH, "../preceding-sibling::label")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    unfold(browser)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run("return document.querySelector('div.chart svg').clientWidth") <= width


@pytest.mark.parametrize(
    ("kind", "scheme"), [("screen", "light"), ("screen", "dark"), ("print", "dark")]
)
def test_text_can_be_read(browser: Browser, page: Path, kind: str, scheme: str) -> None:
    browser.open(page)
    browser.media(kind, scheme)
    if kind == "screen":
        unfold(browser)
    for name in TEXTS:
        shown = browser.driver.find_elements(By.CSS_SELECTOR, name)
        shown = [element for element in shown if element.is_displayed()]
        assert shown or (kind == "print" and name == "label")
        for element in shown[:5]:
            assert browser.run(CONTRAST, element) >= 4.5, (name, element.text)
    # The charts' words have the page's colour.
    word = browser.driver.find_element(By.CSS_SELECTOR, "div.chart .role-axis-label text")
    assert word.get_attribute("fill") == "currentColor"


def test_it_prints_on_few_pages(browser: Browser, page: Path) -> None:
    browser.open(page)
    printed = browser.command("Page.printToPDF", printBackground=False)
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8


def test_the_first_screen_has_the_scores_and_their_verdicts(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    cards = browser.driver.find_elements(By.CSS_SELECTOR, ".card")
    assert [card.find_element(By.TAG_NAME, "h2").text for card in cards] == [
        "Expressions (EXPR)",
        "Action units (AU)",
    ]
    for card in cards:
        assert card.location["y"] + card.size["height"] < 800
        assert len(card.find_elements(By.CSS_SELECTOR, ".verdicts li")) >= 1


def test_the_sections_stay_in_reach(browser: Browser, page: Path) -> None:
    browser.open(page)
    links = browser.driver.find_elements(By.CSS_SELECTOR, "nav a")
    names = ["Results", "Classes", "Errors", "Post-processing", "Data", "Method", "Files"]
    assert [link.text for link in links] == names
    browser.run("document.getElementById('files').scrollIntoView()")
    assert browser.run("return document.querySelector('nav').getBoundingClientRect().top") == 0
    for link in browser.driver.find_elements(By.CSS_SELECTOR, "#files a"):
        assert (page.parent / str(link.get_attribute("href")).rpartition("report/")[2]).is_file()


def test_a_key_reaches_the_content_first(browser: Browser, page: Path) -> None:
    browser.open(page)
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    focused = browser.run("return document.activeElement.textContent")
    assert focused == "Skip to content"


def test_screenshots(browser: Browser, page: Path, tmp_path: Path) -> None:
    pictures = {}
    for scheme in ("light", "dark"):
        browser.open(page)
        browser.media("screen", scheme)
        browser.screenshot(tmp_path / f"{scheme}.png")
        pictures[scheme] = cv2.imread(str(tmp_path / f"{scheme}.png"))
    assert pictures["light"].shape[1] == 1280
    assert np.median(pictures["light"]) > 200
    assert np.median(pictures["dark"]) < 60


def test_the_page_of_times_opens_too(browser: Browser, micro_run: Path) -> None:
    browser.forget()
    browser.open(micro_run / "results/micro/timings/index.html")
    assert browser.problems() == []
    times = table(browser, "Each rule")
    assert {"train heads", "embed faces", "build report"} <= set(column(times, 0))
    assert all(float(value) > 0 for value in column(times, 2))


def test_the_first_page_says_when_the_run_has_finished(
    browser: Browser, micro_run: Path, tmp_path: Path
) -> None:
    folder = micro_run / "results/micro"
    browser.open(folder / "start.html")
    WebDriverWait(browser.driver, 10).until(
        lambda driver: "The run has finished" in driver.find_element(By.ID, "state").text
    )
    # The report of another run says nothing.
    (tmp_path / "report").mkdir()
    shutil.copy(folder / "start.html", tmp_path)
    (tmp_path / "report/finished.js").write_text('window.finished = "another"; window.read = 1;')
    browser.open(tmp_path / "start.html")
    WebDriverWait(browser.driver, 10).until(lambda _: browser.run("return window.read") == 1)
    assert "in progress" in browser.driver.find_element(By.ID, "state").text
