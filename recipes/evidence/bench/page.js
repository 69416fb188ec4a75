// The findings: a table of verdicts, then each with its plot and figures.

const KIND = { holds: "right", "does not": "wrong", "cannot tell": "partly" };

function verdictTag(finding) {
  return node("span", { class: `badge ${finding.left ? "ungraded" : KIND[finding.ruling]}` }, finding.left ? "not finished" : finding.ruling);
}

function overview(findings) {
  const rows = findings.map((f) => node("tr", {},
    node("td", {}, node("a", { href: `#${f.name}` }, f.title)),
    node("td", {}, f.paper),
    node("td", {}, verdictTag(f)),
    node("td", {}, f.published)));
  const head = node("tr", {}, ...["finding", "paper", "verdict", "published"].map((name) => node("th", { scope: "col" }, name)));
  return node("table", { class: "plain" }, node("thead", {}, head), node("tbody", {}, ...rows));
}

function figures(f) {
  const head = node("tr", {}, ...["", "mean and 95 % interval", "unit", "seeds"].map((name) => node("th", { scope: "col" }, name)));
  const rows = f.rows.map((row) => node("tr", {}, ...row.map((cell) => node("td", {}, String(cell)))));
  return node("table", { class: "plain" }, node("thead", {}, head), node("tbody", {}, ...rows));
}

function section(f) {
  const parts = [
    node("h2", {}, f.title, " ", verdictTag(f)),
    node("p", {}, f.text),
    definitionList([
      ["the paper", `${f.claim} (${f.paper})`],
      ["published", f.published],
      ["here", f.scale],
      ["again", `k15 evidence ${f.name}: ${f.trials} trials, ${number(f.minutes)} minutes of one core`],
      ...(f.failed.length ? [["no result", f.failed.join(", ")]] : []),
      ...(f.left ? [["to be done", `${f.left} trials`]] : []),
    ]),
  ];
  if (f.plot) parts.push(node("img", { src: f.plot, alt: f.title, class: "plot" }));
  if (f.rows.length) parts.push(figures(f));
  return node("section", { id: f.name, class: "card" }, ...parts);
}

const counts = ["holds", "does not", "cannot tell"].map((ruling) => [ruling, data.findings.filter((f) => f.ruling === ruling && !f.left).length]);
document.getElementById("page").append(
  pageHeader("The papers' findings", ...counts.map(([name, count]) => tag(name, String(count)))),
  node("main", { id: "findings" },
    node("section", { class: "card" }, overview(data.findings)),
    ...data.findings.map(section),
    node("section", { class: "card" }, node("h2", {}, "How it was made"), definitionList(data.facts))));
