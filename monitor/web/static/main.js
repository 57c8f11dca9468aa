// Requests the daemon's state three times a second, less often while hidden, and shows it.

import { allow, reach, takeToken } from "./attend.js";
import { call } from "./calling.js";
import { after, forget } from "./clock.js";
import { showDevice } from "./device.js";
import { note, say, the } from "./elements.js";
import { showHistory } from "./history.js";
import { showSignal } from "./signal.js";
import { showTab } from "./tab.js";
import { showTrend } from "./trend.js";
import { several, time } from "./units.js";
import { counts, inOrder, showAlarms, showConnection, showDevices } from "./ward.js";

const EVERY = 300; // milliseconds from an answer to the next request
const HIDDEN = 2000; // … while nobody sees the page, which still calls
const AGAIN = 1000; // … if there was no answer
const WITHIN = 4000; // milliseconds that an answer may take

let view = null; // the last snapshot
let chosen = null; // the selected device
let lost = null; // since when the daemon has not been reached, in milliseconds
let blind = null; // since when no alarm has been able to come, for this or another reason
let timer = 0;

async function look() {
  forget(timer);
  const seen = await ask();
  forget(timer);
  timer = after(!seen ? AGAIN : document.hidden ? HIDDEN : EVERY, look);
  const trouble = seen && (seen.trouble ?? (seen.view ? null : "it has no data to show"));
  view = seen?.view ?? view;
  lost = seen ? null : (lost ?? Date.now());
  blind = seen && !trouble ? null : (blind ?? Date.now());
  call(view, blind && (Date.now() - blind) / 1000); // first of all, whatever else may fail
  reach(seen !== null);
  if (!seen) return showLoss();
  allow(seen.attending);
  show(trouble, seen.uncalled);
}

/** Return the daemon's state; null if it cannot be reached. */
async function ask() {
  const question = new URLSearchParams(chosen === null || document.hidden ? {} : { device: chosen });
  const control = new AbortController();
  const overdue = after(WITHIN, () => control.abort());
  try {
    const answer = await fetch(`api/live?${question}`, { signal: control.signal });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  } finally {
    forget(overdue);
  }
}

function show(trouble, uncalled) {
  document.body.classList.toggle("stale", trouble !== null);
  note(the("trouble"), trouble === null ? "" : inWords(trouble));
  note(the("uncalled"), uncalled ? `${uncalled}.` : "");
  if (!view) return;
  choose();
  say(the("clock"), time(view.time));
  const { models, version } = view;
  say(the("running"), `ecg-monitor ${version} · ${models.map(({ name, sha256 }) => `${name} (${sha256.slice(0, 12)})`).join(", ")}`);
  showState(trouble);
  showConnection(view);
  showAlarms(view);
  if (document.hidden) return; // nor did it ask for the device's beats
  showDevices(view, chosen);
  showDevice(chosen, view);
  showHistory(view, chosen);
  showTrend(chosen);
  showSignal(chosen);
}

/** Describe a problem in plain words, followed by the daemon's own. */
function inWords(trouble) {
  const broker = /^(no connection to|not connected)/.test(trouble);
  return `${broker ? "The monitor has no connection to its broker" : "The monitor has a problem"} (${trouble}).`;
}

function showState(trouble) {
  const { loud, unseen, shelved } = counts(view);
  const devices = several(view.known, "device");
  const said = [loud ? `${loud} of ${devices} in alarm` : view.known ? "no alarms" : "no devices yet"];
  if (unseen < loud) said.push(unseen ? `${unseen} not acknowledged` : "all acknowledged");
  if (shelved) said.push(`${shelved} shelved`);
  const calm = view.known && !loud ? ` · ${devices}` : "";
  say(the("state"), trouble ? "problem" : said.join(", ") + calm);
  const first = loud ? view.alarms[0] : null; // the first one that needs attention, if any does
  the("state").className = trouble ? "lost" : `${first?.priority ?? "ok"}${first && !unseen ? " attended" : ""}`;
  showTab({ lost: trouble && "problem", priority: first?.priority ?? null, devices: loud, seen: !unseen });
}

function showLoss() {
  document.body.classList.add("stale");
  const since = time(lost / 1000);
  const old = view ? ` The data shown is from ${time(view.time)}.` : "";
  note(the("trouble"), `The monitor has been unreachable since ${since}.${old}`);
  say(the("state"), "unreachable");
  the("state").className = "lost";
  showTab({ lost: "unreachable" });
}

/** Select the device in the address, or else the first one in alarm, or else the first one. */
function choose() {
  const asked = new URLSearchParams(location.hash.slice(1)).get("device");
  chosen = asked || chosen || view.alarms[0]?.device || inOrder(view)[0]?.device || null;
}

/** Move the focus to the selected device, and scroll to it if necessary. */
function goToDevice() {
  the("device-title").focus({ preventScroll: true });
  const { top } = the("device").getBoundingClientRect();
  if (top >= 0 && top < innerHeight / 3) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  the("device").scrollIntoView({ behavior: still ? "auto" : "smooth" });
}

addEventListener("hashchange", () => {
  takeToken();
  if (view) {
    choose();
    showDevices(view, chosen);
    showDevice(chosen, view);
    showTrend(chosen);
  }
  look();
});
document.addEventListener("visibilitychange", look);
document.addEventListener("click", (event) => {
  if (event.target.closest("#alarm-list a, #devices a")) setTimeout(goToDevice);
});
the("filter").addEventListener("input", () => view && showDevices(view, chosen));
takeToken();
look();
