// The sound of alarms, after the pattern of IEC 60601-1-8: tables 3 and 4 for the rhythm and the tone,
// annex F for the melodies of cardiac alarms.

const [C4, E4, G4, C5] = [261.6, 329.6, 392, 523.3]; // hertz; the standard allows 150 to 1,000
const CALL = [C4, E4, G4, G4, C5];
const MELODY = { high: [...CALL, ...CALL], medium: [C4, E4, G4], low: [E4, C4] };

/** Seconds that a pulse lasts; the standard allows 75 to 200 ms for high, 125 to 250 for the others. */
const PULSE = { high: 0.15, medium: 0.2, low: 0.2 };

/** Seconds between two pulses; it allows 50 to 125 ms for high (its x), 125 to 250 (y). */
const GAP = { high: 0.1, medium: 0.2, low: 0.2 };

/** Seconds between the two halves of the burst of high priority; it allows 0.35 to 1.3. */
const HALVES = 0.7;

/**
 * Seconds from the end of a burst to the next; it allows 2.5 to 15, 2.5 to 30, and more than 15. The
 * more urgent comes more often, and between two bursts of high priority one can speak.
 */
export const REST = { high: 5, medium: 10, low: 20 };

/** The part of a pulse in which it rises, and falls again: 10 to 40 %, so that it does not startle. */
const EDGE = 0.25;

/**
 * Amplitudes of the tone and its harmonics. It asks for four within 15 dB between 300 and 4,000 Hz, so
 * that one ear cannot lose it and a small loudspeaker carries it.
 */
const HARMONICS = [0, 1, 0.8, 0.6, 0.5, 0.4, 0.3];

const LOUDNESS = 0.5; // of full scale: the harmonics add up, and nothing is clipped

/** Return the pulses of a burst: when each begins and how long it lasts, in seconds, and its pitch. */
export function burst(priority) {
  const [lasts, gap] = [PULSE[priority], GAP[priority]];
  let begins = 0;
  return MELODY[priority].map((pitch, i) => {
    const pulse = { begins, lasts, pitch };
    begins += lasts + (priority === "high" ? gapAfter(i) : gap);
    return pulse;
  });
}

/** Return the pause after a pulse of high priority: 3 pulses, 2 pulses, and the same again. */
function gapAfter(i) {
  if (i === 4) return HALVES;
  return i % 5 === 2 ? 2 * GAP.high + PULSE.high : GAP.high;
}

/** Schedule the burst of a priority; return the node that it passes through, and when it is over. */
export function play(context, priority, at) {
  const out = context.createGain();
  out.gain.value = LOUDNESS;
  out.connect(context.destination);
  const wave = context.createPeriodicWave(new Float32Array(HARMONICS.length), new Float32Array(HARMONICS));
  let over = at;
  for (const { begins, lasts, pitch } of burst(priority)) {
    const [tone, loudness] = [context.createOscillator(), context.createGain()];
    const begin = at + begins;
    over = begin + lasts;
    tone.setPeriodicWave(wave);
    tone.frequency.value = pitch;
    loudness.gain.setValueAtTime(0, begin);
    loudness.gain.linearRampToValueAtTime(1, begin + EDGE * lasts);
    loudness.gain.setValueAtTime(1, over - EDGE * lasts);
    loudness.gain.linearRampToValueAtTime(0, over);
    tone.connect(loudness);
    loudness.connect(out);
    tone.start(begin);
    tone.stop(over);
  }
  return { out, over };
}

const SOON = 0.05; // seconds from a decision to its first pulse, so that none is cut

let context = null; // made once a person has asked for sound
let playing = null; // the priority of the bursts
let out = null; // what the last burst passes through
let next = 0; // when the next burst begins, by the context's clock

/** Whether this browser can make a sound at all. */
export const able = () => typeof AudioContext === "function";

/** Whether a sound would be heard now: browsers allow none before a click or a key on the page. */
export const audible = () => context?.state === "running";

/** Ask the browser to allow sound; `changed` is called whenever it allows or forbids it. */
export function allowSound(changed) {
  if (!context) {
    context = new AudioContext();
    context.addEventListener("statechange", changed);
  }
  context.resume().catch(() => {}); // the state says it
}

/** Play a short burst of low priority: this is what sound is like. */
export function tryOut() {
  if (!playing) play(context, "low", context.currentTime + SOON);
}

/** Play the bursts of a priority, or none if it is null. Call it a few times a second. */
export function keepSounding(priority) {
  if (!audible()) return;
  if (priority !== playing) {
    out?.disconnect(); // what changes is heard at once
    [playing, out, next] = [priority, null, 0];
  }
  if (!playing || context.currentTime < next) return;
  const begun = play(context, playing, context.currentTime + SOON);
  out = begun.out;
  next = begun.over + REST[playing];
}
