// The interface of the service, route by route, made from its OpenAPI: no library, nothing from elsewhere.
import { byId, el, problem } from "./dom.js";

const deref = (api, schema) => {
  while (schema && schema.$ref) schema = schema.$ref.split("/").slice(1).reduce((part, name) => part[name], api);
  return schema || {};
};

/** A type in a few words: `text, at most 256`, `list of text`, `number, from 0 to 1`. */
function words(api, given) {
  const schema = deref(api, given);
  const either = schema.anyOf || schema.oneOf;
  if (either) return [...new Set(either.map((one) => words(api, one)))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const bounds = [];
  const [low, high] = [schema.minimum ?? schema.exclusiveMinimum, schema.maximum ?? schema.exclusiveMaximum];
  if (low !== undefined) bounds.push(`from ${low}`);
  if (high !== undefined) bounds.push(`to ${high}`);
  const most = schema.maxLength ?? schema.maxItems ?? schema.maxProperties;
  if (most !== undefined) bounds.push(`at most ${most}`);
  const plain = { string: "text", integer: "whole number", number: "number", boolean: "true or false", null: "null", object: "object" };
  const inner = schema.type === "array" ? words(api, schema.items) : "";
  const kind = inner ? `list of ${inner.includes(",") ? `(${inner})` : inner}` : plain[schema.type] || "anything";
  return [kind, ...bounds].join(", ");
}

function fields(api, schema, asked) {
  const without = (name, field) =>
    (schema.required || []).includes(name) ? "needed" : field.default === undefined || field.default === null ? "" : `else ${JSON.stringify(field.default)}`;
  const rows = Object.entries(schema.properties || {}).map(([name, field]) => [name, words(api, field), ...(asked ? [without(name, field)] : [])]);
  return table(["field", "what", ...(asked ? [""] : [])], rows);
}

const table = (heads, rows) => rows.length
  ? el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))))))
  : null;

function body(api, title, content) {
  const given = content && content["application/json"] && content["application/json"].schema;
  if (!given) return [];
  const schema = deref(api, given);
  const either = schema.anyOf ? deref(api, schema.anyOf[0]) : schema;
  const about = either.description && el("p", { class: "soft" }, either.description.replace(/\s+/g, " "));
  const many = schema.anyOf ? el("p", { class: "soft" }, "One of these, or a list of them.") : null;
  const inside = either.properties ? fields(api, either, title === "Body") : el("p", {}, words(api, given));
  return [el("h3", {}, title), many, about, inside];
}

function route(api, path, verb, told, id) {
  const scope = told.security && told.security.length ? Object.keys(told.security[0])[0] : null;
  const asked = (told.parameters || []).map((one) => [one.name, words(api, one.schema), one.in === "path" ? "in the path" : one.required ? "needed" : `else ${JSON.stringify(one.schema.default ?? null)}`]);
  const good = told.responses["200"] || {};
  const bad = Object.entries(told.responses).filter(([status]) => status >= "400").map(([status, one]) => [status, one.description]);
  return el("article", { id, "aria-labelledby": `${id}-title` },
    scope ? el("span", { class: "scope" }, `scope ${scope}`) : null,
    el("h2", { id: `${id}-title` }, `${verb.toUpperCase()} ${path}`),
    el("p", {}, told.description || told.summary || ""),
    asked.length ? el("h3", {}, "Parameters") : null, table(["name", "what", ""], asked),
    ...body(api, "Body", told.requestBody && told.requestBody.content),
    ...body(api, "Answer", good.content),
    el("details", {}, el("summary", {}, "What else may come"), table(["status", ""], bad) || el("p", {}, "nothing")));
}

async function show() {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`the interface cannot be read (${answer.status})`);
  const api = await answer.json();
  byId("version").textContent = `Palate ${api.info.version}`;
  const all = Object.entries(api.paths).flatMap(([path, verbs]) => Object.entries(verbs).map(([verb, told]) => [path, verb, told]));
  const listed = all.map(([path, verb, told], place) => {
    const id = `r${place}`;
    byId("list").append(route(api, path, verb, told, id));
    return el("li", {}, el("a", { href: `#${id}` }, el("span", { class: "verb" }, verb.toUpperCase()), path));
  });
  byId("routes").append(el("ul", {}, ...listed));
}

show().catch((error) => byId("trouble").replaceChildren(problem(error)));
