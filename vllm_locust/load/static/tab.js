// Puts our page below Locust's tab "LLM" while that is chosen, and fetches what to show once a second.
// Rule: Locust's page comes and goes as React likes. We append one element of our own, look after each change whether
// it is where it belongs, and keep what we know in it.

import { Page } from "./page.js";

const TAB = "LLM";
const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const VIEW = "./vllm-locust/view";
const NO_RUN = "No numbers of a run yet.";
const NO_CONNECTION = "No connection to Locust, trying again. What is below may be old.";

const page = new Page();
let timer = null;
let asking = false;

function place() {
  const container = chosenTab()?.closest(".MuiContainer-root, main");
  if (!container) page.element.remove();
  else if (page.element.parentNode !== container) container.append(page.element);
  page.element.dataset.theme = isDark(getComputedStyle(document.body).backgroundColor) ? "dark" : "light";
  askWhileSeen();
}

function chosenTab() {
  const chosen = [...document.querySelectorAll("[role=tab][aria-selected=true]")];
  return chosen.find((tab) => tab.textContent.trim() === TAB);
}

/** Locust tells by its colours alone which theme it has. */
function isDark(colour) {
  const [red, green, blue] = (colour.match(/[\d.]+/g) ?? [255, 255, 255]).map(Number);
  return 0.299 * red + 0.587 * green + 0.114 * blue < 128;
}

function askWhileSeen() {
  const seen = page.element.isConnected && document.visibilityState === "visible";
  if (seen && timer === null) {
    timer = setInterval(ask, EVERY_MS);
    ask();
  } else if (!seen) {
    clearInterval(timer);
    timer = null;
  }
}

async function ask() {
  if (asking) return;
  asking = true;
  const view = await fetchView();
  asking = false;
  if (view) page.draw(view);
  if (!view) page.notify(NO_CONNECTION);
  else page.notify(view.problem || (view.run ? "" : NO_RUN));
}

/** The live view; null when there is no answer, or something else such as a login instead. */
async function fetchView() {
  try {
    const answer = await fetch(VIEW, { signal: AbortSignal.timeout(PATIENCE_MS) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

const placeIfOthersChanged = (changes) => {
  if (changes.some(({ target }) => !page.element.contains(target))) place();
};
new MutationObserver(placeIfOthersChanged).observe(document.body, {
  subtree: true,
  childList: true,
  attributes: true,
  attributeFilter: ["aria-selected"],
});
document.addEventListener("visibilitychange", askWhileSeen);
place();
