// Numbers and times as people read them. What is unknown (null) is "n/a".

const UNKNOWN = "n/a";
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });

/** Three or four digits that mean something: 0.312, 8.77, 40.7, 109.1, 2,612. */
export function number(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const size = Math.abs(value);
  if (size >= 999.95) return whole.format(value);
  if (size >= 9.995) return value.toFixed(1);
  if (size >= 0.9995) return value.toFixed(2);
  return size < 0.0005 ? "0" : value.toFixed(3);
}

/** Things that are counted; averages of them over a while may be broken numbers. */
export function count(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return Number.isInteger(value) ? whole.format(value) : number(value);
}

/** A ratio in percent. */
export function percent(ratio) {
  if (ratio === null || ratio === undefined) return UNKNOWN;
  return `${(100 * ratio).toFixed(ratio < 0.0995 ? 1 : 0)} %`;
}

/** Seconds as on a clock: 0:07, 12:30, 1:02:30. */
export function clock(seconds) {
  const rounded = Math.max(0, Math.floor(seconds));
  const two = (part) => String(part).padStart(2, "0");
  const [hours, minutes] = [Math.floor(rounded / 3600), Math.floor(rounded / 60) % 60];
  const start = hours ? `${hours}:${two(minutes)}` : `${minutes}`;
  return `${start}:${two(rounded % 60)}`;
}

/** Bytes in GiB. */
export function gibibytes(bytes) {
  return bytes === null || bytes === undefined ? UNKNOWN : (bytes / 2 ** 30).toFixed(1);
}

/** A mark of an axis whose marks are `step` apart. */
export function mark(value, step) {
  if (Math.abs(value) >= 10000) return compact.format(value);
  const digits = step >= 1 ? 0 : Math.ceil(-Math.log10(step));
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
