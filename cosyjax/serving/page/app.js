// The page: wires text, voice, player and plots together.

import { Player, RATE } from "./player.js";
import { Plots } from "./plots.js";
import { Reading } from "./reading.js";
import { wav } from "./recorder.js";
import { Session } from "./session.js";
import { Voices } from "./voices.js";

const get = (id) => document.getElementById(id);
const text = get("text"), speak = get("speak"), stop = get("stop"), download = get("download"), typing = get("typing");
const key = () => sessionStorage.getItem("key") ?? "";
const headers = () => (key() ? { authorization: `Bearer ${key()}` } : {});

const player = new Player(), reading = new Reading(get("reading"));
const plots = new Plots(get("wave"), get("mel"), get("head"));
const voices = new Voices(headers);
let run = null; // {session, began, first, parts, sent, done, closed}: the utterance of the moment
let last = null; // the finished one, for its download
let starting = null; // a session that is being opened; typed words are sent once it is
let typedSoFar = ""; // what has been sent of a text that is typed

function say(problem) {
  get("problem").textContent = problem ?? "";
  get("problem").hidden = !problem;
}

function config() {
  const number = (id) => (get(id).value === "" ? undefined : Number(get(id).value));
  const speed = Number(get("speed").value);
  return {
    ...voices.chosen, response_format: "pcm", timestamps: true, split_granularity: "none",
    instructions: get("instruction").value.trim() || undefined, speed: speed === 1 ? undefined : speed,
    seed: number("seed"), flow_steps: number("steps"),
  };
}

async function begin() {
  const began = performance.now();
  await player.wake();
  halt();
  say(null);
  player.reset(); plots.clear(); reading.clear();
  for (const id of ["first", "factor", "length"]) get(id).textContent = "–";
  const mine = { began, first: 0, parts: [], sent: "", done: false, closed: false };
  mine.session = new Session(key(), { message: (m) => run === mine && message(m), closed: (code) => run === mine && closed(code) });
  mine.session.say("session.config", config());
  run = mine;
  buttons();
}

function send(piece) {
  if (!piece) return;
  run.sent += piece;
  reading.write(run.sent);
  run.session.say("input.text", { text: piece });
}

async function speakAll() {
  if (typing.checked) { if (run && !run.done) finishTyping(); return; }
  if (!text.value.trim()) { say("There is no text to speak."); return; }
  await begin();
  send(text.value);
  run.session.say("input.done");
}

// Type-as-you-speak: a word goes when the blank or mark after it is typed.
async function typed() {
  get("count").textContent = text.value.length;
  if (!typing.checked) return;
  if (!text.value.startsWith(typedSoFar)) { // what has been sent cannot be taken back
    if (text.value.length < typedSoFar.length) typedSoFar = text.value;
    return;
  }
  const whole = text.value.slice(typedSoFar.length).match(/^[\s\S]*[\s.,;:!?。，！？；：、…]/u)?.[0];
  if (!whole?.trim()) return;
  typedSoFar += whole;
  starting = (starting ?? Promise.resolve()).then(async () => {
    if (!run || run.done || run.closed) await begin();
    send(whole);
  });
}

function finishTyping() {
  if (text.value.startsWith(typedSoFar)) send(text.value.slice(typedSoFar.length));
  typedSoFar = text.value;
  run.session.say("input.done");
  run.closed = true;
  buttons();
}

function halt() {
  if (run && !run.done) {
    run.session.cancel();
    run.done = true;
    last = run;
    get("said").textContent = "Stopped.";
  }
  player.reset();
  buttons();
}

function message(m) {
  if (m.type === "error") { say(m.message); if (run) { run.done = true; } buttons(); return; }
  if (!run || run.done) return;
  if (m.type === "audio.chunk") {
    const now = performance.now();
    if (!run.first) {
      run.first = now;
      get("first").textContent = `${Math.round(now - run.began)} ms`;
    }
    run.parts.push(m.pcm);
    player.push(m.pcm);
    plots.push(m.pcm);
    reading.hear(m.timestamps ?? []);
    const seconds = player.samples / RATE;
    get("length").textContent = `${seconds.toFixed(1)} s`;
    if (seconds && !typing.checked) get("factor").textContent = ((now - run.began) / 1000 / seconds).toFixed(2);
  } else if (m.type === "session.done") {
    run.done = true;
    last = run;
    run.session.say("session.close");
    get("said").textContent = `Spoken: ${get("length").textContent}, first packet after ${get("first").textContent}.`;
    buttons();
  }
}

function closed(code) {
  if (run && !run.done) {
    say(code === 1008 || code === 1006 ? "The server refused or ended the connection." : "The connection has ended.");
    run.done = true;
    buttons();
  }
}

function buttons() {
  const speaking = Boolean(run && !run.done) || player.playing;
  stop.disabled = !speaking;
  download.disabled = !(last?.parts.length || run?.parts.length);
  speak.textContent = typing.checked ? "Finish" : "Speak";
  speak.disabled = typing.checked && !(run && !run.done && !run.closed);
}

function tick() {
  if (player.chunks.length) {
    reading.mark(player.place);
    plots.at(player.place);
    if (run?.done && !player.playing && player.samples && player.sources.size === 0 && reading.now < reading.words.length) reading.finish();
  }
  if (stop.disabled === (Boolean(run && !run.done) || player.playing)) buttons();
  requestAnimationFrame(tick);
}

function save() {
  const from = run?.parts.length ? run : last;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wav(from.parts, RATE));
  link.download = "speech.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function look() {
  const state = get("state");
  try {
    const health = await (await fetch("/health")).json();
    state.className = health.engine === "ready" ? "state ready" : "state bad";
    state.textContent = { ready: "ready", starting: "the model is being loaded and compiled", draining: "the server is stopping", dead: "the engine has died" }[health.engine];
    get("notice").hidden = !health.random_weights;
    if (health.engine === "ready" && !voices.list) await greet();
  } catch {
    state.className = "state bad";
    state.textContent = "no answer from the server";
  }
  setTimeout(look, 3000);
}

async function greet() {
  try {
    await voices.load();
    const models = await (await fetch("/v1/models", { headers: headers() })).json();
    get("model").textContent = models.data[0].id;
  } catch (error) {
    get("key-box").open = true;
    say(error.message);
  }
}

speak.onclick = speakAll;
stop.onclick = halt;
download.onclick = save;
text.oninput = typed;
typing.onchange = () => { halt(); run = null; typedSoFar = ""; if (typing.checked) { text.value = ""; text.focus(); } typed(); buttons(); };
get("speed").oninput = () => { get("speed-shown").textContent = Number(get("speed").value).toFixed(2); };
get("key").onchange = () => { sessionStorage.setItem("key", get("key").value.trim()); voices.list = null; say(null); greet(); };
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); speakAll(); }
  if (event.key === "Escape") halt();
});
get("count").textContent = text.value.length;
buttons();
look();
tick();
