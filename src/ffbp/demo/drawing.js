"use strict";
// A picture of a digit becomes an image like those of a data set of digits, by the steps of data/drawings.py.
// ink.js has the first of them, and says what a grey image and a picture are.

const FAR = 200, CLOSE = 120, MARGIN = 0.3, FINE = 4, STROKE = [1.7, 3.7]; // as there

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
