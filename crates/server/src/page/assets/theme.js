// Applies a chosen theme before the first paint; without a choice the style sheet follows the system.
(() => {
  try {
    const { theme } = JSON.parse(localStorage.getItem("cachalot.settings")) ?? {};
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage that is blocked or broken holds no choice.
  }
})();
