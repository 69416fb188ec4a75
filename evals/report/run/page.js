// The page around the charts: header, verdict, rollouts, configuration.

const PAGE_SIZE = 25;

function header() {
  const facts = data.facts;
  const revision = typeof facts.git_revision === "string" ? facts.git_revision.slice(0, 12) : null;
  return node("header", {},
    node("div", {},
      node("h1", {}, data.name),
      node("div", { class: "tags" },
        tag("recipe", data.recipe), tag("model", data.model), tag("revision", revision), tag("seed", facts.seed),
        tag("started", facts.started), tag("run", data.state))),
    themeButton());
}

// Both intervals on one 0..100 % axis.
function intervals(before, after) {
  const [width, height, left, right] = [560, 92, 62, 28];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img",
    "aria-label": "Held-out accuracy with 95 % intervals, before and after" });
  const X = (v) => left + v * (width - left - right);
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(shape("line", { x1: X(tick), x2: X(tick), y1: 4, y2: 66, class: "grid" }));
    svg.append(shape("text", { x: X(tick), y: 84, "text-anchor": "middle", class: "tick" }, `${100 * tick} %`));
  }
  [[before, 20, 5, "before"], [after, 50, 0, after && after.name === "after" ? "after" : "latest"]].forEach(([item, y, color, name]) => {
    if (!item) return;
    const { mean, low, high } = item.accuracy;
    const group = svg.appendChild(shape("g", { class: `s${color}` }));
    group.append(shape("text", { x: left - 12, y: y + 4, "text-anchor": "end", class: "tick" }, name));
    group.append(shape("path", { d: `M${X(low)} ${y}H${X(high)}M${X(low)} ${y - 5}v10M${X(high)} ${y - 5}v10`, class: "whisker" }));
    group.append(shape("circle", { cx: X(mean), cy: y, r: 5.5, class: "dot" }));
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
      totals.versions ? `up to ${totals.versions} weight versions in one` : ""),
    fact("tokens sampled", compact(totals.tokens), totals.saved ? `${compact(totals.saved)} saved by repetition stop` : ""),
    fact("RL wall time", duration(totals.seconds), totals.skipped ? `${totals.skipped} steps skipped` : ""),
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
  const range = [xs.reduce((a, b) => Math.min(a, b), 0), xs.reduce((a, b) => Math.max(a, b), 1)];
  return data.sections.flatMap((section) => {
    const panels = section.panels.map((panel) => chart(panel, range));
    if (panels.length % 2) panels[0].classList.add("wide");
    return [node("h2", {}, section.title), node("div", { class: "panels" }, ...panels)];
  });
}

function versionClass(version) {
  return `v${version % 6}`;
}

function definitions(row) {
  const list = node("dl", {});
  const add = (name, value) => list.append(node("dt", {}, name), node("dd", {}, value));
  add("reference", row.answer);
  add("extracted", row.extracted || "\u2013 none found");
  if (row.reason) add("reason", row.reason);
  add("stopped by", row.stop ?? "\u2013");
  add("tokens", row.segments.map((s) => `${s.tokens}`).join(" + ") + (row.segments.length > 1 ? ` = ${row.length}` : ""));
  add("score", number(row.score));
  for (const part of row.score_parts) add(`\u00B7 ${part.name}`, number(part.value));
  add("length reward", number(row.length_reward));
  add("reward", row.reward === null ? "masked" : number(row.reward));
  add("advantage", row.advantage === null ? "none: not in the loss" : number(row.advantage));
  add("carried loss", row.trained ? "yes" : "no");
  add("problem", [row.problem, row.source, row.difficulty === null ? "" : `difficulty ${row.difficulty}`].filter(Boolean).join(" \u00B7 "));
  add("rollout", row.rollout);
  return list;
}

function detail(row) {
  const several = row.segments.length > 1;
  const text = node("pre", { class: "text", tabindex: "0", dir: "auto", "aria-label": "Response" });
  if (row.opening) text.append(node("span", { class: "soft", title: "begun by the prompt" }, row.opening));
  for (const segment of row.segments) {
    const color = versionClass(segment.version);
    if (several) text.append(node("span", { class: `mark ${color}`, "aria-hidden": "true" }, `v${segment.version}`));
    text.append(node("span", { class: `segment ${several ? color : ""}`, title: `weight version ${segment.version}, ${segment.tokens} tokens` }, segment.text));
  }
  const legend = row.segments.map((s) => node("span", { class: `version ${versionClass(s.version)}` }, `v${s.version} \u00B7 ${s.tokens} tokens`));
  return node("div", { class: "both" },
    node("div", {},
      node("h4", {}, "Prompt"), node("pre", { class: "text", tabindex: "0", dir: "auto", "aria-label": "Prompt" }, row.prompt),
      node("h4", {}, "Response, by weight version ", ...legend), text),
    node("div", {}, node("h4", {}, "Verdict and reward"), definitions(row)));
}

const COLUMNS = [
  ["", null, "4%"],
  ["Iteration", (r) => r.iteration, "9%"],
  ["Problem", (r) => r.prompt, "31%"],
  ["Outcome", (r) => r.outcome, "11%"],
  ["Stop", (r) => r.stop ?? "", "10%"],
  ["Tokens", (r) => r.length, "9%", "num"],
  ["Versions", (r) => r.segments.length, "16%"],
  ["Reward", (r) => r.reward ?? -Infinity, "10%", "num"],
];

function rolloutRow(row) {
  const button = node("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": `Show rollout ${row.rollout}` }, "\u203A");
  const versions = row.segments.length > 1
    ? row.segments.map((s) => node("span", { class: `version ${versionClass(s.version)}` }, `v${s.version}`))
    : [node("span", { class: "soft" }, row.segments.length ? `v${row.segments[0].version}` : "\u2013")];
  const line = node("tr", { class: "row" },
    node("td", {}, button), node("td", { "data-label": "it" }, String(row.iteration)),
    node("td", { class: "problem", title: row.prompt }, row.prompt),
    node("td", {}, node("span", { class: `badge ${row.outcome}` }, row.outcome)),
    node("td", {}, row.stop ?? "\u2013"), node("td", { class: "num", "data-label": "tok" }, String(row.length)),
    node("td", {}, ...versions), node("td", { class: "num", "data-label": "r" }, row.reward === null ? "masked" : number(row.reward)));
  const toggle = () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) line.nextElementSibling.remove();
    else line.after(node("tr", { class: "detail" }, node("td", { colspan: COLUMNS.length }, detail(row))));
  };
  line.addEventListener("click", toggle);
  return line;
}

const filter = { outcome: null, partial: false, stop: "", text: "", from: null, to: null, sort: null, down: false, shown: PAGE_SIZE };

function matches(row) {
  if (filter.outcome && row.outcome !== filter.outcome) return false;
  if (filter.partial && row.segments.length < 2) return false;
  if (filter.stop && row.stop !== filter.stop) return false;
  if (filter.from !== null && row.iteration < filter.from) return false;
  if (filter.to !== null && row.iteration > filter.to) return false;
  return !filter.text || row.haystack.includes(filter.text);
}

function selectedRows() {
  const rows = data.rollouts.filter(matches);
  if (!filter.sort) return rows;
  const sign = filter.down ? -1 : 1;
  return rows.sort((a, b) => {
    const [x, y] = [filter.sort(a), filter.sort(b)];
    return x < y ? -sign : x > y ? sign : 0;
  });
}

function tools(update) {
  const counts = (test) => data.rollouts.filter(test).length;
  const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));
  const chips = node("div", { class: "chips", role: "group", "aria-label": "Outcome" });
  for (const outcome of [null, "right", "wrong", "partly", "ungraded"]) {
    const count = counts((r) => !outcome || r.outcome === outcome);
    if (!count) continue;
    const chip = node("button", { type: "button", "aria-pressed": String(outcome === null) }, `${outcome ?? "all"} ${count}`);
    chip.addEventListener("click", () => {
      filter.outcome = outcome;
      for (const other of chips.children) pressed(other, other === chip);
      update();
    });
    chips.append(chip);
  }
  const partial = node("button", { type: "button", "aria-pressed": "false" }, `2+ weight versions ${counts((r) => r.segments.length > 1)}`);
  partial.addEventListener("click", () => {
    filter.partial = !filter.partial;
    pressed(partial, filter.partial);
    update();
  });
  const stops = [...new Set(data.rollouts.map((r) => r.stop).filter(Boolean))].sort();
  const stop = node("select", { "aria-label": "Stop reason" }, node("option", { value: "" }, "any stop"),
    ...stops.map((s) => node("option", { value: s }, `stop: ${s}`)));
  stop.addEventListener("change", () => { filter.stop = stop.value; update(); });
  const search = node("input", { type: "search", placeholder: "Search prompts and responses", "aria-label": "Search" });
  search.addEventListener("input", () => { filter.text = search.value.toLowerCase(); update(); });
  const bound = (name) => {
    const input = node("input", { type: "number", min: "0", "aria-label": `${name} iteration` });
    input.addEventListener("input", () => { filter[name] = input.value === "" ? null : Number(input.value); update(); });
    return input;
  };
  return node("div", { class: "tools" }, chips, partial, stop, node("label", {}, "iterations", bound("from"), "to", bound("to")), search);
}

function rollouts() {
  const title = node("h2", { id: "rollouts", tabindex: "-1" }, "Rollouts");
  if (!data.rollouts.length) return [title, node("p", { class: "card soft" }, "No rollouts stored yet.")];
  for (const row of data.rollouts) {
    row.haystack = [row.prompt, row.answer, row.extracted, row.problem, ...row.segments.map((s) => s.text)].join("\n").toLowerCase();
  }
  const body = node("tbody", {});
  const count = node("span", { class: "soft", role: "status" });
  const more = node("button", { type: "button" }, "Show more");
  const update = (keep = false) => {
    if (!keep) filter.shown = PAGE_SIZE;
    const rows = selectedRows();
    body.replaceChildren(...rows.slice(0, filter.shown).map(rolloutRow));
    count.textContent = `${Math.min(filter.shown, rows.length)} of ${rows.length} shown`;
    more.hidden = rows.length <= filter.shown;
  };
  more.addEventListener("click", () => { filter.shown += PAGE_SIZE; update(true); });
  const heads = COLUMNS.map(([name, key, width, kind]) => {
    if (!key) return node("th", { width }, node("span", { class: "soft" }, name));
    const button = node("button", { type: "button" }, name);
    const head = node("th", { width, class: kind, "aria-sort": "none" }, button);
    button.addEventListener("click", () => {
      filter.down = filter.sort === key ? !filter.down : false;
      filter.sort = key;
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", filter.down ? "descending" : "ascending");
      heads.forEach((other, i) => { if (COLUMNS[i][1]) other.firstChild.textContent = COLUMNS[i][0] + (other === head ? (filter.down ? " \u2193" : " \u2191") : ""); });
      update();
    });
    return head;
  });
  update();
  const all = data.rollouts_total === data.rollouts.length;
  const note = all ? `All ${data.rollouts_total} rollouts of the run.`
    : `${data.rollouts.length} of ${data.rollouts_total.toLocaleString("en")} stored rollouts, chosen evenly over the run with every outcome and stop reason in; the rest is in rollouts/*.parquet.`;
  return [title, node("p", { class: "soft" }, note), node("br", {}), tools(() => update()),
    node("div", { class: "card scroll" },
      node("table", {}, node("thead", {}, node("tr", {}, ...heads)), body), node("div", { class: "more" }, count, more))];
}

function fold(title, text) {
  return text ? node("details", { class: "card" }, node("summary", {}, title), node("pre", {}, text)) : null;
}

document.getElementById("page").replaceChildren(
  header(),
  node("div", { class: "hero" }, verdictCard(), factsCard()),
  ...[findings(), notes()].filter(Boolean),
  ...chartSections(),
  ...rollouts(),
  node("h2", {}, "Provenance"),
  node("div", { class: "two" }, ...[fold("Configuration", data.config),
    Object.keys(data.facts).length ? fold("Environment", JSON.stringify(data.facts, null, 2)) : null].filter(Boolean)),
  node("footer", {}, "Written by k15. Accuracy intervals are 95 % Wilson intervals with problems as clusters."),
);
