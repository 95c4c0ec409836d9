"use strict";
const FORMAT = "pmagic-study-answers";
const PAUSE = 250; // milliseconds in which the second click of a double click answers nothing
const RETRY = 2000; // milliseconds until answers that were not acknowledged are sent again
const byId = (id) => document.getElementById(id);
const study = JSON.parse(byId("study").textContent);
const questions = new Map(study.questions.map((each) => [each.id, each]));
const address = document.documentElement.dataset.answers; // "" for a page that sends nothing
const place = `pmagic-study-${study.id}`;
const asked = { identity: "Which picture looks more like the person in the photo?", text: "Which picture fits the description better?" };
let state = load();
let shown = null; // the question on the page, and since when
let turn = 0; // counts what was shown, so that a picture that comes late changes nothing
let timer = null;

// --- what is kept in this browser: every choice in the order in which it was made; a choice taken back is null

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(place));
    return found && found.study === study.id ? found : null;
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    state.forgets = true;
  }
}

function begin() {
  const random = (count) => crypto.getRandomValues(new Uint32Array(1))[0] % count;
  const order = study.questions.map((each) => each.id);
  for (let last = order.length - 1; last > 0; last -= 1) { // Fisher and Yates
    const other = random(last + 1);
    [order[last], order[other]] = [order[other], order[last]];
  }
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  state = {
    study: study.id,
    participant: [...bytes].map((each) => each.toString(16).padStart(2, "0")).join(""),
    order,
    left: Object.fromEntries(order.map((id) => [id, random(2) ? "a" : "b"])),
    log: [],
    kept: 0, // how many of them the server has acknowledged
  };
  keep();
  show();
}

function answers() {
  const found = new Map();
  for (const each of state.log) {
    if (each.chosen === null) found.delete(each.question);
    else found.set(each.question, each);
  }
  return found;
}

function record(question, chosen, seconds) {
  state.log.push({ n: state.log.length + 1, question, chosen, left: state.left[question], seconds });
  keep();
  send();
}

// --- answering

function choose(side) {
  if (!shown || performance.now() - shown.since < PAUSE) return;
  const left = state.left[shown.id];
  const chosen = side === "left" ? left : left === "a" ? "b" : "a";
  const seconds = Math.round(Math.min(performance.now() - shown.since, 3.6e6) / 100) / 10;
  record(shown.id, chosen, seconds);
  show();
}

function undo() {
  if (!state) return;
  const done = answers();
  const last = [...state.order].reverse().find((id) => done.has(id));
  if (last === undefined) return;
  record(last, null, 0);
  show();
}

// --- showing

function section(id) {
  for (const each of document.querySelectorAll("main > section")) each.hidden = each.id !== id;
  byId("foot").hidden = id === "intro" || id === "broken";
}

async function show() {
  shown = null;
  turn += 1;
  const mine = turn;
  if (!state) {
    section("intro");
    return;
  }
  const done = answers();
  const id = state.order.find((each) => !done.has(each));
  byId("undo").disabled = done.size === 0;
  byId("progress").value = done.size;
  tell();
  if (id === undefined) {
    section("end");
    byId("text").value = file();
    document.querySelector("#end h1").focus();
    return;
  }
  const question = questions.get(id);
  const right = state.left[id] === "a" ? "b" : "a";
  const sources = [
    [document.querySelector("#left img"), question[state.left[id]]],
    [document.querySelector("#right img"), question[right]],
  ];
  byId("photo").hidden = question.photo === "";
  byId("prompt").hidden = question.prompt === "";
  byId("prompt").textContent = question.prompt;
  if (question.photo) sources.push([byId("photo"), question.photo]);
  byId("number").textContent = `Question ${done.size + 1} of ${state.order.length}`;
  byId("ask").textContent = asked[question.kind];
  section("question");
  try {
    await Promise.all(sources.map(([image, name]) => {
      image.src = study.pictures[name];
      return image.decode();
    }));
  } catch {
    if (mine === turn) section("broken");
    return;
  }
  if (mine !== turn) return;
  byId("ask").focus({ preventScroll: true });
  shown = { id, since: performance.now() };
}

function tell(problem = "") {
  const left = state ? state.log.length - state.kept : 0;
  const lines = [];
  if (state && state.forgets) lines.push("This browser keeps nothing: do not close or reload the page before the end.");
  if (address && problem) lines.push(problem);
  if (address && problem && left) lines.push(`${left === 1 ? "1 choice is" : `${left} choices are`} not saved yet.`);
  const ended = state && answers().size === state.order.length;
  if (address && ended) lines.push(left ? "Please leave the page open." : "All answers are saved. You can close the page.");
  byId("status").textContent = lines.join(" ");
  byId("hand-in").hidden = Boolean(address) && left === 0; // the server has them all: there is nothing to send back
  byId("next").hidden = !ended || (address ? left > 0 : !state.saved);
}

// --- sending to the server that gave this page, if there is one

async function send() {
  if (!address || !state || timer === "sending" || state.kept === state.log.length) return;
  clearTimeout(timer);
  timer = "sending";
  const { participant, log } = state;
  let problem = "";
  try {
    const reply = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ study: study.id, participant, choices: log.slice(state.kept, state.kept + 100) }),
    });
    if (reply.ok) {
      if (state && state.participant === participant) state.kept = Math.max(state.kept, (await reply.json()).kept);
      keep();
    } else if (reply.status === 403) {
      problem = "The access has ended: please open the address that you were given again.";
    } else {
      problem = `The server refused the choices (${reply.status}): please call the person who invited you.`;
    }
  } catch {
    problem = "The server does not answer; this page tries again by itself.";
  }
  timer = null;
  tell(problem);
  if (state && state.kept < state.log.length) timer = setTimeout(() => { timer = null; send(); }, problem ? RETRY : 0);
}

// --- the file at the end

function file() {
  return JSON.stringify({
    format: FORMAT, version: 1, study: study.id, participant: state.participant, choices: state.log,
  }, null, 1);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file()], { type: "application/json" }));
  link.download = `answers-${state.participant}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  state.saved = true;
  keep();
  tell();
}

byId("start").addEventListener("click", begin);
byId("left").addEventListener("click", () => choose("left"));
byId("right").addEventListener("click", () => choose("right"));
byId("undo").addEventListener("click", undo);
byId("save").addEventListener("click", save);
byId("next").addEventListener("click", () => {
  localStorage.removeItem(place);
  state = null;
  show();
  document.querySelector("#intro h1").focus();
});
document.addEventListener("keydown", (event) => {
  if (!state || event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  if (event.target instanceof HTMLTextAreaElement) return;
  const acts = { ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), Backspace: undo };
  if (event.key in acts) {
    event.preventDefault();
    acts[event.key]();
  }
});
window.addEventListener("storage", (event) => { // another tab of this browser went on
  if (event.key === place || event.key === null) {
    state = load();
    show();
  }
});
show();
send();
