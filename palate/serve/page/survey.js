// Ten items that would be recommended: would they want them, from 1 to 5? Their answers train what satisfies, not only what is clicked.

import { latest, post, send } from "./api.js";
import { announce, capital, el, loading, problem } from "./dom.js";
import { describe, item } from "./items.js";
import { named, person, request } from "./state.js";

const WORDS = ["Not at all", "Rather not", "Perhaps", "Rather yes", "Very much"];

export function survey(root) {
  const only = latest();
  let whose = null;
  let slate = null;
  let place = 0;
  let answers = [];
  let sending = false;

  const title = el("h1", { id: "survey-title", tabindex: -1 }, "Survey");
  const lead = el("p", { class: "soft" });
  const panel = el("div", { class: "ask" });
  root.replaceChildren(title, lead, panel);

  async function start() {
    whose = person();
    slate = null;
    place = 0;
    answers = [];
    title.textContent = `A survey for ${named()}`;
    lead.textContent = "Ten things that would be recommended. Press 1 to 5, or use the buttons.";
    panel.replaceChildren(loading("Choosing ten things …"));
    try {
      const got = await only((signal) => post("/v1/recommend", request({ k: 10, placement: "survey" }), signal));
      if (got === undefined) return;
      slate = got;
      draw();
    } catch (error) {
      whose = null;
      panel.replaceChildren(problem(error, start));
    }
  }

  function draw(moved = false) {
    if (!slate.items.length) return panel.replaceChildren(el("p", { class: "empty" }, "There is nothing to ask about."));
    if (place >= slate.items.length) return thanks();
    const one = slate.items[place];
    item(slate.items[place + 1]?.item ?? one.item).catch(() => {});
    const columns = el("p", { class: "columns" }, "\u00a0");
    describe(one.item, columns);
    const heading = el("h2", { tabindex: -1, id: "asked" }, one.title);
    const buttons = WORDS.map((words, at) =>
      el("button", { type: "button", "aria-pressed": String(answers[place] === at + 1), onclick: () => answer(at + 1) }, el("b", {}, at + 1), el("span", {}, words)));
    panel.replaceChildren(
      el("label", { class: "progress" }, el("span", {}, `${place + 1} of ${slate.items.length}`), el("progress", { max: slate.items.length, value: place })),
      el("article", { class: "card question", "aria-labelledby": "asked" },
        heading, columns, el("p", { class: "reason" }, capital(one.reason)),
        el("p", { class: "would", id: "would" }, "Would you want this?"),
        el("div", { class: "scale", role: "group", "aria-labelledby": "would" }, ...buttons)),
      el("div", { class: "row" },
        el("button", { type: "button", disabled: place === 0, onclick: () => go(place - 1) }, "Back"),
        el("button", { type: "button", onclick: () => go(place + 1) }, "Leave it out")),
    );
    panel.querySelector("progress").value = place;
    if (moved) heading.focus();
  }

  function go(to) {
    place = to;
    draw(true);
  }

  async function answer(value) {
    if (sending || !slate || place >= slate.items.length) return;
    const one = slate.items[place];
    sending = true;
    try {
      const kept = await send(whose, [{ kind: "survey", item: one.item, value, recommendation: slate.recommendation, position: one.position, placement: "survey" }]);
      answers[place] = value;
      go(place + 1);
      if (kept.forgotten) panel.prepend(el("p", { class: "note warn", role: "status" }, "This person was forgotten: answers are not kept."));
    } catch (error) {
      panel.querySelector(".problem")?.remove();
      panel.append(problem(error, () => answer(value)));
    } finally {
      sending = false;
    }
  }

  function thanks() {
    const given = answers.filter(Boolean);
    const mean = given.reduce((sum, value) => sum + value, 0) / given.length;
    const words = given.length ? `Their mean is ${mean.toFixed(1)} of 5, from ${given.length} ${given.length === 1 ? "answer" : "answers"}.` : "No question was answered.";
    const heading = el("h2", { tabindex: -1 }, "Thank you");
    panel.replaceChildren(el("div", { class: "card question" }, heading,
      el("p", { class: "mean" }, words),
      el("ol", { class: "answers" }, ...slate.items.map((one, at) => el("li", {}, el("span", {}, one.title), el("b", {}, answers[at] ? `${answers[at]} of 5` : "left out")))),
      el("div", { class: "row" }, el("button", { type: "button", class: "strong", onclick: start }, "Ask ten more"))));
    heading.focus();
    announce(`Thank you. ${words}`);
  }

  document.addEventListener("keydown", (event) => {
    if (root.hidden || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
    if (/^[1-5]$/.test(event.key) && slate) {
      event.preventDefault();
      answer(Number(event.key));
    }
  });

  return {
    show() {
      if (person() === null) {
        whose = slate = null;
        title.textContent = "Survey";
        lead.textContent = "";
        panel.replaceChildren(el("div", { class: "empty" }, el("p", {}, "Choose a person above: they are asked about ten things that would be recommended to them.")));
      } else if (whose !== person()) start();
    },
  };
}
