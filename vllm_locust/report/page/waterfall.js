"use strict";
// Requests as bars in lanes, on a canvas: thousands of them follow the hand without delay.
// Drag to zoom, drag with shift to move, double-click to go back; the buttons do the same for fingers and keys.
function waterfall(place, chart, variable, zoomed) {
  const shown = chart.requests, count = shown.lane.length;
  const left = 44, bottom = 26, top = 40;
  const whole = { x: [...chart.range], y: [0, Math.max(shown.lanes, 1)] };
  let view = { x: [...whole.x], y: [...whole.y] };
  let drag = null;

  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const bar = document.createElement("div");
  bar.className = "tools";
  place.replaceChildren(canvas, tip, bar);
  for (const [sign, name, act] of [
    ["+", "closer", () => scaled(.5)], ["−", "farther", () => scaled(2)],
    ["‹", "earlier", () => moved(-.5)], ["›", "later", () => moved(.5)], ["all", "all of the run", back],
  ]) {
    const button = document.createElement("button");
    button.textContent = sign;
    button.ariaLabel = button.title = name;
    button.onclick = act;
    bar.append(button);
  }

  const width = () => place.clientWidth - left - 8, height = () => place.clientHeight - bottom - top;
  const toX = s => left + (s - view.x[0]) / (view.x[1] - view.x[0]) * width();
  const toY = lane => top + (lane - view.y[0]) / (view.y[1] - view.y[0]) * height();
  const fromX = px => view.x[0] + (px - left) / width() * (view.x[1] - view.x[0]);
  const fromY = px => view.y[0] + (px - top) / height() * (view.y[1] - view.y[0]);

  function steps(low, high, most) {
    const raw = (high - low) / most, size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(one => one * size).find(one => one >= raw);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) ticks.push(at * step + 0);
    return { ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  function draw() {
    const dense = devicePixelRatio || 1, wide = place.clientWidth, high = place.clientHeight;
    if (!wide) return;
    canvas.width = wide * dense;
    canvas.height = high * dense;
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    pen.font = "12px system-ui, sans-serif";
    axes(pen, wide);
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, width(), top + height());
    pen.clip();
    bars(pen);
    if (drag?.to && !drag.moves) {
      pen.fillStyle = variable("--link") + "33";
      const tall = Math.abs(drag.to[1] - drag.from[1]) > 12;
      const y = tall ? Math.min(drag.from[1], drag.to[1]) : top;
      pen.fillRect(Math.min(drag.from[0], drag.to[0]), y, Math.abs(drag.to[0] - drag.from[0]),
        tall ? Math.abs(drag.to[1] - drag.from[1]) : height());
    }
    pen.restore();
  }

  // One colour after the other: to change it for every bar costs more than the bars.
  function bars(pen) {
    const thick = height() / (view.y[1] - view.y[0]), gap = thick > 4 ? 1 : 0, tall = Math.max(thick - gap, .5);
    const scale = width() / (view.x[1] - view.x[0]), zero = left - view.x[0] * scale;
    const seen = [];
    for (let i = 0; i < count; i++) {
      const lane = shown.lane[i], last = shown.ended[i] ?? shown.sent[i] ?? shown.due[i];
      const outside = lane >= 0 && (lane + 1 < view.y[0] || lane > view.y[1]);
      if (!outside && last >= view.x[0] && shown.due[i] <= view.x[1]) seen.push(i);
    }
    const part = (i, from, to, least) => {
      const x = zero + from * scale;
      pen.fillRect(x, toY(shown.lane[i]) + gap / 2, Math.max(zero + to * scale - x, least), tall);
    };
    const passes = {
      "--muted": i => (shown.sent[i] - shown.due[i]) * scale > .5 && part(i, shown.due[i], shown.sent[i], 0),
      "--c1": i => shown.first[i] !== null && part(i, shown.sent[i], shown.first[i], .3),
      "--c0": i => shown.first[i] !== null && part(i, shown.first[i], shown.ended[i], 0),
      "--bad": i => {
        if (shown.lane[i] < 0) pen.fillRect(zero + shown.due[i] * scale - .75, top - 10, 1.5, 8);
        else if (shown.first[i] === null) part(i, shown.sent[i], shown.ended[i] ?? shown.sent[i], 1);
      },
    };
    for (const [name, pass] of Object.entries(passes)) {
      pen.fillStyle = variable(name);
      for (const i of seen) pass(i);
    }
  }

  function axes(pen, wide) {
    pen.strokeStyle = variable("--grid");
    pen.fillStyle = variable("--soft");
    pen.lineWidth = 1;
    const x = steps(...view.x, Math.max(wide / 110, 2)), y = steps(...view.y, 6);
    pen.textAlign = "center";
    for (const s of x.ticks) {
      line(pen, toX(s), top, toX(s), top + height());
      const digits = { minimumFractionDigits: x.digits, maximumFractionDigits: x.digits };
      pen.fillText(`${s.toLocaleString("en", digits)} s`, Math.min(toX(s), wide - 18), top + height() + 17);
    }
    pen.textAlign = "right";
    for (const lane of y.ticks.filter(Number.isInteger)) {
      line(pen, left, toY(lane), wide - 8, toY(lane));
      pen.fillText(lane.toLocaleString("en"), left - 6, toY(lane) + 4);
    }
  }

  function line(pen, ...ends) {
    pen.beginPath();
    pen.moveTo(ends[0], ends[1]);
    pen.lineTo(ends[2], ends[3]);
    pen.stroke();
  }

  const at = i => ({
    lane: shown.lane[i], due: shown.due[i], sent: shown.sent[i], first: shown.first[i], ended: shown.ended[i],
  });

  function go(x, y = view.y, tell = true) {
    const least = 1e-3, middle = (x[0] + x[1]) / 2, half = Math.max((x[1] - x[0]) / 2, least / 2);
    const size = Math.min(2 * half, whole.x[1] - whole.x[0]);
    const from = Math.min(Math.max(middle - size / 2, whole.x[0]), whole.x[1] - size);
    view = { x: [from, from + size], y: [Math.max(y[0], 0), Math.min(y[1], whole.y[1])] };
    if (tell) zoomed([...view.x]);
    requestAnimationFrame(draw);
  }
  function scaled(by, around = (view.x[0] + view.x[1]) / 2) {
    go(view.x.map(end => around + (end - around) * by));
  }
  function moved(by) {
    const size = view.x[1] - view.x[0];
    go(view.x.map(end => end + by * size));
  }
  function back() {
    go(whole.x, whole.y);
  }

  function under(px, py) {
    const lane = py < top ? -1 : Math.floor(fromY(py)), near = 4 * (view.x[1] - view.x[0]) / width(), s = fromX(px);
    let best = -1, distance = near;
    for (let i = 0; i < count; i++) {
      if (shown.lane[i] !== lane) continue;
      const far = Math.max(shown.due[i] - s, s - (shown.ended[i] ?? shown.sent[i] ?? shown.due[i]), 0);
      if (far < distance) [best, distance] = [i, far];
    }
    return best;
  }

  function tell(event) {
    const i = drag ? -1 : under(event.offsetX, event.offsetY);
    tip.hidden = i < 0;
    if (i < 0) return;
    const { due, sent, first, ended } = at(i), [profile, outcome] = shown.words[shown.about[i]];
    const ms = (from, to) => `${((to - from) * 1000).toLocaleString("en", { maximumFractionDigits: 1 })} ms`;
    const lines = [`request ${shown.index[i] ?? ""}: ${profile}, ${outcome}`, `due at ${due} s`];
    if (sent !== null && sent > due) lines.push(`sent ${ms(due, sent)} late`);
    if (first !== null) lines.push(`first token after ${ms(sent, first)}`);
    if (ended !== null) lines.push(`ended after ${ms(sent, ended)}`);
    tip.textContent = lines.join("\n");
    tip.style.left = `${Math.max(Math.min(event.offsetX + 12, place.clientWidth - tip.offsetWidth - 4), 0)}px`;
    tip.style.top = `${event.offsetY + 14}px`;
  }

  canvas.onpointerdown = event => {
    if (event.pointerType === "touch") return tell(event);
    drag = { from: [event.offsetX, event.offsetY], moves: event.shiftKey, x: view.x, y: view.y };
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = event => {
    tell(event);
    if (!drag) return;
    drag.to = [event.offsetX, event.offsetY];
    const by = (drag.from[0] - drag.to[0]) / width() * (drag.x[1] - drag.x[0]);
    if (drag.moves) go(drag.x.map(end => end + by));
    else requestAnimationFrame(draw);
  };
  canvas.onpointerup = () => {
    const done = drag;
    drag = null;
    if (!done?.to || done.moves) return;
    const [x, y] = [0, 1].map(way => [done.from[way], done.to[way]].sort((a, b) => a - b));
    if (x[1] - x[0] < 5) return requestAnimationFrame(draw);
    go(x.map(fromX), y[1] - y[0] > 12 ? y.map(fromY) : view.y);
  };
  canvas.onpointerleave = () => { tip.hidden = true; };
  canvas.ondblclick = back;
  canvas.onkeydown = event => {
    const act = { "+": () => scaled(.5), "-": () => scaled(2), ArrowLeft: () => moved(-.2),
      ArrowRight: () => moved(.2), Escape: back }[event.key];
    if (!act) return;
    act();
    event.preventDefault();
  };
  canvas.addEventListener("wheel", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    scaled(event.deltaY > 0 ? 1.2 : 1 / 1.2, fromX(event.offsetX));
  }, { passive: false });
  new ResizeObserver(draw).observe(place);
  return { draw, show: x => go(x, view.y, false) };
}
