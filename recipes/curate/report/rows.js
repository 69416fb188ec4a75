// Rows that were dropped, beside the row because of which, with the words in which they differ marked.

const WORDS = 1_500_000; // most pairs of words that are compared; beyond it all between the ends counts as different

function pieces(text) {
  return text.match(/[\p{L}\p{M}\p{N}]+|\s+|[^\s\p{L}\p{M}\p{N}]/gu) ?? [];
}

// Whether each piece of a and of b is in a longest common subsequence.
function common(a, b) {
  let [start, endA, endB] = [0, a.length, b.length];
  while (start < endA && start < endB && a[start] === b[start]) start += 1;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA -= 1; endB -= 1; }
  const [inA, inB] = [a.map((_, i) => i < start || i >= endA), b.map((_, i) => i < start || i >= endB)];
  const [rows, columns] = [endA - start, endB - start];
  if (rows * columns > WORDS) return [inA, inB];
  const width = columns + 1;
  const longest = new Uint16Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i -= 1) {
    for (let j = columns - 1; j >= 0; j -= 1) {
      longest[i * width + j] = a[start + i] === b[start + j] ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  for (let i = 0, j = 0; i < rows && j < columns;) {
    if (a[start + i] === b[start + j]) { inA[start + i] = true; inB[start + j] = true; i += 1; j += 1; }
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return [inA, inB];
}

// Text with what is not shared in marks; white space is never marked alone.
function marked(parts, shared) {
  const found = [];
  parts.forEach((part, i) => {
    const kind = shared[i] || (/^\s/.test(part) && (shared[i - 1] !== false || shared[i + 1] !== false)) ? "text" : "mark";
    if (found.at(-1)?.kind === kind) found.at(-1).text += part;
    else found.push({ kind, text: part });
  });
  return found.map(({ kind, text }) => (kind === "mark" ? node("mark", {}, text) : text));
}

// Two texts side by side.
function sideBySide(left, leftTitle, right, rightTitle) {
  const [a, b] = [pieces(left), pieces(right)];
  const [inA, inB] = common(a, b);
  return node("div", { class: "panels" },
    node("div", {}, node("h4", {}, leftTitle), textBlock(leftTitle, ...(left ? marked(a, inA) : ["(empty)"]))),
    node("div", {}, node("h4", {}, rightTitle), textBlock(rightTitle, ...(right ? marked(b, inB) : ["(empty)"]))));
}

function sampleCard(row) {
  const other = row.other;
  const facts = definitionList([
    ["answer", row.answer || "– none"],
    row.detail ? ["detail", row.detail] : null,
    other && other.similarity !== null ? [other.measure || "similarity", number(other.similarity)] : null,
    ["row", `${row.id} · ${row.source} · ${row.place}`],
    other ? [other.relation, `${other.id} · ${other.source}`] : null]);
  return node("div", { class: "sample detail" },
    other ? sideBySide(row.statement, "Dropped", other.statement, `${other.relation} ${other.id}`)
      : textBlock("Statement", row.statement || "(empty)"),
    facts);
}

// The rows of one stage and reason; they are put into the document when they are first looked at.
function sampleGroup(stage, reason, dropped) {
  const rows = data.samples.filter((row) => row.stage === stage.name && row.reason === reason);
  const words = dropped === null ? `${rows.length}` : rows.length === dropped ? `all ${count(dropped)}` : `${rows.length} of ${count(dropped)}`;
  const group = node("details", { class: "card" }, node("summary", {}, node("span", { dir: "auto" }, reason), " ", node("span", { class: "soft" }, `${words} shown`)));
  group.addEventListener("toggle", () => group.append(...rows.map(sampleCard)), { once: true });
  return group;
}

// The section, and what opens one group of it.
function dropped() {
  const groups = new Map();
  const stages = data.stages.map((stage) => {
    const reasons = [...new Set(data.samples.filter((row) => row.stage === stage.name).map((row) => row.reason))];
    const order = (reason) => { const at = stage.reasons.findIndex(([name]) => name === reason); return at < 0 ? Infinity : at; };
    const own = reasons.sort((a, b) => compare(order(a), order(b))).map((reason) => {
      const group = sampleGroup(stage, reason, stage.reasons.find(([name]) => name === reason)?.[1] ?? null);
      groups.set(JSON.stringify([stage.name, reason]), group);
      return group;
    });
    return own.length ? node("div", { class: "two" }, node("h3", {}, stage.title), ...own) : null;
  }).filter(Boolean);
  const open = (stage, reason) => {
    const group = groups.get(JSON.stringify([stage, reason]));
    group.open = true;
    group.scrollIntoView({ block: "start" });
    group.firstChild.focus({ preventScroll: true });
  };
  const note = `Up to ${data.bounds.samples} rows of each stage and reason. Texts of more than ${count(data.bounds.text)} characters are shown by their beginning and end. Marked: words in which the two rows differ.`;
  const section = [node("h2", { id: "samples", tabindex: "-1" }, "What was dropped"),
    ...(stages.length ? [node("p", { class: "soft" }, note), node("div", { class: "two groups" }, ...stages)]
      : [node("p", { class: "card soft" }, data.stages.some((stage) => stage.dropped) ? "Of the rows that were dropped none is shown." : "No row was dropped.")])];
  return { section, open };
}

const NAMES = { same: "the same", contains: "contained", renumbered: "other numbers", reworded: "reworded" };

function kindName(kind) {
  return NAMES[kind] ?? kind;
}

function pairDetail(row) {
  return node("div", {}, sideBySide(row.statement, `Row ${row.id}`, row.evaluation_statement, `${row.set} ${row.evaluation_id}`),
    node("h4", {}, "Found"), definitionList([
      ["verdict", row.kind ? kindName(row.kind) : `not confirmed${row.reason ? `: ${row.reason}` : ""}`],
      ["cosine", row.cosine === null ? "–" : number(row.cosine)],
      ["how sure", row.overlap === null ? "–" : percent(row.overlap)],
      ["source", row.source]]));
}

const PAIR_COLUMNS = [
  { name: "Row", width: "34%", kind: "problem", cell: (row) => row.statement, title: (row) => row.statement, order: (row) => row.statement },
  { name: "Evaluation problem", width: "28%", kind: "problem", cell: (row) => row.evaluation_statement, title: (row) => row.evaluation_statement, order: (row) => row.evaluation_statement },
  { name: "Set", width: "13%", kind: "problem", cell: (row) => row.set, order: (row) => row.set },
  { name: "Cosine", width: "9%", kind: "num", label: "cosine", cell: (row) => (row.cosine === null ? "–" : row.cosine.toFixed(2)), order: (row) => row.cosine ?? -2 },
  { name: "Sure", width: "10%", kind: "num", label: "sure", cell: (row) => (row.overlap === null ? "–" : `${Math.round(100 * row.overlap)}\u00A0%`), order: (row) => row.overlap ?? -1 },
];

function pairs(id, heading, rows, total, empty, filters) {
  return records({
    id, heading, empty, rows, columns: PAIR_COLUMNS,
    note: rows.length === total ? `All ${count(total)} pairs.` : `${rows.length} of ${count(total)} pairs; at most ${data.bounds.pairs} are shown.`,
    name: (row) => `${row.id} beside ${row.evaluation_id}`,
    detail: pairDetail,
    text: (row) => [row.statement, row.evaluation_statement, row.id, row.evaluation_id, row.source],
    search: "Search both texts",
    filters,
  });
}

function contamination() {
  const found = data.contamination;
  const title = node("h2", {}, "Evaluation problems among the rows");
  if (!found) return [title, node("p", { class: "card soft" }, "The rows were compared with no evaluation set.")];
  const rest = Math.max(7, (100 - 22 - 11 - 12 - 17) / Math.max(1, found.kinds.length));
  const columns = [
    { name: "Evaluation set", width: "22%", cell: (set) => node("b", {}, set.name) },
    { name: "Problems", width: "11%", kind: "num", label: "problems", cell: (set) => count(set.problems) },
    { name: "Candidates", width: "12%", kind: "num", label: "candidates", cell: (set) => count(set.candidates) },
    ...found.kinds.map((kind) => ({ name: kindName(kind), width: `${rest}%`, kind: "num", label: kindName(kind), cell: (set) => count(set.confirmed[kind] ?? 0) })),
    { name: "Problems hit", width: "17%", kind: "num", label: "problems hit", cell: (set) => node("b", { class: set.hit ? "badge wrong" : null }, `${count(set.hit)} · ${share(set.hit, set.problems)}`) },
  ];
  const shown = found.kinds.filter((kind) => found.drop && !found.drop.includes(kind)).map(kindName);
  const fate = shown.length ? `What was confirmed is dropped, but for: ${shown.join(", ")}.` : "What was confirmed is dropped.";
  const kinds = found.kinds.map((kind) => [kindName(kind), (row) => row.kind === kind]);
  return [title,
    node("p", { class: "soft" }, `Candidates are near in embedding or share words. ${fate} Sure: that both say the same, by words, n-grams, numbers and embedding. Problems hit: different evaluation problems of which at least one row was confirmed.`),
    node("div", { class: "card scroll" }, table(columns, found.sets, "flow")),
    ...pairs("confirmed", "Confirmed", found.confirmed, found.confirmed_total, "None was confirmed.",
      [chips(found.confirmed, "Kinds", [["all", () => true], ...kinds]), chooser(found.confirmed, "set", (row) => row.set)]),
    ...pairs("candidates", "Candidates that were not confirmed", found.candidates, found.candidates_total, "There was none.",
      [chooser(found.candidates, "set", (row) => row.set)])];
}
