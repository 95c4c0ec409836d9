"""Answers from outside: joined, checked, and refused with a reason; who counts, and what the results say of them."""

import json
from pathlib import Path

import pytest
import studied
from studied import document, prefer

from pmagic.study import answers, report, results
from pmagic.study.folder import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return studied.make(tmp_path_factory.mktemp("studied"), count=24, checks=8)[1]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def line(study: Study, who: str, n: int, question: str, chosen: str | None) -> str:
    told = {"study": study.id, "participant": who, "n": n, "question": question, "chosen": chosen, "left": "b"}
    return json.dumps({**told, "seconds": 1}) + "\n"


def test_the_last_choice_of_a_question_holds_and_one_taken_back_is_none(study: Study, tmp_path: Path) -> None:
    one, two, three = (each.id for each in study.questions[:3])
    text = (
        line(study, "p1", 1, one, "a") + line(study, "p1", 2, two, "a") + line(study, "p1", 3, two, None)
        + line(study, "p1", 4, two, "b") + line(study, "p1", 5, three, "b") + line(study, "p1", 6, three, None)
        + line(study, "p1", 2, two, "a")
    )  # fmt: skip
    (who,), problems = answers.read([write(tmp_path / "p1.jsonl", text)], study)
    assert who.answers == {one: "a", two: "b"} and problems == [] and not who.contradicts


def test_a_line_that_a_kill_has_cut_off_is_told_and_the_others_count(study: Study, tmp_path: Path) -> None:
    one, two = (each.id for each in study.questions[:2])
    text = line(study, "p1", 1, one, "a") + line(study, "p1", 2, two, "b")[:30] + "\n" + line(study, "p1", 2, two, "b")
    (who,), problems = answers.read([write(tmp_path / "p1.jsonl", text)], study)
    assert who.answers == {one: "a", two: "b"}
    assert problems == [
        f"{tmp_path / 'p1.jsonl'}, line 2, cannot be read and is left out. If a stop of the server or a full disk cut "
        "it off, it was never confirmed, and the page has sent it again"
    ]


def test_of_a_file_that_is_refused_nothing_counts(study: Study, tmp_path: Path) -> None:
    one, two = (each.id for each in study.questions[:2])
    foreign = line(study, "p1", 2, two, "b").replace(study.id, "another")
    text = line(study, "p1", 1, one, "a") + foreign
    found, problems = answers.read([write(tmp_path / "p1.jsonl", text)], study)
    assert found == [] and problems == [f"{tmp_path / 'p1.jsonl'} is left out: it is of another study"]


def test_a_reason_stays_short(study: Study, tmp_path: Path) -> None:
    long = {**document(study, "p1", prefer("paper")), "version": "x" * 10**6}
    _, (problem,) = answers.read([write(tmp_path / "x.json", long)], study)
    assert len(problem) < len(str(tmp_path)) + 120


def test_files_of_one_participant_are_joined_and_must_agree(study: Study, tmp_path: Path) -> None:
    whole = document(study, "p1", prefer("paper"))
    (first, *_) = whole["choices"]
    server = write(
        tmp_path / "p1.jsonl",
        line(study, "p1", 1, first["question"], first["chosen"])
        .replace('"b", "s', '"a", "s')
        .replace(": 1}", ": 1.5}"),
    )
    sent = write(tmp_path / "p1.json", whole)
    (who,), problems = answers.read([server, sent, sent], study)
    assert len(who.answers) == 32 and problems == [] and not who.contradicts
    other = "a" if first["chosen"] == "b" else "b"
    write(server, line(study, "p1", 1, first["question"], other))
    (who,), _ = answers.read([server, sent], study)
    assert results.why_left_out(who, study) == "two files of this participant contradict each other"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"study": "another"}, "it is of another study"),
        ({"version": 2}, "its version is 2"),
        ({"format": "x"}, "it holds no answers of a study"),
        ({"participant": "../../etc"}, "it names no participant"),
        ({"participant": 3}, "it names no participant"),
        ({"choices": "all"}, "no list of choices"),
        ({"choices": [{}] * 10_000}, "too long a list"),
        ({"choices": [3]}, "a choice is no object"),
        ({"machine": "x" * 1000}, "its machine is no short text"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_with_the_reason(
    study: Study, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    found, (problem,) = answers.read(
        [write(tmp_path / "x.json", {**document(study, "p1", prefer("paper")), **change})], study
    )
    assert found == [] and reason in problem and problem.startswith(f"{tmp_path / 'x.json'} is left out: ")


@pytest.mark.parametrize(
    "change",
    [{"n": 0}, {"n": True}, {"n": 1.5}, {"n": 10**9}, {"question": "q99"}, {"question": None}, {"question": ["q01"]},
     {"chosen": "c"}, {"chosen": ["a"]}, {"left": None}, {"seconds": -1}, {"seconds": float("nan")},
     {"seconds": float("inf")}, {"seconds": "1"}],
)  # fmt: skip
def test_a_choice_is_checked_field_by_field(study: Study, change: dict[str, object]) -> None:
    ids = {each.id for each in study.questions}
    told = {"n": 1, "question": "q01", "chosen": "a", "left": "b", "seconds": 2}
    assert answers.check_choices([told], ids)[0].question == "q01"
    with pytest.raises(answers.Refused):
        answers.check_choices([{**told, **change}], ids)


def test_files_that_are_no_json_are_refused(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.json").mkdir()
    bad = [write(tmp_path / f"{number}.json", text) for number, text in enumerate(("", "[" * 10**5, "\0", "null"))]
    monkeypatch.setattr(answers, "_MAX_BYTES", 200)
    large = write(tmp_path / "large.json", document(study, "p1", prefer("paper")))
    found, problems = answers.read([*bad, large, tmp_path / "none.json", tmp_path / "folder.json"], study)
    assert found == [] and len(problems) == 7
    assert "larger than" in problems[4] and "No such file" in problems[5]


def participant(study: Study, wrong: int = 0, unanswered: int = 0, who: str = "p") -> answers.Participant:
    """Someone with so many checks wrong, and so many not answered."""
    checks = [each.id for each in study.checks]
    turned = {"a": "b", "b": "a"}
    given = {
        each.id: turned[each.answer] if each.id in checks[:wrong] else each.answer or "a" for each in study.questions
    }
    for each in checks[len(checks) - unanswered :]:
        given.pop(each)
    made = [answers.Choice(n=n, question=q, chosen=c, left="a", seconds=1) for n, (q, c) in enumerate(given.items(), 1)]
    return answers.Participant(who, choices={each.n: each for each in made})


@pytest.mark.parametrize(
    ("wrong", "unanswered", "reason"),
    [
        (0, 0, ""), (1, 0, ""), (2, 0, "2 of 8 attention checks are wrong"), (1, 3, ""),
        (1, 4, "1 of 4 attention checks are wrong"), (0, 5, ""), (0, 6, "only 2 of 8 attention checks are answered"),
    ],
)  # fmt: skip
def test_the_rule_of_the_attention_checks(study: Study, wrong: int, unanswered: int, reason: str) -> None:
    assert results.why_left_out(participant(study, wrong, unanswered), study) == reason
    assert results.rule_text(study) == (
        "Participants are left out if they answered fewer than 3 of the 8 attention checks, "
        "or fewer than 80% of these right."
    )


def test_results_of_known_answers(study: Study) -> None:
    """Two prefer lora always, one never does; the fourth is careless."""
    everyone = []
    for who, key in (("p1", "lora"), ("p2", "lora"), ("p3", "textual_inversion")):
        told = document(study, who, prefer(key))["choices"]
        made = answers.check_choices(told, {each.id for each in study.questions})
        everyone.append(answers.Participant(who, choices={each.n: each for each in made}))
    everyone.append(participant(study, wrong=3, who="careless"))
    found = results.summarize(study, everyone, [])
    assert found.left_out == {"careless": "3 of 8 attention checks are wrong"}
    assert [each.id for each in found.participants] == ["p1", "p2", "p3"]
    for kind in found.kinds:
        of = {(each.first.key, each.second.key): each for each in kind.compared}
        against = of["lora", "textual_inversion"].share
        assert against.value == pytest.approx(2 / 3) and against.answers == 12
        assert against.participants == 3 and against.questions == 4 and against.low < 2 / 3 < against.high
        assert of["paper", "textual_inversion"].paper == pytest.approx(
            (0.7002, 0.0203) if kind.kind == "text" else (0.7354, 0.0136)
        )
        assert of["paper", "lora"].paper is None  # the paper has no LoRA
        assert kind.strengths["lora"].value > kind.strengths["paper"].value
    assert set(found.checks) == {each.id for each in study.checks}
    assert sum(right for right, _ in found.checks.values()) == 4 * 8 - 3
    text = json.dumps(results.document(found), allow_nan=False)
    assert json.loads(text)["left_out"] == found.left_out


def test_the_paper_s_share_is_turned_with_the_pair(study: Study) -> None:
    paper, _, inversion = study.methods
    assert results._paper("text", inversion, paper) == pytest.approx((0.2998, 0.0203))


def test_machines_and_doubtful_checks_are_named(study: Study) -> None:
    machine = participant(study, who="machine-clip")
    machine.machine = "CLIP"
    bad = [participant(study, wrong=1, who=f"p{number}") for number in range(2)]
    told = results.caveats(results.summarize(study, [machine, *bad], []))
    assert told[0] == (
        "1 of 3 participants are machines: machine-clip (CLIP). What machines choose is not what people prefer"
    )
    assert told[1] == f"the attention check {study.checks[0].id} was answered right by 1 of 3: look at it yourself"


def test_a_kind_that_nobody_answered_is_not_reported(study: Study) -> None:
    kinds = {each.id: each.kind for each in study.questions}
    told = document(study, "p1", lambda each: (each.answer or "a") if each.kind == "text" else "")["choices"]
    made = answers.check_choices(told, set(kinds))
    found = results.summarize(study, [answers.Participant("p1", choices={each.n: each for each in made})], [])
    assert [each.kind for each in found.kinds] == ["text"]
    assert found.kinds[0].same is None and "no agreement to state" in report.agreement_text(found.kinds[0])
    assert all(each.share.low is None for each in found.kinds[0].compared)


def test_the_page_of_results_is_text_alone(study: Study, tmp_path: Path) -> None:
    machine = participant(study, who="p1")
    machine.machine = studied.HOSTILE
    found = results.summarize(study, [machine, participant(study, wrong=5, who="p2")], [studied.HOSTILE])
    files = report.write(found, tmp_path)
    assert [each.name for each in files] == list(report.FILES)
    text = files[2].read_text()
    assert "<script" not in text and "\u202e" not in text and "49" not in text.split("{{7*7}}")[0][-20:]
    assert "default-src 'none'" in text and "http://" not in text and "https://" not in text
    assert 'p2</td><td colspan="2">left out: 5 of 8 attention checks are wrong' in text
    assert "Table 4, 50 participants, other people" in text and "70.0% ± 2.0%" in text
    report.write(found, tmp_path)  # in place of the first
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(report.FILES)
