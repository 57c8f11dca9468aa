// Draws beats. Each drawing has the size at which it is shown, so lines and letters keep theirs.

import { shape } from "./elements.js";
import { VERDICTS, multiple, short } from "./units.js";

const COLUMN = 46; // minimum width of a beat in the strip, in pixels
const COLUMNS = 16; // maximum number of beats in the strip
const TRACE = 76; // pixels of the strip for the beats …
const BARS = 88; // … and for their scores
const LINE = 15; // height of a line of text

/** Return the lowest and the highest sample of some beats and their reconstructions. */
export function range(beats) {
  let [low, high] = [Infinity, -Infinity];
  for (const { beat, reconstruction } of beats) {
    for (const sample of [...beat, ...(reconstruction ?? [])]) {
      if (sample === null) continue;
      low = Math.min(low, sample);
      high = Math.max(high, sample);
    }
  }
  if (!(low <= high)) [low, high] = [-1, 1];
  if (low === high) [low, high] = [low - 1, high + 1];
  return [low, high];
}

/** Draw a beat over its reconstruction, with axes. */
export function drawBeat(svg, shown, [low, high]) {
  const { width, height } = size(svg);
  const [left, right, top, bottom] = [36, width - 8, LINE + 6, height - LINE - 4];
  const x = (i) => left + ((right - left) * i) / (shown.beat.length - 1);
  const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
  const axes = shape("g", { class: "axes" });
  for (const value of steps(low, high, Math.floor((bottom - top) / 32))) {
    axes.append(line(left, y(value), right, y(value)));
    axes.append(letters(short(value), left - 8, y(value) + 4, "end"));
  }
  for (const sample of steps(0, shown.beat.length - 1, Math.floor(width / 80))) {
    axes.append(line(x(sample), top, x(sample), bottom));
    axes.append(letters(String(sample), x(sample), bottom + LINE, "middle"));
  }
  axes.append(letters("sample", right, bottom + LINE, "end"));
  axes.append(letters("amplitude, in the device's units", 0, 11, "start"));
  svg.replaceChildren(axes, trace(shown, x, y));
}

/** Draw the last beats side by side, each with its score below. Return those there was room for. */
export function drawStrip(svg, beats, chosen, limits) {
  const { width } = size(svg);
  const room = Math.max(1, Math.min(COLUMNS, Math.floor(width / COLUMN)));
  const shown = beats.slice(-room);
  const column = width / room;
  const [top, floor] = [TRACE + LINE, TRACE + BARS];
  const limit = (top + floor) / 2;
  const begin = width - column * shown.length;
  const parts = [line(0, floor, width, floor, "floor"), line(0, limit, width, limit, "threshold")];
  shown.forEach((beat, at) => {
    const left = begin + at * column;
    const group = shape("g", { class: beat === chosen ? "column chosen" : "column", "data-number": beat.number });
    group.append(shape("rect", { class: "back", x: left + 1, y: 0, width: Math.max(0, column - 2), height: floor + LINE + 4, rx: 4 }));
    const x = (i) => left + 4 + ((column - 8) * i) / (beat.beat.length - 1);
    const y = (value) => TRACE - 2 - ((TRACE - 6) * (value - limits[0])) / (limits[1] - limits[0]);
    group.append(trace(beat, x, y));
    group.append(bar(beat, left + column / 2, Math.min(20, column * 0.4), top, floor));
    group.append(letters(multiple(beat) || "none", left + column / 2, floor + LINE, "middle"));
    parts.push(group);
  });
  svg.replaceChildren(...parts);
  return shown;
}

/** Return a score's height on a logarithmic scale from a tenth of its threshold (0) to ten times it (1). */
export function height(score, threshold) {
  if (threshold <= 0) return score > threshold ? 0.75 : 0.25; // there is no multiple of it
  return Math.min(1, Math.max(0.02, (Math.log10(Math.max(score, 0) / threshold) + 1) / 2));
}

function bar(beat, middle, width, top, floor) {
  if (beat.score === null) return letters("?", middle, floor - 6, "middle");
  const tall = (floor - top) * height(beat.score, beat.threshold);
  const group = shape("g", { class: `bar ${beat.verdict}` });
  group.append(shape("rect", { x: middle - width / 2, y: floor - tall, width, height: tall, rx: 2 }));
  if (beat.verdict === "anomalous") {
    group.append(shape("path", { d: `M${middle} ${floor - tall - 10}l5 8h-10z` }));
  }
  return group;
}

/** Return a beat, its reconstruction and the error between them. */
function trace({ beat, reconstruction, verdict }, x, y) {
  const group = shape("g", { class: `trace ${verdict}` });
  if (reconstruction) {
    group.append(shape("path", { class: "error", d: between(beat, reconstruction, x, y) }));
    group.append(shape("path", { class: "reconstruction", d: path(reconstruction, x, y) }));
  }
  group.append(shape("path", { class: "beat", d: path(beat, x, y) }));
  return group;
}

const point = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;

/** Return a curve with a gap where a sample is missing. */
function path(samples, x, y) {
  let [said, pen] = ["", "M"];
  samples.forEach((sample, i) => {
    if (sample === null) pen = "M";
    else {
      said += pen + point(x(i), y(sample));
      pen = "L";
    }
  });
  return said;
}

/** Return the area between two curves without gaps: a beat with a gap has no reconstruction. */
function between(one, other, x, y) {
  const there = one.map((sample, i) => point(x(i), y(sample)));
  const back = other.map((sample, i) => point(x(i), y(sample))).reverse();
  return `M${there.join("L")}L${back.join("L")}Z`;
}

/** Return about so many round values from low to high. */
function steps(low, high, about) {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= rough);
  const values = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) values.push(i * step);
  return values;
}

/** Return the size of a drawing on the page. */
function size(svg) {
  const { width, height } = svg.getBoundingClientRect();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return { width, height };
}

const line = (x1, y1, x2, y2, kind = "grid") => shape("line", { class: kind, x1, y1, x2, y2 });

const letters = (text, x, y, anchor, kind = "") =>
  shape("text", { x, y, "text-anchor": anchor, class: kind }, text);

/** Describe the strip in words. */
export function describe(beats) {
  const words = beats.map((beat) => `${VERDICTS[beat.verdict]} ${multiple(beat)}`.trim());
  return `The last ${beats.length} beats, newest last: ${words.join(", ")}`;
}
