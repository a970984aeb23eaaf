// Sorts the tables of results. A click on a heading sorts its table upwards, the next one downwards,
// the third restores the order. Rows without a first cell go on with the row above and move with it;
// cells without a value stay last.
"use strict";

const NUMBER = /^[+\-−]?(\d[\d,]*(\.\d*)?|\.\d+)(e[+\-]?\d+)?/;

function numberIn(text) {
  const found = NUMBER.exec(text);
  return found ? Number(found[0].replaceAll(",", "").replace("−", "-")) : NaN;
}

function compare(one, other) {
  const difference = numberIn(one) - numberIn(other);
  return Number.isNaN(difference) ? one.localeCompare(other, "en", { numeric: true }) : difference;
}

function groupsOf(table) {
  const groups = [];
  for (const row of table.tBodies[0]?.rows ?? []) {
    if (row.cells[0].textContent.trim() || !groups.length) groups.push([]);
    groups.at(-1).push(row);
  }
  return groups;
}

function sorted(groups, column, sign) {
  const textOf = (group) => group[0].cells[column].textContent.trim();
  const isEmpty = (group) => ["", "–"].includes(textOf(group));
  return [...groups].sort(
    (one, other) => isEmpty(one) - isEmpty(other) || sign * compare(textOf(one), textOf(other)),
  );
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const original = groupsOf(table);
  const headings = [...table.tHead.rows[0].cells];
  for (const [column, heading] of headings.entries()) {
    if (!heading.textContent.trim() || original.length < 2) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[heading.ariaSort];
      const order = next === undefined ? "ascending" : next;
      for (const each of headings) each.ariaSort = null;
      heading.ariaSort = order;
      const sign = order === "ascending" ? 1 : -1;
      const groups = order ? sorted(original, column, sign) : original;
      table.tBodies[0].append(...groups.flat());
    });
  }
}
