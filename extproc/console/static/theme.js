// Before anything is drawn: the theme that was chosen last, so that no page flashes in the other one.
(function () {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
