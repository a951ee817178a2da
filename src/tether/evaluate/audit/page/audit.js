const suspects = [...document.querySelectorAll(".suspect")];
const remembered = `tether-audit-${auditName}`;
const about = (card) => JSON.stringify([card.dataset.kind, card.dataset.key, card.dataset.given]);
let decisions = {};
try { decisions = JSON.parse(localStorage.getItem(remembered) || "{}"); } catch { decisions = {}; }
const remember = () => { try { localStorage.setItem(remembered, JSON.stringify(decisions)); } catch { /* a browser may refuse */ } };

const show = (card) => {
  const made = decisions[about(card)];
  card.classList.toggle("decided", Boolean(made));
  card.querySelectorAll("[data-choice]").forEach((button) => {
    button.setAttribute("aria-pressed", String(Boolean(made) && made.choice === button.dataset.choice));
  });
  const field = card.querySelector("input");
  if (field && made && made.new) field.value = made.new;
  document.getElementById("done").textContent = String(suspects.filter((one) => decisions[about(one)]).length);
};
const move = (card, step) => {
  const next = suspects[suspects.indexOf(card) + step];
  if (next) { next.focus({ preventScroll: true }); next.scrollIntoView({ block: "nearest" }); }
};
const decide = (card, choice) => {
  const said = card.querySelector("output"), field = card.querySelector("input");
  said.textContent = "";
  if (choice === "relabel") {
    if (!field) return;
    if (!field.value.trim()) { said.textContent = "Type the right one first."; field.focus(); return; }
    if (field.value === card.dataset.given) choice = "keep";
  }
  decisions[about(card)] = { choice, new: choice === "relabel" ? field.value.trim() : "" };
  remember();
  show(card);
  move(card, 1);
};
suspects.forEach((card) => {
  show(card);
  card.querySelectorAll("[data-choice]").forEach((button) => button.addEventListener("click", () => decide(card, button.dataset.choice)));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !suspects.length) return;
  const card = document.activeElement.closest(".suspect");
  if (document.activeElement.tagName === "INPUT") {
    if (event.key === "Enter" && card) { event.preventDefault(); decide(card, "relabel"); }
    if (event.key === "Escape" && card) card.focus();
    return;
  }
  const choices = { k: "keep", r: "relabel", d: "drop" }, key = event.key.toLowerCase();
  if (!card) {
    if (key in choices || key === "arrowdown" || key === "j") { event.preventDefault(); suspects[0].focus(); }
    return;
  }
  if (key === "r" && card.querySelector("input")) {
    event.preventDefault();
    const field = card.querySelector("input");
    field.focus();
    field.select();
  } else if (key in choices) {
    event.preventDefault();
    decide(card, choices[key]);
  } else if (key === "u") {
    delete decisions[about(card)];
    remember();
    show(card);
  } else if (key === "arrowdown" || key === "j") {
    event.preventDefault();
    move(card, 1);
  } else if (key === "arrowup") {
    event.preventDefault();
    move(card, -1);
  }
});

const cell = (text) => {  // as tether.core.printable.csv_cell: no spreadsheet runs what stands in a cell
  const bare = text.replace(/^'+/, "");
  const formula = /^(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])/.test(bare) && !/^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$/.test(bare);
  return `"${(formula ? "'" + text : text).replaceAll('"', '""')}"`;
};
const table = () => {
  const lines = [["key", "kind", "decision", "given", "new"]];
  suspects.forEach((card) => {
    const made = decisions[about(card)];
    if (made) lines.push([card.dataset.key, card.dataset.kind, made.choice, card.dataset.given, made.new]);
  });
  return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
};
const save = document.getElementById("save");
if (save) save.addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
