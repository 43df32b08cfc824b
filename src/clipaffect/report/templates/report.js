// Draws the charts, and makes tables with the class "sortable" sort and filter. No network.
"use strict";
(() => {
  const options = { actions: false, renderer: "svg" };
  const drawn = [...document.querySelectorAll("script.chart")].map((source) =>
    vegaEmbed(source.previousElementSibling, JSON.parse(source.textContent), options));
  Promise.all(drawn).then(() => document.documentElement.setAttribute("data-drawn", "yes"));

  // A chart in a folded part has no width when it is drawn.
  for (const part of document.querySelectorAll("details")) {
    part.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")));
  }

  const FEWEST = 15;  // rows of a table that is worth a filter
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  // Numbers by size, with the empty ones last; words as words.
  function compare(a, b) {
    const [x, y] = [a, b].map((text) => parseFloat(text.replace(/,/g, "").replace("−", "-")));
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return Number.isNaN(x) ? a.localeCompare(b) : x - y;
  }

  function makeSortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column)));
        body.append(...(down ? rows.reverse() : rows));
      });
    });
  }

  function makeFilterable(table) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("span");
    label.className = "filter";
    input.type = "search";
    count.setAttribute("role", "status");
    label.append("Show rows with ", input, " ", count);
    const rows = [...table.tBodies[0].rows];
    const show = () => {
      const words = input.value.toLowerCase().split(/\s+/);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    input.addEventListener("input", show);
    table.parentElement.before(label);
    show();
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    makeSortable(table);
    if (table.tBodies[0].rows.length > FEWEST) makeFilterable(table);
  }
})();
