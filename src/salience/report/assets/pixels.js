// Maps as bytes: report/pixels.py writes what is read here.
const study = JSON.parse(document.getElementById("study").textContent);
const held = study.maps;

// Colour-blind-safe (ColorBrewer RdBu, and one hue from white to dark), as 256 colours.
const anchors = {
  signed: ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582",
    "#d6604d", "#b2182b", "#67001f"],
  positive: ["#ffffff", "#fee8c8", "#fdbb84", "#ef6548", "#b30000", "#4a0000"],
};
function palette(kind) {
  const stops = anchors[kind].map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
    const mix = stops[k].map((v, c) => Math.round(v + (at - k) * (stops[k + 1][c] - v)));
    return "#" + mix.map((v) => v.toString(16).padStart(2, "0")).join("");
  });
}
const palettes = { signed: palette("signed"), positive: palette("positive") };

function bytes(text) {
  const raw = atob(text.trim()), made = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) made[i] = raw.charCodeAt(i);
  return made;
}

function readInput(buffer, offset) {
  const [low, high] = new Float32Array(buffer.slice(offset, offset + 8));
  const [height, width] = held.inputs, count = height * width * held.depth;
  const codes = new Uint8Array(buffer.slice(offset + 8, offset + 8 + count));
  const values = Float32Array.from(codes, (c) => low + (c / 255) * (high - low));
  return { low, high, values, codes, length: 8 + count };
}

// Peaks, robust limits and values of each method: sign(code) (code / 127)^2 peak.
const powers = Float32Array.from({ length: 256 }, (_, i) => {
  const code = i > 127 ? i - 256 : i;
  return code === -128 ? NaN : Math.sign(code) * (code / 127) ** 2;
});
function readMaps(buffer, offset) {
  const count = held.methods.length, pixels = held.size[0] * held.size[1];
  const head = new Float32Array(buffer.slice(offset, offset + 8 * count));
  const codes = new Uint8Array(buffer, offset + 8 * count, count * pixels);
  return held.methods.map((_, m) => {
    const values = new Float32Array(pixels);
    let negative = false;
    for (let i = 0; i < pixels; i++) {
      const code = codes[m * pixels + i];
      values[i] = powers[code] * head[m];
      negative ||= code > 128;
    }
    return { peak: head[m], limit: head[count + m], values, negative };
  });
}

// One input: from the page's own block, or asked for, a stage at a time.
const blocks = document.getElementsByClassName("block");
let opened = { sample: -1, buffer: null };
function block(sample) {
  if (opened.sample !== sample) opened = { sample, buffer: bytes(blocks[sample].textContent).buffer };
  return opened.buffer;
}
async function asked(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.arrayBuffer();
}
async function loadInput(sample) {
  if (blocks.length) return readInput(block(sample), 0);
  return readInput(await asked(`inputs/${held.samples[sample]}`), 0);
}
async function loadMaps(sample, stage) {
  if (!blocks.length) {
    return readMaps(await asked(`maps/${held.samples[sample]}/${held.stage_numbers[stage]}`), 0);
  }
  const [height, width] = held.inputs, count = held.methods.length;
  const each = count * (8 + held.size[0] * held.size[1]);
  return readMaps(block(sample), 8 + height * width * held.depth + stage * each);
}
