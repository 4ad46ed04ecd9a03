"use strict";
// Digits as strokes, for whoever cannot draw or wants to see one written: points (x, y) in percent of the paper.

const HANDS = [
  ["51,14 33,24 27,48 33,76 49,86 66,75 71,49 66,24 51,14"],
  ["38,30 53,14", "53,14 52,48 50,86"],
  ["30,30 42,16 60,17 67,31 58,50 42,68 30,85", "30,85 49,83 70,84"],
  ["32,20 48,14 64,22 62,38 45,46", "45,46 64,52 68,68 56,83 40,86 30,78"],
  ["42,15 35,36 29,57", "29,57 48,57 71,54", "61,30 59,57 57,87"],
  ["67,15 52,15 38,16", "38,16 36,30 34,44", "34,44 50,40 65,51 66,69 52,84 31,82"],
  ["60,13 44,28 34,49 34,70 44,85 59,83 66,70 58,56 44,57 35,69"],
  ["29,18 48,17 69,15", "69,15 58,39 46,86"],
  ["63,25 50,14 37,22 40,37 54,47 66,63 61,80 47,87 34,77 38,61 53,47 62,35 63,25"],
  ["64,26 52,15 38,22 36,38 47,48 60,41 64,26", "64,26 63,55 59,87"],
].map((strokes) => strokes.map((stroke) => stroke.split(" ").map((point) => point.split(",").map((n) => n / 100))));

/** The strokes of a digit, smooth, each time a little different: lists of points (x, y) in [0, 1]. */
function handwriting(digit) {
  const wobble = () => (Math.random() - 0.5) * 0.024, slant = (Math.random() - 0.4) * 0.2;
  return HANDS[digit].map((stroke) => {
    const points = stroke.map(([x, y]) => [x - slant * (y - 0.5) + wobble(), y + wobble()]);
    const at = (k) => points[Math.min(Math.max(k, 0), points.length - 1)];
    return points.slice(1).flatMap((_, k) => Array.from({ length: 9 }, (_, step) => {
      const t = step / 8, [a, b, c, d] = [at(k - 1), at(k), at(k + 1), at(k + 2)]; // a Catmull-Rom spline
      return [0, 1].map((i) => 0.5 * (2 * b[i] + (c[i] - a[i]) * t + (2 * a[i] - 5 * b[i] + 4 * c[i] - d[i]) * t * t
        + (3 * b[i] - a[i] - 3 * c[i] + d[i]) * t * t * t));
    }));
  });
}
