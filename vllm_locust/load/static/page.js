// The page of the tab: one live view, drawn from top to bottom.
// Rule: it knows nothing of Locust, nor of where views come from.

import { Charts } from "./charts.js";
import { html, update } from "./dom.js";
import { clock, count, gibibytes, number, percent } from "./format.js";

const VERDICTS = {
  valid: { sign: "✓", words: "The measurement is valid" },
  degraded: { sign: "!", words: "The measurement is degraded" },
  invalid: { sign: "✕", words: "The measurement is invalid" },
};
const STATES = { running: "running", ending: "the last requests are being answered", done: "done" };
const FAMILIES = [
  { key: "ttft", name: "TTFT", words: "time to the first token" },
  { key: "tpot", name: "TPOT", words: "time per token after the first" },
  { key: "itl", name: "ITL", words: "time between tokens" },
  { key: "e2el", name: "E2EL", words: "time to the last token" },
];
const COLUMNS = ["mean", "p50", "p90", "p99"];
const TOO_FEW = "too few samples for this percentile";
const CHARTS = [
  {
    title: "TTFT",
    unit: "ms",
    format: number,
    lines: [
      { name: "p50", key: "ttft_p50_ms" },
      { name: "p99", key: "ttft_p99_ms" },
    ],
  },
  {
    title: "ITL",
    unit: "ms",
    format: number,
    lines: [
      { name: "p50", key: "itl_p50_ms" },
      { name: "p99", key: "itl_p99_ms" },
    ],
  },
  {
    title: "Output",
    unit: "tokens/s",
    format: number,
    lines: [
      { name: "received", key: "output_tokens_per_s" },
      { name: "server", key: "server_generation_tokens_per_s" },
    ],
  },
  {
    title: "Requests",
    unit: "1/s",
    format: number,
    lines: [
      { name: "ended", key: "requests_per_s" },
      { name: "failed", key: "failed_per_s" },
    ],
  },
  {
    title: "Load",
    unit: "",
    format: count,
    lines: [
      { name: "users", key: "users" },
      { name: "requests in flight", key: "in_flight" },
    ],
  },
  {
    title: "Server's requests",
    unit: "",
    format: count,
    optional: true,
    lines: [
      { name: "running", key: "server_running" },
      { name: "waiting", key: "server_waiting" },
    ],
  },
  {
    title: "Server's KV cache in use",
    unit: "%",
    format: number,
    optional: true,
    top: 100,
    lines: [{ name: "fullest engine", key: "server_kv_percent" }],
  },
];

/** The element of the page, and how to show a view on it. */
export class Page {
  #notice = html("p", { class: "notice", role: "status" });
  #head = html("div");
  #downloads = html("nav", { class: "downloads", "aria-label": "Downloads" });
  #latencies = html("div");
  #failures = html("div");
  #server = html("div");
  #charts = new Charts(CHARTS);
  #overTime = html("section", {}, html("h3", {}, "Over time"), this.#charts.element);

  constructor() {
    const title = html("h2", { class: "unseen" }, "LLM");
    const parts = [
      this.#head,
      this.#downloads,
      this.#latencies,
      this.#failures,
      this.#overTime,
      this.#server,
    ];
    this.element = html("section", { id: "vllm-locust", "aria-label": "LLM" }, title, this.#notice, ...parts);
    this.notify("Waiting for the first numbers.");
  }

  /** A line above everything, or "" for none. */
  notify(words) {
    if (this.#notice.textContent !== words) this.#notice.textContent = words;
    this.#notice.hidden = !words;
  }

  /** Show a live view. */
  draw(view) {
    update(this.#head, view.run ? [verdict(view.verdict), runLine(view), tiles(view)] : []);
    update(this.#downloads, downloads(view));
    update(this.#latencies, latencies(view.table));
    update(this.#failures, failures(view.requests.failures));
    update(this.#server, view.server.length ? servers(view.server) : []);
    this.#overTime.hidden = !view.run;
    if (view.run) this.#charts.draw(inPercent(view.series), view.phases);
  }
}

function inPercent(series) {
  const ratios = series.server_kv_usage ?? [];
  return { ...series, server_kv_percent: ratios.map((ratio) => (ratio === null ? null : 100 * ratio)) };
}

function verdict(given) {
  if (given === null)
    return html("div", { class: "verdict" }, html("p", {}, "No verdict yet: nothing is measured."));
  const { sign, words } = VERDICTS[given.verdict] ?? { sign: "?", words: given.verdict };
  const useless = FAMILIES.filter(({ key }) => given.metrics[key] === "invalid").map(({ name }) => name);
  const badge = html("span", { class: "sign", "aria-hidden": "true" }, sign);
  const reasons = given.reasons.map((reason) => html("li", {}, reason));
  const notes = [...given.load.reasons, ...given.remarks].map((note) => html("li", {}, note));
  return html(
    "div",
    { class: `verdict ${given.verdict in VERDICTS ? given.verdict : ""}` },
    html("p", { class: "words" }, badge, html("strong", {}, words + (useless.length ? `: do not use ${useless.join(", ")}` : ""))),
    reasons.length ? html("ul", {}, reasons) : null,
    html("p", {}, bounds(given)),
    given.load.verdict === "valid" ? null : html("p", {}, html("strong", {}, "The load is not as planned")),
    notes.length ? html("ul", {}, notes) : null,
    html("p", { class: "aside" }, ofTheClient(given)),
  );
}

function bounds({ ttft_bound_p99_ms: ttft, itl_bound_p99_ms: itl }) {
  const parts = [];
  if (ttft !== null) parts.push(`TTFT too large by at most ${number(ttft)} ms`);
  if (itl !== null) parts.push(`ITL off by at most ${number(itl)} ms`);
  return parts.length
    ? `${parts.join(", ")}, for 99 % of them.`
    : "How far the latencies may be off is not known yet.";
}

function ofTheClient(given) {
  const parts = [];
  if (given.lag_p99_ms !== null) parts.push(`reads ${number(given.lag_p99_ms)} ms late (p99)`);
  if (given.send_lateness_p99_ms !== null)
    parts.push(`sends ${number(given.send_lateness_p99_ms)} ms late (p99)`);
  const [busiest] = Object.entries(given.cpu_shares).sort(([, one], [, other]) => other - one);
  if (busiest) parts.push(`needs ${percent(busiest[1])} of a core at most (${busiest[0]})`);
  return parts.length ? `This client ${parts.join(", ")}.` : "";
}

function runLine({ run }) {
  const state = STATES[run.state] ?? run.state;
  return html(
    "p",
    { class: "run" },
    html("strong", {}, run.scenario || "own tasks"),
    " on ",
    html("strong", {}, run.model),
    ` at ${run.host}: `,
    html("span", { class: "state" }, state),
  );
}

function tiles({ run, load, requests, rates }) {
  const shown = [
    load.phase ? tile("Phase", phaseTitle(load.phase), "wide") : null,
    tile("Elapsed", clock(run.elapsed_s)),
    tile("Users", count(load.users)),
    tile("In flight", count(load.in_flight)),
    load.request_rate_target === null ? null : tile("Wanted requests/s", number(load.request_rate_target)),
    tile("Requests ok", count(requests.ok)),
    tile("Failed", count(requests.failed), requests.failed ? "bad" : null),
    tile("Dropped", count(requests.dropped), requests.dropped ? "bad" : null),
    tile("Requests/s", number(rates.request_throughput)),
    tile("Output tokens/s", number(rates.output_throughput)),
    rates.request_goodput === null ? null : tile("Good requests/s", number(rates.request_goodput)),
  ];
  return html("dl", { class: "tiles" }, shown);
}

function tile(name, value, kind = null) {
  return html("div", { class: kind }, html("dt", {}, name), html("dd", {}, value));
}

function phaseTitle({ number: nth, of, title }) {
  if (of === 1) return title;
  return of === null ? `step ${nth}: ${title}` : `step ${nth} of ${of}: ${title}`;
}

function downloads({ run, exporter, problem }) {
  const metrics = exporter ? link(asReached(exporter), "Prometheus metrics") : null;
  if (!run) return [metrics];
  const summary =
    run.state === "done" || problem ? link("./vllm-locust/summary.json", "summary.json") : soon("summary.json");
  const requests = link("./vllm-locust/requests.jsonl", "requests.jsonl");
  return [summary, requests, metrics];
}

/** An exporter that listens to every address is found at the one by which this page was. */
function asReached(exporter) {
  return exporter.replace(/\/\/(0\.0\.0\.0|\[::\])(?=:)/, `//${location.hostname}`);
}

function link(address, words) {
  const safe = /^(https?:|\.\/)/.test(address) ? address : null;
  return html("a", { class: "button", href: safe, target: "_blank", rel: "noopener" }, words);
}

function soon(words) {
  const why = "When the run is over";
  return html("a", { class: "button", role: "link", "aria-disabled": "true", title: why }, words);
}

function latencies(rows) {
  if (!rows.length) return [];
  const starred = rows.some((row) => FAMILIES.some(({ key }) => row[key].uncertain.length));
  const caption = `Latencies of answered requests in ms.${starred ? ` * = ${TOO_FEW}.` : ""}`;
  return [
    html("h3", {}, "Latencies"),
    html(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Latencies" },
      html("table", {}, html("caption", {}, caption), headings(), html("tbody", {}, rows.map(rowOf))),
    ),
  ];
}

function headings() {
  const groups = FAMILIES.map(({ name, words }) =>
    html(
      "th",
      { scope: "colgroup", colspan: COLUMNS.length + 1, class: "first" },
      html("abbr", { title: words }, name),
    ),
  );
  const columns = FAMILIES.flatMap(() =>
    ["count", ...COLUMNS].map((name, index) =>
      html("th", { scope: "col", class: index ? null : "first" }, name),
    ),
  );
  const names = ["Profile", "ok", "failed"].map((name) => html("th", { scope: "col", rowspan: 2 }, name));
  return html("thead", {}, html("tr", {}, names, groups), html("tr", {}, columns));
}

function rowOf(row) {
  const cells = FAMILIES.flatMap(({ key }) => [
    html("td", { class: "first" }, count(row[key].count)),
    ...COLUMNS.map((name) => latency(row[key], name)),
  ]);
  const failed = html("td", { class: row.failed ? "bad" : null }, count(row.failed));
  return html(
    "tr",
    {},
    html("th", { scope: "row", title: row.profile }, row.profile),
    html("td", {}, count(row.completed)),
    failed,
    cells,
  );
}

function latency(family, name) {
  const value = family[`${name}_ms`];
  const star = family.uncertain.includes(name) && value !== null;
  return html("td", {}, number(value), star ? html("abbr", { class: "star", title: TOO_FEW }, "*") : null);
}

function failures(kinds) {
  const entries = Object.entries(kinds).sort(([, one], [, other]) => other - one);
  if (!entries.length) return [];
  const rows = entries.map(([kind, many]) =>
    html("tr", {}, html("th", { scope: "row", title: kind }, kind), html("td", {}, count(many))),
  );
  const head = html("tr", {}, html("th", { scope: "col" }, "Kind"), html("th", { scope: "col" }, "Requests"));
  return [
    html("h3", {}, "Failures"),
    html(
      "div",
      { class: "scroll" },
      html("table", { class: "narrow" }, html("thead", {}, head), html("tbody", {}, rows)),
    ),
  ];
}

function servers(sources) {
  return [html("h3", {}, "Server"), html("div", { class: "servers" }, sources.map(server))];
}

function server(source) {
  const state = source.up ? "✓ up" : "✕ down";
  const title = html(
    "h4",
    {},
    source.source,
    " ",
    html("span", { class: source.up ? "good" : "bad" }, state),
  );
  const facts = [
    ["Engines", source.engines ? count(source.engines) : null],
    ["Running", ifKnown(source.running, count)],
    ["Waiting", ifKnown(source.waiting, count)],
    ["KV cache in use", ifKnown(source.kv_cache_usage, percent)],
    ["Preemptions", ifKnown(source.preemptions, count)],
    ["Prefix cache hits", ifKnown(source.prefix_cache_hit_ratio, percent)],
    ...source.gpus.map((gpu) => [`GPU ${gpu.gpu}`, gpuLine(gpu)]),
  ].filter(([, value]) => value !== null);
  const problem = source.problem ? html("p", { class: "bad" }, source.problem) : null;
  const list = html(
    "dl",
    {},
    facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))),
  );
  return html("article", { class: "server" }, title, problem, facts.length ? list : null);
}

const ifKnown = (value, format) => (value === null || value === undefined ? null : format(value));

function gpuLine(gpu) {
  const parts = [];
  if (gpu.utilization_ratio !== null) parts.push(`${percent(gpu.utilization_ratio)} busy`);
  if (gpu.memory_used_bytes !== null)
    parts.push(`${gibibytes(gpu.memory_used_bytes)} of ${gibibytes(gpu.memory_total_bytes)} GiB`);
  return parts.join(", ") || "n/a";
}
