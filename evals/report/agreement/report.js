// The page on rule and reward model: how they compare, on which responses, and the responses themselves.

function header() {
  const facts = data.facts;
  return pageHeader(data.title, tag("model", facts.model), tag("judges", facts.when), tag("k15", facts.k15), revisionTag(facts), tag("date", facts.created));
}

function bracket(estimate, digits = 1, scale = 100) {
  return estimate ? `[${(scale * estimate.low).toFixed(digits)}, ${(scale * estimate.high).toFixed(digits)}]` : "–";
}

function kappa(found) {
  if (found.kappa === null) return "–";
  const between = found.kappa95 ? ` [${found.kappa95.map((value) => value.toFixed(2)).join(", ")}]` : "";
  return `${found.kappa.toFixed(2)}${between}`.replaceAll("-", "\u2212");
}

function verdictCard() {
  const all = data.all;
  const card = node("section", { class: "card" });
  if (!all.agreement) {
    card.append(node("p", { class: "sentence" }, `No response has a verdict of both. ${all.only_model} were judged by the model alone, ${all.only_rule} by the rule alone.`));
    return card;
  }
  card.append(
    node("p", { class: "sentence" }, `Rule and model agree on ${percent(all.agreement.mean)} of the ${all.compared.toLocaleString("en")} responses that both have judged.`),
    node("p", { class: "soft" }, `95\u00A0% ${bracket(all.agreement)}, ${all.agreement.n} problems; Cohen's kappa ${kappa(all)}.`),
    ...[[all.false_right, all.both_wrong, "wrong by the rule", "right"], [all.false_wrong, all.both_right, "right by the rule", "wrong"]]
      .filter(([other, same]) => other + same)
      .map(([other, same, kind, said]) => node("p", {}, `Of the ${(other + same).toLocaleString("en")} that are ${kind}, the model calls ${percent(other / (other + same))} ${said}.`)));
  return card;
}

// Rule by model, as counts and shares of the compared responses.
function confusion() {
  const all = data.all;
  const cell = (count, kind) => node("span", { class: kind ? `badge ${kind}` : null },
    `${count.toLocaleString("en")} · ${all.compared ? percent(count / all.compared) : "–"}`);
  const columns = [
    { name: "", width: "34%", cell: (row) => row[0] },
    { name: "right by the model", width: "33%", cell: (row) => row[1] },
    { name: "wrong by the model", width: "33%", cell: (row) => row[2] },
  ];
  const rows = [
    [node("b", {}, "right by the rule"), cell(all.both_right), cell(all.false_wrong, "wrong")],
    [node("b", {}, "wrong by the rule"), cell(all.false_right, "wrong"), cell(all.both_wrong)],
  ];
  return node("section", { class: "card" }, table(columns, rows, "flow"),
    node("p", { class: "soft" }, `Judged by the model alone: ${all.only_model.toLocaleString("en")}; by the rule alone: ${all.only_rule.toLocaleString("en")}; by neither: ${all.neither.toLocaleString("en")}.`));
}

function whisker(estimate) {
  const [width, height] = [150, 22];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${percent(estimate.mean)}, 95 % ${bracket(estimate)}` });
  const X = shareAxis(svg, 6, width - 6, 2, height - 2);
  intervalMark(svg, [estimate.low, estimate.mean, estimate.high].map(X), 11, 0, 4.5);
  return svg;
}

function slices() {
  const fields = [...new Set(data.slices.map((part) => part.field))];
  const panels = fields.map((field) => {
    const columns = [
      { name: field, width: "25%", cell: (part) => part.value },
      { name: "agree", width: "13%", kind: "num", label: "agree", cell: (part) => percent(part.agreement.mean) },
      { name: "", width: "28%", cell: (part) => whisker(part.agreement) },
      { name: "model alone", width: "12%", kind: "num", label: "right by the model alone", cell: (part) => String(part.false_right) },
      { name: "rule alone", width: "11%", kind: "num", label: "right by the rule alone", cell: (part) => String(part.false_wrong) },
      { name: "of", width: "11%", kind: "num", label: "responses", cell: (part) => String(part.compared) },
    ];
    return node("section", { class: "card panel" }, node("h3", {}, `By ${field}`), table(columns, data.slices.filter((part) => part.field === field)));
  });
  return panels.length ? [node("h2", {}, "Where they agree"), node("div", { class: "panels" }, ...panels)] : [];
}

function word(right) {
  return right === null ? "–" : right ? "right" : "wrong";
}

function badge(right) {
  return right === null ? node("span", { class: "soft" }, "–") : node("span", { class: `badge ${word(right)}` }, word(right));
}

function definitions(row) {
  return definitionList([
    ["by the rule", word(row.rule)],
    ["by the model", row.probability === null ? "–" : `${word(row.model)}, ${percent(row.probability)} right`],
    ["what counted", row.verdict],
    row.reason ? ["reason", row.reason] : null,
    ["reference", row.reference || "– none"],
    row.source ? ["source", row.source] : null,
    row.difficulty === null ? null : ["difficulty", number(row.difficulty)],
    row.tokens === null ? null : ["tokens", String(row.tokens)],
    ["response", row.id]]);
}

function detail(row) {
  return node("div", { class: "both" },
    node("div", {}, node("h4", {}, "Question"), textBlock("Question", row.question),
      node("h4", {}, "Response"), textBlock("Response", row.response || "(empty)"),
      ...(row.opinion ? [node("h4", {}, "What the model wrote"), textBlock("What the model wrote", row.opinion)] : [])),
    node("div", {}, node("h4", {}, "Verdicts"), definitions(row)));
}

const COLUMNS = [
  { name: "Question", width: "38%", kind: "problem", cell: (row) => row.question, title: (row) => row.question, order: (row) => row.question },
  { name: "Rule", width: "11%", label: "rule", cell: (row) => badge(row.rule), order: (row) => word(row.rule) },
  { name: "Model", width: "11%", label: "model", cell: (row) => badge(row.model), order: (row) => word(row.model) },
  { name: "P(right)", width: "10%", kind: "num", label: "P", cell: (row) => (row.probability === null ? "–" : row.probability.toFixed(2)), order: (row) => row.probability ?? -1 },
  { name: "Reference", width: "16%", kind: "problem", cell: (row) => row.reference || "–", order: (row) => row.reference },
  { name: "Tokens", width: "10%", kind: "num", label: "tok", cell: (row) => (row.tokens === null ? "–" : String(row.tokens)), order: (row) => row.tokens ?? -1 },
];

const KINDS = [
  ["disagree", (row) => row.kind === "false right" || row.kind === "false wrong"],
  ["right by the model alone", (row) => row.kind === "false right"],
  ["right by the rule alone", (row) => row.kind === "false wrong"],
  ["agree", (row) => row.kind === "agree"],
  ["judged by the model alone", (row) => row.kind === "only model"],
  ["judged by the rule alone", (row) => row.kind === "only rule"],
  ["by neither", (row) => row.kind === "neither"],
];

function responses() {
  const rows = data.responses;
  const differ = rows.some(KINDS[0][1]);
  return records({
    id: "responses",
    heading: "Responses",
    note: rows.length === data.responses_total ? `All ${data.responses_total} responses.`
      : `${rows.length} of ${data.responses_total.toLocaleString("en")} responses: those on which both disagree first, and some of every other kind.`,
    empty: "No responses.",
    rows,
    columns: COLUMNS,
    name: (row) => `response ${row.id}`,
    detail,
    text: (row) => [row.question, row.reference, row.response, row.opinion, row.id],
    search: "Search questions, responses, opinions",
    filters: [
      chips(rows, "Verdicts", differ ? [...KINDS.slice(0, 1), ["all", () => true], ...KINDS.slice(1)] : [["all", () => true], ...KINDS]),
      chooser(rows, "source", (row) => row.source),
    ],
  });
}

document.getElementById("page").replaceChildren(
  header(),
  node("div", { class: "hero" }, verdictCard(), confusion()),
  ...slices(),
  ...responses(),
  node("footer", {}, "Written by k15. Intervals are 95 %: Wilson's with problems as clusters, kappa's by a bootstrap over problems."),
);
