// Formats numbers and times.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const whole = new Intl.NumberFormat();

/** Format seconds since 1970 as the time of day, with the date unless it is today. */
export function time(seconds, format = clock) {
  const moment = new Date(seconds * 1000);
  const today = moment.toDateString() === new Date().toDateString();
  return today ? format.format(moment) : `${day.format(moment)}, ${format.format(moment)}`;
}

/** Format an RFC 3339 time to the minute. */
export const toTheMinute = (text) => time(Date.parse(text) / 1000, minute);

/** Format seconds as a time in the past. */
export const ago = (seconds) => (seconds < 2 ? "now" : `${duration(seconds)} ago`);

/** Format seconds as "4 s", "12 min", "3 h". */
export function duration(seconds) {
  if (seconds < 99.5) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

/** Format a count with separators. */
export const count = (number) => whole.format(number);

/** Format a count and its noun: "1 device", "4 devices". */
export const several = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Format a number to three digits. */
export function short(number) {
  const exact = Math.abs(number) >= 1000 ? number.toExponential(1) : String(Number(number.toPrecision(3)));
  return exact.replace("-", "−");
}

/** Format a score as a multiple of its threshold, "0.13×"; nothing if there is none. */
export function multiple(beat) {
  if (beat.score === null || beat.threshold <= 0) return "";
  const ratio = beat.score / beat.threshold;
  if (ratio < 0.01) return "<0.01×";
  return `${ratio >= 10 ? count(Math.round(ratio)) : ratio.toFixed(ratio < 1 ? 2 : 1)}×`;
}

export const VERDICTS = { normal: "normal", anomalous: "anomalous", poor: "poor signal" };
export const KINDS = {
  "ventricular-fibrillation": "Ventricular fibrillation",
  asystole: "Asystole",
  "ventricular-tachycardia": "Ventricular tachycardia",
  bradycardia: "Bradycardia",
  tachycardia: "Tachycardia",
  anomaly: "Anomaly",
  "signal-quality": "Signal quality",
  silent: "Silent",
};

/** Format who has acknowledged an alarm, when, and with which note. */
export const seenBy = ({ by, time: when, note }, format) =>
  `acknowledged by ${by}, ${format(when)}${note && `: ${note}`}`;

/** Format the cause of a rhythm alarm: "38/min", "pause 5.2 s"; nothing for other alarms. */
export function rhythm({ heart_rate: rate, pause_s: pause }) {
  if (rate !== null) return `${Math.round(rate)}/min`;
  return pause === null ? "" : `pause ${pause.toFixed(1)} s`;
}
