// The patient at the selected device: what watches his beats, how far his own model is, and what may
// be asked for him.

import { admit, choose, discharge } from "./attend.js";
import { note, say, the } from "./elements.js";
import { count, several, toTheMinute } from "./units.js";

let device = null;

/** Show the patient of a device; nothing where no models of patients' own are used. */
export function showPatient(row) {
  const patient = row?.patient ?? null;
  device = row?.device ?? null;
  the("patient").hidden = !patient;
  if (!patient) return;
  const learns = ["collecting", "waiting", "fitting"].includes(patient.progress);
  say(the("watched-by"), watchedBy(patient));
  note(the("learning"), learns ? progress(patient) : "");
  note(the("patient-problem"), patient.problem ? `Problem: ${patient.problem}.` : "");
  note(the("relearn"), patient.relearn ? "More of his beats come near the threshold than on the first day of this model: let it be learnt again." : "");
  the("trial").hidden = !patient.trial;
  say(the("trial-result"), patient.trial ? compared(patient.trial) : "");
  the("admit").hidden = learns;
  say(the("admit"), patient.state === "own" ? "Learn again" : "Admit");
  the("previous").hidden = patient.state !== "own" || Boolean(patient.trial);
}

function watchedBy({ state, model, since }) {
  const begun = `since ${toTheMinute(since)}`;
  if (state === "learning") {
    return `Learning ${begun}: rhythm and signal quality are watched, the shape of beats is not.`;
  }
  return state === "own" ? `Watched by the patient's own model, ${model}, ${begun}.` : `Watched by the shared model, ${model}.`;
}

function progress({ progress: stage, beats, needed, place }) {
  if (stage === "waiting") return place ? `Waiting to be fitted, number ${count(place)} in line.` : "Waiting to be fitted.";
  return stage === "fitting" ? "A model is being fitted." : `Learning: ${count(beats)} of ${several(needed, "beat")}.`;
}

/** Say what the model in use and the new one made of the same beats. */
function compared({ since, beats, model, old_beats, new_beats, old_alarms, new_alarms }) {
  const made = (abnormal, alarms) => `${count(abnormal)} anomalous, ${several(alarms, "alarm")}`;
  return `A new model, ${model}, is tried on ${several(beats, "beat")} since ${toTheMinute(since)}: ${made(new_beats, new_alarms)}. The one in use: ${made(old_beats, old_alarms)}.`;
}

the("admit").addEventListener("click", () => device && admit(device));
the("use-new").addEventListener("click", () => device && choose(device, "new"));
the("keep-old").addEventListener("click", () => device && choose(device, "old"));
the("previous").addEventListener("click", () => device && choose(device, "previous"));
the("discharge").addEventListener("click", () => {
  if (!device) return;
  say(the("leaving-title"), `Discharge the patient at ${device}?`);
  the("leaving").dataset.device = device;
  the("keep-model").checked = false;
  the("leaving").showModal();
});
the("stays").addEventListener("click", () => the("leaving").close());
the("leaving").addEventListener("submit", () => {
  discharge(the("leaving").dataset.device, the("keep-model").checked);
});
