// Accuracy against mean response tokens, after k1.5's Figure 7.

const COLOR = { long: "ink", short: "s5", merge: "s1", rejection: "s2", merge_rejection: "s4", dpo: "s3", rl: "s0" };

function signed(value, digits = 1) {
  return `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(digits)}`;
}

function tokens(value) {
  return value >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

function interval(estimate, text) {
  return `[${text(estimate.low)}, ${text(estimate.high)}]`;
}

const inPercent = (value) => (100 * value).toFixed(1);
const inPoints = (value) => signed(100 * value);
const inWholePercent = (value) => signed(100 * value, 0);

// What is known of a variant, line by line.
function told(v) {
  const lines = [
    `accuracy ${percent(v.accuracy.mean)} ${interval(v.accuracy, inPercent)}`,
    `tokens ${tokens(v.tokens.mean)} ${interval(v.tokens, tokens)}, median ${tokens(v.median_tokens)}`,
  ];
  if (v.change) lines.push(`against long ${inPoints(v.change.accuracy)} points ${interval(v.change, inPoints)}`);
  if (v.token_change) lines.push(`against long ${inWholePercent(v.token_change.mean)} % tokens ${interval(v.token_change, inWholePercent)}`);
  lines.push(`${number(v.efficiency.mean)} points per 100 tokens`);
  lines.push(v.front ? "on the Pareto front" : `beaten by ${v.rivals.join(", ")}`);
  return lines;
}

// What labels should not cover, as [x, y, weight].
function along(from, to, weight) {
  const count = Math.max(2, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / 4));
  return Array.from({ length: count }, (_, i) => [from[0] + ((to[0] - from[0]) * i) / (count - 1), from[1] + ((to[1] - from[1]) * i) / (count - 1), weight]);
}

function filled([left, top, right, bottom]) {
  return Array.from({ length: 5 }, (_, i) => top + ((bottom - top) * i) / 4).flatMap((y) => along([left, y], [right, y], 20));
}

// The label's box [left, top, right, bottom] near (x, y) that covers least.
function place(x, y, width, frame, obstacles) {
  let best = null;
  [10, 18, 30, 44, 60, 80].forEach((reach, ring) => {
    [[1, -1], [1, 1], [-1, -1], [-1, 1], [1, 0], [-1, 0], [0, -1], [0, 1]].forEach(([right, down], side) => {
      const left = x + right * reach - (width * (1 - right)) / 2;
      const top = y + down * reach - 7 - down * 7;
      const box = [left, top, left + width, top + 14];
      const out = box[0] < frame[0] || box[1] < frame[1] || box[2] > frame[2] || box[3] > frame[3];
      const covered = obstacles.filter(([a, b]) => a > box[0] - 3 && a < box[2] + 3 && b > box[1] - 2 && b < box[3] + 2);
      const cost = 8 * ring + side + (out ? 1000 : 0) + covered.reduce((sum, [, , weight]) => sum + weight, 0);
      if (best === null || cost < best.cost) best = { cost, box };
    });
  });
  return best.box;
}

function frontPath(X, Y, right) {
  const front = data.variants.filter((v) => v.front).sort((a, b) => a.tokens.mean - b.tokens.mean);
  return front.flatMap((v, i) => {
    const y = Y(v.accuracy.mean);
    return [[X(v.tokens.mean), y], [i + 1 < front.length ? X(front[i + 1].tokens.mean) : right, y]];
  });
}

function drawMove(svg, from, to, color) {
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  if (length < 24) return;
  const [ux, uy] = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
  const [ax, ay, bx, by] = [from[0] + 9 * ux, from[1] + 9 * uy, to[0] - 8 * ux, to[1] - 8 * uy];
  svg.append(shape("path", { d: `M${ax} ${ay}L${bx - 8 * ux} ${by - 8 * uy}`, class: `move ${color}` }));
  const corner = (side) => `${bx - 9 * ux + side * 4 * uy} ${by - 9 * uy - side * 4 * ux}`;
  svg.append(shape("path", { d: `M${bx} ${by}L${corner(1)}L${corner(-1)}Z`, class: `move head ${color}` }));
}

function drawAxes(svg, ranges, X, Y, frame) {
  const [left, top, right, bottom] = frame;
  const text = (tick) => tick.toLocaleString("en", { maximumFractionDigits: 6 });
  yGrid(svg, niceTicks(100 * ranges.accuracy[0], 100 * ranges.accuracy[1], 5), left, right, (tick) => Y(tick / 100), (tick) => `${text(tick)} %`);
  const ticks = niceTicks(...ranges.tokens, Math.min(8, (right - left) / 80));
  for (const tick of ticks) svg.append(shape("line", { x1: X(tick), x2: X(tick), y1: top, y2: bottom, class: "grid" }));
  xLabels(svg, ticks, X, bottom + 18, text);
  svg.append(shape("text", { x: left - 8, y: top - 12, "text-anchor": "start", class: "tick" }, "accuracy"));
  svg.append(shape("path", { d: `M${left} ${top}V${bottom}H${right}`, class: "axis", fill: "none" }));
  svg.append(shape("text", { x: (left + right) / 2, y: bottom + 38, "text-anchor": "middle", class: "tick" }, "mean response tokens"));
}

function tooltip(svg, v, x, y, frame) {
  svg.querySelector(".tip")?.remove();
  const lines = [v.title, ...told(v)];
  const tip = svg.appendChild(shape("g", { class: "tip", "aria-hidden": "true" }));
  const box = tip.appendChild(shape("rect", { rx: 8 }));
  const texts = lines.map((line, i) => tip.appendChild(shape("text", { class: i ? "" : "first" }, line)));
  const width = 20 + Math.max(...texts.map((text) => text.getBBox().width));
  const height = 14 + 18 * lines.length;
  const left = Math.max(2, Math.min(x + 16, frame[2] + 14 - width));
  const top = y + 16 + height < frame[3] + 40 ? y + 16 : Math.max(2, y - 16 - height);
  for (const [name, value] of Object.entries({ x: left, y: top, width, height })) box.setAttribute(name, value);
  texts.forEach((text, i) => { text.setAttribute("x", left + 10); text.setAttribute("y", top + 21 + 18 * i); });
}

// What is said of axes that leave 0 out.
function axesNote(ranges) {
  const cut = [["tokens", ranges.tokens[0]], ["accuracy", ranges.accuracy[0]]].filter(([, low]) => low > 0).map(([name]) => name);
  return cut.length ? ` The ${cut.join(" and ")} ${cut.length > 1 ? "axes do" : "axis does"} not start at 0.` : " Both axes start at 0.";
}

function drawVariants(svg, X, Y, frame, order) {
  const at = (v) => [X(v.tokens.mean), Y(v.accuracy.mean)];
  const long = data.variants.find((v) => v.name === "long");
  const moved = long ? data.variants.filter((v) => v.name !== "long" && v.name !== "short") : [];
  const front = frontPath(X, Y, frame[2]);
  const whiskers = data.variants.map((v) => [[[X(v.tokens.low), at(v)[1]], [X(v.tokens.high), at(v)[1]]], [[at(v)[0], Y(v.accuracy.low)], [at(v)[0], Y(v.accuracy.high)]]]);
  svg.append(shape("path", { d: `M${front.map((p) => p.join(" ")).join("L")}`, class: "joined s5" }));
  moved.forEach((v) => drawMove(svg, at(long), at(v), COLOR[v.name]));
  const obstacles = [...front.slice(1).flatMap((p, i) => along(front[i], p, 2)), ...moved.flatMap((v) => along(at(long), at(v), 0.3)),
    ...whiskers.flat().flatMap(([a, b]) => along(a, b, 4)), ...data.variants.flatMap((v) => filled([at(v)[0] - 8, at(v)[1] - 8, at(v)[0] + 8, at(v)[1] + 8]))];
  const spots = order.map((v) => {
    const [[[x0], [x1]], [[, y0], [, y1]]] = whiskers[data.variants.indexOf(v)];
    const [x, y] = at(v);
    const spot = svg.appendChild(shape("g", { class: `spot ${COLOR[v.name]}`, tabindex: "-1", role: "img", "aria-label": [v.title, ...told(v)].join("; ") }));
    spot.append(shape("path", { d: `M${x0} ${y}H${x1}M${x} ${y0}V${y1}M${x0} ${y - 3}v6M${x1} ${y - 3}v6M${x - 3} ${y0}h6M${x - 3} ${y1}h6`, class: "whisker" }));
    spot.append(shape("circle", { cx: x, cy: y, r: 6, class: "dot" }), shape("circle", { cx: x, cy: y, r: 14, class: "hit" }));
    return spot;
  });
  order.forEach((v, i) => {
    const label = spots[i].appendChild(shape("text", { class: "name" }, v.title));
    const box = place(...at(v), label.getBBox().width, [frame[0] + 2, frame[1], frame[2] + 12, frame[3] - 2], obstacles);
    label.setAttribute("x", box[0]);
    label.setAttribute("y", box[1] + 11);
    obstacles.push(...filled(box));
    const [x, y] = at(v); // from a label that had to move away, a line shows what it names
    const near = [Math.min(Math.max(x, box[0]), box[2]), Math.min(Math.max(y, box[1]), box[3])];
    if (Math.hypot(near[0] - x, near[1] - y) > 20) spots[i].append(shape("path", { d: `M${near.join(" ")}L${x} ${y}`, class: "move" }));
  });
  return spots;
}

// One tab stop for all marks; pointer and focus show the numbers, Escape hides them.
function listen(spots, choose, show, hide) {
  spots.forEach((spot, i) => {
    for (const name of ["pointerenter", "focus"]) spot.addEventListener(name, () => show(i));
    for (const name of ["pointerleave", "blur"]) spot.addEventListener(name, hide);
    spot.addEventListener("focus", () => choose(i));
    spot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      const next = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: spots.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      spots[next]?.focus();
    });
  });
}

function plot() {
  const svg = shape("svg", { role: "group", "aria-label": "Accuracy against mean response tokens, one mark per variant. Left and right arrow keys move from variant to variant." });
  const note = node("p", { class: "note" });
  const zero = node("button", { type: "button", "aria-pressed": "false" }, "Axes from 0");
  const needed = data.axes.tokens[0] > 0 || data.axes.accuracy[0] > 0;
  const box = node("section", { class: "card panel" }, note, svg, needed ? node("div", { class: "more" }, zero) : null);
  const order = [...data.variants].sort((a, b) => a.tokens.mean - b.tokens.mean);
  let current = 0;

  function draw(room) {
    const width = Math.max(280, room);
    const height = Math.round(Math.min(480, Math.max(320, 0.48 * width)));
    const frame = [52, 26, width - 16, height - 48];
    const from = zero.getAttribute("aria-pressed") === "true" ? () => 0 : (low) => low;
    const ranges = Object.fromEntries(Object.entries(data.axes).map(([name, [low, high]]) => [name, [from(low), high]]));
    const scale = ([low, high], a, b) => (value) => a + ((value - low) / (high - low)) * (b - a);
    const [X, Y] = [scale(ranges.tokens, frame[0], frame[2]), scale(ranges.accuracy, frame[3], frame[1])];
    const focused = svg.contains(document.activeElement);
    note.textContent = `Held-out accuracy (avg@n) and mean response tokens. Crosses are 95 % intervals, the dashed line is the Pareto front; arrows lead from the long model to what was made of it.${axesNote(ranges)}`;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    drawAxes(svg, ranges, X, Y, frame);
    const spots = drawVariants(svg, X, Y, frame, order);
    const choose = (i) => {
      spots.forEach((spot, j) => spot.setAttribute("tabindex", i === j ? "0" : "-1"));
      current = i;
    };
    listen(spots, choose, (i) => tooltip(svg, order[i], X(order[i].tokens.mean), Y(order[i].accuracy.mean), frame), () => svg.querySelector(".tip")?.remove());
    choose(current);
    if (focused) spots[current].focus();
  }
  zero.addEventListener("click", () => {
    zero.setAttribute("aria-pressed", String(zero.getAttribute("aria-pressed") !== "true"));
    draw(svg.clientWidth);
  });
  redraw(svg, box, draw);
  return box;
}
