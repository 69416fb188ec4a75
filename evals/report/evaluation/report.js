// The page of an evaluation: scores, breakdown, lengths, needle map, answers, settings.

function rate(value) {
  return value === null || value === undefined ? "–" : percent(value);
}

function between(interval) {
  return interval ? `[${(100 * interval[0]).toFixed(1)}, ${(100 * interval[1]).toFixed(1)}]` : "–";
}

function header() {
  const facts = data.facts;
  return pageHeader(data.model, tag("engine", facts.engine), tag("k15", facts.k15), revisionTag(facts), tag("date", facts.created));
}

// A mean with its interval on a 0..100 % axis.
function whisker(score) {
  const [width, height] = [220, 22];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": score ? `${percent(score.mean)}, 95 % ${between(score.ci95)}` : "no score" });
  const X = shareAxis(svg, 6, width - 6, 2, height - 2);
  if (score) intervalMark(svg, [score.ci95[0], score.mean, score.ci95[1]].map(X), 11, 0, 4.5);
  return svg;
}

function at(rates) {
  const rows = Object.entries(rates).map(([k, found]) => `@${k} ${percent(found.mean)}`);
  return rows.length ? rows.join(" · ") : "–";
}

const SCORE_COLUMNS = [
  { name: "Benchmark", width: "18%", cell: (b) => node("b", {}, b.title) },
  { name: "avg@n", width: "9%", kind: "num", label: "avg@n", cell: (b) => node("b", {}, rate(b.score?.mean)) },
  { name: "95 % interval", width: "14%", label: "95 %", cell: (b) => between(b.score?.ci95) },
  { name: "", width: "20%", cell: (b) => whisker(b.score) },
  { name: "Problems × n", width: "11%", kind: "num", label: "problems",
    cell: (b) => `${b.problem_count}${b.problem_count < b.problems_in_data ? ` of ${b.problems_in_data}` : ""} × ${b.settings.samples}` },
  { name: "Tokens", width: "10%", kind: "num", label: "tokens", cell: (b) => (b.tokens ? `${number(b.tokens.mean)} / ${number(b.tokens.median)}` : "–") },
  { name: "Truncated", width: "9%", kind: "num", label: "truncated", cell: (b) => rate(b.truncated) },
  { name: "Ungradable", width: "9%", kind: "num", label: "ungradable", cell: (b) => rate(b.ungradable) },
];

function points(share) {
  const value = (100 * share).toFixed(1);
  return share < 0 ? value.replace("-", "−") : `+${value}`;
}

function chance(p) {
  return p >= 0.001 ? p.toFixed(3) : p.toExponential(0);
}

// Which windows of evidence spoke; of many, those that did most.
function spoke(windows) {
  const order = windows.tokens.map((share, k) => [share, k + 1]).sort((x, y) => y[0] - x[0]).slice(0, 8);
  const parts = [`spoke for tokens: ${order.map(([share, k]) => `window ${k} ${percent(share)}`).join(", ")}`];
  if (windows.found !== null) parts.push(`the window with the answer spoke first in ${percent(windows.found)}`);
  return parts;
}

// One answer from all responses to a problem, beside the vote.
function fusedAt(f) {
  const how = f.beta === null ? f.pooling : `${f.pooling}, beta ${f.beta}`;
  const pair = f.beyond_maj;
  return `fused@${f.k} (${how}) ${percent(f.mean)} ${between(f.ci95)}`
    + (pair ? `, against maj@${f.k} ${points(pair.difference)} points [${pair.ci95.map(points).join(", ")}]` : "");
}

// What is said below the row of a benchmark.
function more(b) {
  const parts = [`bootstrap over problems and samples ${between(b.bootstrap95)}`];
  if (b.settings.samples > 1) parts.push(`pass${at(b.pass_at)}`.replaceAll(" · @", " · pass@"));
  if (Object.keys(b.maj_at).length) parts.push(`maj${at(b.maj_at)}`.replaceAll(" · @", " · maj@"));
  for (const f of b.fused ?? []) parts.push(fusedAt(f));
  if (b.rerun_error !== null) parts.push(`a second run on the same problems: within ${(277 * b.rerun_error).toFixed(1)} points`);
  if (b.judge?.agreement) parts.push(`rule and reward model agree on ${percent(b.judge.agreement.mean)} ${between(b.judge.agreement.ci95)} (agreement.html)`);
  if (b.windows) parts.push(...spoke(b.windows));
  if (b.beside) parts.push(`${b.beside.name} against it ${points(b.beside.difference)} points [${b.beside.ci95.map(points).join(", ")}], p ${chance(b.beside.p)}`);
  if (b.repetition) parts.push(`${rate(b.repetition)} stopped for repetition`);
  if (b.defects) parts.push(`${b.defects} problems marked as defective count`);
  return parts.join("; ");
}

function scoreTable() {
  const rows = data.benchmarks.flatMap((b) => [tableRow(SCORE_COLUMNS, b),
    node("tr", {}, node("td", { colspan: SCORE_COLUMNS.length, class: "soft" }, more(b)))]);
  return node("div", { class: "card scroll" }, node("table", {}, tableHead(SCORE_COLUMNS), node("tbody", {}, ...rows)));
}

function breakdown(b) {
  const fields = [...new Set(b.slices.map((s) => s.field))];
  return fields.map((field) => {
    const columns = [
      { name: field, width: "23%", cell: (s) => s.value },
      { name: "score", width: "15%", kind: "num", label: "score", cell: (s) => rate(s.score?.mean) },
      { name: "95 %", width: "26%", label: "95 %", cell: (s) => between(s.score?.ci95) },
      { name: "", width: "19%", cell: (s) => whisker(s.score) },
      { name: "problems", width: "17%", kind: "num", label: "problems", cell: (s) => String(s.score?.problems ?? 0) },
    ];
    return node("section", { class: "card panel" }, node("h3", {}, `By ${field}`), table(columns, b.slices.filter((s) => s.field === field)));
  });
}

function histogramCard(b) {
  const h = b.histogram;
  if (!h) return null;
  const [width, height, left, bottom, top] = [560, 200, 44, 26, 8];
  const most = Math.max(...binTotals(h), 1);
  const X = (value) => left + (value / h.edges.at(-1)) * (width - left - 8);
  const Y = (v) => top + (1 - v / most) * (height - top - bottom);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of response lengths in ${h.unit}` });
  yGrid(svg, [0, most / 2, most], left, width - 8, Y, trim);
  histogramBars(svg, h, X, Y);
  const every = Math.max(1, Math.ceil(h.edges.length / 7));
  xLabels(svg, h.edges.filter((_, i) => i % every === 0), X, height - 8, compact);
  return node("section", { class: "card panel" }, node("h3", {}, "Response length"),
    node("p", { class: "note" }, `Responses by length in ${h.unit}.`), svg, verdictLegend(VERDICTS.filter(([kind]) => h[kind].some(Boolean))));
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
  return definitionList([
    ["verdict", row.verdict],
    ["reference", row.reference],
    ["extracted", row.extracted || "– none found"],
    row.reason ? ["reason", row.reason] : null,
    ["stopped by", row.stop ?? "not known"],
    ["tokens", row.tokens === null ? "not known" : String(row.tokens)],
    row.window ? ["window", row.window] : null,
    ...Object.entries(row.parts).map(([name, value]) => [`· ${name}`, number(value)]),
    ["problem", `${row.benchmark} · ${row.id} · sample ${row.sample}`],
    row.fields ? ["fields", row.fields] : null]);
}

function detail(row) {
  return node("div", { class: "both" },
    node("div", {}, node("h4", {}, "Problem"), textBlock("Problem", row.question),
      node("h4", {}, "Response"), textBlock("Response", row.response || "(empty)"),
      ...(row.opinion ? [node("h4", {}, "What the reward model wrote"), textBlock("What the reward model wrote", row.opinion)] : [])),
    node("div", {}, node("h4", {}, "Verdict"), definitions(row)));
}

const BADGE = { correct: "right", wrong: "wrong", ungradable: "ungraded" };

const ANSWER_COLUMNS = [
  { name: "Benchmark", width: "14%", kind: "problem", cell: (row) => row.benchmark, order: (row) => row.benchmark },
  { name: "Problem", width: "40%", kind: "problem", cell: (row) => row.question, title: (row) => row.question, order: (row) => row.question },
  { name: "Verdict", width: "12%", cell: (row) => node("span", { class: `badge ${BADGE[row.verdict]}` }, row.verdict), order: (row) => row.verdict },
  { name: "Extracted", width: "20%", kind: "problem", cell: (row) => row.extracted || "–", order: (row) => row.extracted },
  { name: "Tokens", width: "10%", kind: "num", label: "tok", cell: (row) => (row.tokens === null ? "–" : String(row.tokens)), order: (row) => row.tokens ?? -1 },
];

function answers() {
  const rows = data.answers;
  return records({
    id: "answers",
    heading: "Answers",
    note: rows.length === data.answers_total ? `All ${data.answers_total} answers.`
      : `${rows.length} of ${data.answers_total.toLocaleString("en")} answers, with every verdict and stop reason among them; all are in samples.parquet.`,
    empty: "No answers.",
    rows,
    columns: ANSWER_COLUMNS,
    name: (row) => `${row.id}, sample ${row.sample}`,
    detail,
    text: (row) => [row.question, row.reference, row.response, row.extracted, row.id],
    search: "Search problems and responses",
    filters: [["benchmark"], ["verdict"], ["stop"], ["both", "rule and model"]].map(([key, name]) => chooser(rows, name ?? key, (row) => row[key])),
  });
}

function provenance() {
  const folds = data.benchmarks.map((b) => fold(`${b.title}: settings and first prompt`,
    node("p", { class: "soft" }, `Published numbers. ${b.published}`),
    JSON.stringify({ origin: b.origin, fingerprint: b.fingerprint, ...b.settings, speed: b.speed }, null, 2),
    b.first_prompt ? node("pre", { class: "text" }, b.first_prompt) : null));
  return [node("h2", {}, "Settings"), node("div", { class: "two" }, ...folds, fold("Environment", JSON.stringify(data.facts, null, 2)))];
}

function sectionOf(b) {
  const panels = [heatMap(b), ...breakdown(b), histogramCard(b)].filter(Boolean);
  return panels.length ? [node("h2", {}, b.title), node("div", { class: "panels" }, ...panels)] : [];
}

document.getElementById("page").replaceChildren(
  header(), scoreTable(),
  ...data.benchmarks.flatMap(sectionOf),
  ...answers(), ...provenance(),
  node("footer", {}, "Written by k15. Intervals are 95 % Wilson intervals with problems as clusters; tokens are mean / median."),
);
