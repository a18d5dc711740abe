"use strict";
// Three planes of label maps over an image. Volumes arrive as PNG mosaics of axial slices and are unpacked once.
(async () => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const get = (id) => document.getElementById(id);
  const PLANES = [
    // across and down are axes of the volume; down runs to the back, or to the feet
    { name: "axial", axis: 2, across: 0, down: 1, flip: false },
    { name: "coronal", axis: 1, across: 0, down: 2, flip: true },
    { name: "sagittal", axis: 0, across: 1, down: 2, flip: true },
  ];
  const COLORS = [[255, 127, 14], [44, 160, 44], [31, 119, 180], [214, 39, 40], [148, 103, 189], [140, 86, 75],
                  [227, 119, 194], [188, 189, 34], [23, 190, 207], [127, 127, 127]];
  const MISSED = [80, 160, 255], FALSE = [255, 70, 70], OTHER = [255, 220, 60];
  const colorOf = (label) => COLORS[(((label - 1) % COLORS.length) + COLORS.length) % COLORS.length];

  async function unpack(url, size, columns) {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, image.width, image.height).data;
    const [width, height, depth] = size, volume = new Uint8Array(width * height * depth);
    for (let z = 0, to = 0; z < depth; z++) {
      const left = (z % columns) * width, top = Math.floor(z / columns) * height;
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) volume[to++] = pixels[4 * ((top + y) * image.width + left + x)];
    }
    return volume;
  }

  const ready = new Map();
  async function volumes(number) {
    if (!ready.has(number)) {
      const of = data.cases[number], predictions = {};
      for (const [name, url] of Object.entries(of.predictions)) predictions[name] = await unpack(url, of.size, of.columns);
      // without a truth the first prediction says where to look first
      const truth = of.truth ? await unpack(of.truth, of.size, of.columns) : Object.values(predictions)[0];
      ready.set(number, { image: await unpack(of.image, of.size, of.columns), truth, predictions });
    }
    return ready.get(number);
  }

  let current = null, position = [0, 0, 0];

  function color(mode, truth, predicted, values) {
    if (mode === "prediction") return predicted ? colorOf(values[predicted]) : null;
    if (mode === "truth") return truth ? colorOf(values[truth]) : null;
    if (mode !== "error" || truth === predicted) return null;
    return !predicted ? MISSED : !truth ? FALSE : OTHER;
  }

  function draw() {
    if (!current) return;
    const size = data.cases[Number(get("case").value)].size, mode = get("mode").value, alpha = Number(get("opacity").value);
    const predicted = current.predictions[get("model").value], values = data.cases[Number(get("case").value)].values;
    const step = [1, size[0], size[0] * size[1]];
    for (const plane of PLANES) {
      const canvas = get(plane.name), width = size[plane.across], height = size[plane.down];
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
      const start = position[plane.axis] * step[plane.axis];
      for (let row = 0, to = 0; row < height; row++) {
        const down = plane.flip ? height - 1 - row : row;
        for (let column = 0; column < width; column++, to += 4) {
          const at = start + down * step[plane.down] + column * step[plane.across];
          const gray = current.image[at], over = color(mode, current.truth[at], predicted[at], values);
          for (let c = 0; c < 3; c++) picture.data[to + c] = over ? (1 - alpha) * gray + alpha * over[c] : gray;
          picture.data[to + 3] = 255;
        }
      }
      context.putImageData(picture, 0, 0);
      get(plane.name + "-slice").value = position[plane.axis];
      get(plane.name + "-at").textContent = `${position[plane.axis] + 1} of ${size[plane.axis]}`;
    }
    legend(mode);
  }

  function legend(mode) {
    const entries = mode === "error" ? [["missed", MISSED], ["false", FALSE], ["another label", OTHER]]
      : mode === "none" ? [] : data.labels.map(([value, name]) => [name, colorOf(value)]);
    get("legend").replaceChildren(...entries.flatMap(([name, rgb]) => {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${rgb})`;
      return [swatch, name];
    }));
  }

  function densest(of) {
    // where most is labelled: the middle of an elongated structure would often be empty
    const size = of.size, counts = size.map((n) => new Uint32Array(n));
    for (let z = 0, at = 0; z < size[2]; z++)
      for (let y = 0; y < size[1]; y++)
        for (let x = 0; x < size[0]; x++, at++)
          if (current.truth[at]) { counts[0][x]++; counts[1][y]++; counts[2][z]++; }
    return counts.map((c, axis) => { const most = Math.max(...c); return most ? c.indexOf(most) : size[axis] >> 1; });
  }

  async function choose() {
    const number = Number(get("case").value), of = data.cases[number];
    current = await volumes(number);
    position = densest(of);
    for (const plane of PLANES) get(plane.name + "-slice").max = of.size[plane.axis] - 1;
    draw();
    get("viewer").dataset.ready = of.name;
  }

  function move(axis, to) {
    const size = data.cases[Number(get("case").value)].size;
    position[axis] = Math.max(0, Math.min(size[axis] - 1, to));
    draw();
  }

  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
  get("case").append(...data.cases.map((c, i) => option(i, c.title)));
  get("model").append(...Object.keys(data.cases[0].predictions).map((name) => option(name, name)));
  get("case").addEventListener("change", choose);
  for (const id of ["model", "mode", "opacity"]) get(id).addEventListener("input", draw);
  for (const plane of PLANES) {
    const canvas = get(plane.name);
    get(plane.name + "-slice").addEventListener("input", (e) => move(plane.axis, Number(e.target.value)));
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      move(plane.axis, position[plane.axis] + Math.sign(e.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (e) => {
      const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[e.key];
      if (by) { e.preventDefault(); move(plane.axis, position[plane.axis] + by); }
    });
    canvas.addEventListener("click", (e) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor((e.clientX - box.left) / box.width * canvas.width);
      const row = Math.floor((e.clientY - box.top) / box.height * canvas.height);
      position[plane.across] = Math.min(canvas.width - 1, column);
      position[plane.down] = Math.min(canvas.height - 1, plane.flip ? canvas.height - 1 - row : row);
      draw();
    });
  }
  await choose();
})();
