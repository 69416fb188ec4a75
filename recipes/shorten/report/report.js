// The page of long2short: the plot, the table, how each variant was made, lengths, answers side by side.

const COLOR = { long: "ink", short: 5, merge: 1, rejection: 2, merge_rejection: 4, dpo: 3, rl: 0 };
const SHOWN = 12;

function signed(value, digits = 1) {
  return `${value >= 0 ? "+" : "\u2212"}${Math.abs(value).toFixed(digits)}`;
}

function colorClass(variant) {
  return COLOR[variant.name] === "ink" ? "ink" : `s${COLOR[variant.name]}`;
}

function interval(estimate, scale = 1) {
  return `[${(scale * estimate.low).toFixed(1)}, ${(scale * estimate.high).toFixed(1)}]`;
}

function ticksOf(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) found.push(tick);
  return found;
}

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
  return node("section", { class: "card" }, ...data.verdict.map((line) => node("p", { class: "sentence" }, line[0].toUpperCase() + line.slice(1) + ".")));
}

function rangeOf(field, scale, pad) {
  const ends = data.variants.flatMap((v) => [scale * v[field].low, scale * v[field].high]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const margin = Math.max((high - low) * pad, 1);
  return [Math.max(0, low - margin), high + margin];
}

// Labels are moved up or down until they overlap neither each other nor a point.
function place(points, width) {
  const taken = points.map((p) => [p.x - 8, p.y - 8, p.x + 8, p.y + 8]);
  const hits = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  return points.map((p) => {
    const size = 7 * p.label.length;
    for (const distance of [-15, 17, 0, -30, 32, 46, -46, 60, -60]) {
      for (const right of [true, false]) {
        const x = right ? p.x + 12 : p.x - 12 - size;
        const box = [x, p.y + distance - 8, x + size, p.y + distance + 6];
        if (x < 44 || x + size > width || taken.some((other) => hits(box, other))) continue;
        taken.push(box);
        return { x, y: p.y + distance + 4 };
      }
    }
    return { x: p.x + 12, y: p.y + 4 };
  });
}

function arrow(svg, from, to, className) {
  const length = Math.hypot(to.x - from.x, to.y - from.y);
  if (length < 24) return;
  const [ux, uy] = [(to.x - from.x) / length, (to.y - from.y) / length];
  const [a, b] = [{ x: from.x + 9 * ux, y: from.y + 9 * uy }, { x: to.x - 9 * ux, y: to.y - 9 * uy }];
  const head = `M${b.x} ${b.y}L${b.x - 8 * ux + 4 * uy} ${b.y - 8 * uy - 4 * ux}M${b.x} ${b.y}L${b.x - 8 * ux - 4 * uy} ${b.y - 8 * uy + 4 * ux}`;
  svg.append(shape("path", { d: `M${a.x} ${a.y}L${b.x} ${b.y}${head}`, class: `faint ${className}` }));
}

function tell(variant) {
  const change = variant.change
    ? `; against long ${signed(100 * variant.change.accuracy)} points [${signed(100 * variant.change.low)}, ${signed(100 * variant.change.high)}], ${signed(100 * variant.change.tokens, 0)} % tokens`
    : "";
  return `${variant.title}: ${percent(variant.accuracy.mean)} ${interval(variant.accuracy, 100)} at ${number(variant.tokens.mean)} tokens ${interval(variant.tokens)}${change}`;
}

function plot() {
  const svg = shape("svg", { role: "group", "aria-label": "Accuracy against mean response tokens, one point per variant" });
  const readout = node("p", { class: "note", "aria-live": "polite" });
  const rest = "Crosses are 95 % intervals; the dashed line is the Pareto front; arrows start at the long model. Point at a variant for its numbers.";
  readout.textContent = rest;
  const [xs, ys] = [rangeOf("tokens", 1, 0.08), rangeOf("accuracy", 100, 0.12)];
  ys[1] = Math.min(100, ys[1]);
  const zero = ys[0] > 0 ? " The accuracy axis does not start at 0." : "";
  const box = node("section", { class: "card panel" }, node("h3", {}, "Accuracy against response length"),
    node("p", { class: "note" }, `Held-out accuracy (avg@n) and mean response tokens.${zero}`), svg, readout);

  function draw() {
    const width = Math.max(280, svg.clientWidth || box.clientWidth - 38);
    const height = Math.round(Math.min(460, Math.max(300, 0.5 * width)));
    const [left, right, top, bottom] = [52, 16, 12, 44];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    const X = (v) => left + ((v - xs[0]) / (xs[1] - xs[0])) * (width - left - right);
    const Y = (v) => top + (1 - (v - ys[0]) / (ys[1] - ys[0])) * (height - top - bottom);
    for (const tick of ticksOf(...ys, 5)) {
      svg.append(shape("line", { x1: left, x2: width - right, y1: Y(tick), y2: Y(tick), class: "grid" }));
      svg.append(shape("text", { x: left - 8, y: Y(tick) + 4, "text-anchor": "end", class: "tick" }, `${trim(tick)} %`));
    }
    for (const tick of ticksOf(...xs, Math.min(8, width / 90))) {
      svg.append(shape("text", { x: X(tick), y: height - bottom + 18, "text-anchor": "middle", class: "tick" }, trim(tick)));
    }
    svg.append(shape("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }));
    svg.append(shape("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", class: "tick" }, "mean response tokens"));
    const front = data.variants.filter((v) => v.front).sort((a, b) => a.tokens.mean - b.tokens.mean);
    const steps = front.map((v, i) => `${i ? `H${X(v.tokens.mean)}V` : `M${X(v.tokens.mean)} `}${Y(100 * v.accuracy.mean)}`).join("");
    svg.append(shape("path", { d: `${steps}H${width - right}`, class: "joined s5" }));
    const points = data.variants.map((v) => ({ x: X(v.tokens.mean), y: Y(100 * v.accuracy.mean), label: v.title }));
    const start = data.variants.findIndex((v) => v.name === "long");
    const labels = place(points, width - right);
    data.variants.forEach((v, i) => {
      const p = points[i];
      if (start >= 0 && v.name !== "long" && v.name !== "short") arrow(svg, points[start], p, colorClass(v));
      const group = svg.appendChild(shape("g", { class: colorClass(v), tabindex: "0", role: "img", "aria-label": tell(v) }));
      group.append(shape("path", { d: `M${X(v.tokens.low)} ${p.y}H${X(v.tokens.high)}M${p.x} ${Y(100 * v.accuracy.low)}V${Y(100 * v.accuracy.high)}`, class: "whisker" }));
      group.append(shape("circle", { cx: p.x, cy: p.y, r: 6, class: "dot" }));
      group.append(shape("circle", { cx: p.x, cy: p.y, r: 16, fill: "transparent" }));
      group.append(shape("text", { x: labels[i].x, y: labels[i].y, class: "name" }, v.title));
      for (const name of ["pointerenter", "focus"]) group.addEventListener(name, () => { readout.textContent = tell(v); });
      for (const name of ["pointerleave", "blur"]) group.addEventListener(name, () => { readout.textContent = rest; });
    });
  }
  new ResizeObserver(draw).observe(box);
  return box;
}

function resultTable() {
  const columns = [["Variant", "19%"], ["Accuracy", "10%", "num"], ["95 %", "13%"], ["Tokens", "9%", "num"], ["Median", "8%", "num"],
    ["Cut", "8%", "num"], ["Against long", "17%"], ["Cap hit", "8%", "num"], ["Front", "8%"]];
  const head = columns.map(([name, width, kind]) => node("th", { width, class: kind }, name));
  const rows = data.variants.flatMap((v) => [
    node("tr", {},
      node("td", {}, node("span", { class: `swatch inline ${colorClass(v)}` }), " ", node("b", {}, v.title)),
      node("td", { class: "num", "data-label": "accuracy" }, node("b", {}, percent(v.accuracy.mean))),
      node("td", { "data-label": "95 %" }, interval(v.accuracy, 100)),
      node("td", { class: "num", "data-label": "tokens" }, number(v.tokens.mean)),
      node("td", { class: "num", "data-label": "median" }, number(v.median_tokens)),
      node("td", { class: "num", "data-label": "cut" }, v.change ? `${signed(-100 * v.change.tokens, 0)}\u00A0%`.replace("+", "") : "–"),
      node("td", { "data-label": "against long" }, v.change ? `${signed(100 * v.change.accuracy)} [${signed(100 * v.change.low)}, ${signed(100 * v.change.high)}]` : "–"),
      node("td", { class: "num", "data-label": "cap hit" }, percent(v.truncated)),
      node("td", { "data-label": "front" }, v.front ? "yes" : "–")),
    node("tr", {}, node("td", { colspan: columns.length, class: "soft" }, v.note || "as it is",
      v.ungradable ? `; ${percent(v.ungradable)} ungradable` : ""))]);
  return node("div", { class: "card scroll" }, node("table", {}, node("thead", {}, node("tr", {}, ...head)), node("tbody", {}, ...rows)));
}

// Response lengths; all panels share their axes, so that they can be compared by eye.
function lengthPanels() {
  const known = data.variants.filter((v) => v.histogram);
  const longest = Math.max(...known.map((v) => v.histogram.edges.at(-1)));
  const share = (v, i) => (v.histogram.correct[i] + v.histogram.wrong[i] + v.histogram.ungradable[i]) / Math.max(1, total(v)) / (v.histogram.edges[1] - v.histogram.edges[0]);
  const total = (v) => ["correct", "wrong", "ungradable"].flatMap((k) => v.histogram[k]).reduce((a, b) => a + b, 0);
  const highest = Math.max(...known.flatMap((v) => v.histogram.correct.map((_, i) => share(v, i))));
  return known.map((v) => {
    const [width, height, base] = [560, 130, 106];
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${v.title}: median ${v.median_tokens} tokens, longest bin up to ${v.histogram.edges.at(-1)}` });
    const X = (tokens) => 4 + (tokens / longest) * (width - 8);
    v.histogram.correct.forEach((right, i) => {
      const [a, b] = [X(v.histogram.edges[i]), X(v.histogram.edges[i + 1])];
      const whole = (share(v, i) / highest) * (base - 6);
      const all = right + v.histogram.wrong[i] + v.histogram.ungradable[i];
      const good = all ? (whole * right) / all : 0;
      svg.append(shape("rect", { x: a + 0.5, y: base - whole, width: Math.max(0.5, b - a - 1), height: whole - good, class: "bar s3" }));
      svg.append(shape("rect", { x: a + 0.5, y: base - good, width: Math.max(0.5, b - a - 1), height: good, class: "bar s2" }));
    });
    svg.append(shape("line", { x1: 4, x2: width - 4, y1: base, y2: base, class: "axis" }));
    for (const tick of ticksOf(0, longest, 4)) svg.append(shape("text", { x: X(tick), y: height - 4, "text-anchor": "middle", class: "tick" }, trim(tick)));
    return node("section", { class: "card panel" }, node("h3", {}, v.title), node("p", { class: "note" }, `mean ${number(v.tokens.mean)}, median ${number(v.median_tokens)} tokens`), svg);
  });
}

function answerBlock(answer) {
  const kind = { correct: "right", wrong: "wrong" }[answer.verdict] ?? "ungraded";
  return node("div", {},
    node("h4", {}, `${answer.variant} `, node("span", { class: `badge ${kind}` }, answer.verdict),
      ` ${answer.tokens ?? "?"} tokens${answer.stop && answer.stop !== "eos" ? `, stopped by ${answer.stop}` : ""}; ${answer.right} of ${answer.of} right`),
    node("pre", { class: "text" }, answer.response));
}

function problemList() {
  const list = node("div", { class: "two", id: "problems" });
  const more = node("div", { class: "more" });
  let shown = 0;
  function extend() {
    for (const problem of data.problems.slice(shown, shown + SHOWN)) {
      list.append(node("details", { class: "card" },
        node("summary", {}, problem.question.replaceAll("\n", " ").slice(0, 110)),
        node("div", { class: "detail" },
          node("dl", {}, node("dt", {}, "Problem"), node("dd", {}, node("pre", { class: "text" }, problem.question)),
            node("dt", {}, "Reference"), node("dd", {}, problem.reference)),
          node("div", { class: "panels answers" }, ...problem.answers.map(answerBlock)))));
    }
    shown = Math.min(data.problems.length, shown + SHOWN);
    const button = node("button", { type: "button" }, "Show more");
    button.addEventListener("click", extend);
    more.replaceChildren(node("span", { class: "soft" }, `${shown} of ${data.problems.length} problems`), shown < data.problems.length ? button : "");
  }
  extend();
  return [list, more];
}

function factList() {
  return node("section", { class: "card detail" }, node("dl", {}, ...data.facts.flatMap(([name, value]) => [node("dt", {}, name), node("dd", {}, value)])));
}

document.getElementById("page").append(
  pageHeader(), findings(),
  node("h2", {}, "Token efficiency"), plot(),
  node("h2", {}, "Variants"), resultTable(),
  node("h2", {}, "Response lengths"), node("p", { class: "soft" }, "Right answers below, wrong ones above; all panels have the same axes."),
  node("div", { class: "panels" }, ...lengthPanels()),
  node("h2", {}, "Held-out problems, the first answer of each variant"), ...problemList(),
  node("h2", {}, "Settings"), factList(),
);
