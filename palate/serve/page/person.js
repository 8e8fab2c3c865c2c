// What the system knows about a person, and how to make it forget.

import { get, latest, remove } from "./api.js";
import { announce, confirmed, el, loading, many, number, plain, problem, when } from "./dom.js";
import { item } from "./items.js";
import { changed, person, state } from "./state.js";

const FIRST = 12;

export function personView(root) {
  const only = latest();
  const title = el("h1", { id: "person-title", tabindex: -1 }, "Person");
  const body = el("div", { class: "stack" });
  root.replaceChildren(title, body);

  async function ask(after = null) {
    const id = person();
    title.textContent = state.mode === "known" ? `What is known of person ${id}` : "What is known of somebody new";
    if (!body.children.length) body.replaceChildren(loading("Looking up what is known …"));
    try {
      const found = await only((signal) => get(`/v1/users/${encodeURIComponent(id)}`, signal));
      if (found !== undefined) draw(id, found, after);
    } catch (error) {
      body.replaceChildren(problem(error, () => ask(after)));
    }
  }

  function draw(id, found, after) {
    const tiles = [
      [found.history.length, "things they did, learnt from or since"],
      [found.events.length, "events in the store"],
      [found.slates.length, "slates shown to them"],
      [found.hidden.length, "items hidden for good"],
    ];
    const names = new Map([...found.history, ...found.hidden].map((one) => [one.item, one.title]));
    // A title that is not there yet is looked up while the id stands in its place.
    const name = (id) => {
      if (names.has(id)) return names.get(id);
      const text = el("span", {}, id);
      item(id).then((row) => (text.textContent = row.title), () => {});
      return text;
    };
    const value = (one) => (one.value === null || one.value === undefined ? "" : number(one.value));
    body.replaceChildren(...[
      ...(after ? [el("p", { class: "note good" }, after)] : []),
      ...(found.forgotten ? [el("p", { class: "note warn" }, "This person was forgotten. Whatever comes of them is dropped until they are admitted again.")] : []),
      el("p", { class: "soft" }, found.known ? "The bundle has learnt from this person's past." : `The bundle has not met this person: answers rest on what they do here${state.titles.length && state.mode === "new" ? ", and on the titles above, which go along with each request and are not stored" : ""}.`),
      el("div", { class: "tiles" }, ...tiles.map(([value, words]) => el("div", { class: "tile card" }, el("b", {}, number(value)), el("span", {}, words)))),
      table("History", ["Title", "Kind", "Time"], [...found.history].reverse().map((one) => () => [one.title, [one.kind ?? "in the data", value(one)].filter(Boolean).join(" "), when(one.time, true)]), "Nothing yet."),
      found.hidden.length ? el("section", { class: "card" }, el("h2", {}, "Hidden"), el("ul", { class: "chips" }, ...found.hidden.map((one) => el("li", { class: "told" }, one.title)))) : null,
      table("Events in the store", ["Kind", "Item", "Value or reason", "Time"], [...found.events].reverse().map((one) => () => [one.kind, one.item ? name(one.item) : plain(one.query), value(one) || plain(one.reason), when(one.time)]), "No events: what happens on this page will be here."),
      table("Slates shown", ["Time", "Bundle", "Items"], [...found.slates].reverse().map((one) => () => [when(one.time), el("code", {}, one.version), many(one.items.length, "item")]), "No slate was recorded for them."),
      el("section", { class: "card forget" },
        el("div", {}, el("h2", {}, "Forget this person"), el("p", { class: "soft" }, "Removes their events and slates from the store for good, and drops whatever comes of them later.")),
        el("button", { type: "button", class: "danger", disabled: found.forgotten, onclick: () => forget(id) }, found.forgotten ? "Forgotten" : "Forget …")),
    ].filter(Boolean));
  }

  function table(heading, columns, rows, none) {
    const body = el("tbody", {});
    const fill = (most) => body.replaceChildren(...rows.slice(0, most).map((row) => el("tr", {}, ...row().map((cell) => el("td", {}, cell)))));
    fill(FIRST);
    const more = rows.length > FIRST ? el("button", { type: "button", class: "quiet", onclick: (event) => (fill(rows.length), event.target.remove()) }, `Show all ${number(rows.length)}`) : null;
    return el("section", { class: "card" }, el("h2", {}, heading),
      rows.length ? el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": heading }, el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((column) => el("th", { scope: "col" }, column)))), body)) : el("p", { class: "soft" }, none),
      more);
  }

  async function forget(id) {
    const sure = await confirmed(`Forget ${state.mode === "known" ? `person ${id}` : "this person"}?`, "Their events and slates are removed for good. What the bundle itself learnt from them stays until the next training.", "Forget for good");
    if (!sure) return;
    try {
      const gone = await remove(`/v1/users/${encodeURIComponent(id)}`);
      const words = `Forgotten: ${many(gone.events, "event")} and ${many(gone.slates, "slate")} removed.`;
      announce(words);
      changed("forgotten");
      await ask(words);
      title.focus();
    } catch (error) {
      body.prepend(problem(error, () => forget(id)));
    }
  }

  return {
    show() {
      if (person() === null) {
        title.textContent = "Person";
        body.replaceChildren(el("div", { class: "empty" }, el("p", {}, "Choose a person above to see what is known of them.")));
        return;
      }
      ask();
    },
  };
}
