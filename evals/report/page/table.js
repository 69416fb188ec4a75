// Tables, and lists that can be searched, filtered and looked through a page at a time.

// A column: { name, width, cell: (row) => node or text }, and if wanted: kind ("num", "problem"), label (shown before the
// cell where there is no room for heads), title: (row) => text, order: (row) => what the column sorts by.
function tableHead(columns, heads = columns.map(headCell)) {
  return node("thead", {}, node("tr", {}, ...heads));
}

function headCell(column) {
  return node("th", { width: column.width, class: column.kind === "num" ? "num" : null }, column.name);
}

function tableRow(columns, row, kind = null) {
  return node("tr", { class: kind }, ...columns.map((column) =>
    node("td", { class: column.kind, "data-label": column.label, title: column.title?.(row) }, column.cell(row))));
}

function table(columns, rows, kind = null) {
  return node("table", {}, tableHead(columns), node("tbody", {}, ...rows.map((row) => tableRow(columns, row, kind))));
}

// A row that unfolds to detail(row); its first cell is the button.
function openableRow(columns, row, name, detail) {
  const button = node("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": `Show ${name(row)}` }, "\u203A");
  const line = tableRow([{ cell: () => button }, ...columns], row, "row");
  line.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) line.nextElementSibling.remove();
    else line.after(node("tr", { class: "detail" }, node("td", { colspan: columns.length + 1 }, detail(row))));
  });
  return line;
}

// Heads whose buttons sort; sort(order, down) is told.
function sortableHeads(columns, sort) {
  const chosen = { column: null, down: false };
  const heads = columns.map((column) => {
    if (!column.order) return headCell(column);
    const button = node("button", { type: "button" }, column.name);
    button.addEventListener("click", () => {
      chosen.down = chosen.column === column ? !chosen.down : false;
      chosen.column = column;
      columns.forEach((other, i) => {
        if (!other.order) return;
        heads[i].setAttribute("aria-sort", other !== column ? "none" : chosen.down ? "descending" : "ascending");
        heads[i].firstChild.textContent = other.name + (other !== column ? "" : chosen.down ? " \u2193" : " \u2191");
      });
      sort(column.order, chosen.down);
    });
    return node("th", { width: column.width, class: column.kind === "num" ? "num" : null, "aria-sort": "none" }, button);
  });
  return heads;
}

// The rows that pass all filters and the search, `size` more at each press of the button. `show(row)` makes what is put
// into `container`; `text(row)` lists what is searched. A filter is (update) => { element, keeps: (row) => boolean }.
function listing({ rows, container, show, text, search, filters = [], size = 25, noun = "shown" }) {
  const words = node("input", { type: "search", placeholder: search, "aria-label": search });
  const count = node("span", { class: "soft", role: "status" });
  const more = node("button", { type: "button" }, "Show more");
  const state = { wanted: rows, shown: 0, order: null, down: false };
  const haystacks = new Map(rows.map((row) => [row, text(row).join("\n").toLowerCase()]));
  const extend = () => {
    container.append(...state.wanted.slice(state.shown, state.shown + size).map(show));
    state.shown = Math.min(state.wanted.length, state.shown + size);
    count.textContent = `${state.shown} of ${state.wanted.length} ${noun}`;
    more.hidden = state.shown === state.wanted.length;
  };
  const update = () => {
    const needle = words.value.toLowerCase();
    state.wanted = rows.filter((row) => made.every(({ keeps }) => keeps(row)) && haystacks.get(row).includes(needle));
    if (state.order) state.wanted.sort((a, b) => (state.down ? -1 : 1) * compare(state.order(a), state.order(b)));
    state.shown = 0;
    container.replaceChildren();
    extend();
  };
  const made = filters.map((filter) => filter(update));
  words.addEventListener("input", update);
  more.addEventListener("click", extend);
  update();
  return {
    tools: node("div", { class: "tools" }, ...made.map(({ element }) => element), words),
    more: node("div", { class: "more" }, count, more),
    sort: (order, down) => { Object.assign(state, { order, down }); update(); },
  };
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

// The section of a page that its records fill: a table of rows that unfold, in a listing.
function records({ id, heading, note, empty, rows, columns, name, detail, text, search, filters }) {
  const title = node("h2", { id, tabindex: "-1" }, heading);
  if (!rows.length) return [title, node("p", { class: "card soft" }, empty)];
  const body = node("tbody", {});
  const list = listing({ rows, container: body, show: (row) => openableRow(columns, row, name, detail), text, search, filters });
  const heads = [node("th", { width: "4%" }), ...sortableHeads(columns, list.sort)];
  return [title, node("p", { class: "soft" }, note), node("br", {}), list.tools,
    node("div", { class: "card scroll" }, node("table", {}, tableHead(columns, heads), body), list.more)];
}

// One of several: [label, keeps]; those that would keep nothing are left out, the first is chosen.
function chips(rows, name, choices) {
  return (update) => {
    let chosen = choices[0][1];
    const buttons = choices.filter(([, keeps], i) => !i || rows.some(keeps)).map(([label, keeps], i) => {
      const button = node("button", { type: "button", "aria-pressed": String(!i) }, `${label} ${rows.filter(keeps).length}`);
      button.addEventListener("click", () => {
        chosen = keeps;
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        update();
      });
      return button;
    });
    return { element: node("div", { class: "chips", role: "group", "aria-label": name }, ...buttons), keeps: (row) => chosen(row) };
  };
}

function toggle(rows, label, keeps) {
  return (update) => {
    const button = node("button", { type: "button", "aria-pressed": "false" }, `${label} ${rows.filter(keeps).length}`);
    const pressed = () => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("click", () => { button.setAttribute("aria-pressed", String(!pressed())); update(); });
    return { element: button, keeps: (row) => !pressed() || keeps(row) };
  };
}

// By value; nothing to choose where there is only one.
function chooser(rows, name, value) {
  return (update) => {
    const values = [...new Set(rows.map(value).filter(Boolean))].sort();
    const select = node("select", { "aria-label": name }, node("option", { value: "" }, `any ${name}`),
      ...values.map((each) => node("option", { value: each }, `${each} (${rows.filter((row) => value(row) === each).length})`)));
    select.addEventListener("change", update);
    return { element: values.length > 1 ? select : "", keeps: (row) => !select.value || value(row) === select.value };
  };
}

function range(label, value) {
  return (update) => {
    const [from, to] = ["from", "to"].map((end) => node("input", { type: "number", min: "0", "aria-label": `${end} ${label}` }));
    for (const input of [from, to]) input.addEventListener("input", update);
    const keeps = (row) => (from.value === "" || value(row) >= Number(from.value)) && (to.value === "" || value(row) <= Number(to.value));
    return { element: node("label", {}, `${label} from`, from, "to", to), keeps };
  };
}

function definitionList(entries) {
  return node("dl", {}, ...entries.filter(Boolean).flatMap(([name, value]) => [node("dt", {}, name), node("dd", {}, value)]));
}

function fold(title, ...children) {
  return node("details", { class: "card" }, node("summary", {}, title), ...children.map((child) => (typeof child === "string" ? node("pre", {}, child) : child)));
}

function textBlock(name, ...children) {
  return node("pre", { class: "text", tabindex: "0", dir: "auto", "aria-label": name }, ...children);
}

function pageHeader(title, ...tags) {
  return node("header", {}, node("div", {}, node("h1", {}, title), node("div", { class: "tags" }, ...tags)), themeButton());
}

function revisionTag(facts) {
  return tag("revision", typeof facts.git_revision === "string" ? facts.git_revision.slice(0, 12) : null);
}
