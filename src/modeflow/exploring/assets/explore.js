// What the components of the page leave open: names of sliders and of the field for files, files that are too
// large to be sent, and a server that has ended.
(function () {
  "use strict";

  function name() {
    document.querySelectorAll("[data-label]").forEach(function (box) {
      box.querySelectorAll("[role=slider], input, button").forEach(function (part) {
        if (!part.getAttribute("aria-label")) part.setAttribute("aria-label", box.dataset.label);
      });
    });
    // A list is called by its label and its value; what takes the focus for it is not to be hidden.
    document.querySelectorAll(".field").forEach(function (field) {
      var label = field.querySelector("label"), list = field.querySelector("button.dash-dropdown");
      if (!label || !list) return;
      label.id = label.id || list.id + "-label";
      var by = label.id + " " + list.id + "-value";
      if (list.getAttribute("aria-labelledby") !== by) list.setAttribute("aria-labelledby", by);
      var target = field.querySelector(".dash-dropdown-focus-target");
      if (target && target.hasAttribute("aria-hidden")) {
        target.removeAttribute("aria-hidden");
        target.setAttribute("aria-labelledby", label.id);
      }
    });
    document.querySelectorAll("#file").forEach(function (drop) {
      var target = drop.querySelector("[tabindex]") || drop;
      if (target.getAttribute("role") === "button") return;
      target.setAttribute("tabindex", "0");
      target.setAttribute("role", "button");
      target.setAttribute("aria-label", "Drop a csv here, or press Enter to choose one");
      target.addEventListener("keydown", function (event) {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        drop.querySelector("input[type=file]").click();
      });
    });
  }

  function said(id, text) {
    var place = document.getElementById(id);
    if (!place) return;
    var line = document.createElement("p");
    line.className = "trouble";
    line.setAttribute("role", "alert");
    line.textContent = text;
    place.replaceChildren(line);
  }

  function refuse(event, files) {
    var card = document.getElementById("file-card");
    if (!card || !files || !card.contains(event.target)) return;
    var most = Number(card.dataset.most);
    for (var i = 0; i < files.length; i++) {
      if (files[i].size <= most) continue;
      event.preventDefault();
      event.stopPropagation();
      said("file-said", "'" + files[i].name + "' is larger than " + Math.floor(most / 1e6) +
        " MB: score it with modeflow score, or allow more (--max-megabytes)");
    }
  }

  document.addEventListener("drop", function (event) { refuse(event, event.dataTransfer && event.dataTransfer.files); }, true);
  document.addEventListener("change", function (event) { refuse(event, event.target.files); }, true);

  var fetched = window.fetch;
  window.fetch = function () {
    return fetched.apply(this, arguments).then(function (answer) {
      if (answer.status === 503) said("trouble", "The server is busy: try again in a moment.");
      if (answer.status === 413) said("trouble", "That was too large to be sent.");
      if (answer.status === 500) said("trouble", "The server failed; its terminal tells why.");
      return answer;
    }, function (error) {
      said("trouble", "The server does not answer: start modeflow explore again, and reload this page.");
      throw error;
    });
  };

  new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });
  document.addEventListener("DOMContentLoaded", name);
  document.addEventListener("focusin", name);
})();
