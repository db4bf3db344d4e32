// The page around the lanes: the slider, the keys, the nodes' states, and the list of events.

const WINDOW = 24;

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

class Page {
  constructor(story) {
    this.story = story;
    this.index = -1;
    this.byId = (id) => document.getElementById(id);
    this.drawHeader();
    this.drawMap();
    this.drawTable();
    this.drawList();
    this.timeline = new Timeline(
      story, this.byId("timeline"), this.byId("heads"), this.byId("lanes"));
    this.listen();
    this.show(story.violation >= 0 ? story.violation : 0);
  }

  get last() {
    return this.story.events.length - 1;
  }

  drawHeader() {
    const { story } = this;
    const counted = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;
    this.byId("title").textContent = story.title;
    const [first, last] = [story.events[0], story.events.at(-1)];
    this.byId("facts").textContent = [
      counted(story.nodes.length, "node"), counted(story.clients.length, "client"),
      `events ${first.number} to ${last.number}`, `${first.at} to ${last.at} ${story.unit}`,
    ].join(" · ");
    if (story.replay) this.byId("replay").append("Run it again: ", element("code", "", story.replay));
    if (!story.violated) return;
    const [invariant, broken] = story.violated;
    const button = this.byId("violated");
    button.hidden = false;
    button.querySelector("strong").textContent = `${invariant} violated`;
    button.querySelector("span").textContent = broken;
    button.title = `${broken}: go there (v)`;
    button.disabled = story.violation < 0;
  }

  // Where in the run the faults lie, at the places of the slider below.
  drawMap() {
    const map = this.byId("map");
    const share = (index) => `${(100 * index) / Math.max(this.last, 1)}%`;
    for (const { from, to } of this.story.spans) {
      const width = share(Math.max(Math.min(to, this.last) - from, 0.5));
      svg(map, "rect", { class: "fault", x: share(from), width, y: 1, height: 5 });
    }
    for (const index of this.story.landmarks) {
      const { kind } = this.story.events[index];
      if (kind !== "fault") svg(map, "rect", { class: kind, x: share(index), width: 2, y: 7, height: 5 });
    }
    if (this.story.violation >= 0) {
      svg(map, "rect", { class: "violation", x: share(this.story.violation), width: 3, y: 0, height: 13 });
    }
  }

  drawTable() {
    const body = this.byId("nodes");
    this.rows = this.story.nodes.map((name) => {
      const row = element("tr");
      const head = element("th", "", name);
      head.scope = "row";
      row.append(head);
      const values = {};
      for (const field of FIELDS) {
        values[field] = element("td", NUMBERS.has(field) ? "n" : field);
        row.append(values[field]);
      }
      const log = element("td", "log");
      const cells = Array.from({ length: WINDOW }, () => element("i", "cell none"));
      const strip = element("div", "strip");
      strip.append(...cells);
      log.append(strip);
      row.append(log);
      body.append(row);
      return { row, values, cells };
    });
  }

  drawList() {
    const list = this.byId("list");
    this.items = this.story.events.map((one) => {
      const item = element("div", `row ${one.kind}`);
      item.id = `event-${one.index}`;
      item.setAttribute("role", "option");
      const where = one.node >= 0 ? this.story.nodes[one.node] : this.story.clients[one.client] ?? "";
      const peer = one.peer ? `${{ send: "→ ", deliver: "← ", lost: "✕ " }[one.kind] ?? ""}${one.peer} ` : "";
      item.append(
        element("span", "n", one.number), element("span", "n", one.at), element("span", "", where),
        element("span", "kind", one.kind), element("span", "text", peer + one.text));
      item.addEventListener("click", () => this.show(one.index));
      return item;
    });
    list.append(...this.items);
  }

  listen() {
    const on = (id, act) => this.byId(id).addEventListener("click", act);
    on("first", () => this.show(0));
    on("back", () => this.show(this.index - 1));
    on("on", () => this.show(this.index + 1));
    on("last", () => this.show(this.last));
    on("previous", () => this.show(this.landmark(-1)));
    on("next", () => this.show(this.landmark(1)));
    on("violated", () => this.show(this.story.violation));
    on("theme", () => this.turnTheme());
    const slider = this.byId("slider");
    slider.max = this.last;
    slider.addEventListener("input", () => this.show(Number(slider.value)));
    this.byId("lanes").addEventListener("click", (event) =>
      this.show(this.timeline.indexAt(event.clientX)));
    document.addEventListener("keydown", (event) => this.key(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.tellTheme());
    this.tellTheme();
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const inList = document.activeElement === this.byId("list");
    const moves = {
      ArrowLeft: () => this.show(this.index - 1),
      ArrowRight: () => this.show(this.index + 1),
      PageUp: () => this.show(this.index - 10),
      PageDown: () => this.show(this.index + 10),
      Home: () => this.show(0),
      End: () => this.show(this.last),
      n: () => this.show(this.landmark(1)),
      p: () => this.show(this.landmark(-1)),
      v: () => this.show(this.story.violation < 0 ? this.index : this.story.violation),
      t: () => this.turnTheme(),
      ...(inList && {
        ArrowUp: () => this.show(this.index - 1),
        ArrowDown: () => this.show(this.index + 1),
      }),
    };
    if (!Object.hasOwn(moves, event.key)) return;
    event.preventDefault();
    moves[event.key]();
  }

  // The next place where something went wrong; this one if there is none.
  landmark(direction) {
    const places = this.story.landmarks;
    const found = direction > 0
      ? places.find((index) => index > this.index)
      : places.findLast((index) => index < this.index);
    return found ?? this.index;
  }

  get isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  turnTheme() {
    document.documentElement.dataset.theme = this.isDark ? "light" : "dark";
    this.tellTheme();
  }

  tellTheme() {
    this.byId("theme").setAttribute("aria-pressed", String(this.isDark));
  }

  show(wanted) {
    const index = Math.min(Math.max(wanted, 0), this.last);
    if (index === this.index) return;
    const { story } = this;
    const event = story.events[index];
    this.items[this.index]?.removeAttribute("aria-selected");
    this.index = index;
    const slider = this.byId("slider");
    slider.value = index;
    slider.setAttribute("aria-valuetext", `event ${event.number}: ${event.kind}, ${event.text}`);
    this.byId("place").textContent = `${index + 1} of ${story.events.length}`;
    for (const [id, isEnd] of [["first", index === 0], ["back", index === 0],
      ["on", index === this.last], ["last", index === this.last]]) {
      this.byId(id).setAttribute("aria-disabled", String(isEnd));
    }
    const now = this.byId("now");
    now.className = `now ${event.kind}`;
    const faults = story.spans.filter(({ from, to }) => from <= index && index < to);
    now.replaceChildren(
      ...sentence(story, event).map((part) => element("b", "", part)),
      element("span", "", event.text),
      element("em", "", faults.map(({ fault }) => `while: ${fault.text}`).join("; ")));
    this.timeline.show(index);
    this.showNodes(index);
    const item = this.items[index];
    item.setAttribute("aria-selected", "true");
    const list = this.byId("list");
    list.setAttribute("aria-activedescendant", item.id);
    // scrollIntoView would move the page as well.
    list.scrollTop = item.offsetTop - (list.clientHeight - item.offsetHeight) / 2;
  }

  showNodes(index) {
    const { story } = this;
    const states = story.nodes.map((_, node) => story.states[node][index + 1]);
    const end = Math.max(1, ...states.map(({ view }) => view?.last ?? 0));
    // Jumps by eight, so that the columns stand still while the log grows.
    const first = Math.max(1, Math.ceil(end / 8) * 8 - WINDOW + 1);
    this.byId("window").textContent = `${first} to ${first + WINDOW - 1}`;
    const hashes = Array.from({ length: WINDOW }, (_, place) => {
      const marks = states.map(({ view }) => view?.entries.get(first + place)?.variant);
      return new Set(marks.filter((one) => one !== undefined)).size > 1;
    });
    this.rows.forEach((row, node) => {
      const state = states[node];
      const before = story.states[node][index];
      row.row.className = [
        state.life, story.events[index].node === node ? "here" : "",
      ].join(" ");
      for (const field of FIELDS) {
        const text = told(state, field);
        row.values[field].textContent = text;
        row.values[field].classList.toggle("changed", text !== told(before, field) && before.view !== null);
        row.values[field].title = text.length > 12 ? text : "";
      }
      row.cells.forEach((cell, place) =>
        showCell(cell, state.view, first + place, hashes[place]));
    });
  }
}

const FIELDS = [
  "role", "term", "vote", "leader", "first", "last", "commit", "applied", "snapshot", "inFlight", "config",
];
const NUMBERS = new Set(["term", "first", "last", "commit", "applied", "snapshot", "inFlight"]);

function told({ view, life }, field) {
  if (field === "role") {
    if (!view) return life;
    const role = { up: view.role, paused: `${view.role}, paused` }[life] ?? life;
    return view.note ? `${role}, ${view.note}` : role;
  }
  if (!view) return "";
  return String(view[field] === "" ? "–" : view[field]);
}

function showCell(cell, view, index, isDisputed) {
  cell.className = "cell none";
  cell.textContent = "";
  cell.title = "";
  if (!view) return;
  if (index < view.first) {
    cell.className = "cell gone";
    cell.textContent = "·";
    return;
  }
  if (index > view.last) return;
  const entry = view.entries.get(index);
  const classes = ["cell"];
  if (index <= view.commit) classes.push("committed");
  if (index <= view.applied) classes.push("applied");
  if (view.stable >= 0 && index > view.stable) classes.push("unstable");
  if (isDisputed) classes.push("disputed");
  if (entry?.variant) classes.push("other", `variant-${Math.min(entry.variant, 3)}`);
  cell.className = classes.join(" ");
  cell.textContent = entry ? `${entry.term}${variantLetter(entry)}` : "";
  cell.title = entry ? `index ${index}, term ${entry.term}, ${entry.hash || "hash not known"}` : `index ${index}`;
}

const story = readStory(document.getElementById("story").textContent);
if (story.events.length) new Page(story);
else document.getElementById("title").textContent = `${story.title}: nothing happened`;
