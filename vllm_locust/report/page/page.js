// Draws each chart when it comes near the viewport, in the colours of the style sheet, and draws it anew when
// the light changes. Charts with the same `link` have one x axis: who zooms one zooms all.
(() => {
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const drawn = new Map();
  const ranges = new Map();
  let busy = false;

  const variable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function colour(word) {
    const [name, alpha] = word.split("/");
    const hex = variable(name);
    if (!alpha) return hex;
    const part = at => parseInt(hex.slice(at, at + 2), 16);
    return `rgba(${part(1)},${part(3)},${part(5)},${alpha})`;
  }

  function coloured(value, key) {
    if (Array.isArray(value)) return value.map(one => coloured(one));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, coloured(one, name)]));
    const isColour = (key === "color" || key === "fillcolor") && typeof value === "string";
    return isColour && value.startsWith("--") ? colour(value) : value;
  }

  // Plotly labels the steps of a logarithmic axis with their last digit only: these say all of it. Within one
  // octave or two they are evenly apart, as there would be too few others.
  function logTicks(chart, letter) {
    const own = chart.layout[letter + "axis"];
    if (own.type !== "log" || own.tickvals) return own;
    const values = chart.traces.flatMap(trace => trace[letter]).filter(value => value > 0);
    const least = Math.min(...values), most = Math.max(...values);
    const low = Math.floor(Math.log10(least)), high = Math.ceil(Math.log10(most));
    const steps = high - low < 2 ? [1, 1.5, 2, 3, 5, 7] : high - low < 4 ? [1, 2, 5] : [1];
    const tickvals = [];
    if (most < 4 * least) {
      const raw = (most - least) / 5 || least, size = 10 ** Math.floor(Math.log10(raw));
      const step = [1, 2, 5, 10].map(one => one * size).find(one => one >= raw);
      for (let at = Math.max(1, Math.floor(least / step) - 3); at * step <= most + 3 * step; at++)
        tickvals.push(Number((at * step).toPrecision(4)));
    } else
      for (let decade = low - 1; decade <= high; decade++)
        for (const step of steps) tickvals.push(Number((step * 10 ** decade).toPrecision(3)));
    return { ...own, tickvals, ticktext: tickvals.map(value => value.toLocaleString("en")) };
  }

  function axis(own) {
    const lines = { gridcolor: variable("--grid"), linecolor: variable("--rule"), zerolinecolor: variable("--rule") };
    const title = { text: own.title, standoff: 6, font: { size: 12 } };
    return { automargin: true, separatethousands: true, ...lines, ...own, title };
  }

  function layout(chart, narrow) {
    const own = coloured({ ...chart.layout, xaxis: logTicks(chart, "x"), yaxis: logTicks(chart, "y") });
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { family: "system-ui, sans-serif", size: 12, color: variable("--soft") },
      margin: { l: narrow ? 44 : 60, r: 14, t: own.annotations?.length && !narrow ? 20 : 8, b: 30 },
      legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", font: { size: 12 },
        itemwidth: 30, tracegroupgap: 2 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--muted"), activecolor: variable("--link"),
        orientation: "h" },
      hovermode: "x unified", dragmode: narrow ? false : "zoom",
      hoverlabel: { bgcolor: variable("--card"), bordercolor: variable("--rule"), font: { color: variable("--text") } },
    };
    if (narrow) own.annotations = [];
    const x = axis(own.xaxis);
    if (ranges.has(chart.link)) x.range = ranges.get(chart.link);
    return { ...base, ...own, xaxis: x, yaxis: axis(own.yaxis) };
  }

  function draw(place) {
    const chart = charts[place.dataset.chart];
    if (chart.requests) return drawRequests(place, chart);
    const narrow = place.clientWidth < 480;
    const options = {
      responsive: true, displaylogo: false, doubleClick: "reset", showSendToCloud: false,
      modeBarButtons: [["toImage", "pan2d", "zoom2d", "resetScale2d"]], displayModeBar: !narrow,
    };
    const done = Plotly.react(place, coloured(chart.traces), layout(chart, narrow), options);
    if (!drawn.has(place)) {
      drawn.set(place, range => Plotly.relayout(place, { "xaxis.range": [...range] }));
      if (chart.link) done.then(() => place.on("plotly_relayout", change => relaid(place, chart, change)));
    }
    return done;
  }

  function drawRequests(place, chart) {
    if (!place.view) {
      place.view = waterfall(place, chart, variable, range => follow(place, chart, range));
      drawn.set(place, place.view.show);
      if (ranges.has(chart.link)) place.view.show(ranges.get(chart.link));
    }
    place.view.draw();
  }

  function relaid(place, chart, change) {
    if (busy) return;
    const zoomed = "xaxis.range[0]" in change;
    if (!zoomed && !("xaxis.range" in change) && !change["xaxis.autorange"]) return;
    follow(place, chart, zoomed ? [change["xaxis.range[0]"], change["xaxis.range[1]"]]
      : change["xaxis.range"] ?? chart.layout.xaxis.range);
  }

  async function follow(from, chart, range) {
    ranges.set(chart.link, range);
    if (busy) return;
    busy = true;
    const others = [...drawn].filter(([one]) => one !== from && charts[one.dataset.chart].link === chart.link);
    let shown;
    do {
      shown = ranges.get(chart.link);
      await Promise.all(others.map(([, show]) => show(shown)));
    } while (shown !== ranges.get(chart.link));
    busy = false;
  }

  const shown = place => !place.closest("details:not([open])");
  const near = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) {
        near.unobserve(target);
        draw(target);
      }
  }, { rootMargin: "600px 0px" });
  places.forEach(place => near.observe(place));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...drawn.keys()].forEach(draw));
  addEventListener("beforeprint", () => places.filter(shown).forEach(draw));
})();
