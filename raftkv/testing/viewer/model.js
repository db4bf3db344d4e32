"use strict";
// The story as it was written into the page, and what can be derived from it. Nothing here draws.

const EVENT = ["number", "at", "node", "kind", "text", "view", "peer", "message", "client", "operation"];
const VIEW = [
  "role", "term", "vote", "leader", "first", "last", "commit", "applied", "snapshot", "config",
  "inFlight", "isUp", "note", "stable", "entries",
];
const CLIENT_LANES_MAX = 6; // of more clients, the calls share as few lanes as they fit in
const LANDMARKS = new Set(["fault", "crash", "stop", "pause", "violation"]);

function named(names, row) {
  return Object.fromEntries(names.map((name, place) => [name, row[place]]));
}

function readStory(text) {
  const data = JSON.parse(text);
  const cells = withVariants(data.cells);
  const views = data.views.map((row) => {
    const view = named(VIEW, row);
    view.entries = new Map(view.entries.map((place) => [cells[place].index, cells[place]]));
    return view;
  });
  const event = (row, index) => {
    const one = named(EVENT, row);
    return { ...one, index, view: one.view < 0 ? null : views[one.view] };
  };
  const story = { ...data, cells, views };
  story.events = data.events.map(event);
  story.faults = data.faults.map((row) => event(row, -1));
  story.before = data.before.map((place) => (place < 0 ? null : views[place]));
  story.nodeAt = new Map(data.nodes.map((name, place) => [name, place]));
  story.states = story.nodes.map((_, node) => statesOf(story, node));
  story.messages = messagesOf(story.events);
  story.spans = spansOf(story);
  story.calls = callsOf(story.events);
  story.callLanes = lanesOf(story);
  story.landmarks = story.events.filter((one) => LANDMARKS.has(one.kind)).map((one) => one.index);
  story.violation = data.violated
    ? story.events.findIndex((one) => one.number === data.violated[2])
    : -1;
  return story;
}

// Entries with different hashes at one index are different variants of it: 0 is the first seen.
function withVariants(rows) {
  const hashes = new Map();
  return rows.map(([index, term, hash]) => {
    const known = hashes.get(index) ?? [];
    hashes.set(index, known);
    // Without a hash the term is all there is to tell entries apart.
    const mark = hash || `t${term}`;
    if (!known.includes(mark)) known.push(mark);
    return { index, term, hash, variant: known.indexOf(mark) };
  });
}

// A node after each event: {view, life}, the same object while nothing changes.
function statesOf(story, node) {
  const first = story.before[node];
  let state = { view: first, life: first ? (first.isUp ? "up" : "down") : "unknown" };
  if (story.paused.includes(node)) state = { ...state, life: "paused" };
  const states = [state];
  for (const one of story.events) {
    if (one.node === node) state = stateAfter(state, one);
    states.push(state);
  }
  return states;
}

function stateAfter(state, event) {
  const lives = { start: "up", resume: "up", crash: "down", stop: "down", pause: "paused" };
  const view = event.view ?? state.view;
  let life = lives[event.kind];
  if (!life && event.view) life = event.view.isUp ? (state.life === "paused" ? "paused" : "up") : "down";
  life ??= state.life;
  return view === state.view && life === state.life ? state : { view, life };
}

// {message: {sent, ends: [{event, lost}]}}; what was sent before the first event has no `sent`.
function messagesOf(events) {
  const messages = new Map();
  for (const one of events) {
    if (!one.message && !["deliver", "lost"].includes(one.kind)) continue;
    const key = one.message || `at ${one.index}`;
    const message = messages.get(key) ?? { sent: null, ends: [] };
    messages.set(key, message);
    if (one.kind === "send") message.sent = one;
    if (one.kind === "deliver" || one.kind === "lost") message.ends.push(one);
  }
  return messages;
}

// Faults from where they begin to where they end, in rows so that none hides another.
function spansOf(story) {
  const open = new Map(story.faults.map((one) => [one.operation, { fault: one, from: 0 }]));
  const spans = [];
  const end = (key, at) => {
    const span = open.get(key);
    if (!span) return;
    open.delete(key);
    spans.push({ ...span, to: at });
  };
  for (const one of story.events) {
    if (one.kind === "fault") open.set(one.operation, { fault: one, from: one.index });
    else if (one.kind === "heal") {
      for (const key of one.operation ? [one.operation] : [...open.keys()]) end(key, one.index);
    }
  }
  for (const key of [...open.keys()]) end(key, story.events.length);
  spans.sort((a, b) => a.from - b.from || a.to - b.to);
  return inRows(spans);
}

function callsOf(events) {
  const open = new Map();
  const calls = [];
  for (const one of events) {
    if (one.client < 0) continue;
    if (one.kind === "call") {
      const call = { call: one, client: one.client, from: one.index, to: events.length, back: null };
      open.set(one.operation, call);
      calls.push(call);
    } else if (one.kind === "return") {
      const call = open.get(one.operation);
      if (call) Object.assign(call, { to: one.index, back: one });
      else calls.push({ call: null, client: one.client, from: 0, to: one.index, back: one });
    }
  }
  return calls;
}

// The names of the lanes of calls; each call gets its `row` among them.
function lanesOf({ calls, clients }) {
  if (clients.length <= CLIENT_LANES_MAX) {
    for (const call of calls) call.row = call.client;
    return clients;
  }
  calls.sort((a, b) => a.from - b.from || a.to - b.to);
  const rows = Math.max(0, ...inRows(calls).map((call) => call.row + 1));
  return Array.from({ length: rows }, (_, row) => (row ? "" : `${clients.length} clients`));
}

function inRows(spans) {
  const ends = [];
  for (const span of spans) {
    let row = ends.findIndex((end) => end <= span.from);
    if (row < 0) row = ends.length;
    ends[row] = Math.max(span.to, span.from + 1);
    span.row = row;
  }
  return spans;
}

// What a name of a lane, a role or a kind is called in a sentence.
const LETTERS = { "follower": "F", "pre-candidate": "P", "candidate": "C", "leader": "L" };
const ARROWS = { send: "to", deliver: "from", lost: "on the way to" };

function sentence(story, event) {
  const where = event.node >= 0 ? story.nodes[event.node] : event.client >= 0 ? "" : "the world";
  const parts = [`#${event.number}`, `${event.at} ${story.unit}`, where];
  if (event.client >= 0) parts.push(story.clients[event.client]);
  parts.push(event.kind.toUpperCase() + (event.peer ? ` ${ARROWS[event.kind] ?? "with"} ${event.peer}` : ""));
  if (event.message && event.message !== event.number) parts.push(`sent at #${event.message}`);
  if (event.operation && event.operation !== event.number) parts.push(`of #${event.operation}`);
  return parts.filter(Boolean);
}
