"use strict";
// Sorts the table by a column: numbers by value, text by letter; empty cells stay last.
function key(row, column) {
  return row.cells[column].dataset.key;
}

function order(column, isNumber, sign) {
  return (a, b) => {
    const [x, y] = [key(a, column), key(b, column)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (isNumber ? x - y : x.localeCompare(y, "en", { numeric: true }));
  };
}

const table = document.getElementById("table");
for (const head of table.tHead.rows[0].cells) {
  head.addEventListener("click", () => {
    const isUp = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const isNumber = head.classList.contains("number");
    const rows = [...table.tBodies[0].rows];
    rows.sort(order(head.cellIndex, isNumber, isUp ? 1 : -1));
    table.tBodies[0].append(...rows);
  });
}

// A link to a cell opens its details.
function open() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", open);
open();
