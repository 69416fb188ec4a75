"""evals.report.run: complete, offline, and deaf to what models write."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser_kit import PROBE, body_of, drawn, needs_browser, noted
from paths import ROOT
from synthetic_run import HOSTILE, decode, evaluate, make_advantages, make_group, make_run, score_group

from evals.report.page import embed, render, script_of
from evals.report.page.choice import choose
from evals.report.run import ReportError, build_report
from evals.report.run.build import metrics, payload, verdict
from evals.report.run.data import RunData, read_run
from evals.report.run.figures import sections, smooth
from evals.report.run.samples import Candidate, load_samples
from recipes.commands.cli import main
from rl.record.log import MetricsLog, read_metrics
from rl.record.metrics import unknown
from rl.record.rollout_store import to_table, write_rollouts


class Page(HTMLParser):
    """The page's elements and the text of its scripts, as a browser's tokenizer splits them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.raw.append((str(self.tags[-1][1].get("id", self.tags[-1][0])), data))


def data_of(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found.group(1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo", iterations=12, groups=6)


def test_report_of_a_finished_run(run: Path) -> None:
    path = build_report(run)
    assert path == run / "report.html"
    assert path.stat().st_size < 1_000_000
    data = data_of(path)
    assert data["recipe"] == "quickstart"
    assert data["model"] == "Llama from scratch, 4 layers, width 192"
    assert data["state"] == "12 iterations, finished"
    assert data["verdict"].startswith("Held-out accuracy rose by ")
    assert data["verdict"].endswith("do not overlap.")
    assert data["totals"]["rollouts"] == data["rollouts_total"] == 12 * 6 * 4
    titles = [panel["title"] for section in data["sections"] for panel in section["panels"]]
    expected = ["Accuracy", "Response length", "Reward and its parts", "Log-ratio", "Throughput", "Time per phase"]
    assert set(expected) <= set(titles)
    assert {"Loss", "Held back", "Trained or left out", "Engines"} <= set(titles)
    assert {row["name"] for row in data["metrics"]} == {*read_metrics(run)[-1]} - {"iteration"}
    assert all(row["meaning"] and row["low"] <= row["last"] <= row["high"] for row in data["metrics"])
    accuracy = data["sections"][0]["panels"][0]
    held_out = next(s for s in accuracy["series"] if s["name"].startswith("held-out (95"))
    assert held_out["x"] == [0, 10, 12]
    assert all(low <= y <= high for low, y, high in zip(held_out["low"], held_out["y"], held_out["high"], strict=True))


def test_every_metric_that_a_chart_draws_is_in_the_table(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, column = set(), RunData.column
    monkeypatch.setattr(RunData, "column", lambda self, key: drawn.add(key) or column(self, key))
    sections(read_run(run))
    assert unknown(drawn) == []


def test_page_loads_nothing_and_allows_one_script_and_one_style_by_hash(run: Path) -> None:
    text = build_report(run).read_text("utf-8")
    page = Page(text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "https://" not in text
    assert not [a for _, attrs in page.tags for a in attrs if a == "src" or a.startswith("on") or a == "style"]
    meta = next(attrs for tag, attrs in page.tags if tag == "meta" and attrs.get("http-equiv"))
    policy = str(meta["content"])
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    raw = dict(page.raw)
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(raw[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for file in (ROOT / "evals" / "report").rglob("*.js"):
        code = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every field that a model or a data set can reach holds the hostile string."""
    root = make_run(tmp_path_factory.mktemp("runs") / "bad<b>", iterations=1, groups=1, finished=False)
    group = make_group(1, 0, np.random.default_rng(0), 0.5)
    problem = replace(group.problem, id=HOSTILE, prompt=HOSTILE, answer=HOSTILE, source=HOSTILE)
    scored = score_group(replace(group, problem=problem))
    bad = tuple(
        replace(r, score=r.score and replace(r.score, reason=HOSTILE, extracted=HOSTILE)) for r in scored.group.rollouts
    )
    scored = replace(scored, group=scored.group.with_rollouts(bad))
    write_rollouts(
        root, 1, to_table(1, [scored], make_advantages([scored]), 0.2, lambda _, ids: HOSTILE if ids else "")
    )
    (root / "config.yaml").write_text(f"recipe: {json.dumps('</script><b>')}\nmodel: {{base: {{path: '<i>x'}}}}\n")
    (root / "run.json").write_text(json.dumps({"recipe": "</script><script>", "</style>": "<x>"}))
    return root


def test_hostile_output_stays_inert(hostile: Path) -> None:
    path = build_report(hostile)
    text = path.read_text("utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "i", "x")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200b\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    rows = [row for row in data_of(path)["rollouts"] if row["iteration"] == 1]
    assert len(rows) == 4
    for row in rows:  # nothing is lost either
        assert row["prompt"].startswith("</script><script>document.title='pwned'")
        assert "‹U+001B›[31mred" in row["prompt"]
        assert "‹U+202E›gnp.exe" in row["prompt"]
        assert "".join(s["text"] for s in row["segments"]) == row["prompt"]


@needs_browser
def test_browser_draws_the_page_and_runs_nothing_hostile(hostile: Path, tmp_path: Path) -> None:
    """What the browser makes of it: the script ran under its policy, the hostile text is text."""
    document = drawn(build_report(hostile), tmp_path)
    assert "<title>bad&lt;b&gt; · k15</title>" in document
    assert "pwned</title>" not in document
    body = body_of(document)
    assert "<svg" in body
    assert 'class="row"' in body
    assert "&lt;/script&gt;&lt;script&gt;document.title" in body
    assert "<img" not in body


USER = """
const rows = () => [...document.querySelectorAll("tr.row")];
const cells = (i) => rows().map((row) => row.children[i].textContent);
const press = (text) => [...document.querySelectorAll("button")].find((b) => b.textContent.startsWith(text)).click();
const note = (name, value) => { document.body.dataset[name] = JSON.stringify(value); };
const found = () => document.querySelector("[role=status]").textContent;
note("first", rows().length);
press("Show more");
note("more", rows().length);
rows()[0].click();
note("unfolded", document.querySelector("tr.detail").textContent.includes("carried loss"));
press("Show more");
note("kept", document.querySelectorAll("tr.detail").length);
press("Iteration"); press("Iteration");
note("newest", cells(1).slice(0, 3));
press("wrong");
note("outcomes", [...new Set(cells(3))]);
const search = document.querySelector("input[type=search]");
search.value = "no such text"; search.dispatchEvent(new Event("input"));
note("nothing", found());
search.value = "what is"; search.dispatchEvent(new Event("input"));
note("all", found());
note("metrics", document.querySelectorAll("details.fold tbody tr").length);
"""


@needs_browser
def test_a_reader_sorts_filters_searches_and_unfolds(run: Path, tmp_path: Path) -> None:
    page, data = tmp_path / "page.html", payload(read_run(run), load_samples(run))
    page.write_text(render("t", data, PROBE + script_of("evals.report.run", "page.js") + USER, "rollouts"), "utf-8")
    seen = {name: json.loads(value) for name, value in noted(drawn(page, tmp_path / "profile")).items()}
    assert (seen["first"], seen["more"], seen["unfolded"], seen["kept"]) == (25, 50, True, 1)
    assert seen["newest"] == ["11", "11", "11"]
    assert seen["outcomes"] == ["wrong"]
    assert seen["nothing"] == "0 of 0 shown"
    wrong = sum(row["outcome"] == "wrong" for row in data["rollouts"])
    assert seen["all"] == f"25 of {wrong} shown"
    assert seen["metrics"] == len(data["metrics"])


def test_embedded_json_has_no_markup_and_comes_back() -> None:
    value = {"<k>": ["</script><!--", "a & b 'c'", 1 / 3, float("nan"), None, True, 7]}
    text = embed(value)
    assert not set("<>&'") & set(text)
    assert json.loads(text) == {"<k>": ["</script><!--", "a & b 'c'", 0.333333, None, None, True, 7]}


def test_unfinished_run_with_a_row_in_flight(tmp_path: Path) -> None:
    root = make_run(tmp_path / "live", iterations=3, groups=2, finished=False)
    (root / "config.yaml").write_text("iterations: 40\n")
    with (root / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "acc')
    data = data_of(build_report(root))
    assert data["state"] == "3 of 40 iterations, not finished"
    assert data["verdict"].startswith("Held-out accuracy ")
    assert "nothing to compare it with yet" in data["verdict"]


def test_run_without_evaluations_rollouts_or_rows(tmp_path: Path) -> None:
    MetricsLog(tmp_path).close()
    data = data_of(build_report(tmp_path))
    assert data["sections"] == []
    assert data["rollouts"] == []
    assert data["verdict"] == "No held-out evaluation yet."


def test_old_rows_without_today_s_metrics_still_draw(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for i in range(3):
        log.write(i, {"accuracy": 0.1 * i} if i != 1 else {})
    log.close()
    assert [item["name"] for item in metrics(read_run(tmp_path))] == ["nonfinite", "accuracy"]
    (section,) = sections(read_run(tmp_path))
    (panel,) = section.panels
    assert panel.title == "Accuracy"
    assert panel.series[0].y == [0.0, None, 0.2]


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such directory"):
        build_report(tmp_path / "nowhere")
    (tmp_path / "holiday.txt").write_text("")
    with pytest.raises(ReportError, match=r"holiday.txt: a file; give the directory of a run"):
        build_report(tmp_path / "holiday.txt")
    with pytest.raises(ReportError, match="not a run directory"):
        build_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", "{}\n", r"metrics\.jsonl, line 1"),
        ("run.json", "{", r"run\.json: not JSON"),
        ("config.yaml", "a: [", r"config\.yaml: not YAML"),
        ("eval/before.json", "[1]", r"before\.json: not an evaluation of this version \(list instead of an object\)"),
    ],
)
def test_broken_record_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / name).write_text(text)
    with pytest.raises(ReportError, match=message) as error:
        build_report(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "config.yaml", "summary.json", "report.html"])
def test_a_folder_in_the_place_of_a_file_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    assert main(["report", str(tmp_path)]) in (1, 2)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert f"{tmp_path / name}: Is a directory" in err


def test_broken_parquet_is_left_out_and_said_so(tmp_path: Path) -> None:
    root = make_run(tmp_path / "r", iterations=2, groups=1)
    (root / "rollouts" / "000000.parquet").write_bytes(b"torn")
    data = data_of(build_report(root))
    assert data["rollouts_total"] == 4
    assert len(data["notes"]) == 1
    assert "000000.parquet" in data["notes"][0]


def test_verdict_says_when_it_may_be_chance(tmp_path: Path) -> None:
    MetricsLog(tmp_path).close()
    rng = np.random.default_rng(0)
    evaluate(tmp_path, "before", 0, 0.5, rng, n=40)
    evaluate(tmp_path, "it0010", 10, 0.52, rng, n=40)
    assert "may be chance" in verdict(read_run(tmp_path))


def test_verdict_tells_the_paired_change_of_a_finished_run(tmp_path: Path) -> None:
    MetricsLog(tmp_path).close()
    rng = np.random.default_rng(0)
    evaluate(tmp_path, "before", 0, 0.5, rng, n=40)
    evaluate(tmp_path, "after", 10, 0.52, rng, n=40)
    summary = {"accuracy_change": {"mean": 0.053, "ci95": [0.014, 0.092], "p": 0.0106, "n": 40}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = verdict(read_run(tmp_path))
    assert text.endswith(
        "intervals overlap. Problem by problem it changed by +5.3 points [+1.4, +9.2], p\u00a0=\u00a00.011."
    )
    for doubt in ({"ci95": [-0.01, 0.092]}, {"p": 0.053}):
        doubtful = {"accuracy_change": summary["accuracy_change"] | doubt}
        (tmp_path / "summary.json").write_text(json.dumps(doubtful))
        assert "this may be chance" in verdict(read_run(tmp_path))


def test_a_finished_run_s_report_shows_what_its_summary_found(tmp_path: Path) -> None:
    root = make_run(tmp_path / "r", iterations=2, groups=1)
    found = [{"code": "no-gain", "message": "no <gain>", "advice": "train longer"}]
    promised = {"words": "25 points", "kept": False, "void": []}
    (root / "summary.json").write_text(json.dumps({"findings": found, "promise": promised}))
    data = data_of(build_report(root))
    assert data["findings"] == found
    assert data["promise"] == "Its recipe's promise is broken: 25 points."
    for more, words in (({"kept": True}, "is kept"), ({"void": ["seed: 0 -> 1"]}, "is not judged: seed: 0 -> 1")):
        (root / "summary.json").write_text(json.dumps({"promise": promised | more}))
        data = data_of(build_report(root))
        assert (data["findings"], words in data["promise"]) == ([], True)


def test_an_unfinished_run_s_report_shows_what_is_wrong_so_far(tmp_path: Path) -> None:
    root = make_run(tmp_path / "r", iterations=2, groups=1, finished=False)
    assert data_of(build_report(root))["findings"] == []
    (root / "config.yaml").write_text("iterations: 40\nrollout: {k: 2}\n")
    data = data_of(build_report(root))
    assert [finding["code"] for finding in data["findings"]] == ["weak-start"]
    assert data["promise"] == ""


def test_choice_of_rollouts_keeps_rare_kinds_and_spreads_over_the_run() -> None:
    candidates = [Candidate(i // 100, i % 100, ("wrong", "stop eos")) for i in range(10_000)]
    candidates[77] = Candidate(0, 77, ("ungraded", "stop eos"))
    candidates[5_000] = Candidate(50, 0, ("right", "stop repetition", "partial"))
    chosen = choose(candidates, lambda item: item.kinds, 300)
    assert len(chosen) == 300
    assert {candidates[77], candidates[5_000]} <= set(chosen)
    assert chosen == sorted(chosen, key=lambda c: (c.file, c.row))
    per_file = [sum(c.file == f for c in chosen) for f in range(100)]
    assert min(per_file) >= 1
    assert max(per_file) <= 6
    assert choose(candidates[:5], lambda item: item.kinds, 300) == candidates[:5]


def test_samples_hold_every_kind_and_long_texts_are_clipped(tmp_path: Path) -> None:
    root = make_run(tmp_path / "r", iterations=30, groups=4)
    samples = load_samples(root, limit=60)
    assert len(samples.rows) == 60
    assert samples.total == 30 * 4 * 4
    everything = load_samples(root, limit=10_000).rows
    for kind in ("outcome", "stop"):
        assert {row[kind] for row in samples.rows} == {row[kind] for row in everything}
    assert any(len(row["segments"]) > 1 for row in samples.rows)
    scored = score_group(make_group(30, 0, np.random.default_rng(0), 1.0))
    long = to_table(30, [scored], {}, 0.2, lambda _, ids: decode(ids) + "x" * 100_000 if ids else "")
    write_rollouts(root, 30, long)
    texts = [s["text"] for row in load_samples(root, 10_000).rows if row["iteration"] == 30 for s in row["segments"]]
    assert max(map(len, texts)) < 13_000
    assert any("characters left out" in text for text in texts)


def test_smooth_has_no_start_up_bias_and_keeps_gaps() -> None:
    assert smooth([2.0, None, 2.0, 2.0]) == [2.0, None, pytest.approx(2.0), pytest.approx(2.0)]
    assert smooth([0.0, 1.0], weight=0.5) == [0.0, pytest.approx(2 / 3)]
