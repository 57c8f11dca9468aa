// Acknowledges and judges alarms, shelves devices, admits and discharges patients, in the name of the
// person at this page.
//
// The token is in the address (#token=…) or typed in, and is kept until the tab is closed.

import { element, note, say, the } from "./elements.js";
import { KINDS } from "./units.js";

// What is found most often where somebody looks after an alarm.
const REASONS = ["Patient well", "Physician called", "Treated", "Electrode changed", "Patient moving", "Care or washing"];
const LINGER = 6000; // milliseconds for which a confirmation is shown

let allowed = false; // whether the daemon accepts requests
let waiting = null; // the request to send once the person is known
let questioned = null; // the alarm that the person is asked about, or acknowledges with a note
let over = 0; // the timer of the last confirmation

/** Remove the token from the address, so that nobody can read it there. */
export function takeToken() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (!said.has("token")) return;
  sessionStorage.setItem("token", said.get("token"));
  said.delete("token");
  history.replaceState(null, "", `${location.pathname}#${said}`);
}

/** Show whether the daemon accepts requests, which it does if it has a token. */
export function allow(attending) {
  allowed = attending;
  the("unattended").hidden = allowed;
  document.body.classList.toggle("attending", allowed);
  const by = sessionStorage.getItem("by");
  say(the("identify"), by ? `You are ${by}` : "Who are you?");
}

/** Enable the buttons only while the daemon can be reached. */
export function reach(reached) {
  for (const button of document.querySelectorAll("button.attends")) button.disabled = !reached;
}

export const acknowledge = ({ id, device }, note = "") => ask("acknowledge", { id, note }, `${device}: acknowledged`);

/** Ask what the person found, and acknowledge with that. */
export function askForNote(alarm) {
  questioned = alarm;
  say(the("acknowledge-what"), `${alarm.device}: ${KINDS[alarm.kind]}`);
  the("reason").value = "";
  the("acknowledge").showModal();
}

function acknowledgeWith(note) {
  the("acknowledge").close();
  acknowledge(questioned, note.trim());
}

export const shelve = (device, minutes, kinds = []) =>
  ask("shelve", { device, minutes, kinds }, minutes ? `${device}: shelved` : `${device}: no longer shelved`);

/** Ask whether an alarm was right, and why. */
export function askWhetherRight(alarm) {
  questioned = alarm;
  say(the("judge-what"), `${alarm.device}: ${KINDS[alarm.kind]}`);
  the("why").value = "";
  the("judge").showModal();
}

function judge(verdict) {
  the("judge").close();
  const { id, device } = questioned;
  ask("judge", { id, device, verdict, note: the("why").value.trim() }, `${device}: judged ${verdict}`);
}

export const admit = (device) => ask("admit", { device }, `${device}: admitted`);

export const discharge = (device, keep_model) =>
  ask("discharge", { device, keep_model }, `${device}: discharged`);

export const choose = (device, model) => ask("model", { device, model }, `${device}: ${model} model chosen`);

async function ask(what, request, done) {
  const [token, by] = [sessionStorage.getItem("token"), sessionStorage.getItem("by")];
  if (!token || !by) {
    waiting = () => ask(what, request, done);
    return identify();
  }
  let problem = null;
  try {
    const answer = await fetch(`api/${what}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify({ ...request, by }),
      signal: AbortSignal.timeout(8000),
    });
    if (answer.status === 401) {
      sessionStorage.removeItem("token");
      waiting = () => ask(what, request, done);
      return identify("This token is wrong.");
    }
    if (!answer.ok) problem = (await answer.text()).trim();
  } catch {
    problem = "the monitor does not answer";
  }
  tell(problem ? `Not done: ${problem}.` : `${done} by ${by}.`);
  if (!problem) document.dispatchEvent(new Event("attended"));
}

/** Show a confirmation for a while, where it does not move anything. */
function tell(text) {
  say(the("done"), text);
  clearTimeout(over);
  over = setTimeout(say, LINGER, the("done"), "");
}

/** Ask for the person's name, and for the token if it is not known. */
function identify(problem = "") {
  the("by").value = sessionStorage.getItem("by") ?? "";
  the("token").value = "";
  the("unknown").hidden = Boolean(sessionStorage.getItem("token"));
  the("token").required = !the("unknown").hidden;
  note(the("wrong"), problem);
  the("who").showModal();
}

the("identify").addEventListener("click", () => {
  waiting = null;
  identify();
});
for (const reason of REASONS) {
  const button = element("button", { type: "button", class: "attends" }, reason);
  button.addEventListener("click", () => acknowledgeWith(reason));
  the("reasons").append(button);
}
the("acknowledge").addEventListener("submit", (event) => {
  event.preventDefault();
  acknowledgeWith(the("reason").value);
});
the("unacknowledged").addEventListener("click", () => the("acknowledge").close());
the("judge-true").addEventListener("click", () => judge(true));
the("judge-false").addEventListener("click", () => judge(false));
the("judge-cancel").addEventListener("click", () => the("judge").close());
the("judge").addEventListener("submit", (event) => event.preventDefault()); // Enter is no verdict
the("cancel").addEventListener("click", () => the("who").close());
the("who").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("by", the("by").value.trim());
  if (the("token").value) sessionStorage.setItem("token", the("token").value.trim());
  the("who").close();
  waiting?.();
  waiting = null;
});
