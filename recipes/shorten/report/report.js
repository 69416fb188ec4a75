// The page of long2short: findings, the plot, the table with how each variant was made, lengths, answers side by side.

const SHOWN = 12;
const MARKS = { correct: ["right", "\u2713"], wrong: ["wrong", "\u2717"], ungradable: ["ungraded", "?"] };

function header() {
  const long = data.variants.find((v) => v.name === "long");
  return pageHeader(data.title, tag("variants", data.variants.length), long ? tag("held-out problems", long.accuracy.n) : null,
    long ? tag("responses each", long.samples) : null);
}

function findings() {
  const typeset = (line) => line.replaceAll(/(^|[\s([])-(?=\d)/g, "$1\u2212").replaceAll(" %", "\u00A0%");
  return node("section", { class: "card two" }, ...data.verdict.map((line) => node("p", {}, typeset(line))));
}

const RESULTS = [
  ["Accuracy", "8%", (v) => node("b", {}, percent(v.accuracy.mean))],
  ["95 %", "11%", (v) => interval(v.accuracy, inPercent)],
  ["Tokens", "7%", (v) => node("b", {}, tokens(v.tokens.mean))],
  ["Median", "7%", (v) => tokens(v.median_tokens)],
  ["Tokens against long", "14%", (v) => (v.token_change ? `${inWholePercent(v.token_change.mean)}\u00A0% ${interval(v.token_change, inWholePercent)}` : "\u2013")],
  ["Points against long", "16%", (v) => (v.change ? `${inPoints(v.change.accuracy)} ${interval(v.change, inPoints)}` : "\u2013")],
  ["Per 100 tokens", "8%", (v) => number(v.efficiency.mean)],
  ["Cap hit", "7%", (v) => percent(v.truncated)],
  ["Front", "5%", (v) => (v.front ? "yes" : "\u2013")],
].map(([name, width, cell]) => ({ name, width, kind: "num", label: name.toLowerCase(), cell }));

const COLUMNS = [
  { name: "Variant", width: "17%", cell: (v) => node("span", {}, node("span", { class: `swatch inline ${COLOR[v.name]}` }), " ", node("b", {}, v.title)) },
  ...RESULTS,
];

function resultTable() {
  const rows = data.variants.flatMap((v) => [tableRow(COLUMNS, v, "flow"),
    node("tr", {}, node("td", { colspan: COLUMNS.length, class: "soft" }, v.note || "as it is",
      v.ungradable ? `; ${percent(v.ungradable)} ungradable` : ""))]);
  return node("div", { class: "card scroll" }, node("table", {}, tableHead(COLUMNS), node("tbody", {}, ...rows)));
}

// Response lengths: all tiles have the same bins and axes, so that they can be compared by eye.
function lengthTiles() {
  const known = data.variants.filter((v) => v.histogram && v.histogram.unit === "tokens");
  const scales = known.map((v) => 1 / binTotals(v.histogram).reduce((a, b) => a + b, 0));
  const highest = Math.max(...known.flatMap((v, i) => binTotals(v.histogram).map((count) => count * scales[i])));
  return known.map((v, i) => lengthTile(v, scales[i], highest));
}

function lengthTile(v, scale, highest) {
  const [width, base, longest] = [280, 104, v.histogram.edges.at(-1)];
  const svg = shape("svg", { viewBox: `0 0 ${width} 126`, role: "img",
    "aria-label": `${v.title}: response lengths, mean ${tokens(v.tokens.mean)}, median ${tokens(v.median_tokens)} tokens` });
  const X = (value) => 4 + (value / longest) * (width - 8);
  histogramBars(svg, v.histogram, X, (share) => base - (share / highest) * (base - 8), scale);
  svg.append(shape("line", { x1: 4, x2: width - 4, y1: base, y2: base, class: "axis" }));
  svg.append(shape("line", { x1: X(v.tokens.mean), x2: X(v.tokens.mean), y1: 2, y2: base, class: "cursor" }));
  for (const tick of niceTicks(0, longest, 3)) {
    svg.append(shape("text", { x: X(tick), y: 121, "text-anchor": X(tick) > width - 20 ? "end" : tick ? "middle" : "start", class: "tick" }, tick.toLocaleString("en")));
  }
  return node("section", { class: "card panel" }, node("h3", {}, node("span", { class: `swatch inline ${COLOR[v.name]}` }), ` ${v.title}`),
    node("p", { class: "note" }, `mean ${tokens(v.tokens.mean)}, median ${tokens(v.median_tokens)}`), svg);
}

function lengths() {
  const tiles = lengthTiles();
  if (!tiles.length) return [];
  return [node("h2", {}, "Response lengths"),
    node("p", { class: "soft" }, "Share of the held-out responses by length in tokens; all tiles have the same axes. Dashed: the mean."),
    verdictLegend(), node("div", { class: "tiles" }, ...tiles)];
}

function badge(answer, text) {
  const [kind, mark] = MARKS[answer.verdict];
  return node("span", { class: `badge ${kind}` }, `${mark} ${text}`);
}

function answerBlock(answer) {
  const stop = answer.stop && answer.stop !== "eos" ? `, stopped by ${answer.stop}` : "";
  return node("div", {},
    node("h4", {}, `${answer.variant} `, badge(answer, answer.verdict), ` ${answer.tokens ?? "?"} tokens${stop}; ${answer.right} of ${answer.of} right`),
    textBlock(`Response of ${answer.variant}`, answer.response || "(empty)"));
}

// The answers are put into the document when they are first looked at.
function problemCard(problem) {
  const card = node("details", { class: "card" },
    node("summary", {}, problem.question.replaceAll("\n", " ").slice(0, 110),
      node("div", { class: "verdicts" }, ...problem.answers.map((answer) => badge(answer, `${answer.variant} ${answer.tokens ?? "?"}`)))));
  card.addEventListener("toggle", () => {
    card.append(node("div", { class: "detail answers" },
      definitionList([["Problem", node("pre", { class: "text", dir: "auto" }, problem.question)], ["Reference", problem.reference]]),
      node("div", { class: "panels answers" }, ...problem.answers.map(answerBlock))));
  }, { once: true });
  return card;
}

function problemList() {
  const container = node("div", { class: "two", id: "problems" });
  const differs = (problem) => new Set(problem.answers.map((answer) => answer.verdict)).size > 1;
  const noneRight = (problem) => problem.answers.every((answer) => answer.verdict !== "correct");
  const { tools, more } = listing({
    rows: data.problems,
    container,
    show: problemCard,
    text: (problem) => [problem.question, problem.reference, ...problem.answers.map((answer) => answer.response)],
    search: "Search problems and answers",
    filters: [chips(data.problems, "Verdicts", [["All", () => true], ["Verdicts differ", differs], ["None right", noneRight]])],
    size: SHOWN,
    noun: "problems",
  });
  return [tools, container, more];
}

document.getElementById("page").append(header(), findings());
if (data.variants.length) {
  document.getElementById("page").append(
    node("h2", {}, "Token efficiency"), plot(),
    node("h2", {}, "Variants"), resultTable(),
    node("p", { class: "soft more" }, "Per 100 tokens: points of accuracy. It favours short and poor answers; the front says what is worth having."),
    ...lengths());
}
document.getElementById("page").append(
  node("h2", {}, "Held-out problems, the first answer of each variant"), ...problemList(),
  node("h2", {}, "Settings"), node("section", { class: "card detail" }, definitionList(data.facts)));
