// Rows of the item table, asked for once each and a few at a time.

import { get } from "./api.js";
import { plain } from "./dom.js";
import { columns } from "./state.js";

const known = new Map();
let running = 0;
const waiting = [];

export function item(id) {
  if (!known.has(id)) {
    const asked = new Promise((done, failed) => waiting.push({ id, done, failed }));
    asked.catch(() => known.delete(id));
    known.set(id, asked);
    next();
  }
  return known.get(id);
}

function next() {
  while (running < 4 && waiting.length) {
    const { id, done, failed } = waiting.shift();
    running += 1;
    get(`/v1/items/${encodeURIComponent(id)}`).then(done, failed).finally(() => {
      running -= 1;
      next();
    });
  }
}

/** Writes into a line what the table says of an item besides its title: at most four short values. */
export function describe(id, line) {
  const show = (row) => {
    const values = columns().map((column) => plain(row[column.name])).filter(Boolean);
    line.textContent = values.slice(0, 4).join(" · ");
  };
  item(id).then(show, () => (line.textContent = ""));
}
