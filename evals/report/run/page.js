// The page of a run: verdict, findings, charts, rollouts, all metrics, configuration.

function header() {
  const facts = data.facts;
  return pageHeader(data.name, tag("recipe", data.recipe), tag("model", data.model), revisionTag(facts), tag("seed", facts.seed),
    tag("started", facts.started), tag("run", data.state));
}

// Both intervals on one 0..100 % axis.
function intervals(before, after) {
  const [width, height, left, right] = [560, 92, 62, 28];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img",
    "aria-label": "Held-out accuracy with 95 % intervals, before and after" });
  const X = shareAxis(svg, left, width - right, 4, 66, 84);
  [[before, 20, 5, "before"], [after, 50, 0, after && after.name === "after" ? "after" : "latest"]].forEach(([item, y, color, name]) => {
    if (!item) return;
    const { mean, low, high } = item.accuracy;
    const group = intervalMark(svg, [X(low), X(mean), X(high)], y, color, 5.5);
    group.append(shape("text", { x: left - 12, y: y + 4, "text-anchor": "end", class: "tick" }, name));
  });
  return svg;
}

function interval(item) {
  const { low, high, n } = item.accuracy;
  return `95\u00A0% [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}], ${n} problems \u00D7 ${item.samples}`;
}

function verdictCard() {
  const { before, after } = data;
  const card = node("section", { class: "card" }, node("p", { class: "sentence" }, data.verdict));
  if (!before && !after) return card;
  const change = node("div", { class: "change" });
  if (before) change.append(node("span", { class: "from" }, percent(before.accuracy.mean)));
  if (before && after) change.append(node("span", { class: "arrow" }, "\u2192"));
  if (after) change.append(node("span", { class: "to" }, percent(after.accuracy.mean)));
  change.append(node("span", { class: "soft" }, interval(after ?? before)));
  card.append(change, intervals(before, after));
  if (data.agreement) card.append(node("p", {}, node("a", { href: data.agreement }, "Where rule and reward model disagree")));
  if (data.promise) card.append(node("p", { class: "soft" }, data.promise));
  return card;
}

function fact(label, value, more = "") {
  return node("div", { class: "fact" }, node("div", { class: "value" }, value),
    node("div", { class: "label" }, label), more ? node("div", { class: "label" }, more) : null);
}

function factsCard() {
  const { totals, before, after } = data;
  const tokens = [before, after].filter(Boolean).map((item) => number(item.tokens.mean));
  return node("section", { class: "card facts", "aria-label": "Totals" },
    tokens.length ? fact("tokens per held-out answer", tokens.join(" \u2192 "), (after ?? before).truncated ? `${percent((after ?? before).truncated)} cut at the cap` : "") : null,
    fact("rollouts finished", totals.rollouts.toLocaleString("en"), totals.ungradable ? `${totals.ungradable} ungradable, masked` : ""),
    fact("continuations of partial rollouts", totals.resumed.toLocaleString("en"),
      totals.versions > 1 ? `up to ${totals.versions} weight versions in one` : ""),
    fact("tokens sampled", compact(totals.tokens), totals.saved ? `${compact(totals.saved)} saved by repetition stop` : ""),
    fact("RL wall time", duration(totals.seconds), [totals.skipped ? `${totals.skipped} steps skipped` : "",
      totals.failures ? `up to ${totals.failures} engines lost by one process` : ""].filter(Boolean).join(", ")),
    fact("largest engine\u2013learner gap", totals.gap === null ? "\u2013" : `${compact(totals.gap)} nats`, "log-probability of one token"));
}

function notes() {
  if (!data.notes.length) return null;
  return node("section", { class: "card notes" }, node("b", {}, "Left out of this report"),
    node("ul", {}, ...data.notes.map((note) => node("li", {}, note))));
}

// What a person should know before anything else; nothing when all is well.
function findings() {
  if (!data.findings.length) return null;
  return node("section", { class: "card findings", "aria-label": "Findings" },
    ...data.findings.map((item) => node("p", { "data-code": item.code }, node("b", {}, capital(item.message)), node("br", {}), `${capital(item.advice)}.`)));
}

function capital(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}`;
}

function chartSections() {
  const xs = data.sections.flatMap((s) => s.panels.flatMap((p) => p.series.flatMap((q) => q.x)));
  const bounds = [xs.reduce((a, b) => Math.min(a, b), 0), xs.reduce((a, b) => Math.max(a, b), 1)];
  return data.sections.flatMap((section) => {
    const panels = section.panels.map((panel) => chart(panel, bounds));
    if (panels.length % 2) panels[0].classList.add("wide");
    return [node("h2", {}, section.title), node("div", { class: "panels" }, ...panels)];
  });
}

function versionClass(version) {
  return `v${version % 6}`;
}

function own(row) {
  return row.segments.filter((s) => s.by !== "environment");
}

function fed(row) {
  return row.segments.filter((s) => s.by === "environment").map((s) => s.tokens).reduce((a, b) => a + b, 0);
}

function severalVersions(row) {
  return new Set(own(row).map((s) => s.version)).size > 1;
}

function definitions(row) {
  return definitionList([
    ["reference", row.answer],
    ["extracted", row.extracted || "\u2013 none found"],
    row.reason ? ["reason", row.reason] : null,
    ["stopped by", row.stop ?? "\u2013"],
    ["tokens", own(row).map((s) => `${s.tokens}`).join(" + ") + (own(row).length > 1 ? ` = ${row.length}` : "")],
    row.turns > 1 ? ["turns", `${row.turns}; the environment answered with ${fed(row)} tokens`] : null,
    row.probability === null ? null : ["by the reward model", `${verdictWord(row.model)}, ${percent(row.probability)} right`],
    row.probability === null && row.rule === null ? null : ["by the rule", verdictWord(row.rule)],
    ["score", number(row.score)],
    ...row.score_parts.map((part) => [`\u00B7 ${part.name}`, number(part.value)]),
    ["length reward", number(row.length_reward)],
    ["reward", row.reward === null ? "masked" : number(row.reward)],
    ["advantage", row.advantage === null ? "none: not in the loss" : number(row.advantage)],
    ["carried loss", row.trained ? "yes" : "no"],
    ["problem", [row.problem, row.source, row.difficulty === null ? "" : `difficulty ${row.difficulty}`].filter(Boolean).join(" \u00B7 ")],
    ["rollout", row.rollout]]);
}

function verdictWord(right) {
  return right === null ? "no verdict" : right ? "right" : "wrong";
}

function disagree(row) {
  return row.rule !== null && row.model !== null && row.rule !== row.model;
}

function detail(row) {
  const several = severalVersions(row);
  const text = textBlock("Response");
  if (row.opening) text.append(node("span", { class: "soft", title: "begun by the prompt" }, row.opening));
  for (const segment of row.segments) {
    if (segment.by === "environment") {
      text.append(node("span", { class: "fed", title: `written by the environment, ${segment.tokens} tokens: read, never trained on` }, segment.text));
      continue;
    }
    const color = versionClass(segment.version);
    if (several) text.append(node("span", { class: `mark ${color}`, "aria-hidden": "true" }, `v${segment.version}`));
    text.append(node("span", { class: `segment ${several ? color : ""}`, title: `weight version ${segment.version}, ${segment.tokens} tokens` }, segment.text));
  }
  const legend = own(row).map((s) => node("span", { class: `version ${versionClass(s.version)}` }, `v${s.version} \u00B7 ${s.tokens} tokens`));
  return node("div", { class: "both" },
    node("div", {}, node("h4", {}, "Prompt"), textBlock("Prompt", row.prompt),
      node("h4", {}, row.turns > 1 ? "Turns; shaded: the environment's answers " : "Response, by weight version ", ...legend), text,
      ...(row.opinion ? [node("h4", {}, "What the reward model wrote"), textBlock("What the reward model wrote", row.opinion)] : [])),
    node("div", {}, node("h4", {}, "Verdict and reward"), definitions(row)));
}

function versions(row) {
  const shown = severalVersions(row)
    ? own(row).map((s) => node("span", { class: `version ${versionClass(s.version)}` }, `v${s.version}`))
    : [node("span", { class: "soft" }, row.segments.length ? `v${row.segments[0].version}` : "\u2013")];
  return node("span", {}, ...shown);
}

const COLUMNS = [
  { name: "Iteration", width: "9%", label: "it", cell: (r) => String(r.iteration), order: (r) => r.iteration },
  { name: "Problem", width: "31%", kind: "problem", cell: (r) => r.prompt, title: (r) => r.prompt, order: (r) => r.prompt },
  { name: "Outcome", width: "11%", cell: (r) => node("span", { class: `badge ${r.outcome}` }, r.outcome), order: (r) => r.outcome },
  ...(data.rollouts.some((r) => r.probability !== null) ? [{ name: "Rule, model", width: "13%", cell: (r) => `${verdictWord(r.rule)}, ${verdictWord(r.model)}`, order: (r) => `${verdictWord(r.rule)} ${verdictWord(r.model)}` }] : []),
  { name: "Stop", width: "10%", cell: (r) => r.stop ?? "\u2013", order: (r) => r.stop ?? "" },
  { name: "Tokens", width: "9%", kind: "num", label: "tok", cell: (r) => String(r.length), order: (r) => r.length },
  { name: "Versions", width: "16%", cell: versions, order: (r) => own(r).length },
  ...(data.rollouts.some((r) => r.turns > 1) ? [{ name: "Turns", width: "6%", kind: "num", label: "turns", cell: (r) => String(r.turns), order: (r) => r.turns }] : []),
  { name: "Reward", width: "10%", kind: "num", label: "r", cell: (r) => (r.reward === null ? "masked" : number(r.reward)), order: (r) => r.reward ?? -Infinity },
];

function rollouts() {
  const rows = data.rollouts;
  const all = data.rollouts_total === rows.length;
  return records({
    id: "rollouts",
    heading: "Rollouts",
    note: all ? `All ${data.rollouts_total} rollouts of the run.`
      : `${rows.length} of ${data.rollouts_total.toLocaleString("en")} stored rollouts, chosen evenly over the run with every outcome and stop reason in; the rest is in rollouts/*.parquet.`,
    empty: "No rollouts stored yet.",
    rows,
    columns: COLUMNS,
    name: (row) => `rollout ${row.rollout}`,
    detail,
    text: (row) => [row.prompt, row.answer, row.extracted, row.problem, ...row.segments.map((s) => s.text)],
    search: "Search prompts and responses",
    filters: [
      chips(rows, "Outcome", [["all", () => true], ...["right", "wrong", "partly", "ungraded"].map((outcome) => [outcome, (row) => row.outcome === outcome])]),
      toggle(rows, "2+ weight versions", severalVersions),
      toggle(rows, "2+ turns", (row) => row.turns > 1),
      ...(rows.some((row) => row.probability !== null) ? [toggle(rows, "rule and model disagree", disagree)] : []),
      chooser(rows, "stop", (row) => row.stop),
      range("iterations", (row) => row.iteration),
    ],
  });
}

const METRIC_COLUMNS = [
  { name: "Metric", width: "20%", cell: (m) => node("span", { class: "mono" }, m.name) },
  { name: "Course", width: "14%", cell: (m) => spark(m.course) },
  { name: "Last", width: "9%", kind: "num", label: "last", cell: (m) => compact(m.last) },
  { name: "Lowest", width: "9%", kind: "num", label: "lowest", cell: (m) => compact(m.low) },
  { name: "Highest", width: "9%", kind: "num", label: "highest", cell: (m) => compact(m.high) },
  { name: "Meaning", width: "39%", cell: (m) => node("span", { class: "soft" }, m.unit ? `${m.meaning} [${m.unit}]` : m.meaning) },
];

function metrics() {
  if (!data.metrics.length) return [];
  return [node("h2", { id: "metrics" }, "All metrics"),
    node("details", { class: "card scroll fold" }, node("summary", {}, `${data.metrics.length} numbers of each iteration, as in metrics.jsonl`),
      table(METRIC_COLUMNS, data.metrics, "flow"))];
}

document.getElementById("page").replaceChildren(
  header(),
  node("div", { class: "hero" }, verdictCard(), factsCard()),
  ...[findings(), notes()].filter(Boolean),
  ...chartSections(),
  ...timelineSection(data.timeline),
  ...rollouts(),
  ...metrics(),
  node("h2", {}, "Provenance"),
  node("div", { class: "two" }, ...[data.config ? fold("Configuration", data.config) : null,
    Object.keys(data.facts).length ? fold("Environment", JSON.stringify(data.facts, null, 2)) : null].filter(Boolean)),
  node("footer", {}, "Written by k15. Accuracy intervals are 95 % Wilson intervals with problems as clusters."),
);
