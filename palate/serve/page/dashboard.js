// How it goes: traffic, clicks, coverage, calibration, versions, experiments, and what exploring costs.

import { get, latest, post } from "./api.js";
import { bars, diagonal, lying, numbers, points } from "./charts.js";
import { announce, capital, confirmed, el, loading, many, number, percent, problem, when } from "./dom.js";

const PERIODS = [
  [1, "A day"],
  [7, "7 days"],
  [28, "28 days"],
  [90, "90 days"],
];
const METRICS = { item_ctr: "Item-level CTR", page_ctr: "Page-level CTR", L7: "Days back of 7", L28: "Days back of 28" };

const between = (one, format = percent) => (one.value === null ? "–" : `${format(one.value)} (${format(one.low)} to ${format(one.high)})`);
const signed = (value, format) => `${value >= 0 ? "+" : "−"}${format(Math.abs(value))}`;
const gap = (value) => `${Number((100 * value).toPrecision(3))} points`;
const short = (version) => version.slice(0, 7);

export function dashboard(root) {
  const only = latest();
  let days = 28;
  let asked = 0;

  const title = el("h1", { id: "dashboard-title", tabindex: -1 }, "Dashboard");
  const lead = el("p", { class: "soft" });
  const period = el("div", { class: "segments", role: "group", "aria-label": "Period" }, ...PERIODS.map(([value, words]) =>
    el("label", {}, el("input", { type: "radio", name: "days", value, checked: value === days, onchange: () => ((days = value), ask()) }), el("span", {}, words))));
  const again = el("button", { type: "button", onclick: () => ask() }, "Refresh");
  const body = el("div", { class: "grid" });
  root.replaceChildren(el("div", { class: "head" }, el("div", {}, title, lead), el("div", { class: "row" }, period, again)), body);

  async function ask() {
    body.setAttribute("aria-busy", "true");
    if (!asked) body.replaceChildren(loading("Counting …"));
    try {
      const [found, shelf] = (await only((signal) => Promise.all([get(`/v1/dashboard?days=${days}`, signal), get("/v1/bundles", signal).catch(() => null)]))) ?? [];
      if (found === undefined) return;
      draw(found, shelf);
      if (asked) announce(`${many(found.totals.slates, "slate")} and ${many(found.totals.events, "event")} in ${many(days, "day")}.`);
      asked += 1;
    } catch (error) {
      lead.textContent = "";
      body.replaceChildren(problem(error, ask));
    } finally {
      body.removeAttribute("aria-busy");
    }
  }

  function draw(found, shelf) {
    const { looked_at: seen, totals } = found;
    if (!totals.slates && !totals.events) {
      lead.textContent = "";
      body.replaceChildren(
        el("div", { class: "empty wide" }, el("p", {}, `Nothing happened in the last ${many(days, "day")}.`),
          el("p", { class: "soft" }, "Choose a person under ", el("a", { href: "#/recommend" }, "Recommend"), " and open a few things, or send events to ", el("code", {}, "POST /v1/events"), ". What happens is counted here at once.")),
        versions(found, shelf), decisions(found));
      return;
    }
    const whole = seen.slates >= seen.of ? "" : ` Clicks are told from the newest ${number(seen.slates)} of ${number(seen.of)} slates.`;
    const open = seen.open ? ` ${many(seen.open, "slate is", "slates are")} younger than ${number(found.window_hours)} hours and may still be clicked.` : "";
    lead.textContent = `${when(found.since, true)} to ${when(found.now)}.${whole}${open}`;
    body.replaceChildren(tiles(found), traffic(found), clicks(found), calibration(found), kinds(found), returns(found), versions(found, shelf), experiments(found), exploring(found), decisions(found));
  }

  const card = (heading, words, ...inner) => el("section", { class: "card" }, el("h2", {}, heading), words ? el("p", { class: "soft" }, words) : null, ...inner);
  const wide = (node) => (node.classList.add("wide"), node);
  const none = (words) => el("p", { class: "soft none" }, words);

  function tiles({ totals, coverage }) {
    const all = [
      [number(totals.slates), "slates shown"],
      [number(totals.events), "events"],
      [number(totals.people), "people"],
      [percent(totals.page_ctr.value), "of slates were clicked"],
      [percent(totals.item_ctr.value), "of places were clicked"],
      [percent(coverage.share), `of the catalogue was shown: ${number(coverage.items)} of ${number(coverage.catalogue)} items. Half of all places went to ${number(coverage.half)} of them`],
    ];
    return el("div", { class: "tiles wide" }, ...all.map(([value, words]) => el("div", { class: "tile card" }, el("b", {}, value), el("span", {}, words))));
  }

  function traffic({ traffic: { unit, slates, events }, days: length, now, since }) {
    const step = unit === "hour" ? 3_600_000 : 86_400_000;
    const times = [];
    for (let at = Math.floor(Date.parse(since) / step) * step; at <= Date.parse(now); at += step) times.push(at);
    const label = (at) => new Date(at).toLocaleString("en-GB", unit === "hour" ? { hour: "2-digit", minute: "2-digit", timeZone: "UTC" } : { day: "numeric", month: "short", timeZone: "UTC" });
    const labels = times.map(label);
    const names = [...new Set(slates.map((one) => one.version))];
    const place = new Map(times.map((at, index) => [at, index]));
    const series = names.map((version) => ({ name: short(version), version, values: times.map(() => 0) }));
    for (const one of slates) {
      const at = place.get(Date.parse(one.time));
      if (at !== undefined) series[names.indexOf(one.version)].values[at] += one.slates;
    }
    const counted = times.map(() => 0);
    for (const one of events) {
      const at = place.get(Date.parse(one.time));
      if (at !== undefined) counted[at] += one.events;
    }
    const table = (rows) => rows.filter((row) => row.slice(1).some((cell) => cell !== "0"));
    return wide(card("Traffic", `By ${unit}, in UTC.`, el("div", { class: "duo" },
      bars({ caption: "Slates by version of the bundle", summary: `Slates by ${unit} and version over ${many(length, "day")}`, labels, series,
        table: { columns: [unit, ...series.map((one) => one.name)], rows: table(labels.map((text, at) => [text, ...series.map((one) => number(one.values[at]))])) } }),
      bars({ caption: "Events", summary: `Events by ${unit} over ${many(length, "day")}`, labels, series: [{ name: "events", values: counted }],
        table: { columns: [unit, "events"], rows: table(labels.map((text, at) => [text, number(counted[at])])) } }))));
  }

  function clicks({ ctr }) {
    const rows = ctr.map((one) => ({ label: String(one.position + 1), ...one }));
    return card("Clicks by place", "The share of views that were clicked, with 95 % intervals that count each person's views as belonging together.",
      rows.length
        ? points({ summary: `Click rate by place: ${rows.map((one) => `${one.label}: ${percent(one.value)}`).join(", ")}`, rows, format: percent,
            table: { columns: ["place", "clicks", "views", "rate", "95 % interval"], rows: rows.map((one) => [one.label, number(one.clicks), number(one.views), percent(one.value), `${percent(one.low)} to ${percent(one.high)}`]) } })
        : none("No slate was recorded yet."));
  }

  function calibration({ calibration: tasks }) {
    const plots = tasks.map((task) => {
      const rows = task.bins.map((bin) => ({ x: bin.predicted, y: bin.value, low: bin.low, high: bin.high, views: bin.views }));
      const name = task.task === "label" ? "wanted" : task.task;
      return el("div", {}, el("p", {}, `“${name}”: predicted ${percent(task.predicted)} on the whole, clicked ${percent(task.value)}.`),
        diagonal({ caption: "Clicked against predicted, in bins of equal size; on the line they agree", summary: `Calibration of ${name} in ${rows.length} bins`, rows, format: percent,
          table: { columns: ["predicted", "clicked", "95 % interval", "views"], rows: rows.map((row) => [percent(row.x), percent(row.y), `${percent(row.low)} to ${percent(row.high)}`, number(row.views)]) } }));
    });
    return card("Calibration", "What the ranker predicted for what was shown, and how much of it was clicked.", ...(plots.length ? plots : [none("This bundle predicts no probabilities, or showed nothing yet.")]));
  }

  function kinds({ kinds: found }) {
    return card("Events by kind", null, found.length ? lying(found.map((one) => [one.kind, one.events]), "Events by kind") : none("No events in this period."));
  }

  function versions({ versions: found, version }, shelf) {
    const rows = found.map((one) => [
      el("span", {}, el("code", {}, one.version), one.current ? el("span", { class: "badge new" }, "in service") : null),
      number(one.slates), between(one.page_ctr), between(one.item_ctr), number(one.items), when(one.last),
    ]);
    const back = shelf && Boolean(Array.isArray(shelf.previous) ? shelf.previous.length : shelf.previous);
    const button = el("button", { type: "button", class: "danger", disabled: !back, onclick: () => rollBack(version) }, "Roll back …");
    return wide(card("Versions", `${version} is in service. ${back ? "Rolling back puts the bundle before it into service, without dropping a request." : "There is no earlier bundle to go back to."}`,
      rows.length ? numbers({ columns: ["version", "slates", "slates clicked", "places clicked", "items shown", "last shown"], rows }, "Versions") : null,
      el("div", { class: "row end" }, button)));
  }

  async function rollBack(version) {
    if (!(await confirmed("Roll back?", `The bundle before ${version} is put into service at once.`, "Roll back"))) return;
    try {
      await post("/v1/rollback", {});
      announce("Rolled back.");
      document.dispatchEvent(new CustomEvent("palate:version"));
      await ask();
    } catch (error) {
      body.prepend(wide(problem(error, () => rollBack(version))));
    }
  }

  function decisions({ decisions: found }) {
    const rows = found.map((one) => [when(one.time), one.action, el("code", {}, short(one.version)), one.against ? el("code", {}, short(one.against)) : "–", one.reason,
      Object.entries(one.measures).map(([name, value]) => `${name} ${number(value)}`).join(", ")]);
    return wide(card("Decisions", "Why a bundle was put into service, kept out or taken back.",
      rows.length ? numbers({ columns: ["time", "decision", "version", "against", "reason", "measures"], rows }, "Decisions") : none("None yet: `palate learn` writes them.")));
  }

  function experiments({ experiments: found }) {
    const inner = found.map((one) => {
      const ratio = one.sample_ratio;
      const users = Object.entries(one.users).map(([arm, count]) => `${arm} ${number(count)}`).join(", ");
      const said = [el("p", {}, `Users: ${users}.${one.waiting ? ` Of ${many(one.waiting, "user")} the first day is not over, or may still be clicked.` : ""}`)];
      if (ratio) {
        const broken = ratio.p_always < 0.001 || ratio.p < 0.001;
        const set = ratio.set ? "the shares that were set" : "equal shares";
        said.push(el("p", { class: broken ? "note warn" : "soft" }, broken ? `The arms do not have ${set} (p ${number(ratio.p)}): something is broken, believe nothing below.` : `The arms have ${set}: p ${number(ratio.p)} at one look, ${number(ratio.p_always)} at all looks.`));
      }
      said.push(...one.said.map((words) => el("p", { class: "note warn" }, capital(words), ".")));
      const arms = [...new Set(one.arms.map((row) => row.arm))];
      const plots = Object.keys(METRICS).map((metric) => {
        const format = metric.startsWith("L") ? number : percent;
        const rows = one.arms.filter((row) => row.metric === metric && row.value !== null).map((row) => ({ label: row.arm, ...row, series: row.arm }));
        return rows.length && points({ caption: METRICS[metric], summary: `${METRICS[metric]} by arm`, rows, format,
          table: { columns: ["arm", "users", METRICS[metric]], rows: rows.map((row) => [row.arm, number(row.users), between(row, format)]) } });
      });
      const rows = one.differences.map((row) => {
        const format = row.metric.startsWith("L") ? number : gap;
        return [METRICS[row.metric], `${row.arm} − ${row.base}`, signed(row.value, format), `${signed(row.low, format)} to ${signed(row.high, format)}`, `${signed(row.ever_low, format)} to ${signed(row.ever_high, format)}`,
          row.decided ? (row.value > 0 ? "better, may stop" : "worse, may stop") : "not decided"];
      });
      return el("div", { class: "experiment" }, el("h3", {}, `${one.experiment}: ${arms.join(" against ") || Object.keys(one.users).join(" against ")}`), ...said,
        el("div", { class: "trio" }, ...plots.filter(Boolean)),
        rows.length ? numbers({ columns: ["metric", "difference", "value", "at one planned look", "at all looks", "verdict"], rows }, `Differences in ${one.experiment}`) : null);
    });
    return wide(card("A/B tests", "Each user is counted over the first day. The interval at all looks holds however often it is looked at.",
      ...(inner.length ? inner : [none("No test runs. Add a layer with experiments to serve.toml to have one.")])));
  }

  function exploring({ off_policy: found }) {
    const inner = found.map((one) => {
      const head = el("h3", {}, "Version ", el("code", {}, short(one.version)), ` · ${many(one.slates, "slate")}`, one.explored === null ? "" : `, ${percent(one.explored)} of places were drawn`);
      if (one.refused) return el("div", {}, head, el("p", { class: "note refused" }, el("b", {}, "No estimate: "), `${one.refused}.`));
      const places = one.places === 1 ? "the first place" : `the first ${one.places} places`;
      const rows = [
        ["as served", number(one.served), "", number(one.slates), ""],
        ...one.estimates.map((row) => [`without exploring, ${row.method}`, number(row.value), `${number(row.low)} to ${number(row.high)}`, number(row.ess), number(row.largest)]),
        ["difference, SNIPS", signed(one.gain.value, number), `${signed(one.gain.low, number)} to ${signed(one.gain.high, number)}`, number(one.gain.ess), ""],
      ];
      return el("div", {}, head, numbers({ columns: [`clicks a slate on ${places}`, "estimate", "95 % interval", "effective sample size", "largest weight"], rows }, "Off-policy estimates"));
    });
    return wide(card("What exploring costs", "Had each place shown what is most often there, how many clicks would a slate have got? Told from the logged propensities (off-policy), or refused where the log cannot tell.", ...inner));
  }

  function returns({ returns: found }) {
    const plots = found.map((one) => {
      if (one.value === null) return el("div", {}, el("h3", {}, `L${one.days}`), none(one.waiting ? `The ${one.days} days of ${many(one.waiting, "person", "people")} are not over.` : "Nobody to count yet."));
      const labels = one.days_back.map((_, at) => String(at));
      return bars({ caption: `L${one.days}: back on ${number(one.value)} of ${one.days} days on average (${number(one.low)} to ${number(one.high)}); ${percent(one.came_back)} came back`, summary: `People by number of days of ${one.days} on which they came back`, labels,
        series: [{ name: "people", values: one.days_back }], table: { columns: ["days back", "people"], rows: labels.map((text, at) => [text, number(one.days_back[at])]) } });
    });
    return card("Return visits", "On how many of the days after the first did people come back?", ...plots);
  }

  return { show: ask };
}
