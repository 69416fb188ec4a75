"use strict";
// What every page is made of. Text is only ever set as text.

const data = JSON.parse(document.getElementById("data").textContent);

function node(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function shape(tag, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

function compact(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${trim(value / 1e9)}\u00A0G`;
  if (size >= 1e6) return `${trim(value / 1e6)}\u00A0M`;
  if (size >= 1e4) return `${trim(value / 1e3)}\u00A0k`;
  if (size === 0 || size >= 1e-3) return trim(value);
  const [mantissa, exponent] = value.toExponential(1).split("e");
  return `${mantissa}e${Number(exponent)}`.replace("-", "\u2212").replace("e-", "e\u2212");
}

function trim(value) {
  const text = Number(value.toPrecision(3)).toString();
  return text.replace("-", "\u2212");
}

// Round numbers from low to high, about so many.
function niceTicks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) {
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return ticks;
}

const FORMATS = {
  percent: (value) => `${trim(100 * value)}\u00A0%`,
  number: compact,
  count: (value) => Math.round(value).toLocaleString("en"),
  seconds: (value) => `${compact(value)}\u00A0s`,
};

function number(value, digits = 3) {
  return value === null || value === undefined ? "\u2013" : Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "\u2212");
}

function duration(seconds) {
  if (seconds < 60) return `${number(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function percent(value) {
  return `${(100 * value).toFixed(1)}\u00A0%`;
}

function tag(label, value) {
  if (value === null || value === undefined || value === "") return null;
  return node("span", { class: "tag" }, `${label} `, node("b", {}, String(value)));
}

function themeButton() {
  const button = node("button", { type: "button", "aria-label": "Switch between light and dark" }, "\u25D0");
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  return button;
}
