// Timers that run on time while the page is hidden.

const waiting = new Map(); // what to call, by its number
let last = 0;
let slowed = false; // whether the page's own timers have to do

/** Call a function after so many milliseconds; return a number for `forget`. */
export function after(milliseconds, call) {
  waiting.set(++last, call);
  if (slowed) setTimeout(wake, milliseconds, last);
  else worker.postMessage([last, milliseconds]);
  return last;
}

export const forget = (number) => waiting.delete(number);

function wake(number) {
  const call = waiting.get(number);
  waiting.delete(number);
  call?.();
}

// The policy that the server allows (`trusted-types` in server.py): it knows one address.
const allowed = globalThis.trustedTypes?.createPolicy("clock", { createScriptURL: () => "ticks.js" });
const worker = new Worker(allowed?.createScriptURL("") ?? "ticks.js");
worker.addEventListener("message", ({ data }) => wake(data));
worker.addEventListener("error", () => {
  // It could not be loaded: the daemon has just gone.
  slowed = true;
  for (const number of [...waiting.keys()]) wake(number);
});
