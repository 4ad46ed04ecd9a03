"use strict";
// How much ink lies on each pixel of a picture: the first three steps of data/drawings.py.
// A grey image is {width, height, data: Float64Array}, row by row; a picture is three of them, in [0, 1].

const SAMPLES = 60, FAINTEST = 0.03, CLEAREST = 5, EDGE = 0.1; // as in drawings.py

const round = (value) => Math.floor(value + 0.5);
const grey = (width, height) => ({ width, height, data: new Float64Array(width * height) });
const maximum = (values) => values.reduce((a, b) => Math.max(a, b), 0);

/** The colours that a picture would have without ink: a quadratic surface for each channel. */
function paperOf(picture) {
  const [{ width, height }] = picture, along = (n, length) => ((n + 0.5) * 2) / length - 1;
  const termsAt = (i) => {
    const x = along(i % width, width), y = along(Math.floor(i / width), height);
    return [1, x, y, x * x, x * y, y * y];
  };
  // a smooth surface needs no more points
  const least = Math.min(width, height), most = Math.max(width, height), places = [];
  const step = Math.min(Math.ceil(most / SAMPLES), Math.max(1, Math.floor(least / 10)));
  for (let y = Math.floor(step / 2); y < height; y += step) {
    for (let x = Math.floor(step / 2); x < width; x += step) places.push(y * width + x);
  }
  const count = places.length, terms = Float64Array.from(places.flatMap(termsAt));
  const outward = places.map((_, k) => Math.max(Math.abs(terms[6 * k + 1]), Math.abs(terms[6 * k + 2])));
  const edge = Math.min(0.9, maximum(outward)), border = Array.from(places.keys()).filter((k) => outward[k] >= edge);
  const colours = picture.map(({ data }) => Float64Array.from(places, (i) => data[i])), away = new Float64Array(count);
  const surface = colours.map((data) => new Float64Array(count).fill(median(border.map((i) => data[i]))));
  let coefficients;
  for (let turn = 0; turn < 10; turn++) {
    for (let i = 0; i < count; i++) {
      away[i] = 0;
      for (let c = 0; c < 3; c++) away[i] = Math.max(away[i], Math.abs(colours[c][i] - surface[c][i]));
    }
    const scale = Math.min(Math.max(1.5 * median(border.map((i) => away[i])), 0.02), 0.2);
    const sums = new Float64Array(54); // 6 rows of 6 coefficients and, behind them, the three right sides
    let total = 0;
    for (let i = 0; i < count; i++) {
      const weight = 1 / (1 + (away[i] / scale) ** 2) ** 2;
      total += weight;
      for (let a = 0; a < 6; a++) {
        const term = weight * terms[6 * i + a];
        for (let b = a; b < 6; b++) sums[9 * a + b] += term * terms[6 * i + b];
        for (let c = 0; c < 3; c++) sums[9 * a + 6 + c] += term * colours[c][i];
      }
    }
    for (let a = 0; a < 6; a++) {
      for (let b = 0; b < a; b++) sums[9 * a + b] = sums[9 * b + a];
      sums[10 * a] += 1e-6 * total;
    }
    coefficients = solved(Array.from({ length: 6 }, (_, a) => sums.subarray(9 * a, 9 * a + 9)));
    for (let c = 0; c < 3; c++) {
      for (let i = 0; i < count; i++) {
        let sum = 0;
        for (let a = 0; a < 6; a++) sum += terms[6 * i + a] * coefficients[a][c];
        surface[c][i] = sum;
      }
    }
  }
  return coefficients[0].map((_, c) => {
    const [constant, ...rest] = coefficients.map((row) => row[c]), [ofX, ofY, ofXX, ofXY, ofYY] = rest;
    const paper = new Float64Array(width * height);
    for (let i = 0; i < paper.length; i++) {
      const x = along(i % width, width), y = along(Math.floor(i / width), height);
      paper[i] = constant + x * (ofX + ofXX * x + ofXY * y) + y * (ofY + ofYY * y);
    }
    return paper;
  });
}

/** Solve a symmetric, positive definite system, given as rows of 6 coefficients and 3 right sides: 6 rows of 3. */
function solved(rows) {
  for (let a = 0; a < 6; a++) {
    for (let b = 0; b < 6; b++) {
      const factor = a === b ? 0 : rows[b][a] / rows[a][a];
      if (factor) for (let k = a; k < 9; k++) rows[b][k] -= factor * rows[a][k];
    }
  }
  return rows.map((row, a) => Array.from(row.subarray(6), (value) => value / row[a]));
}

/** How much ink lies on each pixel, in [0, 1]; null if there is none. */
function inkOf(picture) {
  const [{ width, height }] = picture, count = width * height, paper = paperOf(picture), direction = [0, 0, 0];
  const away = picture.map(({ data }, c) => data.map((value, i) => value - paper[c][i]));
  for (let i = 0; i < count; i++) {
    const square = away[0][i] ** 2 + away[1][i] ** 2 + away[2][i] ** 2;
    for (let c = 0; c < 3; c++) direction[c] += away[c][i] * square;
  }
  const length = Math.hypot(...direction);
  if (length < 1e-12) return null;
  const darker = direction[0] + direction[1] + direction[2] < 0, along = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) along[i] += (away[c][i] * direction[c]) / length / Math.sqrt(3);
    if (darker) along[i] /= Math.max((paper[0][i] + paper[1][i] + paper[2][i]) / 3, 0.25);
  }
  const ink = grey(width, height);
  along.forEach((value, i) => (ink.data[i] = Math.max(value, 0)));
  const threshold = thresholdOf(ink.data), inside = ink.data.filter((value) => value > threshold);
  if (!inside.length) return null;
  const full = quantile(inside, 0.8);
  const noise = 1.48 * median(along.filter((_, i) => ink.data[i] <= threshold).map(Math.abs));
  if (full < Math.max(FAINTEST, CLEAREST * noise)) return null;
  const faint = Math.min(3 * noise, full / 2);
  ink.data.forEach((value, i) => (ink.data[i] = Math.min(Math.max((value - faint) / (full - faint), 0), 1)));
  return ink;
}

/** Otsu's threshold of values in [0, ...). */
function thresholdOf(values, bins = 64) {
  const most = maximum(values), counts = new Float64Array(bins);
  if (most <= 0) return 0;
  for (const value of values) counts[Math.min(Math.trunc(value / most * bins), bins - 1)]++;
  const all = values.length, sum = counts.reduce((total, n, k) => total + n * k, 0);
  let best = -1, found = 0, below = 0, sums = 0;
  counts.forEach((n, k) => {
    below += n;
    sums += n * k;
    const means = (sum - sums) / Math.max(all - below, 1) - sums / Math.max(below, 1);
    const between = below * (all - below) * means ** 2;
    if (between > best) [best, found] = [between, k];
  });
  return ((found + 1) / bins) * most;
}

/** Without specks, and without what touches the border unless hardly anything else is there. */
function oneDrawing(ink) {
  const { width, height, data } = ink, part = new Int32Array(data.length).fill(-1), masses = [], free = [];
  for (let first = 0; first < data.length; first++) {
    if (data[first] <= EDGE || part[first] >= 0) continue;
    const number = masses.length, waiting = [first];
    masses.push(0);
    free.push(true);
    part[first] = number;
    while (waiting.length) {
      const i = waiting.pop(), x = i % width, y = Math.floor(i / width);
      masses[number] += data[i];
      if (x === 0 || y === 0 || x === width - 1 || y === height - 1) free[number] = false;
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const near = v * width + u;
          if (data[near] > EDGE && part[near] < 0) {
            part[near] = number;
            waiting.push(near);
          }
        }
      }
    }
  }
  const inside = masses.map((mass, k) => (free[k] ? mass : 0));
  const counted = maximum(inside) >= 0.2 * maximum(masses) ? inside : masses, least = 0.08 * maximum(counted);
  return { width, height, data: data.map((value, i) => (part[i] >= 0 && counted[part[i]] >= least ? value : 0)) };
}

function median(values) {
  return quantile(values, 0.5);
}

function quantile(values, share) {
  const sorted = Float64Array.from(values).sort(), place = share * (sorted.length - 1), below = Math.floor(place);
  return sorted[below] + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}
