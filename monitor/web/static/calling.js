// The page calls: which alarms sound here, for how long the sound is paused, and desktop notifications.
//
// An alarm calls until it is acknowledged or shelved, which all pages and programs see. A pause is of
// this page alone: it silences what stands, and ends before its time at an alarm of high priority, or of
// a higher one than what was paused. A monitor that is out of reach calls with high priority.

import { note, say, the } from "./elements.js";
import { able, allowSound, audible, keepSounding, tryOut } from "./sound.js";
import { KINDS, several } from "./units.js";
import { address } from "./ward.js";

const PAUSE = 120; // seconds; longer, a page forgotten in a pause would miss too much
const GRACE = 5; // seconds without the monitor before it calls: a standby takes over within two
const OFTEN = 250; // milliseconds between two looks at the clock
const RANKS = { low: 1, medium: 2, high: 3 };
const LOST = "the connection to the monitor"; // stands among the alarms' ids, as does
const TOGETHER = "the connection of many devices";

let wanted = localStorage.getItem("sound") === "on"; // whether a person switched the sound on here
let notifies = localStorage.getItem("notifications") === "on";
let broken = false; // whether the browser has notifications, and yet shows none
let calls = new Map(); // the priority of what calls, by its id
let begun = false; // whether the first snapshot was seen: what it shows is no news
let paused = null; // the end of the pause, in seconds, and the rank of what was paused
let shown = null; // the last notification

const now = () => performance.now() / 1000;
const highest = () => ["high", "medium", "low"].find((each) => [...calls.values()].includes(each)) ?? null;

/**
 * Call for what stands in a snapshot, if there is one; `blind` is for how many seconds the monitor or
 * its broker has been out of reach, or null.
 */
export function call(view, blind) {
  const alarms = (view?.alarms ?? []).filter((alarm) => !alarm.shelved && !alarm.acknowledged);
  const standing = new Map(alarms.map((alarm) => [alarm.id, alarm.priority]));
  if (view?.connection) standing.set(TOGETHER, "high");
  if (blind !== null && blind > GRACE) standing.set(LOST, "high");
  const news = [...standing].filter(([id, priority]) => RANKS[priority] > (RANKS[calls.get(id)] ?? 0));
  calls = standing;
  if (begun || standing.has(LOST)) tell(new Set(news.map(([id]) => id)), alarms, view);
  begun ||= view !== null;
  keep();
}

function tell(news, alarms, view) {
  if (!news.size) return;
  const rank = Math.max(...[...news].map((id) => RANKS[calls.get(id)]));
  if (paused && (rank === RANKS.high || rank > paused.rank)) {
    endPause("The sound is back: something more serious has come.");
  }
  const fresh = alarms.filter((alarm) => news.has(alarm.id));
  if (news.has(LOST)) notify("No connection to the monitor", "No alarm can reach this page.", true);
  else if (news.has(TOGETHER)) {
    const { devices, names } = view.connection;
    notify(`Connection lost, ${several(devices, "device")}`, names.slice(0, 4).join(", "), true);
  } else notify(...inWords(fresh), rank === RANKS.high, fresh[0].device);
}

/** Return the title and the text of a notification of some alarms, the most serious first. */
function inWords(alarms) {
  const each = alarms.map(({ device, kind, priority }) => `${device}: ${KINDS[kind]}, ${priority} priority`);
  const more = each.length > 4 ? [`and ${several(each.length - 4, "more alarm")}`] : [];
  return [each[0], [...each.slice(1, 4), ...more].join("\n")];
}

// -- sound

/** Keep the sound and what is shown of it up to date. */
function keep() {
  if (paused && now() >= paused.until) endPause("The pause is over.");
  keepSounding(wanted && !paused ? highest() : null);
  if (!calls.size) shown = shown?.close() ?? null; // what nobody needs to look at is taken away
  show();
}

function show() {
  const state = !able() ? "not possible" : !wanted ? "off" : audible() ? "on" : "blocked";
  const silent = state !== "on";
  turn(the("sound"), wanted, state);
  the("sound").disabled = !able();
  the("sound").classList.toggle("unheard", silent && calls.size > 0);
  the("sound").querySelector("use").setAttribute("href", silent ? "#bell-off" : "#bell");
  note(the("blocked"), state === "blocked" ? "The browser blocks sound until you click or press a key on this page." : "");
  the("pause").hidden = silent;
  the("pause").disabled = !paused && calls.size === 0;
  say(the("pause"), paused ? "End pause" : "Pause audio");
  the("paused").hidden = !paused;
  const left = paused ? Math.max(0, Math.ceil(paused.until - now())) : 0;
  say(the("left"), `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`);
  showNotifications();
}

/** Show a switch on or off, and its state in a word. */
function turn(button, on, state) {
  button.setAttribute("aria-checked", String(on));
  say(button.querySelector(".is"), state);
}

function endPause(why) {
  paused = null;
  say(the("paused-news"), why);
}

the("sound").addEventListener("click", () => {
  const unblocks = wanted && !audible();
  wanted = wanted ? unblocks : true;
  localStorage.setItem("sound", wanted ? "on" : "off");
  paused = null;
  if (wanted) {
    allowSound(keep);
    keep();
    if (audible()) tryOut();
  }
  keep();
});

the("pause").addEventListener("click", () => {
  if (paused) {
    endPause("The sound is back.");
  } else {
    paused = { until: now() + PAUSE, rank: RANKS[highest()] ?? 0 };
    say(the("paused-news"), "Audio paused on this page for two minutes.");
  }
  keep();
});

// A page that was loaded anew may sound again once somebody has touched it.
for (const touched of ["pointerdown", "keydown"]) {
  addEventListener(touched, ({ target }) => {
    const asks = the("sound").contains(target); // the switch sees to it itself
    if (wanted && able() && !audible() && !asks) allowSound(keep);
  }, true);
}

// -- notifications

/** Return whether notifications come, or else why not. */
function notifications() {
  if (typeof Notification !== "function") return isSecureContext ? "not possible" : "need HTTPS";
  if (broken) return "not possible";
  if (Notification.permission === "denied") return "blocked by the browser";
  return notifies && Notification.permission === "granted" ? "on" : "off";
}

function showNotifications() {
  const state = notifications();
  turn(the("notify"), state === "on", state);
  the("notify").disabled = !["on", "off"].includes(state);
}

/** Show a notification in place of the last one; a serious one stays until it is closed. */
function notify(title, body, serious, device = null) {
  if (notifications() !== "on") return;
  try {
    shown = new Notification(title, { body, tag: "ecg-monitor", renotify: true, requireInteraction: serious });
  } catch {
    broken = true; // phones allow them to service workers alone
    return;
  }
  shown.addEventListener("click", () => {
    focus();
    if (device !== null) location.hash = address(device);
  });
}

the("notify").addEventListener("click", async () => {
  notifies = notifications() !== "on";
  localStorage.setItem("notifications", notifies ? "on" : "off");
  if (notifies && Notification.permission === "default") await Notification.requestPermission();
  keep();
});

setInterval(keep, OFTEN);
keep();
