// The page's script: sorting and filtering of the layer table. Everything else works without it.
#include "report/html/parts.h"

namespace quant::report {

// After a change of the script: tests/report/render_html.py prints the new hash.
std::string_view page_script_hash() { return "6PWvzCFec/i4MwVOGViu2l088Sy9Jr9rD7RbziiR8/I="; }

std::string_view page_script() {
  return R"js(
(function () {
  "use strict";
  var root = document.documentElement;
  var table = document.getElementById("layers");
  if (table) { setUp(table); }
  root.dataset.ready = "1";

  function setUp(table) {
    var body = table.tBodies[0];
    var rows = Array.prototype.slice.call(body.rows);
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    var text = document.getElementById("filter-text");
    var kind = document.getElementById("filter-kind");
    var shown = document.getElementById("shown");

    heads.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("click", function () { sort(column, next(head)); });
    });

    function next(head) {
      var now = head.getAttribute("aria-sort");
      if (now === "ascending") { return "descending"; }
      if (now === "descending") { return "ascending"; }
      return head.dataset.first || "ascending";
    }

    function key(row, column) {
      var cell = row.cells[column];
      var value = cell.dataset.v;
      return value === undefined ? cell.textContent : Number(value);
    }

    function compare(a, b) {
      if (typeof a === "string") { return a.localeCompare(b, "en", { numeric: true }); }
      if (isNaN(a) || isNaN(b)) { return isNaN(a) - isNaN(b); }
      return a < b ? -1 : a > b ? 1 : 0;
    }

    function sort(column, direction) {
      var sign = direction === "descending" ? -1 : 1;
      var keyed = rows.map(function (row, index) { return { row: row, key: key(row, column), index: index }; });
      keyed.sort(function (a, b) { return sign * compare(a.key, b.key) || a.index - b.index; });
      var part = document.createDocumentFragment();
      keyed.forEach(function (item) { part.appendChild(item.row); });
      body.appendChild(part);
      heads.forEach(function (head, index) {
        if (index === column) { head.setAttribute("aria-sort", direction); } else { head.removeAttribute("aria-sort"); }
      });
    }

    function filter() {
      var wanted = text.value.trim().toLowerCase();
      var count = 0;
      rows.forEach(function (row) {
        var fits = (kind.value === "" || row.dataset.kind === kind.value) &&
          (wanted === "" || row.textContent.toLowerCase().indexOf(wanted) >= 0);
        row.hidden = !fits;
        count += fits ? 1 : 0;
      });
      shown.textContent = count + " of " + rows.length + " shown";
    }

    // "#sort=sqnr", "#sort=sqnr:descending", "#filter=q_proj", joined by "&": a view that can be linked to.
    function fromAddress() {
      location.hash.slice(1).split("&").forEach(function (part) {
        var at = part.indexOf("=");
        if (at < 0) { return; }
        var value;
        try { value = decodeURIComponent(part.slice(at + 1)); } catch (error) { return; }
        if (part.slice(0, at) === "filter") { text.value = value; filter(); }
        if (part.slice(0, at) !== "sort") { return; }
        var words = value.split(":");
        heads.forEach(function (head, column) {
          if (head.dataset.key !== words[0]) { return; }
          if (words[1] === "ascending" || words[1] === "descending") { sort(column, words[1]); return; }
          head.querySelector("button").click();
        });
      });
    }

    // A link to a row that the filter hides would lead nowhere.
    function reveal() {
      var target = /^#l\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
      if (target && target.hidden) { text.value = ""; kind.value = ""; filter(); target.scrollIntoView(); }
    }

    document.getElementById("filters").hidden = false;
    text.addEventListener("input", filter);
    kind.addEventListener("change", filter);
    window.addEventListener("hashchange", function () { fromAddress(); reveal(); });
    filter();
    fromAddress();
  }
})();
)js";
}

}  // namespace quant::report
