// The page of an evaluation: scores, breakdown, lengths, needle map, answers, settings.

const SHOWN = 25;

function rate(value) {
  return value === null || value === undefined ? "–" : percent(value);
}

function between(interval) {
  return interval ? `[${(100 * interval[0]).toFixed(1)}, ${(100 * interval[1]).toFixed(1)}]` : "–";
}

function pageHeader() {
  const facts = data.facts;
  const revision = typeof facts.git_revision === "string" ? facts.git_revision.slice(0, 12) : null;
  return node("header", {},
    node("div", {},
      node("h1", {}, data.model),
      node("div", { class: "tags" },
        tag("engine", facts.engine), tag("k15", facts.k15), tag("revision", revision), tag("date", facts.created))),
    themeButton());
}

// A mean with its interval on a 0..100 % axis.
function whisker(score) {
  const [width, height] = [220, 22];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": score ? `${percent(score.mean)}, 95 % ${between(score.ci95)}` : "no score" });
  const X = (v) => 6 + v * (width - 12);
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) svg.append(shape("line", { x1: X(tick), x2: X(tick), y1: 2, y2: height - 2, class: "grid" }));
  if (!score) return svg;
  const [low, high] = score.ci95;
  const group = svg.appendChild(shape("g", { class: "s0" }));
  group.append(shape("path", { d: `M${X(low)} 11H${X(high)}M${X(low)} 6v10M${X(high)} 6v10`, class: "whisker" }));
  group.append(shape("circle", { cx: X(score.mean), cy: 11, r: 4.5, class: "dot" }));
  return svg;
}

function at(rates) {
  const rows = Object.entries(rates).map(([k, found]) => `@${k} ${percent(found.mean)}`);
  return rows.length ? rows.join(" · ") : "–";
}

function scoreTable() {
  const widths = ["18%", "9%", "14%", "20%", "11%", "10%", "9%", "9%"];
  const names = ["Benchmark", "avg@n", "95 % interval", "", "Problems × n", "Tokens", "Truncated", "Ungradable"];
  const head = names.map((name, i) => node("th", { width: widths[i], class: [1, 4, 5, 6, 7].includes(i) ? "num" : null }, name));
  const rows = data.benchmarks.flatMap((b) => {
    const several = b.settings.samples > 1;
    const partial = b.problem_count < b.problems_in_data ? ` of ${b.problems_in_data}` : "";
    const main = node("tr", {},
      node("td", {}, node("b", {}, b.title)),
      node("td", { class: "num", "data-label": "avg@n" }, node("b", {}, rate(b.score?.mean))),
      node("td", { "data-label": "95 %" }, between(b.score?.ci95)),
      node("td", {}, whisker(b.score)),
      node("td", { class: "num", "data-label": "problems" }, `${b.problem_count}${partial} × ${b.settings.samples}`),
      node("td", { class: "num", "data-label": "tokens" }, b.tokens ? `${number(b.tokens.mean)} / ${number(b.tokens.median)}` : "–"),
      node("td", { class: "num", "data-label": "truncated" }, rate(b.truncated)),
      node("td", { class: "num", "data-label": "ungradable" }, rate(b.ungradable)));
    const more = [`bootstrap over problems and samples ${between(b.bootstrap95)}`];
    if (several) more.push(`pass${at(b.pass_at)}`.replaceAll(" · @", " · pass@"));
    if (Object.keys(b.maj_at).length) more.push(`maj${at(b.maj_at)}`.replaceAll(" · @", " · maj@"));
    if (b.rerun_error !== null) more.push(`a second run on the same problems: within ${(277 * b.rerun_error).toFixed(1)} points`);
    if (b.repetition) more.push(`${rate(b.repetition)} stopped for repetition`);
    if (b.defects) more.push(`${b.defects} problems marked as defective count`);
    return [main, node("tr", {}, node("td", { colspan: names.length, class: "soft" }, more.join("; ")))];
  });
  return node("div", { class: "card scroll" }, node("table", {}, node("thead", {}, node("tr", {}, ...head)), node("tbody", {}, ...rows)));
}

function breakdown(b) {
  const fields = [...new Set(b.slices.map((s) => s.field))];
  return fields.map((field) => {
    const parts = b.slices.filter((s) => s.field === field);
    const rows = parts.map((s) => node("tr", {},
      node("td", {}, s.value), node("td", { class: "num", "data-label": "score" }, rate(s.score?.mean)),
      node("td", { "data-label": "95 %" }, between(s.score?.ci95)), node("td", {}, whisker(s.score)),
      node("td", { class: "num", "data-label": "problems" }, String(s.score?.problems ?? 0))));
    const head = [[field, "23%"], ["score", "15%", "num"], ["95 %", "26%"], ["", "19%"], ["problems", "17%", "num"]]
      .map(([name, width, kind]) => node("th", { width, class: kind }, name));
    return node("section", { class: "card panel" }, node("h3", {}, `By ${field}`),
      node("table", {}, node("thead", {}, node("tr", {}, ...head)), node("tbody", {}, ...rows)));
  });
}

function histogramCard(b) {
  const h = b.histogram;
  if (!h) return null;
  const [width, height, left, bottom, top] = [560, 200, 44, 26, 8];
  const kinds = [["correct", 2], ["wrong", 3], ["ungradable", 5]];
  const sums = h.correct.map((_, i) => kinds.reduce((sum, [kind]) => sum + h[kind][i], 0));
  const most = Math.max(...sums, 1);
  const X = (i) => left + (i / sums.length) * (width - left - 8);
  const Y = (v) => top + (1 - v / most) * (height - top - bottom);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of response lengths in ${h.unit}` });
  for (const v of [0, most / 2, most]) {
    svg.append(shape("line", { x1: left, x2: width - 8, y1: Y(v), y2: Y(v), class: "grid" }));
    svg.append(shape("text", { x: left - 6, y: Y(v) + 4, "text-anchor": "end", class: "tick" }, trim(v)));
  }
  sums.forEach((_, i) => {
    let base = 0;
    for (const [kind, color] of kinds) {
      const count = h[kind][i];
      if (!count) continue;
      const bar = shape("rect", { x: X(i) + 0.5, width: Math.max(1, X(i + 1) - X(i) - 1), y: Y(base + count), height: Y(base) - Y(base + count), class: `bar s${color}` });
      bar.append(shape("title", {}, `${h.edges[i]} to ${h.edges[i + 1] - 1} ${h.unit}: ${count} ${kind}`));
      svg.append(bar);
      base += count;
    }
  });
  const every = Math.max(1, Math.ceil(h.edges.length / 7));
  h.edges.forEach((edge, i) => {
    if (i % every === 0) svg.append(shape("text", { x: X(i), y: height - 8, "text-anchor": "middle", class: "tick" }, compact(edge)));
  });
  const legend = kinds.filter(([kind]) => h[kind].some(Boolean))
    .map(([kind, color]) => node("span", { class: "key" }, node("span", { class: `swatch s${color}` }), kind));
  return node("section", { class: "card panel" }, node("h3", {}, "Response length"),
    node("p", { class: "note" }, `Responses by length in ${h.unit}.`), svg, node("div", { class: "legend" }, ...legend));
}

// Needle test: share found, by context length and depth.
function heatMap(b) {
  if (!b.cells.length) return null;
  const lengths = [...new Set(b.cells.map((c) => c.length))];
  const depths = [...new Set(b.cells.map((c) => c.depth))].sort((x, y) => x - y);
  const [left, top, h, width] = [64, 8, 30, 1160];
  const w = Math.min(110, (width - left) / lengths.length);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${top + h * depths.length + 24}`, role: "img", "aria-label": "Share of needles found by length and depth" });
  for (const cell of b.cells) {
    const [x, y] = [left + w * lengths.indexOf(cell.length), top + h * depths.indexOf(cell.depth)];
    const share = cell.graded ? cell.right / cell.graded : 0;
    const box = shape("rect", { x: x + 1, y: y + 1, width: w - 2, height: h - 2, rx: 3, class: "s2 bar", "fill-opacity": 0.06 + 0.94 * share });
    box.append(shape("title", {}, `${cell.length} tokens, depth ${cell.depth} %: ${cell.right} of ${cell.graded}`));
    const text = cell.graded ? `${Math.round(100 * share)} %` : "–";
    svg.append(box, shape("text", { x: x + w / 2, y: y + h / 2 + 4, "text-anchor": "middle", class: share > 0.6 ? "tick on" : "tick" }, text));
  }
  depths.forEach((depth, i) => svg.append(shape("text", { x: left - 8, y: top + h * i + h / 2 + 4, "text-anchor": "end", class: "tick" }, `${depth} %`)));
  lengths.forEach((length, i) => svg.append(shape("text", { x: left + w * i + w / 2, y: top + h * depths.length + 16, "text-anchor": "middle", class: "tick" }, length.toLocaleString("en"))));
  return node("section", { class: "card panel wide" }, node("h3", {}, "Found by length and depth"),
    node("p", { class: "note" }, "Columns: context length in tokens. Rows: how deep the needle lies."), svg);
}

function definitions(row) {
  const list = node("dl", {});
  const add = (name, value) => list.append(node("dt", {}, name), node("dd", {}, value));
  add("verdict", row.verdict);
  add("reference", row.reference);
  add("extracted", row.extracted || "– none found");
  if (row.reason) add("reason", row.reason);
  add("stopped by", row.stop ?? "not known");
  add("tokens", row.tokens === null ? "not known" : String(row.tokens));
  for (const [name, value] of Object.entries(row.parts)) add(`· ${name}`, number(value));
  add("problem", `${row.benchmark} · ${row.id} · sample ${row.sample}`);
  if (row.fields) add("fields", row.fields);
  return list;
}

function detail(row) {
  return node("div", { class: "both" },
    node("div", {},
      node("h4", {}, "Problem"), node("pre", { class: "text", tabindex: "0", dir: "auto", "aria-label": "Problem" }, row.question),
      node("h4", {}, "Response"), node("pre", { class: "text", tabindex: "0", dir: "auto", "aria-label": "Response" }, row.response || "(empty)")),
    node("div", {}, node("h4", {}, "Verdict"), definitions(row)));
}

const BADGE = { correct: "right", wrong: "wrong", ungradable: "ungraded" };

function answerRow(row) {
  const button = node("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": `Show ${row.id}, sample ${row.sample}` }, "›");
  const line = node("tr", { class: "row" },
    node("td", {}, button), node("td", { class: "problem" }, row.benchmark),
    node("td", { class: "problem", title: row.question }, row.question),
    node("td", {}, node("span", { class: `badge ${BADGE[row.verdict]}` }, row.verdict)),
    node("td", { class: "problem" }, row.extracted || "–"),
    node("td", { class: "num", "data-label": "tok" }, row.tokens === null ? "–" : String(row.tokens)));
  line.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) line.nextElementSibling.remove();
    else line.after(node("tr", { class: "detail" }, node("td", { colspan: 6 }, detail(row))));
  });
  return line;
}

const filter = { benchmark: "", verdict: "", stop: "", text: "", shown: SHOWN };

function matches(row) {
  return (!filter.benchmark || row.benchmark === filter.benchmark) && (!filter.verdict || row.verdict === filter.verdict)
    && (!filter.stop || row.stop === filter.stop) && (!filter.text || row.haystack.includes(filter.text));
}

function chooser(name, key, update) {
  const values = [...new Set(data.answers.map((row) => row[key]).filter(Boolean))].sort();
  const select = node("select", { "aria-label": name }, node("option", { value: "" }, `any ${name}`),
    ...values.map((value) => node("option", { value }, `${value} (${data.answers.filter((row) => row[key] === value).length})`)));
  select.addEventListener("change", () => { filter[key] = select.value; update(); });
  return values.length > 1 ? select : null;
}

function answers() {
  const title = node("h2", { id: "answers", tabindex: "-1" }, "Answers");
  if (!data.answers.length) return [title, node("p", { class: "card soft" }, "No answers.")];
  for (const row of data.answers) row.haystack = [row.question, row.reference, row.response, row.extracted, row.id].join("\n").toLowerCase();
  const body = node("tbody", {});
  const count = node("span", { class: "soft", role: "status" });
  const more = node("button", { type: "button" }, "Show more");
  const show = () => {
    const rows = data.answers.filter(matches);
    body.replaceChildren(...rows.slice(0, filter.shown).map(answerRow));
    count.textContent = `${Math.min(filter.shown, rows.length)} of ${rows.length} shown`;
    more.hidden = rows.length <= filter.shown;
  };
  const update = () => { filter.shown = SHOWN; show(); };
  more.addEventListener("click", () => { filter.shown += SHOWN; show(); });
  const search = node("input", { type: "search", placeholder: "Search problems and responses", "aria-label": "Search" });
  search.addEventListener("input", () => { filter.text = search.value.toLowerCase(); update(); });
  const head = [["", "4%"], ["Benchmark", "14%"], ["Problem", "40%"], ["Verdict", "12%"], ["Extracted", "20%"], ["Tokens", "10%", "num"]]
    .map(([name, width, kind]) => node("th", { width, class: kind }, name));
  show();
  const note = data.answers.length === data.answers_total ? `All ${data.answers_total} answers.`
    : `${data.answers.length} of ${data.answers_total.toLocaleString("en")} answers, with every verdict and stop reason among them; all are in samples.parquet.`;
  return [title, node("p", { class: "soft" }, note), node("br", {}),
    node("div", { class: "tools" }, ...[chooser("benchmark", "benchmark", update), chooser("verdict", "verdict", update), chooser("stop", "stop", update), search].filter(Boolean)),
    node("div", { class: "card scroll" }, node("table", {}, node("thead", {}, node("tr", {}, ...head)), body), node("div", { class: "more" }, count, more))];
}

function provenance() {
  const folds = data.benchmarks.map((b) => node("details", { class: "card" }, node("summary", {}, `${b.title}: settings and first prompt`),
    node("p", { class: "soft" }, `Published numbers. ${b.published}`),
    node("pre", {}, JSON.stringify({ origin: b.origin, fingerprint: b.fingerprint, ...b.settings, speed: b.speed }, null, 2)),
    b.first_prompt ? node("pre", { class: "text" }, b.first_prompt) : null));
  folds.push(node("details", { class: "card" }, node("summary", {}, "Environment"), node("pre", {}, JSON.stringify(data.facts, null, 2))));
  return [node("h2", {}, "Settings"), node("div", { class: "two" }, ...folds)];
}

function sectionOf(b) {
  const panels = [heatMap(b), ...breakdown(b), histogramCard(b)].filter(Boolean);
  return panels.length ? [node("h2", {}, b.title), node("div", { class: "panels" }, ...panels)] : [];
}

document.getElementById("page").replaceChildren(
  pageHeader(), scoreTable(),
  ...data.benchmarks.flatMap(sectionOf),
  ...answers(), ...provenance(),
  node("footer", {}, "Written by k15. Intervals are 95 % Wilson intervals with problems as clusters; tokens are mean / median."),
);
