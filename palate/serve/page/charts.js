// Plots, drawn as SVG to the width there is: axes with round numbers, marks that differ in shape as well as in colour, and a table of the
// same numbers for whoever does not see them.

import { el, number, svg } from "./dom.js";

const HEIGHT = 220;
const LEFT = 46;
const BOTTOM = 26;
const TOP = 10;
const RIGHT = 8;

/** Round numbers from 0 (or below) to a little above the highest. */
function ticks(low, high, most = 4) {
  if (!(high > low)) high = low + 1;
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let at = Math.floor(low / step) * step; at < high + step * 0.999; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

/**
 * A figure. draw: (area) -> nodes, called again whenever the width changes. table: {columns, rows}, the same in numbers.
 * legend: [[class, words]].
 */
function figure(caption, summary, draw, table, legend = []) {
  const place = el("div", { class: "plot" });
  let width = 0;
  const again = () => {
    const now = Math.round(place.clientWidth);
    if (!now || now === width) return;
    width = now;
    place.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": summary }, ...draw(width)));
  };
  new ResizeObserver(again).observe(place);
  const keys = legend.length > 1 ? el("ul", { class: "legend" }, ...legend.map(([name, words]) => el("li", {}, svg("svg", { width: 14, height: 14, "aria-hidden": "true" }, mark(name, 7, 7, 5)), words))) : null;
  return el("figure", { class: "figure" }, caption ? el("figcaption", {}, caption) : null, place, keys,
    el("details", { class: "numbers-table" }, el("summary", {}, "As a table"), numbers(table, caption || summary)));
}

export function numbers({ columns, rows }, label) {
  return el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label },
    el("table", { class: columns.length > 4 ? "many" : null },
      el("thead", {}, el("tr", {}, ...columns.map((column) => el("th", { scope: "col" }, column)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, at) => el(at ? "td" : "th", at ? {} : { scope: "row" }, cell)))))));
}

/** A series is told apart by its colour and by its shape. */
function mark(name, x, y, size = 4) {
  const kind = Number(/s(\d)/.exec(name)?.[1] ?? 0) % 4;
  if (kind === 0) return svg("circle", { class: `fill ${name}`, cx: x, cy: y, r: size });
  if (kind === 1) return svg("rect", { class: `fill ${name}`, x: x - size, y: y - size, width: 2 * size, height: 2 * size });
  if (kind === 2) return svg("path", { class: `fill ${name}`, d: `M${x} ${y - size - 1}l${size + 1} ${2 * size}h${-2 * size - 2}z` });
  return svg("path", { class: `fill ${name}`, d: `M${x} ${y - size - 1}l${size + 1} ${size + 1}l${-size - 1} ${size + 1}l${-size - 1} ${-size - 1}z` });
}

function frame(width, yTicks, yFormat, y) {
  return yTicks.flatMap((at) => [
    svg("line", { class: "grid-line", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }),
    svg("text", { class: "tick", x: LEFT - 7, y: y(at) + 4, "text-anchor": "end" }, yFormat(at)),
  ]);
}

const scale = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);

/** Labels below, as many as there is room for. */
function below(labels, x, width) {
  const room = Math.max(1, Math.floor((width - LEFT) / (Math.max(...labels.map((label) => String(label).length)) * 7 + 14)));
  const every = Math.ceil(labels.length / room);
  return labels.map((label, at) => at % every === 0 && svg("text", { class: "tick", x: x(at), y: HEIGHT - 7, "text-anchor": at && x(at) + String(label).length * 3.5 > width ? "end" : "middle" }, label)).filter(Boolean);
}

/** Bars in time, stacked by series. series: [{name, values}]. */
export function bars({ caption, summary, labels, series, table }) {
  const totals = labels.map((_, at) => series.reduce((sum, one) => sum + one.values[at], 0));
  const yTicks = ticks(0, Math.max(1, ...totals)).filter(Number.isInteger);
  const draw = (width) => {
    const y = scale(0, yTicks.at(-1), HEIGHT - BOTTOM, TOP);
    const step = (width - LEFT - RIGHT) / labels.length;
    const thick = Math.max(1, Math.min(step * 0.8, 44));
    const x = (at) => LEFT + step * (at + 0.5);
    const nodes = frame(width, yTicks, number, y);
    labels.forEach((label, at) => {
      let sum = 0;
      series.forEach((one, place) => {
        const value = one.values[at];
        if (!value) return;
        nodes.push(svg("rect", { class: `fill s${place % 6} p${place % 6}`, x: x(at) - thick / 2, width: thick, y: y(sum + value), height: Math.max(1, y(sum) - y(sum + value)) }, svg("title", {}, `${label}, ${one.name}: ${number(value)}`)));
        sum += value;
      });
    });
    return [...nodes, ...below(labels, x, width)];
  };
  return figure(caption, summary, draw, table, series.map((one, place) => [`s${place % 6}`, one.name]));
}

/** Points with intervals. rows: [{label, value, low, high, series}]. line: a value to draw as a reference. */
export function points({ caption, summary, rows, format, table, zero = true, line = null, legend = [] }) {
  const ends = rows.flatMap((row) => [row.low ?? row.value, row.high ?? row.value]).concat(line === null ? [] : [line]);
  const yTicks = ticks(zero ? Math.min(0, ...ends) : Math.min(...ends), Math.max(...ends));
  const labels = [...new Set(rows.map((row) => row.label))];
  const names = [...new Set(rows.map((row) => row.series ?? 0))];
  const draw = (width) => {
    const y = scale(yTicks[0], yTicks.at(-1), HEIGHT - BOTTOM, TOP);
    const step = (width - LEFT - RIGHT) / labels.length;
    const x = (at) => LEFT + step * (at + 0.5);
    const nodes = frame(width, yTicks, format, y);
    if (line !== null) nodes.push(svg("line", { class: "zero", x1: LEFT, x2: width - RIGHT, y1: y(line), y2: y(line) }));
    for (const row of rows) {
      const series = names.indexOf(row.series ?? 0);
      const at = x(labels.indexOf(row.label)) + (series - (names.length - 1) / 2) * Math.min(14, step / (names.length + 1));
      const group = svg("g", {}, svg("title", {}, `${row.label}: ${format(row.value)}${row.low === null || row.low === undefined ? "" : `, ${format(row.low)} to ${format(row.high)}`}`));
      if (row.low !== null && row.low !== undefined) {
        group.append(svg("line", { class: `whisker s${series}`, x1: at, x2: at, y1: y(row.low), y2: y(row.high) }));
        for (const end of [row.low, row.high]) group.append(svg("line", { class: `whisker s${series}`, x1: at - 4, x2: at + 4, y1: y(end), y2: y(end) }));
      }
      group.append(mark(`s${series}`, at, y(row.value), 4.5));
      nodes.push(group);
    }
    return [...nodes, ...below(labels, x, width)];
  };
  return figure(caption, summary, draw, table, legend);
}

/** Predicted against observed, with the diagonal on which they are equal. rows: [{x, y, low, high}]. */
export function diagonal({ caption, summary, rows, format, table }) {
  const top = Math.max(...rows.flatMap((row) => [row.x, row.high]), 1e-6);
  const both = ticks(0, top);
  const end = both.at(-1);
  const draw = (width) => {
    const y = scale(0, end, HEIGHT - BOTTOM, TOP);
    const x = scale(0, end, LEFT, width - RIGHT - 12);
    const nodes = frame(width, both, format, y);
    nodes.push(...both.map((at) => svg("text", { class: "tick", x: x(at), y: HEIGHT - 7, "text-anchor": "middle" }, format(at))));
    nodes.push(svg("line", { class: "zero", x1: x(0), y1: y(0), x2: x(end), y2: y(end) }));
    for (const row of rows) {
      nodes.push(svg("g", {}, svg("title", {}, `predicted ${format(row.x)}, observed ${format(row.y)}, ${format(row.low)} to ${format(row.high)}`),
        svg("line", { class: "whisker s0", x1: x(row.x), x2: x(row.x), y1: y(row.low), y2: y(row.high) }), mark("s0", x(row.x), y(row.y), 4.5)));
    }
    return nodes;
  };
  return figure(caption, summary, draw, table);
}

/** Amounts by name, longest first, as bars that lie. rows: [[name, value]]. */
export function lying(rows, label) {
  const most = Math.max(1, ...rows.map(([, value]) => value));
  return el("div", { class: "lying" },
    el("table", { "aria-label": label }, el("tbody", {}, ...rows.map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, name),
        el("td", { class: "bar-cell", "aria-hidden": "true" }, svg("svg", { width: "100%", height: 14, preserveAspectRatio: "none", viewBox: "0 0 100 14" }, svg("rect", { class: "fill s0", width: (100 * value) / most, height: 14 }))),
        el("td", {}, number(value)))))));
}
