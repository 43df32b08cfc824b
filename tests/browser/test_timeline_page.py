"""The timeline of a video as its reader uses it, in a real Chromium."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from browsing import CONTRAST, Browser
from conftest import ASSETS, ROOT
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from clipaffect.bundle.load import open_bundle
from clipaffect.core.parquet import read_table
from clipaffect.prediction.batch import predict_files, wanted_of

TWO = "37-15-640x360.mp4"  # two people for 7 seconds, 15 frames each
HALF = "half.mov"  # a face in one half
NOW = "return Number(document.getElementById('panels').getAttribute('aria-valuenow'))"
# How many opaque pixels each of a canvas' columns has.
INK = """
const canvas = document.querySelectorAll('#panels canvas')[arguments[0]];
const {width, height} = canvas;
const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
return Array.from({length: width}, (_, x) => {
  let count = 0;
  for (let y = 0; y < height; y++) count += pixels[4 * (y * width + x) + 3] > 0;
  return count; });
"""
CHOSEN = "return document.querySelector('input[name=person]:checked').value"
TEXTS = ("h1", "h3", ".lead", ".note", "th", "td", "caption", "a", "label", ".readout p", "button")


@pytest.fixture(scope="module")
def pages(
    real_clips: Path, face_networks: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Pages of a rendered video with two people, of a real one with half a face; one without
    pictures."""
    folder = tmp_path_factory.mktemp("timeline")
    (video,) = (ROOT / "tests/data/clips/videos").rglob(TWO)
    shutil.copy(video, folder / TWO)
    shutil.copy(real_clips / "face_noface.mov", folder / HALF)
    opened = open_bundle(ROOT / "tests/data/bundle-v1")
    files = [folder / TWO, folder / HALF]
    predict_files(files, wanted_of(opened, ASSETS), folder / "out", None, 1)
    without = wanted_of(opened, ASSETS, pictures=False)
    predict_files(files[:1], without, folder / "without", None, 1)
    found = {name: folder / "out" / Path(name).stem / "timeline.html" for name in (TWO, HALF)}
    return found | {"without": folder / "without" / Path(TWO).stem / "timeline.html"}


def playable(browser: Browser) -> None:
    WebDriverWait(browser.driver, 300).until(
        lambda driver: (
            driver.execute_script("return document.getElementById('video').readyState") >= 1
        )
    )


def video_time(browser: Browser) -> float:
    return browser.run("return document.getElementById('video').currentTime")


def test_it_asks_for_its_video_and_nothing_else(browser: Browser, pages: dict[str, Path]) -> None:
    browser.forget()
    browser.open(pages[TWO])
    playable(browser)
    assert browser.problems() == []
    video = pages[TWO].parents[2] / TWO
    asked = {url for url in browser.requests() if not url.startswith("data:")}
    assert asked == {pages[TWO].resolve().as_uri(), video.resolve().as_uri()}
    assert browser.run("return document.getElementById('video').duration") == pytest.approx(
        7, abs=0.1
    )


def test_a_click_on_the_curve_seeks_the_video(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages[TWO])
    playable(browser)
    canvas = browser.driver.find_element(By.CSS_SELECTOR, "#panels canvas")
    width = canvas.size["width"]
    for share in (0.25, 0.75):
        offset = round((share - 0.5) * width)
        ActionChains(browser.driver).move_to_element_with_offset(
            canvas, offset, 0
        ).click().perform()
        assert browser.run(NOW) == pytest.approx(7 * share, abs=0.1)
        # The frame that is shown is the one that is meant: within a frame behind its time.
        assert 0 < video_time(browser) - browser.run(NOW) < 1 / 15
        cursor = browser.driver.find_element(By.ID, "cursor")
        assert cursor.location["x"] - canvas.location["x"] == pytest.approx(share * width, abs=20)
    frame = round(browser.run(NOW) * 15) + 1
    said = browser.driver.find_element(By.ID, "readout").text
    assert f"frame {frame}" in said
    rows = read_table(pages[TWO].parent / "frames.parquet")
    person = 1 + int(browser.run(CHOSEN))
    row = rows[(rows["frame"] == frame) & (rows["person"] == person)].iloc[0]
    shown = re.search(rf"EXPR: {row['EXPR']} (\d+) %", said)
    assert int(shown.group(1)) == pytest.approx(100 * row[f"EXPR_{row['EXPR']}"], abs=0.6)


def test_the_playing_video_moves_the_position(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages[TWO])
    playable(browser)
    browser.run("const v = document.getElementById('video'); v.muted = true; v.play();")
    WebDriverWait(browser.driver, 300).until(lambda driver: driver.execute_script(NOW) > 0.5)
    browser.run("document.getElementById('video').pause()")
    time.sleep(0.3)
    assert browser.run(NOW) == pytest.approx(video_time(browser), abs=0.15)


def test_keys_move_by_frames_and_seconds(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages[TWO])
    playable(browser)
    panels = browser.driver.find_element(By.ID, "panels")
    for keys, expected in (
        ([Keys.ARROW_RIGHT], 1 / 15),
        ([Keys.ARROW_RIGHT] * 2, 3 / 15),
        ([Keys.ARROW_LEFT], 2 / 15),
        ([Keys.SHIFT, Keys.ARROW_RIGHT, Keys.SHIFT], 1 + 2 / 15),
        ([Keys.END], 104 / 15),
        ([Keys.HOME], 0),
    ):
        panels.send_keys(*keys)
        assert browser.run(NOW) == pytest.approx(expected, abs=0.011)
    assert panels.get_attribute("role") == "slider"
    assert "EXPR: " in panels.get_attribute("aria-valuetext")
    # Closer shows a part of the video, all the whole of it.
    ActionChains(browser.driver).click(browser.driver.find_element(By.ID, "zoom-in")).perform()
    assert browser.driver.find_element(By.ID, "to").text == "3.50 s"
    ActionChains(browser.driver).click(browser.driver.find_element(By.ID, "all")).perform()
    assert browser.driver.find_element(By.ID, "to").text == "7.00 s"


def test_people_are_told_apart(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages[TWO])
    radios = browser.driver.find_elements(By.NAME, "person")
    assert len(radios) == 2
    faces = [None, None]
    for number, radio in enumerate(radios):
        radio.click()
        images = browser.driver.find_elements(By.CSS_SELECTOR, "#thumbs img")
        assert len(images) == 24
        assert all(f"person {number + 1} at" in image.get_attribute("alt") for image in images)
        faces[number] = [image.get_attribute("src") for image in images]
    assert not set(faces[0]) & set(faces[1])
    browser.run("arguments[0].click()", radios[0])
    browser.driver.find_elements(By.CSS_SELECTOR, "#thumbs button")[5].click()
    assert browser.run(NOW) > 1
    # An episode's button shows its person at its peak.
    button = browser.driver.find_elements(By.CSS_SELECTOR, "button[data-person='2']")[0]
    browser.run("arguments[0].click()", button)
    assert radios[1].is_selected()
    assert browser.run(NOW) == pytest.approx(float(button.get_attribute("data-go")), abs=0.01)


def test_a_gap_is_a_gap(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages[HALF])
    rows = read_table(pages[HALF].parent / "frames.parquet")
    most = rows["person"].value_counts().idxmax()  # who is shown first
    frames = rows["frame"].drop_duplicates()
    there = frames.isin(rows["frame"][rows["person"] == most]).to_numpy()
    assert 0.2 < there.mean() < 0.8
    times = rows.groupby("frame")["time"].first().to_numpy()  # the frame rate varies
    end = times[-1] + np.median(np.diff(times))
    for canvas in (0, 1):
        ink = np.array(browser.run(INK, canvas))
        at = np.linspace(times[0], end, len(ink), endpoint=False)
        frame = np.searchsorted(times, at, side="right") - 1
        inside = np.convolve(there, np.ones(9), "same")[frame]
        assert (inside == 9).sum() > 100
        assert (inside == 0).sum() > 100
        assert (ink[inside == 9] > 0).all()
        assert (ink[inside == 0] == 0).all()
    # This browser has no HEVC: the page says so, and its curves work.
    note = browser.driver.find_element(By.ID, "unplayable")
    WebDriverWait(browser.driver, 300).until(lambda driver: note.is_displayed())
    panels = browser.driver.find_element(By.ID, "panels")
    panels.send_keys(Keys.END)
    assert browser.run(NOW) == pytest.approx(rows["time"].max(), abs=0.02)


def test_what_is_shown_can_be_saved(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    browser.open(pages[TWO])
    names = browser.driver.find_elements(By.CSS_SELECTOR, ".names div")
    assert "AU12 lip corner puller" in [name.text for name in names]
    browser.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for kind in ("svg", "png"):
        browser.run("document.getElementById(arguments[0]).click()", kind)
    svg, png = (tmp_path / f"{TWO}.{kind}" for kind in ("svg", "png"))
    WebDriverWait(browser.driver, 60).until(lambda _: svg.exists() and png.exists())
    picture = ElementTree.parse(svg).getroot()
    words = "".join(picture.itertext())
    assert "AU12 lip corner puller" in words
    assert "Happiness" in words
    drawn = cv2.imread(str(png))
    assert drawn.shape[1] == 2 * int(picture.get("width"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50


def test_a_page_without_pictures_has_none(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["without"])
    assert not browser.driver.find_elements(By.CSS_SELECTOR, "video, img")
    assert TWO not in browser.run("return document.getElementById('data').textContent")
    assert "data:image/jpeg" not in pages["without"].read_text()
    panels = browser.driver.find_element(By.ID, "panels")
    panels.send_keys(Keys.END)
    assert browser.run(NOW) > 6


@pytest.mark.parametrize("width", [360, 768, 1280, 2560])
def test_nothing_is_wider_than_the_window(
    browser: Browser, pages: dict[str, Path], width: int
) -> None:
    for name in (TWO, HALF):
        browser.open(pages[name], width)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run("return document.querySelector('#panels canvas').clientWidth") > 250


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: Browser, pages: dict[str, Path], scheme: str) -> None:
    browser.open(pages[TWO])
    browser.media("screen", scheme)
    for name in TEXTS:
        shown = browser.driver.find_elements(By.CSS_SELECTOR, name)
        shown = [element for element in shown if element.is_displayed()]
        assert shown, name
        for element in shown[:5]:
            assert browser.run(CONTRAST, element) >= 4.5, (name, element.text)


def test_tables_are_described_and_the_list_of_files_leads_here(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages[TWO])
    for found in browser.driver.find_elements(By.CSS_SELECTOR, "table"):
        assert found.find_elements(By.TAG_NAME, "caption")
        assert found.find_elements(By.CSS_SELECTOR, "tbody th[scope=row]")
    browser.forget()
    browser.open(pages[TWO].parents[1] / "index.html")
    row = browser.driver.find_element(By.LINK_TEXT, TWO).find_element(By.XPATH, "ancestor::tr")
    assert browser.run("return arguments[0].naturalWidth", row.find_element(By.TAG_NAME, "img"))
    strip = row.find_element(By.CLASS_NAME, "shares")
    parts = [part.rect["width"] for part in strip.find_elements(By.TAG_NAME, "span")]
    assert sum(parts) == pytest.approx(strip.rect["width"], abs=1)
    browser.driver.find_element(By.LINK_TEXT, TWO).click()
    assert browser.driver.title == f"{TWO}: timeline"
    assert browser.problems() == []


def test_screenshots(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    for scheme, bound in (("light", (200, 256)), ("dark", (0, 60))):
        browser.open(pages[TWO])
        browser.media("screen", scheme)
        playable(browser)
        browser.screenshot(tmp_path / f"{scheme}.png")
        picture = cv2.imread(str(tmp_path / f"{scheme}.png"))
        assert bound[0] <= np.median(picture) < bound[1]
