"use strict";
// What a trained network answers. A network is described by export.py; its numbers are 16-bit floats in base64.
// A tensor is {shape: [D] or [C, H, W], data: Float64Array}, channels first, row by row.

/** Numbers from base64 of little-endian 16-bit floats: Float32Array. */
function decode(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const numbers = new Float32Array(bytes.length / 2);
  for (let i = 0; i < numbers.length; i++) {
    const half = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    const exponent = (half >> 10) & 31, fraction = half & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    numbers[i] = half & 32768 ? -size : size;
  }
  return numbers;
}

/** A network whose numbers are ready for use, with what its label patterns come to in the first layer. */
function prepare(description) {
  const ready = (layer) => ({ ...layer, weight: decode(layer.weight), bias: decode(layer.bias) });
  const network = { ...description, layers: description.layers.map(ready), head: ready(description.head) };
  if (description.ff) {
    const { planes, size, labels } = description.ff;
    const patterns = (network.patterns = decode(description.ff.patterns)), length = planes * size * size;
    network.patternProducts = Array.from({ length: labels }, (_, label) => {
      const pattern = patterns.subarray(label * length, (label + 1) * length);
      return product(network.layers[0], { shape: [planes, size, size], data: pattern }, false);
    });
  }
  return network;
}

/** Weights times input, plus biases unless `biased` is false. */
function product(layer, input, biased = true) {
  return layer.kind === "conv" ? convolution(layer, input, biased) : dense(layer, input, biased);
}

function dense({ units, weight, bias }, { data }, biased) {
  const output = new Float64Array(units), inputs = data.length;
  for (let unit = 0; unit < units; unit++) {
    let sum = biased ? bias[unit] : 0;
    for (let i = 0, w = unit * inputs; i < inputs; i++, w++) sum += weight[w] * data[i];
    output[unit] = sum;
  }
  return { shape: [units], data: output };
}

/** A convolution with stride 1 and no padding. */
function convolution({ units, kernel, weight, bias }, { shape: [channels, height, width], data }, biased) {
  const rows = height - kernel + 1, columns = width - kernel + 1;
  const output = new Float64Array(units * rows * columns);
  for (let unit = 0; unit < units; unit++) {
    const map = output.subarray(unit * rows * columns, (unit + 1) * rows * columns).fill(biased ? bias[unit] : 0);
    for (let channel = 0; channel < channels; channel++) {
      for (let dy = 0; dy < kernel; dy++) {
        for (let dx = 0; dx < kernel; dx++) {
          const w = weight[((unit * channels + channel) * kernel + dy) * kernel + dx];
          for (let y = 0; y < rows; y++) {
            const from = (channel * height + y + dy) * width + dx, to = y * columns;
            for (let x = 0; x < columns; x++) map[to + x] += w * data[from + x];
          }
        }
      }
    }
  }
  return { shape: [units, rows, columns], data: output };
}

const ACTIVATIONS = {
  none: (z) => z,
  relu: (z) => Math.max(z, 0),
  tanh: Math.tanh,
  sigmoid: (z) => 1 / (1 + Math.exp(-z)),
};

/** What follows a product: the activation, and pooling where there is some. */
function after(layer, { shape, data }) {
  const activity = { shape, data: data.map(ACTIVATIONS[layer.activation]) };
  return layer.pool > 1 ? pooled(activity, layer.pool) : activity;
}

/** The maximum in each window of `size` x `size`; what is left over at the right and the bottom is dropped. */
function pooled({ shape: [channels, height, width], data }, size) {
  const rows = Math.floor(height / size), columns = Math.floor(width / size);
  const output = new Float64Array(channels * rows * columns).fill(-Infinity);
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < rows * size; y++) {
      for (let x = 0; x < columns * size; x++) {
        const to = (channel * rows + Math.floor(y / size)) * columns + Math.floor(x / size);
        output[to] = Math.max(output[to], data[(channel * height + y) * width + x]);
      }
    }
  }
  return { shape: [channels, rows, columns], data: output };
}

/** Divide by the root mean square ("rms") or the length ("l2") of all units, or per position of the channels there. */
function normalized(kind, per, { shape, data }) {
  const units = per === "position" ? shape[0] : data.length, places = data.length / units, output = new Float64Array(data.length);
  for (let place = 0; place < places; place++) {
    let sum = 0;
    for (let unit = 0; unit < units; unit++) sum += data[unit * places + place] ** 2;
    const divisor = kind === "rms" ? Math.sqrt(sum / units + 1e-8) : Math.sqrt(sum) + 1e-8;
    for (let unit = 0; unit < units; unit++) output[unit * places + place] = data[unit * places + place] / divisor;
  }
  return { shape, data: output };
}

function goodness(kind, { data }) {
  let sum = 0;
  for (const value of data) sum += value * value;
  return kind === "mean_square" ? sum / data.length : sum;
}

function softmax(logits) {
  const most = Math.max(...logits), powers = Array.from(logits, (z) => Math.exp(z - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/**
 * What a prepared network says of an image.
 *
 * @param network from `prepare`.
 * @param pixels Float64Array of size * size numbers in [0, 1], white on black.
 * @returns logits of the linear head; `layers`, the goodness of each layer under each label, and `goodness`, its sum
 *   over the layers that are asked (both null without labels); `activities`, one tensor for each layer, for
 *   Forward-Forward under the neutral label; `answer`, the class.
 */
function ask(network, pixels) {
  const found = network.ff ? askForwardForward(network, pixels) : askBackprop(network, pixels);
  const scores = network.ff && network.ff.readout === "goodness" ? found.goodness : found.logits;
  return { ...found, answer: scores.indexOf(Math.max(...scores)) };
}

/** An image that carries a label, its first plane: what Forward-Forward judges. */
function labelled({ ff: { planes, size, covered }, patterns }, pixels, label) {
  const image = pixels.slice().fill(0, 0, covered);
  return image.map((value, i) => value + patterns[label * planes * size * size + i]);
}

function askBackprop(network, pixels) {
  const activities = [];
  let activity = { shape: [1, network.size, network.size], data: pixels };
  for (const layer of network.layers) {
    activity = after(layer, product(layer, activity));
    activities.push(activity);
  }
  return { logits: Array.from(product(network.head, activity).data), goodness: null, layers: null, activities };
}

function askForwardForward(network, pixels) {
  const { planes, size, covered, normalization, normalizationPer, normalizeImages, readoutLayers } = network.ff;
  const patterns = network.patternProducts, blank = new Float64Array(planes * size * size);
  blank.set(normalizeImages ? normalized("rms", "layer", { shape: [pixels.length], data: pixels }).data : pixels);
  blank.fill(0, 0, covered); // where the label is written
  const image = product(network.layers[0], { shape: [planes, size, size], data: blank });

  // the first product is that of the image plus that of the label; the neutral label is a bit of each
  const withLabels = (weights) => {
    const data = image.data.slice();
    weights.forEach((weight, label) => {
      if (weight) patterns[label].data.forEach((value, i) => (data[i] += weight * value));
    });
    return activitiesOf(network, { shape: image.shape, data });
  };
  const neutral = withLabels(patterns.map(() => 1 / patterns.length));
  const seen = readoutLayers.map((k) => Array.from(normalized(normalization, normalizationPer, neutral[k]).data)).flat();
  const logits = Array.from(product(network.head, { shape: [seen.length], data: seen }).data);
  if (!patterns.length) return { logits, goodness: null, layers: null, activities: neutral };

  const byLabel = patterns.map((_, label) => {
    const activities = withLabels(patterns.map((_, other) => (other === label ? 1 : 0)));
    return activities.map((activity) => goodness(network.ff.goodness, activity));
  });
  const layers = network.layers.map((_, k) => byLabel.map((values) => values[k]));
  const total = byLabel.map((values) => readoutLayers.reduce((sum, k) => sum + values[k], 0));
  return { logits, goodness: total, layers, activities: neutral };
}

/** The activity of each layer, given the product of the first: what the next one sees is normalised. */
function activitiesOf(network, firstProduct) {
  const activities = [];
  const { normalization, normalizationPer } = network.ff;
  network.layers.forEach((layer, k) => {
    const given = k ? product(layer, normalized(normalization, normalizationPer, activities[k - 1])) : firstProduct;
    activities.push(after(layer, given));
  });
  return activities;
}
