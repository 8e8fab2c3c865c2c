// The candidates of each stage for the same request, and what each stage changed.

import { latest, post } from "./api.js";
import { badge, difference, few, summary } from "./changes.js";
import { announce, capital, el, loading, many, number, problem } from "./dom.js";
import { named, person, request, signature, state, turned } from "./state.js";

const LISTED = 50; // the service lists no more of a stage

/** What a stage is, and which stage it is compared with. */
function kinds(stages) {
  const { retrieve, rank } = state.about.stages;
  let before = null;
  return stages.map((stage) => {
    const kind = retrieve.includes(stage.name) ? "retriever" : stage.name === "merged" ? "merge" : stage.name === "ranked" ? "ranker" : stage.name === "slate" ? "slate" : "reranker";
    const found = { ...stage, kind, before: kind === "retriever" || kind === "merge" ? null : before };
    if (kind !== "retriever") before = found;
    return found;
  }).map((stage) => ({ ...stage, heading: stage.kind === "ranker" && rank ? `ranked by ${rank}` : stage.name.replaceAll("_", " ") }));
}

export function stages(root) {
  const only = latest();
  let sign = null;
  let all = false;
  let shown = null;

  const title = el("h1", { id: "stages-title" }, "Stages");
  const lead = el("p", { class: "soft" });
  const length = el("button", { type: "button", onclick: () => ((all = !all), draw()) });
  const head = el("div", { class: "head" }, el("div", {}, title, lead), length);
  const board = el("div", { class: "board", tabindex: 0, role: "group", "aria-label": "Stages, side by side" });
  root.replaceChildren(head, board);

  // The same item is marked in every list while the pointer or the focus is on it.
  const mark = (event) => {
    const id = event.target.closest?.("li[data-item]")?.dataset.item;
    for (const node of board.querySelectorAll("li[data-item]")) node.classList.toggle("same", id !== undefined && node.dataset.item === id);
  };
  board.addEventListener("pointerover", mark);
  board.addEventListener("pointerleave", mark);
  board.addEventListener("click", mark);

  async function ask() {
    const asked = signature();
    if (!shown) board.replaceChildren(loading("Asking what each stage did …"));
    try {
      const got = await only((signal) => post("/v1/recommend", request({ stages: true, record: false, placement: "page" }), signal));
      if (got === undefined) return;
      sign = asked;
      shown = got;
      draw();
      announce(`${many(got.stages.length, "stage")} for ${named()}.`);
    } catch (error) {
      sign = null;
      board.replaceChildren(problem(error, ask));
    }
  }

  function draw() {
    const found = kinds(shown.stages);
    const k = found.at(-1).items.length;
    title.textContent = `Stages for ${named()}`;
    lead.textContent = `What each stage brought or put in order, best first, and what it changed among the first ${k} of the stage before.${turned() ? " With the knobs as you turned them." : ""}`;
    length.textContent = all ? "Show fewer" : `Show up to ${LISTED}`;
    length.hidden = Math.max(...found.map((stage) => stage.items.length)) <= Math.max(k, 10);
    board.replaceChildren(...found.map((stage) => column(stage, found, k)));
  }

  function column(stage, found, k) {
    const list = el("ol", {});
    const most = all ? LISTED : Math.max(k, 10);
    const items = stage.items.slice(0, most);
    let said;
    if (stage.before) {
      // What an item did is told from the whole of both lists; what the stage did, from the first k.
      const { marks } = difference(stage.before.items, stage.items);
      const top = difference(stage.before.items.slice(0, k), stage.items.slice(0, k));
      const fresh = stage.before.items.length >= LISTED ? `from below ${LISTED}` : "new";
      list.append(...items.map((one) => line(one, badge(marks.get(one.item), fresh))));
      said = [el("p", { class: "did" }, capital(summary(top)), ".")];
      if (top.gone.length) said.push(el("p", { class: "gone" }, "Out of the first ", k, ": ", few(top.gone)));
    } else if (stage.kind === "merge") {
      const brought = (one) => found.filter((other) => other.kind === "retriever" && other.items.some((own) => own.item === one.item)).map((other) => other.name);
      list.append(...items.map((one) => line(one, null, brought(one).join(", "))));
      said = [el("p", { class: "did" }, "All lists in one, without repeats.")];
    } else {
      list.append(...items.map((one) => line(one, null)));
      said = [el("p", { class: "did" }, stage.items.length ? `Brought ${stage.items.length >= LISTED ? `${LISTED} or more` : many(stage.items.length, "candidate")}.` : "Brought nothing: it does not serve this person.")];
    }
    return el("section", { class: "stage card", "aria-label": `${stage.heading}, ${stage.kind}` },
      el("header", {}, el("h2", {}, stage.heading), el("small", { class: "kind" }, stage.kind), ...said), list);
  }

  const line = (one, marked, note = "") =>
    el("li", { "data-item": one.item }, el("span", { class: "name" }, one.title, marked ? " " : null, marked), el("small", { class: note ? "under" : null }, note || number(one.score)));

  return {
    show() {
      if (person() === null) {
        sign = shown = null;
        title.textContent = "Stages";
        lead.textContent = "";
        length.hidden = true;
        board.replaceChildren(el("div", { class: "empty" }, el("p", {}, "Choose a person above to see what every stage makes of them.")));
        return;
      }
      if (sign !== signature()) ask();
    },
  };
}
