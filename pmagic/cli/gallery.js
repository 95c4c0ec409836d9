"use strict";
const cards = [...document.querySelectorAll("article")];
const search = document.getElementById("search");
const selects = [...document.querySelectorAll("select")];
const count = document.getElementById("count");
const kind = count.textContent.split(" ").pop();

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const text = card.dataset.text.toLowerCase();
    const fits = words.every((word) => text.includes(word)) &&
      selects.every((each) => each.value === "" || card.dataset[each.dataset.filter] === each.value);
    card.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${cards.length} ${kind}`;
}

search.addEventListener("input", filter);
selects.forEach((each) => each.addEventListener("change", filter));
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  }
});
