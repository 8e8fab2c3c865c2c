// What changed between two slates, in marks and in words.

import { el, many, spoken } from "./dom.js";

/** before, after: [{item, title}]. Returns {marks: item -> {kind, by}, gone: [{item, title}], counts}. */
export function difference(before, after) {
  const old = new Map(before.map((one, place) => [one.item, place]));
  const present = new Set(after.map((one) => one.item));
  const marks = new Map();
  const counts = { new: 0, up: 0, down: 0, same: 0 };
  after.forEach((one, place) => {
    const by = old.has(one.item) ? old.get(one.item) - place : null;
    const kind = by === null ? "new" : by > 0 ? "up" : by < 0 ? "down" : "same";
    counts[kind] += 1;
    marks.set(one.item, { kind, by: Math.abs(by ?? 0) });
  });
  const gone = before.filter((one) => !present.has(one.item));
  return { marks, gone, counts };
}

/** A badge: "new", an arrow with the number of places, or nothing. The words are for everybody who does not see the arrow. */
export function badge(mark, fresh = "new") {
  if (!mark || mark.kind === "same") return null;
  if (mark.kind === "new") return el("span", { class: "badge new" }, fresh);
  const words = `${mark.kind} ${many(mark.by, "place")}`;
  return el("span", { class: `badge ${mark.kind}`, title: words }, el("span", { "aria-hidden": "true" }, `${mark.kind === "up" ? "▲" : "▼"} ${mark.by}`), spoken(words));
}

/** The first three titles, and how many more. */
export const few = (gone) => gone.slice(0, 3).map((one) => one.title).join("; ") + (gone.length > 3 ? ` and ${gone.length - 3} more` : "");

/** "2 new, 3 moved up, 1 moved down", or "nothing changed". */
export function summary({ counts, gone }) {
  const parts = [
    counts.new && `${counts.new} new`,
    counts.up && `${counts.up} moved up`,
    counts.down && `${counts.down} moved down`,
    gone.length && `${gone.length} gone`,
  ].filter(Boolean);
  return parts.length ? parts.join(", ") : "nothing changed";
}
