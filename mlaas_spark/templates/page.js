"use strict";
// Tables that sort by a press on a head, search fields that filter rows, buttons that copy. Without it the page is whole.
const valueOf = (row, column) => {
  const cell = row.cells[column], value = cell.dataset.v;
  return value === undefined ? cell.textContent.trim() : value === "" ? null : Number(value);
};
const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b));
for (const table of document.querySelectorAll("table[data-sorted]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : compare(a, b) * (down ? -1 : 1)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
for (const field of document.querySelectorAll("input[type=search]")) {
  const rows = [...document.querySelectorAll(`#${field.dataset.table} tbody tr`)];
  const found = field.parentElement.querySelector(".found");
  const texts = rows.map((row) => row.cells[0].textContent.toLowerCase());
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    found.textContent = `${shown} of ${rows.length}`;
  };
  field.parentElement.hidden = rows.length < 2;
  field.addEventListener("input", filter);
  filter();
}
for (const button of document.querySelectorAll(".copy")) {
  const said = button.firstChild;
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    said.data = "Copied";
    setTimeout(() => { said.data = "Copy"; }, 1500);
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
