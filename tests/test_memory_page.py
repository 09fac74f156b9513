"""The page of a memory in a real browser: a person asks, writes, asks, erases and asks."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest
from served import FACT, QUESTION, opened, span_reader, writing_reader
from test_serving import serving

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install 'memnets[dev]'")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium or no chromedriver")
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
ODD = "😀 <img src=x onerror=\"document.title='run'\"> & 'it'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    for word in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(word)
    options.binary_location = CHROMIUM
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page as a person uses it."""

    def __init__(self, browser, port):
        self.browser = browser
        browser.get(f"http://127.0.0.1:{port}/")
        self.wait(lambda: self.text("count"))

    def wait(self, condition):
        waiting = WebDriverWait(self.browser, 20, 0.02, [StaleElementReferenceException])  # lists are made anew
        waiting.until(lambda _: condition())

    def element(self, id):
        return self.browser.find_element(By.ID, id)

    def text(self, id):
        return self.element(id).text

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def type(self, id, words):
        self.element(id).clear()
        self.browser.execute_script("arguments[0].focus()", self.element(id))
        # as if pasted: some drivers have no keys for what lies beyond Unicode's first 65,536 characters
        self.browser.execute_script("document.execCommand('insertText', false, arguments[0])", words)

    def ask(self, question):
        self.type("question", question)
        self.all("#ask button")[0].click()

    def write(self, id, text):
        self.type("text", text)
        self.type("id", id)
        self.all("#write button")[0].click()


@contextmanager
def shown(browser, reader):
    with serving(reader) as port:
        page = Page(browser, port)
        page.reader = reader
        yield page


@pytest.fixture
def page(browser, tmp_path):
    with shown(browser, opened(tmp_path)) as page:
        yield page


def test_ask_write_ask_erase_ask(page):
    page.ask(QUESTION)
    page.wait(lambda: page.text("answer"))
    before = page.text("answer")
    assert before == page.reader.ask(QUESTION).text != "beijing"
    page.write("ada/city", FACT)
    page.wait(lambda: page.text("answer") == "beijing")  # it was asked again by itself
    page.wait(lambda: [row.text for row in page.all("#entries small")] == ["ada/city"])
    passage = page.reader.ask(QUESTION).passages[0]
    marks = page.all("#passages li:first-child mark")
    assert [mark.text for mark in marks] == FACT.rstrip(".").split()
    weights = [float(mark.get_attribute("data-weight")) for mark in marks]
    assert weights == pytest.approx([token.weight for token in passage.tokens], abs=1e-6)
    heat = [mark.value_of_css_property("background-color") for mark in marks]
    assert heat[0] == "rgba(0, 0, 0, 0)" != heat[-1]
    assert f"{passage.relevance:.2f}" in page.text("passages")
    assert page.all("#ranking td")[0].text == "beijing"
    page.all("#entries button")[0].click()
    page.wait(lambda: page.text("answer") == before)
    assert page.reader.entries("lovelace")[1] == 0
    assert page.text("count") == "72 entries"


def test_what_cannot_be_is_said_and_replacing_is_offered(page):
    page.ask(" ")
    page.wait(lambda: "the question is empty" in page.text("ask-problem"))
    assert not page.element("result").is_displayed()
    id = page.reader.entries()[0][0].id
    assert not page.element("replace").is_displayed()
    page.write(id, "grace hopper lives in rome.")
    page.wait(lambda: "in memory already; replace it" in page.text("write-problem"))
    page.element("replace").click()
    page.wait(
        lambda: page.text("write-problem") == "" and page.text("entries").startswith("grace hopper lives in rome.")
    )
    assert not page.element("replace").is_displayed()
    assert page.reader.entries("hopper")[0][0].id == id


def test_texts_stay_texts(page):
    page.write("<b>", ODD)
    page.wait(lambda: page.all("#entries div"))
    page.wait(lambda: page.all("#entries div")[0].text.startswith(ODD))
    page.ask("img src onerror document title run")
    page.wait(lambda: page.all("#passages p"))
    assert page.all("#passages p")[0].text == ODD
    marks = [mark.text for mark in page.all("#passages li:first-child mark")]
    assert marks == ["img", "src", "x", "onerror", "document", "title", "run", "it"]  # 😀 is two of a browser's letters
    assert (page.browser.title, page.all("main img"), page.all("main b")) == ("Ask a memory", [], [])


def test_files_are_written_by_paragraphs(page):
    drop = "writeFile(new File([new Uint8Array(arguments[0])], arguments[1]))"
    page.browser.execute_script(drop, list("one is a cat\n\ntwo\nis a dog é 😀".encode()), "notes.txt")
    page.wait(lambda: "2 entries written from notes.txt" in page.text("note"))
    assert [entry.text for entry in page.reader.entries("notes.txt")[0]] == ["two is a dog é 😀", "one is a cat"]
    page.browser.execute_script(drop, [99, 233], "latin.txt")
    page.wait(lambda: "latin.txt is no UTF-8 text" in page.text("write-problem"))
    page.browser.execute_script("writeFile(new File([new Uint8Array(arguments[0])], 'large.txt'))", (1 << 20) + 1)
    page.wait(lambda: "large.txt has 1,048,577 bytes" in page.text("write-problem"))
    assert len(page.reader) == 74


def test_an_answer_stands_out_in_its_passage(browser, tmp_path):
    question, fact = "Where does Ada Lovelace live?", "Ada Lovelace lives in New York City."
    with shown(browser, span_reader(tmp_path / "memory", relevance_weight=0.5)) as page:
        page.ask(question)
        page.wait(lambda: page.text("answer"))
        before = page.text("answer")
        page.write("ada/city", fact)
        page.wait(lambda: page.text("answer") == "New York City")
        first = "#passages li:first-child"
        assert page.all(f"{first} p")[0].text == fact
        said = page.all("#passages u.said")
        assert " ".join(part.text for part in said if part.text.strip()) == "New York City"
        faint = page.all("#passages u:not(.said)")[0].value_of_css_property("text-decoration-color")
        assert said[0].value_of_css_property("text-decoration-color") != faint
        span = page.reader.ask(question).passages[0].answers[0]
        assert said[0].get_attribute("title") == f"probability {span.weight:.3f}"
        names = [bar.get_attribute("data-measure") for bar in page.all(f"{first} .bar")]
        assert names == ["relevance", "answer"]
        page.all("#entries button")[0].click()
        page.wait(lambda: page.text("answer") == before)


def test_a_written_answer_shows_what_it_was_written_from(browser, tmp_path):
    question, fact = "Where does Ada live?", "Ada lives in Paris."
    with shown(browser, writing_reader(tmp_path / "memory")) as page:
        page.ask(question)
        page.wait(lambda: page.text("answer"))
        before = page.text("answer")
        page.write("ada/city", fact)
        page.wait(lambda: page.text("answer") == "ada lives in paris")
        first = "#passages li:first-child"
        assert [mark.text for mark in page.all(f"{first} mark")] == ["Ada", "lives", "in", "Paris"]
        names = [bar.get_attribute("data-measure") for bar in page.all(f"{first} .bar")]
        assert names == ["relevance", "attention"]
        assert "0.80" in page.text("passages")
        page.ask("Where does Eve live?")
        page.wait(lambda: "the reader doesn't know 'eve'" in page.text("ask-problem"))
        page.ask(question)
        page.wait(lambda: page.text("answer") == "ada lives in paris")
        page.all("#entries button")[0].click()
        page.wait(lambda: page.text("answer") == before)
