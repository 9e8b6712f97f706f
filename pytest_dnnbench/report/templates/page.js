"use strict";
(() => {
  document.documentElement.classList.add("js");
  const table = document.getElementById("table");
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells];
  const cases = [...table.tBodies].map((body) => ({
    body,
    keys: [...body.rows[0].cells].map((cell) => cell.dataset.sort),
    texts: [...body.rows[0].cells].map((cell) => cell.textContent),
    all: body.textContent.toLowerCase(),
  }));
  const columnOf = Object.fromEntries(heads.map((head, place) => [head.dataset.column, place]));
  const sorting = document.getElementById("sort");
  const search = document.getElementById("search");
  const selects = [...document.querySelectorAll("select[data-column]")];

  // Missing values come last in either direction.
  function compare(left, right, up) {
    if (left === "" || right === "") return (left === "") - (right === "");
    const numbers = [Number(left), Number(right)];
    const order = numbers.some(Number.isNaN) ? left.localeCompare(right) : numbers[0] - numbers[1];
    return up ? order : -order;
  }

  function sort(column, up) {
    const place = columnOf[column];
    cases.sort((left, right) => compare(left.keys[place], right.keys[place], up));
    table.append(...cases.map((row) => row.body));
    heads.forEach((head, number) => {
      if (number === place) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = selects.filter((select) => select.value).map((select) => [columnOf[select.dataset.column], select.value]);
    let count = 0;
    for (const { body, keys, all } of cases) {
      const shown = words.every((word) => all.includes(word)) && chosen.every(([place, value]) => keys[place] === value);
      body.hidden = !shown;
      count += shown;
    }
    document.getElementById("count").value = `${count} of ${cases.length}`;
    document.getElementById("none").hidden = count > 0;
  }

  heads.forEach((head) => head.addEventListener("click", () => {
    const first = heads.length && head.classList.contains("n") ? "descending" : "ascending";
    const now = head.getAttribute("aria-sort");
    sort(head.dataset.column, now ? now !== "ascending" : first === "ascending");
    sorting.value = head.dataset.column;
  }));
  sorting.addEventListener("change", () => sort(sorting.value, !heads[columnOf[sorting.value]].classList.contains("n")));
  search.addEventListener("input", filter);
  selects.forEach((select) => select.addEventListener("change", filter));
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  table.addEventListener("click", (event) => {
    const toggle = event.target.closest(".toggle");
    if (!toggle) return;
    toggle.setAttribute("aria-expanded", toggle.closest("tbody").classList.toggle("open"));
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#env-"]');
    const target = link && document.querySelector(link.hash);
    if (target) target.open = true;
  });
  filter();
})();
