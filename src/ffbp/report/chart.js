"use strict";
// A line chart in an svg element: curves with bands, on linear or logarithmic axes, and the values under the mouse.

// an element with attributes, and with children, of which texts stay texts
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SVG = document.querySelector("svg").namespaceURI;

function draw(tag, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

// dashes that tell apart what has the same colour
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

function short(number) {
  if (number === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(number)));
  return String(Number(number.toFixed(Math.min(6, Math.max(0, 2 - size)))));
}

// round numbers between two others: about `count` of them, or 1, 2 and 5 of each power of ten on a logarithmic axis
function ticks(low, high, logarithmic, count) {
  const found = [];
  if (logarithmic && high / low > 4) {
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const digit of high / low > 3000 ? [1] : [1, 2, 5]) {
        const value = Number((digit * 10 ** power).toPrecision(3));
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    }
    return found;
  }
  const rough = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((digit) => digit * unit >= rough);
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(Number((n * step).toPrecision(10)));
  return found;
}

// Each of `series` has x, y, deviation (arrays), color, dash (numbers), and label; `axes` has x and y (titles), logX, logY,
// wholeX, low and high of y where they are fixed, and show, which makes a text of a y.
function lineChart(svg, series, axes) {
  const figure = svg.parentNode;
  figure.querySelectorAll(".tip").forEach((tip) => tip.remove());
  svg.replaceChildren();
  svg.onpointermove = svg.onpointerleave = null;
  const { width, height } = svg.getBoundingClientRect();
  series = series.filter((part) => part.x.length);
  if (!series.length || !width) {
    svg.append(draw("text", { x: 50, y: 40 }, "nothing was measured, or chosen"));
    return;
  }
  const every = (of) => series.flatMap(of).filter((value) => Number.isFinite(value) && (value > 0 || !axes.logY));
  const xs = series.flatMap((part) => part.x).filter((value) => value > 0 || !axes.logX);
  const ys = every((part) => part.y);
  if (!ys.length || !xs.length) return;
  const x = { low: Math.min(...xs), high: Math.max(...xs), log: axes.logX, from: 52, to: width - 14 };
  const y = { low: axes.low ?? Math.min(...ys), high: axes.high ?? Math.max(...ys), log: axes.logY, from: height - 42, to: 12 };
  for (const axis of [x, y]) {
    if (axis.low === axis.high) [axis.low, axis.high] = axis.log ? [axis.low / 1.5, axis.high * 1.5] : [axis.low - 0.5, axis.high + 0.5];
    const [low, high] = axis.log ? [Math.log(axis.low), Math.log(axis.high)] : [axis.low, axis.high];
    axis.place = (value) => axis.from + (((axis.log ? Math.log(Math.max(value, axis.low / 1e3)) : value) - low) / (high - low)) * (axis.to - axis.from);
  }
  const id = `clip-${(lineChart.count = (lineChart.count ?? 0) + 1)}`;
  const clip = draw("clipPath", { id });
  clip.append(draw("rect", { x: x.from - 5, y: y.to - 5, width: x.to - x.from + 10, height: y.from - y.to + 10 }));
  svg.append(clip);
  for (const value of ticks(y.low, y.high, y.log, 6)) {
    const at = y.place(value);
    svg.append(draw("line", { class: "grid", x1: x.from, x2: x.to, y1: at, y2: at }));
    svg.append(draw("text", { x: x.from - 7, y: at + 4, "text-anchor": "end" }, short(value)));
  }
  let last = -Infinity;
  for (const value of ticks(x.low, x.high, x.log, Math.max(3, width / 90))) {
    if (axes.wholeX && !Number.isInteger(value)) continue;
    const at = x.place(value);
    svg.append(draw("line", { class: "grid", x1: at, x2: at, y1: y.from, y2: y.from + 4 }));
    if (at - last < 34) continue;
    svg.append(draw("text", { x: at, y: y.from + 18, "text-anchor": "middle" }, short(value)));
    last = at;
  }
  svg.append(draw("text", { x: x.to, y: height - 6, "text-anchor": "end" }, axes.x));
  svg.append(draw("text", { x: x.from + 6, y: y.to + 8 }, axes.y));
  for (const part of series) svg.append(curve(part, x, y, id));

  const cursor = draw("line", { class: "cursor", y1: y.to, y2: y.from });
  const tip = make("div", { class: "tip", hidden: "" });
  cursor.setAttribute("visibility", "hidden");
  svg.append(cursor);
  figure.append(tip);
  svg.onpointerleave = () => {
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  };
  svg.onpointermove = (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    const distance = (value) => Math.abs(x.place(value) - at);
    const nearest = xs.reduce((best, value) => (distance(value) < distance(best) ? value : best), xs[0]);
    const found = series
      .map((part) => ({ part, n: part.x.reduce((best, value, n) => (distance(value) < distance(part.x[best]) ? n : best), 0) }))
      .filter(({ part, n }) => distance(part.x[n]) < 24)
      .sort((one, two) => two.part.y[two.n] - one.part.y[one.n]);
    cursor.setAttribute("x1", x.place(nearest));
    cursor.setAttribute("x2", x.place(nearest));
    cursor.setAttribute("visibility", "visible");
    const lines = found.slice(0, 12).map(({ part, n }) => {
      const spread = part.deviation[n] ? ` ± ${axes.show(part.deviation[n], true)}` : "";
      return make("div", {}, make("i", { class: `dot c${part.color}` }), part.label, make("b", {}, axes.show(part.y[n]) + spread));
    });
    const more = found.length > 12 ? [make("div", {}, `and ${found.length - 12} more`)] : [];
    tip.replaceChildren(make("div", {}, `${axes.x}: ${short(nearest)}`), ...lines, ...more);
    tip.hidden = false;
    const right = at < width / 2;
    tip.style.left = right ? `${Math.min(at + 16, width - tip.offsetWidth)}px` : `${Math.max(0, at - 16 - tip.offsetWidth)}px`;
  };
}

function curve(part, x, y, clip) {
  const group = draw("g", { class: `c${part.color}`, "clip-path": `url(#${clip})` });
  const points = part.x.map((value, n) => [x.place(value), n]);
  const line = (of, order = points) => order.map(([at, n]) => `${at.toFixed(1)},${y.place(of(n)).toFixed(1)}`).join(" ");
  if (part.deviation.some((value) => value > 0)) {
    const above = line((n) => part.y[n] + part.deviation[n]);
    const below = line((n) => part.y[n] - part.deviation[n], [...points].reverse());
    group.append(draw("polygon", { class: "band", points: `${above} ${below}` }));
  }
  group.append(draw("polyline", { class: "curve", points: line((n) => part.y[n]), "stroke-dasharray": part.dotted ? "2 4" : DASHES[part.dash % 4] }));
  if (points.length < 9) {
    for (const [at, n] of points) group.append(draw("circle", { class: "point", cx: at, cy: y.place(part.y[n]), r: 2.6 }));
  }
  return group;
}

// a button of a legend with its line; `change` is called with whether it is pressed
function legendEntry(label, color, dash, pressed, change) {
  const sample = draw("svg", { viewBox: "0 0 27 11", class: `c${color}` });
  sample.append(draw("line", { class: "curve", x1: 0, x2: 27, y1: 5.5, y2: 5.5, "stroke-dasharray": DASHES[dash % 4] }));
  const button = make("button", { type: "button", "aria-pressed": pressed }, sample, label);
  button.onclick = () => {
    const now = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", now);
    change(now);
  };
  return button;
}
