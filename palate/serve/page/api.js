// The service, as this page speaks to it: JSON over HTTP, errors as one sentence, a key where one is set.

const KEPT = "palate.key";

/** What went wrong, in words that stand on the page. status: 0 if the service was not reached. */
export class Trouble extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEPT),
  set: (value) => sessionStorage.setItem(KEPT, value),
  drop: () => sessionStorage.removeItem(KEPT),
};

const WORDS = {
  401: "The service asks for a key, or does not know this one.",
  403: "This key does not reach so far; ask for one with more scopes.",
  404: "The service does not know that.",
  413: "That was too much at once.",
  500: "The service met an error of its own; its log says more.",
};

/** One call. body: sent as JSON. signal: to give up. Raises Trouble. */
export async function call(method, path, { body, signal, keepalive } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, keepalive, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The service cannot be reached. Is it still running?", 0);
  }
  let said = null;
  try {
    said = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (answer.ok) return said;
  const wait = Number(answer.headers.get("Retry-After"));
  let words = (said && said.error) || WORDS[answer.status] || `The service answered with status ${answer.status}.`;
  words = words[0].toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
  if ((answer.status === 429 || answer.status === 503) && wait > 0) words += ` Try again in ${wait} s.`;
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("palate:key", { detail: key.get() ? words : null }));
  throw new Trouble(words, answer.status);
}

export const get = (path, signal) => call("GET", path, { signal });
export const post = (path, body, signal) => call("POST", path, { body, signal });
export const remove = (path) => call("DELETE", path);

/** Only the newest of several calls counts: the older ones are given up, and answer undefined. `drop` gives up the newest, too. */
export function latest() {
  let newest;
  const only = async (work) => {
    newest?.abort();
    const mine = (newest = new AbortController());
    try {
      const answer = await work(mine.signal);
      return mine === newest ? answer : undefined;
    } catch (error) {
      if (mine !== newest || error.name === "AbortError") return undefined;
      throw error;
    }
  };
  only.drop = () => (newest?.abort(), (newest = null));
  return only;
}

/** An id that was never used before; `randomUUID` is there only on https and on this machine. */
export function fresh() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Events of one person, stored when this returns. */
export function send(user, events) {
  const time = new Date().toISOString();
  return post("/v1/events", events.map((event) => ({ id: fresh(), user, time, ...event })));
}
