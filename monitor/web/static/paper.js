// Draws a signal on millimetre paper, with the geometry of reports (monitor/report/charts.py).

import { shape } from "./elements.js";

const SPEED = 25; // millimetres a second
const GAIN = 10; // millimetres a millivolt
export const ROW = 10; // seconds in a row
const [LOWEST, HIGHEST] = [20, 45]; // millimetres that a row is high; what exceeds it is cut off
const DRAWN = 250; // points a second at most

/** Draw ten seconds in a row for each lead, with beats and the moment of the alarm; return the rows. */
export function drawPaper({ rate, leads, beats, at: told = null }) {
  const names = Object.keys(leads);
  const length = leads[names[0]].length / rate;
  const rows = [];
  for (let start = 0; start < length - 0.5; start += ROW) {
    names.forEach((name, i) => {
      rows.push(row(name, leads[name], rate, start, i === 0 ? beats : [], told));
    });
  }
  return rows;
}

function row(name, samples, rate, start, beats, told) {
  const step = Math.max(1, Math.round(rate / DRAWN));
  const own = samples.slice(Math.round(start * rate), Math.round((start + ROW) * rate));
  const known = own.filter((sample) => sample !== null).sort((a, b) => a - b);
  const middle = known.length ? known[known.length >> 1] : 0;
  const reach = known.length ? Math.max(middle - known[0], known.at(-1) - middle) : 0;
  const high = 5 * Math.round(Math.min(HIGHEST, Math.max(LOWEST, 2.2 * GAIN * reach + 10)) / 5);
  const wide = SPEED * ROW;
  const here = beats.filter(({ at }) => at >= start && at < start + ROW);
  const said = here.map(({ label }) => label ?? "not read").join(", ");
  const svg = shape("svg", {
    viewBox: `0 0 ${wide} ${high}`,
    width: `${wide}mm`,
    height: `${high}mm`,
    role: "img",
    "aria-label": `${name || "Signal"} from second ${start}${said && `; beats: ${said}`}`,
  });
  svg.append(shape("path", { class: "fine", d: grid(wide, high, 1) }), shape("path", { class: "bold", d: grid(wide, high, 5) }));
  if (told !== null && told >= start && told < start + ROW) {
    svg.append(shape("path", { class: "told", d: `M${(SPEED * (told - start)).toFixed(1)} 0V${high}` }));
  }
  svg.append(shape("path", { class: "ecg", d: curve(own, step, rate, high, middle) }));
  for (const { at, label } of here) {
    const x = (SPEED * (at - start)).toFixed(1);
    svg.append(label ? shape("text", { class: label, x, y: 3.4 }, label) : shape("path", { class: "tick", d: `M${x} 0v2` }));
  }
  if (name) svg.append(shape("text", { class: "lead", x: 1, y: high - 1.5 }, name));
  return svg;
}

function grid(wide, high, every) {
  let said = "";
  for (let x = 0; x <= wide; x += every) said += `M${x} 0V${high}`;
  for (let y = 0; y <= high; y += every) said += `M0 ${y}H${wide}`;
  return said;
}

function curve(samples, step, rate, high, middle) {
  let [said, pen] = ["", "M"];
  for (let i = 0; i < samples.length; i += step) {
    if (samples[i] === null) pen = "M";
    else {
      const y = Math.min(high, Math.max(0, high / 2 - GAIN * (samples[i] - middle)));
      said += `${pen}${((SPEED * i) / rate).toFixed(2)} ${y.toFixed(2)}`;
      pen = "L";
    }
  }
  return said;
}
