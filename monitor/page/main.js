// Asks the daemon three times a second what there is to see, and shows it.

import { allow, takeToken } from "./attend.js";
import { showDevice } from "./device.js";
import { note, say, the } from "./elements.js";
import { showHistory } from "./history.js";
import { several, time } from "./units.js";
import { inOrder, showAlarms, showDevices } from "./ward.js";

const EVERY = 300; // milliseconds from an answer to the next question
const AGAIN = 1000; // … where there was none
const WITHIN = 4000; // milliseconds that an answer may take

let view = null; // what was seen last
let chosen = null; // the device that is looked at
let lost = null; // since when the daemon cannot be reached, in milliseconds
let timer = 0;

async function look() {
  clearTimeout(timer);
  if (document.hidden) return; // the tab's return asks again
  let pause = EVERY;
  try {
    const question = new URLSearchParams(chosen === null ? {} : { device: chosen });
    const answer = await fetch(`api/live?${question}`, { signal: AbortSignal.timeout(WITHIN) });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const seen = await answer.json();
    lost = null;
    view = seen.view ?? view;
    allow(seen.attending);
    show(seen.trouble ?? (seen.view ? null : "it shows nothing"));
  } catch {
    lost ??= Date.now();
    pause = AGAIN;
    showLoss();
  }
  clearTimeout(timer);
  timer = setTimeout(look, pause);
}

function show(trouble) {
  document.body.classList.toggle("stale", trouble !== null);
  note(the("trouble"), trouble === null ? "" : `The monitor is not well: ${trouble}.`);
  if (!view) return;
  choose();
  say(the("clock"), time(view.time));
  const { models, version } = view;
  say(the("running"), `ecg-monitor ${version} · ${models.map(({ name, sha256 }) => `${name} (${sha256.slice(0, 12)})`).join(", ")}`);
  showState(trouble);
  showAlarms(view);
  showDevices(view, chosen);
  showDevice(chosen, view);
  showHistory(view, chosen);
}

function showState(trouble) {
  const highest = view.alarms[0]?.priority;
  const devices = several(view.known, "device");
  const calm = view.known ? `no alarm · ${devices}` : "no device yet";
  say(the("state"), trouble ? "not well" : view.in_alarm ? `${view.in_alarm} of ${devices} in alarm` : calm);
  the("state").className = trouble ? "lost" : (highest ?? "ok");
  document.title = view.in_alarm ? `(${view.in_alarm}) ECG monitor` : "ECG monitor";
}

function showLoss() {
  document.body.classList.add("stale");
  const since = time(lost / 1000);
  const old = view ? ` What is shown is of ${time(view.time)}.` : "";
  note(the("trouble"), `The monitor cannot be reached since ${since}.${old}`);
  say(the("state"), "not reached");
  the("state").className = "lost";
  document.title = "? ECG monitor";
}

/** The device of the address; without one, the first in alarm, or else the first. */
function choose() {
  const asked = new URLSearchParams(location.hash.slice(1)).get("device");
  chosen = asked || chosen || view.alarms[0]?.device || inOrder(view)[0]?.device || null;
}

addEventListener("hashchange", () => {
  takeToken();
  if (view) {
    choose();
    showDevices(view, chosen);
    showDevice(chosen, view);
  }
  look();
});
document.addEventListener("visibilitychange", look);
document.addEventListener("click", (event) => {
  // Whoever chose a device is taken to it, also where it is further down.
  if (event.target.closest("#alarm-list a, #devices a")) setTimeout(() => the("device-title").focus());
});
the("filter").addEventListener("input", () => view && showDevices(view, chosen));
takeToken();
look();
