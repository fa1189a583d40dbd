// The cascade viewer: native controls over Bokeh panels that share their ranges.
function image(values, size, kind) {
  const { ndarray } = Bokeh.require("core/util/ndarray");
  return ndarray(values, { dtype: kind, shape: size });
}
const brief = (value) => (Number.isNaN(value) ? "undefined" : value === 0 ? "0" : value.toPrecision(2));

function startViewer(find) {
  const at = (id) => document.getElementById(id);
  const ranges = { x: find("x-range"), y: find("y-range") };
  const [height, width] = held.full;
  const shown = { sample: 0, stage: 0, input: null, maps: [], cursor: null };
  const panels = [...document.querySelectorAll(".panel")];
  const rows = new Map((study.test?.rows ?? []).map((row) => [row.method, row]));
  let turn = 0;

  async function show() {
    const mine = ++turn;
    const sample = Number(at("input-picker").value), stage = Number(at("stage")?.value ?? 0);
    const input = shown.input && sample === shown.sample ? shown.input : await loadInput(sample);
    const maps = await loadMaps(sample, stage);
    if (mine !== turn) return; // a later request was answered first
    if (input !== shown.input) drawInput(input);
    Object.assign(shown, { sample, stage, input, maps });
    if (at("stage")) {
      const name = held.stages[stage];
      at("stage-name").textContent = stage ? `randomised to ${name}` : name;
      at("stage").setAttribute("aria-valuetext", at("stage-name").textContent);
    }
    maps.forEach(drawMap);
    describe();
    tell();
    at("panels").dataset.shown = `${sample}/${stage}`;
  }

  function drawInput(input) {
    const colours = find("input-colours");
    if (colours) colours.setv({ low: input.low, high: input.high > input.low ? input.high : input.low + 1 });
    let pixels = image(input.values, held.inputs, "float32");
    if (held.depth === 3) {
      const rgba = new Uint32Array(held.inputs[0] * held.inputs[1]);
      for (let i = 0; i < rgba.length; i++) {
        rgba[i] = (255 << 24) | (input.codes[3 * i + 2] << 16) | (input.codes[3 * i + 1] << 8) | input.codes[3 * i];
      }
      pixels = image(rgba, held.inputs, "uint32");
    }
    find("input").data = { image: [pixels] };
  }

  function drawMap(map, m) {
    const signed = held.signed[m] || map.negative;
    const end = (at("robust").checked ? map.limit : map.peak) || 1;
    find(`map-${m}-colours`).setv({
      palette: palettes[signed ? "signed" : "positive"], low: signed ? -end : 0, high: end,
    });
    find(`map-${m}`).data = { image: [image(map.values, held.size, "float32")] };
    const bar = document.createElement("span"), words = signed ? `±${brief(end)}` : `0 to ${brief(end)}`;
    bar.className = "bar";
    bar.style.background = `linear-gradient(90deg, ${anchors[signed ? "signed" : "positive"].join()})`;
    panels[m + 1].querySelector(".scale").replaceChildren(bar, ` ${words}`);
  }

  function describe() {
    panels.slice(1).forEach((panel, m) => {
      const kept = keptOf(m);
      panel.querySelector(".kept").textContent = kept === null ? "" : `kept ${kept.toFixed(2)}`;
      const where = shown.stage ? `randomised to ${held.stages[shown.stage]}` : "on the trained network";
      panel.querySelector(".picture").setAttribute("aria-label",
        `Map of ${held.methods[m]} for ${held.names[shown.sample]}, ${where}` +
        (kept === null ? "" : `; similarity with the trained map ${kept.toFixed(2)}`));
    });
    panels[0].querySelector(".picture").setAttribute("aria-label", held.names[shown.sample]);
  }

  function keptOf(m) {
    if (!study.test || held.stages.length < 2) return null;
    if (!shown.stage) return 1;
    const method = study.test.methods.indexOf(held.methods[m]);
    const stage = study.test.stages.indexOf(held.stages[shown.stage]);
    return study.test.first[method]?.[stage]?.[held.samples[shown.sample]] ?? null;
  }

  // Values under the cursor, in all panels at once.
  function tell() {
    const place = shown.cursor;
    find("cursor").data = place ? { x: [place.x + 0.5], y: [place.y + 0.5] } : { x: [], y: [] };
    if (!place || !shown.input) return;
    const value = (values, size, depth = 1, channel = 0) =>
      values[(Math.floor((place.y / height) * size[0]) * size[1] +
        Math.floor((place.x / width) * size[1])) * depth + channel];
    const channels = Array.from({ length: held.depth }, (_, c) =>
      brief(value(shown.input.values, held.inputs, held.depth, c)));
    at("place").textContent = `column ${place.x}, row ${place.y}`;
    panels[0].querySelector(".value").textContent = channels.join(" ");
    shown.maps.forEach((map, m) => {
      panels[m + 1].querySelector(".value").textContent = `here ${brief(value(map.values, held.size))}`;
    });
  }

  function point(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const along = (range, share) => Math.floor(range.start + share * (range.end - range.start));
    shown.cursor = clamped(along(ranges.x, (event.clientX - box.left) / box.width),
      along(ranges.y, (event.clientY - box.top) / box.height));
    tell();
  }
  const clamped = (x, y) => ({
    x: Math.max(0, Math.min(width - 1, x)), y: Math.max(0, Math.min(height - 1, y)),
  });

  const axes = [[ranges.x, width, "x"], [ranges.y, height, "y"]];
  const low = (range) => Math.min(range.start, range.end), span = (range) => Math.abs(range.end - range.start);
  function lay(range, size, from, wide) {
    const start = Math.max(0, Math.min(size - wide, from)), end = start + wide;
    range.setv(range === ranges.y ? { start: end, end: start } : { start, end });
  }

  // shares: what stays in place, as fractions of a panel; otherwise the cursor, or the middle.
  function zoom(factor, shares) {
    axes.forEach(([range, size, place], k) => {
      const from = low(range), wide = Math.min(size, Math.max(Math.min(size, 4), span(range) * factor));
      const cursor = shown.cursor ? (shown.cursor[place] + 0.5 - from) / span(range) : 0.5;
      const share = shares ? shares[k] : cursor;
      lay(range, size, from + share * (span(range) - wide), wide);
    });
    at("panels").classList.toggle("zoomed", span(ranges.x) < width || span(ranges.y) < height);
  }

  function move(...shares) {
    axes.forEach(([range, size], k) => lay(range, size, low(range) + shares[k] * span(range), span(range)));
  }

  function key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const turns = { PageDown: 1, PageUp: -1 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) {
      const step = event.shiftKey ? 10 : 1, [x, y] = moves[event.key];
      const from = shown.cursor ?? clamped(width >> 1, height >> 1);
      shown.cursor = clamped(from.x + x * step, from.y + y * step);
      tell();
    } else if (event.key === "+" || event.key === "=") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "0") zoom(1e9);
    else if (turns[event.key] && at("stage")) {
      at("stage").value = Number(at("stage").value) + turns[event.key];
      show();
    } else return;
    event.preventDefault();
  }

  function blend() {
    const share = Number(at("opacity").value) / 100;
    at("opacity-value").textContent = `${Math.round(100 * share)}%`;
    held.methods.forEach((_, m) => { find(`map-${m}-image`).glyph.global_alpha = { value: share }; });
  }

  held.methods.forEach((name, m) => {
    const row = rows.get(name), verdict = panels[m + 1].querySelector(".verdict");
    if (row) { verdict.textContent = row.verdict; verdict.dataset.verdict = row.verdict; }
  });
  at("input-picker").addEventListener("change", show);
  at("stage")?.addEventListener("input", show);
  at("robust").addEventListener("change", () => shown.maps.forEach(drawMap));
  at("opacity").addEventListener("input", blend);
  at("zoom-in").addEventListener("click", () => zoom(0.5));
  at("zoom-out").addEventListener("click", () => zoom(2));
  at("zoom-reset").addEventListener("click", () => zoom(1e9));
  at("panels").addEventListener("keydown", key);
  const pictures = document.querySelectorAll(".picture");
  gestures(pictures, zoom, move);
  for (const picture of pictures) {
    for (const kind of ["pointermove", "pointerdown"]) picture.addEventListener(kind, point);
  }
  for (const box of document.querySelectorAll("input[name=method]")) {
    box.addEventListener("change", () => { panels[Number(box.value) + 1].hidden = !box.checked; });
  }
  return show();
}
