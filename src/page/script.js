
"use strict";
(function () {
  // A link to a guest opens it.
  function reveal() {
    var target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    var details = target && target.querySelector("details");
    if (details) { details.open = true; details.querySelector("summary").focus(); }
  }
  window.addEventListener("hashchange", reveal);
  reveal();
  // Paper can't be clicked.
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("article > details").forEach(function (d) { d.open = true; });
  });
  var table = document.getElementById("table");
  if (!table) { return; }
  var body = table.tBodies[0], rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
  var filter = document.getElementById("filter"), shown = document.getElementById("shown");
  function narrow() {
    var words = filter.value.toLowerCase().split(/\s+/).filter(Boolean), count = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      var fits = words.every(function (word) { return text.includes(word); });
      var article = document.getElementById(row.querySelector("a").hash.slice(1));
      row.hidden = article.hidden = !fits;
      if (fits) { count += 1; }
    });
    shown.textContent = count + " of " + rows.length + " guests";
  }
  filter.addEventListener("input", narrow);
  narrow();
  heads.forEach(function (head, column) {
    head.querySelector("button").addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      var numbers = head.querySelector("button").dataset.kind === "number";
      heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      var sorted = rows.slice().sort(function (a, b) {
        var x = a.cells[column].textContent, y = b.cells[column].textContent;
        if (numbers) {
          x = x === "" ? Infinity : parseFloat(x);
          y = y === "" ? Infinity : parseFloat(y);
          return x === y ? 0 : x < y ? -1 : 1;
        }
        return x.localeCompare(y, "en", { numeric: true });
      });
      if (down) { sorted.reverse(); }
      sorted.forEach(function (row) { body.appendChild(row); });
    });
  });
})();
