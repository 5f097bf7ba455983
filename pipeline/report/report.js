"use strict";
// Sort a table by a column: its headings become buttons, numbers sort by data-value, the rest as text.
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const rising = heading.getAttribute("aria-sort") === "descending";
      const value = (row) => row.cells[column].dataset.value;
      const compare = (one, other) => {
        const a = value(one), b = value(other);
        if (a === undefined) return one.cells[column].textContent.localeCompare(other.cells[column].textContent);
        return Number(a) - Number(b);
      };
      const rows = [...body.rows].sort(compare);
      body.append(...(rising ? rows : rows.reverse()));
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    });
  });
});
