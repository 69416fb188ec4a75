// The page of a pretraining: losses, charts over tokens, stages, settings.

const TOKENS = axisOf(compact, (x) => `${compact(x)} tokens`, "steps");
const POSITIONS = axisOf(String, (x) => `token ${x}`, "positions");

function header() {
  const steps = data.planned === null || data.planned === data.steps ? `${data.steps} steps` : `${data.steps} of ${data.planned} steps`;
  return pageHeader(data.name, tag("recipe", data.recipe), tag("model", data.model), tag("optimiser", data.optimizer), tag("seed", data.seed),
    revisionTag(data.facts), tag("started", data.facts.started), tag("pretraining", `${steps}, ${data.finished ? "finished" : "not finished"}`));
}

const fixed = (value, digits = 3) => (value === null ? "\u2013" : value.toFixed(digits));

function textsCard() {
  const columns = [
    { name: "Held out", width: "26%", cell: (text) => node("b", {}, text.name) },
    { name: "Nats a token", width: "17%", kind: "num", label: "nats a token", cell: (text) => node("b", {}, fixed(text.loss)) },
    { name: "Bits a byte", width: "15%", kind: "num", label: "bits a byte", cell: (text) => fixed(text.bits) },
    { name: "Trailing", width: "14%", kind: "num", label: "trailing", cell: (text) => fixed(text.trailing) },
    { name: "At first", width: "13%", kind: "num", label: "at first", cell: (text) => fixed(text.first) },
    { name: "Tokens read", width: "15%", kind: "num", label: "tokens read", cell: (text) => (text.read === null ? "\u2013" : compact(text.read)) },
  ];
  const measured = data.texts.some((text) => text.loss !== null);
  const sentence = !measured ? "No held-out measurement yet."
    : data.finished ? "Loss on the held-out part of each text, after the last step."
      : "Loss on the held-out part of each text, at the last measurement so far.";
  return node("section", { class: "card scroll", id: "texts" }, node("p", { class: "sentence" }, sentence), table(columns, data.texts, "flow"));
}

function fact(label, value, more = "") {
  return node("div", { class: "fact" }, node("div", { class: "value" }, value),
    node("div", { class: "label" }, label), more ? node("div", { class: "label" }, more) : null);
}

function factsCard() {
  const each = data.parameters && data.tokens ? `${number(data.tokens / data.parameters)} for each parameter` : "";
  return node("section", { class: "card facts", "aria-label": "Totals" },
    fact("parameters", data.parameters === null ? "\u2013" : compact(data.parameters)),
    fact("tokens read", compact(data.tokens), each),
    fact("time in steps", duration(data.seconds)),
    fact("tokens a second", data.seconds ? compact(data.tokens / data.seconds) : "\u2013", data.skipped ? `${data.skipped} steps skipped: gradients not finite` : ""));
}

function notes() {
  if (!data.notes.length) return null;
  return node("section", { class: "card notes" }, node("b", {}, "Left out of this report"),
    node("ul", {}, ...data.notes.map((note) => node("li", {}, note))));
}

function charts() {
  const range = [0, Math.max(1, data.tokens)];
  return data.sections.flatMap((section) => {
    const panels = section.panels.map((panel) => chart(panel, range, TOKENS));
    if (section.title === "Loss" && data.positions) panels.push(chart(data.positions, [0, Math.max(...data.positions.series.flatMap((s) => s.x))], POSITIONS));
    if (panels.length % 2) panels[0].classList.add("wide");
    return [node("h2", {}, section.title), node("div", { class: "panels" }, ...panels)];
  });
}

function stages() {
  if (!data.stages.length) return [];
  const columns = [
    { name: "Stage", width: "9%", cell: (stage) => node("b", {}, stage.name) },
    { name: "Steps", width: "9%", kind: "num", label: "steps", cell: (stage) => stage.steps.toLocaleString("en") },
    { name: "Tokens", width: "9%", kind: "num", label: "tokens", cell: (stage) => compact(stage.tokens) },
    { name: "Sequences", width: "12%", kind: "num", label: "sequences a step", cell: (stage) => stage.batch },
    { name: "Length", width: "8%", kind: "num", label: "tokens a sequence", cell: (stage) => String(stage.length) },
    { name: "Learning rate", width: "23%", label: "learning rate", cell: (stage) => stage.rate },
    { name: "Mixture", width: "30%", label: "mixture", cell: (stage) => stage.mixture },
  ];
  return [node("h2", {}, "Stages"), node("div", { class: "card scroll" }, table(columns, data.stages, "flow"))];
}

function settings() {
  const facts = [...data.versions, ["revision", data.facts.git_revision ?? "unknown"], ["started", data.facts.started ?? "unknown"]];
  return [node("h2", {}, "How it was made"), node("section", { class: "card detail" }, definitionList(facts)), node("br", {}),
    fold("Configuration", data.config)];
}

document.getElementById("page").replaceChildren(
  header(), node("div", { class: "hero" }, textsCard(), factsCard()), ...[notes()].filter(Boolean),
  ...(data.sections.length ? charts() : [node("h2", {}, "Loss"), node("p", { class: "card soft" }, "No step is done yet.")]),
  ...stages(), ...settings(),
  node("footer", {}, "Written by k15 train and k15 report. Lines of many steps show an even spread of them."));
