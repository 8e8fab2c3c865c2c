// Building the page. All text goes in as text: ids and titles come from other people's data and are never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, settings, children) {
  for (const [name, value] of Object.entries(settings)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "hidden") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element: el("p", {class: "note", onclick: f}, "text", child). Handlers begin with `on`; what is null or false is left out. */
export const el = (tag, settings = {}, ...children) => fill(document.createElement(tag), settings, children);

/** The same for SVG. */
export const svg = (tag, settings = {}, ...children) => fill(document.createElementNS(SVG, tag), settings, children);

export const byId = (id) => document.getElementById(id);

/** Text that only screen readers say. */
export const spoken = (text) => el("span", { class: "hidden" }, text);

/** Says a sentence to screen readers, without moving the focus. The same sentence twice is said twice. */
export function announce(text) {
  const place = byId("announce");
  place.textContent = "";
  setTimeout(() => (place.textContent = text), 60);
}

/** A problem in words where it happened, with a way to try again. */
export function problem(error, again) {
  const retry = again && el("button", { type: "button", onclick: again }, "Try again");
  return el("div", { class: "problem", role: "alert" }, el("p", {}, error.message), retry);
}

export const loading = (what) => el("p", { class: "loading" }, what);

/** A function that runs once its calls have stopped for a while; its `cancel` forgets the last of them. */
export function debounced(wait, work) {
  let timer;
  const later = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** Asks a question that closes what is under it. Resolves to true if it was confirmed. */
export function confirmed(title, text, yes) {
  const dialog = byId("dialog");
  return new Promise((done) => {
    const close = (answer) => () => dialog.close(answer);
    dialog.replaceChildren(
      el("h2", { id: "dialog-title" }, title),
      el("p", {}, text),
      el("div", { class: "row end" },
        el("button", { type: "button", onclick: close("no"), autofocus: true }, "Leave it as it is"),
        el("button", { type: "button", class: "danger", onclick: close("yes") }, yes)),
    );
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

// -- numbers and times in words ---------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 0.012345 -> 0.0123, 1234.5 -> 1,235. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return whole.format(value);
  return String(Number(value.toPrecision(3)));
}

/** A share as a percentage of two or three digits. */
export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  const value = 100 * share;
  return `${Number(value.toFixed(Math.abs(value) >= 10 ? 1 : 2))} %`;
}

/** How often something shown with this probability is shown. */
export function chance(probability) {
  const times = Math.round(100 * probability);
  if (times < 1) return "shown here in fewer than 1 of 100 visits";
  return times > 99 ? "shown here in more than 99 of 100 visits" : `shown here in ${times} of 100 visits`;
}

const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const minute = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
export const when = (time, short = false) => (time ? (short ? day : minute).format(new Date(time)).replace(/ (?=\S+ |\d{4})/g, "\u00a0") : "–");

/** "1 thing", "2 things". */
export const many = (count, one, more = `${one}s`) => `${whole.format(count)} ${count === 1 ? one : more}`;

/** The first letter large. */
export const capital = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");

/** A value of the item table as text: lists joined, absent ones empty, long ones cut. */
export function plain(value) {
  if (value === null || value === undefined || value === "") return "";
  const text = Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
  return text.length > 90 ? `${text.slice(0, 88)}…` : text;
}
