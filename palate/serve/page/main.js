// Start: learn what the bundle holds, then show the view that the address names.

import { get, key } from "./api.js";
import { byId, el, problem } from "./dom.js";
import { onChange, state } from "./state.js";
import { drawWho } from "./who.js";

const VIEWS = {
  recommend: { title: "Recommend", person: true, make: async () => (await import("./recommend.js")).recommend },
  stages: { title: "Stages", person: true, make: async () => (await import("./stages.js")).stages },
  survey: { title: "Survey", person: true, make: async () => (await import("./survey.js")).survey },
  person: { title: "Person", person: true, make: async () => (await import("./person.js")).personView },
  dashboard: { title: "Dashboard", person: false, make: async () => (await import("./dashboard.js")).dashboard },
};
const made = {};
let drawn;

/** "#/stages?user=42" -> ["stages", "42"] */
function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return [path in VIEWS ? path : "recommend", new URLSearchParams(query).get("user")];
}

const link = (name) => `#/${name}${VIEWS[name].person && state.mode === "known" && state.user !== null ? `?user=${encodeURIComponent(state.user)}` : ""}`;

async function show() {
  if (!state.about) return;
  const [name, user] = address();
  if (user !== null && user !== state.user) {
    state.user = user;
    state.mode = "known";
  }
  document.title = `${VIEWS[name].title} · Palate`;
  for (const anchor of byId("views").children) {
    const own = anchor.textContent.toLowerCase();
    anchor.setAttribute("href", link(own));
    if (own === name) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  byId("who").hidden = !VIEWS[name].person;
  drawn();
  for (const other of Object.keys(VIEWS)) byId(other).hidden = other !== name;
  try {
    made[name] ??= (await VIEWS[name].make())(byId(name));
    made[name].show();
  } catch (error) {
    made[name] = undefined;
    byId(name).replaceChildren(problem(error, show));
  }
}

function askForKey(why) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = true;
  const form = byId("key");
  form.hidden = false;
  byId("trouble").replaceChildren(...(why ? [el("p", { class: "problem" }, why)] : []));
  byId("key-field").focus();
}

async function start() {
  try {
    state.about = await get("/v1/about");
    byId("trouble").replaceChildren();
  } catch (error) {
    if (error.status === 503) {
      if (byId("trouble").textContent !== error.message) byId("trouble").replaceChildren(el("p", { class: "note warn" }, error.message));
      setTimeout(start, 1000); // a bundle is being loaded
    } else if (error.status !== 401) byId("trouble").replaceChildren(problem(error, start));
    return;
  }
  byId("key").hidden = true;
  nameVersion();
  drawn = drawWho();
  await show();
}

function nameVersion() {
  const { version, data } = state.about;
  byId("version").replaceChildren(el("span", {}, data?.name ?? "bundle"), el("code", { title: "The version of the bundle" }, version));
}

/** Another bundle was put into service. Its stages may have other knobs: then the page begins anew, for the same person. */
async function newVersion() {
  const before = state.about;
  try {
    state.about = await get("/v1/about");
  } catch {
    return; // the next call says what is wrong
  }
  nameVersion();
  if (JSON.stringify(before.stages) !== JSON.stringify(state.about.stages)) location.reload();
}

byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key-field").value.trim());
  byId("key-field").value = "";
  start();
});
document.addEventListener("palate:key", (event) => askForKey(event.detail));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  byId("main").focus();
});
document.addEventListener("palate:version", newVersion);
window.addEventListener("hashchange", show);
onChange((what) => {
  if (what !== "who") return;
  const hash = link(address()[0]);
  if (location.hash !== hash) history.replaceState(null, "", hash);
  show();
});
VIEWS[address()[0]].make().catch(() => {}); // on its way while the service says what it holds; `show` tells what fails
start();
