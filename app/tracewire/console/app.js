// The page: who is signed in, the connection, and what stands on the desk.

import { Tracewire } from "/client/tracewire.js";
import { about, Api } from "/console/api.js";
import { AskForm } from "/console/ask.js";
import { Desk } from "/console/desk.js";
import { byId } from "/console/element.js";
import { History } from "/console/history.js";
import { Session } from "/console/session.js";

const NARROW = matchMedia("(max-width: 48rem)"); // there the drawing is below what one sees
const STATES = { connecting: "connecting …", ready: "connected", reconnecting: "reconnecting …", offline: "offline" };
const CLOSED = {
  1000: "signed out",
  4501: "the token does not hold",
  4502: "the token has expired",
  4503: "this origin is not allowed",
  4504: "the server does not understand this page",
  4505: "too many sockets of this user are open",
};

let session = null;
let client = null;
const desk = new Desk({ announce, changed: () => history.refresh() });
const history = new History(async (view) => {
  await desk.showPast(view).catch((error) => announce(error.message));
  history.mark(desk.shownRunId);
});
const askForm = new AskForm(async (input, agent) => {
  const run = await client.start(input, { agent });
  announce(`Run of ${agent} accepted.`);
  show(run);
  if (NARROW.matches) byId("chain").scrollIntoView({ block: "start" });
});

byId("sign-in-development").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(new Session({ user: byId("user").value.trim() }));
});
byId("sign-in-token").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(new Session({ token: byId("token").value.trim() }));
  byId("token").value = "";
});
byId("sign-out").addEventListener("click", () => {
  client.close();
  signOut(null);
});
byId("offline").addEventListener("click", () => {
  if (client.state === "offline") client.connect().catch(() => {});
  else client.disconnect();
});

const remembered = Session.remembered();
if (remembered) signIn(remembered);
else signOut(null);

function signIn(made) {
  session = made;
  const opened = new Tracewire("/ws", { token: made.tokenSource });
  const api = new Api(() => made.token());
  client = opened;
  opened.addEventListener("state", ({ detail }) => connectionChanged(opened, detail));
  opened.addEventListener("ready", ({ detail }) => becameReady(detail));
  opened.addEventListener("run", ({ detail }) => show(detail, { only: !desk.isOpen }));
  desk.signIn(api, opened);
  history.signIn(api);
  askForm.signIn(api);
  opened.connect().catch(() => {}); // the state says what became of it
}

function becameReady(ready) {
  session.remember();
  byId("who").textContent = ready.user_id;
  byId("sign-in").hidden = true;
  byId("desk").hidden = false;
  byId("bar-actions").hidden = false;
  askForm.offer(ready.agents);
  for (const listing of ready.runs) {
    if (desk.knows(listing.run_id)) continue;
    const run = client.resume(listing.run_id, { agent: listing.agent, requestId: listing.request_id });
    show(run, { only: !desk.isOpen && listing === ready.runs[0] });
  }
  history.refresh();
}

/** Keep up with a run, and look at it; `only` false: what is looked at now stays. */
function show(run, { only = true } = {}) {
  if (only) desk.showLive(run);
  else desk.track(run);
  history.mark(desk.shownRunId);
  history.refresh();
}

function connectionChanged(opened, { state, code, reason }) {
  if (opened !== client) return;
  const told = state === "closed" ? `closed: ${CLOSED[code] ?? (reason || code)}` : STATES[state];
  byId("connection").dataset.state = state;
  byId("connection-text").textContent = told;
  byId("offline").textContent = state === "offline" ? "Come back" : "Go offline";
  if (reason && !byId("sign-in").hidden) showProblem(reason); // not in yet: why each attempt fails is worth telling
  if (state !== "connecting") announce(`Connection ${told}`);
  if (state === "closed" && code !== 1000) signOut(`You are signed out: ${CLOSED[code] ?? (reason || `code ${code}`)}.`);
}

async function signOut(problem) {
  session?.forget();
  session = null;
  desk.signOut();
  byId("desk").hidden = true;
  byId("bar-actions").hidden = true;
  byId("sign-in").hidden = false;
  showProblem(problem);
  try {
    const { development } = await about();
    byId("sign-in-development").hidden = !development;
    byId("sign-in-token").hidden = development;
    byId(development ? "user" : "token").focus();
  } catch (error) {
    showProblem(`The server cannot be reached (${error.message}). Reload the page when it is up.`);
  }
}

function showProblem(told) {
  byId("sign-in-problem").textContent = told ?? "";
  byId("sign-in-problem").hidden = !told;
}

function announce(told) {
  byId("announcement").textContent = told;
}
