// The slate: what is recommended, why, and what a click, a rating or a hide changes in the next answer.

import { get, latest, post, send } from "./api.js";
import { badge, difference, few, summary } from "./changes.js";
import { announce, byId, capital, chance, debounced, el, loading, number, percent, plain, problem } from "./dom.js";
import { describe, item as details } from "./items.js";
import { drawKnobs } from "./knobs.js";
import { columns, named, onChange, person, request, signature, state, turned } from "./state.js";

const HIDES = ["Not for me", "Seen it already", "Not now", "I know it and do not like it"];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export function recommend(root) {
  const only = latest();
  const rows = new Map(); // item -> its row, kept while the item stays
  let answer = null; // what is on the screen
  let real = null; // the last answer that was recorded
  let sign = null;

  const title = el("h1", { id: "recommend-title", tabindex: -1 }, "Recommend");
  const rests = el("p", { class: "rests" });
  const changes = el("div", { class: "changes" });
  const list = el("ol", { class: "slate", "aria-label": "Recommended" });
  const meta = el("p", { class: "meta" });
  const empty = el("div", { class: "empty" },
    el("p", {}, "Choose a person above, or take “Somebody new” and name a few titles they like."),
    el("p", { class: "soft" }, "You will see what is recommended, why, and how each click changes it."));
  const serve = () => {
    title.focus();
    ask({ record: true, before: real?.items, why: "Served with these knobs" });
  };
  const preview = el("p", { class: "preview", hidden: true }, el("span", {}, "Preview, not recorded"), el("button", { type: "button", onclick: serve }, "Serve it"));
  const body = el("div", { class: "slate-column" }, el("div", { class: "heading" }, title, preview), empty, rests, changes, list, meta);
  const knobs = drawKnobs(() => soonPreview());
  root.replaceChildren(el("div", { class: "two" }, body, knobs));

  // -- asking ---------------------------------------------------------------------------------------------------------------------

  /** record: whether what is shown counts. before: the slate to compare with. why: a clause that begins the sentence about the change. note:
   * what is to be said instead of it. */
  async function ask({ record, before, why, note }) {
    soonPreview.cancel(); // whatever is asked now has the knobs as they stand
    const asked = signature();
    const slow = setTimeout(() => list.setAttribute("aria-busy", "true"), 150);
    if (!rows.size) changes.replaceChildren(loading("Asking for a slate …"));
    try {
      const got = await only((signal) => post("/v1/recommend", request({ record, placement: "page" }), signal));
      if (got === undefined) return;
      answer = { ...got, recorded: record };
      sign = asked;
      if (record) real = answer;
      if (got.version !== state.about.version) document.dispatchEvent(new CustomEvent("palate:version"));
      draw(before, why, note);
    } catch (error) {
      sign = null;
      changes.replaceChildren(problem(error, () => ask({ record, before, why, note })));
    } finally {
      clearTimeout(slow);
      list.removeAttribute("aria-busy");
    }
  }

  const soonPreview = debounced(120, () => {
    if (person() === null) return;
    if (real && !turned()) ask({ record: false, before: real.items, why: "With the knobs as the bundle has them" });
    else ask({ record: false, before: (real ?? answer)?.items, why: "With these knobs" });
  });

  // -- drawing --------------------------------------------------------------------------------------------------------------------

  function draw(before, why, note) {
    title.textContent = `For ${named()}`;
    rests.replaceChildren(...restsOn());
    const found = before ? difference(before, answer.items) : null;
    move(() => list.replaceChildren(...answer.items.map((one) => row(one, found?.marks.get(one.item)))));
    for (const id of [...rows.keys()]) if (!answer.items.some((one) => one.item === id)) rows.delete(id);
    const said = [];
    if (answer.policy === "fallback") said.push(el("p", { class: "note warn" }, `A cheaper answer: ${answer.why ?? "the whole funnel was late"}.`));
    else if (answer.why) said.push(el("p", { class: "note warn" }, `${capital(answer.why)}.`));
    if (!answer.items.length) said.push(el("p", { class: "note" }, state.knobs.filters.length ? "Nothing passes these filters." : "There is nothing to recommend."));
    if (note) {
      said.push(el("p", { class: "note warn" }, note));
      announce(note);
    } else if (found) {
      const sentence = `${why}: ${summary(found)}`;
      said.push(el("p", { class: "said" }, sentence, "."));
      if (found.gone.length) said.push(el("p", { class: "gone", title: found.gone.map((one) => one.title).join("\n") }, `Gone: ${few(found.gone)}`));
      announce(`${sentence}.${found.gone.length ? ` Gone: ${few(found.gone)}.` : ""}`);
    } else if (answer.items.length) {
      announce(`${answer.items.length} recommendations for ${named()}. First: ${answer.items[0].title}.`);
    }
    if (!said.length) said.push(el("p", { class: "note" }, "Open, like, rate or hide something, or turn a knob: the next answer follows at once."));
    preview.hidden = answer.recorded;
    changes.replaceChildren(...said);
    meta.replaceChildren(...facts());
    knobs.hidden = false;
    watch();
  }

  function restsOn() {
    const { history } = answer;
    if (!history.length) return [answer.known ? "Nothing is known of their past." : "Nothing is known of them yet: this is what goes down well with everybody."];
    const names = history.slice(0, 3).map((one) => one.title);
    const rest = history.length - names.length;
    return ["It rests on ", names.join(", "), rest > 0 ? ` and ${history.length >= 50 ? "more" : `${rest} more`}.` : "."];
  }

  function facts() {
    const parts = [`Bundle ${answer.version}`, `${number(answer.took_ms)} ms`];
    if (answer.experiment) parts.push(`experiment ${answer.experiment}, arm ${answer.arm}`);
    if (answer.recorded) parts.push(`recorded as ${answer.recommendation.slice(0, 8)}`);
    return [parts.join(" · ")];
  }

  function row(one, mark) {
    let kept = rows.get(one.item);
    if (!kept) rows.set(one.item, (kept = build(one.item)));
    kept.now = one;
    const { node } = kept;
    node.classList.toggle("changed", Boolean(mark && mark.kind !== "same"));
    kept.place.textContent = one.position + 1;
    kept.title.textContent = one.title;
    kept.badge.replaceChildren(...[badge(mark)].filter(Boolean));
    kept.reason.textContent = capital(one.reason);
    kept.numbers.replaceChildren(...numbers(one));
    for (const [button, words] of kept.named) button.setAttribute("aria-label", words(one.title));
    return node;
  }

  function numbers(one) {
    const parts = [pair("score", number(one.score))];
    for (const [task, value] of Object.entries(one.probabilities ?? {})) {
      const share = value >= 0 && value <= 1;
      parts.push(pair(task === "label" ? "wanted" : task, share ? percent(value) : number(value)));
    }
    const sources = Object.entries(one.sources ?? { [one.source]: null });
    const brought = sources.map(([name, rank]) => (rank === null ? name : `${name} ${rank}`)).join(", ");
    if (brought) parts.push(pair("brought by", brought, "The retrievers that brought it, and its place in each one's list"));
    if (one.propensity < 1) parts.push(el("span", { class: "drawn" }, chance(one.propensity)));
    return parts;
  }

  const pair = (name, value, hint) => el("span", { title: hint }, `${name} `, el("b", {}, value));

  function build(id) {
    const kept = { id, named: [] };
    const now = () => kept.now;
    const label = (button, words) => (kept.named.push([button, words]), button);
    kept.place = el("span", { class: "place" });
    kept.title = el("span", {});
    kept.badge = el("span", { class: "marks" });
    kept.columns = el("p", { class: "columns" }, "\u00a0");
    kept.reason = el("p", { class: "reason" });
    kept.numbers = el("p", { class: "numbers" });
    describe(id, kept.columns);
    const open = label(el("button", { type: "button", class: "firm", onclick: () => act(now(), "click") }, "Open"), (name) => `Open ${name}`);
    const like = label(el("button", { type: "button", onclick: () => act(now(), "like") }, "Like"), (name) => `Like ${name}`);
    kept.node = el("li", { "data-item": id },
      kept.place,
      el("div", { class: "what" }, el("h2", {}, kept.title, kept.badge), kept.columns, kept.reason),
      kept.numbers,
      el("div", { class: "acts" }, open, like, stars(kept, label), hides(kept, label)));
    return kept;
  }

  /** Five stars: one stop for the Tab key, the arrows move, Enter or Space sends. */
  function stars(kept, label) {
    const group = label(el("div", { class: "stars", role: "group" }), (name) => `Rate ${name}`);
    for (let value = 1; value <= 5; value += 1) {
      const star = el("button", { type: "button", tabindex: value === 1 ? 0 : -1, onclick: () => act(kept.now, "rating", { value }) }, el("span", { "aria-hidden": "true" }, "★"));
      group.append(label(star, (name) => `Rate ${name} ${value} of 5`));
    }
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const all = [...group.children];
      const from = all.indexOf(document.activeElement);
      const to = Math.min(4, Math.max(0, from + step));
      all.forEach((star, place) => (star.tabIndex = place === to ? 0 : -1));
      all[to].focus();
    });
    return group;
  }

  function hides(kept, label) {
    const menu = el("details", { class: "menu" });
    const summaryNode = label(el("summary", {}, "Hide"), (name) => `Hide ${name}`);
    const reasons = HIDES.map((reason) => el("button", { type: "button", onclick: () => ((menu.open = false), act(kept.now, "hide", { reason: reason.toLowerCase() })) }, reason));
    menu.append(summaryNode, el("div", { class: "choices", role: "group", "aria-label": "Why?" }, ...reasons));
    menu.addEventListener("toggle", () => menu.open && reasons[0].focus());
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      summaryNode.focus();
    });
    menu.addEventListener("focusout", (event) => {
      if (!menu.contains(event.relatedTarget)) menu.open = false;
    });
    return menu;
  }

  /** Rows slide to their new places, and the focus stays with its item; where that is gone, it goes to what stands there now. */
  function move(change) {
    const held = document.activeElement;
    const within = list.contains(held) ? held.closest("li") : null;
    const place = within ? [...list.children].indexOf(within) : -1;
    const before = new Map([...list.children].map((node) => [node, node.getBoundingClientRect().top]));
    change();
    if (within) {
      if (list.contains(held)) held.focus({ preventScroll: true });
      else settle(place);
    }
    if (calm.matches) return;
    for (const node of list.children) {
      const from = before.get(node);
      const by = from === undefined ? 0 : from - node.getBoundingClientRect().top;
      if (from === undefined && before.size) node.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 260, easing: "ease-out" });
      else if (by) node.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 260, easing: "cubic-bezier(.2,.7,.2,1)" });
    }
  }

  /** Gives the focus to what stands at a place now. */
  const settle = (place) => (list.children[Math.min(place, list.children.length - 1)]?.querySelector("button") ?? title).focus({ preventScroll: true });

  // -- events ---------------------------------------------------------------------------------------------------------------------

  const DONE = { click: "opened", like: "liked", rating: "rated", hide: "hid" };

  async function act(one, kind, more = {}) {
    const from = answer;
    // What a preview shows was not recorded, so an event about it names no recommendation.
    const place = from.recorded ? { recommendation: from.recommendation, position: one.position, placement: "page" } : {};
    const why = `After you ${DONE[kind]} ${one.title}`;
    if (kind === "click") opened(one);
    try {
      const kept = await send(person(), [{ kind, item: one.item, ...place, ...more }]);
      if (kept.forgotten) {
        await ask({ record: true, note: "This person was forgotten: what they do is not kept." });
        return;
      }
      await ask({ record: true, before: from.items, why });
    } catch (error) {
      only.drop(); // a slate that is still to come would take the place of what is said now
      changes.replaceChildren(problem(error, () => act(one, kind, more)));
    }
  }

  /** What an opened item looks like: all that the table says, and what is similar. */
  function opened(one) {
    const dialog = byId("dialog");
    const facts = el("dl", { class: "facts" });
    const near = el("div", {}, loading("Looking for what is similar …"));
    dialog.replaceChildren(
      el("h2", { id: "dialog-title" }, one.title),
      el("p", { class: "soft" }, capital(one.reason)),
      facts,
      el("h3", {}, "Similar to it"),
      near,
      el("div", { class: "row end" }, el("button", { type: "button", class: "strong", autofocus: true, onclick: () => dialog.close() }, "Back to the slate")),
    );
    const closed = () => {
      // The row it was opened from is gone. A browser that is busy lets the focus go from what it hides only with its next frame.
      if (document.activeElement === document.body || dialog.contains(document.activeElement)) settle(one.position);
      if (changes.querySelector(".said")) announce([...changes.children].map((part) => part.textContent).join(" "));
    };
    dialog.addEventListener("close", closed, { once: true });
    dialog.showModal();
    details(one.item)
      .then((found) => {
        for (const { name } of columns()) if (plain(found[name])) facts.append(el("div", {}, el("dt", {}, name), el("dd", {}, plain(found[name]))));
      })
      .catch((error) => facts.replaceChildren(problem(error)));
    get(`/v1/similar/${encodeURIComponent(one.item)}?k=6`)
      .then((found) => near.replaceChildren(found.items.length ? el("ol", { class: "near" }, ...found.items.map((other) => el("li", {}, other.title))) : el("p", { class: "soft" }, "Nothing is near enough.")))
      .catch((error) => near.replaceChildren(problem(error)));
  }

  // What was on the screen for a moment is an impression, once for each recommendation.
  const sent = new Set();
  const queue = [];
  const timers = new Map();
  const flush = () => {
    const batch = queue.splice(0);
    if (batch.length) send(batch[0].user, batch.map((one) => one.event)).catch(() => queue.push(...batch.slice(0, 100)));
  };
  const soon = debounced(700, flush);
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      clearTimeout(timers.get(target));
      if (isIntersecting) timers.set(target, setTimeout(() => seen(target.dataset.item), 400));
    }
  }, { threshold: 0.6 });

  function seen(id) {
    const one = answer?.recorded && answer.items.find((other) => other.item === id);
    const mark = one && `${answer.recommendation} ${id}`;
    if (!one || sent.has(mark) || document.hidden || root.hidden || byId("dialog").open) return;
    sent.add(mark);
    queue.push({ user: answer.user ?? person(), event: { kind: "impression", item: id, recommendation: answer.recommendation, position: one.position, placement: "page" } });
    soon();
  }

  function watch() {
    observer.disconnect();
    for (const timer of timers.values()) clearTimeout(timer);
    for (const node of list.children) observer.observe(node);
  }

  document.addEventListener("visibilitychange", () => document.hidden && flush());
  byId("dialog").addEventListener("close", watch);
  onChange((what) => what === "forgotten" && (sign = null));

  return {
    show() {
      const nobody = person() === null;
      empty.hidden = !nobody;
      for (const part of [rests, changes, list, meta]) part.hidden = nobody;
      if (nobody) {
        answer = real = sign = null;
        rows.clear();
        title.textContent = "Recommend";
        preview.hidden = true;
        for (const part of [rests, changes, list, meta]) part.replaceChildren();
        return;
      }
      if (sign === signature()) return;
      const whose = answer && answer.user === person();
      ask({ record: true, before: whose ? answer.items : null, why: "For this history" });
    },
  };
}

