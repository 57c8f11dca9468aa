// The trend of the selected device: heart rate and its range, abnormal beats, alarms and quality.

import { element, list, note, say, shape, the } from "./elements.js";
import { KINDS, count, duration, several, time } from "./units.js";

const EVERY = 30_000; // milliseconds between two requests: a minute is the finest step
const DAY = 86_400;
const NARROWEST = 900; // seconds: fifteen minutes are points that can be told apart
const FACTOR = 1.5; // of a step of the zoom
const [LEFT, RIGHT, LINE] = [44, 8, 15]; // pixels beside the drawing, and of a line of text
const [RATES, ALARMS, BARS] = [190, 22, 70]; // pixels of height of the three parts
const STEPS = [60, 300, 600, 1800, 3600, 7200, 14_400, 21_600];

let device = null;
let trend = null; // the last answer
let timer = 0;
let shown = null; // [begin, end] in seconds since 1970; null for the whole day
let drawnWidth = 0; // pixels
const svg = the("trend");

/** Show the trend of a device from now on. */
export function showTrend(name) {
  if (name === device) return;
  [device, trend, shown] = [name, null, null];
  read();
}

async function read() {
  clearTimeout(timer);
  if (device === null) return;
  timer = setTimeout(read, EVERY);
  if (document.hidden) return;
  const asked = device;
  try {
    const answer = await fetch(`api/trend?${new URLSearchParams({ device })}`);
    const found = answer.ok ? await answer.json() : null;
    if (asked !== device) return;
    trend = found;
    draw(answer.ok ? "" : `${(await answer.text()).trim()}.`);
  } catch {
    // main.js reports that the daemon cannot be reached
  }
}

function minutes() {
  return trend.minutes.map(([at, beats, low, mean, high, ventricular, anomalous, poor]) => ({ at, beats, low, mean, high, ventricular, anomalous, poor }));
}

const span = () => shown ?? [trend.begin, trend.end];

function draw(problem = "") {
  const empty = trend === null || trend.minutes.length === 0;
  the("trend-of").hidden = empty;
  note(the("no-trend"), problem || (trend && empty ? "No beat of this device is kept of the last 24 hours." : ""));
  if (empty) return;
  const { width } = svg.getBoundingClientRect();
  const height = LINE + RATES + ALARMS + BARS + 3 * LINE;
  drawnWidth = width;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [begin, end] = span();
  const x = (at) => LEFT + ((width - LEFT - RIGHT) * (Math.min(end, Math.max(begin, at)) - begin)) / (end - begin);
  const within = minutes().filter(({ at }) => at + 60 > begin && at < end);
  const alarms = trend.alarms.map((alarm) => ({ ...alarm, from: Date.parse(alarm.raised) / 1000, to: alarm.cleared ? Date.parse(alarm.cleared) / 1000 : trend.end })).filter(({ from, to }) => to > begin && from < end);
  svg.replaceChildren(hours(x, begin, end, width), rates(x, within, width), stripes(x, alarms), bars(x, within, begin, end, width));
  svg.setAttribute("aria-label", inWords(within, alarms, begin, end));
  say(the("trend-span"), `${time(begin)} to ${time(end)}, ${duration(end - begin)}`);
  the("trend-out").disabled = the("trend-all").disabled = shown === null;
  the("trend-in").disabled = end - begin <= NARROWEST;
  the("trend-back").disabled = begin <= trend.begin;
  the("trend-on").disabled = end >= trend.end;
  table(within, alarms, begin, end);
}

function hours(x, begin, end, width) {
  const step = STEPS.find((each) => (end - begin) / each <= width / 70) ?? DAY;
  const zone = new Date(begin * 1000).getTimezoneOffset() * 60;
  const group = shape("g", {});
  const bottom = LINE + RATES + ALARMS + BARS + LINE;
  for (let at = Math.ceil((begin - zone) / step) * step + zone; at < end; at += step) {
    group.append(shape("path", { class: "grid", d: `M${x(at)} ${LINE}V${bottom}` }));
    const text = new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    if (x(at) > LEFT && x(at) < width - 24) group.append(letters(text, x(at), bottom + LINE, "middle"));
  }
  return group;
}

function rates(x, within, width) {
  const group = shape("g", {}, letters("beats a minute", 0, 11, "start"));
  const known = within.filter(({ mean }) => mean !== null);
  const top = Math.max(120, 20 * Math.ceil(Math.min(300, Math.max(0, ...known.map(({ high }) => high))) / 20));
  const y = (rate) => LINE + RATES - ((RATES - 6) * (Math.min(rate, top) - 20)) / (top - 20);
  for (let rate = 40; rate <= top; rate += top > 160 ? 40 : 20) {
    group.append(shape("path", { class: "grid", d: `M${LEFT} ${y(rate)}H${width - RIGHT}` }));
    group.append(letters(String(rate), LEFT - 6, y(rate) + 4, "end"));
  }
  let [band, mean, before] = ["", "", -Infinity];
  for (const each of known) {
    const at = x(each.at + 30).toFixed(1);
    band += `M${at} ${y(each.low).toFixed(1)}V${(y(each.high) - 0.5).toFixed(1)}`;
    mean += `${each.at - before < 90 ? "L" : "M"}${at} ${y(each.mean).toFixed(1)}`;
    before = each.at;
  }
  const wide = known.length ? Math.max(1, x(known[0].at + 60) - x(known[0].at)) : 1;
  group.append(shape("path", { class: "band", d: band, "stroke-width": wide }), shape("path", { class: "mean", d: mean }));
  return group;
}

function stripes(x, alarms) {
  const y = LINE + RATES + 6;
  return shape("g", {}, ...alarms.toReversed().map(({ from, to, kind, priority }) =>
    shape("rect", { class: priority, x: x(from), y, height: ALARMS - 8, width: Math.max(2, x(to) - x(from)) }, shape("title", {}, KINDS[kind])),
  ));
}

/** Draw abnormal beats as bars, an hour wide or as fine as there is room for, and poor ones beside. */
function bars(x, within, begin, end, width) {
  const step = STEPS.find((each) => ((width - LEFT) * each) / (end - begin) >= 14) ?? 3600;
  const sums = new Map();
  for (const { at, ventricular, anomalous, poor } of within) {
    const sum = sums.get(Math.floor(at / step) * step) ?? { ventricular: 0, anomalous: 0, poor: 0 };
    sums.set(Math.floor(at / step) * step, { ventricular: sum.ventricular + ventricular, anomalous: sum.anomalous + anomalous, poor: sum.poor + poor });
  }
  const top = Math.max(10, ...[...sums.values()].map((sum) => Math.max(sum.ventricular + sum.anomalous, sum.poor)));
  const floor = LINE + RATES + ALARMS + BARS + LINE;
  const group = shape("g", {}, letters(`beats in ${duration(step)}`, 0, floor - BARS - 4, "start"), letters(count(top), LEFT - 6, floor - BARS + 10, "end"), shape("path", { class: "floor", d: `M${LEFT} ${floor}H${width - RIGHT}` }));
  for (const [at, { ventricular, anomalous, poor }] of sums) {
    const left = x(at);
    const wide = Math.max(2, x(at + step) - left - 1);
    const tall = (value) => (BARS * value) / top;
    const bar = (kind, from, over, share, height) =>
      height && group.append(shape("rect", { class: kind, x: from, y: floor - over - height, width: share, height }));
    bar("V", left, 0, 0.6 * wide, tall(ventricular));
    bar("A", left, tall(ventricular), 0.6 * wide, tall(anomalous));
    bar("P", left + 0.65 * wide, 0, 0.35 * wide, tall(poor));
  }
  return group;
}

const letters = (text, x, y, anchor) => shape("text", { x, y, "text-anchor": anchor }, text);

/** Return for how many seconds between two moments at least one alarm was open. */
function inAlarm(alarms, begin, end) {
  let [total, until] = [0, begin];
  for (const { from, to } of alarms.toSorted((a, b) => a.from - b.from)) {
    total += Math.max(0, Math.min(end, to) - Math.max(from, until));
    until = Math.max(until, Math.min(end, to));
  }
  return total;
}

function figures(within) {
  const known = within.filter(({ mean }) => mean !== null);
  const sum = (name) => within.reduce((total, each) => total + each[name], 0);
  const of = (name, choose) => (known.length ? Math.round(choose(...known.map((each) => each[name]))) : null);
  const mean = known.length ? Math.round(known.reduce((total, each) => total + each.mean, 0) / known.length) : null;
  const beats = sum("beats");
  return { beats, mean, low: of("low", Math.min), high: of("high", Math.max), ventricular: sum("ventricular"), anomalous: sum("anomalous"), readable: beats ? (beats - sum("poor")) / beats : null };
}

const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(1)} %`);

function inWords(within, alarms, begin, end) {
  const { mean, low, high, ventricular, anomalous, readable } = figures(within);
  const rate = mean === null ? "heart rate unknown" : `heart rate ${mean}, ${low} to ${high} a minute`;
  return `From ${time(begin)} to ${time(end)}: ${rate}; ${several(ventricular, "ventricular beat")}, ${count(anomalous)} otherwise anomalous; ${percent(readable)} of the beats readable; ${several(alarms.length, "alarm")}, ${duration(inAlarm(alarms, begin, end))} in alarm.`;
}

function table(within, alarms, begin, end) {
  if (!the("trend-table").closest("details").open) return;
  const step = end - begin > 6 * 3600 ? 3600 : 600;
  const rows = [];
  for (let at = Math.floor(begin / step) * step; at < end; at += step) {
    const own = within.filter((each) => each.at >= at && each.at < at + step);
    const open = alarms.filter(({ from, to }) => to > at && from < at + step);
    if (own.length || open.length) rows.push({ at, ...figures(own), alarm: inAlarm(open, at, Math.min(end, at + step)) });
  }
  list(the("trend-table"), rows, (row) => JSON.stringify(row), (row) => {
    const range = row.mean === null ? "" : `${row.mean} (${row.low} to ${row.high})`;
    const cells = [time(row.at), count(row.beats), range, count(row.ventricular), count(row.anomalous), percent(row.readable), row.alarm ? duration(row.alarm) : ""];
    return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
  }, () => {});
}

/** Show so much of the day that `at` stays where it is; within the day, and no narrower than allowed. */
function zoom(factor, at = (span()[0] + span()[1]) / 2) {
  if (!trend) return;
  const [begin, end] = span();
  const wide = Math.max(NARROWEST, (end - begin) / factor);
  if (wide >= trend.end - trend.begin) shown = null;
  else move(at - ((at - begin) / (end - begin)) * wide, wide);
  draw();
}

function pan(share) {
  if (!trend) return;
  const [begin, end] = span();
  move(begin + share * (end - begin), end - begin);
  draw();
}

function move(begin, wide) {
  const from = Math.max(trend.begin, Math.min(trend.end - wide, begin));
  shown = wide >= trend.end - trend.begin ? null : [from, from + wide];
}

function whole() {
  shown = null;
  if (trend) draw();
}

const KEYS = {
  "+": () => zoom(FACTOR),
  "=": () => zoom(FACTOR),
  "-": () => zoom(1 / FACTOR),
  0: whole,
  ArrowLeft: () => pan(-0.25),
  ArrowRight: () => pan(0.25),
  Home: () => pan(-1e3),
  End: () => pan(1e3),
};

svg.addEventListener("keydown", (event) => {
  const act = KEYS[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
});
svg.addEventListener("wheel", (event) => {
  if (!trend || !(event.ctrlKey || document.activeElement === svg)) return; // else the page scrolls
  event.preventDefault();
  const { left, width } = svg.getBoundingClientRect();
  const [begin, end] = span();
  const share = Math.min(1, Math.max(0, (event.clientX - left - LEFT) / (width - LEFT - RIGHT)));
  zoom(event.deltaY < 0 ? FACTOR : 1 / FACTOR, begin + share * (end - begin));
}, { passive: false });
the("trend-in").addEventListener("click", () => zoom(FACTOR));
the("trend-out").addEventListener("click", () => zoom(1 / FACTOR));
the("trend-all").addEventListener("click", whole);
the("trend-back").addEventListener("click", () => pan(-0.5));
the("trend-on").addEventListener("click", () => pan(0.5));
the("trend-table").closest("details").addEventListener("toggle", () => trend && draw());
new ResizeObserver(([{ contentRect }]) => {
  if (trend && contentRect.width !== drawnWidth) draw();
}).observe(svg);
