// Format amounts of bytes and durations, and read durations.

const STEPS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
const LONGEST_COUNT = 120; // seconds; a longer wait is told as a time of day
const LONGEST_WAIT = 300 * 86_400; // seconds; times are told without the year
const MINUTE = 60_000; // milliseconds

/** A number of bytes, such as 1.5 MB. */
export function bytes(count) {
  const step = count < 1000 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), STEPS.length - 1);
  const amount = count / 1000 ** step;
  return new Intl.NumberFormat("en", {
    style: "unit",
    unit: STEPS[step],
    unitDisplay: step ? "short" : "long",
    maximumFractionDigits: step && amount < 100 ? 1 : 0,
  }).format(amount);
}

/** The progress, such as 1.5 MB of 3 MB, or 1.5 MB if the total is unknown. */
export function share(done, total) {
  return total ? `${bytes(Math.min(done, total))} of ${bytes(total)}` : bytes(done);
}

/** The estimated time left at the average rate; empty in the first three seconds. */
export function left(done, total, seconds) {
  if (!total || seconds < 3 || done <= 0 || done >= total) return "";
  const rest = ((total - done) * seconds) / done;
  if (rest < 60) return `, about ${Math.ceil(rest)} s left`;
  if (rest < 3600) return `, about ${Math.ceil(rest / 60)} min left`;
  return `, about ${Math.ceil(rest / 3600)} h left`;
}

/** Retry-After (RFC 9110, section 10.2.3) as seconds from now; 0 if it is missing or malformed. */
export function secondsOf(retryAfter) {
  if (!retryAfter) return 0;
  const isDate = !/^\d+$/.test(retryAfter);
  const seconds = isDate ? Math.ceil((Date.parse(retryAfter) - Date.now()) / 1000) : Number(retryAfter);
  return Math.min(Math.max(seconds || 0, 0), LONGEST_WAIT);
}

/** When to try again after so many seconds, as a sentence; empty for 0. */
export function tryAgain(seconds) {
  if (!seconds) return "";
  if (seconds <= LONGEST_COUNT) return `Try again in ${seconds} s.`;
  const at = new Date(Math.ceil((Date.now() + 1000 * seconds) / MINUTE) * MINUTE);
  const time = at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const isToday = at.toDateString() === new Date().toDateString();
  return `Try again at ${time}${isToday ? "" : ` on ${at.toLocaleDateString("en-GB", { day: "numeric", month: "long" })}`}.`;
}
