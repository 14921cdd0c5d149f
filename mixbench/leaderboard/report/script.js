"use strict";
const each = (root, query, action) => root.querySelectorAll(query).forEach(action);
const cells = (table, column) => [...table.rows].map((row) => row.cells[column]);
const text = (cell) => cell.textContent.trim();

function number(cell) {
  return parseFloat((cell.dataset.order ?? text(cell)).replace("\u2212", "-"));
}

// Cells without a number stay at the end in both directions.
function sort(table, column, direction) {
  const body = table.tBodies[0];
  const numeric = cells(table, column)[0].classList.contains("number");
  const sign = direction === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    if (!numeric) return sign * text(x).localeCompare(text(y), undefined, { numeric: true });
    const [p, q] = [number(x), number(y)];
    return isNaN(p) || isNaN(q) ? isNaN(p) - isNaN(q) : sign * (p - q);
  };
  body.append(...[...body.rows].sort(compare));
  each(table, "thead th", (head) => head.removeAttribute("aria-sort"));
  cells(table, column)[0].setAttribute("aria-sort", direction);
}

function makeSortable(table) {
  each(table, "thead th", (head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("number") && !head.hasAttribute("data-lower");
      const [start, other] = first ? ["descending", "ascending"] : ["ascending", "descending"];
      sort(table, head.cellIndex, head.getAttribute("aria-sort") === start ? other : start);
    });
  });
}

function show(table, column, shown) {
  cells(table, column).forEach((cell) => { cell.hidden = !shown; });
}

function filter(table, words, status) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) {
    const own = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => own.includes(word));
  }
  const left = rows.filter((row) => !row.hidden).length;
  status.textContent = `${left} of ${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
}

each(document, "form.controls", (form) => {
  const table = document.getElementById(form.dataset.table);
  const status = form.querySelector("[role=status]");
  const find = form.querySelector("input[type=search]");
  makeSortable(table);
  find.addEventListener("input", () => filter(table, find.value, status));
  each(form, "input[type=checkbox]", (box) => {
    show(table, Number(box.value), box.checked);
    box.addEventListener("change", () => show(table, Number(box.value), box.checked));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  filter(table, find.value, status);
  form.hidden = false;
});

const root = document.documentElement;
const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
});

const link = document.getElementById("download");
const content = document.getElementById("records").textContent;
link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
link.hidden = false;

// A row leads to its provenance, which is folded.
function unfold() {
  const part = document.getElementById(location.hash.slice(1));
  if (part instanceof HTMLDetailsElement) part.open = true;
}
addEventListener("hashchange", unfold);
unfold();

// Paper unfolds nothing: what is folded is opened for it.
addEventListener("beforeprint", () => each(document, "details:not([open])", (part) => {
  part.open = part.dataset.printed = true;
}));
addEventListener("afterprint", () => each(document, "details[data-printed]", (part) => {
  part.open = false;
  delete part.dataset.printed;
}));
