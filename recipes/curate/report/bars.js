// Lying bars with a name before and numbers behind, and the funnel of them.

function count(value) {
  return value.toLocaleString("en");
}

// A share, with as many digits as it takes to tell it from none and from all.
function share(part, whole) {
  if (!whole) return "–";
  const value = part / whole;
  if (value > 0 && value < 0.0005) return "< 0.1\u00A0%";
  if (value < 1 && value > 0.9995) return "> 99.9\u00A0%";
  return percent(value);
}

// One bar: parts [count, class, name] of a whole, from the left.
function barOf(parts, whole, label) {
  const svg = shape("svg", { class: "lying", role: "img", "aria-label": label });
  svg.append(shape("rect", { width: "100%", height: "100%", class: "rest" }));
  let left = 0;
  for (const [value, color, name] of parts) {
    if (!value) continue;
    const bar = shape("rect", { x: `${(100 * left) / whole}%`, width: `${(100 * value) / whole}%`, height: "100%", class: `bar ${color}` });
    bar.append(shape("title", {}, `${name}: ${count(value)}`));
    svg.append(bar);
    left += value;
  }
  return svg;
}

// Bars under each other: rows of [name, parts].
function bars(rows, said = (total, whole) => `${count(total)} · ${share(total, whole)}`) {
  const totals = rows.map(([, parts]) => parts.reduce((sum, [value]) => sum + value, 0));
  const whole = totals.reduce((a, b) => a + b, 0);
  const longest = Math.max(1, ...totals);
  return node("div", { class: "bars" }, ...rows.flatMap(([name, parts], i) => [
    node("span", { class: "label", dir: "auto", title: name }, name),
    barOf(parts, longest, `${name}: ${parts.map(([value, , part]) => `${part} ${count(value)}`).join(", ")}`),
    node("span", { class: "amount" }, said(totals[i], whole))]));
}

function panel(title, note, ...children) {
  return node("section", { class: "card panel" }, node("h3", {}, title), note ? node("p", { class: "note" }, note) : null, ...children);
}

// The reasons of a stage: what has samples is a button that opens them.
function reasonChips(stage, open) {
  return node("div", { class: "reasons" }, ...stage.reasons.map(([reason, dropped]) => {
    const words = [node("span", { dir: "auto" }, reason), " ", node("b", {}, count(dropped)), ` · ${share(dropped, stage.entered)}`];
    const shown = data.samples.some((row) => row.stage === stage.name && row.reason === reason);
    if (!shown) return node("span", { class: "tag" }, ...words);
    const button = node("button", { type: "button", title: "Show rows" }, ...words, " \u203A");
    button.addEventListener("click", () => open(stage.name, reason));
    return button;
  }));
}

function stageRow(stage, whole, open) {
  const left = stage.entered - stage.dropped;
  const head = node("div", { class: "label" }, node("h3", {}, stage.title),
    stage.skipped || !stage.seconds ? null : node("span", { class: "soft" }, duration(stage.seconds)));
  if (stage.skipped) {
    return node("section", { class: "stage skipped" }, head, node("div", { class: "soft" }, `Left out: ${stage.skipped}`), node("span", { class: "amount" }, "–"));
  }
  const bar = barOf([[left, "s0", "left"], [stage.dropped, "s1", "dropped here"]], whole,
    `${stage.title}: ${count(stage.entered)} entered, ${count(stage.dropped)} dropped, ${count(left)} left`);
  const told = node("p", { class: "soft" }, stage.dropped ? `${count(stage.dropped)} of ${count(stage.entered)} dropped (${share(stage.dropped, stage.entered)})` : stage.entered ? "None dropped" : "Nothing came this far");
  return node("section", { class: "stage" }, head,
    node("div", {}, bar, told, stage.reasons.length ? reasonChips(stage, open) : null, stage.note ? node("p", { class: "soft" }, stage.note) : null),
    node("span", { class: "amount" }, node("b", {}, count(left)), node("span", { class: "soft" }, ` ${share(left, whole)}`)));
}

function funnel(open) {
  const whole = Math.max(1, ...data.stages.map((stage) => stage.entered));
  const rows = data.stages.map((stage) => stageRow(stage, whole, open));
  return [node("h2", {}, "What became of the rows"),
    node("section", { class: "card" },
      legend([["left after the stage", "s0"], ["dropped by it", "s1"]]),
      node("div", { class: "funnel" }, ...rows),
      node("p", { class: "soft" }, "A row is dropped by one stage, for one reason. Press a reason to see rows that were dropped for it."))];
}
