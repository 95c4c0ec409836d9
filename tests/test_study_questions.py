"""The questions of a study and its page: who is shown beside whom, what the key says, and that every text is text."""

import html.parser
import itertools
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import studied
from studied import HOSTILE, METHODS, NAMES, PROMPTS, colour

from pmagic.errors import Incompatible, NotFound, UsageError
from pmagic.study import folder, page, questions, source
from pmagic.study.source import Evaluation


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return studied.build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def evaluation(built: tuple[Path, Path]) -> Evaluation:
    return source.read(*built, [])


def test_an_evaluation_is_read_whole(evaluation: Evaluation) -> None:
    assert [each.key for each in evaluation.methods] == list(METHODS)
    assert [each.name for each in evaluation.methods] == ["personamagic", "lora", "textual_inversion"]
    assert len(evaluation.pictures) == len(NAMES) * len(PROMPTS) * studied.PICTURES
    assert {tuple(of) for of in evaluation.pictures.values()} == {tuple(METHODS)}
    assert [who.name for who in evaluation.people.values()] == list(NAMES) and evaluation.missing == []


def test_methods_are_chosen_by_name_or_key(built: tuple[Path, Path]) -> None:
    read = source.read(*built, ["textual-inversion", "personamagic"])
    assert [each.key for each in read.methods] == ["textual_inversion", "paper"]
    for wanted, error, said in (
        (["lora"], UsageError, "there is one: lora"),
        (["lora", "lora"], UsageError, "names one method twice"),
        (["lora", "neti"], NotFound, "choose from paper, lora, textual_inversion|no method 'neti'"),
    ):
        with pytest.raises(error, match=said):
            source.read(*built, wanted)


def test_what_is_no_evaluation_is_refused(built: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="holds no evaluation"):
        source.read(tmp_path, None, [])
    (tmp_path / "plan.json").write_text('{"pictures": "x"}')
    with pytest.raises(UsageError, match="another tool's pictures"):
        source.read(tmp_path, None, [])
    (tmp_path / "plan.json").write_text("[" * 100_000)
    with pytest.raises(Incompatible, match="cannot be read"):
        source.read(tmp_path, None, [])
    with pytest.raises(UsageError, match="--root"):
        source.read(built[0], None, [])


def test_other_photos_than_then_are_refused(built: tuple[Path, Path], tmp_path: Path) -> None:
    photos = shutil.copytree(built[1], tmp_path / "photos")
    shutil.copy(photos / "bruno.png", photos / "alice.png")
    with pytest.raises(Incompatible, match="the photos of alice are not those of the evaluation"):
        source.read(built[0], photos, [])
    (photos / "alice.png").unlink()
    with pytest.raises(Incompatible, match="the photos of alice"):
        source.read(built[0], photos, [])


def test_a_place_outside_the_evaluation_is_refused(built: tuple[Path, Path], tmp_path: Path) -> None:
    out = shutil.copytree(built[0], tmp_path / "evaluation")
    next(out.glob("people/0001-*/variants/lora/variant.json")).write_text('{"drawing": "../../../photos"}')
    with pytest.raises(Incompatible, match="no place of pictures"):
        source.read(out, built[1], [])


def test_who_is_not_finished_is_left_out(built: tuple[Path, Path], tmp_path: Path) -> None:
    out = shutil.copytree(built[0], tmp_path / "evaluation")
    shutil.rmtree(next(out.glob("people/0002-*/variants")))
    shutil.rmtree(next(out.glob("people/0003-*/variants/lora")))
    read = source.read(out, built[1], [])
    assert sorted(read.people) == [1, 3, 4] and read.missing == ["bruno"]
    chosen = questions.choose(read, 80, 0, 0)
    assert {each.person for each in chosen if "lora" in (each.a.method, each.b.method)} == {1, 4}


def test_questions_are_spread_evenly_and_the_two_pictures_differ_in_the_method_alone(evaluation: Evaluation) -> None:
    chosen = questions.choose(evaluation, 48, 0, 3)
    cells = Counter((each.kind, frozenset((each.a.method, each.b.method))) for each in chosen)
    assert set(cells.values()) == {8} and len(cells) == 6
    for cell in cells:
        of = Counter(each.person for each in chosen if (each.kind, frozenset((each.a.method, each.b.method))) == cell)
        assert set(of.values()) == {2}  # four people, eight questions
    for each in chosen:
        (_, a_place, *_, a_cell, a_file), (_, b_place, *_, b_cell, b_file) = (
            Path(choice.path).parts for choice in (each.a, each.b)
        )
        assert (a_place, a_cell[-2:], a_file) == (b_place, b_cell[-2:], b_file)
        assert a_place.startswith(f"{each.person:04d}-") and int(a_cell[-2:]) == each.prompt
        assert each.answer == "" and each.a.method != each.b.method
    first = Counter(each.a.method for each in chosen)
    assert min(first.values()) > 8  # which picture is a is decided by lot
    assert len({(each.kind, each.a.path, each.b.path) for each in chosen}) == 48


def test_the_same_seed_gives_the_same_questions(evaluation: Evaluation) -> None:
    again = questions.choose(evaluation, 20, 6, 5)
    assert again == questions.choose(evaluation, 20, 6, 5) != questions.choose(evaluation, 20, 6, 6)


def test_too_many_questions_are_refused_with_the_number_there_is(evaluation: Evaluation) -> None:
    most = len(NAMES) * len(PROMPTS) * studied.PICTURES * 3 * 2
    assert len(questions.choose(evaluation, most, 0, 0)) == most
    with pytest.raises(UsageError, match=f"for {most} questions, not for {most + 1}") as error:
        questions.choose(evaluation, most + 1, 0, 0)
    assert error.value.next_step == f"give --questions {most}"


def test_an_unfinished_evaluation_is_to_be_finished(built: tuple[Path, Path], tmp_path: Path) -> None:
    out = shutil.copytree(built[0], tmp_path / "evaluation")
    finish = "finish the evaluation with the same `pmagic eval` command"
    shutil.rmtree(next(out.glob("people/0001-*/variants")))
    with pytest.raises(UsageError) as error:
        questions.choose(source.read(out, built[1], []), 999, 0, 0)
    assert error.value.next_step == f"give --questions 108, or {finish}"
    for each in out.glob("people/*/variants"):
        shutil.rmtree(each)
    with pytest.raises(UsageError) as error:
        questions.choose(source.read(out, built[1], []), 4, 0, 0)
    assert error.value.next_step == finish


def test_pictures_that_two_methods_share_are_not_compared(built: tuple[Path, Path], tmp_path: Path) -> None:
    out = shutil.copytree(built[0], tmp_path / "evaluation")
    for path in out.glob("people/*/variants/lora/variant.json"):
        path.write_text(json.dumps({"drawing": studied.DRAWING["paper"]}))
    read = source.read(out, built[1], [])
    pairs = {frozenset((each.a.method, each.b.method)) for each in questions.choose(read, 40, 0, 0)}
    assert frozenset(("paper", "lora")) not in pairs and len(pairs) == 2
    with pytest.raises(UsageError, match="for 0 questions"):
        questions.choose(source.read(out, built[1], ["paper", "lora"]), 1, 0, 0)


def test_the_answers_of_the_checks_are_right(evaluation: Evaluation) -> None:
    checks = [each for each in questions.choose(evaluation, 10, 8, 1) if each.answer]
    assert Counter(each.kind for each in checks) == {"identity": 4, "text": 4}
    assert len({(each.a.path, each.b.path, each.person, each.prompt) for each in checks}) == 8
    assert {each.answer for each in checks} == {"a", "b"}
    for each in checks:
        right, wrong = (each.a, each.b) if each.answer == "a" else (each.b, each.a)
        assert right.method == wrong.method == ""
        wrong_person = int(Path(wrong.path).parts[1][:4])
        if each.kind == "identity":
            assert right.path == "" and wrong_person != each.person
        else:
            assert Path(right.path).parts[:2] == Path(wrong.path).parts[:2] and wrong_person == each.person
            assert int(Path(right.path).parent.name[-2:]) == each.prompt != int(Path(wrong.path).parent.name[-2:])


def test_a_picture_that_clip_takes_for_another_prompt_is_in_no_check(built: tuple[Path, Path], tmp_path: Path) -> None:
    out = shutil.copytree(built[0], tmp_path / "evaluation")
    doubtful = list(out.glob("people/*/*/*-02/cell.json"))
    assert len(doubtful) == len(NAMES) * len(METHODS)
    for path in doubtful:
        path.write_text(json.dumps({"seeds": [0, 1], "scores": {"obeyed": [0.0, 0.0]}}))
    checks = [each for each in questions.choose(source.read(out, built[1], []), 20, 20, 1) if each.answer]
    texts = [each for each in checks if each.kind == "text"]
    assert len(texts) == 10
    assert {Path(choice.path).parent.name[-2:] for each in texts for choice in (each.a, each.b)} == {"01", "03"}


def test_without_a_second_person_there_are_text_checks_alone(evaluation: Evaluation) -> None:
    from dataclasses import replace

    alone = {place: of for place, of in evaluation.pictures.items() if place.person == 1}
    one = replace(evaluation, people={1: evaluation.people[1]}, pictures=alone)
    assert {each.kind for each in questions.choose(one, 5, 4, 0) if each.answer} == {"text"}
    one_prompt = replace(
        one, prompts=PROMPTS[:1], pictures={place: of for place, of in alone.items() if place.prompt == 1}
    )
    with pytest.raises(UsageError, match="no pair for an attention check"):
        questions.choose(one_prompt, 5, 4, 0)
    assert len(questions.choose(one_prompt, 5, 0, 0)) == 5


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_nothing_and_names_nobody(tmp_path: Path) -> None:
    place, _ = studied.make(tmp_path)
    text = folder.page_path(place).read_text()
    tags = Tags(text).found
    assert [tag for tag, _ in tags].count("script") == 2  # the data and the program
    assert {tag for tag, _ in tags}.isdisjoint({"iframe", "object", "link", "a", "form", "base"})
    assert not [each for _, each in tags if any(name.startswith("on") for name in each) or "src" in each]
    policy = next(each["content"] for _, each in tags if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy and "unsafe" not in policy
    for secret in (*NAMES, *METHODS, "personamagic", "evaluation", str(tmp_path), 'answer":'):
        assert secret not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL), secret
    assert "\u202e" not in text and "http:" not in text and "https:" not in text


def test_hostile_prompts_are_data(tmp_path: Path) -> None:
    place, _ = studied.make(tmp_path)
    text = folder.page_path(place).read_text()
    assert "document.title" not in text.partition('<script type="application/json"')[0]
    shown = page.read_content(folder.page_path(place))
    told = {each["prompt"] for each in shown["questions"] if each["prompt"]}
    assert f"someone {HOSTILE}".replace("\u202e", "\ufffd") in told
    assert text.count("</script>") == 2


def test_the_key_says_what_the_page_shows(tmp_path: Path) -> None:
    place, study = studied.make(tmp_path, count=24, checks=8)
    shown = page.read_content(folder.page_path(place))
    assert shown["id"] == study.id and [each["id"] for each in shown["questions"]] == [
        each.id for each in study.questions
    ]
    for asked, each in zip(shown["questions"], study.questions, strict=True):
        photo = 50 * each.person
        assert asked["prompt"] == (page.prompt_text(PROMPTS[each.prompt - 1]) if each.kind == "text" else "")
        if each.kind == "identity":
            assert page.picture(shown, asked["photo"]).getpixel((9, 9)) == (photo,) * 3
        for name in ("a", "b"):
            choice = getattr(each, name)
            found = page.picture(shown, asked[name]).getpixel((9, 9))
            if choice.method:
                expected = colour(each.person, each.prompt, choice.method)
                assert max(abs(x - y) for x, y in zip(found, expected, strict=True)) <= 3, each
            elif not choice.path:
                assert found == (photo,) * 3


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (one, _), (two, _) = studied.make(tmp_path / "one"), studied.make(tmp_path / "two")
    for file in (folder.KEY, "page/index.html"):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    assert (one.stat().st_mode & 0o777, folder.page_path(one).stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_study_is_read_again_and_never_written_over(tmp_path: Path) -> None:
    place, study = studied.make(tmp_path)
    assert folder.read(place) == study
    evaluation = source.read(tmp_path / "evaluation", tmp_path / "photos", [])
    with pytest.raises(UsageError, match="not empty"):
        folder.write(place, evaluation, study.questions, 0)
    with pytest.raises(NotFound, match="holds no study"):
        folder.read(tmp_path)
    for text in ("{}", "[" * 10**5, '{"format": 2}'):
        (place / folder.KEY).write_text(text)
        with pytest.raises(Incompatible):
            folder.read(place)


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = source.read(*studied.build(tmp_path), [])
    chosen = questions.choose(evaluation, 4, 0, 0)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "../here", "inside/.."):
        with pytest.raises(UsageError, match="is the folder you are in"):
            folder.write(Path(out), evaluation, chosen, 0)
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "empty").mkdir()
    assert folder.write(tmp_path / "link", evaluation, chosen, 0) == folder.read(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file"):
        folder.write(tmp_path / "file", evaluation, chosen, 0)


def test_a_key_whose_methods_are_not_there_is_refused(tmp_path: Path) -> None:
    place, _ = studied.make(tmp_path)
    text = (place / folder.KEY).read_text()
    (place / folder.KEY).write_text(text.replace('"method": "lora"', '"method": "other"'))
    with pytest.raises(Incompatible, match="cannot be read"):
        folder.read(place)


def test_a_study_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pmagic import atomic_io
    from pmagic.errors import StorageFailed

    def full(*rest: object) -> None:
        raise OSError(28, "No space left on device")

    evaluation = source.read(*studied.build(tmp_path), [])
    chosen = questions.choose(evaluation, 4, 0, 0)
    for step in ("write_file", "sync_folder", "rename_new"):
        with monkeypatch.context() as patched:
            patched.setattr(atomic_io, step, full)
            with pytest.raises(StorageFailed, match="cannot store the study"):
                folder.write(tmp_path / "study", evaluation, chosen, 0)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["evaluation", "photos"], step
    folder.write(tmp_path / "study", evaluation, chosen, 0)


def test_the_paper_s_pairs_are_all_there() -> None:
    """Table 4 compares PersonaMagic with five methods, each for both kinds."""
    from pmagic.evaluation import published

    assert {kind for of in published.PREFERENCES.values() for kind in of} == set(questions.KINDS)
    assert len(published.PREFERENCES) == 5
    assert all(50 < each[0] < 100 for of in published.PREFERENCES.values() for each in of.values())
    assert len(list(itertools.chain(*published.PREFERENCES.values()))) == 10
