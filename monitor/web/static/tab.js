// The title and the icon of the tab: the most serious alarm, seen from another tab.

import { the } from "./elements.js";

const NAME = "ECG monitor";

/** The colours of IEC 60601-1-8 (red, yellow, cyan), dark enough for a light tab, too. */
const COLOURS = { high: "#d81b2d", medium: "#e09b00", low: "#0a93c4" };
const CIRCLES = { high: "🔴", medium: "🟡", low: "🔵" };
const SHAPES = {
  high: "M16 3 30 28H2Z",
  medium: "M16 2 30 16 16 30 2 16Z",
  low: "M16 3a13 13 0 1 0 .1 0Z",
};

const drawing = (shapes) =>
  `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">${shapes}</svg>`)}`;
const CALM = the("icon").href;
const LOST = drawing('<rect width="32" height="32" rx="5"/><path d="m8 8 16 16M24 8 8 24" stroke="#fff" stroke-width="4"/>');

/**
 * Show how it is.
 *
 * `lost` is what is wrong with the monitor, in a word, or null; else `priority` is that of the most
 * serious alarm, or null, `devices` how many are in alarm, and `seen` whether all were acknowledged.
 */
export function showTab({ lost, priority, devices, seen }) {
  if (lost) return put(`⚠ ${lost} – ${NAME}`, LOST);
  if (!priority) return put(NAME, CALM);
  const paint = `fill="${seen ? "none" : COLOURS[priority]}" stroke="${COLOURS[priority]}" stroke-width="3" stroke-linejoin="round"`;
  const icon = drawing(`<path d="${SHAPES[priority]}" ${paint}/>`);
  put(`${seen ? "" : `${CIRCLES[priority]} `}(${devices}) ${NAME}`, icon);
}

function put(title, icon) {
  if (document.title !== title) document.title = title;
  if (the("icon").href !== icon) the("icon").href = icon;
}
