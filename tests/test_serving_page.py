"""The page in headless Chromium: audio plays, words are marked, a recorded voice speaks, nothing is wrong with it.

Needs `pip install -e '.[serve-tests]'` and Chromium (`CHROMIUM` names it; /usr/bin/chromium if unset). With
`SCREENSHOTS` set to a folder, pictures are left there.
"""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from cosyjax.serving.settings import Keys, Settings
from cosyjax.serving.voice_store import VoiceStore
from tests.conftest import ASSETS
from tests.serving_fake import CONFIG, FakeEngine, serving, voice_of

pytestmark = pytest.mark.long

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
KEY = "a-key-of-enough-letters"


@pytest.fixture(scope="module")
def browser():
  from playwright.sync_api import sync_playwright

  flags = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    f"--use-file-for-fake-audio-capture={ASSETS / 'prompt.wav'}",
  ]  # fmt: skip
  path = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=path, args=flags)
    yield browser
    browser.close()


@pytest.fixture
def live(tmp_path):
  make = lambda s: VoiceStore(s, CONFIG, directory=tmp_path / "voices", built_in={"anna": voice_of()})
  with serving(lambda: FakeEngine(pause=0.05, samples=12_000), voices=make) as live:
    yield live


class Page:
  """A page that is open, and what went wrong on it."""

  def __init__(self, browser, live, size="desktop", scheme="light"):
    touch = size == "phone"
    self.context = browser.new_context(
      viewport=SIZES[size], color_scheme=scheme, has_touch=touch, permissions=["microphone"]
    )
    self.page = self.context.new_page()
    self.errors, self.asked = [], []
    self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
    self.page.on("pageerror", lambda e: self.errors.append(str(e)))
    self.page.on("request", lambda r: self.asked.append(r.url))
    self.page.goto(live.url)
    self.until("document.getElementById('state').textContent === 'ready'")

  def until(self, expression, seconds=10.0):
    """Waits for JavaScript to be true; the page's own policy forbids it the usual way."""
    end = time.monotonic() + seconds
    while not self.page.evaluate(expression):
      assert time.monotonic() < end, (expression, self.errors)
      time.sleep(0.03)

  def close(self, live):
    assert not self.errors, self.errors
    own = (live.url, "blob:" + live.url, "data:")
    assert all(url.startswith(own) for url in self.asked), self.asked
    self.context.close()

  def picture(self, name):
    if os.environ.get("SCREENSHOTS"):
      self.page.screenshot(path=str(Path(os.environ["SCREENSHOTS"]) / f"{name}.png"), full_page=True)


TEXT = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen."


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_speaking(browser, live, size, scheme):
  from axe_playwright_python.sync_playwright import Axe

  one = Page(browser, live, size, scheme)
  page = one.page
  one.until("document.querySelectorAll('#voice option').length === 1")
  one.picture(f"{size}-{scheme}-before")
  page.fill("#text", TEXT)
  page.fill("#instruction", "say it happily")
  page.fill("#seed", "3")
  page.click("#speak")
  page.wait_for_selector("#reading .now")
  first = page.text_content("#reading .now")
  one.until(f"document.querySelector('#reading .now')?.textContent !== {first!r}")
  assert re.fullmatch(r"\d+ ms", page.text_content("#first"))
  head = page.evaluate("parseFloat(document.getElementById('head').style.left)")
  page.wait_for_timeout(300)
  assert page.evaluate("parseFloat(document.getElementById('head').style.left)") > head
  one.picture(f"{size}-{scheme}-speaking")
  page.wait_for_selector("#stop:disabled", timeout=20_000)
  one.until("document.querySelectorAll('#reading .past').length === 16")
  assert page.text_content("#length") == "3.0 s" and float(page.text_content("#factor")) > 0
  given = live.engine.given[-1]
  assert given["seed"] == 3 and given["instruction"] == "say it happily"
  wave = page.evaluate(
    "[...document.getElementById('wave').getContext('2d').getImageData(0, 30, 500, 8).data].some((v) => v)"
  )
  assert wave, "the waveform is drawn"
  with page.expect_download() as got:
    page.click("#download")
  assert Path(got.value.path()).stat().st_size == 44 + 2 * 72_000
  page.click("summary >> nth=0")
  assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
  found = Axe().run(page).response["violations"]
  bad = [v for v in found if v["impact"] in ("serious", "critical")]
  assert not bad, [(v["id"], [n["html"] for n in v["nodes"]]) for v in bad]
  one.picture(f"{size}-{scheme}-after")
  one.close(live)


def test_cancelling_with_the_keyboard(browser, live):
  live.engine.pause = 0.3
  one = Page(browser, live)
  page = one.page
  page.wait_for_selector("#voice option", state="attached")
  page.focus("#text")
  page.fill("#text", TEXT * 3)
  page.keyboard.press("Control+Enter")
  page.wait_for_selector("#reading .now")
  page.keyboard.press("Escape")
  assert page.is_disabled("#stop") and page.text_content("#said") == "Stopped."
  assert live.settled(2.0)["cancelled"] == 1
  page.keyboard.press("Control+Enter")  # and again, from the beginning
  one.until("document.querySelector('#reading .now')?.textContent === 'One'")
  one.close(live)


def test_words_are_spoken_while_they_are_typed(browser, live):
  one = Page(browser, live)
  page = one.page
  page.wait_for_selector("#voice option", state="attached")
  page.check("#typing")
  page.focus("#text")
  page.keyboard.type("Hello ")
  one.until("document.getElementById('first').textContent.endsWith('ms')")
  assert page.text_content("#reading") == "Hello"
  page.keyboard.type("there, my frien", delay=20)
  one.until("document.getElementById('reading').textContent === 'Hello there, my'")
  page.keyboard.type("d")
  page.click("#speak")  # says Finish now
  one.until("document.getElementById('said').textContent.startsWith('Spoken')")
  assert page.text_content("#reading") == "Hello there, my friend"
  assert live.settled()["done"] == 1
  one.close(live)


def test_a_recorded_voice_speaks_and_is_kept_and_deleted(browser, live):
  one = Page(browser, live)
  page = one.page
  page.click("summary >> nth=0")
  assert page.is_disabled("#use") and page.is_disabled("#keep")
  page.click("#record")
  one.until("/Recording: [1-9]/.test(document.getElementById('recorded').textContent)")
  page.wait_for_timeout(700)
  page.click("#record")
  one.until("document.getElementById('recorded').textContent.startsWith('Recorded')")
  page.fill("#transcript", "what I said")
  page.fill("#name", "mine")
  assert page.is_disabled("#keep"), "not without consent"
  page.check("#consent")
  page.click("#use")
  one.until("document.getElementById('voice').selectedOptions[0].text.startsWith('Your recording')")
  page.click("#speak")
  one.until("document.getElementById('said').textContent.startsWith('Spoken')", 20)
  assert live.engine.given[-1]["voice"].transcript == "what I said" and live.engine.given[-1]["voice"].seconds > 1
  page.click("#keep")
  one.until("document.getElementById('voice').value === 'mine'")
  [voice] = live.client.get("/v1/audio/voices").json()["uploaded_voices"]
  assert voice["name"] == "mine" and "agrees" in voice["consent"]
  one.picture("voice")
  page.click("#speak")
  one.until("document.getElementById('said').textContent.startsWith('Spoken')", 20)
  page.click("#remove")
  one.until("document.getElementById('voice').options.length === 2")
  assert live.client.get("/v1/audio/voices").json()["uploaded_voices"] == []
  one.close(live)


def test_a_key_is_asked_for_and_errors_are_told(browser):
  with serving(FakeEngine, Settings(keys=Keys([KEY]), random_weights=True)) as live:
    one = Page(browser, live)
    page = one.page
    page.wait_for_selector("#problem:visible")
    assert "API key" in page.text_content("#problem") and page.is_visible("#notice")
    one.errors.clear()  # the refusal, as the browser reports it
    page.fill("#key", KEY)
    page.keyboard.press("Tab")
    page.wait_for_selector("#voice option", state="attached")
    page.fill("#text", "。")
    page.click("#speak")
    page.wait_for_selector("#problem:visible")
    assert "spoken" in page.text_content("#problem")
    page.fill("#text", TEXT)
    page.click("#speak")
    page.wait_for_selector("#reading .now")
    one.close(live)
