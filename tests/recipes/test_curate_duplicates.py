"""Which problems are the same, which share a template, and which do not: rows made by hand for each rule."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.curate.duplicates import DISAGREE, EXACT, NEAR, Drop, exact, near, same_answer, stricter
from recipes.curate.masks import in_digits, masked, names, numbers
from recipes.curate.prints import Prints, concatenated, finalised, hashed, prints, signatures
from recipes.curate.reworded import REWORDED, by_embedding
from recipes.curate.stars import bands, stars
from recipes.curate.templates import TEMPLATE, Templates, templates
from recipes.curate.text import canonical, words

LEAST, NGRAM, PERMUTATIONS = 0.6, 3, 128
TOM = "Tom has 12 apples in a basket. He gives 5 apples to each of his 2 friends. How many apples does Tom have left?"
MAGIC = r"Find the least positive integer $n$ such that $\frac{1}{2} n^2 \le 30$ and $n$ is a multiple of $7$."


def printed(statements: list[str]) -> Prints:
    return prints(statements, ngram=NGRAM, permutations=PERMUTATIONS)


def all_of(statements: list[str]) -> np.ndarray:
    return np.arange(len(statements))


def exactly(statements: list[str], answers: list[str]) -> list[Drop]:
    return exact(printed(statements), statements, answers, all_of(statements))


def nearly(statements: list[str], answers: list[str], least: float = LEAST) -> list[Drop]:
    return near(printed(statements), statements, answers, all_of(statements), least=least, ngram=NGRAM)


def capped(statements: list[str], answers: list[str], cap: int | None = 2, seed: int = 0) -> Templates:
    kept = printed(statements)
    rows = all_of(statements)
    return templates(kept, statements, answers, rows, cap=cap, least=stricter(LEAST), ngram=NGRAM, seed=seed)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(MAGIC, id="word-for-word"),
        pytest.param("  " + MAGIC.replace(" ", "  \n") + " ", id="white-space"),
        pytest.param(MAGIC.replace("$", "").replace(".", ",;?"), id="punctuation"),
        pytest.param(MAGIC.replace(r"\frac", r"\dfrac").replace(r"\le", r"\leq"), id="latex-spelling"),
        pytest.param(MAGIC.replace("$n$", r"$\,n^{}_{}$").replace("Find", r"\text{Find}"), id="latex-nothing"),
        pytest.param(MAGIC.upper().replace(r"\FRAC", r"\frac").replace(r"\LE", r"\le"), id="case"),
    ],
)
def test_of_the_same_text_the_first_is_kept(other: str) -> None:
    assert exactly([TOM, MAGIC, other], ["2", "7", "7"]) == [Drop(2, EXACT, "the same text", 1)]


def test_answers_spelled_in_two_ways_are_one() -> None:
    assert [drop.reason for drop in exactly([MAGIC, MAGIC], ["1/2", r"\frac12"])] == [EXACT]
    assert same_answer("0.5", r"\frac{1}{2}")
    assert not same_answer(".5", "5")
    assert not same_answer("(1,2)", "[1,2]")


def test_all_of_a_text_with_two_answers_go() -> None:
    drops = exactly([MAGIC, TOM, MAGIC, MAGIC + " "], ["7", "2", "7", "14"])
    assert [(drop.row, drop.reason, drop.other) for drop in drops] == [
        (0, DISAGREE, 3),
        (2, DISAGREE, 3),
        (3, DISAGREE, 0),
    ]
    assert drops[0].detail == "'14', '7'"


def test_an_answer_that_is_missing_contradicts_none_and_hides_no_contradiction() -> None:
    assert exactly([TOM, TOM.upper(), TOM], ["", "2", " "]) == [
        Drop(1, EXACT, "the same text", 0),
        Drop(2, EXACT, "the same text", 0),
    ]
    assert {drop.reason for drop in exactly([TOM, TOM, TOM], ["", "2", "3"])} == {DISAGREE}
    assert exactly(["Sort (a, b), c.", "Sort a, (b, c)."], ["", ""]) == []


def test_texts_that_differ_in_brackets_may_be_two_problems() -> None:
    statements = [r"Compute $(2+3) \cdot 4$.", r"Compute $2+(3 \cdot 4)$.", r"Compute $\left(2+3\right)\cdot 4$"]
    assert canonical(statements[0]) == canonical(statements[1])
    assert [(drop.row, drop.other) for drop in exactly(statements, ["20", "14", "20"])] == [(2, 0)]


def test_arrow_columns_do_as_well() -> None:
    statements, answers = pa.array([TOM, MAGIC, MAGIC]), pa.array(["2", "7", "7"])
    kept = prints(statements, ngram=NGRAM, permutations=PERMUTATIONS)
    assert [drop.row for drop in exact(kept, statements, answers, np.arange(3))] == [2]
    assert near(kept, statements, answers, np.arange(2), least=LEAST, ngram=NGRAM) == []


RENAMED = TOM.replace("Tom", "Maria").replace("He ", "She ").replace("his", "her")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(RENAMED, id="renamed"),
        pytest.param(TOM.replace("He gives", "Tom gives"), id="name-for-pronoun"),
        pytest.param(TOM.replace("12", "twelve").replace("5", "five"), id="numbers-in-words"),
        pytest.param(TOM.replace("in a basket", "in his basket"), id="one-word"),
        pytest.param(TOM + " Write down your answer.", id="appended"),
        pytest.param(
            "Last week it was very hot and the whole class of Ms. Lee went to pick fruit on a farm. " + TOM,
            id="told-more",
        ),
    ],
)
def test_near_duplicates_have_the_same_numbers_and_answer(other: str) -> None:
    drops = nearly([MAGIC, TOM, other], ["7", "2", "2.0"])
    assert [(drop.row, drop.reason, drop.other) for drop in drops] == [(2, NEAR, 1)]


def test_a_reordered_sentence_is_a_near_duplicate() -> None:
    one = (
        "A bakery sells 30 loaves of bread every morning. In the afternoon the bakery sells 18 rolls to the school. "
        "A loaf costs 4 dollars and a roll costs 1 dollar. How much does the bakery earn in 6 days?"
    )
    first, second, *rest = one.split(". ")
    other = ". ".join([second, first, *rest])
    assert [drop.row for drop in nearly([one, other], ["828", "828"])] == [1]


@pytest.mark.parametrize(
    ("other", "answer"),
    [
        pytest.param(TOM.replace("5", "4"), "4", id="renumbered"),
        pytest.param(TOM.replace("12", "14").replace("5", "6"), "2", id="renumbered-same-answer"),
        pytest.param(RENAMED.replace("12", "13"), "3", id="renamed-and-renumbered"),
        pytest.param(TOM.replace("does Tom have left", "do his friends have"), "10", id="other-question"),
        pytest.param(TOM.replace(" How", " He eats one of them. How"), "1", id="one-sentence-more"),
        pytest.param(TOM, "3", id="other-answer"),
        pytest.param(MAGIC, "2", id="other-problem"),
    ],
)
def test_what_differs_in_numbers_or_answer_is_no_duplicate(other: str, answer: str) -> None:
    assert nearly([TOM, other], ["2", answer]) == []


def test_a_number_that_only_one_text_has_asks_for_more_words_in_common() -> None:
    noted = TOM + " (p. 3)"
    assert [drop.row for drop in nearly([TOM, noted], ["2", "2"])] == [1]
    assert nearly([TOM, TOM.replace("basket", "basket of 40 cm that he got for his 9th birthday")], ["2", "2"]) == []


def test_without_numbers_more_words_are_asked_for() -> None:
    shape = (
        "For a constant $c$ in {} coordinates, find the shape described by $\\theta = c$. (A) Line (B) Plane (C) Cone"
    )
    statements = [shape.format("spherical"), shape.format("cylindrical")]
    assert nearly(statements, ["C", "C"], least=0.7) == []
    assert [drop.row for drop in nearly(statements, ["C", "C"], least=0.4)] == [1]


def test_names_are_capitals_that_no_sentence_begins_with() -> None:
    assert names("Tom met Ann. How many friends did they meet? Students came.") == {"tom", "ann", "students"}
    assert names("Students met. Some students left.") == names(r"Let $\Delta ABC$ and $X$ be in \Alpha.") == frozenset()
    assert names("Der Mann kauft Brot, Milch, Butter, Honig, Eier, Salz und Mehl.") == frozenset()
    assert masked("Ann's cat saw her.", words("Ann's cat saw her.")) == ["his", "cat", "saw", "his"]


def test_numbers_have_one_spelling() -> None:
    assert list(in_digits(["twenty", "-", "one", "or", "two", "hundred", "five"])) == ["21", "or", "200", "5"]
    assert numbers(["27.0", "1", "3", "x", "0.50"]) == ["0.5", "27", "3"]


def test_signatures_are_those_of_datasketch() -> None:
    texts = [[3, -7, 11, 2**62], [5, 5, 5], [1, 2, 3, 4, 5, 6, 7, 8]]
    seeds = MinHash(64, hashfunc=int).permutations
    found = signatures(texts, 3, seeds)
    for text, signature in zip(texts, found, strict=True):
        theirs = MinHash(64, hashfunc=int)
        theirs.update_batch(hashed(np.array(text, np.int64).astype(np.uint64), 3).tolist())
        assert np.array_equal(signature, theirs.hashvalues)
    assert finalised(np.array([1], np.uint32))[0] == 0x514E28B7  # of MurmurHash3's reference implementation


def test_signatures_estimate_the_jaccard_similarity() -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(2**62, size=4000)
    shares = []
    for _ in range(40):  # runs of one token: sets of 150 that share 75 have a similarity of 1/3
        some = rng.permutation(pool)[:225]
        one, other = signatures([some[:150].tolist(), some[75:].tolist()], 1, MinHash(PERMUTATIONS).permutations)
        shares.append((one == other).mean())
    assert np.mean(shares) == pytest.approx(1 / 3, abs=3 * (2 / 9 / PERMUTATIONS / 40) ** 0.5)


def test_shards_put_together_are_the_whole() -> None:
    statements = [TOM, MAGIC, "", "x", RENAMED, "Compute $2 + 3$."] * 100
    whole, parts = printed(statements), [printed(statements[start : start + 77]) for start in range(0, 600, 77)]
    together = concatenated(parts)
    for name in ("canonical", "template", "numbers", "masked", "signatures"):
        assert np.array_equal(getattr(whole, name), getattr(together, name))
    assert whole.signatures.dtype == np.uint32
    assert whole.signatures.nbytes == 600 * PERMUTATIONS * 4
    assert len(printed([])) == 0


def test_bands_find_what_they_should() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(2**32, size=(2000, PERMUTATIONS), dtype=np.uint32)
    for similarity, least, most in ((0.8, 0.95, 1.0), (0.9, 0.998, 1.0), (0.3, 0.0, 0.08)):
        kept = rng.random(base.shape) < similarity
        other = np.where(kept, base, rng.integers(2**32, size=base.shape, dtype=np.uint32))
        found = np.zeros(len(base), bool)
        for one, two in zip(bands(base, 0.8), bands(other, 0.8), strict=True):
            found |= one == two
        assert least <= found.mean() <= most


def test_stars_do_not_chain() -> None:
    """Each row is like the next one: a chain would be one cluster."""
    found = stars(9, [np.zeros(9, np.uint64)], lambda row, others: int(others[-1]) if row - others[-1] <= 1 else None)
    assert found.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8]


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), max_size=12))
def test_stars_are_those_of_comparing_all(keys: list[list[int]]) -> None:
    n = len(keys)
    columns = np.array(keys, np.uint64).reshape(n, 3)

    def alike(row: int, others: np.ndarray) -> int | None:
        return next((int(other) for other in others if (columns[row] == columns[other]).sum() >= 2), None)

    slow = list(range(n))
    for row in range(n):
        leaders = [other for other in range(row) if slow[other] == other]
        slow[row] = next((one for one in leaders if alike(row, np.array([one])) is not None), row)
    assert stars(n, columns.T, alike).tolist() == slow


def test_what_is_said_in_other_words_is_found_by_its_embedding() -> None:
    told = "Tom puts 12 apples in a basket. Then he gives 5 apples to each of his 2 friends. How many are left for him?"
    renumbered = told.replace("12", "13")
    statements, answers = [MAGIC, TOM, told, renumbered], ["7", "2", "2", "2"]
    vectors = np.array([[1, 0], [0, 1], [0.1, 0.995], [0.05, 0.999]], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def found(cosine: float, confirmed: float) -> list[tuple[int, str, int | None]]:
        drops = by_embedding(
            printed(statements),
            vectors,
            statements,
            answers,
            all_of(statements),
            cosine=cosine,
            neighbours=3,
            confirmed=confirmed,
            ngram=NGRAM,
        )
        return [(drop.row, drop.reason, drop.other) for drop in drops]

    assert nearly(statements, answers) == []
    assert found(0.9, 0.4) == [(2, REWORDED, 1)]
    assert found(0.999, 0.4) == found(0.9, 0.9) == []


def test_of_a_template_some_are_kept_spread_over_its_answers() -> None:
    statements = [f"Compute ${a} + {b}$." for a, b in ((2, 3), (40, 60), (1, 1), (7, 2), (500, 500), (20, 1))]
    found = capped(
        [*statements, TOM, RENAMED.replace("12", "29")], ["5", "100", "2", "9", "1000", "21", "2", "19"], cap=3
    )
    assert found.cluster.tolist() == [0, 0, 0, 0, 0, 0, 6, 6]
    assert found.size.tolist() == [6, 6, 6, 6, 6, 6, 2, 2]
    assert len(found.drops) == 3
    assert all(drop.reason == TEMPLATE and drop.other == 0 for drop in found.drops)
    assert found.drops[0].detail == "3 of 6 problems are kept"
    kept = {0, 1, 2, 3, 4, 5} - {drop.row for drop in found.drops}
    assert 0 in kept
    assert len(kept & {2, 3}) == len(kept & {1, 4}) == 1  # of 2, 9, 21, 100, 1000 a small and a large one
    assert capped(statements, ["1"] * 6, cap=None).drops == []
    assert len(capped(statements, ["1"] * 6, cap=1).drops) == 5


def test_nearly_equal_templates_are_one_and_texts_without_numbers_have_none() -> None:
    shelves = (
        "A library has {} shelves and every one of the shelves holds exactly {} books about animals and plants. On {} "
        "the librarian sorts all of them by colour. How many books does the library have in total?"
    )
    statements = [shelves.format(7, 30, "Monday"), shelves.format(9, 45, "days off")]
    assert capped(statements, ["210", "405"]).size.tolist() == [2, 2]
    assert capped([text.replace("7", "seven") for text in statements], ["210", "405"]).size.tolist() == [2, 2]
    assert capped(["Prove that he is right.", "Prove that she is right."], ["a", "b"]).size.tolist() == [1, 1]


def test_templates_do_not_chain() -> None:
    """Each text shares most words with the next one, the first and the last share hardly any."""
    pool = [f"w{chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(120)]
    statements = [" ".join([*pool[at : at + 50], str(at), "?"]) for at in range(0, 60, 2)]
    found = capped(statements, ["1"] * len(statements), cap=None)
    for row, leader in enumerate(found.cluster.tolist()):
        assert abs(row - leader) * 2 <= 12
    assert len(set(found.cluster.tolist())) > 3


BODIES = (
    "{who} has {a} marbles in a bag and finds {b} more of them on the way to school. How many marbles are in the bag?",
    "{who} drives {a} miles to work and {b} miles back on a longer road. How many miles are that in all every day?",
    "A rope of {a} meters is cut by {who} into pieces of {b} meters each. How many whole pieces does the rope give?",
    "Compute ${a} + {b}$.",
)
ROW = st.builds(
    lambda body, who, a, b: (BODIES[body].format(who=who, a=a, b=b), str(a + body * b)),
    st.integers(0, len(BODIES) - 1),
    st.sampled_from(["Tom", "Ann", "Jamal"]),
    st.integers(2, 5),
    st.integers(6, 8),
)


def curated(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what three stages leave."""
    statements, answers = [row[0] for row in rows], [row[1] for row in rows]
    kept, left = printed(statements), np.arange(len(rows))
    for drops in (
        lambda left: exact(kept, statements, answers, left),
        lambda left: near(kept, statements, answers, left, least=LEAST, ngram=NGRAM),
        lambda left: (
            templates(kept, statements, answers, left, cap=3, least=stricter(LEAST), ngram=NGRAM, seed=0).drops
        ),
    ):
        gone = {drop.row for drop in drops(left)}
        left = np.array([row for row in left.tolist() if row not in gone], np.int64)
    return [rows[row] for row in left.tolist()]


@settings(deadline=None, max_examples=40)
@given(st.lists(ROW, max_size=30))
def test_what_is_kept_is_kept_again(rows: list[tuple[str, str]]) -> None:
    once = curated(rows)
    assert curated(once) == once


@settings(deadline=None, max_examples=40)
@given(st.lists(ROW, max_size=24), st.randoms(use_true_random=False))
def test_the_order_only_says_which_of_the_same_is_kept(rows: list[tuple[str, str]], random: object) -> None:
    def problems(rows: list[tuple[str, str]]) -> list[tuple[int, ...]]:
        """Return which problems are left of the first two stages: body and numbers, whoever it is about."""
        statements, answers = [row[0] for row in rows], [row[1] for row in rows]
        gone = {drop.row for drop in exactly(statements, answers)}
        left = np.array([row for row in range(len(rows)) if row not in gone], np.int64)
        gone |= {drop.row for drop in near(printed(statements), statements, answers, left, least=LEAST, ngram=NGRAM)}
        kinds = [tuple(masked(text, words(text))) for text in statements]
        for drop in nearly(statements, answers):
            assert drop.other is not None
            assert drop.other < drop.row
            assert kinds[drop.other] == kinds[drop.row]
        return sorted(hash(kinds[row]) for row in range(len(rows)) if row not in gone)  # type: ignore[misc]

    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert problems(rows) == problems(shuffled)
