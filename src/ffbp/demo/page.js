"use strict";
// Drawing with mouse, pen or finger, opening pictures, and asking all networks at once.

const byId = (id) => document.getElementById(id);
const networks = JSON.parse(byId("networks").textContent).map(prepare);
const cards = networks.map(card);
const pad = byId("pad"), paper = pad.parentNode;
const SIDE = 112, PEN = 0.065; // of the picture that the networks are given, in pixels; of the pen, in parts of the paper
const MOST = 1600; // pixels of the longer side of a picture that is opened
let strokes = [], current = null, picture = null, waiting = false, writing = 0, notice = "", rest = 0;

byId("cards").append(...cards.map(({ element: made }) => made));
for (const network of networks) network.quiet = ask(network, new Float64Array(network.size ** 2)).activities
  .map(({ shape, data }) => ({ shape, data: data.map(() => 0) }));

/** Draw strokes, or the opened picture, on a canvas as wide as `side`. */
function draw(context, side, ink) {
  if (picture) {
    const scale = side / Math.max(picture.width, picture.height), size = [picture.width * scale, picture.height * scale];
    context.drawImage(picture, (side - size[0]) / 2, (side - size[1]) / 2, ...size);
  }
  Object.assign(context, { strokeStyle: ink, fillStyle: ink, lineWidth: PEN * side, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y]) => context.lineTo(x * side, y * side));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * side + 0.01, stroke[0][1] * side);
    context.stroke();
  }
}

/** What the networks are given: the opened picture as it is, or the strokes, black on white. */
function given() {
  const canvas = element("canvas", { width: picture?.width ?? SIDE, height: picture?.height ?? SIDE });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (picture) {
    context.drawImage(picture, 0, 0);
  } else {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIDE, SIDE);
    draw(context, SIDE, "#000");
  }
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function refresh() {
  waiting = false;
  const side = (pad.width = pad.height = Math.round(pad.clientWidth * devicePixelRatio) || 1);
  draw(pad.getContext("2d"), side, getComputedStyle(document.body).color);
  byId("hint").hidden = Boolean(strokes.length || picture);
  byId("hint").style.display = byId("hint").hidden ? "none" : "";
  if (performance.now() < rest) return void setTimeout(changed, 20); // so that ink flows where answers take long
  const began = performance.now();
  const image = strokes.length || picture ? given() : null, images = new Map();
  const found = networks.map((network, k) => {
    const key = JSON.stringify(network.frame);
    if (!images.has(key)) images.set(key, image && asDrawn(image, network.frame));
    const pixels = images.get(key), answer = pixels && ask(network, pixels);
    cards[k].show(answer, pixels);
    return answer;
  });
  const [first] = images.values();
  paint(byId("seen"), first ?? null);
  rest = current || writing ? 2 * performance.now() - began : 0;
  if (current || writing) return; // read out when the stroke is finished
  const said = networks.map((network, k) => found[k] && `${network.title}: ${network.classes[found[k].answer]}`);
  byId("status").textContent = first ? said.join(" · ") : image ? "Nothing is drawn there." : notice;
}

/** Ask again at the next frame, however often this is called before. */
function changed() {
  if (!waiting) requestAnimationFrame(refresh);
  waiting = true;
}

function clear() {
  cancelAnimationFrame(writing);
  [strokes, current, picture, writing, notice] = [[], null, null, 0, ""];
  changed();
}

function undo() {
  cancelAnimationFrame(writing);
  writing = 0;
  if (picture) picture = null;
  else strokes.pop();
  changed();
}

function placeOf(event) {
  const box = pad.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

pad.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  if (picture || writing) clear();
  pad.setPointerCapture(event.pointerId);
  current = [placeOf(event)];
  strokes.push(current);
  changed();
});
pad.addEventListener("pointermove", (event) => {
  if (!current) return;
  const passed = event.getCoalescedEvents?.() ?? [];
  current.push(...(passed.length ? passed : [event]).map(placeOf));
  changed();
});
for (const name of ["pointerup", "pointercancel"]) {
  pad.addEventListener(name, () => {
    current = null;
    changed();
  });
}

/** Open a picture file; its digit is found wherever it is. */
async function open(file) {
  if (!file) return;
  clear();
  try {
    const whole = await createImageBitmap(file, { colorSpaceConversion: "none" });
    const factor = Math.floor(Math.max(whole.width, whole.height) / MOST);
    const size = { resizeWidth: Math.ceil(whole.width / factor), resizeHeight: Math.ceil(whole.height / factor) };
    picture = factor > 1 ? await createImageBitmap(whole, { ...size, resizeQuality: "high" }) : whole;
  } catch {
    notice = `${file.name || "That"}: cannot be read as a picture.`;
  }
  changed();
}

byId("clear").addEventListener("click", clear);
byId("undo").addEventListener("click", undo);
byId("open").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  open(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") clear();
  if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
});
document.addEventListener("paste", (event) => open([...event.clipboardData.files][0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  paper.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || paper.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  paper.classList.remove("over");
  open(event.dataTransfer.files[0]);
});

/** Write a digit, stroke by stroke, within a second. */
function write(digit) {
  clear();
  const whole = handwriting(digit), points = whole.flat().length, start = performance.now();
  const time = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1 : 900;
  const step = (now) => {
    let left = Math.max(1, Math.ceil((Math.max(now - start, 0) / time) * points));
    writing = left < points ? requestAnimationFrame(step) : 0;
    strokes = whole.map((stroke) => stroke.slice(0, Math.max(0, (left -= stroke.length) + stroke.length)));
    strokes = strokes.filter((stroke) => stroke.length);
    changed();
  };
  writing = requestAnimationFrame(step);
}
byId("hands").append(...HANDS.map((_, digit) => {
  const button = element("button", { type: "button", textContent: digit, onclick: () => write(digit) });
  button.setAttribute("aria-label", `Write a ${digit}`);
  return button;
}));

new ResizeObserver(changed).observe(pad);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
changed();
