// Format amounts of bytes and durations.

const STEPS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];

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
