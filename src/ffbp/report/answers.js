// The images that one group gets right and another wrong, and whom each confuses.

const CODES = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const FIRST_TILES = 24;

function showAnswers(section, set) {
  const answers = set.answers;
  const known = set.groups.map((group, number) => number).filter((number) => answers && answers.groups[number]);
  if (!known.length) return;
  const place = section.querySelector(".answers");
  place.hidden = false;
  const [one, two] = place.querySelectorAll("select");
  for (const select of [one, two]) {
    for (const number of known) select.append(make("option", { value: number }, set.groups[number].label));
  }
  const rule = (number) => set.groups[number].label.split(",")[0];
  two.value = known.find((number) => rule(number) !== rule(known[0])) ?? known[Math.min(1, known.length - 1)];
  const sheet = new Image();
  const [rightHere, rightThere] = place.querySelectorAll(".tiles");
  const matrices = place.querySelectorAll(".confusion");
  const show = () => {
    showTiles(rightHere, set, sheet, Number(one.value), Number(two.value));
    showTiles(rightThere, set, sheet, Number(two.value), Number(one.value));
    [one, two].forEach((select, n) => showConfusion(matrices[n], set, Number(select.value)));
  };
  one.onchange = two.onchange = show;
  if (answers.sprite) {
    sheet.onload = show;
    sheet.src = `data:image/png;base64,${answers.sprite.png}`;
  }
  show();
}

function showTiles(place, set, sheet, right, wrong) {
  const answers = set.answers;
  const [here, there] = [answers.groups[right].answers, answers.groups[wrong].answers];
  const found = [...here].map((code, n) => n).filter((n) => here[n] === "." && there[n] !== "." && there[n] !== " ");
  const where = new Map(answers.pictured.map((image, n) => [image, n]));
  const sure = answers.groups[wrong].sure;
  const drawn = found.filter((n) => where.has(n)).sort((a, b) => sure[where.get(b)] - sure[where.get(a)]);
  const pictures = drawn.length < found.length ? ` (${drawn.length} with a picture)` : "";
  const title = `${found.length} right by ${set.groups[right].label}, wrong by ${set.groups[wrong].label}${pictures}`;
  const list = make("ol");
  const add = (images) => list.append(...images.map((n) => tile(answers, sheet, n, there[n], where.get(n), sure[where.get(n)])));
  add(drawn.slice(0, FIRST_TILES));
  place.replaceChildren(make("h4", {}, title), list);
  if (drawn.length > FIRST_TILES) {
    const more = make("button", { type: "button" }, `${drawn.length - FIRST_TILES} more`);
    more.onclick = () => {
      add(drawn.slice(FIRST_TILES));
      more.remove();
    };
    place.append(more);
  }
}

function tile(answers, sheet, number, code, position, sure) {
  const { columns, width, height } = answers.sprite;
  const canvas = make("canvas", { width, height, role: "img", "aria-label": `test image ${number}` });
  const [left, top] = [(position % columns) * width, Math.floor(position / columns) * height];
  if (sheet.complete && sheet.naturalWidth) canvas.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
  const [label, taken] = [answers.labels[number], code].map((letter) => CODES.indexOf(letter));
  return make("li", { title: `test image ${number}` }, canvas, make("b", {}, label), " → ", make("em", {}, taken), ` ${sure} %`);
}

function showConfusion(place, set, number) {
  const { classes } = set.answers;
  const { confusion } = set.answers.groups[number];
  place.replaceChildren(make("figcaption", {}, set.groups[number].label));
  if (!confusion) {
    place.append(make("p", { class: "note" }, `${classes} classes are too many for a table.`));
    return;
  }
  const table = make("table");
  const head = make("tr", {}, make("th"));
  for (let answer = 0; answer < classes; answer++) head.append(make("th", {}, answer));
  table.append(make("thead", {}, head));
  const body = make("tbody");
  for (let label = 0; label < classes; label++) {
    const counts = confusion.slice(label * classes, (label + 1) * classes);
    const total = counts.reduce((sum, count) => sum + count, 0);
    const row = make("tr", {}, make("th", {}, label));
    counts.forEach((count, answer) => {
      const share = total ? (100 * count) / total : 0;
      const text = share === 0 ? "" : share >= 99.95 ? "100" : share >= 10 ? share.toFixed(0) : share.toFixed(1);
      const cell = make("td", { class: answer === label ? "right" : "wrong", title: `${label} taken for ${answer}: ${count} of ${total}` }, text);
      cell.style.setProperty("--share", `${Math.min(70, answer === label ? share * 0.5 : 14 * Math.sqrt(share))}%`);
      row.append(cell);
    });
    body.append(row);
  }
  table.append(body);
  place.append(table);
}
