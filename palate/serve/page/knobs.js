// The knobs: rerankers, filters and the length of the slate, made from what the bundle says of itself.

import { capital, el, many } from "./dom.js";
import { columns, state } from "./state.js";

const FAMILIES = [
  [["mmr", "dpp", "calibrated"], "diversity", "mmr"],
  [["freshness"], "freshness", "freshness"],
  [["epsilon_greedy", "boltzmann", "thompson", "explore_category"], "exploration", "epsilon_greedy"],
];
const ORDERED = [">=", "<=", "==", "!=", ">", "<"];
// What a rule may compare a column with, by what the column holds.
const OPERATORS = { number: ORDERED, time: ORDERED, list: ["has", "!="], boolean: ["=="], text: ["==", "!="] };
const EXAMPLES = { number: "1990", time: "1999-12-31", list: "one of them", boolean: "true", text: "value" };

/** What a setting does, from the docstring of its Config: "beta: weight of diversity; 0 keeps the order." */
function hints(schema) {
  const found = {};
  const text = (schema.description ?? "").replace(/\s+/g, " ");
  const names = Object.keys(schema.properties ?? {});
  const marks = names
    .map((name) => [name, text.search(new RegExp(`(^|[.,] )${name}: `))])
    .filter(([, at]) => at >= 0)
    .sort((a, b) => a[1] - b[1]);
  marks.forEach(([name, at], place) => {
    const start = text.indexOf(`${name}: `, at) + name.length + 2;
    const end = place + 1 < marks.length ? marks[place + 1][1] + 1 : text.length;
    const words = text.slice(start, end).trim();
    if (!words.startsWith("as in ")) found[name] = capital(words); // what points elsewhere in the sources says nothing here
  });
  return found;
}

const spaced = (name) => name.replaceAll("_", " ");

/** The alternative of a schema that says something: of "a number or null" the number. */
function pick(schema) {
  const options = schema.anyOf ?? [schema];
  const real = options.find((one) => one.type !== "null") ?? schema;
  return { ...schema, ...real, nullable: options.some((one) => one.type === "null") };
}

/** Ends and step of a slider. Bounds that the schema does not name are taken from where the setting stands. */
function span(schema, value) {
  const integer = schema.type === "integer";
  const stands = Math.max(Math.abs(value ?? 0), Math.abs(schema.default ?? 0));
  const open = schema.exclusiveMinimum !== undefined;
  let low = schema.minimum ?? schema.exclusiveMinimum ?? Math.min(0, -2 * stands);
  let high = schema.maximum ?? schema.exclusiveMaximum ?? (stands ? low + Math.max(4 * (stands - low), integer ? 4 : 0) : low + (integer ? 10 : 1));
  if (integer && high - low > 1000) high = low + 1000;
  const step = integer ? 1 : Number(((high - low) / 100).toPrecision(1));
  if (open) low += step;
  if (schema.exclusiveMaximum !== undefined && schema.maximum === undefined) high -= step;
  return { low, high, step };
}

let count = 0;

/** turned: called after each change. Returns the panel. */
export function drawKnobs(turned) {
  const { about, knobs } = state;
  const rerankers = about.stages.rerank;
  const resets = [];
  const more = about.limits?.k ?? 50;

  function changed() {
    reset.disabled = !(knobs.k !== 10 || knobs.seen || knobs.filters.length || Object.keys(knobs.rerank).length);
    turned();
  }

  /** Remembers one setting of a reranker; as the bundle has it means not to name it at all. */
  function set(reranker, name, value) {
    const kept = { ...(knobs.rerank[reranker.name] ?? {}) };
    if (JSON.stringify(value) === JSON.stringify(reranker.settings[name])) delete kept[name];
    else kept[name] = value;
    if (Object.keys(kept).length) knobs.rerank[reranker.name] = kept;
    else delete knobs.rerank[reranker.name];
    changed();
  }

  // -- one control ----------------------------------------------------------------------------------------------------------------

  function slider(words, { low, high, step }, value, put, { nullable = false, hint = null, max = null, min = null } = {}) {
    const id = `knob-${(count += 1)}`;
    const range = el("input", { type: "range", id: `${id}-range`, min: low, max: high, step, "aria-label": `${words}, as a slider` });
    const field = el("input", { type: "number", id, step: "any", placeholder: nullable ? "none" : null, "aria-describedby": hint ? `${id}-hint` : null, min, max });
    const show = (given) => {
      field.value = given ?? "";
      range.value = given ?? high;
      field.removeAttribute("aria-invalid");
    };
    range.addEventListener("input", () => {
      field.value = Number(Number(range.value).toPrecision(6));
      field.removeAttribute("aria-invalid");
      put(Number(field.value));
    });
    field.addEventListener("input", () => {
      const good = field.value === "" ? nullable && !field.validity.badInput : Number.isFinite(Number(field.value)) && field.validity.valid;
      if (!good) return field.setAttribute("aria-invalid", "true");
      field.removeAttribute("aria-invalid");
      if (field.value !== "") range.value = field.value;
      put(field.value === "" ? null : Number(field.value));
    });
    show(value);
    resets.push(() => show(value));
    return el("div", { class: "knob" },
      el("label", { for: id }, words), field, range, hint ? el("small", { id: `${id}-hint`, class: "hint" }, hint) : null);
  }

  function toggle(words, value, put, hint = null) {
    const box = el("input", { type: "checkbox", checked: value, onchange: () => put(box.checked) });
    resets.push(() => (box.checked = value));
    return el("div", { class: "knob" }, el("label", { class: "check" }, box, el("span", {}, words)), hint ? el("small", { class: "hint" }, hint) : null);
  }

  function choice(words, values, value, put, hint) {
    const id = `knob-${(count += 1)}`;
    const select = el("select", { id, "aria-describedby": hint ? `${id}-hint` : null, onchange: () => put(values[select.selectedIndex]) }, ...values.map((one) => el("option", {}, String(one))));
    const show = () => (select.selectedIndex = Math.max(0, values.indexOf(value)));
    show();
    resets.push(show);
    return el("div", { class: "knob choice" }, el("label", { for: id }, words), select, hint ? el("small", { id: `${id}-hint`, class: "hint" }, hint) : null);
  }

  /** Anything else, as JSON: bounds, weights, lists. */
  function written(words, value, put, hint, text = false) {
    const id = `knob-${(count += 1)}`;
    const said = el("small", { class: "hint wrong", role: "alert" });
    const field = el("input", { id, type: "text", spellcheck: "false", class: "wide", "aria-describedby": hint ? `${id}-hint` : null });
    const show = () => {
      field.value = text ? (value ?? "") : JSON.stringify(value);
      said.textContent = "";
    };
    field.addEventListener("change", () => {
      try {
        const given = text ? field.value || null : JSON.parse(field.value);
        said.textContent = "";
        put(given);
      } catch {
        said.textContent = `Write it as JSON, such as ${JSON.stringify(value)}.`;
      }
    });
    show();
    resets.push(show);
    return el("div", { class: "knob" }, el("label", { for: id }, words), field, said, hint ? el("small", { id: `${id}-hint`, class: "hint" }, hint) : null);
  }

  function control(reranker, name, given, hint) {
    const schema = pick(given);
    const value = reranker.settings[name];
    const put = (next) => set(reranker, name, next);
    const words = spaced(name);
    if (schema.enum) return choice(words, schema.nullable ? [...schema.enum, null] : schema.enum, value, put, hint);
    if (schema.type === "boolean") return toggle(words, value, put, hint);
    if (schema.type === "integer" || schema.type === "number") {
      const ends = { nullable: schema.nullable, hint, min: schema.minimum ?? schema.exclusiveMinimum, max: schema.maximum ?? schema.exclusiveMaximum };
      if (name === "seed") {
        const field = slider(words, span({ ...schema, maximum: 1000 }, value), value, put, ends);
        const again = () => {
          const input = field.querySelector("input[type=number]");
          input.value = 1 + Math.floor(Math.random() * 1000);
          input.dispatchEvent(new Event("input"));
        };
        field.append(el("button", { type: "button", class: "quiet", onclick: again }, "Draw again"));
        return field;
      }
      return slider(words, span(schema, value), value, put, ends);
    }
    return written(words, value, put, hint, schema.type === "string");
  }

  /** A reranker: a switch, the settings that a request can change, and what was fixed when it was fitted. */
  function group(reranker) {
    const hint = hints(reranker.schema);
    const free = Object.entries(reranker.schema.properties ?? {}).filter(([name]) => name !== "name" && !reranker.fixed.includes(name));
    // The settings that only this reranker has come first; the rest are for who knows them.
    const shared = new Set(["relevance", "pool", "seed"]);
    const draws = free.some(([name]) => name === "seed");
    const first = free.filter(([name]) => !shared.has(name) || (draws && name === "seed"));
    const rest = free.filter((one) => !first.includes(one));
    const fixed = reranker.fixed.filter((name) => !["null", "[]", "{}", undefined].includes(JSON.stringify(reranker.settings[name]))).map((name) => `${spaced(name)} ${JSON.stringify(reranker.settings[name])}`);
    const make = ([name, schema]) => control(reranker, name, schema, hint[name]);
    const inner = el("div", { class: "inner" },
      ...first.map(make),
      rest.length ? el("details", { class: "more" }, el("summary", {}, "More"), el("div", { class: "inner" }, ...rest.map(make))) : null,
      fixed.length ? el("p", { class: "hint" }, `Set when it was trained: ${fixed.join(", ")}.`) : null);
    const box = el("input", { type: "checkbox", role: "switch", checked: true });
    let kept;
    box.addEventListener("change", () => {
      if (box.checked) {
        if (kept && Object.keys(kept).length) knobs.rerank[reranker.name] = kept;
        else delete knobs.rerank[reranker.name];
      } else {
        kept = knobs.rerank[reranker.name];
        knobs.rerank[reranker.name] = null;
      }
      inner.hidden = !box.checked;
      changed();
    });
    resets.push(() => {
      box.checked = true;
      inner.hidden = false;
      kept = undefined;
    });
    return el("fieldset", { class: "group" },
      el("legend", {}, el("label", { class: "check" }, box, el("span", {}, spaced(reranker.name)))), inner);
  }

  // -- filters --------------------------------------------------------------------------------------------------------------------

  function filters() {
    const chips = el("ul", { class: "chips", "aria-label": "Filters" });
    const all = [...columns(), { name: "title", type: "text" }];
    const column = el("select", { "aria-label": "Column", onchange: () => fit() }, ...all.map((one) => el("option", { value: one.name }, one.name)));
    const operator = el("select", { "aria-label": "Comparison" });
    const value = el("input", { type: "text", "aria-label": "Value", placeholder: "value", spellcheck: "false" });
    const said = el("small", { class: "hint wrong", role: "alert" });
    const type = () => all[column.selectedIndex]?.type ?? "text";

    function fit() {
      operator.replaceChildren(...(OPERATORS[type()] ?? OPERATORS.text).map((one) => el("option", {}, one)));
      value.inputMode = type() === "number" ? "decimal" : "text";
      value.placeholder = EXAMPLES[type()] ?? EXAMPLES.text;
    }

    function add(event) {
      event.preventDefault();
      const given = value.value.trim();
      const name = /^[^\W\d][\w.]*$/.test(column.value) ? column.value : `\`${column.value}\``;
      const bare = type() === "number" || type() === "boolean";
      if (!given) said.textContent = "Give a value to compare with.";
      else if (type() === "number" && !Number.isFinite(Number(given))) said.textContent = `${column.value} holds numbers; write one.`;
      else if (type() === "boolean" && !/^(true|false)$/.test(given)) said.textContent = `${column.value} is true or false.`;
      else if (column.value.includes("`")) said.textContent = "This column cannot be named in a rule.";
      else {
        const rule = `${name} ${operator.value} ${bare ? given : `"${given.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`}`;
        said.textContent = "";
        value.value = "";
        if (!knobs.filters.includes(rule)) knobs.filters = [...knobs.filters, rule];
        show();
        changed();
      }
    }

    function show() {
      chips.replaceChildren(...knobs.filters.map((rule) => {
        const drop = () => {
          knobs.filters = knobs.filters.filter((other) => other !== rule);
          show();
          changed();
          value.focus();
        };
        return el("li", {}, el("code", {}, rule), el("button", { type: "button", onclick: drop, "aria-label": `Remove the filter ${rule}` }, "×"));
      }));
      chips.hidden = !knobs.filters.length;
    }

    fit();
    show();
    resets.push(show);
    return el("fieldset", { class: "group" }, el("legend", {}, "Filters"),
      chips,
      el("form", { class: "builder", onsubmit: add }, column, operator, value, el("button", { type: "submit" }, "Add")), said);
  }

  // -- all together ---------------------------------------------------------------------------------------------------------------

  const missing = FAMILIES.filter(([uses]) => !rerankers.some((one) => uses.some((use) => one.use === use || one.use.startsWith(`palate.rerank.${use}`))));
  const lacks = missing.length
    ? el("p", { class: "hint lacks" }, `This bundle has no reranker for ${missing.map(([, words]) => words).join(", nor for ")}. Add `,
        ...missing.flatMap(([, , use], place) => [place ? ", " : "", el("code", {}, `use = "${use}"`)]), " under ", el("code", {}, "[[rerank]]"), " in its recipe to have it here.")
    : null;
  const reset = el("button", {
    type: "button", class: "quiet", disabled: true,
    onclick: () => {
      Object.assign(knobs, { k: 10, seen: false, filters: [], rerank: {} });
      resets.forEach((again) => again());
      changed();
    },
  }, "As the bundle has them");
  const box = el("details", { class: "knob-box" },
    el("summary", {}, el("span", {}, "Knobs"), el("small", {}, many(rerankers.length, "reranker"))),
    el("div", { class: "knob-body" },
      el("p", { class: "hint" }, "Each change asks for a preview at once and marks what moved. Previews are not recorded."),
      slider("How many", { low: 1, high: Math.min(50, more), step: 1 }, knobs.k, (k) => ((knobs.k = k ?? 10), changed()), { min: 1, max: more }),
      toggle("Show again what they know", knobs.seen, (seen) => ((knobs.seen = seen), changed())),
      filters(),
      ...rerankers.map(group),
      lacks,
      reset));
  box.open = matchMedia("(min-width: 960px)").matches;
  return el("aside", { class: "knobs", "aria-label": "Knobs" }, box);
}
