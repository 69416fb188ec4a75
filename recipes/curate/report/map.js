// The map: rows as points on a canvas, coloured and shaped by what they are, to be looked at by pointer, finger or keys.

const COLORS = ["k0", "k1", "k2", "k3", "k4", "k5", "ink", "s5"];
const RAMP = ["r0", "r1", "r2", "r3", "r4"]; // from hard to easy
const REACH = 22; // pixels from which a point is found

// Marks of about the same area around (0, 0), so that categories can be told apart without their colours.
const MARKS = [
  "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0Z",
  "M0 -4L3.9 2.9H-3.9Z",
  "M-2.9 -2.9H2.9V2.9H-2.9Z",
  "M0 -4.2L3.6 0L0 4.2L-3.6 0Z",
  "M-1.2 -3.9H1.2V-1.2H3.9V1.2H1.2V3.9H-1.2V1.2H-3.9V-1.2H-1.2Z",
  "M0 4L3.9 -2.9H-3.9Z",
  "M-3.6 -2L-2 -3.6L0 -1.6L2 -3.6L3.6 -2L1.6 0L3.6 2L2 3.6L0 1.6L-2 3.6L-3.6 2L-1.6 0Z",
  "M-4 -1.3H4V1.3H-4Z",
];

// What points can be coloured by: { name, categories: [{ name, color, mark, size }], of: point -> category }.
function byName(name, column, say, others, limit = COLORS.length) {
  const own = column.names.length <= limit ? column.names.length : limit - 1;
  const sizes = column.names.map(() => 0);
  for (const code of column.codes) sizes[code] += 1;
  const categories = column.names.slice(0, own).map((value, i) => ({ name: say(value), color: COLORS[i], mark: MARKS[i], size: sizes[i] }));
  if (own < column.names.length) {
    categories.push({ name: `${column.names.length - own} ${others}`, color: COLORS.at(-1), mark: MARKS.at(-1), size: sizes.slice(own).reduce((a, b) => a + b, 0) });
  }
  return { name, categories, of: (i) => Math.min(column.codes[i], categories.length - 1) };
}

// Sources have the same colours wherever they are shown.
function bySource(map) {
  const known = data.series.filter((name) => map.source.names.includes(name));
  const names = [...known, ...map.source.names.filter((name) => !known.includes(name))];
  const column = { names, codes: map.source.codes.map((code) => names.indexOf(map.source.names[code])) };
  const found = byName("source", column, (name) => name, "other sources", known.length < names.length ? known.length + 1 : COLORS.length);
  found.categories.forEach((category, i) => {
    const color = i < known.length ? sourceColor(known[i]) : "s5";
    Object.assign(category, { color, mark: MARKS[COLORS.indexOf(color)] });
  });
  return found;
}

function byFate(map) {
  const order = ["", ...data.stages.map((stage) => stage.name)].filter((name) => map.fate.names.includes(name));
  const names = [...order, ...map.fate.names.filter((name) => !order.includes(name))];
  return byName("fate", { names, codes: map.fate.codes.map((code) => names.indexOf(map.fate.names[code])) }, fateName, "other stages");
}

function fateName(name) {
  return name === "" ? "kept" : `dropped: ${data.stages.find((stage) => stage.name === name)?.title ?? name}`;
}

// Levels by value where those are few, else five equal parts; the harder, the nearer to the ramp's first colour.
function byDifficulty(map) {
  const rate = map.difficulty_name === "pass rate";
  const values = [...new Set(map.difficulty.filter((value) => value !== null))].sort((a, b) => a - b);
  const few = values.length <= RAMP.length;
  const [low, high] = rate ? [0, 1] : [values[0], values.at(-1)];
  const count = few ? values.length : RAMP.length;
  const edge = (i) => number(low + ((high - low) * i) / count, 2);
  const categories = Array.from({ length: count }, (_, i) => {
    const at = count > 1 ? Math.round((i * (RAMP.length - 1)) / (count - 1)) : RAMP.length - 1;
    const color = RAMP[rate ? at : RAMP.length - 1 - at];
    const end = i + 1 === count ? "" : "less than ";
    return { name: `${map.difficulty_name} ${few ? number(values[i]) : `${edge(i)} to ${end}${edge(i + 1)}`}`, color, mark: MARKS[0], size: 0 };
  });
  categories.push({ name: "not known", color: "s5", mark: MARKS.at(-1), size: 0 });
  const level = (value) => (few ? values.indexOf(value) : Math.min(count - 1, Math.floor(((value - low) / (high - low)) * count + 1e-9)));
  const of = (i) => (map.difficulty[i] === null ? count : level(map.difficulty[i]));
  map.difficulty.forEach((_, i) => { categories[of(i)].size += 1; });
  return { name: map.difficulty_name, categories, of };
}

function colourings(map) {
  const found = [byFate(map), bySource(map)];
  if (map.domain.names.some(Boolean)) found.push(byName("domain", map.domain, (name) => name || "not known", "other domains"));
  if (map.difficulty.some((value) => value !== null)) found.push(byDifficulty(map));
  return found;
}

// A legend of buttons: a pressed one leaves the others' points faint. Returns the swatches too: they know the colours.
function mapLegend(colouring, chosen, choose) {
  const swatches = [];
  const keys = colouring.categories.map((category, i) => {
    const swatch = shape("svg", { viewBox: "-6 -6 12 12", width: 15, height: 15, class: `${category.color}`, "aria-hidden": "true" });
    swatch.append(shape("path", { d: category.mark, class: "fill" }));
    swatches.push(swatch.firstChild);
    const button = node("button", { type: "button", class: "key", "aria-pressed": String(chosen === i), disabled: !category.size }, swatch,
      node("span", { dir: "auto" }, category.name), node("span", { class: "soft" }, category.size.toLocaleString("en")));
    button.addEventListener("click", () => choose(chosen === i ? null : i));
    return button;
  });
  return { swatches, element: node("div", { class: "keys", role: "group", "aria-label": "Show only" }, ...keys) };
}

// What is said of a point.
function pointLines(map, i) {
  const difficulty = map.difficulty[i];
  return [
    [map.source.names[map.source.codes[i]], map.domain.names[map.domain.codes[i]], difficulty === null ? "" : `${map.difficulty_name} ${number(difficulty)}`].filter(Boolean).join(" · "),
    fateName(map.fate.names[map.fate.codes[i]]),
    map.id[i],
  ];
}

// The nearest of the points in a direction: far ones and those to the side count as farther.
function towards(places, from, [dx, dy], visible) {
  let best = null;
  places.forEach(([x, y], i) => {
    const [ahead, aside] = [(x - places[from][0]) * dx + (y - places[from][1]) * dy, Math.abs((x - places[from][0]) * dy) + Math.abs((y - places[from][1]) * dx)];
    if (i === from || !visible(i) || ahead <= 0.5) return;
    const cost = ahead + 2.5 * aside;
    if (best === null || cost < best.cost) best = { cost, i };
  });
  return best === null ? from : best.i;
}

function nearest(places, [x, y], visible) {
  let best = { distance: REACH, i: null };
  places.forEach((place, i) => {
    const distance = Math.hypot(place[0] - x, place[1] - y);
    if (distance < best.distance && visible(i)) best = { distance, i };
  });
  return best.i;
}

function paint(canvas, size, places, colouring, swatches, only) {
  const scale = window.devicePixelRatio || 1;
  const mark = scale * Math.min(1, 0.55 + size[0] / 2000); // smaller where there is little room
  [canvas.width, canvas.height] = size.map((length) => Math.round(length * scale));
  const pen = canvas.getContext("2d");
  const shapes = colouring.categories.map((category) => new Path2D(category.mark));
  const colors = swatches.map((swatch) => getComputedStyle(swatch).fill);
  const order = places.map((_, i) => i).sort((a, b) => colouring.categories[colouring.of(b)].size - colouring.categories[colouring.of(a)].size);
  for (const lit of [false, true]) {
    for (const i of order) {
      const own = colouring.of(i);
      if ((only === null || only === own) !== lit) continue;
      pen.setTransform(mark, 0, 0, mark, scale * places[i][0], scale * places[i][1]);
      pen.globalAlpha = lit ? 0.78 : 0.09;
      pen.fillStyle = colors[own];
      pen.fill(shapes[own]);
    }
  }
}

function mapSection() {
  const map = data.map;
  const title = node("h2", {}, "Map");
  if (!map || !map.x.length) return [title, node("p", { class: "card soft" }, map ? "No row has a place on the map." : "The rows were not embedded: there is no map.")];
  const shown = map.x.length === map.total ? `All ${map.total.toLocaleString("en")} rows` : `${map.x.length.toLocaleString("en")} of ${map.total.toLocaleString("en")} rows, rare fates more often than their share`;
  const canvas = node("canvas", { tabindex: "0", role: "application", "aria-label": "Map of the rows. Arrow keys move from point to point, Escape hides the text." });
  const tip = node("div", { class: "hint card", hidden: true, "aria-hidden": "true" });
  const spoken = node("div", { class: "spoken", role: "status" });
  const ring = node("div", { class: "ring", hidden: true }); // laid over: pointing repaints no point
  const room = node("div", { class: "chart" }, canvas, ring, tip);
  const foot = node("div", {});
  const kinds = colourings(map);
  const state = { kind: kinds[0], only: null, current: null };
  let [size, places, swatches] = [[0, 0], [], []];

  const visible = (i) => state.only === null || state.kind.of(i) === state.only;
  const repaint = () => paint(canvas, size, places, state.kind, swatches, state.only);

  function select(i) {
    if (state.current === i) return;
    state.current = i;
    tip.hidden = ring.hidden = i === null;
    if (i === null) return;
    const lines = pointLines(map, i);
    tip.replaceChildren(node("p", { dir: "auto" }, map.text[i] || "(empty)"), ...lines.map((line) => node("p", { class: "soft", dir: "auto" }, line)));
    spoken.textContent = [map.text[i], ...lines].join("; ");
    const [x, y] = places[i];
    const left = x + 14 + tip.offsetWidth < size[0] ? x + 14 : Math.max(0, Math.min(x - 14 - tip.offsetWidth, size[0] - tip.offsetWidth));
    const top = y + 14 + tip.offsetHeight < size[1] ? y + 14 : y - 14 - tip.offsetHeight;
    for (const [element, across, down] of [[tip, left, top], [ring, x, y]]) Object.assign(element.style, { left: `${across}px`, top: `${down}px` });
  }

  function relegend() {
    const made = mapLegend(state.kind, state.only, (only) => { state.only = only; select(null); relegend(); repaint(); });
    const at = [...foot.querySelectorAll("button")].indexOf(document.activeElement);
    foot.replaceChildren(made.element);
    foot.querySelectorAll("button")[at]?.focus();
    swatches = made.swatches;
  }

  function layout(width) {
    size = [Math.max(240, width), Math.round(Math.min(640, Math.max(340, 0.56 * width)))];
    const pad = 12;
    places = map.x.map((x, i) => [pad + ((x + 1) / 2) * (size[0] - 2 * pad), pad + ((1 - map.y[i]) / 2) * (size[1] - 2 * pad)]);
    canvas.style.height = `${size[1]}px`;
    select(null);
    repaint();
  }

  const buttons = kinds.map((kind) => {
    const button = node("button", { type: "button", "aria-pressed": String(kind === state.kind) }, kind.name);
    button.addEventListener("click", () => {
      Object.assign(state, { kind, only: null });
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      relegend();
      repaint();
    });
    return button;
  });
  listenTo(canvas, () => places, visible, state, select);
  relegend();
  redraw(canvas, room, layout);
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  return [title,
    node("p", { class: "soft" }, `${shown}; ${map.method}. Rows lie near to each other where their texts are alike; the axes have no unit. Point at a row, tap it, or move with the arrow keys.`),
    node("section", { class: "card panel" },
      node("div", { class: "tools" }, node("span", { class: "soft" }, "Colour by"), node("div", { class: "chips", role: "group", "aria-label": "Colour by" }, ...buttons)),
      room, foot, spoken)];
}

function listenTo(canvas, places, visible, state, select) {
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return nearest(places(), [event.clientX - box.left, event.clientY - box.top], visible);
  };
  canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") select(at(event)); });
  canvas.addEventListener("click", (event) => select(at(event)));
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch" && document.activeElement !== canvas) select(null); });
  canvas.addEventListener("blur", () => select(null));
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") select(null);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const first = places().findIndex((_, i) => visible(i));
    select(state.current === null ? first : towards(places(), state.current, way, visible));
  });
}
