"use strict";
// A card for each network: its answer, the score of each class, what Forward-Forward weighs, and what the layers do.

/** Make an element with properties and children; texts become text, never HTML. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A card, and `show(found, pixels)`, which fills it with what `ask` has found, or with null for nothing drawn. */
function card(network) {
  const ff = network.ff, labels = network.classes;
  const answer = element("strong", { textContent: "–" }), sure = element("span", { textContent: " " });
  const about = [network.sizes, network.accuracy].filter(Boolean).join(", ");
  const top = element("div", { className: "top" },
    element("div", {}, element("h2", { textContent: network.title }), element("p", { className: "about", textContent: about }),
      element("p", { className: "run", textContent: network.run })),
    element("div", { className: "answer" }, answer, sure));
  const parts = [scores(network), ...(ff && ff.labels ? [weighing(network)] : []), activities(network)];
  const section = element("section", { className: ff ? "card ff" : "card" }, top, ...parts.map((part) => part.element));
  section.setAttribute("aria-label", network.title);

  function show(found, pixels) {
    answer.textContent = found ? labels[found.answer] : "–";
    sure.textContent = found ? said(network, found) : " ";
    for (const part of parts) part.show(found, pixels);
  }
  return { element: section, show };
}

/** How sure a network is: its share of the softmax, or by how much the best label's goodness leads. */
function said(network, found) {
  if (network.ff && network.ff.readout === "goodness") {
    const [first, second] = [...found.goodness].sort((a, b) => b - a);
    return `ahead by ${short(first - second)}`;
  }
  return `${(100 * softmax(found.logits)[found.answer]).toFixed(1)} %`;
}

function scores(network) {
  const bars = network.classes.map(() => element("i"));
  const heads = network.classes.map((name) => element("th", { scope: "col", textContent: name }));
  const shares = element("tr", {}, ...bars.map((bar) => element("td", { className: "column" }, bar)));
  const table = element("table", { className: "grid" }, element("tbody", {}, shares, element("tr", {}, ...heads)));
  const title = network.ff ? "The linear read-out on top, trained on the layers' activity" : "The output of the last layer";
  const made = element("div", {}, heading("Score of each class", title), table);
  return {
    element: made,
    show(found) {
      const values = found ? softmax(found.logits) : network.classes.map(() => 0);
      const best = found ? values.indexOf(Math.max(...values)) : -1;
      values.forEach((value, k) => {
        bars[k].style.height = `${4.2 * value}rem`;
        bars[k].parentNode.title = `${network.classes[k]}: ${(100 * value).toFixed(2)} %`;
        heads[k].className = k === best ? "best" : "";
      });
    },
  };
}

/** The table of goodness: a row for each layer and, if several count, one for their sum; a column for each label. */
function weighing(network) {
  const { readoutLayers, size } = network.ff, names = network.layers.map((_, k) => `Layer ${k + 1}`);
  const summed = readoutLayers.length > 1 || network.layers.length > 1;
  const rows = [...names, ...(summed ? [`Sum of layer ${readoutLayers.map((k) => k + 1).join(" + ")}`] : [])];
  const shown = network.classes.map(() => element("canvas", { width: size, height: size }));
  const body = element("tbody", {}, element("tr", {}, ...network.classes.map((name) => element("th", { scope: "col", textContent: name }))),
    element("tr", {}, ...shown.map((canvas) => element("td", { className: "shown" }, canvas))));
  const cells = rows.map((name) => {
    const row = network.classes.map(() => element("td", { textContent: " " }));
    const title = element("th", { scope: "rowgroup", colSpan: 10, textContent: name });
    title.style.textAlign = "left";
    if (rows.length > 1) body.append(element("tr", {}, title));
    body.append(element("tr", {}, ...row));
    return row;
  });
  const explained = element("p", { className: "explained", textContent: network.ff.covered
    ? "Each label is written into the image, as a bright dot at the top left. The label under which the layers are most active fits best."
    : "Each label is written into the image, as a wave or a plane of its own. The label under which the layers are most active fits best." });
  const made = element("div", {}, heading("Goodness of each label", `the ${network.ff.goodness === "sum_square" ? "sum" : "mean"} of its squared activities`),
    element("table", { className: "grid" }, body), explained);
  return {
    element: made,
    show(found, pixels) {
      shown.forEach((canvas, label) => paint(canvas, found ? labelled(network, pixels, label) : null));
      const values = found ? [...found.layers, ...(summed ? [found.goodness] : [])] : [];
      cells.forEach((row, k) => {
        const [least, most] = found ? [Math.min(...values[k]), Math.max(...values[k])] : [0, 0];
        row.forEach((cell, label) => {
          const value = found ? values[k][label] : 0, share = most > least ? (value - least) / (most - least) : 0;
          cell.textContent = found ? short(value) : " ";
          cell.className = found && value === most ? "best" : "";
          cell.style.background = found
            ? `color-mix(in srgb, var(--accent) ${Math.round(60 * share)}%, var(--card))` : "var(--soft)";
        });
      });
    },
  };
}

function activities(network) {
  const drawn = network.layers.map(() => ({ canvas: element("canvas", { width: 1, height: 1 }), caption: element("figcaption") }));
  const figures = drawn.map(({ canvas, caption }) => element("figure", { className: "layer" }, canvas, caption));
  const how = network.ff && network.ff.labels ? "with a tenth of every label in the image" : "the more colour, the more active";
  const made = element("div", {}, heading("What each layer does", how), ...figures);
  return {
    element: made,
    show(found) {
      const colour = getComputedStyle(made).getPropertyValue("--accent");
      const soft = getComputedStyle(made).getPropertyValue("--soft");
      drawn.forEach(({ canvas, caption }, k) => {
        const { shape, data } = found ? found.activities[k] : network.quiet[k];
        const active = data.reduce((sum, value) => sum + (value ? 1 : 0), 0);
        const what = shape.length > 1 ? `${shape[0]} maps of ${shape[1]} x ${shape[2]}` : `${shape[0]} units`;
        caption.textContent = `Layer ${k + 1}: ${what}${found && shape.length === 1 ? `, ${active} active` : ""}`;
        drawActivity(canvas, shape, data, colour, soft);
      });
    },
  };
}

/** Units as squares, maps as pictures, side by side: the stronger the activity, the more of the colour. */
function drawActivity(canvas, [count, height = 1, width = 1], data, colour, soft) {
  const zoom = height > 1 ? Math.max(2, Math.floor(26 / height)) : 12, gap = height > 1 ? 3 : 2;
  const wide = width * zoom + gap, high = height * zoom + gap;
  const columns = Math.min(count, 2 ** Math.round(Math.log2(Math.sqrt((count * 2 * high) / wide)))); // rows that fill up
  canvas.width = columns * wide;
  canvas.height = Math.ceil(count / columns) * high;
  const context = canvas.getContext("2d"), most = data.reduce((a, b) => Math.max(a, Math.abs(b)), 0) || 1;
  for (let k = 0; k < count; k++) {
    const left = (k % columns) * wide, top = Math.floor(k / columns) * high;
    context.globalAlpha = 1;
    context.fillStyle = soft;
    context.fillRect(left, top, width * zoom, height * zoom);
    context.fillStyle = colour;
    for (let i = 0; i < height * width; i++) {
      const value = Math.abs(data[k * height * width + i]) / most;
      if (value < 0.02) continue;
      context.globalAlpha = value;
      context.fillRect(left + (i % width) * zoom, top + Math.floor(i / width) * zoom, zoom, zoom);
    }
  }
}

/** Paint pixels in [0, 1], white on black; black for null. */
function paint(canvas, pixels) {
  const image = new ImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    image.data.fill(pixels ? Math.min(255, Math.max(0, 255 * pixels[i])) : 0, 4 * i, 4 * i + 3);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function heading(text, small) {
  return element("h3", {}, `${text} `, element("small", { textContent: small }));
}

function short(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2);
}
