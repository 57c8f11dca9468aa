// Past alarms, each with the beat that raised it.

import { askWhetherRight } from "./attend.js";
import { drawBeat, range } from "./chart.js";
import { element, list, mark, note, say, shape, the } from "./elements.js";
import { drawPaper } from "./paper.js";
import { KINDS, duration, rhythm, seenBy, several, short, time } from "./units.js";

const EVERY = 5000; // milliseconds between two requests
const LATER = 1200; // milliseconds until the history contains what has just happened
const MOST = 100;

const seconds = (text) => Date.parse(text) / 1000;

let known = null; // the alarms that were open at the last request; null before the first
let timer = 0;
let soon = false; // whether a request for a change is already scheduled
let device = null;
let moment = Date.now() / 1000; // now, by the daemon's clock once it is known

/** Read the history at once if an alarm has changed, or another device is selected. */
export function showHistory(view, chosen) {
  const now = view.alarms.map((alarm) => [alarm.id, alarm.priority, alarm.acknowledged?.time]).join();
  const other = the("only").checked && device !== chosen;
  const changed = known !== null && now !== known;
  [known, device, moment] = [now, chosen, view.time];
  if (other) read(0);
  else if (changed && !soon) read(LATER); // during a flood, only now and then
}

function read(after) {
  clearTimeout(timer);
  soon = after === LATER;
  timer = setTimeout(async () => {
    soon = false;
    timer = setTimeout(read, EVERY, 0);
    if (document.hidden) return;
    const since = new Date((moment - 3600 * the("period").value) * 1000).toISOString();
    const question = new URLSearchParams({ since, limit: MOST });
    if (the("only").checked && device !== null) question.set("device", device);
    try {
      const answer = await fetch(`api/alarms?${question}`);
      if (answer.ok) show(await answer.json());
      else note(the("no-past"), `${(await answer.text()).trim()}.`);
    } catch {
      // main.js reports that the daemon cannot be reached
    }
  }, after);
}

function show(past) {
  list(the("past"), past, (alarm) => alarm.id, makeRow, updateRow);
  const full = past.length === MOST ? `The last ${several(MOST, "alarm")}; there may be more.` : "";
  note(the("no-past"), past.length ? full : "No alarms in this period.");
}

function makeRow(alarm) {
  const row = element(
    "li",
    {},
    element(
      "details",
      {},
      element(
        "summary",
        {},
        element("span", { class: "sign" }),
        element("span", { class: "when" }, time(seconds(alarm.raised))),
        element("span", { class: "name" }, alarm.device),
        element("span", { class: "kind" }, KINDS[alarm.kind]),
        element("span", { class: "for" }),
        element("span", { class: "who" }),
      ),
    ),
  );
  const details = row.firstElementChild;
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector("div")) open(details, alarm);
  });
  return row;
}

function updateRow(row, alarm) {
  if (row.className !== alarm.priority) {
    row.className = alarm.priority;
    row.querySelector(".sign").replaceChildren(mark(alarm.priority), alarm.priority);
  }
  const lasted = alarm.cleared && duration(seconds(alarm.cleared) - seconds(alarm.raised));
  say(row.querySelector(".for"), lasted ? `for ${lasted}` : "open");
  say(row.querySelector(".who"), whoKnew(alarm));
  const place = row.querySelector("div");
  if (alarm.strip && place && !place.dataset.strip) addStrip(place, alarm);
}

function whoKnew({ acknowledged, shelved_by: shelver, judgements }) {
  const said = [];
  if (acknowledged) said.push(seenBy(acknowledged, (text) => time(seconds(text))));
  if (shelver) said.push(`shelved by ${shelver}`);
  const judged = judgements.at(-1); // the last one counts
  if (judged) said.push(`judged ${judged.verdict} by ${judged.by}${judged.note && `: ${judged.note}`}`);
  return said.join("; ");
}

/** Show the beat that raised an alarm. */
async function open(details, { id }) {
  const place = element("div", {}, "One moment …");
  details.append(place);
  try {
    const answer = await fetch(`api/alarm?${new URLSearchParams({ id })}`);
    if (!answer.ok) throw new Error(`${answer.status}`);
    const alarm = await answer.json();
    const right = element("button", { type: "button", class: "attends", "aria-label": `Was it right? ${alarm.device}` }, "Was it right?");
    right.addEventListener("click", () => askWhetherRight(alarm));
    place.replaceChildren(element("p", {}, inWords(alarm)), right);
    if (!alarm.beat) {
      if (alarm.strip && !place.dataset.strip) addStrip(place, alarm);
      return;
    }
    const verdict = alarm.kind === "anomaly" ? "anomalous" : "poor";
    const svg = shape("svg", { class: "past", role: "img", "aria-label": "The beat that raised it, over its reconstruction" });
    place.append(svg);
    drawBeat(svg, { ...alarm, verdict }, range([alarm]));
    if (alarm.strip && !place.dataset.strip) addStrip(place, alarm);
  } catch {
    place.remove(); // requested again when it is opened again
    details.open = false;
  }
}

/** Show the signal around an alarm. */
async function addStrip(place, { id, device }) {
  place.dataset.strip = "asked";
  try {
    const answer = await fetch(`api/strip?${new URLSearchParams({ id })}`);
    if (!answer.ok) throw new Error(`${answer.status}`);
    const strip = await answer.json();
    const begin = seconds(strip.time);
    const rows = drawPaper(strip);
    const paper = element("div", { class: "paper", tabindex: 0, role: "group", "aria-label": `Signal of ${device} around the alarm` }, ...rows);
    const said = `From ${time(begin)}, 25 mm/s, 10 mm/mV. N: normal, V: ventricular, A: another anomalous beat. The dashed line is where the alarm was raised.`;
    place.append(element("figure", {}, paper, element("figcaption", {}, said)));
  } catch {
    delete place.dataset.strip; // requested again with the next list
  }
}

function inWords(alarm) {
  const said = [];
  if (alarm.beats_seen) said.push(`Raised by ${alarm.beats_anomalous} of ${several(alarm.beats_seen, "beat")}.`);
  if (alarm.kind === "silent") said.push("No beat arrived.");
  if (rhythm(alarm)) said.push(`Raised at ${rhythm(alarm)}.`);
  if (alarm.score !== null) said.push(`The last one scored ${short(alarm.score)}; the threshold was ${short(alarm.threshold)} (model ${alarm.model}).`);
  if (alarm.escalated) said.push(`Escalated ${time(seconds(alarm.escalated))}.`);
  if (alarm.cleared) said.push(`Cleared ${time(seconds(alarm.cleared))}.`);
  return said.join(" ");
}

the("period").addEventListener("change", () => read(0));
the("only").addEventListener("change", () => read(0));
document.addEventListener("attended", () => read(0));
read(0);
