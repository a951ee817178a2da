"""The page of ``tether serve`` in a real browser: words, a dropped image, filters, the cutoff, keys, a phone."""

from __future__ import annotations

import base64
import re
import shutil

import pytest

import tether
from serving import HOSTILE, TOKEN, Server, image_bytes, make_store

sync_api = pytest.importorskip("playwright.sync_api")
sync_api.expect.set_options(timeout=60_000)  # of a server that has no processor to itself
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
DROP = """([data, kind]) => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "dropped", { type: kind }));
  for (const name of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(name, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""
PASTE = """data => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "pasted", { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_store(folder / "photos.db", tether.load("tiny", random_weights=True).eval())
    server = Server(folder, "--store", str(folder / "photos.db"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """The page behind its token; nothing may be logged, no window opened, nothing loaded from elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, faults = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("console", lambda said: faults.append(said.text) if "Failed to load" not in said.text else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    own = (server.address, "blob:", "data:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else faults.append(asked.url))
    page.goto(server.address)
    page.fill("#door input", TOKEN)
    page.press("#door input", "Enter")
    sync_api.expect(page.locator("#about")).to_have_text("12 images")
    yield page
    assert not faults
    context.close()


def count(page, number):
    sync_api.expect(page.locator("#hits li")).to_have_count(number)


def ask(page, words):
    page.fill("#words", words)
    page.press("#words", "Enter")


def test_words_filters_and_a_cutoff_that_nothing_passes(page):
    ask(page, "a red circle")
    count(page, 12)
    sync_api.expect(page.locator("#hits img")).to_have_count(10)  # of two rows no image is kept
    sync_api.expect(page.locator("#hits q", has_text=HOSTILE)).to_have_count(1)  # as text, not as an element
    assert page.locator("img[src=x]").count() == 0
    page.locator("#filters select").first.select_option(label="cat")
    count(page, 5)
    page.locator("#filters select").first.select_option(label="any")
    page.get_by_placeholder("from").first.fill("2010")
    count(page, 2)
    page.get_by_placeholder("from").first.fill("")
    count(page, 12)
    page.locator("#cutoff").fill("1")
    count(page, 0)
    sync_api.expect(page.locator("#said")).to_contain_text("Nothing found: the best of 12 images")
    page.locator("#filters select").first.select_option(label="cat")
    sync_api.expect(page.locator("#said")).to_contain_text("the best of those that pass the filter")
    page.locator("#filters select").first.select_option(label="any")
    page.locator("#cutoff").fill("-0.2")
    sync_api.expect(page.locator(".cut output")).to_have_text("none")


def test_an_image_is_dropped_and_one_pasted(page):
    data = base64.b64encode(image_bytes((10, 200, 10))).decode()
    page.evaluate(DROP, [data, "image/png"])
    sync_api.expect(page.locator("#said")).to_contain_text("like your image")
    count(page, 12)
    assert page.locator("#like").is_visible()
    page.locator("#like button").click()
    count(page, 0)
    page.evaluate(PASTE, data)
    count(page, 12)
    page.evaluate(DROP, [base64.b64encode(b"no image").decode(), "text/plain"])
    sync_api.expect(page.locator("#said")).to_have_text("That is no image.")


def test_keys_alone(page):
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type("a green star")
    page.keyboard.press("Enter")
    count(page, 12)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.querySelector('b span').textContent") == "2"
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("dialog")).to_be_visible()
    assert "key" in page.locator("dialog dl").inner_text()
    page.locator("#alike").click()
    sync_api.expect(page.locator("dialog")).not_to_be_visible()
    sync_api.expect(page.locator("#said")).to_contain_text("12 of 12 images like ")
    best = page.locator("#hits li").first.locator("b span").last.inner_text()
    assert re.fullmatch(r"1\.000|0\.999", best)


def test_back_and_a_shared_address(page, browser, server):
    ask(page, "a red circle")
    count(page, 12)
    page.locator("#filters select").first.select_option(label="cat")
    page.get_by_placeholder("from").first.fill("2003")
    count(page, 4)
    page.locator("#cutoff").fill("-0.15")
    sync_api.expect(page).to_have_url(re.compile("cutoff=-0.15"))
    shared = page.url
    ask(page, "a green star")
    sync_api.expect(page).to_have_url(re.compile("green"))
    page.locator("#hits button").first.click()
    page.locator("#alike").click()
    sync_api.expect(page).to_have_url(re.compile("key="))
    page.go_back()
    sync_api.expect(page.locator("#words")).to_have_value("a green star")
    page.go_back()
    sync_api.expect(page.locator("#words")).to_have_value("a red circle")
    assert page.url == shared
    page.go_back()  # one step for each query, none for its filters
    sync_api.expect(page.locator("#words")).to_have_value("")
    count(page, 0)
    assert page.url == f"{server.address}/"
    page.goto(shared)
    page.reload()
    sync_api.expect(page.locator("#words")).to_have_value("a red circle")
    count(page, 4)
    assert page.get_by_placeholder("from").first.input_value() == "2003"
    assert page.locator("#filters select").first.evaluate("one => one.selectedOptions[0].label") == "cat"
    assert page.locator("#cutoff").input_value() == "-0.15"
    page.goto(f"{server.address}/#q=a&filters=[3,{{%22column%22:%22label%22}}]&cutoff=x")  # by no page of ours
    count(page, 12)


def test_more_of_the_same(page):
    page.evaluate("() => { most = 12; k = 5; }")  # as if the store were larger than what is shown at first
    page.fill("#words", "a red circle")
    page.evaluate("search('more')")
    count(page, 5)
    page.locator("#next").click()
    count(page, 12)
    sync_api.expect(page.locator("#next")).to_be_hidden()


def test_a_phone_in_the_dark(page, tmp_path):
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    ask(page, "a red circle")
    count(page, 12)
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= shown
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_a_wrong_token_is_told(browser, server):
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.address)
    page.fill("#door input", "wrong")
    page.press("#door input", "Enter")
    sync_api.expect(page.locator("#said")).to_have_text("The token is wrong.")
    context.close()
