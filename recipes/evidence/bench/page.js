// The findings: a table of verdicts, then each with its claim beside what was found, plot and figures.

const KIND = { holds: "right", "does not": "wrong", "cannot tell": "partly" };
const RULINGS = Object.keys(KIND);

function verdictTag(finding) {
  return node("span", { class: `badge ${finding.left ? "ungraded" : KIND[finding.ruling]}` }, finding.left ? "not finished" : finding.ruling);
}

function overview() {
  const columns = [
    { name: "Finding", width: "40%", cell: (f) => node("a", { href: `#finding-${f.name}` }, f.title) },
    { name: "Verdict", width: "15%", cell: (f) => node("span", {}, verdictTag(f), f.failed.length ? node("span", { class: "soft", title: f.failed.join(", ") }, " \u26A0 arms failed") : "") },
    { name: "Published", width: "25%", label: "published", cell: (f) => f.published },
    { name: "Paper", width: "20%", label: "paper", cell: (f) => node("span", { class: "soft" }, f.paper) },
  ];
  return node("section", { class: "card scroll", id: "findings", tabindex: "-1" }, table(columns, data.findings, "flow"));
}

function figures(f) {
  const columns = [
    { name: "", width: "46%", cell: ([name]) => node("b", {}, name) },
    { name: "Mean and 95 % interval", width: "30%", kind: "num", cell: ([, estimate]) => estimate },
    { name: "Unit", width: "14%", cell: ([, , unit]) => node("span", { class: "soft" }, unit) },
    { name: "Seeds", width: "10%", kind: "num", label: "seeds", cell: ([, , , seeds]) => String(seeds) },
  ];
  return node("div", { class: "scroll" }, table(columns, f.rows, "flow"));
}

function finding(f) {
  const facts = node("div", { class: "detail" }, definitionList([
    ["claim", f.claim],
    ["published", node("b", {}, f.published)],
    ["paper", f.paper],
    ["here", f.scale],
    ["trials", `${f.trials}, ${duration(60 * f.minutes)} of one core${f.left ? `; ${f.left} still to be done` : ""}`],
    ["again", node("code", {}, `k15 evidence ${f.name}`)],
  ]));
  return node("section", { id: `finding-${f.name}`, class: "card finding", "aria-label": f.title },
    node("h2", {}, f.title, " ", verdictTag(f)),
    node("p", { class: "sentence" }, f.text),
    f.failed.length ? node("p", { class: "notes" }, node("b", {}, "Trials that came to no result: "), f.failed.join(", ")) : null,
    f.plot ? node("div", { class: "panels" }, node("img", { src: f.plot, alt: `Plot: ${f.title}`, class: "plot" }), facts) : facts,
    f.rows.length ? figures(f) : null,
    node("p", { class: "soft" }, node("a", { href: "#findings" }, "\u2191 all findings")));
}

const counts = RULINGS.map((ruling) => [ruling, data.findings.filter((f) => f.ruling === ruling && !f.left).length]);
const open = data.findings.filter((f) => f.left).length;
document.getElementById("page").replaceChildren(
  pageHeader("The papers' findings", ...[...counts, ...(open ? [["not finished", open]] : [])].map(([name, count]) => tag(name, count))),
  node("p", { class: "soft" }, "Tried in small, several seeds for every arm. A finding holds if the whole 95 % interval over seeds says so, it does not if the whole interval says the opposite; else the trials cannot tell."),
  node("br", {}),
  data.findings.length ? overview() : node("p", { class: "card soft" }, "No finding has been begun."),
  ...data.findings.map(finding),
  node("h2", {}, "How it was made"),
  node("section", { class: "card detail" }, definitionList(data.facts)),
  node("footer", {}, "Written by k15 evidence."));
