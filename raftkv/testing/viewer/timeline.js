// The lanes: one column per event, one lane per node, the clients below. Drawn once.

const COLUMN = { min: 22, max: 56 };
const WIDTH = 1000; // that a short story may fill
const LANE = 62;
const BAND = { top: 19, height: 22 };
const MIDDLE = BAND.top + BAND.height / 2;
const RULER = 20;
const FAULT_ROW = 19;
const FAULT_ROWS_MAX = 4;
const CLIENT = 27;
const LETTER_WIDTH = 6.4;

function svg(parent, name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent?.append(made);
  return made;
}

function fitted(text, width) {
  const room = Math.floor(width / LETTER_WIDTH);
  if (text.length <= room) return text;
  return room < 3 ? "" : `${text.slice(0, room - 1)}…`;
}

class Timeline {
  constructor(story, box, heads, lanes) {
    this.story = story;
    this.box = box;
    const fill = Math.floor(WIDTH / story.events.length);
    this.column = Math.min(Math.max(fill, COLUMN.min), COLUMN.max);
    this.faultRows = Math.min(FAULT_ROWS_MAX, Math.max(0, ...story.spans.map((one) => one.row + 1)));
    this.lanesTop = RULER + Math.max(this.faultRows, 1) * FAULT_ROW + 5;
    this.clientsTop = this.lanesTop + story.nodes.length * LANE + 4;
    this.height = this.clientsTop + story.callLanes.length * CLIENT + 6;
    this.width = story.events.length * this.column;
    this.drawHeads(heads);
    this.root = svg(lanes, "svg", { width: this.width, height: this.height, "aria-hidden": "true" });
    this.cursor = svg(this.root, "rect", { class: "column", width: this.column, height: this.height });
    this.drawPatterns();
    this.drawRuler();
    this.drawFaults();
    story.nodes.forEach((_, node) => this.drawBands(node));
    svg(this.root, "line", { class: "rule", x1: 0, x2: this.width, y1: this.clientsTop, y2: this.clientsTop });
    this.drawCalls();
    this.arrows = new Map();
    for (const message of story.messages.values()) this.drawMessage(message);
    // Words lie above the arrows.
    story.nodes.forEach((_, node) => this.drawWords(node));
    story.events.forEach((one) => this.drawEvent(one));
    this.hot = [];
  }

  x(index) {
    return index * this.column + this.column / 2;
  }

  y(node) {
    return this.lanesTop + node * LANE + MIDDLE;
  }

  // The column at a place in the page.
  indexAt(clientX) {
    const left = this.root.getBoundingClientRect().left;
    const index = Math.floor((clientX - left) / this.column);
    return Math.min(Math.max(index, 0), this.story.events.length - 1);
  }

  drawHeads(heads) {
    const head = (name, top, height, kind) => {
      const made = document.createElement("div");
      made.className = `head ${kind}`;
      made.style.top = `${top}px`;
      made.style.height = `${height}px`;
      const label = document.createElement("b");
      label.textContent = name;
      made.append(label, document.createElement("span"));
      heads.append(made);
      return made.lastChild;
    };
    heads.style.height = `${this.height}px`;
    head(this.story.unit === "s" ? "seconds" : this.story.unit, 0, RULER, "small");
    head("faults", RULER, FAULT_ROW, "small");
    this.heads = this.story.nodes.map((name, node) =>
      head(name, this.lanesTop + node * LANE, LANE, "node"));
    this.story.callLanes.forEach((name, row) =>
      head(name, this.clientsTop + row * CLIENT, CLIENT, "client"));
  }

  drawPatterns() {
    const defs = svg(this.root, "defs");
    const stripes = (id, step, turn) => {
      const one = svg(defs, "pattern", {
        id, width: step, height: step, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${turn})`,
      });
      svg(one, "rect", { width: step, height: step, class: `${id}-ground` });
      svg(one, "rect", { width: 1.6, height: step, class: `${id}-stripe` });
    };
    stripes("candidate", 6, 45);
    stripes("down", 6, -45);
    stripes("paused", 5, 0);
    stripes("other", 5, 45);
    for (const id of ["head", "head-hot"]) {
      const one = svg(defs, "marker", {
        id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto",
        markerUnits: "userSpaceOnUse",
      });
      svg(one, "path", { d: "M0 1 L8 4 L0 7 z", class: id });
    }
  }

  drawRuler() {
    let free = 0;
    for (const one of this.story.events) {
      const x = one.index * this.column;
      if (x < free || one.index % 5) continue;
      svg(this.root, "line", { class: "grid", x1: x, x2: x, y1: 4, y2: this.height });
      svg(this.root, "text", { class: "at", x: x + 3, y: 14 }, one.at);
      free = x + (String(one.at).length + 2) * LETTER_WIDTH;
    }
  }

  drawFaults() {
    for (const { fault, from, to, row } of this.story.spans) {
      const x = from * this.column + (fault.index < 0 ? 0 : 2);
      const width = Math.max(to * this.column - x + (to < this.story.events.length ? this.column - 2 : 0), 6);
      svg(this.root, "rect", {
        class: "fault-shade", x, width, y: fault.node < 0 ? this.lanesTop : this.y(fault.node) - MIDDLE,
        height: fault.node < 0 ? this.clientsTop - this.lanesTop : LANE,
      });
      if (row >= FAULT_ROWS_MAX) continue;
      const y = RULER + row * FAULT_ROW;
      const band = svg(this.root, "g", { class: "fault" });
      svg(band, "rect", { x, y: y + 1, width, height: FAULT_ROW - 3, rx: 3 });
      svg(band, "text", { x: x + 5, y: y + 13 }, fitted(fault.text, width - 8));
      svg(band, "title", {}, fault.text);
    }
  }

  // Stretches of one role and term; the state after event i fills column i, states[0] is before all.
  *stretches(node) {
    const states = this.story.states[node];
    const same = (a, b) =>
      a.life === b.life && a.view?.role === b.view?.role && a.view?.term === b.view?.term;
    for (let from = 0; from < this.story.events.length;) {
      const state = states[from + 1];
      let to = from + 1;
      while (to < this.story.events.length && same(state, states[to + 1])) to += 1;
      const role = state.life === "up" ? state.view?.role ?? "unknown" : state.life;
      yield { ...state, role, x: from * this.column, width: (to - from) * this.column };
      from = to;
    }
  }

  drawBands(node) {
    const y = this.lanesTop + node * LANE;
    svg(this.root, "line", { class: "rule", x1: 0, x2: this.width, y1: y, y2: y });
    for (const { role, x, width } of this.stretches(node)) {
      svg(this.root, "rect", { x, y: y + BAND.top, width, height: BAND.height, class: `band ${role}` });
    }
  }

  drawWords(node) {
    const y = this.lanesTop + node * LANE;
    for (const { view, life, role, x, width } of this.stretches(node)) {
      if (life === "unknown") continue;
      const letter = LETTERS[role] ?? life;
      const term = view && life !== "down" ? ` t${view.term}` : "";
      const label = [letter + term, letter].find((one) => one.length * LETTER_WIDTH <= width - 3);
      if (label) svg(this.root, "text", { class: `role ${role}`, x: x + 2, y: y + 14 }, label);
    }
    this.drawCommits(this.story.states[node], y);
  }

  drawCommits(states, y) {
    this.story.events.forEach((one) => {
      const [before, after] = [states[one.index].view, states[one.index + 1].view];
      if (!after || !after.commit || after.commit === before?.commit) return;
      const cell = after.entries.get(after.commit);
      const mark = cell?.variant ? `commit variant-${Math.min(cell.variant, 3)}` : "commit";
      const chip = svg(this.root, "g", { class: mark });
      const text = `${after.commit}${variantLetter(cell)}`;
      const width = Math.max(text.length * LETTER_WIDTH + 5, 18);
      const x = this.x(one.index) - width / 2;
      svg(chip, "rect", { x, y: y + 44, width, height: 14, rx: 2 });
      svg(chip, "text", { x: this.x(one.index), y: y + 55 }, text);
    });
  }

  drawCalls() {
    const { calls, clients, callLanes } = this.story;
    for (const { call, back, client, from, to, row } of calls) {
      const y = this.clientsTop + row * CLIENT;
      const x = call ? from * this.column + 3 : 0;
      const width = Math.max(to * this.column - x + (back ? this.column - 3 : 0), 10);
      const bar = svg(this.root, "g", { class: back ? "bar" : "bar open" });
      svg(bar, "rect", { x, y: y + 4, width, height: CLIENT - 9, rx: 3 });
      const name = callLanes[row] === clients[client] ? "" : `${clients[client]}: `;
      const words = name + [call?.text, back?.text].filter(Boolean).join(" → ");
      svg(bar, "text", { x: x + 5, y: y + 17 }, fitted(words, width - 8));
      svg(bar, "title", {}, words);
    }
  }

  drawMessage({ sent, ends }) {
    const from = sent && sent.node >= 0 ? [this.x(sent.index), this.y(sent.node)] : null;
    if (from && !ends.length) this.drawArrow([sent], from, this.towards(sent, from), "open");
    for (const end of ends) this.drawEnd(sent, from, end);
  }

  drawEnd(sent, from, end) {
    const peer = this.story.nodeAt.get(end.peer);
    if (end.kind === "deliver") {
      const to = [this.x(end.index), this.y(end.node)];
      // What was sent before the first event comes from the left, off its sender's lane.
      const start = from ?? (peer === undefined ? null : [to[0] - this.column, this.y(peer)]);
      if (start) this.drawArrow([sent, end], start, to, from ? "" : "open");
      return;
    }
    const start = from ?? (end.node >= 0 ? [this.x(end.index), this.y(end.node)] : null);
    const goal = sent ? this.story.nodeAt.get(sent.peer) : peer;
    if (!start || goal === undefined) return;
    const x = Math.max(this.x(end.index), start[0] + this.column / 2);
    const stop = [x, start[1] + (this.y(goal) - start[1]) * 0.6];
    this.drawArrow([sent, end], start, stop, "lost");
  }

  towards(sent, from) {
    const peer = this.story.nodeAt.get(sent.peer);
    if (peer === undefined) return from;
    return [from[0] + COLUMN.min, from[1] + Math.sign(this.y(peer) - from[1]) * 24];
  }

  drawArrow(events, [x1, y1], [x2, y2], kind) {
    const length = Math.hypot(x2 - x1, y2 - y1);
    if (!length) return;
    const gap = kind === "lost" ? 0 : 5 / length;
    const group = svg(this.root, "g", { class: `arrow ${kind}` });
    const [x, y] = [x2 - (x2 - x1) * gap, y2 - (y2 - y1) * gap];
    const line = { x1, y1, x2: x, y2: y };
    svg(group, "line", kind === "lost" ? line : { ...line, "marker-end": "url(#head)" });
    if (kind === "lost") {
      svg(group, "path", { d: `M${x2 - 4} ${y2 - 4} l8 8 m0 -8 l-8 8` });
    }
    for (const one of events.filter(Boolean)) {
      this.arrows.set(one.index, [...(this.arrows.get(one.index) ?? []), group]);
    }
  }

  drawEvent(event) {
    const x = this.x(event.index);
    const isWorld = event.node < 0;
    const y = isWorld ? RULER + FAULT_ROW / 2 : this.y(event.node);
    if (event.kind === "violation") {
      svg(this.root, "rect", {
        class: "violation-shade", x: x - this.column / 2, width: this.column, y: 0, height: this.height,
      });
    }
    if (isWorld && event.kind !== "violation" && event.kind !== "note") return;
    const mark = svg(this.root, "g", { class: `mark ${event.kind}`, transform: `translate(${x} ${y})` });
    svg(mark, "path", { d: SHAPES[event.kind] ?? SHAPES.input });
    svg(mark, "title", {}, `#${event.number} ${event.text}`);
  }

  show(index) {
    const event = this.story.events[index];
    this.cursor.setAttribute("x", index * this.column);
    for (const one of this.hot) {
      one.classList.remove("hot");
      one.querySelector("[marker-end]")?.setAttribute("marker-end", "url(#head)");
    }
    this.hot = this.arrows.get(index) ?? [];
    for (const one of this.hot) {
      one.classList.add("hot");
      one.querySelector("[marker-end]")?.setAttribute("marker-end", "url(#head-hot)");
    }
    this.heads.forEach((head, node) => {
      const { view, life } = this.story.states[node][index + 1];
      head.textContent = !view ? life : life === "up" ? `${view.role} t${view.term}` : life;
      head.parentElement.className =
        `head node ${life === "up" && view ? view.role : life}${event.node === node ? " here" : ""}`;
    });
    this.reveal(index);
  }

  reveal(index) {
    const head = this.box.querySelector(".heads").offsetWidth;
    const room = this.box.clientWidth - head;
    const x = index * this.column - this.box.scrollLeft;
    if (x < room * 0.12 || x + this.column > room * 0.88) {
      this.box.scrollLeft = index * this.column - room / 2;
    }
  }
}

function variantLetter(cell) {
  return cell?.variant ? String.fromCharCode(97 + Math.min(cell.variant, 25)) : "";
}

const DOT = "M-2.5 0 a2.5 2.5 0 1 0 5 0 a2.5 2.5 0 1 0 -5 0";
const SHAPES = {
  input: "M-1.5 0 a1.5 1.5 0 1 0 3 0 a1.5 1.5 0 1 0 -3 0",
  send: DOT,
  deliver: DOT,
  lost: "M-3 -3 l6 6 m0 -6 l-6 6",
  write: "M-2.5 -2.5 h5 v5 h-5 z",
  sync: "M-3 -3 h6 v6 h-6 z",
  apply: "M0 -4 l4 4 l-4 4 l-4 -4 z",
  start: "M-4 4 l4 -8 l4 8 z",
  stop: "M-4 -4 h8 v8 h-8 z",
  crash: "M-5 -5 l10 10 m0 -10 l-10 10",
  pause: "M-3 -5 v10 m6 -10 v10",
  resume: "M-3 -5 l7 5 l-7 5 z",
  call: DOT,
  return: DOT,
  note: "M-3 0 a3 3 0 1 0 6 0 a3 3 0 1 0 -6 0",
  violation: "M0 -9 l9 16 h-18 z M0 -3 v5 m0 1.5 v1.2",
};
