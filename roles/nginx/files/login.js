// Logs in and shows the page that was asked for: the address stays, so nothing leads anywhere else.
// A link on another site, in a mail say, brings no cookie along; this page does. Once, lest a page that is refused in spite of it be asked for forever.
const tried = Number(sessionStorage.getItem("tried") ?? 0);
if (Date.now() - tried > 5000) {
  sessionStorage.setItem("tried", Date.now());
  fetch("/ops.js", { cache: "no-store" }).then((answer) => answer.ok && location.replace(location.href), () => {});
}

const form = document.querySelector("#login");
const message = document.querySelector("#message");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  message.textContent = "";
  let answer;
  try {
    answer = await fetch("/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(Object.fromEntries(new FormData(form))),
    });
  } catch {
    message.textContent = "Nobody answers. Try again.";
    return;
  }
  if (answer.status === 204) {
    location.reload();
    return;
  }
  const problem = await answer.json().catch(() => ({}));
  message.textContent = problem.detail ?? `It did not work (${answer.status}).`;
});
