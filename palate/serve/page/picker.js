// A box to search in: type, move with the arrows, take with Enter. The combobox pattern of the ARIA authoring practices.

import { latest } from "./api.js";
import { debounced, el } from "./dom.js";

let count = 0;

/**
 * search: async (text, signal) -> [{value, label, note}]. take: called with what was chosen. free: text of an option that takes what was
 * typed as it is (a function of it), or null.
 */
export function picker({ label, placeholder, search, take, free = null, hint = null }) {
  const id = `picker-${(count += 1)}`;
  const list = el("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const input = el("input", {
    id, type: "text", role: "combobox", placeholder, autocomplete: "off", autocapitalize: "off", spellcheck: "false",
    "aria-expanded": "false", "aria-autocomplete": "list", "aria-controls": list.id, "aria-describedby": hint ? `${id}-hint` : null,
  });
  const only = latest();
  let options = [];
  let active = -1;

  function show(open) {
    list.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    if (!open) mark(-1);
  }

  function mark(place) {
    active = place;
    [...list.children].forEach((node, at) => node.setAttribute("aria-selected", String(at === place)));
    const node = list.children[place];
    if (node && options[place]) {
      input.setAttribute("aria-activedescendant", node.id);
      node.scrollIntoView({ block: "nearest" });
    } else {
      input.removeAttribute("aria-activedescendant");
    }
  }

  function choose(option) {
    if (!option) return;
    input.value = "";
    options = [];
    show(false);
    take(option);
  }

  function draw(words) {
    list.replaceChildren(
      ...options.map((option, place) =>
        el("li", { id: `${id}-${place}`, role: "option", "aria-selected": "false", onmousedown: (event) => event.preventDefault(), onclick: () => choose(option) },
          el("span", {}, option.label), option.note ? el("small", {}, option.note) : null)),
      ...(options.length ? [] : [el("li", { class: "none", role: "option", "aria-disabled": "true", "aria-selected": "false" }, words)]),
    );
    show(true);
    mark(options.length && input.value.trim() ? 0 : -1);
  }

  async function look() {
    const text = input.value.trim();
    try {
      const found = await only((signal) => search(text, signal));
      if (found === undefined || document.activeElement !== input) return;
      options = found;
      if (free && text && !found.some((option) => option.value === text)) options = [...found, { value: text, label: free(text), typed: true }];
      draw("Nothing found");
    } catch (error) {
      options = free && text ? [{ value: text, label: free(text), typed: true }] : [];
      if (document.activeElement === input) draw(error.message);
    }
  }

  const soon = debounced(120, look);
  input.addEventListener("input", soon);
  input.addEventListener("focus", look);
  input.addEventListener("blur", () => show(false));
  input.addEventListener("keydown", async (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) {
      event.preventDefault();
      if (list.hidden) await look();
      else if (options.length) mark((active + move + options.length) % options.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const text = input.value.trim();
      // What was typed a moment ago may still be looked for: take what it finds, not what was found before it.
      if (active < 0 || (text && options[active] && !options[active].typed && !matches(options[active], text))) await look();
      choose(options[Math.max(active, 0)]);
    } else if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      show(false);
    }
  });
  const described = hint ? el("small", { id: `${id}-hint`, class: "hint" }, hint) : null;
  const node = el("div", { class: "picker" }, el("label", { for: id }, label), input, list, described);
  return { node, input };
}

const matches = (option, text) => option.label.toLowerCase().includes(text.toLowerCase()) || option.value.startsWith(text);
