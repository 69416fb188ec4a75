// The page of long2short: findings, the plot, the table with how each variant was made, lengths, answers side by side.

const SHOWN = 12;
const MARKS = { correct: ["right", "\u2713"], wrong: ["wrong", "\u2717"], ungradable: ["ungraded", "?"] };

function pageHeader() {
  const long = data.variants.find((v) => v.name === "long");
  return node("header", {},
    node("div", {},
      node("h1", {}, data.title),
      node("div", { class: "tags" },
        tag("variants", data.variants.length), long ? tag("held-out problems", long.accuracy.n) : null,
        long ? tag("responses each", long.samples) : null)),
    themeButton());
}

function findings() {
  const typeset = (line) => line.replaceAll(/(^|[\s([])-(?=\d)/g, "$1\u2212").replaceAll(" %", "\u00A0%");
  return node("section", { class: "card two" }, ...data.verdict.map((line) => node("p", {}, typeset(line))));
}

const COLUMNS = [
  ["Accuracy", "8%", (v) => node("b", {}, percent(v.accuracy.mean))],
  ["95 %", "11%", (v) => interval(v.accuracy, inPercent)],
  ["Tokens", "7%", (v) => node("b", {}, tokens(v.tokens.mean))],
  ["Median", "7%", (v) => tokens(v.median_tokens)],
  ["Tokens against long", "14%", (v) => (v.token_change ? `${inWholePercent(v.token_change.mean)}\u00A0% ${interval(v.token_change, inWholePercent)}` : "\u2013")],
  ["Points against long", "16%", (v) => (v.change ? `${inPoints(v.change.accuracy)} ${interval(v.change, inPoints)}` : "\u2013")],
  ["Per 100 tokens", "8%", (v) => number(v.efficiency.mean)],
  ["Cap hit", "7%", (v) => percent(v.truncated)],
  ["Front", "5%", (v) => (v.front ? "yes" : "\u2013")],
];

function resultTable() {
  const head = [["Variant", "17%"], ...COLUMNS].map(([name, width]) => node("th", { width, class: name === "Variant" ? null : "num" }, name));
  const rows = data.variants.flatMap((v) => [
    node("tr", { class: "flow" },
      node("td", {}, node("span", { class: `swatch inline ${COLOR[v.name]}` }), " ", node("b", {}, v.title)),
      ...COLUMNS.map(([name, , show]) => node("td", { class: "num", "data-label": name.toLowerCase() }, show(v)))),
    node("tr", {}, node("td", { colspan: COLUMNS.length + 1, class: "soft" }, v.note || "as it is",
      v.ungradable ? `; ${percent(v.ungradable)} ungradable` : ""))]);
  return node("div", { class: "card scroll" }, node("table", {}, node("thead", {}, node("tr", {}, ...head)), node("tbody", {}, ...rows)));
}

const KINDS = [["correct", "s2"], ["wrong", "s3"], ["ungradable", "s5"]];

// Response lengths: all tiles have the same bins and axes, so that they can be compared by eye.
function lengthTiles() {
  const known = data.variants.filter((v) => v.histogram && v.histogram.unit === "tokens");
  const shares = known.map((v) => {
    const sums = v.histogram.correct.map((_, i) => KINDS.reduce((sum, [kind]) => sum + v.histogram[kind][i], 0));
    const total = sums.reduce((a, b) => a + b, 0);
    return Object.fromEntries(KINDS.map(([kind]) => [kind, v.histogram[kind].map((count) => count / total)]));
  });
  const highest = Math.max(...shares.flatMap((share) => share.correct.map((_, i) => KINDS.reduce((sum, [kind]) => sum + share[kind][i], 0))));
  return known.map((v, i) => lengthTile(v, shares[i], highest));
}

function lengthTile(v, share, highest) {
  const [width, base, edges] = [280, 104, v.histogram.edges];
  const longest = edges.at(-1);
  const svg = shape("svg", { viewBox: `0 0 ${width} 126`, role: "img",
    "aria-label": `${v.title}: response lengths, mean ${tokens(v.tokens.mean)}, median ${tokens(v.median_tokens)} tokens` });
  const X = (value) => 4 + (value / longest) * (width - 8);
  for (let i = 0; i + 1 < edges.length; i += 1) {
    let y = base;
    for (const [kind, color] of KINDS) {
      if (!share[kind][i]) continue;
      const height = (share[kind][i] / highest) * (base - 8);
      y -= height;
      const bar = shape("rect", { x: X(edges[i]) + 0.5, y, width: Math.max(0.5, X(edges[i + 1]) - X(edges[i]) - 1), height, class: `bar ${color}` });
      bar.append(shape("title", {}, `${edges[i]} to ${edges[i + 1] - 1} tokens: ${v.histogram[kind][i]} ${kind}`));
      svg.append(bar);
    }
  }
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
  const legend = KINDS.map(([kind, color]) => node("span", { class: "key" }, node("span", { class: `swatch ${color}` }), kind));
  return [node("h2", {}, "Response lengths"),
    node("p", { class: "soft" }, "Share of the held-out responses by length in tokens; all tiles have the same axes. Dashed: the mean."),
    node("div", { class: "legend" }, ...legend), node("div", { class: "tiles" }, ...tiles)];
}

function badge(answer, text) {
  const [kind, mark] = MARKS[answer.verdict];
  return node("span", { class: `badge ${kind}` }, `${mark} ${text}`);
}

function answerBlock(answer) {
  const stop = answer.stop && answer.stop !== "eos" ? `, stopped by ${answer.stop}` : "";
  return node("div", {},
    node("h4", {}, `${answer.variant} `, badge(answer, answer.verdict), ` ${answer.tokens ?? "?"} tokens${stop}; ${answer.right} of ${answer.of} right`),
    node("pre", { class: "text", tabindex: "0", dir: "auto", "aria-label": `Response of ${answer.variant}` }, answer.response || "(empty)"));
}

// The answers are put into the document when they are first looked at.
function problemCard(problem) {
  const card = node("details", { class: "card" },
    node("summary", {}, problem.question.replaceAll("\n", " ").slice(0, 110),
      node("div", { class: "verdicts" }, ...problem.answers.map((answer) => badge(answer, `${answer.variant} ${answer.tokens ?? "?"}`)))));
  card.addEventListener("toggle", () => {
    card.append(node("div", { class: "detail answers" },
      node("dl", {}, node("dt", {}, "Problem"), node("dd", {}, node("pre", { class: "text", dir: "auto" }, problem.question)),
        node("dt", {}, "Reference"), node("dd", {}, problem.reference)),
      node("div", { class: "panels answers" }, ...problem.answers.map(answerBlock))));
  }, { once: true });
  return card;
}

function problemList() {
  const list = node("div", { class: "two", id: "problems" });
  const more = node("div", { class: "more", "aria-live": "polite" });
  const search = node("input", { type: "search", placeholder: "Search problems and answers", "aria-label": "Search problems and answers" });
  const differs = (problem) => new Set(problem.answers.map((answer) => answer.verdict)).size > 1;
  const chips = [["All", () => true], ["Verdicts differ", differs], ["None right", (problem) => problem.answers.every((a) => a.verdict !== "correct")]]
    .map(([name, keeps], i) => ({ keeps, button: node("button", { type: "button", "aria-pressed": String(i === 0) }, name) }));
  let [wanted, shown] = [data.problems, 0];
  function extend() {
    list.append(...wanted.slice(shown, shown + SHOWN).map(problemCard));
    shown = Math.min(wanted.length, shown + SHOWN);
    const button = node("button", { type: "button" }, "Show more");
    button.addEventListener("click", extend);
    more.replaceChildren(node("span", { class: "soft" }, `${shown} of ${wanted.length} problems`), shown < wanted.length ? button : "");
  }
  function choose() {
    const words = search.value.toLowerCase();
    const { keeps } = chips.find(({ button }) => button.getAttribute("aria-pressed") === "true");
    wanted = data.problems.filter((p) => keeps(p) && [p.question, p.reference, ...p.answers.map((a) => a.response)].some((text) => text.toLowerCase().includes(words)));
    shown = 0;
    list.replaceChildren();
    extend();
  }
  for (const { button } of chips) {
    button.addEventListener("click", () => {
      chips.forEach((chip) => chip.button.setAttribute("aria-pressed", String(chip.button === button)));
      choose();
    });
  }
  search.addEventListener("input", choose);
  extend();
  return [node("div", { class: "tools" }, node("div", { class: "chips" }, ...chips.map(({ button }) => button)), search), list, more];
}

function factList() {
  return node("section", { class: "card detail" }, node("dl", {}, ...data.facts.flatMap(([name, value]) => [node("dt", {}, name), node("dd", {}, value)])));
}

document.getElementById("page").append(pageHeader(), findings());
if (data.variants.length) {
  document.getElementById("page").append(
    node("h2", {}, "Token efficiency"), plot(),
    node("h2", {}, "Variants"), resultTable(),
    node("p", { class: "soft more" }, "Per 100 tokens: points of accuracy. It favours short and poor answers; the front says what is worth having."),
    ...lengths());
}
document.getElementById("page").append(
  node("h2", {}, "Held-out problems, the first answer of each variant"), ...problemList(),
  node("h2", {}, "Settings"), factList());
