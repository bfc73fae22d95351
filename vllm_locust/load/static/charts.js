// Small charts of lines over one time axis that all of them share, with one crosshair through all of them.
// Rule: a null is a gap in a line. Nothing is smoothed, joined or made up.

import { html, svg, update } from "./dom.js";
import { clock, mark } from "./format.js";

const HEIGHT = 150;
const MARGIN = { left: 46, right: 10, top: 18, bottom: 20 };
const SHORTEST_S = 10;
const ROOM_OF_A_TIME = 64;
const ROOM_OF_A_PHASE = 18;
const MARKS_OF_A_SCALE = 4;
const TIME_STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400];

/**
 * Charts by their descriptions: {title, unit, format, lines: [{name, key}], top, optional}.
 *
 * `key` names an array of the series; `top` fixes the upper end of the scale; an optional chart is hidden while
 * there is nothing to show.
 */
export class Charts {
  #charts;
  #data = { series: { t_s: [] }, phases: [] };
  #pointed = null;

  constructor(descriptions) {
    const point = (chart, at_s) => this.#point(chart, at_s);
    this.#charts = descriptions.map((description) => new Chart(description, point));
    this.element = html("div", { class: "charts" }, ...this.#charts.map((chart) => chart.element));
    new ResizeObserver(() => this.#redraw()).observe(this.element);
  }

  /** Show the series (arrays as long as `t_s`) and where phases began. */
  draw(series, phases) {
    this.#data = { series, phases };
    this.#redraw();
  }

  #redraw() {
    if (!this.element.clientWidth) return;
    for (const chart of this.#charts) chart.draw(this.#data);
    this.#showPointed();
  }

  #point(chart, at_s) {
    this.#pointed = at_s === null ? null : { chart, at_s };
    this.#showPointed();
  }

  #showPointed() {
    const times = this.#data.series.t_s;
    const index = this.#pointed && times.length ? nearest(times, this.#pointed.at_s) : null;
    for (const chart of this.#charts) chart.showAt(index, chart === this.#pointed?.chart);
  }
}

class Chart {
  #description;
  #data;
  #scales;
  #plot = svg("g", { class: "plot" });
  #cursor = svg("g", { class: "cursor" });
  #legend = html("p", { class: "legend" });
  #unit = html("small");
  #picture = svg("svg", { role: "img", height: HEIGHT }, this.#plot, this.#cursor);

  constructor(description, point) {
    this.#description = description;
    const title = html("h4", {}, description.title, " ", this.#unit);
    this.element = html("figure", {}, title, this.#legend, this.#picture);
    this.#picture.addEventListener("pointermove", ({ clientX }) => {
      point(this, this.#scales.time(clientX - this.#picture.getBoundingClientRect().left));
    });
    this.#picture.addEventListener("pointerleave", () => point(this, null));
  }

  draw(data) {
    this.#data = data;
    const lines = this.#description.lines.map(({ key }) => data.series[key] ?? []);
    const highest = lines.flat().reduce((most, value) => Math.max(most, value ?? -1), -1);
    this.element.hidden = highest < 0 && Boolean(this.#description.optional);
    if (this.element.hidden) return;
    const width = this.element.clientWidth;
    this.#scales = scalesOf(width, data.series, this.#description.top ?? highest, this.#description.unit);
    this.#unit.textContent = this.#scales.unit;
    this.#picture.setAttribute("width", width);
    const nothing = highest < 0 ? [text("nothing to show yet", width / 2, HEIGHT / 2, "middle")] : [];
    const paths = lines.map((values, line) => pathOf(values, data.series.t_s, this.#scales, line));
    update(
      this.#plot,
      axisOfValues(this.#scales),
      axisOfTime(this.#scales),
      marksOf(data.phases, this.#scales),
      paths,
      nothing,
    );
  }

  /** The values at an index of the series and there a crosshair, `labelled` or not; for null the last values. */
  showAt(index, labelled) {
    if (this.element.hidden) return;
    const { series } = this.#data;
    const columns = this.#description.lines.map(({ key }) => series[key] ?? []);
    const values = columns.map((column) => (index === null ? lastKnown(column) : (column[index] ?? null)));
    this.#writeLegend(values, index === null ? "last" : `at ${clock(series.t_s[index])}`);
    update(this.#cursor, index === null ? [] : cursorAt(series.t_s[index], values, this.#scales));
    if (index !== null && labelled) this.#cursor.append(this.#labelOf(series.t_s[index]));
  }

  #writeLegend(values, when) {
    const { factor, unit } = this.#scales;
    const said = values.map((value) => this.#description.format(value === null ? null : value * factor));
    const entries = this.#description.lines.map(({ name }, line) => [
      html("span", {}, swatch(line), `${name} `, html("b", {}, said[line])),
      " ",
    ]);
    update(this.#legend, ...entries);
    const words = this.#description.lines.map(({ name }, line) => `${name} ${said[line]}`).join(", ");
    const title = unit ? `${this.#description.title}, ${unit}` : this.#description.title;
    this.#picture.setAttribute("aria-label", `${title}, ${when}: ${words}`);
  }

  #labelOf(at_s) {
    const x = this.#scales.x(at_s);
    const phase = this.#data.phases.findLast((candidate) => candidate.at_s <= at_s);
    const words = phase?.title ? `${clock(at_s)} · ${phase.number}: ${phase.title}` : clock(at_s);
    const onTheLeft = x > this.#scales.width / 2;
    return text(words, onTheLeft ? x - 4 : x + 4, MARGIN.top - 6, onTheLeft ? "end" : "start");
  }
}

function scalesOf(width, series, highest, unit) {
  const inSeconds = unit === "ms" && highest >= 10000;
  const factor = inSeconds ? 0.001 : 1;
  const step = niceStep((highest > 0 ? highest * factor : 1) / MARKS_OF_A_SCALE);
  const top = step * Math.max(1, Math.ceil((highest * factor) / step - 1e-9));
  const end_s = Math.max(SHORTEST_S, series.t_s.at(-1) ?? 0);
  const wide = Math.max(1, width - MARGIN.left - MARGIN.right);
  const high = HEIGHT - MARGIN.top - MARGIN.bottom;
  return {
    width,
    top,
    step,
    factor,
    end_s,
    unit: inSeconds ? "s" : unit,
    x: (at_s) => MARGIN.left + (wide * at_s) / end_s,
    y: (value) => MARGIN.top + high * (1 - Math.min(1, (value * factor) / top)),
    time: (x) => Math.min(end_s, Math.max(0, ((x - MARGIN.left) / wide) * end_s)),
  };
}

/** The least of 1, 2, 5, 10, 20, ... (and 0.5, 0.2, ...) that is not below `least`. */
function niceStep(least) {
  const decade = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((digit) => digit * decade).find((step) => step >= least * (1 - 1e-9));
}

function axisOfValues(scales) {
  const many = Math.round(scales.top / scales.step);
  return Array.from({ length: many + 1 }, (_, number) => {
    const value = number * scales.step;
    const y = scales.y(value / scales.factor);
    const words = text(mark(value, scales.step), MARGIN.left - 6, y + 4, "end");
    return svg("g", {}, line(MARGIN.left, y, scales.width - MARGIN.right, y, "grid"), words);
  });
}

function axisOfTime(scales) {
  const most = Math.max(1, Math.floor((scales.width - MARGIN.left - MARGIN.right) / ROOM_OF_A_TIME));
  const last = TIME_STEPS_S.at(-1);
  const step_s =
    TIME_STEPS_S.find((step) => scales.end_s / step <= most) ?? last * Math.ceil(scales.end_s / last / most);
  const marks = [];
  for (let at_s = 0; at_s <= scales.end_s; at_s += step_s) {
    const x = Math.min(scales.x(at_s), scales.width - ROOM_OF_A_TIME / 4);
    marks.push(text(clock(at_s), x, HEIGHT - 5, "middle"));
  }
  return marks;
}

/** A thin line where each of several phases began, with its number where there is room for one. */
function marksOf(phases, scales) {
  if (phases.length < 2) return [];
  let free = -Infinity;
  return phases
    .filter(({ at_s }) => at_s <= scales.end_s)
    .map(({ number, title, at_s }) => {
      const x = scales.x(at_s);
      const mark = svg("g", { class: "phase" }, svg("title", {}, `${number}: ${title}`));
      mark.append(line(x, MARGIN.top, x, HEIGHT - MARGIN.bottom));
      if (x >= free) {
        mark.append(text(String(number), x, MARGIN.top - 6, "middle"));
        free = x + ROOM_OF_A_PHASE;
      }
      return mark;
    });
}

/** A line through what is known. A point alone between gaps is a dot: a stroke of no length with round ends. */
function pathOf(values, times, scales, number) {
  let joined = false;
  const steps = values.map((value, index) => {
    if (value === null || value === undefined) {
      joined = false;
      return "";
    }
    const where = `${scales.x(times[index]).toFixed(1)} ${scales.y(value).toFixed(1)}`;
    const step = joined ? `L${where}` : `M${where}h0`;
    joined = true;
    return step;
  });
  return svg("path", { class: `line line-${number}`, d: steps.join("") });
}

function cursorAt(at_s, values, scales) {
  const x = scales.x(at_s);
  const known = values.map((value, number) => ({ value, number })).filter(({ value }) => value !== null);
  const dots = known.map(({ value, number }) =>
    svg("circle", { class: `dot-${number}`, cx: x, cy: scales.y(value), r: 3 }),
  );
  return [line(x, MARGIN.top, x, HEIGHT - MARGIN.bottom), ...dots];
}

/** The last value that is not null; null without one. */
function lastKnown(values) {
  return values.findLast((value) => value !== null) ?? null;
}

/** The index of the time that is nearest to `at_s`; times ascend. */
function nearest(times, at_s) {
  const after = times.findIndex((time) => time >= at_s);
  if (after <= 0) return after === 0 ? 0 : times.length - 1;
  return at_s - times[after - 1] < times[after] - at_s ? after - 1 : after;
}

function swatch(number) {
  const sample = svg("path", { class: `line line-${number}`, d: "M1 5h20" });
  return svg("svg", { width: 22, height: 10, "aria-hidden": "true" }, sample);
}

function line(x1, y1, x2, y2, name = null) {
  return svg("line", { class: name, x1, y1, x2, y2 });
}

function text(words, x, y, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, words);
}
