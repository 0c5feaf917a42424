"use strict";
// Told to whoever looks at the page by a program.
window.addEventListener("error", event => { document.documentElement.dataset.error = event.message; });

const COLOURED = 8;
const $ = id => document.getElementById(id);
const stories = JSON.parse($("data").textContent).map(decode);
let story = stories[0];
let at = 0;

// Bytes as people read them, with the exact number beside where there is room.
function human(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < 4) { value /= 1024; unit += 1; }
  return (unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)) + " " + units[unit];
}
const grouped = number => number.toLocaleString("en-US");
const exact = bytes => grouped(bytes) + " bytes";

// See page.rs for the form.
function decode(story) {
  const bytes = Uint8Array.from(atob(story.steps), c => c.charCodeAt(0));
  let place = 0;
  const number = () => {
    let value = 0, worth = 1, byte;
    do { byte = bytes[place++]; value += (byte & 127) * worth; worth *= 128; } while (byte > 127);
    return value;
  };
  const signed = () => { const value = number(); return value % 2 ? -(value + 1) / 2 : value / 2; };
  const takes = [], requested = [0], reserved = [0], takeOf = [];
  let last = 0, now = 0, held = 0, fails = 0;
  while (place < bytes.length) {
    const kind = number();
    if (kind === 0) {
      const holder = number();
      last += signed();
      const size = number();
      takes.push({ holder, address: last, bytes: size, block: size + signed(), from: requested.length, to: Infinity });
      takeOf.push(takes.length);
      now += size;
    } else if (kind === 1) {
      const take = takes.length - number();
      takes[take].to = requested.length;
      takeOf.push(-take - 1);
      now -= takes[take].bytes;
    } else {
      const value = number();
      if (kind === 2) held = value; else fails += 1;
      takeOf.push(0);
    }
    requested.push(now);
    reserved.push(held);
  }
  const most = story.holders.map(() => 0), sums = story.holders.map(() => 0);
  for (const code of takeOf) {
    if (code > 0) { const t = takes[code - 1]; sums[t.holder] += t.bytes; most[t.holder] = Math.max(most[t.holder], sums[t.holder]); }
    if (code < 0) { const t = takes[-code - 1]; sums[t.holder] -= t.bytes; }
  }
  const order = story.holders.map((_, i) => i).sort((a, b) => most[b] - most[a] || a - b);
  const colour = [];
  order.forEach((holder, rank) => { colour[holder] = rank < COLOURED ? rank : COLOURED; });
  return { ...story, takes, takeOf, requested, reserved, order, colour, fails, count: requested.length - 1 };
}

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const shade = rank => css(rank < COLOURED ? "--c" + rank : "--rest");

function canvas(id, height) {
  const element = $(id);
  if (height) element.style.height = height + "px";
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: tall } = element;
  element.width = Math.round(width * scale);
  element.height = Math.round(tall * scale);
  const pen = element.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, tall);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height: tall };
}

const LEFT = 74, TOP = 8, BOTTOM = 24;

// Each column shows the step in it at which most was requested, so no peak is lost.
function drawChart() {
  const { pen, width, height } = canvas("chart");
  const right = width - 8, low = height - BOTTOM;
  const columns = Math.max(1, Math.min(Math.floor(right - LEFT), story.count + 1));
  const chosen = [], top = [];
  for (let c = 0; c < columns; c++) {
    const from = Math.floor(c * (story.count + 1) / columns), to = Math.max(from + 1, Math.floor((c + 1) * (story.count + 1) / columns));
    let best = from, held = 0;
    for (let s = from; s < to; s++) {
      if (story.requested[s] > story.requested[best]) best = s;
      held = Math.max(held, story.reserved[s]);
    }
    chosen.push(best);
    top.push(held);
  }
  let most = 1;
  for (let c = 0; c < columns; c++) most = Math.max(most, story.requested[chosen[c]], top[c]);
  let step = 1;
  while (most / step > 5) step *= most / step > 10 ? 4 : 2;
  const end = Math.ceil(most / step) * step;
  const x = c => LEFT + (right - LEFT) * (columns === 1 ? 0 : c / (columns - 1));
  const y = bytes => low - (low - TOP) * bytes / end;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let tick = 0; tick <= end; tick += step) {
    pen.strokeStyle = css("--line");
    pen.beginPath(); pen.moveTo(LEFT, y(tick)); pen.lineTo(right, y(tick)); pen.stroke();
    pen.fillStyle = css("--pale");
    pen.fillText(human(tick), LEFT - 8, y(tick));
  }
  const stacks = stack(chosen);
  const base = chosen.map(() => 0);
  for (let rank = 0; rank <= COLOURED; rank++) {
    pen.fillStyle = shade(rank);
    pen.beginPath();
    for (let c = 0; c < columns; c++) pen.lineTo(x(c), y(base[c]));
    for (let c = columns - 1; c >= 0; c--) { base[c] += stacks[c][rank]; pen.lineTo(x(c), y(base[c])); }
    pen.fill();
  }
  if (story.frame) {
    pen.strokeStyle = css("--reserved");
    pen.lineWidth = 2;
    pen.beginPath();
    for (let c = 0; c < columns; c++) pen.lineTo(x(c), y(top[c]));
    pen.stroke();
  }
  pen.lineWidth = 1;
  pen.textAlign = "left";
  pen.fillStyle = css("--pale");
  let free = LEFT;
  for (const [step, text] of story.marks) {
    const place = LEFT + (right - LEFT) * step / Math.max(1, story.count);
    pen.strokeStyle = css("--pale");
    pen.setLineDash([2, 4]);
    pen.beginPath(); pen.moveTo(place, TOP); pen.lineTo(place, low); pen.stroke();
    pen.setLineDash([]);
    const wide = pen.measureText(text).width;
    if (place >= free && place + wide < right) { pen.fillText(text, place + 3, low + 12); free = place + wide + 12; }
  }
  const now = LEFT + (right - LEFT) * at / Math.max(1, story.count);
  pen.strokeStyle = css("--at");
  pen.beginPath(); pen.moveTo(now, TOP); pen.lineTo(now, low); pen.stroke();
}

// What each colour holds after the chosen steps, which rise.
function stack(chosen) {
  const sums = new Array(COLOURED + 1).fill(0), out = [];
  let done = 0;
  for (const step of chosen) {
    for (; done < step; done++) {
      const code = story.takeOf[done];
      if (code > 0) { const t = story.takes[code - 1]; sums[story.colour[t.holder]] += t.bytes; }
      if (code < 0) { const t = story.takes[-code - 1]; sums[story.colour[t.holder]] -= t.bytes; }
    }
    out.push(sums.slice());
  }
  return out;
}

const live = () => story.takes.filter(take => take.from <= at && at < take.to).sort((a, b) => a.address - b.address);

let drawn = [];
// Rows of frames from the lowest that was ever used to the highest; without frames, the blocks side by side.
function drawMap(blocks) {
  const unit = story.frame || 4096;
  let low = Infinity, high = 0;
  const seen = story.frame ? story.takes : [];
  for (const take of seen) { low = Math.min(low, Math.floor(take.address / unit)); high = Math.max(high, Math.ceil((take.address + take.block) / unit)); }
  let addressOf = take => take.address - low * unit;
  if (!story.frame) {
    let next = 0;
    const places = new Map();
    for (const take of blocks) { places.set(take, next); next += Math.ceil(Math.max(take.block, 1) / unit) * unit; }
    low = 0; high = next / unit; addressOf = take => places.get(take);
  }
  const frames = Math.max(1, high - low || 1);
  const perRow = Math.max(1, Math.ceil(frames / 40));
  const rows = Math.ceil(frames / perRow), tall = 15;
  const { pen, width } = canvas("map", rows * tall + 2);
  const line = perRow * unit;
  const x = within => within / line * width;
  drawn = [];
  // Runs of frames that hold blocks, each from its first to behind its last: no more than there are blocks, however large those are.
  const runs = [];
  for (const take of blocks) {
    const from = Math.floor(addressOf(take) / unit), to = Math.ceil((addressOf(take) + Math.max(take.block, 1)) / unit);
    const last = runs[runs.length - 1];
    if (last && from <= last.to) last.to = Math.max(last.to, to);
    else runs.push({ from, to });
  }
  pen.fillStyle = css("--line");
  for (let row = 0; row < rows; row++) pen.fillRect(0, row * tall + tall - 2, width * Math.min(1, (frames - row * perRow) / perRow), 1);
  pen.fillStyle = css("--free");
  for (const run of runs) {
    for (let row = Math.floor(run.from / perRow); row * perRow < run.to; row++) {
      const left = Math.max(run.from - row * perRow, 0), right = Math.min(run.to - row * perRow, perRow);
      pen.fillRect(x(left * unit), row * tall, x((right - left) * unit) + 0.5, tall - 3);
    }
  }
  for (const take of blocks) {
    pen.fillStyle = shade(story.colour[take.holder]);
    const from = addressOf(take), to = from + Math.max(take.block, 1);
    for (let row = Math.floor(from / line); row * line < to; row++) {
      const left = x(Math.max(from, row * line) - row * line), right = x(Math.min(to, (row + 1) * line) - row * line);
      // A gap tells neighbours apart where there is room for one.
      pen.fillRect(left, row * tall, Math.max(right - left - (right - left > 3 ? 1 : 0), 0.75), tall - 3);
      drawn.push({ left, right, row, tall, take });
    }
  }
  return runs.reduce((all, run) => all + run.to - run.from, 0);
}

function drawFacts(blocks, touched) {
  const sum = key => blocks.reduce((all, take) => all + take[key], 0);
  let overlaps = 0;
  for (let i = 1; i < blocks.length; i++) if (blocks[i - 1].address + blocks[i - 1].block > blocks[i].address) overlaps += 1;
  const requested = sum("bytes"), inBlocks = sum("block"), reserved = story.reserved[at];
  const facts = [["Requested", requested, human(requested)], ["In blocks", inBlocks, human(inBlocks)]];
  if (story.frame) {
    facts.push(["Reserved", reserved, human(reserved)]);
    facts.push(["Free in used frames", touched * story.frame - inBlocks, human(Math.max(0, touched * story.frame - inBlocks))]);
    facts.push(["Idle frames", Math.max(0, reserved / story.frame - touched), grouped(Math.max(0, Math.round(reserved / story.frame - touched)))]);
  }
  facts.push(["Blocks", blocks.length, grouped(blocks.length)]);
  if (story.fails) facts.push(["Failed, in all", story.fails, grouped(story.fails)]);
  $("facts").replaceChildren(...facts.map(([name, value, text]) => {
    const pair = document.createElement("div"), term = document.createElement("dt"), fact = document.createElement("dd");
    term.textContent = name;
    fact.textContent = text;
    fact.dataset.value = value;
    fact.title = grouped(value);
    pair.append(term, fact);
    return pair;
  }));
  const spans = new Set(drawn.map(part => part.take)).size;
  Object.assign($("map").dataset, { spans, overlaps, bytes: [...new Set(drawn.map(part => part.take))].reduce((all, take) => all + take.block, 0) });
}

function drawHolders(blocks) {
  const held = new Map();
  for (const take of blocks) {
    const sum = held.get(take.holder) || { bytes: 0, blocks: 0 };
    sum.bytes += take.bytes;
    sum.blocks += 1;
    held.set(take.holder, sum);
  }
  const all = [...held].sort((a, b) => b[1].bytes - a[1].bytes || a[0] - b[0]).slice(0, 50);
  const total = story.requested[at] || 1;
  $("holders").tBodies[0].replaceChildren(...all.map(([holder, { bytes, blocks }]) => {
    const row = document.createElement("tr");
    const key = document.createElement("span");
    key.className = "key";
    key.style.background = shade(story.colour[holder]);
    row.insertCell().append(key);
    for (const text of [story.holders[holder], human(bytes), (bytes / total * 100).toFixed(1) + " %", grouped(blocks)]) row.insertCell().textContent = text;
    row.cells[2].title = exact(bytes);
    row.dataset.bytes = bytes;
    return row;
  }));
}

function drawLegend() {
  const entry = (text, colour, line) => {
    const item = document.createElement("li"), key = document.createElement("span");
    key.className = line ? "key line" : "key";
    key.style.background = colour;
    item.append(key, text);
    return item;
  };
  const named = story.order.slice(0, COLOURED).map((holder, rank) => entry(story.holders[holder], shade(rank)));
  if (story.order.length > COLOURED) named.push(entry("all others", shade(COLOURED)));
  if (story.frame) named.push(entry("reserved", css("--reserved"), true));
  $("legend").replaceChildren(...named);
}

function draw() {
  const blocks = live();
  $("at").value = at;
  $("step").textContent = grouped(at) + " of " + grouped(story.count);
  drawChart();
  drawFacts(blocks, drawMap(blocks));
  drawHolders(blocks);
  $("under").textContent = "";
}

function go(step) {
  at = Math.max(0, Math.min(story.count, Math.round(step) || 0));
  history.replaceState(null, "", "#m=" + stories.indexOf(story) + "&t=" + at);
  draw();
}

function choose(number, step) {
  story = stories[number] || stories[0];
  $("title").textContent = story.title;
  $("memory").textContent = story.memory + "; " + grouped(story.count) + " steps";
  $("story").value = stories.indexOf(story);
  $("at").max = story.count;
  drawLegend();
  go(step === undefined ? story.peak : step);
}

function fromAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  choose(Number(words.get("m")) || 0, words.has("t") ? Number(words.get("t")) : undefined);
}

stories.forEach((story, number) => $("story").add(new Option(story.title, number)));
$("choice").hidden = stories.length < 2;
$("story").addEventListener("change", event => choose(Number(event.target.value)));
$("at").addEventListener("input", event => go(Number(event.target.value)));
$("peak").addEventListener("click", () => go(story.peak));
$("chart").addEventListener("click", event => {
  const box = $("chart").getBoundingClientRect();
  go((event.clientX - box.left - LEFT) / (box.width - 8 - LEFT) * story.count);
});
$("map").addEventListener("pointermove", event => {
  const box = $("map").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  const part = drawn.find(part => part.left <= x && x < part.right && part.row === Math.floor(y / part.tall));
  $("under").textContent = part
    ? "0x" + part.take.address.toString(16) + ": " + exact(part.take.bytes) + " in a block of " + exact(part.take.block) + ", " + story.holders[part.take.holder] + ", since step " + grouped(part.take.from)
    : "";
});
window.addEventListener("resize", draw);
window.addEventListener("hashchange", fromAddress);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawLegend(); draw(); });
fromAddress();
document.documentElement.dataset.ready = "yes";
