// The timeline: what each lane did when, to be looked at as a whole or in parts.

const LANE = { height: 22, gap: 8, left: 84, right: 22, top: 24, axis: 26, bottom: 36 };
const LEAST_VIEW = 2e-4; // of the whole: what can be zoomed into
const COLUMN = 4; // pixels of the columns of which a lane is made where its pieces are too many to be told apart

// First index of a sorted list whose value is greater than x.
function after(list, x) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

function box(x, y, width, height) {
  return `M${x.toFixed(2)} ${y.toFixed(2)}h${width.toFixed(2)}v${height.toFixed(2)}h${(-width).toFixed(2)}Z`;
}

// Paths by kind of one lane's pieces between a and b. Too many pieces become columns, in which each kind has the height
// of its share of the time.
function lanePaths([starts, ends, kinds, lows, highs], [a, b], X, y, count) {
  const paths = Array.from({ length: count }, () => []);
  const [first, last] = [after(ends, a), after(starts, b)];
  const columns = Math.max(1, Math.round((X(b) - X(a)) / COLUMN));
  if (last - first <= 2 * columns) {
    for (let i = first; i < last; i += 1) {
      const [left, right] = [X(Math.max(starts[i], a)), X(Math.min(ends[i], b))];
      paths[kinds[i]].push(box(left, y + (1 - highs[i]) * LANE.height, Math.max(right - left, 0.4), (highs[i] - lows[i]) * LANE.height));
    }
    return paths;
  }
  const [width, pixels] = [(b - a) / columns, (X(b) - X(a)) / columns];
  laneShares([starts, ends, kinds, lows, highs], first, last, a, width, columns, count).forEach((shares, c) => {
    let base = y + LANE.height;
    shares.forEach((share, kind) => {
      const height = Math.min(share * LANE.height, base - y);
      base -= height;
      if (height > 0.02) paths[kind].push(box(X(a) + c * pixels, base, pixels + 0.05, height));
    });
  });
  return paths;
}

// The share of each kind in each column of the given width in time, of the pieces from first to last.
function laneShares([starts, ends, kinds, lows, highs], first, last, a, width, columns, count) {
  const found = Array.from({ length: columns }, () => new Float64Array(count));
  for (let i = first; i < last; i += 1) {
    for (let c = Math.max(0, Math.floor((starts[i] - a) / width)); c < columns && a + c * width < ends[i]; c += 1) {
      const overlap = Math.min(ends[i], a + (c + 1) * width) - Math.max(starts[i], a + c * width);
      if (overlap > 0) found[c][kinds[i]] += (overlap / width) * (highs[i] - lows[i]);
    }
  }
  return found;
}

function period(seconds) {
  if (seconds < 0.001) return "< 1\u00A0ms";
  return seconds < 600 ? `${number(seconds)}\u00A0s` : duration(seconds);
}

// Ticks of the time axis, in the unit that suits what is shown of it.
function timeTicks(svg, [a, b], count, X, y) {
  const [unit, name] = b - a > 7200 ? [3600, "h"] : b - a > 300 ? [60, "min"] : [1, "s"];
  xLabels(svg, niceTicks(a / unit, b / unit, count), (tick) => X(tick * unit), y, (tick) => `${number(tick, 6)}\u00A0${name}`);
}

// What a lane did at a moment, in words.
function activity(lane, timeline, x) {
  const [starts, ends, kinds, lows, highs] = lane.drawn;
  const i = after(ends, x);
  if (i >= starts.length || starts[i] > x) {
    const [from, to] = [i ? ends[i - 1] : 0, i < starts.length ? starts[i] : timeline.seconds];
    return `${lane.name}: idle, ${period(to - from)} from ${number(from, 4)} s on`;
  }
  if (timeline.step === null) {
    const busy = highs[i] < 0.995 ? `, at work ${percent(highs[i])} of it` : "";
    return `${lane.name}: ${timeline.kinds[kinds[i]].name}, ${period(ends[i] - starts[i])} from ${number(starts[i], 4)} s on${busy}`;
  }
  const parts = [];
  for (let j = i; j < starts.length && starts[j] === starts[i]; j += 1) parts.push(`${timeline.kinds[kinds[j]].name} ${percent(highs[j] - lows[j])}`);
  return `${lane.name}: ${parts.join(", ")} of ${period(ends[i] - starts[i])} from ${number(starts[i], 4)} s on`;
}

function laneLegend(timeline) {
  const names = new Map();
  for (const { name, color } of timeline.kinds) names.set(color, [...(names.get(color) ?? []), name]);
  return [...names].sort(([a], [b]) => a - b).map(([color, own]) =>
    node("span", { class: "key" }, node("span", { class: `swatch s${color}` }), own.join(", ")));
}

// Ends of iterations and processes, labelled as far as there is room.
function laneMarks(svg, timeline, [a, b], X, height) {
  const ends = timeline.iterations.filter(([, at]) => at >= a && at <= b);
  const every = Math.ceil(ends.length / Math.max(1, (X(b) - X(a)) / 56));
  const lines = ends.length <= (X(b) - X(a)) / 12;
  ends.forEach(([iteration, at], i) => {
    if (lines) svg.append(shape("line", { x1: X(at), x2: X(at), y1: LANE.top - 4, y2: height - LANE.axis, class: "grid" }));
    if (i % every === 0) svg.append(shape("text", { x: X(at), y: LANE.top - 10, "text-anchor": "middle", class: "tick" }, `it ${iteration}`));
  });
  timeline.processes.forEach((at, i) => {
    if (!i || at < a || at > b) return;
    svg.append(shape("line", { x1: X(at), x2: X(at), y1: LANE.top - 4, y2: height - LANE.axis, class: "cursor" }));
    svg.append(shape("text", { x: X(at) + 4, y: height - LANE.axis - 4, class: "tick" }, `process ${i + 1}`));
  });
}

function laneSummary(timeline) {
  const parts = [`${period(timeline.seconds)} from the first publish to the last training`];
  if (timeline.processes.length > 1) parts[0] += `, in ${timeline.processes.length} processes`;
  if (timeline.engines_idle !== null) parts.push(`engines idle ${percent(timeline.engines_idle)}`);
  if (timeline.learner_idle !== null) parts.push(`learner idle ${percent(timeline.learner_idle)}`);
  parts.push(`the learner trained for ${period(timeline.together)} while engines sampled`);
  return `${parts.join("; ")}.`;
}

// The chart; its state is the part of the time that it shows.
function lanesChart(timeline) {
  const whole = [0, timeline.seconds];
  const state = { view: whole, from: null, scale: null };
  const height = LANE.top + timeline.lanes.length * (LANE.height + LANE.gap) + LANE.bottom;
  const label = `Lanes over time. ${laneSummary(timeline)} Plus and minus zoom, arrow keys move, 0 shows all.`;
  const svg = shape("svg", { role: "img", tabindex: "0", "aria-label": label, height, class: "lanes" });
  const told = node("span", { class: "at" });
  const steps = timeline.step === null ? "" : ` Shown in steps of ${period(timeline.step)}; k15 trace has every span.`;
  const left = timeline.left_out ? ` ${timeline.left_out} more engines are in the table.` : "";
  const section = node("section", { class: "card panel wide" }, node("h3", {}, "What was done when"),
    node("p", { class: "note" }, `${laneSummary(timeline)}${steps}${left} Where there is too much to tell apart, heights are shares of the time; drag over a part to see that alone.`));

  function draw() {
    const width = Math.max(240, svg.clientWidth || section.clientWidth - 38);
    const [a, b] = state.view;
    const X = (x) => LANE.left + ((x - a) / (b - a || 1)) * (width - LANE.left - LANE.right);
    state.scale = { width, at: (pixel) => a + ((pixel - LANE.left) / (width - LANE.left - LANE.right)) * (b - a) };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    laneMarks(svg, timeline, [a, b], X, height);
    timeline.lanes.forEach((lane, i) => {
      const y = LANE.top + i * (LANE.height + LANE.gap);
      svg.append(shape("rect", { x: LANE.left, y, width: width - LANE.left - LANE.right, height: LANE.height, class: "rest" }));
      svg.append(shape("text", { x: LANE.left - 8, y: y + LANE.height / 2 + 4, "text-anchor": "end", class: "tick" }, lane.name));
      lanePaths(lane.drawn, [a, b], X, y, timeline.kinds.length).forEach((boxes, kind) => {
        if (boxes.length) svg.append(shape("path", { d: boxes.join(""), class: `bar s${timeline.kinds[kind].color}` }));
      });
    });
    svg.append(shape("line", { x1: LANE.left, x2: width - LANE.right, y1: height - LANE.axis, y2: height - LANE.axis, class: "axis" }));
    timeTicks(svg, [a, b], Math.min(10, width / 90), X, height - 8);
    state.mark = svg.appendChild(shape("rect", { y: LANE.top - 4, height: height - LANE.top - LANE.bottom + 4, class: "chosen", visibility: "hidden" }));
  }

  function show(a, b) {
    const size = Math.min(timeline.seconds, Math.max(b - a, timeline.seconds * LEAST_VIEW));
    const start = Math.min(Math.max(a, 0), timeline.seconds - size);
    state.view = [start, start + size];
    draw();
  }
  const zoom = (factor) => {
    const [a, b] = state.view;
    const middle = (a + b) / 2;
    show(middle - (factor * (b - a)) / 2, middle + (factor * (b - a)) / 2);
  };
  const move = (share) => {
    const [a, b] = state.view;
    show(a + share * (b - a), b + share * (b - a));
  };
  const pixel = (event) => {
    const bounds = svg.getBoundingClientRect();
    return ((event.clientX - bounds.left) / bounds.width) * state.scale.width;
  };
  const here = (event) => Math.min(Math.max(state.scale.at(pixel(event)), state.view[0]), state.view[1]);

  svg.addEventListener("pointermove", (event) => {
    const x = here(event);
    const bounds = svg.getBoundingClientRect();
    const row = Math.floor((event.clientY - bounds.top - LANE.top) / (LANE.height + LANE.gap));
    const lane = timeline.lanes[Math.min(Math.max(row, 0), timeline.lanes.length - 1)];
    told.textContent = activity(lane, timeline, x);
    if (state.from === null) return;
    const [p, q] = [state.from, pixel(event)].sort((m, n) => m - n);
    for (const [name, value] of Object.entries({ x: p, width: q - p, visibility: "visible" })) state.mark.setAttribute(name, value);
  });
  svg.addEventListener("pointerdown", (event) => { state.from = pixel(event); });
  svg.addEventListener("pointerup", (event) => {
    const [p, q] = [state.from ?? 0, pixel(event)].sort((m, n) => m - n);
    state.from = null;
    if (q - p > 5) show(state.scale.at(p), state.scale.at(q));
  });
  svg.addEventListener("pointerleave", () => {
    [state.from, told.textContent] = [null, ""];
    draw();
  });
  const KEYS = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25), 0: () => show(...whole) };
  svg.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  const button = (text, name, act) => {
    const made = node("button", { type: "button", "aria-label": name }, text);
    made.addEventListener("click", act);
    return made;
  };
  const tools = node("div", { class: "tools" }, button("+", "Zoom in", () => zoom(0.5)), button("\u2212", "Zoom out", () => zoom(2)),
    button("\u2190", "Earlier", () => move(-0.5)), button("\u2192", "Later", () => move(0.5)), button("all", "Show all of it", () => show(...whole)));
  section.append(tools, svg, node("div", { class: "legend" }, ...laneLegend(timeline),
    node("span", { class: "key" }, node("span", { class: "swatch rest" }), "idle"), told));
  queueMicrotask(draw);
  new ResizeObserver(draw).observe(section);
  return section;
}

const LANE_COLUMNS = [
  { name: "Lane", width: "12%", cell: (r) => r.lane },
  { name: "Idle", width: "8%", kind: "num", label: "idle", cell: (r) => percent(r.idle), title: (r) => period(r.idle_s) },
  { name: "At work", width: "36%", label: "at work", cell: (r) => r.seconds.map(([what, seconds]) => `${what} ${period(seconds)}`).join(", ") || "\u2013" },
  { name: "Longest waits (and what went on meanwhile)", width: "44%", label: "longest waits", cell: (r) => r.longest.map((wait) =>
    `${period(wait.seconds)} at ${period(wait.start)}${wait.waited_for ? ` (${wait.waited_for})` : ""}`).join("; ") || "\u2013" },
];

function timelineSection(timeline) {
  if (!timeline) return [];
  return [node("h2", { id: "timeline" }, "Timeline"),
    node("div", { class: "two" }, lanesChart(timeline), node("section", { class: "card scroll" }, table(LANE_COLUMNS, timeline.table)))];
}
