// Small SVG charts: their parts, and charts over iterations or something else. Colours come from classes; text is only ever set as text.

// Horizontal lines at the ticks of a y axis, labelled.
function yGrid(svg, ticks, left, right, Y, text) {
  for (const tick of ticks) {
    svg.append(shape("line", { x1: left, x2: right, y1: Y(tick), y2: Y(tick), class: "grid" }));
    svg.append(shape("text", { x: left - 8, y: Y(tick) + 4, "text-anchor": "end", class: "tick" }, text(tick)));
  }
}

function xLabels(svg, ticks, X, y, text) {
  for (const tick of ticks) svg.append(shape("text", { x: X(tick), y, "text-anchor": "middle", class: "tick" }, text(tick)));
}

// An axis for shares, 0 to 100 % from left to right, with its lines from top to bottom; returns its scale.
function shareAxis(svg, left, right, top, bottom, labels = null) {
  const X = (share) => left + share * (right - left);
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  for (const tick of ticks) svg.append(shape("line", { x1: X(tick), x2: X(tick), y1: top, y2: bottom, class: "grid" }));
  if (labels !== null) xLabels(svg, ticks, X, labels, (tick) => `${100 * tick} %`);
  return X;
}

// A mean with its interval, lying: x of [low, mean, high].
function intervalMark(svg, [low, mean, high], y, color, radius) {
  const group = svg.appendChild(shape("g", { class: `s${color}` }));
  group.append(shape("path", { d: `M${low} ${y}H${high}M${low} ${y - 5}v10M${high} ${y - 5}v10`, class: "whisker" }));
  group.append(shape("circle", { cx: mean, cy: y, r: radius, class: "dot" }));
  return group;
}

const VERDICTS = [["correct", 2], ["wrong", 3], ["ungradable", 5]];

// What colours mean: [name, class of the colour].
function legend(kinds) {
  return node("div", { class: "legend" }, ...kinds.map(([kind, color]) =>
    node("span", { class: "key" }, node("span", { class: `swatch ${color}` }), kind)));
}

function verdictLegend(kinds = VERDICTS) {
  return legend(kinds.map(([kind, color]) => [kind, `s${color}`]));
}

// Responses in each bin of a histogram, all verdicts together.
function binTotals(histogram) {
  return histogram.correct.map((_, i) => VERDICTS.reduce((sum, [kind]) => sum + histogram[kind][i], 0));
}

// Bars of a histogram, layers stacked: [name, class of the colour, counts]; Y takes counts times scale, bin(i) says
// what is counted there.
function stackedBars(svg, edges, layers, X, Y, bin, scale = 1) {
  for (let i = 0; i + 1 < edges.length; i += 1) {
    let base = 0;
    for (const [name, color, counts] of layers) {
      const count = counts[i];
      if (!count) continue;
      const [bottom, top] = [Y(base * scale), Y((base + count) * scale)];
      const bar = shape("rect", { x: X(edges[i]) + 0.5, width: Math.max(0.5, X(edges[i + 1]) - X(edges[i]) - 1), y: top, height: bottom - top, class: `bar ${color}` });
      bar.append(shape("title", {}, `${bin(i)}: ${count} ${name}`));
      svg.append(bar);
      base += count;
    }
  }
}

// Bars of a histogram of responses, verdicts stacked.
function histogramBars(svg, histogram, X, Y, scale = 1) {
  const { edges, unit } = histogram;
  const layers = VERDICTS.map(([kind, color]) => [kind, `s${color}`, histogram[kind]]);
  stackedBars(svg, edges, layers, X, Y, (i) => `${edges[i]} to ${edges[i + 1] - 1} ${unit}`, scale);
}

// Draws at once when the element is on the page, without waiting for a frame, and again when its width changes: then in
// the next frame, for drawing changes the height of what is observed.
function redraw(element, box, draw) {
  let drawn = 0;
  const now = () => {
    drawn = element.clientWidth;
    draw(drawn || box.clientWidth - 38);
  };
  queueMicrotask(now);
  new ResizeObserver(() => requestAnimationFrame(() => { if (element.clientWidth !== drawn) now(); })).observe(box);
}

// The course of one number, without axes.
function spark(values) {
  const [width, height] = [120, 22];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  const known = values.filter((v) => v !== null);
  const [low, high] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
  const X = (i) => 3 + (i / Math.max(1, values.length - 1)) * (width - 6);
  const Y = (v) => (high > low ? 3 + (1 - (v - low) / (high - low)) * (height - 6) : height / 2);
  drawLine(svg.appendChild(shape("g", { class: "s0" })), { x: values.map((_, i) => i), y: values, kind: "line" }, X, Y);
  return svg;
}

// A horizontal axis: the place under the pointer, which all of its charts share; its labels; a place in words; and what
// arrow keys move through.
function axisOf(label, words, plural) {
  return {
    label,
    words,
    plural,
    x: null,
    listeners: [],
    set(x) {
      if (x === this.x) return;
      this.x = x;
      this.listeners.forEach((listener) => listener(x));
    },
  };
}

const ITERATIONS = axisOf(String, (x) => `iteration ${x}`, "iterations");

function logTicks(low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const step = Math.max(1, Math.ceil((last - first + 1) / 5));
  const ticks = [];
  for (let exponent = first; exponent <= last; exponent += step) ticks.push(10 ** exponent);
  return ticks;
}

function yRange(panel) {
  if (panel.span) return panel.span;
  if (panel.stacked) {
    const sums = panel.series[0].y.map((_, i) => panel.series.reduce((sum, s) => sum + (s.y[i] ?? 0), 0));
    return [0, Math.max(...sums, 1e-12) * 1.04];
  }
  const values = panel.series
    .flatMap((s) => [s.y, s.low ?? [], s.high ?? []].flat())
    .filter((v) => v !== null && (!panel.log || v > 0));
  if (!values.length) return panel.log ? [0.1, 1] : [0, 1];
  let low = values.reduce((a, b) => Math.min(a, b));
  let high = values.reduce((a, b) => Math.max(a, b));
  if (panel.log) return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
  if (low > 0 && low < 0.6 * high) low = 0;
  if (low === high) [low, high] = [low - Math.abs(low || 1) * 0.5, high + Math.abs(high || 1) * 0.5];
  const pad = (high - low) * 0.06;
  return [low === 0 ? 0 : low - pad, high + pad];
}

// Consecutive points without gaps; a gap (null) starts another run.
function runs(xs, ...columns) {
  const found = [[]];
  xs.forEach((x, i) => {
    const values = columns.map((column) => column[i]);
    if (values.some((value) => value === null || value === undefined)) found.push([]);
    else found.at(-1).push([x, ...values]);
  });
  return found.filter((run) => run.length);
}

function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function drawLine(svg, series, X, Y) {
  if (series.low && series.high && series.kind === "line") {
    for (const run of runs(series.x, series.low, series.high)) {
      const there = run.map(([x, low]) => [X(x), Y(low)]);
      const back = run.map(([x, , high]) => [X(x), Y(high)]).reverse();
      svg.append(shape("path", { d: `${path([...there, ...back])}Z`, class: "area" }));
    }
  }
  const className = { line: "stroke", faint: "faint", points: "joined" }[series.kind];
  const sparse = series.kind === "points" && series.x.length < 3; // a line between two marks would only invent data
  for (const run of sparse ? [] : runs(series.x, series.y)) {
    const points = run.map(([x, y]) => [X(x), Y(y)]);
    svg.append(shape("path", { d: path(points), class: className }));
    if (points.length === 1 && series.kind === "line") {
      svg.append(shape("circle", { cx: points[0][0], cy: points[0][1], r: 2.5, class: "dot" }));
    }
  }
  if (series.kind === "points") drawPoints(svg, series, X, Y);
}

function drawPoints(svg, series, X, Y) {
  series.x.forEach((x, i) => {
    if (series.y[i] === null) return;
    if (series.low && series.low[i] !== null) {
      const [a, b, c] = [Y(series.low[i]), Y(series.high[i]), X(x)];
      svg.append(shape("path", { d: `M${c} ${a}V${b}M${c - 3} ${a}h6M${c - 3} ${b}h6`, class: "whisker" }));
    }
    svg.append(shape("circle", { cx: X(x), cy: Y(series.y[i]), r: 3.6, class: "dot" }));
  });
}

// Stepped areas: one path per series, so that no seams show between neighbours.
function drawStack(svg, panel, X, Y, step) {
  const base = panel.series[0].x.map(() => 0);
  for (const s of panel.series) {
    const top = base.map((below, i) => below + (s.y[i] ?? 0));
    const edges = (heights) => s.x.flatMap((x, i) => [[X(x) - step / 2, Y(heights[i])], [X(x) + step / 2, Y(heights[i])]]);
    const outline = `${path([...edges(top), ...edges(base).reverse()])}Z`;
    svg.append(shape("path", { d: outline, class: `bar s${s.color}` }));
    top.forEach((height, i) => { base[i] = height; });
  }
}

function describe(panel, format, plural) {
  const parts = panel.series.filter((s) => s.legend).map((s) => {
    const values = s.y.filter((v) => v !== null);
    return values.length ? `${s.name} from ${format(values[0])} to ${format(values.at(-1))}` : `${s.name}: no data`;
  });
  return `${panel.title}. ${parts.join("; ")}. Left and right arrow keys move through the ${plural}.`;
}

function chart(panel, xRange, axis = ITERATIONS) {
  const format = FORMATS[panel.format];
  const svg = shape("svg", { role: "img", tabindex: "0", "aria-label": describe(panel, format, axis.plural) });
  const readouts = panel.series.filter((s) => s.legend).map((s) => [s, node("span", { class: "now" })]);
  const at = node("span", { class: "at" });
  const legend = node(
    "div",
    { class: "legend" },
    ...readouts.map(([s, value]) =>
      node("span", { class: "key" }, node("span", { class: `swatch s${s.color}` }), s.name, value)),
    at,
  );
  const box = node("section", { class: "card panel" }, node("h3", {}, panel.title),
    node("p", { class: "note" }, panel.note), svg, legend);
  const xs = [...new Set(panel.series.flatMap((s) => s.x))].sort((a, b) => a - b);
  let scale = null;
  let marker = null;

  function draw() {
    const width = Math.max(240, svg.clientWidth || box.clientWidth - 38);
    const height = box.classList.contains("wide") ? 280 : 210;
    const [left, right, top, bottom] = [52, 10, 8, 24];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    const [low, high] = yRange(panel);
    const map = panel.log ? Math.log10 : (v) => v;
    const [a, b] = [map(low), map(high)];
    const step = (width - left - right) / (xRange[1] - xRange[0] + 1);
    const inset = panel.stacked ? step / 2 : 0;
    const X = (x) => left + inset + ((x - xRange[0]) / (xRange[1] - xRange[0] || 1)) * (width - left - right - 2 * inset);
    const Y = (v) => top + (1 - (map(v) - a) / (b - a)) * (height - top - bottom);
    const unit = panel.log ? (v) => `1e${Math.round(Math.log10(v))}`.replace("e-", "e\u2212") : format;
    yGrid(svg, panel.log ? logTicks(low, high) : niceTicks(low, high, 4), left, width - right, Y, unit);
    xLabels(svg, niceTicks(xRange[0], xRange[1], Math.min(8, width / 70)).filter(Number.isInteger), X, height - 6, axis.label);
    svg.append(shape("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }));
    if (panel.stacked) drawStack(svg, panel, X, Y, step);
    else {
      const drawable = panel.log ? (s) => ({ ...s, y: s.y.map((v) => (v > 0 ? v : null)) }) : (s) => s;
      const marked = panel.series.filter((s) => s.kind === "points" && s.low); // intervals side by side, not one on another
      const dodge = (s) => (marked.includes(s) ? 7 * (marked.indexOf(s) - (marked.length - 1) / 2) : 0);
      for (const s of [...panel.series].sort((p, q) => (q.kind === "faint") - (p.kind === "faint"))) {
        drawLine(svg.appendChild(shape("g", { class: `s${s.color}` })), drawable(s), (x) => X(x) + dodge(s), Y);
      }
    }
    marker = svg.appendChild(shape("line", { y1: top, y2: height - bottom, class: "cursor", visibility: "hidden" }));
    scale = { X, width };
    show(axis.x);
  }

  function show(x) {
    at.textContent = x === null ? "" : axis.words(x);
    for (const [s, value] of readouts) {
      const i = x === null ? s.y.findLastIndex((v) => v !== null) : s.x.indexOf(x);
      value.textContent = i >= 0 && s.y[i] !== null && s.y[i] !== undefined ? format(s.y[i]) : "\u2013";
    }
    if (!marker) return;
    marker.setAttribute("visibility", x === null ? "hidden" : "visible");
    if (x !== null) for (const end of ["x1", "x2"]) marker.setAttribute(end, scale.X(x));
  }

  function nearest(event) {
    const bounds = svg.getBoundingClientRect();
    const pixel = ((event.clientX - bounds.left) / bounds.width) * scale.width;
    return xs.reduce((best, x) => (Math.abs(scale.X(x) - pixel) < Math.abs(scale.X(best) - pixel) ? x : best), xs[0]);
  }
  svg.addEventListener("pointermove", (event) => axis.set(nearest(event)));
  svg.addEventListener("pointerleave", () => axis.set(null));
  svg.addEventListener("blur", () => axis.set(null));
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const here = axis.x === null ? (move < 0 ? xs.length : -1) : xs.indexOf(axis.x);
    axis.set(xs[Math.min(xs.length - 1, Math.max(0, here + move))]);
  });
  axis.listeners.push(show);
  queueMicrotask(draw); // when it is on the page, without waiting for a frame
  new ResizeObserver(draw).observe(box);
  return box;
}
