"use strict";
// A picture of a digit becomes an image like those of a data set of digits, by the steps of data/drawings.py.
// A grey image is {width, height, data: Float64Array}, row by row; a picture is three of them, in [0, 1].

const FAR = 200, CLOSE = 120, MARGIN = 0.3, FAINTEST = 0.03, CLEAREST = 5, EDGE = 0.1, FINE = 4, STROKE = [1.7, 3.7];

const round = (value) => Math.floor(value + 0.5);
const grey = (width, height) => ({ width, height, data: new Float64Array(width * height) });
const maximum = (values) => values.reduce((a, b) => Math.max(a, b), 0);

/** The image (Float64Array of side * side numbers in [0, 1]) of what is drawn in an ImageData; null if nothing is. */
function asDrawn(imageData, frame) {
  const picture = onPaper(imageData), [{ width, height }] = picture;
  const far = find(picture, [0, 0, width, height], FAR);
  if (!far) return null;
  const [left, top, right, bottom] = far.box, margin = MARGIN * Math.max(right - left, bottom - top);
  const closer = [left - margin, top - margin, right + margin, bottom + margin];
  const part = [Math.max(closer[0], 0), Math.max(closer[1], 0), Math.min(closer[2], width), Math.min(closer[3], height)];
  return place(written((find(picture, part, CLOSE) || far).ink), frame);
}

/** Three colours without transparency; what is transparent becomes paper. */
function onPaper({ width, height, data }) {
  const count = width * height, picture = [grey(width, height), grey(width, height), grey(width, height)];
  let opacity = 0, light = 0;
  for (let i = 0; i < count; i++) {
    opacity += data[4 * i + 3] / 255;
    light += ((data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3) * (data[4 * i + 3] / 255);
  }
  let paper = Array(3).fill(light / Math.max(opacity, 1e-9) < 128 ? 255 : 0);
  if (opacity / count > 0.5 && opacity < count) {
    const seen = (channel) => Array.from({ length: count }, (_, i) => i).filter((i) => data[4 * i + 3] > 127.5)
      .map((i) => data[4 * i + channel]);
    paper = [0, 1, 2].map((channel) => median(seen(channel)));
  }
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) {
      picture[c].data[i] = round(paper[c] + (data[4 * i + c] - paper[c]) * (data[4 * i + 3] / 255)) / 255;
    }
  }
  return picture;
}

/** The ink in a part (left, top, right, bottom) of a picture, cut out, and its box in the picture; null if none. */
function find(picture, part, longest) {
  const width = part[2] - part[0], height = part[3] - part[1];
  const scale = Math.min(1, longest / Math.max(width, height));
  const size = [Math.max(1, round(width * scale)), Math.max(1, round(height * scale))];
  const rows = resampling(picture[0].height, size[1], part[1], part[3]);
  const columns = resampling(picture[0].width, size[0], part[0], part[2]);
  const found = inkOf(picture.map((channel) => {
    const small = resample(channel, rows, columns);
    small.data.forEach((value, i) => (small.data[i] = round(value * 255) / 255));
    return small;
  }));
  if (!found) return null;
  const ink = oneDrawing(found), [top, bottom, left, right] = boxOf(ink), x = width / size[0], y = height / size[1];
  const box = [part[0] + left * x, part[1] + top * y, part[0] + right * x, part[1] + bottom * y];
  return { ink: cut(ink, [top, bottom, left, right]), box };
}

/** The colours that a picture would have without ink: a quadratic surface for each channel. */
function paperOf(picture) {
  const [{ width, height }] = picture, count = width * height;
  const terms = new Float64Array(count * 6), border = [];
  for (let i = 0; i < count; i++) {
    const x = ((i % width) + 0.5) * 2 / width - 1, y = (Math.floor(i / width) + 0.5) * 2 / height - 1;
    terms.set([1, x, y, x * x, x * y, y * y], 6 * i);
    if (Math.max(Math.abs(x), Math.abs(y)) >= 0.9) border.push(i);
  }
  const surface = picture.map(({ data }) => new Float64Array(count).fill(median(border.map((i) => data[i]))));
  const away = new Float64Array(count);
  for (let step = 0; step < 10; step++) {
    for (let i = 0; i < count; i++) {
      away[i] = Math.max(...picture.map(({ data }, c) => Math.abs(data[i] - surface[c][i])));
    }
    const scale = Math.min(Math.max(1.5 * median(border.map((i) => away[i])), 0.02), 0.2);
    const normal = Array.from({ length: 6 }, () => new Float64Array(9)); // and, behind it, the three right sides
    let total = 0;
    for (let i = 0; i < count; i++) {
      const weight = 1 / (1 + (away[i] / scale) ** 2) ** 2;
      total += weight;
      for (let a = 0; a < 6; a++) {
        const term = weight * terms[6 * i + a];
        for (let b = 0; b < 6; b++) normal[a][b] += term * terms[6 * i + b];
        for (let c = 0; c < 3; c++) normal[a][6 + c] += term * picture[c].data[i];
      }
    }
    for (let a = 0; a < 6; a++) normal[a][a] += 1e-6 * total;
    const coefficients = solved(normal);
    for (let i = 0; i < count; i++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let a = 0; a < 6; a++) sum += terms[6 * i + a] * coefficients[a][c];
        surface[c][i] = sum;
      }
    }
  }
  return surface;
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
    const square = away.reduce((sum, channel) => sum + channel[i] ** 2, 0);
    for (let c = 0; c < 3; c++) direction[c] += away[c][i] * square;
  }
  const length = Math.hypot(...direction);
  if (length < 1e-12) return null;
  const darker = direction[0] + direction[1] + direction[2] < 0, along = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    along[i] = away.reduce((sum, channel, c) => sum + channel[i] * direction[c], 0) / length / Math.sqrt(3);
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

/** Ink, cut out, whose strokes are as wide as people write them. */
function written(ink) {
  const fine = resized(ink, 20 * FINE), at = (x, y) => (pixel(fine, x, y) > 0.4 ? 1 : 0);
  let area = 0, edges = 0;
  for (let y = -1; y < fine.height; y++) {
    for (let x = -1; x < fine.width; x++) {
      area += at(x, y);
      edges += Math.abs(at(x, y) - at(x + 1, y)) + Math.abs(at(x, y) - at(x, y + 1));
    }
  }
  const width = (2 * area) / Math.max(1, (edges * Math.PI) / 4) / FINE; // of a line: twice its area by its outline
  const target = Math.min(Math.max(width, STROKE[0]), STROKE[1]), radius = round(((target - width) / 2) * FINE);
  if (!radius) return ink;
  const reach = Math.abs(radius), pad = reach + 1, disc = [];
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) if (x * x + y * y <= reach * reach + reach) disc.push([x, y]);
  }
  const changed = grey(fine.width + 2 * pad, fine.height + 2 * pad);
  for (let i = 0; i < changed.data.length; i++) {
    const x = (i % changed.width) - pad, y = Math.floor(i / changed.width) - pad;
    const near = disc.map(([dx, dy]) => pixel(fine, x + dx, y + dy));
    changed.data[i] = radius > 0 ? Math.max(...near) : Math.min(...near);
  }
  return maximum(changed.data) <= 0.5 ? ink : cut(changed, boxOf(changed));
}

/** Scale ink, cut out, to the size that a data set's digits have, and put it where they are. */
function place(ink, { ink: longest, cells, enlarged, border, by_mass: byMass }) {
  const scaled = resized(ink, longest), { width, height, data } = scaled, most = maximum(data);
  let mass = 0, x = 0, y = 0;
  data.forEach((value, i) => {
    mass += value;
    x += value * (i % width);
    y += value * Math.floor(i / width);
  });
  const offset = (middle, length) => {
    const wanted = byMass ? cells / 2 - middle : (cells - length) / 2;
    return Math.min(Math.max(round(wanted), 0), cells - length);
  };
  const left = offset(x / mass, width), top = offset(y / mass, height), image = grey(cells, cells);
  data.forEach((value, i) => (image.data[(top + Math.floor(i / width)) * cells + left + (i % width)] = value / most));
  const large = enlarged > 1 ? resized(image, cells * enlarged) : image, side = large.width + 2 * border;
  return Float64Array.from({ length: side * side }, (_, i) => {
    return round(255 * pixel(large, (i % side) - border, Math.floor(i / side) - border)) / 255;
  });
}

/** Scale a grey image so that its longer side has `longest` pixels. */
function resized(image, longest) {
  const scale = longest / Math.max(image.width, image.height);
  const [rows, columns] = [image.height, image.width].map((n) => resampling(n, Math.max(1, Math.trunc(n * scale + 0.5))));
  return resample(image, rows, columns);
}

/** For each of `size` new pixels between two places in a row of `length`: the first old one and the weights of them. */
function resampling(length, size, from = 0, to = length) {
  const scale = (to - from) / size, support = Math.max(scale, 1);
  return Array.from({ length: size }, (_, k) => {
    const middle = from + (k + 0.5) * scale;
    const first = Math.max(Math.floor(middle - support), 0), last = Math.min(Math.ceil(middle + support), length);
    const weights = Array.from({ length: last - first }, (_, i) => {
      return Math.max(0, 1 - Math.abs(first + i + 0.5 - middle) / support);
    });
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

function resample({ width, height, data }, rows, columns) {
  const narrow = new Float64Array(columns.length * height), image = grey(columns.length, rows.length);
  columns.forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * data[y * width + first + i];
      narrow[y * columns.length + x] = sum;
    }
  });
  rows.forEach(({ first, weights }, y) => {
    for (let i = 0; i < weights.length; i++) {
      for (let x = 0; x < image.width; x++) {
        image.data[y * image.width + x] += weights[i] * narrow[(first + i) * image.width + x];
      }
    }
  });
  return image;
}

/** The smallest box around ink: first row, row after the last, first column, column after the last. */
function boxOf({ width, height, data }) {
  let [top, bottom, left, right] = [height, 0, width, 0];
  data.forEach((value, i) => {
    if (value <= EDGE) return;
    const x = i % width, y = Math.floor(i / width);
    [top, bottom, left, right] = [Math.min(top, y), Math.max(bottom, y + 1), Math.min(left, x), Math.max(right, x + 1)];
  });
  return [top, bottom, left, right];
}

function cut(image, [top, bottom, left, right]) {
  const part = grey(right - left, bottom - top);
  part.data.forEach((_, i) => (part.data[i] = pixel(image, left + (i % part.width), top + Math.floor(i / part.width))));
  return part;
}

function pixel({ width, height, data }, x, y) {
  return x < 0 || y < 0 || x >= width || y >= height ? 0 : data[y * width + x];
}

function median(values) {
  return quantile(values, 0.5);
}

function quantile(values, share) {
  const sorted = Float64Array.from(values).sort(), place = share * (sorted.length - 1), below = Math.floor(place);
  return sorted[below] + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}
