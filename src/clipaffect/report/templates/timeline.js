"use strict";
// The video and its curves: one position, moved by either.
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const panels = element("panels"), cursor = element("cursor"), video = element("video");
const last = data.times.length - 1;
const end = data.times[last] + data.step;
let shown = [data.times[0], end];  // what the panels show
let now = data.times[0];
let person = data.people[data.first];

const binAt = (time) => {
  let low = 0, high = last;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (data.times[middle] <= time + data.step / 10) low = middle; else high = middle - 1;
  }
  return low;
};
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const percent = (value) => value === null ? "–" : (100 * value / data.scale).toFixed(0) + " %";
const clock = (time) => data.unit === "s" ? time.toFixed(2) + " s" : "frame " + time;

function prepared(canvas, height) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.round(height * scale);
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  return [pen, width];
}
const place = (time, width) => (time - shown[0]) / (shown[1] - shown[0]) * width;
const until = (bin) => bin < last ? data.times[bin + 1] : end;

// Stretches of bins that have a value: a gap stays a gap.
function stretches(values) {
  const found = [];
  let from = -1;
  for (let bin = 0; bin <= values.length; bin++) {
    const known = bin < values.length && values[bin] !== null;
    if (known && from < 0) from = bin;
    if (!known && from >= 0) { found.push([from, bin - 1]); from = -1; }
  }
  return found;
}

const CLASSES = 150, ROW = 20, SURE = 70;  // heights

function paintClasses(pen, width, task) {
  const own = person.tasks[task.name];
  for (const [from, to] of stretches(own.confidence)) {
    let under = new Array(to - from + 1).fill(0);
    task.targets.forEach((_, k) => {
      const over = under.map((y, i) => y + own.probability[k][from + i] / data.scale);
      pen.fillStyle = task.colours[k];
      pen.beginPath();
      for (let i = 0; i < over.length; i++) {
        pen.lineTo(place(data.times[from + i], width), CLASSES * (1 - over[i]));
        pen.lineTo(place(until(from + i), width), CLASSES * (1 - over[i]));
      }
      for (let i = over.length - 1; i >= 0; i--) {
        pen.lineTo(place(until(from + i), width), CLASSES * (1 - under[i]));
        pen.lineTo(place(data.times[from + i], width), CLASSES * (1 - under[i]));
      }
      pen.fill();
      under = over;
    });
  }
}

function paintLabels(pen, width, task) {
  const own = person.tasks[task.name], accent = style("--accent"), ink = style("--ink");
  task.targets.forEach((name, k) => {
    const top = k * ROW;
    for (let bin = 0; bin <= last; bin++) {
      const value = own.probability[k][bin];
      if (value === null) continue;
      const left = Math.round(place(data.times[bin], width));
      const right = Math.max(Math.round(place(until(bin), width)), left + 1);
      if (right < 0 || left > width) continue;
      pen.globalAlpha = 0.04 + 0.96 * value / data.scale;
      pen.fillStyle = accent;
      pen.fillRect(left, top + 1, right - left, ROW - 5);
      if (own.decided[bin].includes(k)) {
        pen.globalAlpha = 1;
        pen.fillStyle = ink;
        pen.fillRect(left, top + ROW - 3, right - left, 2);
      }
    }
    pen.globalAlpha = 1;
  });
}

function paintSure(pen, width) {
  pen.lineWidth = 1;
  pen.strokeStyle = style("--line");
  for (const y of [0.5, SURE / 2, SURE - 0.5]) {
    pen.beginPath();
    pen.lineTo(0, y);
    pen.lineTo(width, y);
    pen.stroke();
  }
  data.tasks.forEach((task, number) => {
    const own = person.tasks[task.name];
    for (const [values, dash] of [[own.confidence, []], [own.spread, [4, 3]]]) {
      pen.strokeStyle = number ? style("--soft") : style("--accent");
      pen.setLineDash(dash);
      pen.lineWidth = 1.5;
      for (const [from, to] of stretches(values)) {
        pen.beginPath();
        for (let bin = from; bin <= to; bin++) {
          const y = SURE - SURE * values[bin] / data.scale;
          pen.lineTo(place(data.times[bin], width), y);
          pen.lineTo(place(until(bin), width), y);
        }
        pen.stroke();
      }
    }
  });
  pen.setLineDash([]);
}

// Each panel: its canvas, its height, what stands on its left (text, y), and how it is painted.
const SHARES = (height) => [["100 %", 10], ["50 %", height / 2 + 4], ["0 %", height]];
const drawn = [...panels.querySelectorAll("canvas")].map((canvas) => {
  const task = data.tasks[canvas.dataset.task];
  const title = canvas.closest(".panel").previousElementSibling.textContent;
  if (!task) return { canvas, title, height: SURE, left: SHARES(SURE), paint: paintSure };
  if (!task.multilabel) {
    const paint = (pen, width) => paintClasses(pen, width, task);
    return { canvas, title, height: CLASSES, left: SHARES(CLASSES), paint, task };
  }
  const left = task.targets.map((name, k) => [`${name} ${task.meanings[k]}`.trim(), k * ROW + 13]);
  const paint = (pen, width) => paintLabels(pen, width, task);
  return { canvas, title, height: ROW * task.targets.length, left, paint };
});

function draw() {
  for (const { canvas, height, paint } of drawn) paint(...prepared(canvas, height));
  element("from").textContent = clock(shown[0]);
  element("to").textContent = clock(shown[1]);
  show();
}

function words(bin) {
  const parts = data.tasks.map((task) => {
    const own = person.tasks[task.name], decided = own.decided[bin];
    if (decided === null) return null;
    const names = decided.map((k) => task.targets[k] + " " + percent(own.probability[k][bin]));
    return task.name + ": " + (names.join(", ") || "none");
  });
  return parts[0] === null ? null : parts;
}

function show() {
  const bin = binAt(now), canvas = drawn[0].canvas, width = canvas.clientWidth;
  const x = place(now, width);
  cursor.style.left = canvas.offsetLeft + x + "px";
  cursor.hidden = x < 0 || x > width;
  const said = words(bin);
  const kind = data.status[bin];
  const readout = element("readout");
  readout.replaceChildren();
  const big = document.createElement("p");
  big.className = "big";
  big.textContent = clock(now) + (data.unit === "s" ? ", frame " + data.frames[bin] : "");
  readout.append(big);
  const lines = said || ["person " + person.person + ": no prediction" +
    (kind >= 0 ? " (" + data.statuses[kind].meaning + ")" : " (not seen here)")];
  for (const line of lines) {
    const p = document.createElement("p");
    p.textContent = line;
    readout.append(p);
  }
  panels.setAttribute("aria-valuemin", data.times[0].toFixed(2));
  panels.setAttribute("aria-valuemax", end.toFixed(2));
  panels.setAttribute("aria-valuenow", now.toFixed(2));
  panels.setAttribute("aria-valuetext", clock(now) + ", " + lines.join("; "));
  let near = null;
  for (const button of element("thumbs").children) {
    button.classList.remove("near");
    if (near === null || Math.abs(button.dataset.time - now) < Math.abs(near.dataset.time - now)) near = button;
  }
  if (near) near.classList.add("near");
}

// A moment past the frame's own time: a browser shows the frame before where both are equal.
function go(time) {
  now = Math.min(Math.max(time, data.times[0]), data.times[last]);
  if (now < shown[0] || now > shown[1]) {
    const half = (shown[1] - shown[0]) / 2;
    look(now - half, now + half);
  }
  if (video && data.unit === "s" && !video.error) video.currentTime = now + data.step / 4;
  show();
}

function look(from, to) {
  const length = Math.min(Math.max(to - from, 10 * data.step), end - data.times[0]);
  const start = Math.min(Math.max((from + to - length) / 2, data.times[0]), end - length);
  shown = [start, start + length];
  draw();
}

function choose(number) {
  person = data.people[number];
  const strip = element("thumbs");
  strip.replaceChildren(...person.thumbnails.map((one) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    button.dataset.time = one.time;
    image.src = one.src;
    image.alt = "person " + person.person + " at " + clock(one.time);
    button.append(image);
    button.addEventListener("click", () => go(one.time));
    return button;
  }));
  strip.hidden = !person.thumbnails.length;
  draw();
}

function follow() {
  if (!video.paused) {
    now = Math.min(Math.max(video.currentTime, data.times[0]), end);
    if (now > shown[1]) look(now, now + shown[1] - shown[0]);
    show();
    requestAnimationFrame(follow);
  }
}
if (video) {
  video.addEventListener("play", follow);
  for (const kind of ["seeked", "timeupdate", "pause"]) {
    video.addEventListener(kind, () => {
      // Where this page sought itself, the frame's own time stays.
      if (Math.abs(video.currentTime - now) > data.step) { now = video.currentTime; show(); }
    });
  }
  // A browser without the codec either refuses the file, or plays its sound under a black picture.
  const unplayable = () => {
    element("unplayable").hidden = !video.error && !(video.readyState >= 1 && video.videoWidth === 0);
  };
  for (const kind of ["error", "loadedmetadata"]) video.addEventListener(kind, unplayable);
  unplayable();
}

let dragging = false;
const seek = (event) => {
  const box = drawn[0].canvas.getBoundingClientRect();
  const time = shown[0] + (event.clientX - box.left) / box.width * (shown[1] - shown[0]);
  go(data.times[binAt(time)]);
};
panels.addEventListener("pointerdown", (event) => { dragging = true; seek(event); });
window.addEventListener("pointermove", (event) => { if (dragging) seek(event); });
for (const kind of ["pointerup", "pointercancel"]) window.addEventListener(kind, () => { dragging = false; });
panels.addEventListener("keydown", (event) => {
  const bin = binAt(now), far = data.unit === "s" ? 1 : 25;
  const moves = {
    ArrowRight: event.shiftKey ? now + far : data.times[Math.min(bin + 1, last)],
    ArrowLeft: event.shiftKey ? now - far : data.times[Math.max(bin - 1, 0)],
    PageDown: now + 10 * far, PageUp: now - 10 * far, Home: data.times[0], End: data.times[last],
  };
  if (event.key in moves) { event.preventDefault(); go(moves[event.key]); }
  if (event.key === " " && video) { event.preventDefault(); video.paused ? video.play() : video.pause(); }
  if (event.key === "+") element("zoom-in").click();
  if (event.key === "-") element("zoom-out").click();
});
const zoom = (factor) => { const half = (shown[1] - shown[0]) * factor / 2; look(now - half, now + half); };
element("zoom-in").addEventListener("click", () => zoom(0.5));
element("zoom-out").addEventListener("click", () => zoom(2));
element("all").addEventListener("click", () => look(data.times[0], end));
for (const radio of document.querySelectorAll("input[name=person]")) {
  radio.addEventListener("change", () => choose(Number(radio.value)));
}
for (const button of document.querySelectorAll("button[data-go]")) {
  button.addEventListener("click", () => {
    const number = data.people.findIndex((one) => one.person === Number(button.dataset.person));
    if (number >= 0) { document.querySelector(`input[name=person][value="${number}"]`).checked = true; choose(number); }
    go(Number(button.dataset.go));
    panels.scrollIntoView({ block: "center" });
  });
}

// The same calls as a canvas understands, kept as SVG.
class SvgPen {
  parts = []; path = []; dash = []; globalAlpha = 1; lineWidth = 1;
  beginPath() { this.path = []; }
  lineTo(x, y) { this.path.push(`${x.toFixed(1)},${y.toFixed(1)}`); }
  setLineDash(dash) { this.dash = dash; }
  fill() { this.parts.push(`<polygon points="${this.path.join(" ")}" fill="${this.fillStyle}"/>`); }
  stroke() {
    this.parts.push(`<polyline points="${this.path.join(" ")}" fill="none" stroke="${this.strokeStyle}" ` +
      `stroke-width="${this.lineWidth}" stroke-dasharray="${this.dash.join(" ")}"/>`);
  }
  fillRect(x, y, width, height) {
    this.parts.push(`<rect x="${x}" y="${y}" width="${width}" height="${height}" ` +
      `fill="${this.fillStyle}" fill-opacity="${this.globalAlpha.toFixed(3)}"/>`);
  }
}

// What the panels show now, as one picture with its names and axes.
function picture() {
  const width = 900, gutter = 190, ink = style("--ink");
  const escaped = (text) => text.replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`);
  const text = (x, y, said, anchor) =>
    `<text x="${x}" y="${y}" text-anchor="${anchor}" fill="${ink}">${escaped(said)}</text>`;
  const parts = [];
  let y = 10;
  for (const { title, height, left, paint, task } of drawn) {
    y += 24;
    parts.push(text(gutter, y - 6, title, "start"));
    for (const [said, at] of left) parts.push(text(gutter - 8, y + at, said, "end"));
    const pen = new SvgPen();
    paint(pen, width);
    parts.push(`<svg x="${gutter}" y="${y}" width="${width}" height="${height}">${pen.parts.join("")}</svg>`);
    y += height;
    if (task) {
      task.targets.forEach((name, k) => {
        const x = gutter + k * width / task.targets.length;
        parts.push(`<rect x="${x}" y="${y + 6}" width="10" height="10" fill="${task.colours[k]}"/>`);
        parts.push(text(x + 14, y + 15, name, "start"));
      });
      y += 20;
    }
  }
  parts.push(text(gutter, y + 18, clock(shown[0]), "start"), text(gutter + width, y + 18, clock(shown[1]), "end"));
  const [across, down] = [gutter + width + 10, y + 28];
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${across}" height="${down}" font-family="sans-serif" font-size="12">` +
    `<rect width="100%" height="100%" fill="${style("--page")}"/>${parts.join("")}</svg>`;
}
function download(blob, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${document.title.replace(/: timeline$/, "")}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
element("svg").addEventListener("click", () =>
  download(new Blob([picture()], { type: "image/svg+xml" }), "svg"));
element("png").addEventListener("click", () => {
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(blob, "png"));
  };
  image.src = "data:image/svg+xml," + encodeURIComponent(picture());
});

window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
choose(data.first);
