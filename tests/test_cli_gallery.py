"""The gallery: one page that loads nothing, obeys no text, and works in a real browser."""

import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from PIL import Image
from typer.testing import CliRunner

from pmagic import pictures
from pmagic.cli.app import app
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]
runner = CliRunner()
HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\x1b[31m{{7*7}}"
)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def page(library: Library, persona: Make, tmp_path: Path) -> Path:
    """Two personas, one of them with a hostile word and a real preview, and a damaged one."""
    picture = pictures.encode_image(Image.new("RGB", (64, 64), (200, 30, 30)), "png", {"prompt": "x"})
    library.save("alice", persona(preview=picture, settings={"recipe": HOSTILE, "iterations": 7}))
    library.save("bob", persona(word=HOSTILE))
    library.save("carol", persona(preview=b"no picture at all"))
    done = runner.invoke(app, ["gallery", "--out", str(tmp_path / "page.html"), "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["cards"] == 3
    return Path(document["file"])


def pictures_in(folder: Path) -> None:
    story = {"persona": "alice@1", "prompt": HOSTILE, "seed": 3, "base": "mini", "steps": 2}
    for kind in (".png", ".jpg", ".webp"):
        pictures.write_picture(Image.new("RGB", (64, 48), (10, 90, 200)), folder / f"a{kind}", story)
    Image.new("RGB", (64, 64)).save(folder / "foreign.png")


def test_the_page_loads_nothing_and_carries_no_text_as_code(page: Path) -> None:
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert [tag for tag, _ in tags.found].count("script") == 1
    assert not [each for _, each in tags.found if any(name.startswith("on") for name in each)]
    links = [each.get("src") or each.get("href") for _, each in tags.found if "src" in each or "href" in each]
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert "\x1b" not in text and "49" not in re.findall(r"\{\{.*?\}\}|49", text)
    policy = next(each["content"] for _, each in tags.found if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert html.escape("</script>") in text


def test_a_folder_of_pictures_leaves_out_what_pmagic_has_not_drawn(tmp_path: Path) -> None:
    pictures_in(tmp_path / "drawn")
    done = runner.invoke(app, ["gallery", str(tmp_path / "drawn"), "--out", str(tmp_path)])
    assert done.stdout == f"{tmp_path / 'gallery.html'}\n"
    text = (tmp_path / "gallery.html").read_text()
    assert text.count("<article") == 3 and "foreign" not in text
    again = runner.invoke(app, ["gallery", str(tmp_path / "drawn"), "--out", str(tmp_path)])
    assert again.stdout == f"{tmp_path / 'gallery-2.html'}\n"


def test_a_dangling_link_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    pictures_in(tmp_path / "drawn")
    (tmp_path / "drawn" / "b.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "drawn" / "c.png").mkdir()
    done = runner.invoke(app, ["gallery", str(tmp_path / "drawn"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    assert "b.png is left out: there is no file" in done.stderr
    assert (tmp_path / "gallery.html").read_text().count("<article") == 3


def test_recursive_takes_the_folders_in_the_folder(tmp_path: Path) -> None:
    pictures_in(tmp_path / "drawn" / "one" / "deep")
    pictures_in(tmp_path / "drawn" / ".hidden")
    pictures_in(tmp_path / "drawn")
    words = ["gallery", str(tmp_path / "drawn"), "--out", str(tmp_path / "g.html"), "--json"]
    assert json.loads(runner.invoke(app, words).stdout)["cards"] == 3
    document = json.loads(runner.invoke(app, [*words, "--recursive"]).stdout)
    assert document["cards"] == 6 and "one/deep/a.png" in Path(document["file"]).read_text()
    refused = runner.invoke(app, ["gallery", "--recursive"])
    assert refused.exit_code == 2 and "give the folder" in refused.stderr


def test_a_damaged_persona_is_told_and_left_out(library: Library, persona: Make, tmp_path: Path) -> None:
    library.save("alice", persona())
    library.save("bob", persona())
    (library.root / "bob" / "v0001" / "tensors.safetensors").write_bytes(b"x")
    done = runner.invoke(app, ["gallery", "--out", str(tmp_path / "g.html")])
    assert done.exit_code == 0 and "bob@1 is left out: tensors.safetensors" in done.stderr
    assert (tmp_path / "g.html").read_text().count("<article") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "there is no persona yet"), (["nowhere"], "there is no folder"), (["."], "holds no picture drawn by pmagic")],
)
def test_nothing_to_show(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["gallery", *words])
    assert done.exit_code == 3 and said in done.stderr
    assert list(tmp_path.iterdir()) == []


def browsed(page: Path, tmp_path: Path, probe: str = "", *flags: str) -> str:
    """The page as the browser has it after running, with `probe` added to a copy (whose policy allows it)."""
    text = page.read_text()
    if probe:
        text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
        text = text.replace("</body>", f"<script>{probe}</script></body>")
    copy = tmp_path / "looked-at.html"
    copy.write_text(text)
    return browser.shown(copy, *flags)


@browser.needed
def test_a_browser_shows_it_filters_and_obeys_no_text(page: Path, tmp_path: Path) -> None:
    assert "<title>Personas</title>" in browsed(page, tmp_path)
    probe = """
      const said = {};
      said.pictures = [...document.images].filter((each) => each.complete && each.naturalWidth > 0).length;
      search.value = "alice"; search.dispatchEvent(new Event("input"));
      said.alice = count.textContent;
      search.value = ""; selects[1].value = "face"; selects[1].dispatchEvent(new Event("change"));
      said.face = count.textContent;
      said.focusable = document.querySelectorAll("summary, select, input, a[href]").length;
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "/" }));
      said.slash = document.activeElement.id;
      said.title = document.title;
      said.ground = getComputedStyle(document.body).backgroundColor;
      document.body.dataset.said = JSON.stringify(said);
    """
    for scheme, ground in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(23, 23, 26)")):
        flags = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
        seen = re.search(r'data-said="([^"]*)"', browsed(page, tmp_path, probe, *flags))
        assert seen is not None
        said = json.loads(html.unescape(seen[1]))
        assert said == {
            "pictures": 1,
            "alice": "1 of 3 personas",
            "face": "2 of 3 personas",
            "focusable": 7,
            "slash": "search",
            "title": "Personas",
            "ground": ground,
        }
