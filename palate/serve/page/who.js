// For whom: somebody whom the data knows, or somebody new with the titles they like.

import { get } from "./api.js";
import { byId, el, many, spoken } from "./dom.js";
import { picker } from "./picker.js";
import { changed, startAfresh, state } from "./state.js";

export function drawWho() {
  const root = byId("who");
  const people = picker({
    label: "Person",
    placeholder: "Search an id",
    search: async (text, signal) => (await get(`/v1/users?limit=12&query=${encodeURIComponent(text)}`, signal)).users.map((user) => ({ value: user, label: user })),
    free: (text) => `Take “${text}” as an id`,
    take: (option) => choose(option.value),
  });
  const titles = picker({
    label: "Add a title",
    placeholder: "Search the catalogue",
    search: async (text, signal) => {
      const found = await get(`/v1/items?limit=12&query=${encodeURIComponent(text)}`, signal);
      return found.items
        .filter((one) => !state.titles.some((chosen) => chosen.item === one.item))
        .map((one) => ({ value: one.item, label: one.title ?? one.item, note: many(one.events ?? 0, "event") }));
    },
    take: (option) => {
      state.titles = [...state.titles, { item: option.value, title: option.label }];
      changed("who");
    },
  });
  const modes = [
    ["known", "Somebody known"],
    ["new", "Somebody new"],
  ].map(([mode, words]) =>
    el("label", {}, el("input", { type: "radio", name: "mode", value: mode, checked: state.mode === mode, onchange: () => switchTo(mode) }), el("span", {}, words)));
  const now = el("div", { class: "now" });
  root.replaceChildren(
    el("fieldset", { class: "segments" }, el("legend", { class: "hidden" }, "Who is asked for"), ...modes),
    people.node, titles.node, now,
  );

  function switchTo(mode) {
    state.mode = mode;
    changed("who");
  }

  function choose(user) {
    state.user = user;
    state.mode = "known";
    changed("who");
  }

  function draw() {
    for (const input of root.querySelectorAll("input[name=mode]")) input.checked = input.value === state.mode;
    people.node.hidden = state.mode !== "known";
    titles.node.hidden = state.mode !== "new";
    for (const one of suggestions) if (one.tagName === "BUTTON") one.setAttribute("aria-pressed", String(one.textContent === state.user));
    if (state.mode === "known") now.replaceChildren(...suggestions);
    else now.replaceChildren(chips());
  }

  function chips() {
    const list = el("ul", { class: "chips", "aria-label": "Titles they like" });
    for (const one of state.titles) {
      const drop = () => {
        const place = state.titles.indexOf(one);
        state.titles = state.titles.filter((other) => other !== one);
        changed("who");
        (now.querySelectorAll(".chips button")[Math.min(place, state.titles.length - 1)] ?? titles.input).focus();
      };
      list.append(el("li", {}, el("span", {}, one.title), el("button", { type: "button", onclick: drop, "aria-label": `Remove ${one.title}` }, "×")));
    }
    if (state.titles.length || state.started) {
      const again = () => {
        startAfresh();
        titles.input.focus();
      };
      list.append(el("li", { class: "plain" }, el("button", { type: "button", class: "quiet", onclick: again }, "Start afresh")));
      return list;
    }
    const none = () => {
      state.started = true;
      changed("who");
    };
    return el("button", { type: "button", class: "quiet", onclick: none }, "Go without any");
  }

  let suggestions = [];
  get("/v1/users?limit=4")
    .then((found) => {
      suggestions = [spoken("Some people: "), ...found.users.map((user) => el("button", { type: "button", class: "pill", onclick: () => choose(user), "aria-label": `Person ${user}` }, user))];
      if (found.total > found.users.length) suggestions.push(el("span", { class: "soft" }, `of ${many(found.total, "person", "people")}`));
    })
    .catch(() => {
      suggestions = [];
    })
    .finally(draw);
  draw();
  return draw;
}
