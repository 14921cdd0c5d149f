"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const csrf = document.querySelector("meta[name=csrf]").content;
const main = document.getElementById("main");
const status = document.getElementById("status");
const progress = document.getElementById("progress");
const place = document.getElementById("place");
let onKey = null;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Version 4; crypto.randomUUID is not there without TLS.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// Sends until the server has answered: an answer bears its id, so that twice counts once.
async function send(path, body) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const options = body === undefined ? {} : {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
        body: JSON.stringify(body),
      };
      const response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
      if (response.status !== 429 && response.status < 500) {
        status.textContent = "";
        return { ok: response.ok, code: response.status, value: await response.json() };
      }
    } catch (error) {
      // The server is away: the answer stays here until it is back.
    }
    status.textContent = "The server does not answer. Your answer is kept, please wait.";
    await pause(wait);
  }
}

async function refresh() {
  const { ok, value } = await send("state");
  if (ok) show(value);
  else fail(value);
}

function fail(value) {
  stage("The study cannot go on", make("p", {}, value.message ?? "Please reload the page."),
    make("button", { type: "button", onclick: () => location.reload() }, "Reload the page"));
}

function stage(title, ...children) {
  onKey = null;
  const heading = make("h1", { tabindex: "-1" }, title);
  main.replaceChildren(heading, ...children);
  scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

// A form whose content is sent once, however often "next" is pressed.
function form(label, collect, deliver, ...children) {
  let busy = false;
  const next = make("button", { type: "submit", class: "next" }, label);
  const element = make("form", { novalidate: true }, ...children, next);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    const value = collect();
    if (value === null) return;
    busy = true;
    element.setAttribute("aria-busy", "true");
    await deliver(value);
    busy = false;
    element.removeAttribute("aria-busy");
  });
  return element;
}

function missing(text, element) {
  status.textContent = text;
  element.focus();
  return null;
}

async function post(path, body) {
  const { ok, code, value } = await send(path, body);
  if (ok) show(value);
  else if (code === 409) await refresh();
  else fail(value);
}

const paragraphs = (texts) => texts.map((text) => make("p", {}, text));

function showConsent() {
  const boxes = facts.consent.boxes.map((text, index) => {
    const box = make("input", { type: "checkbox", id: `box-${index}` });
    return [box, make("label", { class: "choice", for: `box-${index}` }, box, text)];
  });
  stage("Consent", ...paragraphs(facts.consent.paragraphs), form("I agree", () => {
    const open = boxes.find(([box]) => !box.checked);
    return open ? missing("Please tick all three boxes if you agree.", open[0]) : [true, true, true];
  }, (value) => post("consent", { boxes: value }), ...boxes.map(([, label]) => label)));
}

function showInstructions() {
  const sets = facts.questions.map((question, number) => {
    const answers = question.answers.map((text, index) => {
      const id = `q-${number}-${index}`;
      const button = make("input", { type: "radio", name: `q-${number}`, id, value: index });
      return make("label", { class: "choice", for: id }, button, text);
    });
    return make("fieldset", {}, make("legend", {}, question.text), ...answers);
  });
  const chosen = (set) => set.querySelector("input:checked");
  stage("What you do", ...paragraphs(facts.instructions),
    make("h2", {}, "Three questions before it starts"), form("Start", () => {
      const open = sets.find((set) => !chosen(set));
      if (open) return missing("Please answer all three questions.", open.querySelector("input"));
      return sets.map((set) => Number(chosen(set).value));
    }, async (value) => {
      const { ok, code, value: answer } = await send("understood", { answers: value });
      if (!ok) return code === 409 ? refresh() : fail(answer);
      if (answer.stage !== "instructions") return show(answer);
      sets.forEach((set, index) => set.classList.toggle("wrong", answer.wrong.includes(index)));
      const count = answer.wrong.length;
      missing(count === 1 ? "One answer is not right. Please read again and correct it."
        : `${count} answers are not right. Please read again and correct them.`,
        sets[answer.wrong[0]].querySelector("input:checked"));
    }, ...sets));
}

// A picture that the server was too busy for is asked for again.
function picture(id, alt) {
  const image = make("img", { alt, draggable: "false", class: facts.smooth ? "smooth" : null });
  let wait = 500;
  image.addEventListener("error", async () => {
    await pause(wait);
    wait = Math.min(2 * wait, 8000);
    if (image.isConnected) image.src = `picture/${id}?${wait}`;
  });
  image.src = `picture/${id}`;
  return image;
}

// A slider without a thumb, which has no value before somebody touches it.
function slider(name, left, right, tell) {
  const id = `slider-${name.replaceAll(" ", "-")}`;
  const output = make("output", { for: id }, "not set yet");
  const input = make("input", { type: "range", id, min: "0", max: "100", step: "1", value: "50", class: "untouched", "aria-valuetext": "not set yet" });
  const touch = () => {
    input.classList.remove("untouched");
    output.textContent = tell(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", touch);
  input.addEventListener("pointerup", touch);
  input.addEventListener("keydown", (event) => {
    const moves = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
    if (moves.includes(event.key)) setTimeout(touch);
  });
  const element = make("div", { class: "slider" },
    make("label", { for: id }, `${name}: `), output, input,
    make("div", { class: "ends", "aria-hidden": "true" }, make("span", {}, left), make("span", {}, right)));
  const value = () => (input.classList.contains("untouched") ? null : Number(input.value));
  return { element, input, value };
}

function untouched(sliders) {
  const open = sliders.find((each) => each.value() === null);
  return open ? missing("Please move all sliders first.", open.input) : false;
}

function inferTrial(trial) {
  const share = (value) => `${100 - value} % ${trial.first}, ${value} % ${trial.second}`;
  const ends = [`only ${trial.first}`, `only ${trial.second}`];
  const parts = { slider: slider("Mixture", ...ends, share) };
  if (facts.interval) {
    parts.low = slider("Left end of what is possible", ...ends, share);
    parts.high = slider("Right end of what is possible", ...ends, share);
  }
  parts.confidence = slider("How sure are you", "not at all", "entirely", (value) => `${value} %`);
  const all = Object.values(parts);
  const collect = () => {
    if (untouched(all) === null) return null;
    const answer = Object.fromEntries(Object.entries(parts).map(([key, part]) => [key, part.value()]));
    if (facts.interval && !(answer.low <= answer.slider && answer.slider <= answer.high)) {
      return missing("The mixture has to lie between both ends of what is possible.", parts.low.input);
    }
    return answer;
  };
  const alt = `A mixture of ${trial.first} and ${trial.second}`;
  return { collect, children: [make("figure", {}, picture(trial.pictures[0], alt)), ...all.map((part) => part.element)] };
}

function constructTrial(trial) {
  let step = trial.start;
  let moves = 0;
  const alt = `A mixture of ${trial.first} and ${trial.second}`;
  const images = trial.pictures.map((id) => picture(id, alt));
  const draw = () => images.forEach((image, index) => image.classList.toggle("now", index === step));
  const move = (way) => {
    const next = step + way;
    if (next < 0 || next >= images.length) {
      status.textContent = `There is no more of ${way < 0 ? trial.second : trial.first}.`;
      return;
    }
    step = next;
    moves += 1;
    status.textContent = "";
    draw();
  };
  const more = make("button", { type: "button", onclick: () => move(-1), "aria-keyshortcuts": "g" }, `G: more ${trial.second}`);
  const less = make("button", { type: "button", onclick: () => move(1), "aria-keyshortcuts": "h" }, `H: more ${trial.first}`);
  draw();
  const keys = (event) => {
    const key = event.key.toLowerCase();
    if (key === "g") move(-1);
    else if (key === "h") move(1);
    else if (key === "Enter" || key === "enter") {
      if (event.target instanceof HTMLButtonElement) return;
      main.querySelector("form").requestSubmit();
    } else return;
    event.preventDefault();
  };
  const collect = () => (moves === 0 ? missing("Please take a step first.", more) : { step, moves });
  return { collect, keys, children: [make("figure", { class: "steps" }, ...images), make("div", { class: "keys" }, more, less)] };
}

function selectTrial(trial) {
  const tiles = trial.pictures.map((id, index) => {
    const button = make("input", { type: "radio", name: "tile", id: `tile-${index}`, value: index, "aria-label": `Image ${index + 1} of ${trial.pictures.length}` });
    return make("label", { for: `tile-${index}` }, button, picture(id, ""));
  });
  const set = make("fieldset", { class: "tiles", role: "radiogroup", "aria-label": `Mixtures of ${trial.first} and ${trial.second}` }, ...tiles);
  const collect = () => {
    const chosen = set.querySelector("input:checked");
    return chosen ? { tile: Number(chosen.value) } : missing("Please choose an image.", set.querySelector("input"));
  };
  return { collect, children: [set] };
}

function categoricalTrial(trial) {
  const options = () => facts.classes.map((name, index) => make("option", { value: index }, name));
  const list = (id, empty) => make("select", { id }, make("option", { value: "" }, empty), ...options());
  const first = list("class-first", "choose a class");
  const second = list("class-second", "no other class");
  const percent = (value) => `${value} %`;
  const firstShare = slider("How probable is it", "0 %", "100 %", percent);
  const secondShare = slider("How probable is the other", "0 %", "100 %", percent);
  secondShare.element.hidden = true;
  const boxes = facts.classes.map((name, index) => {
    const box = make("input", { type: "checkbox", value: index, id: `not-${index}` });
    return make("label", { class: "choice", for: `not-${index}` }, box, name);
  });
  const ruled = make("fieldset", {}, make("legend", {}, "Impossible classes"), make("div", { class: "many" }, ...boxes));
  const update = () => {
    secondShare.element.hidden = second.value === "";
    boxes.forEach((label, index) => {
      const box = label.querySelector("input");
      box.disabled = [first.value, second.value].includes(String(index));
      if (box.disabled) box.checked = false;
    });
  };
  first.addEventListener("change", update);
  second.addEventListener("change", update);
  const collect = () => {
    if (first.value === "") return missing("Please choose the most probable class.", first);
    if (first.value === second.value) return missing("Please choose two different classes.", second);
    const other = second.value !== "";
    if (untouched(other ? [firstShare, secondShare] : [firstShare]) === null) return null;
    if (firstShare.value() + (other ? secondShare.value() : 0) === 0) {
      return missing("A class that you name has a probability above 0.", firstShare.input);
    }
    return {
      first: Number(first.value), first_share: firstShare.value(),
      second: other ? Number(second.value) : null, second_share: other ? secondShare.value() : null,
      impossible: [...ruled.querySelectorAll("input:checked")].map((box) => Number(box.value)),
    };
  };
  return { collect, children: [
    make("figure", {}, picture(trial.pictures[0], "A mixture of two images")),
    make("p", {}, make("label", { for: "class-first" }, "Most probable class: "), first), firstShare.element,
    make("p", {}, make("label", { for: "class-second" }, "Another class, if there is one: "), second), secondShare.element,
    ruled,
  ] };
}

const trials = { infer: inferTrial, construct: constructTrial, select: selectTrial, categorical: categoricalTrial };

function showTrial(state) {
  const { trial } = state;
  const { collect, keys, children } = trials[facts.task](trial);
  const id = uuid();
  let since = performance.now();
  const named = "first" in trial ? [make("p", { class: "classes" },
    make("span", {}, "first: ", make("strong", {}, trial.first)), make("span", {}, "second: ", make("strong", {}, trial.second)))] : [];
  const asked = [trial.second, trial.first][trial.goal];
  const prompt = trial.goal === null || trial.goal === undefined ? facts.prompt
    : `This time, please find the image that shows ${asked} alone.`;
  stage(prompt, ...named, form("Next", collect, (answer) => {
    const ms = Math.max(0, Math.round(performance.now() - since));
    return post("answer", { uuid: id, trial: trial.id, ms, answer });
  }, ...children));
  onKey = keys ?? null;
  const loaded = [...main.querySelectorAll("img")].map((image) => image.decode().catch(() => {}));
  Promise.all(loaded).then(() => { since = performance.now(); });
}

function showComments() {
  const text = make("textarea", { id: "comment", rows: "6", maxlength: facts.mostComment });
  stage("Nearly done", make("p", {}, "All images are judged. Is there anything that you want to say? You can leave this empty; please write nothing by which you could be recognised."),
    form("Finish", () => text.value, (value) => post("comments", { text: value }),
      make("p", {}, make("label", { for: "comment" }, "Comments")), text));
}

function showThanks() {
  stage("Thank you", make("p", {}, "Your answers are stored. You can close this page."),
    form("Begin with another person", () => true, () => post("leave", {}),
      make("p", { class: "soft" }, "If another person takes part on this device:")));
}

const stages = { consent: showConsent, instructions: showInstructions, trial: showTrial, comments: showComments, thanks: showThanks };

function show(state) {
  // A page of another session has other tokens.
  if (state.reload) return location.reload();
  const inTrial = state.stage === "trial";
  progress.hidden = !inTrial;
  place.textContent = inTrial ? `${state.done + 1} of ${state.total}` : "";
  if (inTrial) [progress.max, progress.value] = [state.total, state.done];
  status.textContent = "";
  stages[state.stage](state);
}

document.addEventListener("keydown", (event) => {
  if (onKey && !event.ctrlKey && !event.metaKey && !event.altKey) onKey(event);
});

const root = document.documentElement;
document.getElementById("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
});

refresh();
