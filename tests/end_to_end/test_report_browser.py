"""Reports in headless Chromium: they open, sort, search, fit a phone, follow the theme, print, and keep axe's rules."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from mlaas_spark.branch_specs import Specs
from mlaas_spark.config import FeatureConfig
from mlaas_spark.plots import draw
from mlaas_spark.report import render, render_comparison
from mlaas_spark.report.histograms import histograms
from mlaas_spark.transform import FeatureTransform
from tests.cluster.servers import install
from tests.unit.test_plots import metrics
from tests.unit.test_report import compared, report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.remote.webelement import WebElement

_CACHE = Path.home() / ".cache" / "mlaas_spark_tests"
_AXE = "4.14.1"
_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_PHONE, _DESK = (390, 844), (1280, 900)
_BRANCHES = 40


@dataclass(frozen=True)
class Browser:
    """Chromium with one page open."""

    driver: webdriver.Chrome
    pages: dict[str, Path]

    def open(self, page: str, *, size: tuple[int, int] = _DESK, theme: str = "light", media: str = "") -> None:
        """Show a page as a reader with such a screen and such a theme sees it."""
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        self.driver.get(self.pages[page].as_uri())

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What came since the last look: ``browser``, the console; ``performance``, requests among others."""
        driver: Any = self.driver  # whose logs have no types
        entries: list[dict[str, Any]] = driver.get_log(kind)
        return entries

    def run(self, script: str, *arguments: object) -> Any:
        """What a piece of JavaScript gives."""
        return self.driver.execute_script(script, *arguments)

    def click(self, element: WebElement) -> None:
        """Click in the middle of the screen: what is in view the driver tells by the window, not by the screen."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def column(self, table: str, number: int) -> list[str]:
        """Texts of the visible cells of a column."""
        script = (
            "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].filter(row => !row.hidden)"
            ".map(row => row.cells[arguments[1]].textContent)"
        )
        texts: list[str] = self.run(script, table, number)
        return texts

    def brightness(self, selector: str) -> float:
        """Mean of the pixels of an element, 0 to 255."""
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        with Image.open(io.BytesIO(element.screenshot_as_png)) as image:
            return float(np.asarray(image.convert("L")).mean())


def _run_page() -> str:
    """A run of many branches, with all plots of a classification."""
    rng = np.random.default_rng(1)
    values: dict[str, Any] = {
        f"Branch_{k:02}": rng.normal(k, 1 + k, 200).astype(np.float32) for k in range(_BRANCHES - 2)
    }
    values["Jet_pt"] = [list(rng.exponential(30, n).astype(np.float32)) for n in rng.integers(0, 9, 200)]
    values["<b>hostile</b>"] = rng.normal(0, 1, 200).astype(np.float32)
    events = pa.RecordBatch.from_pydict(values)
    specs = Specs.of(events, list(values))
    transform = FeatureTransform.of(specs, FeatureConfig(caps={"Jet_pt": 5}))
    made = transform.matrix(events)
    signal = np.arange(200) % 2 == 0
    found = histograms(made.matrix, made.mask, transform, {"0": ~signal, "1": signal})
    judged = metrics(class_names={"0": "background", "1": "</script><img src=x onerror=alert(1)>"})
    one = report(specs=specs, transform=transform, metrics=judged, plots=tuple(draw(judged)), histograms=found)
    inputs = tuple(replace(one.manifest.inputs[0], path=f"/data/{k}.root", entries=100 * k) for k in range(1, 13))
    return render(replace(one, manifest=replace(one.manifest, inputs=inputs)))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's Chromium, installed where it lacks."""
    install("chromedriver", "chromium-driver")
    folder = tmp_path_factory.mktemp("pages")
    pages = {}
    for name, text in (("run", _run_page()), ("comparison", render_comparison(*compared()))):
        pages[name] = folder / f"{name}.html"
        pages[name].write_text(text, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={folder}/profile"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        yield Browser(driver, pages)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, from npm, once."""
    package = _CACHE / f"axe-core-{_AXE}.tgz"
    if not package.is_file():
        if not shutil.which("npm"):
            pytest.skip("npm is missing: it fetches axe-core, which knows the rules of accessible pages")
        _CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(  # noqa: S603 - the command is ours
            ["npm", "pack", "--silent", f"axe-core@{_AXE}"],  # noqa: S607 - the user's npm
            cwd=_CACHE,
            env={**os.environ, "npm_config_update_notifier": "false"},
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
    with tarfile.open(package) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


@pytest.mark.parametrize("page", ["run", "comparison"])
def test_a_page_opens_without_a_complaint_and_asks_nobody_for_anything(browser: Browser, page: str) -> None:
    browser.log("browser")
    browser.log("performance")
    browser.open(page)
    assert browser.log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    requests = [event["params"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in requests if one["documentURL"] == browser.pages[page].as_uri()}
    assert {url for url in asked if not url.startswith("data:")} == {browser.pages[page].as_uri()}
    images = browser.run("return [...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert all(images)
    assert len(images) == (7 if page == "run" else 1)


def test_the_policy_stops_a_script_that_got_in(browser: Browser) -> None:
    browser.open("run")
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.got = 1'; document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.got = 1\">')"
    )
    assert browser.run("return window.got") is None
    browser.log("browser")  # the complaints of this test


def test_specs_sort_by_the_keyboard_up_and_down(browser: Browser) -> None:
    browser.open("run")
    heads = [head.text for head in browser.driver.find_elements(By.CSS_SELECTOR, "#specs th[scope=col]")]
    place = heads.index("max")
    head = browser.driver.find_elements(By.CSS_SELECTOR, "#specs th[scope=col]")[place]
    before = browser.column("specs", place)
    for order in ("ascending", "descending"):
        head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        assert head.get_attribute("aria-sort") == order
        numbers = [float(text) for text in browser.column("specs", place)]
        assert numbers == sorted(map(float, before), reverse=order == "descending")
    assert numbers != [float(text) for text in before]
    assert len(browser.driver.find_elements(By.CSS_SELECTOR, "#specs [aria-sort]")) == 1


def test_numbers_with_commas_sort_as_numbers_and_names_as_people_count(browser: Browser) -> None:
    browser.open("run")
    heads = browser.driver.find_elements(By.CSS_SELECTOR, "#files th button")
    browser.click(heads[2])
    assert browser.column("files", 2) == [f"{100 * k:,}" for k in range(1, 13)]
    browser.click(heads[0])
    assert browser.column("files", 0) == [f"/data/{k}.root" for k in range(1, 13)]


def test_the_search_field_leaves_the_rows_that_have_all_its_words(browser: Browser) -> None:
    browser.open("run")
    field = browser.driver.find_element(By.ID, "specs-search")
    field.send_keys("branch 07")
    assert browser.column("specs", 0) == ["Branch_07"]
    status = browser.driver.find_element(By.CSS_SELECTOR, "#specs-search ~ [role=status]")
    assert status.text == f"1 of {_BRANCHES}"
    field.clear()
    field.send_keys("<B>")
    assert browser.column("specs", 0) == ["<b>hostile</b>"]
    field.send_keys("nothing")
    assert browser.column("specs", 0) == []
    field.clear()
    field.send_keys("a", Keys.BACKSPACE)
    assert len(browser.column("specs", 0)) == _BRANCHES


@pytest.mark.parametrize("page", ["run", "comparison"])
def test_a_phone_scrolls_down_and_never_sideways(browser: Browser, page: str) -> None:
    browser.open(page, size=_PHONE)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.run("return innerWidth") == _PHONE[0]
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    wide = browser.run(
        "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.wide, .contents, .unseen')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


@pytest.mark.parametrize("page", ["run", "comparison"])
@pytest.mark.parametrize(("theme", "size"), [("light", _PHONE), ("dark", _DESK)])
def test_axe_finds_nothing(browser: Browser, axe: str, page: str, theme: str, size: tuple[int, int]) -> None:
    browser.open(page, theme=theme, size=size)
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    browser.run(axe)
    found = browser.driver.execute_async_script(
        "const done = arguments[1]; axe.run({runOnly: arguments[0]}).then(done, error => done({error: `${error}`}))",
        list(_RULES),
    )
    assert "error" not in found
    told = [
        (rule["id"], node["target"], node["failureSummary"]) for rule in found["violations"] for node in rule["nodes"]
    ]
    assert told == []
    assert {"color-contrast", "empty-table-header", "region"} <= {rule["id"] for rule in found["passes"]}


def test_plots_and_page_follow_the_readers_theme(browser: Browser) -> None:
    seen = {}
    for theme in ("light", "dark"):
        browser.open("run", theme=theme)
        seen[theme] = (browser.brightness("figure img"), browser.brightness("h1"))
    assert min(seen["light"]) > 200
    assert max(seen["dark"]) < 80
    assert min(seen["dark"]) > 13  # there are words and lines on it: the paper alone has 16


@pytest.mark.parametrize("page", ["run", "comparison"])
def test_a_page_prints_on_white_whatever_the_theme_with_all_its_parts(browser: Browser, page: str) -> None:
    browser.open(page, theme="dark", media="print")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = "return [...document.querySelectorAll('nav, .search, .copy')].map(e => getComputedStyle(e).display)"
    assert set(browser.run(hidden)) == {"none"}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF-")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert (2 if page == "run" else 1) <= pages <= 15
    assert browser.run("return [...document.querySelectorAll('details')].every(part => part.open)")
