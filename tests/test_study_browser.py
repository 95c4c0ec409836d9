"""The page of a study in a real browser: whole sessions by click, tap and keys, alone and on the server."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
import studied
from studied import HOSTILE, loopback  # noqa: F401 - a fixture
from test_study_server import Start, start_fixture  # noqa: F401 - a fixture

from pmagic.study import answers, folder
from pmagic.study.folder import Study

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytestmark = [browser.needed, pytest.mark.usefixtures("loopback")]
QUIET = ["--disable-quic", "--disable-component-update", "--disable-sync"]
READY = "shown !== null && performance.now() - shown.since > PAUSE"
SHOWN = """() => ({
  id: shown.id, left: state.left[shown.id],
  sources: ["left", "right"].map((side) => document.querySelector(`#${side} img`).src),
  prompt: document.getElementById("prompt").textContent,
  visible: ["photo", "prompt"].filter((id) => !document.getElementById(id).hidden),
  number: document.getElementById("number").textContent, progress: document.getElementById("progress").value,
  focus: document.activeElement.id,
})"""
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as program:
        opened = program.chromium.launch(executable_path=browser.PROGRAM, args=[*browser.FLAGS[1:], *QUIET])
        yield opened
        opened.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Opens an address in a browser profile of its own. Whatever the page requests or complains of fails the test."""
    contexts, troubles = [], []

    def opened(address: str, quiet: bool = True, **settings: Any) -> Any:
        context = chromium.new_context(accept_downloads=True, **settings)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        own = address.partition("?")[0].rstrip("/")
        tab.on(
            "request", lambda request: request.url.startswith((own, "data:", "blob:")) or troubles.append(request.url)
        )
        if quiet:
            tab.on("console", lambda message: troubles.append(message.text))
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.goto(address)
        return tab

    yield opened
    for each in contexts:
        each.close()
    assert troubles == []


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Study]:
    return studied.make(tmp_path)


def until(tab: Any, expression: str) -> None:
    """Waits until the expression is true. Playwright's own way evaluates text in the page, which the policy forbids."""
    with studied.waiting(60, expression) as more:
        while not tab.evaluate(expression) and more():
            tab.wait_for_timeout(10)


def ready(tab: Any) -> dict[str, Any]:
    """Waits until the page takes an answer. Returns what it shows."""
    until(tab, READY)
    return tab.evaluate(SHOWN)


def sent_back(tab: Any, to: Path) -> Path:
    """The file that the participant saves."""
    with tab.expect_download() as waiting:
        tab.click("#save")
    assert waiting.value.suggested_filename.startswith("answers-")
    waiting.value.save_as(to)
    return to


def test_a_whole_session_by_click_and_key_with_undo_and_reload(
    open_page: Open, made: tuple[Path, Study], tmp_path: Path
) -> None:
    place, study = made
    tab = open_page(folder.page_path(place).as_uri())
    tab.click("#start")
    wanted: dict[str, str] = {}
    pictures = tab.evaluate("study.pictures")
    asked = {each["id"]: each for each in tab.evaluate("study.questions")}
    total, order = len(study.questions), []
    for number in range(total):
        now = ready(tab)
        order.append(now["id"])
        question, right = asked[now["id"]], "b" if now["left"] == "a" else "a"
        assert now["number"] == f"Question {number + 1} of {total}" and now["progress"] == number
        assert now["sources"] == [pictures[question[now["left"]]], pictures[question[right]]]
        assert now["visible"] == (["photo"] if question["kind"] == "identity" else ["prompt"])
        assert now["prompt"] == question["prompt"] and now["focus"] == "ask"
        if number == 3:  # the wrong key first, then taken back
            tab.keyboard.press("ArrowRight")
            ready(tab)
            tab.keyboard.press("Backspace")
            assert ready(tab)["id"] == now["id"]
        if number == 5:
            tab.reload()
            assert ready(tab) == now
        if number % 3 == 0:
            tab.keyboard.press("ArrowLeft")
        else:
            tab.click("#left" if number % 3 == 1 else "#right")
        wanted[now["id"]] = right if number % 3 == 2 else now["left"]
    tab.wait_for_selector("#end:visible")
    assert order != sorted(order)
    sent = sent_back(tab, tmp_path / "back.json")
    (who,), problems = answers.read([sent], study)
    assert who.answers == wanted and problems == [] and who.machine == ""
    assert len(who.choices) == total + 2 and json.loads(tab.input_value("#text")) == json.loads(sent.read_text())
    sides = {each.left for each in who.choices.values()}
    assert sides == {"a", "b"}
    tab.reload()
    assert tab.is_visible("#end")
    tab.keyboard.press("Backspace")
    assert ready(tab)["id"] == order[-1]


def test_two_participants_have_another_order(open_page: Open, made: tuple[Path, Study]) -> None:
    orders = []
    for _ in range(2):
        tab = open_page(folder.page_path(made[0]).as_uri())
        tab.click("#start")
        orders.append(tab.evaluate("[state.participant, state.order.join(), JSON.stringify(state.left)]"))
    assert all(one != other for one, other in zip(*orders, strict=True))


def test_hostile_prompts_are_text(open_page: Open, made: tuple[Path, Study]) -> None:
    place, study = made
    tab = open_page(folder.page_path(place).as_uri())
    tab.click("#start")
    seen = set()
    for _ in study.questions:
        seen.add(ready(tab)["prompt"])
        tab.keyboard.press("ArrowLeft")
    assert f"someone {HOSTILE}".replace("\u202e", "\ufffd") in seen
    assert tab.title() == "Comparing pictures" and tab.evaluate("document.images.length") == 3


@pytest.mark.parametrize(("width", "height"), [(360, 640), (320, 568), (740, 360), (1280, 720), (820, 1180)])
def test_everything_of_a_question_is_on_the_screen(
    open_page: Open, made: tuple[Path, Study], width: int, height: int
) -> None:
    place, study = made
    tab = open_page(
        folder.page_path(place).as_uri(),
        viewport={"width": width, "height": height},
        has_touch=True,
        is_mobile=width < 800,
    )
    tab.tap("#start")
    kinds = set()
    for number in range(len(study.questions)):
        now = ready(tab)
        kind = now["visible"][0]
        kinds.add(kind)
        boxes = {name: tab.locator(name).bounding_box() for name in ("#ask", f"#{kind}", "#left", "#right", "#undo")}
        for name, box in boxes.items():
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, (name, box)
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, (name, box)
        left, right, above = boxes["#left"], boxes["#right"], boxes[f"#{kind}"]
        assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"] and left["width"] >= 110
        apart = above["y"] + above["height"] <= left["y"] or above["x"] + above["width"] <= left["x"]
        assert apart and above["height"] >= 30, boxes
        if len(kinds) == 2:
            break
        tab.tap("#right")
        assert ready(tab)["number"] == f"Question {number + 2} of {len(study.questions)}"


def test_dark_and_light(open_page: Open, made: tuple[Path, Study]) -> None:
    grounds = [
        open_page(folder.page_path(made[0]).as_uri(), color_scheme=scheme).evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        for scheme in ("light", "dark")
    ]
    assert grounds == ["rgb(255, 255, 255)", "rgb(23, 23, 26)"]


def test_what_a_screen_reader_says(open_page: Open, made: tuple[Path, Study]) -> None:
    tab = open_page(folder.page_path(made[0]).as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "start"
    tab.keyboard.press("Enter")
    said = set()
    for _ in made[1].questions:
        now = ready(tab)
        snapshot = tab.locator("main").aria_snapshot()
        kind = now["visible"][0]
        if kind in said:
            tab.keyboard.press("ArrowLeft")
            continue
        said.add(kind)
        asks = "more like the person in the photo" if kind == "photo" else "fits the description better"
        assert f'{asks}?" [level=1]' in snapshot and 'progressbar "Question ' in snapshot
        assert 'button "Picture on the left Left"' in snapshot and 'button "Picture on the right Right"' in snapshot
        assert 'button "Take the last answer back"' in snapshot and "- status" in snapshot
        assert ('img "The photo of the person"' in snapshot) == (kind == "photo")
        reached = []
        for _ in range(2):
            tab.keyboard.press("Tab")
            reached.append(tab.evaluate("document.activeElement.id"))
        assert reached == ["left", "right"]
        tab.keyboard.press("Space")  # the right one, by the keyboard alone
    assert said == {"photo", "prompt"}


def test_one_press_is_one_answer(open_page: Open, made: tuple[Path, Study]) -> None:
    tab = open_page(folder.page_path(made[0]).as_uri())
    tab.click("#start")
    ready(tab)
    tab.dblclick("#left")
    assert ready(tab)["progress"] == 1
    for _ in range(5):  # a key that is held
        tab.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', repeat: true }))")
    for modifier in ("ctrlKey", "altKey", "metaKey", "shiftKey"):
        tab.evaluate(f"document.dispatchEvent(new KeyboardEvent('keydown', {{ key: 'ArrowLeft', {modifier}: true }}))")
    assert ready(tab)["progress"] == 1


def test_a_browser_that_keeps_nothing_says_so_and_goes_on(open_page: Open, made: tuple[Path, Study]) -> None:
    tab = open_page(folder.page_path(made[0]).as_uri())
    tab.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    tab.click("#start")
    ready(tab)
    tab.keyboard.press("ArrowLeft")
    assert ready(tab)["progress"] == 1
    assert "do not close or reload" in tab.inner_text("#status")


def test_a_second_tab_goes_on_where_the_first_is(open_page: Open, made: tuple[Path, Study]) -> None:
    tab = open_page(folder.page_path(made[0]).as_uri())
    tab.click("#start")
    ready(tab)
    tab.keyboard.press("ArrowLeft")
    second = tab.context.new_page()
    second.goto(folder.page_path(made[0]).as_uri())
    assert ready(second)["progress"] == 1
    second.keyboard.press("ArrowLeft")
    until(tab, "document.getElementById('progress').value === 2")
    assert ready(tab)["id"] == ready(second)["id"]


def test_a_damaged_picture_is_told(open_page: Open, made: tuple[Path, Study], tmp_path: Path) -> None:
    text = folder.page_path(made[0]).read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("base64,/9j/4", "base64,AAAA"))
    tab = open_page(broken.as_uri(), quiet=False)  # the browser tells of the picture
    tab.click("#start")
    tab.wait_for_selector("#broken:visible")


def kept(place: Path, study: Study) -> dict[str, dict[str, str]]:
    found, problems = answers.read(sorted((place / folder.ANSWERS).glob("*.jsonl")), study)
    assert problems == []
    return {each.id: each.answers for each in found}


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_two_participants_at_once_on_the_server(
    open_page: Open,
    start: Start,
    made: tuple[Path, Study],
) -> None:
    place, study = made
    process, client = start(place)
    address = f"http://127.0.0.1:{client.server.server_port}/?token={client.server.token}"
    tabs = [open_page(address) for _ in range(2)]
    wanted: list[dict[str, str]] = [{}, {}]
    for tab in tabs:
        assert "token" not in tab.url
        tab.click("#start")
    for _ in study.questions:
        for tab, mine, side in zip(tabs, wanted, ("ArrowLeft", "ArrowRight"), strict=True):
            now = ready(tab)
            mine[now["id"]] = now["left"] if side == "ArrowLeft" else {"a": "b", "b": "a"}[now["left"]]
            tab.keyboard.press(side)
    names = []
    for tab in tabs:
        until(tab, "document.getElementById('status').textContent.startsWith('All answers are saved')")
        names.append(tab.evaluate("state.participant"))
        assert tab.is_hidden("#save")  # there is nothing to send back
    assert kept(place, study) == dict(zip(names, wanted, strict=True))
    tabs[0].click("#next")  # the next participant at the same computer
    tabs[0].click("#start")
    assert ready(tabs[0])["progress"] == 0 and tabs[0].evaluate("state.participant") not in names
    stop(process)


def test_kill_9_while_a_participant_answers_loses_nothing(
    open_page: Open,
    start: Start,
    made: tuple[Path, Study],
) -> None:
    place, study = made
    process, client = start(place)
    port = client.server.server_port
    tab = open_page(
        f"http://127.0.0.1:{port}/?token={client.server.token}", quiet=False
    )  # the browser tells of the server
    tab.click("#start")
    wanted: dict[str, str] = {}

    def answer() -> None:
        now = ready(tab)
        tab.keyboard.press("ArrowLeft")
        wanted[now["id"]] = now["left"]

    for _ in range(4):
        answer()
    process.kill()  # perhaps in the middle of the fourth
    process.communicate()
    acknowledged = tab.evaluate("state.kept")
    assert acknowledged >= 3
    for _ in range(3):
        answer()
    until(tab, "document.getElementById('status').textContent.includes('choices are not saved yet')")
    (before,) = kept(place, study).values()
    assert len(before) >= acknowledged
    process, _ = start(place, port)
    until(tab, "state.kept === 7")
    assert tab.inner_text("#status") == ""
    assert kept(place, study) == {tab.evaluate("state.participant"): wanted}
    process.kill()
    process.communicate()
    answer()
    process, _ = start(place, port)
    tab.reload()  # the session outlives the server, and what was not saved is sent after the reload
    until(tab, "state.kept === 8")
    assert kept(place, study) == {tab.evaluate("state.participant"): wanted}
    stop(process)
