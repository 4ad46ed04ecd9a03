// The page: a table that is sorted and filtered, curves, layers, answers, and light or dark.

const SETS = JSON.parse(document.getElementById("data").textContent);

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").onclick = () => {
      const falls = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : column > 0;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const key = (row) => (column ? Number(row.cells[column].dataset.value ?? NaN) : row.cells[0].textContent.trim());
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [key(one), key(two)];
        if (!column) return falls ? b.localeCompare(a) : a.localeCompare(b);
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // undefined ones last
        return falls ? b - a : a - b;
      });
      body.append(...rows);
    };
  });
}

function filterable(section) {
  const rows = [...section.querySelector(".results").tBodies[0].rows];
  const [input, count] = [section.querySelector(".filter"), section.querySelector(".count")];
  input.oninput = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase() + " " + document.getElementById(`made-${section.dataset.set}-${row.dataset.group}`).textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} groups`;
  };
  input.oninput();
}

function curves(section, set) {
  const quantity = section.querySelector(".quantity");
  const training = section.querySelector(".training");
  const chosen = set.groups.map((group) => group.drawn);
  const drawn = new Set([...set.groups.keys()].filter((number) => chosen[number]));
  const show = () => {
    const what = quantity.value;
    const column = what === "loss" ? "loss" : "acc";
    const scale = { acc: (value) => 100 * value, error: (value) => 100 * (1 - value), loss: (value) => value }[what];
    const series = (along) =>
      [...drawn].sort((a, b) => a - b).flatMap((number) =>
        ["val", ...(training.checked ? ["train"] : [])].flatMap((part) => {
          const found = set.groups[number].curves[`${part}/${column}`] ?? (part === "val" ? set.groups[number].curves[`train/${column}`] : null);
          if (!found) return [];
          const deviation = what === "loss" ? found.deviation : found.deviation.map((value) => 100 * value);
          const label = set.groups[number].label + (part === "train" ? ", training" : "");
          return [{ x: found[along], y: found.mean.map(scale), deviation, label, color: number % 10, dash: Math.floor(number / 10), dotted: part === "train" }];
        }),
      );
    // a head that was not trained yet answers by chance: that need not squeeze the rest
    const learned = series("epochs").flatMap((part) => part.y).filter((value) => value > 50);
    const low = what === "acc" ? (learned.length ? Math.max(0, 100 - 1.15 * (100 - Math.min(...learned))) : 0) : undefined;
    const title = { acc: "accuracy, %", error: "error, %", loss: "cross-entropy" }[what];
    const axes = {
      y: title, logX: true, logY: what !== "acc", low, high: what === "acc" ? Math.min(100, Math.max(low + 1, ...learned) + 0.15 * (100 - low)) : undefined,
      show: (value) => (what === "loss" ? short(value) : value.toFixed(2)),
    };
    lineChart(section.querySelector(".by-epoch"), series("epochs"), { ...axes, x: "epoch", wholeX: true });
    lineChart(section.querySelector(".by-second"), series("seconds"), { ...axes, x: "seconds of training" });
  };
  const legend = section.querySelector(".legend");
  const entries = set.groups.map((group, number) =>
    legendEntry(group.label, number % 10, Math.floor(number / 10), drawn.has(number), (now) => {
      now ? drawn.add(number) : drawn.delete(number);
      show();
    }),
  );
  const choose = (text, wanted) => {
    const button = make("button", { type: "button", class: "plain" }, text);
    button.onclick = () => {
      drawn.clear();
      set.groups.forEach((group, number) => wanted(number) && drawn.add(number));
      entries.forEach((entry, number) => entry.setAttribute("aria-pressed", drawn.has(number)));
      show();
    };
    return make("li", {}, button);
  };
  legend.append(...entries.map((entry) => make("li", {}, entry)));
  if (set.groups.length > 3) legend.append(choose("all", () => true), choose("none", () => false));
  if (!chosen.every(Boolean)) legend.append(choose("the best", (number) => chosen[number]));
  quantity.onchange = training.onchange = show;
  return show;
}

function layers(section, set) {
  const place = section.querySelector(".layers");
  const known = [...set.groups.keys()].filter((number) => set.groups[number].layers.length);
  if (!known.length) return () => {};
  place.hidden = false;
  const [group, measure] = [place.querySelector(".of-group"), place.querySelector(".measure")];
  const svg = draw("svg", { role: "img", "aria-label": "layers by epoch" });
  place.querySelector("figure").append(svg);
  for (const number of known) group.append(make("option", { value: number }, set.groups[number].label));
  const show = () => {
    const all = set.groups[group.value].layers;
    const both = measure.value.endsWith(" goodness");
    const parts = all.filter((part) => part.measure === measure.value || (both && part.measure.startsWith(measure.value)));
    const series = parts.map((part) => ({
      x: part.epochs, y: part.mean, deviation: part.deviation, color: part.layer % 10, dash: part.measure.endsWith(" neg") ? 1 : 0,
      label: `layer ${part.layer}${both ? part.measure.replace(measure.value, "") : ""}`,
    }));
    const fixed = measure.value.endsWith("separation") ? { low: Math.min(0.5, ...series.flatMap((part) => part.y)), high: 1 } : {};
    lineChart(svg, series, { x: "epoch", wholeX: true, y: measure.value, logX: true, logY: false, show: (value) => short(value), ...fixed });
    const named = new Map(series.map((part) => [part.label, part]));
    const entry = (part) => {
      const button = legendEntry(part.label, part.color, part.dash, true, () => {});
      button.disabled = true;
      return make("li", {}, button);
    };
    place.querySelector(".legend").replaceChildren(...[...named.values()].map(entry));
  };
  const fill = () => {
    const before = measure.value;
    const names = set.groups[group.value].layers.map((part) => part.measure.replace(/ goodness (pos|neg)$/, " goodness"));
    measure.replaceChildren(...[...new Set(names)].map((name) => make("option", { value: name }, name)));
    const preferred = [before, "ff separation"].find((name) => names.includes(name));
    if (preferred) measure.value = preferred;
    show();
  };
  group.onchange = fill;
  measure.onchange = show;
  fill();
  return show;
}

function theme() {
  const root = document.documentElement;
  const dark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const kept = (action) => {
    try {
      return action(localStorage);
    } catch {
      return null; // a page from a disk may have no storage
    }
  };
  root.style.colorScheme = kept((storage) => storage.getItem("ffbp-theme")) ?? "";
  document.getElementById("theme").onclick = () => {
    root.style.colorScheme = dark() ? "light" : "dark";
    kept((storage) => storage.setItem("ffbp-theme", root.style.colorScheme));
  };
}

// a link to a group opens what it leads to
function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}

theme();
const redraw = [];
SETS.forEach((set, number) => {
  const section = document.getElementById(`set-${number}`);
  sortable(section.querySelector(".results"));
  filterable(section);
  redraw.push(curves(section, set), layers(section, set));
  showAnswers(section, set);
});
let drawnAt = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth === drawnAt) return;
  drawnAt = document.body.clientWidth;
  redraw.forEach((show) => show());
}).observe(document.body);
addEventListener("hashchange", openTarget);
openTarget();
