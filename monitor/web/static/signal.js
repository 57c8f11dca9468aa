// The raw signal of the selected device, the last ten seconds as they come.

import { the } from "./elements.js";
import { ROW, drawPaper } from "./paper.js";

const EVERY = 500; // milliseconds from an answer to the next request
const SELDOM = 3000; // … of a device that sends no signal
const FRAME = 66; // milliseconds between two drawings
const LAG = 1.2; // seconds that are drawn late, so that the line flows between chunks of a second
const BEHIND = 3; // seconds of lag after which the drawing jumps

let device = null;
let signal = null; // { first, rate, leads }: what is known of the last seconds
let at = 0; // the number of the last sample that is drawn
let drawn = 0; // when, in milliseconds
let shape = ""; // of the drawing's rows: they are replaced only if it changes
let timer = 0;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Show the signal of a device from now on. */
export function showSignal(name) {
  if (name === device) return;
  [device, signal, shape] = [name, null, ""];
  the("signal").hidden = true;
  ask();
}

async function ask() {
  clearTimeout(timer);
  timer = setTimeout(ask, signal ? EVERY : SELDOM);
  if (device === null || document.hidden) return;
  const asked = device;
  const after = signal ? signal.first + length(signal) : 0;
  try {
    const answer = await fetch(`api/signal?${new URLSearchParams({ device, after })}`);
    const found = answer.ok ? await answer.json() : null;
    if (asked === device) take(found);
  } catch {
    // main.js reports that the daemon cannot be reached
  }
  clearTimeout(timer);
  timer = setTimeout(ask, signal ? EVERY : SELDOM);
}

const length = ({ leads }) => Object.values(leads)[0].length;

function take(found) {
  if (found === null) {
    signal = null;
    the("signal").hidden = true;
    return;
  }
  const joins = signal && found.rate === signal.rate && found.first === signal.first + length(signal) && Object.keys(found.leads).join() === Object.keys(signal.leads).join();
  if (joins) {
    for (const [name, samples] of Object.entries(found.leads)) signal.leads[name].push(...samples);
  } else if (!signal || length(found)) {
    signal = found;
    at = found.first + length(found);
  }
  const many = length(signal) - Math.round((ROW + BEHIND) * signal.rate);
  if (many > 0) {
    signal.first += many;
    for (const samples of Object.values(signal.leads)) samples.splice(0, many);
  }
  if (the("signal").hidden) {
    the("signal").hidden = false;
    requestAnimationFrame(flow);
  }
  if (still.matches) draw(signal.first + length(signal));
}

/** Let the line flow at the signal's own speed, a little behind what has come. */
function flow(now) {
  if (!signal || the("signal").hidden) return;
  requestAnimationFrame(flow);
  if (still.matches || now - drawn < FRAME) return;
  const end = signal.first + length(signal);
  const passed = Math.min(1, (now - drawn) / 1000);
  drawn = now;
  at = Math.max(end - BEHIND * signal.rate, Math.min(end, at + passed * signal.rate * (end - at > 2 * LAG * signal.rate ? 1.2 : 1)));
  draw(Math.round(at));
}

function draw(last) {
  const { first, rate, leads } = signal;
  const begin = last - Math.round(ROW * rate);
  const shown = {};
  for (const [name, samples] of Object.entries(leads)) {
    const before = Array(Math.max(0, first - begin)).fill(null);
    shown[name] = before.concat(samples.slice(Math.max(0, begin - first), last - first));
  }
  const rows = drawPaper({ rate, leads: shown, beats: [], at: null });
  const now = rows.map((row) => row.getAttribute("viewBox")).join();
  const there = the("paper").children;
  if (now !== shape) {
    the("paper").replaceChildren(...rows);
    if (!shape) the("paper").scrollLeft = the("paper").scrollWidth; // the newest is at the right
  } else rows.forEach((row, i) => there[i].querySelector(".ecg").setAttribute("d", row.querySelector(".ecg").getAttribute("d")));
  shape = now;
}
