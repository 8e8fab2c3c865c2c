// What the views share: what the bundle holds, who is asked for, and how the knobs stand.

import { fresh } from "./api.js";

const GUEST = "palate.guest";

/** An id of this tab for somebody who is not in the data, so that what they do can be kept and answered to. */
function guest() {
  let id = sessionStorage.getItem(GUEST);
  if (!id) sessionStorage.setItem(GUEST, (id = `guest-${fresh().replaceAll("-", "").slice(0, 12)}`));
  return id;
}

export const state = {
  about: null,
  mode: "known", // or "new"
  user: null, // an id, if mode is "known"
  titles: [], // [{item, title}], if mode is "new"
  started: false, // somebody new asked for a slate without naming a title
  knobs: { k: 10, seen: false, filters: [], rerank: {} },
};

const listeners = new Set();
export const onChange = (listener) => listeners.add(listener);
export const changed = (what) => listeners.forEach((listener) => listener(what));

/** The person whom events are about; null while nobody is chosen. */
export function person() {
  if (state.mode === "known") return state.user;
  return state.titles.length || state.started ? guest() : null;
}

/** Whom the page names in sentences. */
export const named = () => (state.mode === "known" ? `person ${state.user}` : "somebody new");

export function startAfresh() {
  sessionStorage.removeItem(GUEST);
  state.titles = [];
  state.started = false;
  changed("who");
}

/** A request of the service for the person chosen, with the knobs as they stand. */
export function request(more = {}) {
  const { k, seen, filters, rerank } = state.knobs;
  return {
    user: person(),
    history: state.mode === "new" ? state.titles.map((one) => one.item) : [],
    k,
    seen,
    filters,
    rerank,
    ...more,
  };
}

export const turned = () => state.knobs.k !== 10 || state.knobs.seen || state.knobs.filters.length > 0 || Object.keys(state.knobs.rerank).length > 0;

/** What tells two requests apart. */
export const signature = () => JSON.stringify([state.mode, person(), state.titles.map((one) => one.item), state.knobs]);

/** Columns of the item table that say something of an item besides its title. */
export const columns = () => (state.about?.columns ?? []).filter((column) => column.name !== "item" && column.name !== "title" && column.type !== "vector");
