import json
import time

import numpy as np
import pytest

from benchmarks.contamination.planting import changed, renumbered, reworded
from recipes.curate.config import ContaminationConfig
from recipes.curate.contamination import KINDS, Detector, confirmed, find, neighbours, statements_of, vocabulary_of
from recipes.curate.evaluation_sets import EvaluationSet, load
from recipes.curate.likeness import LONGEST, Rarity, form_of, likeness, stem, weight_of
from recipes.curate.text import words
from rollout.embedding.neighbours import Index
from rollout.problems.source import ProblemError
from rollout.seeds import seed_of

CONFIG = ContaminationConfig()
LADDER = (
    "A ladder of 13 meters leans against a vertical wall, its foot 5 meters away from it. The foot slips outwards by "
    "7 meters. How many meters does the top of the ladder slide down the wall?"
)
MARBLES = (
    "A jar has 17 red, 23 green and 31 violet marbles. Noor removes marbles one after another without looking. How "
    "many marbles must she remove to be certain of holding 6 of one colour?"
)
TRAINS = (
    "Two trains leave Porto and Lisbon towards each other at 9:40, at speeds of 84 and 96 kilometers per hour. The "
    "stations are 315 kilometers apart. After how many minutes do the locomotives pass each other?"
)
SUM = "Compute 3 + 5."
SET = EvaluationSet(
    "mine",
    "mine.jsonl",
    ("ladder", "marbles", "trains", "sum"),
    (LADDER, MARBLES, TRAINS, SUM),
    ("5", "16", "105", "8"),
)
OTHERS = tuple(
    f"{name} has {a} {thing} and buys {b} more at a price of {c} dollars. How many {thing} does {name} have?"
    for a, name in enumerate(("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn"), 11)
    for b, thing in enumerate(("stamps", "apples", "books", "kites"), 3)
    for c in (2, 7)
)  # fmt: skip


def detector(pool=OTHERS, sets=(SET,), config=CONFIG, **vectors):
    rarity = vocabulary_of(sets, config)
    rarity.count(pool)
    return Detector(sets, rarity, config, **vectors)


def kind_of(statement, problem, **changes):
    """Return what the statement is found to be of this problem: a kind, None, or "no candidate"."""
    found = {match.problem: match for match in detector(**changes).judge("row", statement)}
    return found[problem].kind if problem in found else "no candidate"


@pytest.mark.parametrize(
    ("statement", "problem", "kind"),
    [
        (LADDER, "ladder", "same"),
        (LADDER.upper().replace(".", " . "), "ladder", "same"),
        (LADDER.replace("13", "$13$").replace("7", "{7}"), "ladder", "same"),
        (LADDER.replace("13", "25").replace("5 m", "8 m").replace("7", "12"), "ladder", "renumbered"),
        (MARBLES.replace("17", "19").replace("23", "29").replace("31", "37"), "marbles", "renumbered"),
        (
            "The foot of a ladder that is 13 meters long stands 5 meters from a vertical wall against which it leans. "
            "Then it slips 7 meters outwards. By how many meters does its top slide down?",
            "ladder",
            "reworded",
        ),
        (
            "At 9:40 one train starts in Lisbon and one in Porto, 315 kilometers away. They travel towards each other "
            "with 96 and 84 kilometers per hour. How many minutes later do their locomotives meet?",
            "trains",
            "reworded",
        ),
        ("You are a careful tutor. Explain each step, and draw a picture first. " * 2 + LADDER, "ladder", "contains"),
        (LADDER.partition(" How many")[0] + " How far?", "ladder", "reworded"),
        ("A ladder leans against a wall. How long is the ladder, when its shadow is 4 meters long?", "ladder", None),
    ],
)  # fmt: skip
def test_each_kind_of_evidence(statement, problem, kind):
    assert kind_of(statement, problem) == kind


def test_an_evaluation_problem_may_be_the_longer_one():
    long = EvaluationSet(
        "long", "l", ("p",), (f"{LADDER} Afterwards {TRAINS} Give the sum of both answers.",), ("110",)
    )
    assert kind_of(LADDER, "p", sets=(long,)) == "contains"


def test_a_problem_is_found_in_a_text_of_many_others():
    lecture = " ".join(
        f"Chapter {n}. The {word} of {n + 70} chapters is called {word}ness."
        for n, word in enumerate(words(MARBLES * 6))
    )
    assert len(lecture) > 50 * len(LADDER)
    assert kind_of(f"{lecture[:5000]} {LADDER} {lecture[5000:]}", "ladder") == "contains"


def test_short_text_is_evidence_only_when_it_is_the_same():
    assert kind_of("compute $3+5$", "sum") == "same"
    for other in ("Compute 4 + 5.", "Compute 5 + 3 + 3.", "Compute 3 + 5 and explain what you do."):
        assert kind_of(other, "sum") in (None, "no candidate")


def test_what_every_second_problem_says_is_no_evidence():
    phrase = "Find the sum of all positive integers less than {} that are divisible by {}."
    other = "Find the product of all negative integers greater than {} that are multiples of {}."
    pool = [phrase.format(n, d) for n in range(50, 90) for d in range(2, 30)]
    pool += [other.format(n, d) for n in range(-90, -50) for d in range(2, 30)]
    one = EvaluationSet("mine", "m", ("p",), (phrase.format(1000, 7),), ("71071",))
    assert kind_of(phrase.format(1000, 7), "p", pool=pool, sets=(one,)) == "same"
    assert kind_of(phrase.format(60, 11), "p", pool=pool, sets=(one,)) is None
    # Where nothing else says it, the same is evidence.
    assert kind_of(MARBLES.replace("17", "18"), "marbles", pool=pool) == "reworded"
    assert (
        kind_of(MARBLES.replace("17", "18").replace("23", "41").replace("31", "53"), "marbles", pool=pool)
        == "renumbered"
    )


def test_drawings_do_not_hide_a_problem_and_do_not_make_one():
    drawing = '[asy] draw((0,0)--(%d,0)--(%d,7)--cycle); label("$A$", (0,0), SW); [/asy]'
    with_drawing = EvaluationSet(
        "mine",
        "m",
        ("ladder", "area"),
        (f"{LADDER} {drawing % (3, 4)}", f"What is the area? {drawing % (3, 4)}"),
        ("", ""),
    )
    assert kind_of(LADDER, "ladder", sets=(with_drawing,)) == "same"
    assert kind_of(f"What is the area? {drawing % (3, 4)}", "area", sets=(with_drawing,)) == "same"
    assert kind_of(f"What is the area? {drawing % (8, 9)}", "area", sets=(with_drawing,)) is None


def test_a_set_of_its_own_training_problems_drops_all_of_them():
    rows = [(str(n), statement) for n, statement in enumerate((*OTHERS, *SET.statements))]
    own = EvaluationSet("own", "o", tuple(name for name, _ in rows), tuple(text for _, text in rows), ("",) * len(rows))
    found = confirmed(find(detector([text for _, text in rows], (own,)), rows))
    assert set(found) == {name for name, _ in rows}
    assert {match.kind for match in found.values()} == {"same"}


def test_many_problems_of_one_template_are_all_found():
    """The variants of a template share every run of words, more of them than a word leads to."""
    texts = [LADDER.replace("13", str(n)).replace("5 m", f"{n + 7} m") for n in range(100, 300)]
    made = EvaluationSet("made", "m", tuple(map(str, range(200))), tuple(texts), ("",) * 200)
    judged = detector(sets=(made,))
    assert all(judged.judge("row", text)[0].kind == "same" for text in texts)
    assert judged.judge("row", LADDER)[0].kind in ("renumbered", "reworded")


def test_nothing_is_found_in_nothing():
    empty = EvaluationSet("empty", "e", (), (), ())
    assert list(find(detector(sets=()), [("a", LADDER)])) == []
    assert list(find(detector(sets=(empty,)), [("a", LADDER)])) == []
    assert list(find(detector(pool=()), [])) == []
    assert [match.kind for match in find(detector(pool=()), [("a", LADDER), ("b", ""), ("c", "?!")])] == ["same"]


def test_signs_alone_are_compared_as_they_are():
    signs = EvaluationSet("signs", "s", ("a", "b"), ("∃∀ (?)", "∀∃ (?)"), ("", ""))
    found = {match.problem: match.kind for match in detector(sets=(signs,)).judge("row", "∃∀  (?)")}
    assert found.get("a") == "same"
    assert found.get("b") is None


def hashed(texts, dimension=64):
    """Return bags of hashed words, of length 1: an encoder without a model."""
    found = np.zeros((len(texts), dimension), np.float32)
    for row, text in enumerate(texts):
        for word in set(words(text)):
            found[row] += np.random.default_rng(seed_of(word)).standard_normal(dimension).astype(np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-8)


def test_what_is_much_alike_and_of_no_template_is_not_called_short():
    """GSM8K's own, of its training and its test set: another name stands four times."""
    text = (
        "{0} bought stamps at the post office. Some of the stamps had a snowflake design, some had a truck design, and "
        "some had a rose design. {0} bought {1} snowflake stamps. {3} bought {2} more truck stamps than snowflake "
        "stamps, and {4} fewer rose stamps than truck stamps. How many stamps did {0} buy in all?"
    )
    one, other = text.format("Bella", 11, 9, "She", 13), text.format("Max", 16, 3, "He", 9)
    (match,) = detector(sets=(EvaluationSet("mine", "mine.jsonl", ("stamps",), (other,), ("45",)),)).judge("row", one)
    assert match.kind is None
    assert match.reason.startswith("much alike, with other numbers")


def test_neighbours_are_candidates_where_words_lead_nowhere():
    """A translation shares no word: only its vector can tell."""
    foreign = "Eine Leiter lehnt an einer Wand und rutscht ab."
    vectors = hashed(SET.statements)
    one = detector(index=Index(vectors), threshold=0.5)
    (match,) = (m for m in find(one, [("a", foreign)], vectors[:1]) if m.problem == "ladder")
    assert match.neighbour
    assert not match.lexical
    assert match.kind is None
    assert match.reason == "other words and other numbers"
    assert match.cosine == pytest.approx(1, abs=1e-5)
    assert list(find(detector(), [("a", foreign)])) == []


def test_a_near_vector_adds_to_the_evidence_and_a_far_one_takes_nothing_away():
    statement = (
        "Noor takes marbles from a jar of 17 red, 23 green, 31 violet. What number makes 6 of one colour certain?"
    )
    position = SET.ids.index("marbles")
    one = detector(index=Index(hashed(SET.statements)), threshold=0.4)
    alone, far, near = (
        next(m for m in one.judge("row", statement, given) if m.problem == "marbles").overlap
        for given in ((), ((position, -0.2),), ((position, 0.9),))
    )
    assert alone == far < near


def test_vectors_are_looked_up_in_blocks_and_stay_with_their_rows():
    statements = [*OTHERS, *SET.statements] * 50
    rows = [(str(n), statement) for n, statement in enumerate(statements)]
    index = Index(hashed(SET.statements))
    found = list(find(detector(index=index, threshold=0.99), rows, hashed(statements)))
    near = {match.row for match in found if match.neighbour}
    assert near == {str(n) for n, statement in enumerate(statements) if statement in SET.statements}
    assert neighbours(index, hashed([LADDER]), 2)[0][0] == (0, pytest.approx(1, abs=1e-5))


def test_vectors_and_problems_go_together():
    with pytest.raises(ValueError, match="2 vectors for 4 evaluation problems: one for each, in order"):
        detector(index=Index(hashed([LADDER, TRAINS])))
    with pytest.raises(ValueError, match="shorter"):
        list(find(detector(index=Index(hashed(SET.statements))), [("a", LADDER), ("b", SUM)], hashed([LADDER])))


def test_planted_problems_are_found_and_others_are_not():
    """A benchmark in miniature: three levels, with neighbours and without."""
    import random

    planted = {}
    for name, statement in zip(SET.ids[:3], SET.statements[:3], strict=True):
        for seed in range(4):
            planted[f"same-{name}-{seed}"] = statement
            planted[f"renumbered-{name}-{seed}"] = renumbered(statement, random.Random(seed))
            planted[f"reworded-{name}-{seed}"] = reworded(statement, random.Random(seed))
    rows = [*((f"own-{n}", text) for n, text in enumerate(OTHERS)), *planted.items()]
    one = detector([text for _, text in rows], index=Index(hashed(SET.statements)), threshold=0.6)
    for vectors in (None, hashed([text for _, text in rows])):
        found = confirmed(find(one, rows, vectors))
        assert set(found) == set(planted)
        assert all(match.problem == row.split("-")[1] for row, match in found.items())
        right = [row.split("-")[0] == match.kind for row, match in found.items()]
        assert sum(right) / len(right) > 0.95


def test_the_strongest_evidence_counts():
    twice = EvaluationSet(
        "twice",
        "t",
        ("far", "near"),
        (LADDER.replace("13", "25").replace("5 m", "8 m").replace("7", "12"), LADDER),
        ("", ""),
    )
    found = confirmed(find(detector(sets=(twice,)), [("a", LADDER)]))
    assert (found["a"].problem, found["a"].kind) == ("near", "same")
    assert KINDS[0] == "same"


def test_counts_of_parts_merge_and_the_order_of_rows_does_not_matter():
    whole, left, right = (vocabulary_of((SET,), CONFIG) for _ in range(3))
    whole.count((*OTHERS, LADDER))
    left.count((LADDER, *OTHERS[:7]))
    right.count(OTHERS[7:])
    left.merge(right)
    assert (left.problems, left.counts) == (whole.problems, whole.counts)
    assert left.weights() == whole.weights()
    assert all(0 <= weight <= 1 for weight in whole.weights().values())


def test_memory_is_bounded_by_the_evaluation_sets():
    rarity = vocabulary_of((SET,), CONFIG)
    size = len(rarity.counts)
    rarity.count(f"word{n} other{n} third{n} {n}" for n in range(500))
    assert len(rarity.counts) == size


def test_likeness_against_sums_written_out():
    one, other = form_of("red fox jumps over 12 logs", 3), form_of("red fox sleeps under 12 and 9 logs", 3)
    weights = {
        "red": 0.5,
        "fox": 1.0,
        "log": 0.25,
        "12": 0.75,
        "9": 0.5,
        "jump": 1.0,
        "sleep": 1.0,
        "over": 0,
        "under": 0,
    }
    found = likeness(one, weight_of(one, weights), other, weight_of(other, weights), weights)
    assert one.words == {"red", "fox", "jump", "log"}
    assert found.words == pytest.approx(1.75 / 3.75)
    assert found.numbers == pytest.approx(0.75 / 1.25)
    assert found.counted == pytest.approx(0.75)
    assert found.others == pytest.approx(0.5)
    assert found.runs == 0
    assert [stem(word) for word in ("tickets", "painted", "sing", "\\cos", "is")] == [
        "ticket",
        "paint",
        "sing",
        "\\cos",
        "is",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[asy]" * 100_000,
        "\\text{" * 100_000,
        "1," * 200_000,
        "A " * 200_000,
        "\\frac" * 100_000,
        "x" * 1_000_000,
        " ".join(f"{n} leans against" for n in range(100_000)),
        "'" * 500_000,
    ],
)
def test_hostile_text_takes_no_more_time_than_its_first_characters(text):
    one = detector()
    start = time.process_time()
    one.judge("row", text)
    assert time.process_time() - start < 2  # CPU time; 0.05 s are usual
    assert len(form_of(text, 3).canonical) <= 3 * LONGEST


def test_plantings_change_what_they_say():
    import random

    for seed in range(10):
        other = renumbered(LADDER, random.Random(seed))
        assert words(other) != words(LADDER)
        assert form_of(other, 3).template == form_of(LADDER, 3).template
        assert form_of(other, 3).numbers != form_of(LADDER, 3).numbers
        assert 0.1 < changed(TRAINS, reworded(TRAINS, random.Random(seed))) < 0.45


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_sets_from_files(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setenv("K15_DATA", str(tmp_path))
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TRAINS}]
    write(
        tmp_path / "a.jsonl",
        [{"id": "x", "problem": LADDER, "answer": 5}, {"Question": MARBLES, "solution": "16"}, {"messages": talk}],
    )
    pq.write_table(pa.Table.from_pylist([{"prompt": talk, "answer": "105", "more": 1}]), tmp_path / "b.parquet")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "a.jsonl", [{"problem": SUM}])
    first, second, third = load(["a.jsonl", str(tmp_path / "b.parquet"), str(tmp_path / "sub" / "a.jsonl"), "a.jsonl"])
    assert first == EvaluationSet(
        "a", str(tmp_path / "a.jsonl"), ("x", "a-2", "a-3"), (LADDER, MARBLES, TRAINS), ("5", "16", "")
    )
    assert (second.ids, second.statements, second.answers) == (("b-1",), (TRAINS,), ("105",))
    assert third.name == str(tmp_path / "sub" / "a.jsonl")
    assert statements_of([first, third])[3] == SUM


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("math50", "evaluation set 'math50': neither a benchmark nor a file; did you mean 'math500'?"),
        ("qqqqq", "evaluation set 'qqqqq': neither a benchmark nor a file; benchmarks: agnews"),
        ("needle", "evaluation set 'needle': its problems are generated anew each time"),
        ("gone.jsonl", "no problem file 'gone.jsonl' in"),
        ("empty.jsonl", "no problems in it; an evaluation set has at least one"),
        ("blank.jsonl", "blank.jsonl:2: problem is blank"),
        ("other.jsonl", "other.jsonl:1: no statement: expected a field problem, question, prompt or messages"),
        ("talk.jsonl", "talk.jsonl:1: messages: nobody asks"),
        ("broken.parquet", "broken.parquet"),
    ],
)
def test_sets_that_cannot_be_had(tmp_path, monkeypatch, name, told):
    monkeypatch.setenv("K15_DATA", str(tmp_path))
    write(tmp_path / "empty.jsonl", [])
    write(tmp_path / "blank.jsonl", [{"problem": SUM}, {"problem": "  "}])
    write(tmp_path / "other.jsonl", [{"text": SUM}])
    write(tmp_path / "talk.jsonl", [{"messages": [{"role": "assistant", "content": "Hello"}]}])
    (tmp_path / "broken.parquet").write_text("nothing")
    with pytest.raises(ProblemError) as error:
        load([name])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_benchmarks_by_name_give_what_training_data_has(tmp_path, monkeypatch):
    """A program's question is dressed up for the model; the statement is what is looked for. Rows that are not the
    benchmark's are left out."""
    monkeypatch.setenv("K15_DATA", str(tmp_path))
    write(tmp_path / "math500.jsonl", [{"id": "m1", "problem": LADDER, "answer": "5"}])
    row = {
        "problem": "Write a function to add.",
        "answer": "def add(a, b): return a + b",
        "test_list": ["assert add(1, 2) == 3"],
    }
    write(tmp_path / "mbpp.jsonl", [{**row, "id": "a", "split": "test"}, {**row, "id": "b", "split": "train"}])
    maths, code = load(["MATH-500", "mbpp"])
    assert (maths.name, maths.ids, maths.statements, maths.answers) == ("math500", ("m1",), (LADDER,), ("5",))
    assert (code.ids, code.statements) == (("a",), ("Write a function to add.",))


def test_rarity_has_one_key_for_each_thing():
    rarity = Rarity(("a",), 3)
    rarity.count(["no letter a alone"])
    assert rarity.counts == {"a": 0}
