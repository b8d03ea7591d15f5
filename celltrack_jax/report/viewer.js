"use strict";
// Plays the movie, draws outlines and tails, and keeps the lineage tree and the movie on the same track.
(() => {
  const movie = JSON.parse(document.getElementById("movie").textContent);
  const at = (id) => document.getElementById(id);
  const drawing = at("drawing");
  if (!drawing) return;
  const [WIDTH, HEIGHT] = movie.size;
  const TAIL = 10; // positions
  const FRAME_MS = 160;
  const WHITE = "#ffffff";

  const decode = (cells) => cells.map(([label, x, y, rings]) => {
    const path = new Path2D();
    for (const ring of rings) {
      let px = 0, py = 0;
      for (let i = 0; i < ring.length; i += 2) {
        px += ring[i];
        py += ring[i + 1];
        if (i) path.lineTo(px / movie.steps, py / movie.steps);
        else path.moveTo(px / movie.steps, py / movie.steps);
      }
      path.closePath();
    }
    return { label, x, y, path };
  });
  const result = movie.result.map(decode);
  const truth = movie.truth ? movie.truth.map(decode) : null;
  const places = result.map((cells) => new Map(cells.map((cell) => [cell.label, cell])));
  const colourOf = (label) => {
    const track = movie.tracks[label];
    return track ? movie.colours[track[0]] : WHITE;
  };
  const pictures = movie.pictures.map((source) => {
    const picture = new Image();
    picture.onload = () => { if (pictures[now] === picture) draw(); };
    picture.src = source;
    return picture;
  });

  let now = 0, chosen = null, timer = null;
  const shown = (id) => { const box = at(id); return box !== null && box.checked; };

  // A tail follows a track back, through the division it began with, as far as frames have it.
  function tail(cell) {
    const points = [cell];
    let label = cell.label;
    for (let t = now - 1; t >= 0 && points.length < TAIL; t--) {
      if (!places[t].has(label)) {
        label = movie.tracks[label] ? movie.tracks[label][1] : 0;
        if (!places[t].has(label)) break;
      }
      points.push(places[t].get(label));
    }
    return points;
  }

  function drawTails(pen, unit) {
    pen.lineCap = "round";
    for (const cell of result[now]) {
      const points = tail(cell);
      pen.strokeStyle = colourOf(cell.label);
      for (let i = 1; i < points.length; i++) {
        pen.globalAlpha = 1 - i / TAIL;
        pen.lineWidth = 2.5 * unit;
        pen.beginPath();
        pen.moveTo(points[i - 1].x, points[i - 1].y);
        pen.lineTo(points[i].x, points[i].y);
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
  }

  function drawResult(pen, unit) {
    pen.lineJoin = "round";
    for (const cell of result[now]) {
      pen.strokeStyle = colourOf(cell.label);
      pen.lineWidth = (cell.label === chosen ? 4 : 2) * unit;
      pen.stroke(cell.path);
      if (cell.label === chosen) {
        pen.globalAlpha = 0.35;
        pen.fillStyle = pen.strokeStyle;
        pen.fill(cell.path, "evenodd");
        pen.globalAlpha = 1;
      }
    }
  }

  function drawTruth(pen, unit) {
    pen.strokeStyle = WHITE;
    pen.lineWidth = 1.3 * unit;
    pen.setLineDash([4 * unit, 3 * unit]);
    for (const cell of truth[now]) pen.stroke(cell.path);
    pen.setLineDash([]);
  }

  function drawErrors(pen, unit) {
    const missed = new Set(movie.missed[now]), extra = new Set(movie.extra[now]);
    const mark = (cell, strokes) => {
      const r = 7 * unit;
      const path = new Path2D();
      for (const [x1, y1, x2, y2] of strokes) {
        path.moveTo(cell.x + x1 * r, cell.y + y1 * r);
        path.lineTo(cell.x + x2 * r, cell.y + y2 * r);
      }
      for (const [width, colour] of [[6, "#000000"], [3, WHITE]]) {
        pen.lineWidth = width * unit;
        pen.strokeStyle = colour;
        pen.stroke(path);
      }
    };
    pen.lineCap = "round";
    for (const cell of truth[now]) {
      if (!missed.has(cell.label)) continue;
      pen.lineWidth = 2.5 * unit;
      pen.strokeStyle = WHITE;
      pen.stroke(cell.path);
      mark(cell, [[-0.7, -0.7, 0.7, 0.7], [-0.7, 0.7, 0.7, -0.7]]);
    }
    for (const cell of result[now]) if (extra.has(cell.label)) mark(cell, [[-1, 0, 1, 0], [0, -1, 0, 1]]);
  }

  // From orange to blue, which tell apart for all eyes, over a dark rim that any picture leaves visible.
  const SURE = [90, 180, 255], UNSURE = [255, 140, 40];
  function drawLinks(pen, unit) {
    pen.lineCap = "round";
    for (const [x1, y1, x2, y2, percent, wasChosen] of movie.links[now]) {
      const p = percent / 100;
      const colour = `rgb(${SURE.map((sure, i) => Math.round(p * sure + (1 - p) * UNSURE[i])).join()})`;
      pen.setLineDash(wasChosen ? [] : [2 * unit, 4 * unit]);
      pen.globalAlpha = wasChosen ? 1 : 0.3 + 0.6 * p;
      pen.beginPath();
      pen.moveTo(x1 / movie.steps, y1 / movie.steps);
      pen.lineTo(x2 / movie.steps, y2 / movie.steps);
      for (const [width, ink] of wasChosen ? [[5, "#000000"], [3, colour]] : [[1.5, colour]]) {
        pen.lineWidth = width * unit;
        pen.strokeStyle = ink;
        pen.stroke();
      }
      pen.beginPath();
      pen.arc(x2 / movie.steps, y2 / movie.steps, (wasChosen ? 3 : 1.5) * unit, 0, 7);
      pen.fillStyle = colour;
      pen.fill();
    }
    pen.setLineDash([]);
    pen.globalAlpha = 1;
  }

  function drawNames(pen, unit) {
    pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineWidth = 3 * unit;
    pen.strokeStyle = "#000000";
    pen.fillStyle = WHITE;
    for (const cell of result[now]) {
      pen.strokeText(cell.label, cell.x, cell.y);
      pen.fillText(cell.label, cell.x, cell.y);
    }
  }

  // Both canvases have the screen's own pixels, so that lines stay sharp; `unit` is one CSS pixel.
  function fresh(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const wide = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const high = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== wide || canvas.height !== high) {
      canvas.width = wide;
      canvas.height = high;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, wide, high);
    pen.setTransform(wide / WIDTH, 0, 0, high / HEIGHT, 0, 0);
    return [pen, WIDTH / Math.max(canvas.clientWidth, 1)];
  }

  function draw() {
    const [paper] = fresh(at("picture"));
    if (pictures[now].complete) paper.drawImage(pictures[now], 0, 0, WIDTH, HEIGHT);
    const [pen, unit] = fresh(drawing);
    if (shown("show-result")) drawResult(pen, unit);
    if (shown("show-tails")) drawTails(pen, unit);
    if (truth && shown("show-truth")) drawTruth(pen, unit);
    if (truth && shown("show-errors")) drawErrors(pen, unit);
    if (movie.links && shown("show-links")) drawLinks(pen, unit);
    if (shown("show-names")) drawNames(pen, unit);
  }

  const first = Number(drawing.dataset.first), last = Number(drawing.dataset.last);
  function go(frame) {
    now = Math.min(Math.max(frame, 0), movie.frames.length - 1);
    at("time").value = now;
    at("frame").textContent = `frame ${movie.frames[now]}`;
    const share = 100 * (movie.frames[now] - first + 0.5) / (last - first + 1);
    for (const line of document.querySelectorAll(".cursor")) {
      line.setAttribute("x1", `${share}%`);
      line.setAttribute("x2", `${share}%`);
    }
    draw();
  }

  function play(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => go((now + 1) % movie.frames.length), FRAME_MS) : null;
    at("play").textContent = on ? "Pause" : "Play";
    at("play").setAttribute("aria-pressed", String(on));
  }

  const branches = new Map();
  for (const branch of document.querySelectorAll('[data-forest="result"] .track')) {
    branches.set(Number(branch.dataset.track), branch);
  }
  function choose(label) {
    if (branches.has(chosen)) branches.get(chosen).classList.remove("chosen");
    chosen = label === chosen ? null : label;
    const branch = branches.get(chosen);
    if (branch) branch.classList.add("chosen");
    at("selected").textContent = branch ? branch.querySelector("title").textContent
      : chosen === null ? "Select a cell or a branch of the tree to follow its track." : `cell ${chosen}`;
    draw();
    return branch;
  }

  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * drawing.width;
    const y = (event.clientY - box.top) / box.height * drawing.height;
    const pen = drawing.getContext("2d"); // its transform maps the paths to the canvas's pixels
    const hit = result[now].find((cell) => pen.isPointInPath(cell.path, x, y, "evenodd"));
    const branch = choose(hit ? hit.label : null);
    if (branch) {
      const forest = branch.closest(".forest");
      const offset = branch.getBoundingClientRect().top - forest.getBoundingClientRect().top;
      forest.scrollTop += offset - forest.clientHeight / 2;
    }
  });
  for (const [label, branch] of branches) {
    branch.addEventListener("click", (event) => {
      const doubt = event.target.closest(".doubt");
      if (doubt) {
        if (chosen !== label) choose(label);
        const frame = Number(doubt.dataset.frame);
        const later = movie.frames.findIndex((shownFrame) => shownFrame >= frame);
        go(later < 0 ? movie.frames.length - 1 : later);
        if (!shown("show-links")) at("show-links").click();
        return;
      }
      choose(label);
      if (chosen !== null && !places[now].has(label)) {
        const frame = places.findIndex((cells) => cells.has(label));
        if (frame >= 0) go(frame);
      }
    });
  }
  at("play").addEventListener("click", () => play(timer === null));
  at("time").addEventListener("input", (event) => { play(false); go(Number(event.target.value)); });
  at("brightness").addEventListener("input", (event) => {
    at("picture").style.filter = `brightness(${event.target.value}%)`;
  });
  const boxes = { r: "show-result", t: "show-truth", l: "show-tails", n: "show-names", e: "show-errors", c: "show-links" };
  for (const id of Object.values(boxes)) if (at(id)) at(id).addEventListener("change", draw);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onControl = event.target.closest("input, button, summary");
    if (event.key === " " && !onControl) { event.preventDefault(); play(timer === null); }
    else if (event.key === "ArrowRight" && !onControl) { play(false); go(now + 1); }
    else if (event.key === "ArrowLeft" && !onControl) { play(false); go(now - 1); }
    else if (boxes[event.key] && at(boxes[event.key])) at(boxes[event.key]).click();
  });
  new ResizeObserver(draw).observe(drawing);
  go(0);
})();
