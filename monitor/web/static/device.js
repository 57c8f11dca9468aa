// The selected device: its last beat large, the previous ones small, their scores and figures.

import { shelve } from "./attend.js";
import { describe, drawBeat, drawStrip, range } from "./chart.js";
import { element, list, note, say, the } from "./elements.js";
import { showPatient } from "./patient.js";
import { begun, stateOf } from "./ward.js";
import { KINDS, VERDICTS, count, duration, multiple, several, short, time, toTheMinute } from "./units.js";

let beats = []; // the beats shown, newest last
let held = null; // the number of the beat that is held; null while the newest is shown
let drawn = ""; // a key of what was drawn last, to avoid drawing it again
let drawnAt = 0; // when it was drawn, in milliseconds
let device = null;

const SELDOM = 500; // if beats are at least this many milliseconds apart, each is drawn with a sweep

/** Show a device and its beats. */
export function showDevice(name, view) {
  if (name !== device) {
    [device, held, beats] = [name, null, []];
  }
  if (held === null) beats = view.beats[name] ?? [];
  const row = view.devices.find((each) => each.device === name);
  say(the("device-title"), name ?? "No device");
  const scale = row && row.scale !== 1 ? ` · beats divided by ${row.scale} to have its unit` : "";
  say(the("device-state"), row ? `${stateOf(row)} · model ${row.model}${scale}` : "");
  the("device-state").className = row?.quiet ? "shelved" : (row?.priority ?? "ok");
  the("attend").hidden = !row;
  showShelf(row?.shelved);
  showPatient(row);
  const silence = silent(name, view);
  note(the("no-beats"), silence || (beats.length ? "" : whyNone(name, row, view)));
  the("beats").hidden = beats.length === 0;
  if (beats.length) draw();
}

function showShelf(shelved) {
  const of = shelved?.kinds.length ? ` of ${shelved.kinds.map((kind) => KINDS[kind].toLowerCase()).join(", ")}` : ", except for the rhythm";
  const until = shelved && `Shelved by ${shelved.by} until ${toTheMinute(shelved.until)}: no alerts are published${of}.`;
  note(the("shelved"), until ?? "");
  the("unshelve").hidden = !shelved;
}

/** Say for how long a device has been silent; nothing if it has no such alarm. */
function silent(name, view) {
  const alarm = view.alarms.find((each) => each.device === name && each.kind === "silent" && each.over_since === null);
  if (!alarm) return "";
  const since = begun(alarm, view);
  return `No beat since ${time(since)} (${duration(view.time - since)}). The next one will be shown.`;
}

function whyNone(name, row, view) {
  if (name === null) return "The beats of the first device will be shown here.";
  if (!(name in view.beats)) {
    return view.full ? "Too many devices are being viewed on other pages: close one." : "One moment …";
  }
  if (!row) return `No beat from ${name} yet. It will be shown with its first one.`;
  return row.heard === null ? "The device is silent. Its next beat will be shown." : "Waiting for the next beat.";
}

/** Draw the beats, unless they are drawn already. */
function draw() {
  const shown = beats.find((beat) => beat.number === held) ?? beats.at(-1);
  const state = [device, shown.number, shown.time, beats.at(-1).number, held].join();
  if (state === drawn) return;
  drawn = state;
  const limits = range(beats);
  showFigures(shown);
  drawBeat(the("chart"), shown, limits);
  const now = performance.now();
  the("chart").classList.toggle("sweep", held === null && now - drawnAt > SELDOM);
  drawnAt = now;
  the("chart").setAttribute("aria-label", inWords(shown));
  const there = drawStrip(the("strip"), beats, shown, limits);
  the("strip").setAttribute("aria-label", describe(there));
  showTable();
  const place = beats.indexOf(shown);
  the("hold").setAttribute("aria-pressed", String(held !== null));
  the("earlier").disabled = place === 0;
  the("later").disabled = held === null || place === beats.length - 1;
  const passed = beats.at(-1).number - beats[0].number + 1;
  const sample = `A sample: ${several(beats.length, "beat")} of the last ${count(passed)}.`;
  note(the("sampled"), passed > beats.length ? sample : "");
}

function showFigures(beat) {
  const score = beat.score === null ? "none" : multiple(beat) || short(beat.score);
  say(the("score"), `${score}${multiple(beat) ? " threshold" : ""}`);
  the("score").className = beat.verdict;
  say(the("verdict"), VERDICTS[beat.verdict] + (beat.seq === null ? "" : `, no. ${count(beat.seq)}`));
  say(the("rate"), beat.rr_ms ? `${Math.round(60000 / beat.rr_ms)} /min` : "unknown");
  say(the("moment"), time(beat.time));
}

function inWords(beat) {
  const said = [`A beat of ${device} over its reconstruction: ${VERDICTS[beat.verdict]}`];
  if (beat.score !== null) said.push(`score ${short(beat.score)}, threshold ${short(beat.threshold)}`);
  if (beat.reconstruction) {
    const errors = beat.beat.map((sample, i) => Math.abs(sample - beat.reconstruction[i]));
    const largest = Math.max(...errors);
    said.push(`largest error ${short(largest)} at sample ${errors.indexOf(largest)}`);
  }
  return `${said.join(", ")}.`;
}

function showTable() {
  if (!the("table").closest("details").open) return;
  list(the("table"), beats.toReversed(), (beat) => String(beat.number), (beat) => {
    const cells = [
      time(beat.time),
      beat.seq === null ? "" : String(beat.seq),
      beat.score === null ? "none" : short(beat.score),
      multiple(beat),
      VERDICTS[beat.verdict],
    ];
    return element("tr", { class: beat.verdict }, ...cells.map((text) => element("td", {}, text)));
  }, () => {});
}

function hold(number) {
  held = number;
  draw();
}

function step(by) {
  const shown = beats.findIndex((beat) => beat.number === held);
  const place = (shown < 0 ? beats.length - 1 : shown) + by;
  if (beats[place]) hold(beats[place].number);
}

/** Return the kinds of alarm that are ticked. */
const ticked = () => [...the("kinds").querySelectorAll(":checked")].map((box) => box.value);

/** Say which kinds of alarm would be shelved. */
function showKinds() {
  const kinds = ticked();
  say(the("which").firstElementChild, kinds.length ? kinds.map((kind) => KINDS[kind]).join(", ") : "All but the rhythm");
}

for (const [kind, name] of Object.entries(KINDS)) {
  const box = element("input", { type: "checkbox", value: kind });
  the("kinds").append(element("li", {}, element("label", {}, box, ` ${name}`)));
}
the("kinds").addEventListener("change", showKinds);
showKinds();
the("shelve").addEventListener("click", () => {
  if (!device) return;
  shelve(device, Number(the("minutes").value), ticked());
  for (const box of the("kinds").querySelectorAll(":checked")) box.checked = false;
  the("which").open = false;
  showKinds();
});
the("unshelve").addEventListener("click", () => device && shelve(device, 0));
the("hold").addEventListener("click", () => hold(held === null ? (beats.at(-1)?.number ?? null) : null));
the("earlier").addEventListener("click", () => step(-1));
the("later").addEventListener("click", () => step(1));
the("strip").addEventListener("click", (event) => {
  const column = event.target.closest("[data-number]");
  if (column) hold(Number(column.dataset.number));
});
the("table").closest("details").addEventListener("toggle", showTable);
new ResizeObserver(() => {
  drawn = "";
  if (beats.length) draw();
}).observe(the("device"));
