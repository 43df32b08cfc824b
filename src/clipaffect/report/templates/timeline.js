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

function drawClasses(canvas, task, own) {
  const [pen, width] = prepared(canvas, 150);
  for (const [from, to] of stretches(own.confidence)) {
    let under = new Array(to - from + 1).fill(0);
    task.targets.forEach((_, k) => {
      const over = under.map((y, i) => y + own.probability[k][from + i] / data.scale);
      pen.fillStyle = task.colours[k];
      pen.beginPath();
      for (let i = 0; i < over.length; i++) {
        pen.lineTo(place(data.times[from + i], width), 150 * (1 - over[i]));
        pen.lineTo(place(until(from + i), width), 150 * (1 - over[i]));
      }
      for (let i = over.length - 1; i >= 0; i--) {
        pen.lineTo(place(until(from + i), width), 150 * (1 - under[i]));
        pen.lineTo(place(data.times[from + i], width), 150 * (1 - under[i]));
      }
      pen.fill();
      under = over;
    });
  }
}

function drawLabels(canvas, task, own) {
  const row = 20, [pen, width] = prepared(canvas, row * task.targets.length);
  const accent = style("--accent"), ink = style("--ink");
  task.targets.forEach((name, k) => {
    const top = k * row;
    for (let bin = 0; bin <= last; bin++) {
      const value = own.probability[k][bin];
      if (value === null) continue;
      const left = Math.round(place(data.times[bin], width));
      const right = Math.max(Math.round(place(until(bin), width)), left + 1);
      if (right < 0 || left > width) continue;
      pen.globalAlpha = 0.04 + 0.96 * value / data.scale;
      pen.fillStyle = accent;
      pen.fillRect(left, top + 1, right - left, row - 5);
      if (own.decided[bin].includes(k)) {
        pen.globalAlpha = 1;
        pen.fillStyle = ink;
        pen.fillRect(left, top + row - 3, right - left, 2);
      }
    }
    pen.globalAlpha = 1;
    pen.font = "12px system-ui, sans-serif";
    pen.lineWidth = 3;
    pen.strokeStyle = style("--page");
    pen.fillStyle = ink;
    pen.strokeText(name, 4, top + 13);
    pen.fillText(name, 4, top + 13);
  });
}

function drawSure(canvas) {
  const height = 70, [pen, width] = prepared(canvas, height);
  pen.strokeStyle = style("--line");
  pen.strokeRect(0.5, 0.5, width - 1, height - 1);
  data.tasks.forEach((task, number) => {
    const own = person.tasks[task.name];
    for (const [values, dash] of [[own.confidence, []], [own.spread, [4, 3]]]) {
      pen.strokeStyle = number ? style("--soft") : style("--accent");
      pen.setLineDash(dash);
      pen.lineWidth = 1.5;
      for (const [from, to] of stretches(values)) {
        pen.beginPath();
        for (let bin = from; bin <= to; bin++) {
          const y = height - 2 - (height - 4) * values[bin] / data.scale;
          pen.lineTo(place(data.times[bin], width), y);
          pen.lineTo(place(until(bin), width), y);
        }
        pen.stroke();
      }
    }
  });
}

function draw() {
  for (const canvas of panels.querySelectorAll("canvas[data-task]")) {
    const task = data.tasks[canvas.dataset.task], own = person.tasks[task.name];
    (task.multilabel ? drawLabels : drawClasses)(canvas, task, own);
  }
  drawSure(panels.querySelector("canvas[data-sure]"));
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
  const bin = binAt(now), width = panels.clientWidth;
  const x = place(now, width);
  cursor.style.left = x + "px";
  cursor.hidden = x < 0 || x > width;
  const said = words(bin);
  const kind = data.status[bin];
  const readout = element("readout");
  readout.replaceChildren();
  const big = document.createElement("p");
  big.className = "big";
  big.textContent = clock(now) + (data.unit === "s" ? ", frame " + data.frames[bin] : "");
  readout.append(big);
  const lines = said || ["person " + person.person + ": no answer" +
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
  const box = panels.getBoundingClientRect();
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
  if (event.key === "+") element("closer").click();
  if (event.key === "-") element("wider").click();
});
const zoom = (factor) => { const half = (shown[1] - shown[0]) * factor / 2; look(now - half, now + half); };
element("closer").addEventListener("click", () => zoom(0.5));
element("wider").addEventListener("click", () => zoom(2));
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
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
choose(data.first);
