// Asks each tool how it is, now and every ten seconds.
async function show(element) {
  let state;
  try {
    const answer = await fetch(element.dataset.health, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    state = answer.ok ? "up" : "down";
  } catch {
    state = "down";
  }
  element.textContent = state;
  element.className = `state ${state}`;
}

const elements = document.querySelectorAll("[data-health]");
const showAll = () => elements.forEach(show);
showAll();
setInterval(showAll, 10000);
