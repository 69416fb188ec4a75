// The page of a curation: what was done, the funnel, sources, difficulty, the map, the set, what was dropped, contamination.

function header() {
  const facts = data.facts;
  return pageHeader("Curation", tag("model", facts.model), tag("encoder", facts.encoder), tag("seed", facts.seed), tag("k15", facts.k15), revisionTag(facts), tag("date", facts.created));
}

function done() {
  const facts = data.facts;
  const entered = data.stages.length ? data.stages[0].entered : 0;
  const large = (value, label) => node("div", { class: "fact" }, node("div", { class: "value" }, value), node("div", { class: "label" }, label));
  const ran = data.stages.filter((stage) => !stage.skipped).length;
  const words = entered ? `Of ${count(entered)} rows ${data.kept.rows ? count(data.kept.rows) : "none"} ${data.kept.rows === 1 ? "is" : "are"} kept${data.kept.rows ? ` (${share(data.kept.rows, entered)})` : ""}.` : "There was no row.";
  return node("div", { class: "hero" },
    node("section", { class: "card" }, node("p", { class: "sentence" }, words),
      node("pre", { class: "text", tabindex: "0", "aria-label": "Command" }, facts.command)),
    node("section", { class: "card facts" },
      large(count(entered), "rows"), large(count(data.kept.rows), "kept"),
      large(`${ran} of ${data.stages.length}`, "stages done"), large(duration(facts.seconds), "time")));
}

function warnings() {
  if (!data.warnings.length) return [];
  const more = data.warnings_total - data.warnings.length;
  return [node("section", { class: "card notes" }, node("ul", {}, ...data.warnings.map((line) => node("li", { dir: "auto" }, line)), more > 0 ? node("li", {}, `${count(more)} more`) : null))];
}

// The class of a source's colour; those without one of their own share it.
function sourceColor(name) {
  const at = data.series.indexOf(name);
  return at < 0 ? "s5" : COLORS[at];
}

function sourceTable() {
  if (!data.sources.length) return [];
  const stages = data.stages.filter((stage) => !stage.skipped);
  const letters = stages.map((stage) => 4 + Math.max(...stage.title.split(" ").map((word) => word.length))); // no head breaks in a word
  const width = (i) => `${(62 * letters[i]) / letters.reduce((a, b) => a + b, 0)}%`;
  const columns = [
    { name: "Source", width: "18%", cell: (source) => node("span", { title: source.origin }, node("span", { class: `swatch inline ${sourceColor(source.name)}` }), " ", node("b", { dir: "auto" }, source.name)) },
    { name: "Rows", width: "7%", kind: "num", label: "rows", cell: (source) => count(source.rows) },
    ...stages.map((stage, i) => ({ name: stage.title, width: width(i), kind: "num", label: stage.title.toLowerCase(), title: (source) => `dropped by ${stage.title}: ${share(source.dropped[stage.name] ?? 0, source.rows)} of ${source.name}`, cell: (source) => (source.dropped[stage.name] ? `\u2212${count(source.dropped[stage.name])}` : "–") })),
    { name: "Kept", width: "13%", kind: "num", label: "kept", cell: (source) => node("span", {}, node("b", {}, count(source.kept)), ` · ${share(source.kept, source.rows)}`) },
  ];
  const rows = data.sources.flatMap((source) => [tableRow(columns, source, "flow"),
    node("tr", {}, node("td", { colspan: columns.length, class: "soft" }, source.origin || "–"))]);
  return [node("h2", {}, "By source"), node("div", { class: "card scroll" }, node("table", {}, tableHead(columns), node("tbody", {}, ...rows)))];
}

function passRateCard(rates) {
  const { samples } = rates;
  const layers = [...rates.layers.map(([name, counts]) => [name, sourceColor(name), counts]), ["other sources", "s5", rates.others]].filter(([, , counts]) => counts.some(Boolean));
  const totals = rates.others.map((_, i) => layers.reduce((sum, [, , counts]) => sum + counts[i], 0));
  const asked = totals.reduce((a, b) => a + b, 0);
  const svg = shape("svg", { role: "img", "aria-label": `Problems by right responses of ${samples}: ${totals.map((total, i) => `${i}: ${total}`).join(", ")}` });
  const notes = [`${count(asked)} problems by how many of ${samples} responses were right.`];
  if (rates.easiest !== null) {
    const least = Math.ceil(rates.easiest * samples - 1e-9);
    notes.push(`${least}${least < samples ? " or more" : ""} right: dropped as trivial.`);
  }
  if (rates.unsolved_dropped) notes.push("None right: dropped.");
  if (rates.unmeasured) notes.push(`${count(rates.unmeasured)} problems with fewer graded responses are not in it.`);
  const box = panel("Pass rates", notes.join(" "), svg, legend(layers.map(([name, color]) => [name, color])));
  redraw(svg, box, (room) => {
    const [width, height, left, right, top, bottom] = [Math.max(240, room), 240, 56, 8, 18, 42];
    const most = Math.max(1, ...totals);
    const X = (value) => left + (value / (samples + 1)) * (width - left - right);
    const Y = (value) => top + (1 - value / most) * (height - top - bottom);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    yGrid(svg, niceTicks(0, most, 4).filter(Number.isInteger), left, width - right, Y, compact);
    stackedBars(svg, Array.from({ length: samples + 2 }, (_, i) => i), layers, X, Y, (i) => `${i} of ${samples} right`);
    const every = Math.ceil((samples + 1) / Math.max(2, (width - left) / 34));
    const places = totals.map((_, i) => i).filter((i) => i % every === 0);
    xLabels(svg, places, (i) => X(i + 0.5), height - 24, String);
    for (const i of every === 1 && width > 560 ? places : []) svg.append(shape("text", { x: X(i + 0.5), y: Y(totals[i]) - 5, "text-anchor": "middle", class: "tick" }, compact(totals[i])));
    svg.append(shape("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }));
    svg.append(shape("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", class: "tick" }, `right responses of ${samples}`));
  });
  return box;
}

function difficulty() {
  const title = node("h2", {}, "Difficulty");
  if (!data.pass_rates) return [title, node("p", { class: "card soft" }, "No model was asked: pass rates are not known.")];
  return [title, passRateCard(data.pass_rates)];
}

// Classes of the levels, from the easiest on: the last is the hardest, the ramp's first colour.
function levelColor(i, levels) {
  return RAMP[levels > 1 ? RAMP.length - 1 - Math.round((i * (RAMP.length - 1)) / (levels - 1)) : RAMP.length - 1];
}

function keptSet() {
  const { kept } = data;
  const title = node("h2", {}, "The set");
  if (!kept.rows) return [title, node("p", { class: "card soft" }, "No row is left: there is no set.")];
  const levels = kept.levels.length ? kept.levels : ["all"];
  const domains = kept.domains?.length ? panel("Domains and levels", levels.length > 1 ? "Rows of each domain, by level of difficulty, the easiest first: parts of the pass rate or, without a model, of the source's own scale." : "Rows of each domain.",
    bars(kept.domains.map(([name, counts]) => [name || "not known", counts.map((value, i) => [value, levelColor(i, levels.length), levels[i] ?? ""])])),
    levels.length > 1 ? node("div", { class: "legend" }, ...levels.map((level, i) => node("span", { class: "key" }, node("span", { class: `swatch ${levelColor(i, levels.length)}` }), level))) : null) : null;
  const simple = (heading, rows) => (rows?.length ? panel(heading, "", bars(rows.map(([name, value]) => [name || "not known", [[value, "s0", "rows"]]]))) : null);
  const quantile = (q) => ({ 0: "shortest", 0.5: "median", 1: "longest" })[q] ?? `${number(100 * q)}\u00A0%`;
  const lengths = kept.lengths.length ? panel("Lengths", "Characters of the statements; so many per cent are at most so long.",
    node("div", { class: "detail" }, definitionList(kept.lengths.map(([q, length]) => [quantile(q), count(length)])))) : null;
  return [title, ...[domains].filter(Boolean), node("div", { class: "panels answers" }, ...[simple("Languages", kept.languages), simple("Answers", kept.answers), lengths].filter(Boolean))];
}

function settings() {
  const { facts } = data;
  const times = data.stages.filter((stage) => !stage.skipped).map((stage) => [`time of ${stage.title.toLowerCase()}`, duration(stage.seconds)]);
  return [node("h2", {}, "How it was made"), node("section", { class: "card detail" },
    definitionList([["command", facts.command], ["model", facts.model ?? "– none"], ["encoder", facts.encoder ?? "– none"], ["seed", String(facts.seed)], ...facts.settings, ...times, ...facts.versions]))];
}

const samples = dropped();
document.getElementById("page").replaceChildren(
  header(), done(), ...warnings(),
  ...funnel(samples.open), ...sourceTable(), ...difficulty(), ...mapSection(), ...keptSet(),
  ...samples.section, ...contamination(), ...settings(),
  node("footer", {}, "Written by k15 curate. Counts are of all rows; rows themselves are samples."),
);
