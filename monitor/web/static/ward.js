// The open alarms, and the list of devices.

import { acknowledge, askForNote, askWhetherRight } from "./attend.js";
import { element, list, mark, note, say, the } from "./elements.js";
import { KINDS, ago, count, duration, rhythm, seenBy, several, time, toTheMinute } from "./units.js";

let known = null; // the priority of each alarm that was announced, by its id; null before the first snapshot

export const address = (device) => `#${new URLSearchParams({ device })}`;

/** Show the alarms, and announce new ones to a screen reader. */
export function showAlarms(view) {
  const focused = document.activeElement;
  const held = the("alarm-list").contains(focused) && focused.matches(":focus-visible");
  list(the("alarm-list"), view.alarms, (alarm) => alarm.id, makeAlarm, (card, alarm) => {
    updateAlarm(card, alarm, view);
  });
  if (held) keepFocus(focused);
  the("no-alarms").hidden = view.alarms.length > 0;
  const shown = new Set(view.alarms.map((alarm) => alarm.device)).size;
  const more = view.in_alarm - shown;
  note(the("more-alarms"), more > 0 ? `${several(more, "more device")} in alarm.` : "");
  tell(view.alarms.filter((alarm) => !alarm.shelved));
}

/**
 * Keep the keyboard's focus in the list: a card that has moved loses it, and so does a button that has gone. Whoever
 * acknowledges by keyboard comes to the name on the next card, not to its button: a key pressed twice
 * must not acknowledge what nobody has read.
 */
function keepFocus(focused) {
  const stays = focused.isConnected && focused.checkVisibility();
  if (stays && document.activeElement === focused) return;
  const next = the("alarm-list").querySelector("li:not(.attended, .shelved) .name") ?? the("alarms-title");
  (stays ? focused : next).focus({ preventScroll: stays });
}

function makeAlarm(alarm) {
  const button = element("button", { type: "button", class: "attends", "aria-label": `Acknowledge: ${alarm.device}` }, "Acknowledge");
  button.addEventListener("click", () => acknowledge(alarm));
  const noted = element("button", { type: "button", class: "attends", "aria-label": `Acknowledge with a note: ${alarm.device}` }, "Note …");
  noted.addEventListener("click", () => askForNote(alarm));
  const right = element("button", { type: "button", class: "attends", "aria-label": `Was it right? ${alarm.device}` }, "Was it right?");
  right.addEventListener("click", () => askWhetherRight(alarm));
  return element(
    "li",
    {},
    element("span", { class: "priority" }),
    element("a", { class: "name", href: address(alarm.device) }, alarm.device),
    element("span", { class: "kind" }, KINDS[alarm.kind]),
    element("span", { class: "why" }),
    element("span", { class: "seen" }),
    element("div", { class: "actions" }, button, noted, right),
  );
}

function updateAlarm(card, alarm, view) {
  const { acknowledged, shelved, priority, over_since: over } = alarm;
  const state = `${priority}${over === null ? "" : " latched"}${shelved ? " shelved" : acknowledged ? " attended" : ""}`;
  if (card.className !== state) {
    card.className = state;
    card.querySelector(".priority").replaceChildren(mark(priority), priority);
  }
  const since = begun(alarm, view);
  const lasts = `for ${duration((over ?? view.time) - since)}`;
  const why = card.querySelector(".why");
  say(why, [reason(alarm), lasts].filter(Boolean).join(", "));
  why.title = `since ${time(since)}`;
  const who = [];
  if (over !== null) who.push(`latched: over since ${time(over)}, until somebody acknowledges it`);
  if (acknowledged) who.push(seenBy(acknowledged, toTheMinute));
  if (shelved) who.push(`shelved by ${shelved.by} until ${toTheMinute(shelved.until)}`);
  note(card.querySelector(".seen"), who.join(", "));
  const [acknowledges] = card.querySelectorAll("button");
  acknowledges.hidden = Boolean(acknowledged);
}

/** Say that many devices have fallen silent together. */
export function showConnection({ connection, policy }) {
  if (!connection) return note(the("connection"), "");
  const { devices, of, names, since, reported } = connection;
  const some = names.slice(0, 5).join(", ") + (devices > 5 ? `, and ${count(devices - 5)} more` : "");
  const next = reported === devices ? "Each is reported as silent." : "Each is reported as silent if it lasts.";
  note(the("connection"), `Connection lost, ${several(devices, "device")} of ${count(of)}: not heard since ${time(Date.parse(since) / 1000)}: ${some}. ${next}`);
}

/** Return what caused an alarm; nothing if its kind says it all. */
function reason(alarm) {
  if (alarm.kind === "silent") return "no beat";
  return alarm.seen ? `${alarm.beats} of ${several(alarm.seen, "beat")}` : rhythm(alarm);
}

/** Return when the condition began; for a silent device, when its last beat arrived. */
export const begun = (alarm, { policy }) => alarm.since - (alarm.kind === "silent" ? policy.silent_after : 0);

/**
 * Count the devices in alarm, those with unacknowledged alarms, and those whose alarms are all
 * shelved. Devices for which a snapshot has no room are taken to be unacknowledged.
 */
export function counts({ alarms, in_alarm: all }) {
  const devices = (some) => new Set(some.map((alarm) => alarm.device)).size;
  const loud = alarms.filter((alarm) => !alarm.shelved);
  const [listed, heard] = [devices(alarms), devices(loud)];
  const unseen = devices(loud.filter((alarm) => !alarm.acknowledged)) + all - listed;
  return { loud: heard + all - listed, unseen, shelved: listed - heard };
}

function tell(alarms) {
  const open = new Map(alarms.map((alarm) => [alarm.id, alarm.priority]));
  const news = alarms.filter((alarm) => known?.get(alarm.id) !== alarm.priority);
  if (known) {
    const urgent = news.filter((alarm) => alarm.priority === "high");
    if (urgent.length) announce(the("news"), urgent);
    if (news.length > urgent.length) announce(the("lesser-news"), news.filter((alarm) => !urgent.includes(alarm)));
  }
  known = open;
}

/** Put alarms into a live region; as a new text, so that the same alarm is read out again. */
function announce(region, alarms) {
  const each = alarms.slice(0, 3).map((a) => `${a.device}: ${KINDS[a.kind]}, ${a.priority} priority`);
  const more = alarms.length > 3 ? `, and ${several(alarms.length - 3, "more alarm")}` : "";
  region.replaceChildren(`Alarm. ${each.join("; ")}${more}`);
}

/** Return the devices in the order of the list: by name, bed-2 before bed-10. */
export function inOrder(view) {
  const { compare } = new Intl.Collator(undefined, { numeric: true });
  return view.devices.toSorted((a, b) => compare(a.device, b.device));
}

/** List the devices whose names contain the text of the filter. */
export function showDevices(view, chosen) {
  const wanted = the("filter").value.trim();
  const found = inOrder(view).filter((row) => row.device.toLowerCase().includes(wanted.toLowerCase()));
  list(the("device-list"), found, (row) => row.device, makeDevice, (item, row) => {
    updateDevice(item, row, row.device === chosen, view.time);
  });
  showEmptiness(view, wanted, found.length);
  const left = view.known - view.devices.length;
  const more = `${count(view.devices.length)} of ${count(view.known)} devices, including those in alarm. Enter the full name to find any other.`;
  note(the("more-devices"), left > 0 ? more : "");
}

function makeDevice(row) {
  return element(
    "li",
    {},
    element(
      "a",
      { href: address(row.device) },
      element("span", { class: "sign" }),
      element("span", { class: "name" }, row.device),
      element("span", { class: "is" }),
      element("span", { class: "heard" }),
    ),
  );
}

function updateDevice(item, row, isChosen, now) {
  const link = item.firstElementChild;
  const state = row.priority ?? "ok";
  const looks = row.quiet ? `${state} shelved` : state;
  if (item.className !== looks) {
    item.className = looks;
    item.querySelector(".sign").replaceChildren(mark(state));
  }
  say(item.querySelector(".is"), stateOf(row));
  if (isChosen) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
  say(item.querySelector(".heard"), row.heard === null ? "silent" : ago(now - row.heard));
}

/** Describe the state of a device. */
export const stateOf = (row) =>
  (row.priority ? `${row.priority} alarm` : "no alarm") + (row.shelved ? " · shelved" : "");

function showEmptiness(view, wanted, found) {
  const empty = the("no-devices");
  empty.hidden = found > 0;
  if (found) return;
  if (!wanted) {
    say(empty, `No beats yet: publish some on ${view.topics.join(" or ")}, or run “ecg-monitor replay FILE --device NAME”.`);
  } else if (empty.dataset.wanted !== wanted || !empty.querySelector("a")) {
    empty.replaceChildren("No match. ", element("a", { href: address(wanted) }, `Show “${wanted}”`));
    empty.dataset.wanted = wanted;
  }
}
